//! Tables in a folder and in a bucket, also when an operation fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::action::Metadata;
use super::log::{COMMITS_PER_CHECKPOINT, Snapshot};
use super::table::{
    Content, DataFile, KEPT_AFTER_ERASURE_MS, Outcome, Table, data_files, removals_name,
};
use super::test_place::{DAY, HOUR_MS, NOW, TABLE, bucket, folder};
use crate::error::{Error, ErrorCode, Result};
use crate::export::destination::{Created, Destination, write_synced};
use crate::schema;
use crate::store::ExportPartMeta;
use crate::store::files::faults::{Failing, fail_at};

const STORE: &str = "0123456789abcdef0123456789abcdef";

fn events() -> Table {
    Table::events(TABLE, STORE)
}

/// A file whose content is its name.
fn file(name: &str, rows: u64) -> DataFile<'static> {
    let content = name.to_owned();
    DataFile {
        day: Some(DAY),
        name: content.clone(),
        rows,
        span_us: Some((1, 1_001)),
        bytes: Some(content.len() as u64),
        write: Box::new(move |path: &Path| {
            write_synced(path, content.as_bytes())?;
            Ok(ExportPartMeta {
                rows,
                bytes: content.len() as u64,
                crc32c: 0,
            })
        }),
    }
}

fn publish(
    table: &mut Table,
    to: &Destination,
    files: &[(&str, u64)],
    now: i64,
) -> Result<Outcome> {
    let lake = schema::lake();
    let content = Content {
        schema: &lake,
        files: files.iter().map(|(name, rows)| file(name, *rows)).collect(),
        sequence: 7,
    };
    table.publish(to, &content, now, &mut |_| Ok(()))
}

/// The names of the files of the newest version, each of which exists with its content.
fn live(to: &Destination) -> Result<(Option<u64>, BTreeSet<String>)> {
    let snapshot = Snapshot::read(to, TABLE)?;
    let mut names = BTreeSet::new();
    for (path, add) in &snapshot.live {
        let content = to.read(&format!("{TABLE}/{path}"))?;
        let content = content.unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!(content.len() as u64, add.size);
        let name = String::from_utf8(content).expect("a name");
        assert!(path.contains(&format!("-{name}-")), "{path} has {name}");
        names.insert(name);
    }
    Ok((snapshot.version, names))
}

fn named(files: &[(&str, u64)]) -> BTreeSet<String> {
    files.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// The data files that exist.
fn existing(to: &Destination) -> Result<usize> {
    let found = to.list(TABLE)?.into_keys();
    Ok(found.filter(|path| path.contains("/dt=")).count())
}

const OLD: [(&str, u64); 2] = [("00000001-0000-aaaaaaaa", 5), ("00000002-0000-bbbbbbbb", 3)];
const NEW: [(&str, u64); 2] = [("00000002-0000-bbbbbbbb", 3), ("00000003-0000-cccccccc", 4)];

#[test]
fn the_old_file_of_a_table_of_users_goes_soon_once_rows_were_removed() -> Result<()> {
    let place = folder();
    let to = &place.to;
    let mut table = Table::of_one_file("links", STORE);
    let lake = schema::lake();
    let mut publish = |name: String, now: i64| {
        let content = Content {
            schema: &lake,
            files: vec![DataFile {
                day: None,
                span_us: None,
                ..file(&name, 3)
            }],
            sequence: 7,
        };
        let outcome = table.publish(to, &content, now, &mut |_| Ok(()))?;
        Ok::<_, Error>((outcome.removed, outcome.erased_go_at))
    };
    let new = publish(removals_name(0, "aaaaaaaa"), NOW)?;
    let more = publish(removals_name(0, "bbbbbbbb"), NOW + 1)?;
    let erased = publish(removals_name(1, "cccccccc"), NOW + 2)?;
    let gone_at = NOW + 2 + KEPT_AFTER_ERASURE_MS;
    assert_eq!((new, more), ((0, None), (1, None)));
    assert_eq!(erased, (1, Some(gone_at)));
    // The first file has ids of the erased users, too.
    table.tidy(to, gone_at)?;
    assert_eq!(data_files(to, "links")?.len(), 1);
    Ok(())
}

#[test]
fn a_publication_is_one_commit_and_a_repeated_one_is_none() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let mut table = events();
        let first = publish(&mut table, to, &OLD, NOW)?;
        assert_eq!((first.version, first.added, first.rows), (Some(0), 2, 8));
        for table in [&mut table, &mut events()] {
            let again = publish(table, to, &OLD, NOW)?;
            assert_eq!((again.version, again.added), (Some(0), 0));
        }
        let second = publish(&mut table, to, &NEW, NOW)?;
        assert_eq!(
            (second.version, second.added, second.removed),
            (Some(1), 1, 1)
        );
        assert_eq!(live(to)?, (Some(1), named(&NEW)));
        // The old file is still there for readers of version 0.
        assert_eq!(existing(to)?, 3);
        // Another writer was faster: this one begins again, and theirs is not lost.
        let mut other = events();
        publish(&mut other, to, &OLD, NOW)?;
        let last = [("00000004-0000-dddddddd", 1)];
        let third = publish(&mut table, to, &last, NOW)?;
        assert_eq!((third.version, third.removed), (Some(3), 2));
        assert_eq!(live(to)?, (Some(3), named(&last)));
        let commit = to.read("events/_delta_log/00000000000000000000.json")?;
        let commit = String::from_utf8(commit.unwrap_or_default()).expect("JSON lines");
        assert!(commit.contains(r#""minReaderVersion":1,"minWriterVersion":2}"#));
        assert!(commit.contains(&format!(
            r#""txn":{{"appId":"echopilot-{STORE}","version":7"#
        )));
        assert!(commit.contains(r#"\"minValues\":{\"ts\":\"1970-01-01T00:00:00.000Z\"}"#));
        assert!(commit.contains(r#"\"maxValues\":{\"ts\":\"1970-01-01T00:00:00.002Z\"}"#));
    }
    Ok(())
}

#[test]
fn after_any_failed_operation_the_table_is_readable_and_the_next_publication_completes_it()
-> Result<()> {
    for make in [folder, bucket] {
        for failing in [Failing::Once, Failing::FromThenOn] {
            let mut points = 0;
            for at in 0.. {
                let place = make();
                let to = &place.to;
                publish(&mut events(), to, &OLD, NOW)?;
                let armed = fail_at(&place.root, at, failing);
                let mut table = events();
                let done =
                    publish(&mut table, to, &NEW, NOW).and_then(|_| table.tidy(to, NOW + HOUR_MS));
                let operations = armed.seen();
                drop(armed);
                let shown = || format!("{failing:?} at {at} of {operations:?}");
                let (version, names) = live(to)?;
                let is_old = (version, &names) == (Some(0), &named(&OLD));
                let is_new = (version, &names) == (Some(1), &named(&NEW));
                assert!(is_old || is_new, "{}: {version:?} {names:?}", shown());
                // The same process goes on, or another one.
                if at % 2 == 0 {
                    table = events();
                }
                publish(&mut table, to, &NEW, NOW)?;
                table.tidy(to, NOW + HOUR_MS)?;
                assert_eq!(live(to)?, (Some(1), named(&NEW)), "{}", shown());
                assert_eq!(existing(to)?, NEW.len(), "{}", shown());
                if at >= operations.len() {
                    assert!(done.is_ok());
                    break;
                }
                points += 1;
            }
            assert!(points >= 8, "{points}");
        }
    }
    Ok(())
}

#[test]
fn files_of_erased_rows_go_within_a_minute_and_others_after_ten() -> Result<()> {
    let (first, second) = ("00000001-0000-aaaaaaaa", "00000002-0000-bbbbbbbb");
    let joined = "00000001-0000-00000009-cccccccc";
    for (before, after, seconds) in [
        // A compaction, and one with events that were not published before.
        (vec![(first, 5), (second, 3)], vec![(joined, 8)], 600),
        (vec![(first, 5)], vec![(joined, 8)], 40),
        // An erasure of some rows, of all rows, and together with a compaction.
        (vec![(first, 5)], vec![(joined, 4)], 40),
        (vec![(first, 5), (second, 3)], vec![(first, 5)], 40),
        (vec![(first, 5), (second, 3)], vec![(joined, 7)], 40),
    ] {
        let place = folder();
        let to = &place.to;
        let mut table = events();
        publish(&mut table, to, &before, NOW)?;
        let outcome = publish(&mut table, to, &after, NOW)?;
        let at = NOW + seconds * 1_000;
        assert_eq!(table.next_deletion(), Some(at), "{before:?} {after:?}");
        assert_eq!(outcome.erased_go_at, (seconds < 60).then_some(at));
        table.tidy(to, at - 1)?;
        assert_eq!(existing(to)?, before.len() + outcome.added);
        // A process that starts in between knows it from the log.
        let mut later = events();
        publish(&mut later, to, &after, NOW)?;
        later.tidy(to, at)?;
        assert_eq!(existing(to)?, after.len());
    }
    Ok(())
}

#[test]
fn a_checkpoint_keeps_the_log_short_and_a_reader_that_opens_it_sees_the_same() -> Result<()> {
    for (place, checkpoints) in [(folder(), 2), (bucket(), 10)] {
        let to = &place.to;
        let mut table = events();
        let commits = checkpoints * COMMITS_PER_CHECKPOINT + 7;
        for version in 0..commits {
            let name = format!("{version:08}-0000-aaaaaaaa");
            let now = NOW + i64::try_from(version).unwrap_or_default() * 1_000;
            publish(
                &mut table,
                to,
                &[(&name, 1), ("99999999-0000-aaaaaaaa", 2)],
                now,
            )?;
            table.tidy(to, now)?;
        }
        let log = to.list("events/_delta_log")?;
        let logged: Vec<&str> = log
            .keys()
            .filter_map(|path| path.rsplit('/').next())
            .collect();
        assert!(
            logged.len() as u64 <= 2 * COMMITS_PER_CHECKPOINT + 3,
            "{logged:?}"
        );
        let last = checkpoints * COMMITS_PER_CHECKPOINT;
        let before = (checkpoints - 1) * COMMITS_PER_CHECKPOINT;
        for (name, is_there) in [
            ("_last_checkpoint".to_owned(), true),
            (format!("{last:020}.checkpoint.parquet"), true),
            (format!("{before:020}.checkpoint.parquet"), true),
            (format!("{before:020}.json"), true),
            (format!("{:020}.json", before - 1), false),
        ] {
            assert_eq!(
                logged.contains(&name.as_str()),
                is_there,
                "{name} {logged:?}"
            );
        }
        let last = format!("{:08}-0000-aaaaaaaa", commits - 1);
        let expected = named(&[(&last, 1), ("99999999-0000-aaaaaaaa", 2)]);
        assert_eq!(live(to)?, (Some(commits - 1), expected));
        // Deleted files are no longer listed in it, so that it does not grow.
        let read = Snapshot::read(to, TABLE)?;
        assert!(read.removed.len() < 2 * COMMITS_PER_CHECKPOINT as usize);
        assert!(read.metadata.is_some());
    }
    Ok(())
}

#[test]
fn a_file_of_a_compaction_goes_with_those_of_the_erasure_after_it() -> Result<()> {
    let (first, joined) = ("00000001-0000-aaaaaaaa", "00000001-0000-00000009-cccccccc");
    let place = folder();
    let to = &place.to;
    let mut table = events();
    publish(&mut table, to, &[(first, 5)], NOW)?;
    publish(&mut table, to, &[(joined, 5)], NOW + 1_000)?;
    assert_eq!(table.next_deletion(), Some(NOW + 601_000));
    publish(
        &mut table,
        to,
        &[("00000001-0000-00000010-dddddddd", 4)],
        NOW + 2_000,
    )?;
    table.tidy(to, NOW + 41_999)?;
    assert_eq!(existing(to)?, 3);
    table.tidy(to, NOW + 42_000)?;
    assert_eq!(existing(to)?, 1);
    Ok(())
}

/// Changes an action of the first commit.
fn changed(to: &Destination, change: impl Fn(&mut Value)) -> Result<()> {
    let path = "events/_delta_log/00000000000000000000.json";
    let lines = to.read(path)?.unwrap_or_default();
    let lines = lines
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());
    let mut out = String::new();
    for line in lines {
        let mut action: Value = serde_json::from_slice(line).expect("an action");
        change(&mut action);
        out.push_str(&action.to_string());
        out.push('\n');
    }
    to.write(path, out.as_bytes())
}

fn contents(to: &Destination) -> Result<BTreeMap<String, u32>> {
    let paths = to.list(TABLE)?.into_keys();
    let content = |path: String| {
        let bytes = to.read(&path)?.unwrap_or_default();
        Ok((path, crc32c::crc32c(&bytes)))
    };
    paths.map(content).collect()
}

#[test]
fn whatever_is_not_ours_is_rejected_by_name_and_nothing_is_written() -> Result<()> {
    type Spoil = fn(&Destination) -> Result<()>;
    let next = "events/_delta_log/00000000000000000001.json";
    let cases: [(&str, Spoil, &str); 12] = [
        (
            "another server",
            |to| {
                changed(to, |action| {
                    let setting = action.pointer_mut("/metaData/configuration/echopilot.store");
                    if let Some(store) = setting {
                        *store = json!("f".repeat(32));
                    }
                })
            },
            "table of another server",
        ),
        (
            "another program",
            |to| {
                changed(to, |action| {
                    if let Some(settings) = action.pointer_mut("/metaData/configuration") {
                        *settings = json!({});
                    }
                })
            },
            "table of another program",
        ),
        (
            "other columns",
            |to| {
                changed(to, |action| {
                    if let Some(columns) = action.pointer_mut("/metaData/schemaString") {
                        *columns = json!(r#"{"type":"struct","fields":[]}"#);
                    }
                })
            },
            "other columns",
        ),
        (
            "features",
            |to| {
                changed(to, |action| {
                    if let Some(protocol) = action.pointer_mut("/protocol") {
                        *protocol = json!({"minReaderVersion": 3, "minWriterVersion": 7,
                    "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]});
                    }
                })
            },
            "needs reader 3 and writer 7",
        ),
        (
            "a list of features",
            |to| {
                changed(to, |action| {
                    if let Some(protocol) = action.pointer_mut("/protocol") {
                        *protocol = json!({"minReaderVersion": 1, "minWriterVersion": 2, "writerFeatures": []});
                    }
                })
            },
            "with 1 lists of features",
        ),
        (
            "an unknown action",
            |to| {
                to.create(
                    "events/_delta_log/00000000000000000001.json",
                    br#"{"domainMetadata":{"domain":"x"}}"#,
                )
                .map(drop)
            },
            "(version 1) has \"domainMetadata\"",
        ),
        (
            "a deletion vector",
            |to| {
                changed(to, |action| {
                    if let Some(add) = action.pointer_mut("/add").and_then(Value::as_object_mut) {
                        add.insert("deletionVector".into(), json!({}));
                    }
                })
            },
            "\"deletionVector\", which is not known",
        ),
        (
            "a file of another writer",
            |to| {
                to.create(
            "events/_delta_log/00000000000000000001.json",
            br#"{"add":{"path":"../../victim","partitionValues":{},"size":1,"modificationTime":1,"dataChange":true}}"#,
        ).map(drop)
            },
            "names \"../../victim\"",
        ),
        (
            "a commit that is not JSON",
            |to| {
                to.create("events/_delta_log/00000000000000000001.json", b"{\"add\":")
                    .map(drop)
            },
            "version 1 of the table cannot be read",
        ),
        (
            "a missing commit",
            |to| {
                to.create("events/_delta_log/00000000000000000002.json", b"{}")
                    .map(drop)
            },
            "version 1 of the table cannot be read (it is missing)",
        ),
        (
            "another kind of checkpoint",
            |to| {
                to.create(
            "events/_delta_log/00000000000000000000.checkpoint.0000000001.0000000002.parquet", b"x",
        ).map(drop)
            },
            "features that this program does not know",
        ),
        (
            "a data file of another program",
            |to| {
                to.create("events/dt=2026-11-26/part-00000.parquet", b"x")
                    .map(drop)
            },
            "part-00000.parquet is in the folder of the table",
        ),
    ];
    for make in [folder, bucket] {
        for (name, spoil, says) in &cases {
            let place = make();
            let to = &place.to;
            publish(&mut events(), to, &OLD, NOW)?;
            spoil(to)?;
            let before = contents(to)?;
            let refused = publish(&mut events(), to, &NEW, NOW);
            let (Err(Error::BadInput {
                code: ErrorCode::BadTarget,
                message: said,
            })
            | Err(Error::Damaged { message: said, .. })) = refused
            else {
                panic!("{name}: {refused:?}");
            };
            assert!(said.contains(says), "{name}: {said}");
            assert_eq!(contents(to)?, before, "{name}");
        }
    }
    // A checkpoint that cannot be read is no reason to begin a new table.
    let place = folder();
    let to = &place.to;
    publish(&mut events(), to, &OLD, NOW)?;
    let path = "events/_delta_log/00000000000000000000.checkpoint.parquet";
    assert_eq!(to.create(path, b"PAR1")?, Created::Yes);
    assert_eq!(to.create(path, b"PAR2")?, Created::Taken);
    assert!(matches!(
        publish(&mut events(), to, &NEW, NOW),
        Err(Error::Damaged { file, .. }) if file.ends_with(path)
    ));
    assert_eq!(to.read(next)?, None);
    Ok(())
}

#[test]
fn a_table_of_one_file_takes_other_columns_after_an_update() -> Result<()> {
    let place = folder();
    let rows = |columns: &[&str]| {
        let columns = columns.iter().map(|name| {
            polars::prelude::Field::new((*name).into(), polars::prelude::DataType::Int64)
        });
        polars::prelude::Schema::from_iter(columns)
    };
    let publish = |columns: &[&str], content: &'static str| {
        let schema = rows(columns);
        let mut table = Table::of_one_file("daily_rollups", STORE);
        let of_content = DataFile {
            day: None,
            ..file(content, 1)
        };
        let content = Content {
            schema: &schema,
            files: vec![of_content],
            sequence: 1,
        };
        table.publish(&place.to, &content, NOW, &mut |_| Ok(()))
    };
    assert_eq!(publish(&["a"], "aaaaaaaa")?.version, Some(0));
    assert_eq!(publish(&["a"], "aaaaaaaa")?.version, Some(0));
    assert_eq!(publish(&["a", "b"], "bbbbbbbb")?.version, Some(1));
    let read = Snapshot::read(&place.to, "daily_rollups")?;
    let columns = read
        .metadata
        .map(|metadata: Metadata| metadata.schema_string);
    assert!(
        columns
            .is_some_and(|columns| columns.contains(r#""name":"b","nullable":true,"type":"long""#))
    );
    assert_eq!(read.live.len(), 1);
    Ok(())
}
