//! A table of several servers in a folder and in a bucket, also when an operation fails.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;

use chrono::Utc;
use parking_lot::Mutex;
use polars::prelude::*;

use super::log::Snapshot;
use super::retire::{retire, servers};
use super::shared::{ServerFile, SharedTable, copy, days_of};
use super::table::{Content, DataFile, Outcome, Table};
use super::test_place::{DAY, HOUR_MS, NOW, TABLE, bucket, folder};
use super::{erased_ids, erasures};
use crate::error::{Error, ErrorCode, Result};
use crate::export::destination::{Destination, write_synced};
use crate::export::layout::RunId;
use crate::schema;
use crate::store::files::faults::{Failing, fail_at};
use crate::store::{DayPart, ExportPartMeta, JoinedDay, read_day};

/// The day is over then, and nothing has changed for a while.
const NEXT_DAY: i64 = NOW + 24 * HOUR_MS;
const QUIET_MS: i64 = 10 * 60 * 1_000;

/// An event: its user, its id, and the copy, by which the test knows it.
type Row = (&'static str, &'static str, &'static str);

/// The copy of an identity call, which names `ann`.
const CALL: &str = "identify";

/// Events that came in one after the other.
fn frame(rows: &[Row]) -> Result<DataFrame> {
    let strings = |name: &'static str, of: fn(&Row) -> &'static str| {
        let values: Vec<&str> = rows.iter().map(of).collect();
        Column::new(name.into(), values)
    };
    // The id says when it happened, so that all copies have the same time.
    let at = |row: &Row| NOW * 1_000 + i64::from(row.1.bytes().last().unwrap_or_default());
    let times: Vec<i64> = rows.iter().map(at).collect();
    let none = |name: &'static str| Column::full_null(name.into(), rows.len(), &DataType::String);
    let columns = vec![
        schema::timestamps(schema::TS, times.clone()),
        strings(schema::EVENT_TYPE, |row| match row.2 {
            CALL => "system",
            _ => "action",
        }),
        strings(schema::USER_ID, |row| row.0),
        strings(schema::FEATURE, |row| row.2),
        strings(schema::METADATA, |row| match row.2 {
            CALL => r#"{"previous_id":"ann"}"#,
            _ => "{}",
        }),
        none(schema::URL),
        strings(schema::EVENT_ID, |row| row.1),
        schema::timestamps(schema::RECEIVED_AT, times),
    ];
    Ok(DataFrame::new(rows.len(), columns)?)
}

/// A sealed file of a server.
fn file(number: u64, rows: &[Row]) -> Result<ServerFile<'static>> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("file");
    let meta = JoinedDay::of(vec![frame(rows)?])?.write(&path)?;
    let bytes = std::fs::read(&path).expect("just written");
    Ok(ServerFile {
        number,
        file: DataFile {
            day: Some(DAY),
            name: format!("{number:08}-0000-{:08x}", meta.crc32c),
            rows: meta.rows,
            span_us: Some((NOW * 1_000, NOW * 1_000 + 1_000)),
            bytes: Some(meta.bytes),
            write: Box::new(move |path: &Path| {
                write_synced(path, &bytes)?;
                Ok(ExportPartMeta {
                    crc32c: crc32c::crc32c(&bytes),
                    ..meta
                })
            }),
        },
    })
}

fn server(id: &str) -> SharedTable {
    SharedTable::new(id, &format!("store-of-{id}"))
}

fn publish(
    table: &mut SharedTable,
    to: &Destination,
    files: &[ServerFile<'_>],
    now: i64,
) -> Result<Outcome> {
    table.open(to, now)?;
    table.publish(to, files, None, now)
}

/// The copies in the table, in order, each as often as it is there, and the number of files.
fn found(to: &Destination) -> Result<(Vec<String>, usize)> {
    let snapshot = Snapshot::read(to, TABLE)?;
    let mut copies = Vec::new();
    let mut files = 0;
    for (day, adds) in days_of(&snapshot) {
        for add in adds {
            let local = copy(to, &add)?;
            let events = read_day(local.path(), day, DayPart::ALL)?;
            let features = events.column(schema::FEATURE)?.str()?;
            copies.extend(features.iter().flatten().map(str::to_owned));
            files += 1;
        }
    }
    copies.sort_unstable();
    Ok((copies, files))
}

/// The data files that exist.
fn existing(to: &Destination) -> Result<usize> {
    let found = to.list(TABLE)?.into_keys();
    Ok(found.filter(|path| path.contains("/dt=")).count())
}

const A1: &[Row] = &[("ann", "1", "a1"), ("bob", "2", "a2")];
const A2: &[Row] = &[("ann", "3", "a3")];
const B1: &[Row] = &[("ann", "1", "b1"), ("cyd", "4", "b4")];
const LATE: &[Row] = &[("bob", "2", "late2"), ("dan", "5", "late5")];

#[test]
fn servers_publish_into_one_table_and_a_commit_that_collides_is_made_again() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let (mut a, mut b) = (server("a"), server("b"));
        // Both know the same version.
        a.open(to, NOW)?;
        b.open(to, NOW)?;
        a.open(to, NOW)?;
        assert_eq!((a.version(), b.version()), (Some(1), Some(1)));
        let first = a.publish(to, &[file(1, A1)?], None, NOW)?;
        assert_eq!((first.version, first.added, first.rows), (Some(2), 1, 2));
        let second = b.publish(to, &[file(7, B1)?], None, NOW)?;
        assert_eq!((second.version, second.added), (Some(3), 1));
        assert_eq!(found(to)?.0, ["a1", "a2", "b1", "b4"]);
        assert_eq!(a.members()?.servers.len(), 2);
        // Again, also after a restart.
        for table in [&mut a, &mut server("a")] {
            let again = publish(table, to, &[file(1, A1)?], NOW)?;
            assert_eq!((again.version, again.added), (Some(3), 0));
        }
        // Only what was sealed since; segments that were joined or erased meanwhile are published.
        let joined = file(1, &[("x", "9", "never")])?;
        let more = publish(&mut a, to, &[joined, file(4, A2)?], NOW)?;
        assert_eq!((more.version, more.added, more.removed), (Some(4), 1, 0));
        assert_eq!(found(to)?.0, ["a1", "a2", "a3", "b1", "b4"]);
        // Days of which events have expired leave the table: own files, and no others.
        let raw_from = Some(DAY + chrono::Days::new(1));
        let expired = a.publish(to, &[], raw_from, NOW)?;
        assert_eq!((expired.added, expired.removed), (0, 2));
        assert_eq!(found(to)?.0, ["b1", "b4"]);
    }
    Ok(())
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
fn a_table_that_is_not_for_this_server_is_rejected_and_nothing_is_written() -> Result<()> {
    let of_one = |to: &Destination, store: &str| {
        let lake = schema::lake();
        let content = Content {
            schema: &lake,
            files: vec![file(1, A1)?.file],
            sequence: 1,
        };
        Table::events(TABLE, store).publish(to, &content, NOW, &mut |_| Ok(()))
    };
    let rejected = |to: &Destination, mut table: SharedTable, says: &str| {
        let before = contents(to)?;
        match publish(&mut table, to, &[file(2, A2)?], NOW) {
            Err(Error::BadInput {
                code: ErrorCode::BadTarget,
                message,
            }) => assert!(message.contains(says), "{message}"),
            other => panic!("{says}: {other:?}"),
        }
        assert_eq!(contents(to)?, before, "{says}");
        Ok::<_, Error>(())
    };
    for make in [folder, bucket] {
        let place = make();
        let to = &place.to;
        publish(&mut server("a"), to, &[file(1, A1)?], NOW)?;
        let same_id = SharedTable::new("a", "another store");
        rejected(
            to,
            same_id,
            "another data folder publishes with --server-id a",
        )?;
        let same_store = SharedTable::new("b", "store-of-a");
        rejected(
            to,
            same_store,
            "this data folder publishes with --server-id a",
        )?;
        // Neither does a server without an id take it for its own.
        let before = contents(to)?;
        match of_one(to, "0123456789abcdef") {
            Err(Error::BadInput { message, .. }) => {
                assert!(message.contains("with --server-id"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(contents(to)?, before);

        let place = make();
        of_one(&place.to, "0123456789abcdef")?;
        rejected(&place.to, server("a"), "of one server")?;
        let place = make();
        place
            .to
            .create("events/dt=2026-11-26/part-0.parquet", b"x")?;
        rejected(&place.to, server("a"), "was not written by a server")?;
    }
    Ok(())
}

/// Calls `work` with each operation failing in turn, on a place that `prepare` made; then `check`
/// with the place.
fn with_failures(
    prepare: impl Fn(&Destination) -> Result<()>,
    work: impl Fn(&Destination) -> Result<()>,
    check: impl Fn(&Destination, &str) -> Result<()>,
) -> Result<usize> {
    let mut points = 0;
    for make in [folder, bucket] {
        for failing in [Failing::Once, Failing::FromThenOn] {
            for at in 0.. {
                let place = make();
                prepare(&place.to)?;
                let armed = fail_at(&place.root, at, failing);
                let done = work(&place.to);
                let operations = armed.seen();
                drop(armed);
                check(&place.to, &format!("{failing:?} at {at} of {operations:?}"))?;
                if at >= operations.len() {
                    done?;
                    break;
                }
                points += 1;
            }
        }
    }
    Ok(points)
}

#[test]
fn after_any_failed_operation_of_a_publication_the_next_one_completes_it() -> Result<()> {
    let prepare = |to: &Destination| publish(&mut server("b"), to, &[file(7, B1)?], NOW).map(drop);
    let files = || Ok::<_, Error>([file(1, A1)?, file(2, A2)?]);
    let work = |to: &Destination| publish(&mut server("a"), to, &files()?, NOW).map(drop);
    let points = with_failures(prepare, work, |to, shown| {
        let expected = ["a1", "a2", "a3", "b1", "b4"];
        let between = found(to)?.0;
        assert!(
            between == ["b1", "b4"] || between == expected,
            "{shown}: {between:?}"
        );
        let mut again = server("a");
        publish(&mut again, to, &files()?, NOW)?;
        assert_eq!(
            found(to)?,
            (expected.map(str::to_owned).into(), 3),
            "{shown}"
        );
        assert_eq!(existing(to)?, 3, "{shown}");
        Ok(())
    })?;
    assert!(points >= 30, "{points}");
    Ok(())
}

#[test]
fn a_day_that_is_over_is_joined_by_one_server_and_late_events_are_joined_to_it() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let (mut a, mut b) = (server("a"), server("b"));
        publish(&mut a, to, &[file(1, A1)?, file(2, A2)?], NOW)?;
        publish(&mut b, to, &[file(7, B1)?], NOW)?;
        assert_eq!(a.join_days(to, QUIET_MS, || NOW)?, 0, "the day is not over");
        a.open(to, NEXT_DAY)?;
        assert_eq!(a.join_days(to, QUIET_MS, || NEXT_DAY)?, 1);
        let joined = ["a1", "a2", "a3", "b4"].map(str::to_owned);
        assert_eq!(found(to)?, (joined.to_vec(), 1));
        assert_eq!(a.join_days(to, QUIET_MS, || NEXT_DAY)?, 0);
        // No server publishes its events of the day again.
        for table in [&mut a, &mut server("a")] {
            publish(table, to, &[file(1, A1)?, file(2, A2)?], NEXT_DAY)?;
        }
        assert_eq!(found(to)?, (joined.to_vec(), 1));
        let late = NEXT_DAY + HOUR_MS;
        publish(&mut b, to, &[file(8, LATE)?], late)?;
        assert_eq!(found(to)?.0, ["a1", "a2", "a3", "b4", "late2", "late5"]);
        // While files are added it waits, and while the other server has the lease.
        assert_eq!(a.join_days(to, QUIET_MS, || late)?, 0);
        a.open(to, late)?;
        assert_eq!(a.join_days(to, QUIET_MS, || late + QUIET_MS - 1)?, 0);
        assert_eq!(a.join_days(to, QUIET_MS, || late + QUIET_MS)?, 1);
        let expected = ["a1", "a2", "a3", "b4", "late5"].map(str::to_owned);
        assert_eq!(found(to)?, (expected.to_vec(), 1));
        publish(&mut b, to, &[file(8, LATE)?, file(9, A2)?], late + QUIET_MS)?;
        let soon = late + 2 * QUIET_MS;
        a.open(to, soon)?;
        let lease = || late + QUIET_MS + 60_000;
        assert_eq!(
            b.join_days(to, 0, lease)?,
            0,
            "the other server has the lease"
        );
        assert_eq!(b.join_days(to, QUIET_MS, || soon + HOUR_MS)?, 1);
        assert_eq!(found(to)?, (expected.to_vec(), 1));
        // Readers of the versions before can end.
        assert!(existing(to)? > 1);
        b.tidy(to, soon + 2 * HOUR_MS)?;
        assert_eq!(existing(to)?, 1);
    }
    Ok(())
}

#[test]
fn a_join_does_not_bring_back_what_was_erased_meanwhile() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let (mut a, mut b) = (server("a"), server("b"));
        publish(&mut a, to, &[file(1, A1)?, file(2, A2)?], NOW)?;
        publish(&mut b, to, &[file(7, B1)?], NOW)?;
        a.open(to, NEXT_DAY)?;
        let b = RefCell::new(b);
        let calls = Cell::new(0);
        // The last time is asked for when all else is known: then the other server commits.
        let clock = || {
            calls.set(calls.get() + 1);
            if calls.get() == 4 {
                let erased = b.borrow_mut().erase(to, &["ann"], NEXT_DAY);
                assert!(erased.is_ok_and(|erased| erased.removed == 1));
            }
            NEXT_DAY
        };
        assert_eq!(a.join_days(to, QUIET_MS, clock)?, 0);
        assert_eq!(calls.get(), 4);
        let files = ["a1", "a2", "a3", "b4"].map(str::to_owned);
        assert_eq!(found(to)?, (files.to_vec(), 3));
        // What was joined is not left, and the file that was replaced goes later.
        assert_eq!(existing(to)?, 4);
        let later = NEXT_DAY + QUIET_MS;
        a.open(to, later)?;
        assert_eq!(a.join_days(to, QUIET_MS, || later)?, 1);
        assert_eq!(found(to)?, (files.to_vec(), 1));
    }
    Ok(())
}

#[test]
fn a_copy_of_a_server_publishes_nothing_once_the_other_one_has() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let (mut a, mut copy_of_a) = (server("a"), server("a"));
        a.open(to, NOW)?;
        copy_of_a.open(to, NOW)?;
        // The other one commits while this one writes its file.
        let a = Mutex::new(a);
        let ServerFile { file: slow, number } = file(1, A2)?;
        let write = slow.write;
        let slow = DataFile {
            write: Box::new(|path: &Path| {
                a.lock().publish(to, &[file(1, A1)?], None, NOW)?;
                write(path)
            }),
            ..slow
        };
        let slow = ServerFile { file: slow, number };
        match copy_of_a.publish(to, &[slow], None, NOW) {
            Err(Error::BadInput { message, .. }) => {
                assert!(
                    message.contains("another process publishes as a"),
                    "{message}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(found(to)?.0, ["a1", "a2"]);
        publish(&mut copy_of_a, to, &[file(1, A1)?], NOW)?;
        assert_eq!(existing(to)?, 1);
    }
    Ok(())
}

#[test]
fn after_any_failed_operation_of_a_join_each_event_is_there_and_the_next_one_completes_it()
-> Result<()> {
    let prepare = |to: &Destination| {
        publish(&mut server("a"), to, &[file(1, A1)?, file(2, A2)?], NOW)?;
        publish(&mut server("b"), to, &[file(7, B1)?], NOW).map(drop)
    };
    let join = |to: &Destination| {
        let mut a = server("a");
        a.open(to, NEXT_DAY)?;
        a.join_days(to, QUIET_MS, || NEXT_DAY)?;
        a.tidy(to, NEXT_DAY + 2 * HOUR_MS)
    };
    let points = with_failures(prepare, join, |to, shown| {
        let joined = ["a1", "a2", "a3", "b4"];
        let between = found(to)?.0;
        let is_before = between == ["a1", "a2", "a3", "b1", "b4"];
        assert!(is_before || between == joined, "{shown}: {between:?}");
        let mut again = server("a");
        publish(&mut again, to, &[file(1, A1)?, file(2, A2)?], NEXT_DAY)?;
        again.join_days(to, QUIET_MS, || NEXT_DAY)?;
        again.tidy(to, NEXT_DAY + 2 * HOUR_MS)?;
        assert_eq!(found(to)?, (joined.map(str::to_owned).into(), 1), "{shown}");
        assert_eq!(existing(to)?, 1, "{shown}");
        Ok(())
    })?;
    assert!(points >= 30, "{points}");
    Ok(())
}

#[test]
fn a_server_erases_in_its_own_files_and_in_joined_ones() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let (mut a, mut b) = (server("a"), server("b"));
        publish(&mut a, to, &[file(1, A1)?, file(2, A2)?], NOW)?;
        publish(&mut b, to, &[file(7, B1)?], NOW)?;
        let none = a.erase(to, &["zoe"], NOW)?;
        assert_eq!((none.version, none.erased_go_at), (Some(3), None));
        let erased = a.erase(to, &["ann", "zoe"], NOW)?;
        // One file had no other events.
        assert_eq!(
            (erased.version, erased.added, erased.removed),
            (Some(4), 1, 2)
        );
        assert_eq!(found(to)?.0, ["a2", "b1", "b4"]);
        assert_eq!(erased.erased_go_at, Some(NOW + 40_000));
        a.tidy(to, NOW + 40_000)?;
        assert_eq!(existing(to)?, 2);
        // The other server's files are joined before that one has heard of it.
        a.open(to, NEXT_DAY)?;
        assert_eq!(a.join_days(to, QUIET_MS, || NEXT_DAY)?, 1);
        assert_eq!(found(to)?.0, ["a2", "b1", "b4"]);
        b.erase(to, &["ann", "zoe"], NEXT_DAY)?;
        assert_eq!(found(to)?.0, ["a2", "b4"]);
        // Replaced files go with those of the erasure: here by the server that removed them.
        a.open(to, NEXT_DAY)?;
        a.tidy(to, NEXT_DAY + 40_000)?;
        b.tidy(to, NEXT_DAY + 40_000)?;
        assert_eq!(existing(to)?, 1);
        // The log says the number of rows that are left.
        let snapshot = Snapshot::read(to, TABLE)?;
        let stats: Vec<&str> = snapshot
            .live
            .values()
            .filter_map(|add| add.stats.as_deref())
            .collect();
        assert!(stats[0].contains("\"numRecords\":2"), "{stats:?}");
    }
    Ok(())
}

#[test]
fn an_erasure_removes_identity_calls_of_others_from_own_and_joined_files() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let (mut a, mut b) = (server("a"), server("b"));
        let calls = [("bob", "6", CALL), ("bob", "7", "a7")];
        publish(&mut a, to, &[file(1, &calls)?, file(2, A1)?], NOW)?;
        publish(&mut b, to, &[file(7, &[("cyd", "8", CALL)])?], NOW)?;
        a.open(to, NOW)?;
        assert_eq!(
            a.erase(to, &["bob"], NOW)?.removed,
            2,
            "of all events of bob"
        );
        assert_eq!(found(to)?.0, ["a1", CALL]);
        publish(&mut a, to, &[file(3, &calls)?], NOW)?;
        assert_eq!(a.erase(to, &["ann"], NOW)?.removed, 2);
        assert_eq!(found(to)?.0, ["a7", CALL], "the other server has one");
        publish(&mut b, to, &[], NEXT_DAY)?;
        assert_eq!(b.join_days(to, QUIET_MS, || NEXT_DAY)?, 1);
        assert_eq!(b.erase(to, &["ann"], NEXT_DAY)?.removed, 1);
        assert_eq!(found(to)?, (vec!["a7".to_owned()], 1));
    }
    Ok(())
}

#[test]
fn after_any_failed_operation_of_an_erasure_the_next_one_completes_it() -> Result<()> {
    let prepare = |to: &Destination| {
        publish(&mut server("a"), to, &[file(1, A1)?, file(2, A2)?], NOW).map(drop)
    };
    let erase = |to: &Destination| {
        let mut a = server("a");
        a.open(to, NOW)?;
        a.erase(to, &["ann"], NOW)?;
        a.tidy(to, NOW + HOUR_MS)
    };
    let points = with_failures(prepare, erase, |to, shown| {
        let between = found(to)?.0;
        let is_before = between == ["a1", "a2", "a3"];
        assert!(is_before || between == ["a2"], "{shown}: {between:?}");
        let mut again = server("a");
        publish(&mut again, to, &[], NOW)?;
        again.erase(to, &["ann"], NOW)?;
        again.tidy(to, NOW + HOUR_MS)?;
        assert_eq!(found(to)?.0, ["a2"], "{shown}");
        assert_eq!(existing(to)?, 1, "{shown}");
        Ok(())
    })?;
    assert!(points >= 20, "{points}");
    Ok(())
}

#[test]
fn an_erasure_is_recorded_until_the_last_server_has_applied_it() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let (mut a, mut b) = (server("a"), server("b"));
        publish(&mut a, to, &[file(1, A1)?], NOW)?;
        publish(&mut b, to, &[file(7, B1)?], NOW)?;
        a.open(to, NOW)?;
        assert!(erasures::open(to)?.is_empty());
        erasures::record(to, &RunId::new()?, &["ann".to_owned()])?;
        let members = a.members()?;
        for (id, left) in [("a", 1), ("a", 1), ("b", 0)] {
            for mut record in erasures::open(to)? {
                assert_eq!(record.users, ["ann"]);
                erasures::done(to, &mut record, id, &members)?;
            }
            assert_eq!(erasures::open(to)?.len(), left, "{id}");
        }
        assert!(to.list("events/_erasures")?.is_empty());
    }
    Ok(())
}

#[test]
fn a_reader_that_is_far_behind_reads_the_checkpoint() -> Result<()> {
    let place = bucket();
    let to = &place.to;
    let mut a = server("a");
    publish(&mut a, to, &[file(1, A1)?], NOW)?;
    let mut reader = Snapshot::read(to, TABLE)?;
    for number in 2..=250 {
        publish(&mut a, to, &[file(number, A2)?], NOW)?;
        a.tidy(to, NOW)?;
        if number == 20 {
            reader.follow(to, TABLE)?;
            assert_eq!(reader.live.len(), 20);
        }
    }
    assert_eq!(
        to.read("events/_delta_log/00000000000000000020.json")?,
        None
    );
    reader.follow(to, TABLE)?;
    assert_eq!((reader.version, reader.live.len()), (a.version(), 250));
    Ok(())
}

/// Applies the open erasures as a server does.
fn apply(table: &mut SharedTable, id: &str, to: &Destination, now: i64) -> Result<()> {
    for mut record in erasures::open(to)? {
        if !record.is_done(id, table.members()?.retired) {
            let users: Vec<&str> = record.users.iter().map(String::as_str).collect();
            table.erase(to, &users, now)?;
            erased_ids::add(to, &record.id, &record.users, Utc::now())?;
        }
        let members = table.members()?;
        erasures::done(to, &mut record, id, &members)?;
    }
    Ok(())
}

/// The next start of a server: it completes what is left.
fn restart(id: &str, to: &Destination, now: i64) -> Result<SharedTable> {
    let mut table = server(id);
    publish(&mut table, to, &[], now)?;
    apply(&mut table, id, to, now)?;
    Ok(table)
}

#[test]
fn a_retired_server_publishes_nothing_and_its_files_belong_to_the_others() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let (mut a, mut b) = (server("a"), server("b"));
        publish(&mut a, to, &[file(1, A1)?], NOW)?;
        publish(&mut b, to, &[file(7, B1)?], NOW)?;
        let listed = servers(to)?;
        let last: Vec<_> = listed.servers.iter().map(|one| one.last_version).collect();
        assert_eq!((listed.version, last), (3, vec![Some(1), Some(3)]));
        let unknown = retire(to, "c", NOW);
        assert!(
            matches!(&unknown, Err(Error::BadInput { message, .. }) if message.ends_with(": a, b")),
            "{unknown:?}"
        );

        // It is alive after all, and is about to commit.
        let ServerFile { file: slow, number } = file(8, LATE)?;
        let write = slow.write;
        let slow = DataFile {
            write: Box::new(|path: &Path| {
                let retired = retire(to, "b", NOW)?;
                assert_eq!((retired.version, retired.files), (Some(4), 1));
                assert_eq!(retired.servers, ["a"]);
                write(path)
            }),
            ..slow
        };
        let late = b.publish(to, &[ServerFile { file: slow, number }], None, NOW);
        let says = |done: &Result<Outcome>| match done {
            Err(Error::BadInput { message, .. }) => message.contains("a new --server-id"),
            _ => false,
        };
        assert!(says(&late) && b.is_retired(), "{late:?}");
        assert!(says(&b.erase(to, &["ann"], NOW)), "erased nothing");
        // Again: nothing happens.
        let again = retire(to, "b", NOW)?;
        assert_eq!((again.version, again.files), (None, 1));
        let listed = servers(to)?;
        assert_eq!((listed.version, listed.servers.len()), (4, 1));
        assert_eq!(listed.retired, ["b"]);
        // The file that it has written goes.
        assert_eq!(existing(to)?, 3);
        assert!(b.open(to, NOW).is_err());
        assert_eq!(existing(to)?, 2);
        // The same data folder under another id, and its id for another one.
        let mut renamed = SharedTable::new("d", "store-of-b");
        assert!(renamed.open(to, NOW).is_err() && renamed.is_retired());
        let mut reused = SharedTable::new("b", "store-of-d");
        assert!(reused.open(to, NOW).is_err());
        assert_eq!(Snapshot::read(to, TABLE)?.version, Some(4));
        // Under the id of one that runs it removes nothing of it.
        let path = "events/dt=2026-11-26/a-00000002-0000-00000000-0123456789abcdef.parquet";
        to.create(path, b"about to be named")?;
        let mut other = SharedTable::new("a", "store-of-b");
        assert!(other.open(to, NOW).is_err() && other.is_retired());
        assert!(to.read(path)?.is_some());
        to.remove(path)?;

        // Its files are erased in, joined, and expire.
        a.open(to, NOW)?;
        a.erase(to, &["cyd"], NOW)?;
        assert_eq!(found(to)?.0, ["a1", "a2", "b1"]);
        a.open(to, NEXT_DAY)?;
        assert_eq!(a.join_days(to, QUIET_MS, || NEXT_DAY)?, 1);
        assert_eq!(found(to)?, (vec!["a1".into(), "a2".into()], 1));
    }
    Ok(())
}

#[test]
fn files_of_a_retired_server_expire() -> Result<()> {
    let place = bucket();
    let to = &place.to;
    publish(&mut server("b"), to, &[file(7, B1)?], NOW)?;
    let mut a = server("a");
    publish(&mut a, to, &[file(1, A1)?], NOW)?;
    retire(to, "b", NOW)?;
    a.open(to, NOW)?;
    let expired = a.publish(to, &[], Some(DAY + chrono::Days::new(1)), NOW)?;
    assert_eq!((expired.removed, found(to)?.1), (2, 0));
    Ok(())
}

#[test]
fn what_a_retired_server_left_unpublished_is_removed_by_another_one() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let mut a = restart("a", to, NOW)?;
        publish(&mut server("b"), to, &[file(7, B1)?], NOW)?;
        // Killed between the file and the commit.
        to.create(
            "events/dt=2026-11-26/b-00000008-0000-00000000-0123456789abcdef.parquet",
            b"ann",
        )?;
        publish(&mut a, to, &[file(1, A1)?], NOW)?;
        assert_eq!(existing(to)?, 3);
        retire(to, "b", NOW)?;
        publish(&mut a, to, &[], NOW)?;
        assert_eq!(existing(to)?, 2);
        assert_eq!(found(to)?.0, ["a1", "a2", "b1", "b4"]);
    }
    Ok(())
}

#[test]
fn an_erasure_is_applied_to_the_files_of_a_retired_server_before_its_record_goes() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        let (mut a, mut b, mut c) = (server("a"), server("b"), server("c"));
        publish(&mut a, to, &[file(1, A1)?], NOW)?;
        publish(&mut b, to, &[file(7, B1)?], NOW)?;
        publish(&mut c, to, &[file(3, LATE)?], NOW)?;
        erasures::record(to, &RunId::new()?, &["ann".to_owned(), "dan".to_owned()])?;
        a.open(to, NOW)?;
        apply(&mut a, "a", to, NOW)?;
        // This one has searched its files, and has not said so yet.
        let before = a.members()?;
        c.open(to, NOW)?;
        c.erase(to, &["ann", "dan"], NOW)?;
        let members_of_c = c.members()?;
        retire(to, "b", NOW)?;
        let listed = servers(to)?;
        let waiting: Vec<usize> = listed.servers.iter().map(|one| one.erasing).collect();
        assert_eq!((listed.open_erasures, waiting), (1, vec![1, 1]));
        for mut record in erasures::open(to)? {
            assert_eq!(members_of_c, before);
            erasures::done(to, &mut record, "c", &members_of_c)?;
        }
        // Both said so before the retirement: the files of the retired one are not searched.
        assert_eq!(erasures::open(to)?.len(), 1);
        assert_eq!(found(to)?.0, ["a2", "b1", "b4", "late2"]);
        a.open(to, NOW)?;
        apply(&mut a, "a", to, NOW)?;
        assert_eq!(found(to)?.0, ["a2", "b4", "late2"]);
        assert_eq!(erasures::open(to)?.len(), 1);
        c.open(to, NOW)?;
        apply(&mut c, "c", to, NOW)?;
        assert!(erasures::open(to)?.is_empty());
        // Marks from before the retirement go too.
        assert!(to.list("events/_erasures")?.is_empty());
        assert_eq!(found(to)?.0, ["a2", "b4", "late2"]);
    }
    Ok(())
}

#[test]
fn after_any_failed_operation_of_a_retirement_the_next_one_completes_it() -> Result<()> {
    let prepare = |to: &Destination| {
        let (mut a, mut b) = (server("a"), server("b"));
        publish(&mut a, to, &[file(1, A1)?], NOW)?;
        publish(&mut b, to, &[file(7, B1)?], NOW)?;
        erasures::record(to, &RunId::new()?, &["ann".to_owned()])?;
        apply(&mut a, "a", to, NOW)
    };
    let work = |to: &Destination| {
        retire(to, "b", NOW)?;
        restart("a", to, NOW).map(drop)
    };
    let points = with_failures(prepare, work, |to, shown| {
        let between = found(to)?.0;
        let is_before = between == ["a2", "b1", "b4"];
        assert!(is_before || between == ["a2", "b4"], "{shown}: {between:?}");
        assert!(
            !is_before || erasures::open(to)?.len() == 1,
            "{shown}: the record is there as long as events are"
        );
        retire(to, "b", NOW)?;
        let mut a = restart("a", to, NOW)?;
        a.tidy(to, NOW + HOUR_MS)?;
        assert_eq!(found(to)?, (vec!["a2".into(), "b4".into()], 2), "{shown}");
        assert_eq!(existing(to)?, 2, "{shown}");
        assert!(to.list("events/_erasures")?.is_empty(), "{shown}");
        // The failure of another server's process is not that of the retired one.
        let mut b = server("b");
        assert!(b.open(to, NOW).is_err() && b.is_retired(), "{shown}");
        Ok(())
    })?;
    assert!(points >= 40, "{points}");
    Ok(())
}

#[test]
fn hashes_of_erased_users_stay_when_the_record_goes_and_their_ids_do_not() -> Result<()> {
    for place in [folder(), bucket()] {
        let to = &place.to;
        assert_eq!(erased_ids::read(to)?, None);
        let mut a = restart("a", to, NOW)?;
        let mut hashes = 0;
        // More files than are kept.
        for number in 0..120 {
            let user = format!("user-{number}");
            erasures::record(to, &RunId::new()?, &[user])?;
            apply(&mut a, "a", to, NOW)?;
            hashes += 1;
        }
        let known = erased_ids::read(to)?.expect("there are some");
        assert_eq!(known.hashes.len(), hashes);
        let again = erased_ids::read(to)?.expect("there are some");
        assert_eq!(again, known);
        let files: Vec<String> = to.list("events/_erased")?.into_keys().collect();
        assert_eq!(files.len(), 2, "{files:?}");
        for path in to.list(TABLE)?.into_keys() {
            let content = to.read(&path)?.unwrap_or_default();
            let content = String::from_utf8_lossy(&content).into_owned();
            assert!(!content.contains("user-7"), "{path}");
        }
        // Without their key they say nothing, and no other key is made.
        to.remove("events/_erased/key.json")?;
        let lost = erased_ids::read(to);
        assert!(matches!(lost, Err(Error::Damaged { .. })), "{lost:?}");
        let added = erased_ids::add(to, "0123456789abcdef", &["ann".to_owned()], Utc::now());
        assert!(matches!(added, Err(Error::Damaged { .. })), "{added:?}");
    }
    Ok(())
}
