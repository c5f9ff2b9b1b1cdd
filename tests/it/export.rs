//! Exports: a folder for warehouses, and events as a stream.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{Days, Utc};
use serde_json::{Value, json};

use crate::faults::{copy, with_fault};
use crate::harness::{KEY, Server, batch, echopilot, folder, run, run_json, unsealed_demo};
use crate::oracle;

/// Runs a Python script and parses its JSON output.
fn python(script: &str, arguments: &[&str]) -> Value {
    oracle::python(&[&["-c", script], arguments].concat())
}

fn export(data: &Path, to: &Path, more: &[&str]) -> Value {
    let to = to.to_str().unwrap();
    run_json(data, &[&["export", "--to", to], more].concat())
}

/// All files and their contents.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => drop(found.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn an_export_has_every_event_in_one_schema_that_all_warehouses_read() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = dir.path().join("out");
    unsealed_demo(&data, 3_000, 6, 1);
    run_json(&data, &["rollup"]);
    let exported = export(&data, &to, &["--for", "bigquery"]);
    assert_eq!(
        (&exported["events"], &exported["days"]),
        (&json!(3_000), &json!(6)),
        "{exported}"
    );
    assert!(!to.join("tmp").exists());
    // The written files have none of the features that a warehouse cannot read.
    let found = python(
        "import sys, glob, json, pyarrow.parquet as pq, duckdb\n\
         out = sys.argv[1]\n\
         schemas, codecs = set(), set()\n\
         for path in glob.glob(out + '/events/dt=*/*.parquet'):\n\
         \u{20}   file = pq.ParquetFile(path)\n\
         \u{20}   schema = file.schema\n\
         \u{20}   columns = [schema.column(i) for i in range(len(schema.names))]\n\
         \u{20}   schemas.add(tuple((c.path, c.physical_type, str(c.logical_type), c.max_repetition_level) for c in columns))\n\
         \u{20}   codecs |= {file.metadata.row_group(0).column(i).compression for i in range(len(columns))}\n\
         assert len(schemas) == 1, 'one schema and one order of columns'\n\
         count = duckdb.execute(f\"select count(*), count(distinct dt), bool_and(cast(ts as date) = dt) from read_parquet('{out}/events/*/*.parquet', hive_partitioning=true)\").fetchone()\n\
         rollups = duckdb.execute(f\"select count(*), sum(mau) from '{out}/daily_rollups/*.parquet'\").fetchone()\n\
         features = duckdb.execute(f\"select count(distinct day) from '{out}/daily_features/*.parquet'\").fetchone()\n\
         print(json.dumps([list(schemas.pop()), sorted(codecs), count, [int(x) for x in rollups], features]))\n",
        &[to.to_str().unwrap()],
    );
    let text = |name: &str| json!([name, "BYTE_ARRAY", "String", 0]);
    let instant = |name: &str| {
        json!([
            name,
            "INT64",
            "Timestamp(isAdjustedToUTC=true, timeUnit=microseconds, is_from_converted_type=false, force_set_converted_type=false)",
            0
        ])
    };
    assert_eq!(
        found[0],
        json!([
            instant("ts"),
            text("event_type"),
            text("user_id"),
            text("feature"),
            text("metadata"),
            text("url"),
            text("event_id"),
            instant("received_at")
        ])
    );
    assert_eq!(found[1], json!(["ZSTD"]));
    assert_eq!(found[2], json!([3_000, 6, true]));
    assert_eq!(found[3][0], 6);
    assert_eq!(found[4], json!([6]));
    for file in [
        "table.sql",
        "load.sh",
        "external.sql",
        "views.sql",
        "queries/funnel.sql",
        "README.md",
    ] {
        assert!(to.join("bigquery").join(file).exists(), "{file}");
    }
}

#[test]
fn every_statement_for_a_warehouse_parses_in_its_dialect() {
    let dir = folder();
    for target in ["bigquery", "snowflake"] {
        let to = dir.path().join(target);
        export(&dir.path().join("data"), &to, &["--for", target]);
        let parsed = python(
            "import sys, glob, json, re, sqlglot\n\
             out, dialect = sys.argv[1:]\n\
             parsed = 0\n\
             for path in glob.glob(out + '/**/*.sql', recursive=True):\n\
             \u{20}   sql = open(path).read()\n\
             \u{20}   sql = sql.replace('{dataset}.', 'd.').replace('@{stage}', '@s')\n\
             \u{20}   sql = re.sub(r'\\{(\\w+)\\}', r'\\1', sql)\n\
             \u{20}   if 'external table' in sql or 'file_format' in sql: continue\n\
             \u{20}   for statement in sqlglot.parse(sql, dialect=dialect, error_level=sqlglot.ErrorLevel.RAISE):\n\
             \u{20}       assert not isinstance(statement, sqlglot.exp.Command), path\n\
             \u{20}       parsed += 1\n\
             print(json.dumps(parsed))\n",
            &[to.to_str().unwrap(), target],
        );
        assert!(parsed.as_u64().unwrap() >= 11, "{target}: {parsed}");
    }
    let funnel =
        std::fs::read_to_string(dir.path().join("bigquery/bigquery/queries/funnel.sql")).unwrap();
    assert!(
        funnel.contains("@within_us") && !funnel.contains(" :"),
        "{funnel}"
    );
}

#[test]
fn since_last_writes_changed_days_and_removes_erased_events() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = dir.path().join("out");
    let file = dir.path().join("events");
    let today = Utc::now().date_naive();
    let at = |days_ago: u64, user: &str| {
        json!({"event_type":"action","user_id":user,"ts":format!("{}T10:00:00Z", today - Days::new(days_ago))}).to_string()
    };
    let import = |lines: &[String]| {
        std::fs::write(&file, lines.join("\n")).unwrap();
        run_json(&data, &["import", file.to_str().unwrap()]);
    };
    import(&[at(1, "ann"), at(2, "ann"), at(3, "only")]);
    let first = export(&data, &to, &["--since", "last"]);
    assert_eq!(
        (&first["days"], &first["unchanged"]),
        (&json!(3), &json!(0))
    );
    let before = contents(&to.join("events"));
    let again = export(&data, &to, &["--since", "last"]);
    assert_eq!(
        (&again["days"], &again["unchanged"]),
        (&json!(0), &json!(3))
    );
    import(&[at(2, "bob")]);
    let changed = export(&data, &to, &["--since", "last"]);
    assert_eq!(
        (&changed["days"], &changed["unchanged"], &changed["events"]),
        (&json!(1), &json!(2), &json!(2))
    );
    let after = contents(&to.join("events"));
    let same = before
        .iter()
        .filter(|(path, bytes)| after.get(*path) == Some(bytes))
        .count();
    assert_eq!((before.len(), after.len(), same), (3, 3, 2));
    run_json(&data, &["user", "erase", "only"]);
    let erased = export(&data, &to, &["--since", "last"]);
    assert_eq!(
        (&erased["removed"], &erased["unchanged"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(contents(&to.join("events")).len(), 2);
    // An export of fewer days removes nothing.
    let shorter = export(&data, &to, &["--since", "last", "--days", "2"]);
    assert_eq!(
        (&shorter["removed"], &shorter["unchanged"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(contents(&to.join("events")).len(), 2);
}

#[test]
fn an_expired_day_stays_in_the_export_despite_late_events_and_loses_only_erased_users() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = data.join("exports/lake");
    let file = dir.path().join("events");
    let day = Utc::now().date_naive() - Days::new(100);
    let import = |users: &[&str]| {
        let lines: Vec<String> = users
            .iter()
            .map(|user| {
                json!({"event_type":"action","user_id":user,"ts":format!("{day}T10:00:00Z")})
                    .to_string()
            })
            .collect();
        std::fs::write(&file, lines.join("\n")).unwrap();
        run_json(&data, &["import", file.to_str().unwrap()]);
    };
    let users = || {
        python(
            "import sys, json, duckdb\n\
             print(json.dumps([x[0] for x in duckdb.execute(\"select user_id from read_parquet(?) order by 1\", \
             [sys.argv[1] + '/events/*/*.parquet']).fetchall()]))\n",
            &[to.to_str().unwrap()],
        )
    };
    import(&["ann", "bob", "target-user-77"]);
    export(&data, &to, &[]);
    assert_eq!(run_json(&data, &["expire"])["events"], 3);
    import(&["late"]);
    for more in [&["--since", "last"][..], &[]] {
        export(&data, &to, more);
        assert_eq!(users(), json!(["ann", "bob", "target-user-77"]), "{more:?}");
    }
    let receipt = run_json(&data, &["user", "erase", "target-user-77"]);
    assert_eq!(receipt["exports"], 1, "{receipt}");
    assert_eq!(users(), json!(["ann", "bob"]));
    // A file of an interrupted export does not belong to the next one.
    let of_day = contents(&to.join(format!("events/dt={day}")));
    let file_of_day = of_day.keys().next().unwrap();
    let name_of_copy = format!("events/dt={day}/part-00009-0123456789abcdef.parquet");
    std::fs::copy(file_of_day, to.join(name_of_copy)).unwrap();
    export(&data, &to, &["--since", "last"]);
    assert_eq!(users(), json!(["ann", "bob"]));
    // An export is not written to folders of the store itself.
    for ours in ["", "events", "states/x"] {
        let output = run(
            &data,
            &["export", "--to", data.join(ours).to_str().unwrap()],
        );
        assert_eq!(output.status.code(), Some(2), "{ours:?}");
    }
}

/// The number of events of an export by its list, each file of which must be complete; `None` if
/// the list was replaced meanwhile.
fn listed_events(to: &Path) -> Option<u64> {
    let path = to.join("export.json");
    let text = std::fs::read(&path).unwrap();
    let list: Value = serde_json::from_slice(&text).unwrap();
    let days = list["days"].as_object().unwrap().values();
    let files = days.flat_map(|day| day["files"].as_array().unwrap());
    let mut events = 0;
    for file in files {
        let name = file["path"].as_str().unwrap();
        let bytes = std::fs::read(to.join(name));
        if bytes.is_err() && std::fs::read(&path).unwrap() != text {
            return None;
        }
        let found = crc32c::crc32c(&bytes.expect(name));
        assert_eq!(json!(found), file["crc32c"], "{name}");
        events += file["rows"].as_u64().unwrap();
    }
    let others = list["files"].as_array().unwrap();
    let is_missing = |name: &&Value| !to.join(name.as_str().unwrap()).is_file();
    if let Some(missing) = others.iter().find(is_missing) {
        assert_ne!(std::fs::read(&path).unwrap(), text, "{missing} is missing");
        return None;
    }
    Some(events)
}

/// The names of the files in the folders of the tables.
fn table_files(to: &Path) -> Vec<String> {
    let tables = [
        "events",
        "daily_rollups",
        "daily_features",
        "daily_event_types",
        "links",
    ];
    let found = tables
        .iter()
        .flat_map(|table| contents(&to.join(table)).into_keys());
    found
        .map(|path| path.strip_prefix(to).unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_export_killed_at_any_call_is_the_old_or_the_new_one_by_its_list() {
    let dir = folder();
    let data = dir.path().join("data");
    unsealed_demo(&data, 400, 3, 1);
    run_json(&data, &["rollup"]);
    let origin = dir.path().join("origin");
    export(&data, &origin, &[]);
    let old_files = table_files(&origin);
    // Two of three days change, and one of them is removed.
    let day = |days_ago| Utc::now().date_naive() - Days::new(days_ago);
    let late = json!({"event_type":"action","user_id":"late","ts":format!("{}T10:00:00Z", day(1))});
    let file = dir.path().join("late");
    std::fs::write(&file, late.to_string()).unwrap();
    run_json(&data, &["import", file.to_str().unwrap()]);
    run_json(&data, &["seal"]);
    for kind in ["kill", "torn", "eio"] {
        let mut points = 0;
        for at in (1..).step_by(if kind == "kill" { 1 } else { 7 }) {
            let copied = copy(&origin);
            let to = copied.path();
            let mut command = echopilot(&data);
            with_fault(&mut command, to, kind, at);
            command.args(["export", "--to", to.to_str().unwrap()]);
            let done = command.output().unwrap().status.success();
            let listed = listed_events(to).unwrap();
            assert!([400, 401].contains(&listed), "{kind} at {at}: {listed}");
            export(&data, to, &["--since", "last"]);
            assert_eq!(listed_events(to), Some(401), "{kind} at {at}, again");
            // Exactly the listed files exist, and no name was used twice.
            let files = table_files(to);
            assert_eq!(files.len(), 7, "{kind} at {at}: {files:?}");
            assert!(
                !files.iter().any(|name| old_files.contains(name)) || !done,
                "{kind} at {at}"
            );
            assert!(!to.join(".echopilot-tmp").exists());
            if done {
                break;
            }
            points += 1;
        }
        assert!(points >= 5, "{kind}: only {points} points were tried");
    }
    // After the first export there is no list, or a complete one.
    for at in (1..).step_by(9) {
        let to = dir.path().join(format!("first-{at}"));
        std::fs::create_dir(&to).unwrap();
        let mut command = echopilot(&data);
        with_fault(&mut command, &to, "kill", at);
        command.args(["export", "--to", to.to_str().unwrap()]);
        let done = command.output().unwrap().status.success();
        if to.join("export.json").exists() {
            assert!(
                [Some(0), Some(401)].contains(&listed_events(&to)),
                "at {at}"
            );
        }
        export(&data, &to, &["--since", "last"]);
        assert_eq!((listed_events(&to), table_files(&to).len()), (Some(401), 7));
        if done {
            break;
        }
    }
}

#[test]
fn readers_of_the_list_find_complete_exports_while_others_replace_it() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = dir.path().join("out");
    unsealed_demo(&data, 300, 3, 1);
    export(&data, &to, &[]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let is_stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut seen) = (0, 300);
            while !is_stopped() {
                if let Some(events) = listed_events(&to) {
                    assert!(seen <= events, "{events} after {seen}");
                    // Each export adds three events, one to each day.
                    assert_eq!((events - 300) % 3, 0, "{events}");
                    (reads, seen) = (reads + 1, events);
                }
            }
            reads
        });
        for round in 0..12 {
            let lines: Vec<String> = (1..=3)
                .map(|days_ago| {
                    let day = Utc::now().date_naive() - Days::new(days_ago);
                    json!({"event_type":"action","user_id":format!("u{round}"),"ts":format!("{day}T10:00:00Z")}).to_string()
                })
                .collect();
            let file = dir.path().join("more");
            std::fs::write(&file, lines.join("\n")).unwrap();
            run_json(&data, &["import", file.to_str().unwrap()]);
            let since: &[&str] = if round % 2 == 0 {
                &["--since", "last"]
            } else {
                &[]
            };
            export(&data, &to, since);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 12);
    });
    assert_eq!(listed_events(&to), Some(336));
}

#[test]
fn an_export_in_the_layout_of_an_earlier_version_is_replaced_by_the_next_one() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = dir.path().join("out");
    unsealed_demo(&data, 200, 3, 1);
    run_json(&data, &["rollup"]);
    let expired = Utc::now().date_naive() - Days::new(100);
    let event = json!({"event_type":"action","user_id":"ann","ts":format!("{expired}T10:00:00Z")});
    let file = dir.path().join("expires");
    std::fs::write(&file, event.to_string()).unwrap();
    run_json(&data, &["import", file.to_str().unwrap()]);
    export(&data, &to, &[]);
    assert_eq!(run_json(&data, &["expire"])["events"], 1);
    let path = to.join("export.json");
    let list: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut days = list["days"].clone();
    for (day, exported) in days.as_object_mut().unwrap() {
        let file = &mut exported["files"][0];
        let old = format!("events/dt={day}/part-00000.parquet");
        std::fs::rename(to.join(file["path"].as_str().unwrap()), to.join(&old)).unwrap();
        file["path"] = json!(old);
    }
    for (dir, old) in [
        ("daily_rollups", "daily_rollups"),
        ("daily_features", "feature_usage"),
    ] {
        let (file, _) = contents(&to.join(dir)).pop_first().unwrap();
        let old = to.join(format!("daily_rollups/{old}.parquet"));
        std::fs::rename(file, old).unwrap();
    }
    for new in ["daily_event_types", "links"] {
        std::fs::remove_dir_all(to.join(new)).unwrap();
    }
    std::fs::write(
        &path,
        serde_json::to_string_pretty(&json!({"days": days})).unwrap() + "\n",
    )
    .unwrap();
    let again = export(&data, &to, &["--since", "last"]);
    // Their names would be used again, and their strings are views.
    assert_eq!(
        (&again["days"], &again["unchanged"]),
        (&json!(3), &json!(0))
    );
    assert_eq!(listed_events(&to), Some(201));
    let files = table_files(&to);
    assert_eq!(files.len(), 8, "{files:?}");
    // Also the day that only the export has.
    let is_old = |name: &&String| name.ends_with("part-00000.parquet");
    assert_eq!(files.iter().find(is_old), None);
    let tables = [
        "daily_rollups",
        "daily_features",
        "daily_event_types",
        "links",
    ];
    for table in tables {
        assert_eq!(contents(&to.join(table)).len(), 1, "{table}");
    }
}

#[test]
fn declared_event_types_are_rows_of_a_table_whose_columns_stay_the_same() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = dir.path().join("out");
    let plan = dir.path().join("plan.json");
    let file = dir.path().join("events.ndjson");
    let day = |days_ago| Utc::now().date_naive() - Days::new(days_ago);
    let import = |days_ago: u64, types: &[&str]| {
        let events = types.iter().map(|event_type| {
            let ts = format!("{}T10:00:00Z", day(days_ago));
            json!({"event_type": event_type, "user_id": "ann", "ts": ts}).to_string() + "\n"
        });
        std::fs::write(&file, events.collect::<String>()).unwrap();
        run_json(&data, &["import", file.to_str().unwrap()]);
        run_json(&data, &["rollup"]);
    };
    import(3, &["page_view", "page_view"]);
    export(&data, &to, &[]);
    let read = || {
        python(
            "import sys, json, glob, duckdb, pyarrow.parquet as pq\n\
             out = sys.argv[1]\n\
             types = duckdb.execute(f\"select day::varchar, event_type, events from '{out}/daily_event_types/*.parquet' order by day, file_row_number\").fetchall()\n\
             days = duckdb.execute(f\"select day::varchar, page_view, action, conversion from '{out}/daily_rollups/*.parquet' order by day\").fetchall()\n\
             schemas = [[str(field.type) for field in pq.read_schema(path)] for path in glob.glob(out + '/daily_event_types/*')]\n\
             names = [pq.read_schema(path).names for path in glob.glob(out + '/daily_rollups/*')]\n\
             print(json.dumps([types, days, schemas, names]))\n",
            &[to.to_str().unwrap()],
        )
    };
    let before = read();
    let first = day(3).to_string();
    assert_eq!(
        before[0].as_array().unwrap()[..3],
        [
            json!([first, "page_view", 2]),
            json!([first, "action", 0]),
            json!([first, "conversion", 0])
        ]
    );
    // The plan declares types when the export exists already.
    let declared = json!({"event_types":[{"name":"signup"},{"name":"a new one"}]});
    std::fs::write(&plan, declared.to_string()).unwrap();
    run_json(&data, &["plan", "set", plan.to_str().unwrap()]);
    import(1, &["signup", "signup", "a new one", "action"]);
    export(&data, &to, &["--since", "last"]);
    let after = read();
    let last = day(1).to_string();
    let rows: Vec<&Value> = after[0].as_array().unwrap().iter().collect();
    assert_eq!(
        rows[rows.len() - 5..],
        [
            &json!([last, "page_view", 2]),
            &json!([last, "action", 1]),
            &json!([last, "conversion", 0]),
            &json!([last, "a new one", 1]),
            &json!([last, "signup", 2]),
        ]
    );
    let days = after[1].as_array().unwrap();
    assert_eq!(days[days.len() - 1], json!([last, 2, 1, 0]));
    // One file each, with the columns of before.
    assert_eq!((&after[2], &after[3]), (&before[2], &before[3]));
    assert_eq!(after[2].as_array().unwrap().len(), 1);
    assert_eq!(run_json(&data, &["verify"])["damage"], json!([]));
}

#[test]
fn a_name_without_a_path_is_a_folder_here_and_a_rejected_one_leaves_nothing() {
    let dir = folder();
    let command = |arguments: &[&str]| {
        let mut command = echopilot(Path::new("data"));
        command.current_dir(dir.path()).args(arguments);
        command.output().unwrap()
    };
    assert!(
        command(&["demo", "--events", "100", "--days", "2"])
            .status
            .success()
    );
    for to in ["out", "out/", "./again", "data/exports", "deep/er"] {
        let output = command(&["export", "--to", to]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{to}: {said}");
        assert_eq!(listed_events(&dir.path().join(to)), Some(100));
    }
    let before = contents(dir.path());
    for to in [
        "data/events/new",
        "data/states",
        "data",
        "data/exports/../events/x",
        "",
    ] {
        let output = command(&["export", "--to", to]);
        assert!(!output.status.success(), "{to}");
        assert!(!dir.path().join("data/events/new").exists());
        let after = contents(dir.path());
        assert!(after.keys().eq(before.keys()), "{to}: {:?}", after.keys());
    }
}

#[test]
fn days_without_events_give_an_empty_result_in_every_format() {
    let dir = folder();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    for round in ["empty store", "other days"] {
        for window in [
            "days=1",
            "days=3&end=2026-01-05",
            "days=7&end=2026-01-05&tz=Asia/Tokyo",
        ] {
            let mut files = Vec::new();
            for format in ["ndjson", "csv", "csv-spreadsheet", "arrow", "parquet"] {
                let address = format!("/api/analytics/export?{window}&format={format}");
                let (status, body) = server.get_bytes(&address, &[("x-dash-key", KEY)]);
                assert_eq!(status, 200, "{round} {address}");
                let text = String::from_utf8_lossy(&body);
                match format {
                    "ndjson" => assert_eq!(text, "", "{round}"),
                    "csv" | "csv-spreadsheet" => {
                        assert_eq!(text.lines().count(), 1, "{round}: {text}")
                    }
                    _ => {
                        let path = dir.path().join(format!("none.{format}"));
                        std::fs::write(&path, body).unwrap();
                        files.push(path);
                    }
                }
            }
            let rows = python(
                "import sys, json, pyarrow as pa, pyarrow.ipc, pyarrow.parquet as pq\n\
                 print(json.dumps([pa.ipc.open_stream(sys.argv[1]).read_all().num_rows, pq.read_table(sys.argv[2]).num_rows]))\n",
                &[files[0].to_str().unwrap(), files[1].to_str().unwrap()],
            );
            assert_eq!(rows, json!([0, 0]), "{round}");
        }
        let yesterday = Utc::now().date_naive() - Days::new(1);
        let ts = format!("{yesterday}T10:00:00Z");
        server.post(&batch([
            json!({"event_type":"action","user_id":"u","ts":ts}),
        ]));
    }
}

#[test]
fn events_stream_in_every_format_including_unsealed_ones() {
    let dir = folder();
    let data = dir.path().join("data");
    unsealed_demo(&data, 2_000, 3, 1);
    run_json(&data, &["seal"]);
    let server = Server::start(&data);
    server.post(&batch([
        json!({"event_type":"action","user_id":"=1+1","feature":"@sum","metadata":{"a":"x,\"y\""},"url":"+/a"}),
    ]));
    let stream = |path: &str| server.get_bytes(path, &[("x-dash-key", KEY)]);
    for format in ["ndjson", "csv", "arrow", "parquet"] {
        let (status, body) = stream(&format!("/api/analytics/export?days=365&format={format}"));
        assert_eq!(status, 200);
        std::fs::write(dir.path().join(format!("all.{format}")), body).unwrap();
    }
    let counts = python(
        "import sys, json, csv, pyarrow as pa, pyarrow.ipc, pyarrow.parquet as pq\n\
         d = sys.argv[1]\n\
         lines = [json.loads(line) for line in open(d + '/all.ndjson')]\n\
         rows = list(csv.DictReader(open(d + '/all.csv')))\n\
         arrow = pa.ipc.open_stream(d + '/all.arrow').read_all()\n\
         parquet = pq.read_table(d + '/all.parquet')\n\
         last = rows[-1]\n\
         assert [last['user_id'], last['feature'], last['url']] == ['=1+1', '@sum', '+/a'], last\n\
         assert json.loads(last['metadata']) == {'a': 'x,\"y\"'}\n\
         assert arrow.to_pydict() == parquet.to_pydict()\n\
         assert sorted(str(x['user_id']) for x in lines) == sorted(str(x) for x in parquet['user_id'].to_pylist())\n\
         print(json.dumps([len(lines), len(rows), arrow.num_rows, parquet.num_rows]))\n",
        &[dir.path().to_str().unwrap()],
    );
    assert_eq!(counts, json!([2_001, 2_001, 2_001, 2_001]));
    let (_, yesterday) = stream("/api/analytics/export?days=1&format=ndjson");
    assert_eq!(
        yesterday
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .count(),
        1
    );
    let (status, body) = server.get("/api/analytics/export?format=xlsx");
    assert_eq!(
        (status, &body["error"]),
        (400, &json!("bad_format")),
        "{body}"
    );
    assert_eq!(server.get("/api/analytics/export?days=0").0, 400);
    assert_eq!(server.get_with("/api/analytics/export", &[]).0, 401);
}

#[test]
fn csv_and_ndjson_keep_every_value_and_timestamps_of_one_width() {
    let dir = folder();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    let ids = [
        "-5",
        "=1+1",
        "+1",
        "@a",
        "007",
        "1e5",
        "a,b",
        "say \"x\"",
        " blanks ",
        "é漢🙂",
        "NA",
    ];
    let day = Utc::now().date_naive() - Days::new(1);
    let events = ids.iter().enumerate().map(|(place, id)| {
        let fraction = ["", ".1", ".123", ".123456", ".000001"][place % 5];
        let mut event = json!({"event_type":"action","user_id":id,"ts":format!("{day}T10:00:00{fraction}Z"),"url":id,
            "metadata":{"a":id,"none":""}});
        if place % 2 == 0 {
            event["feature"] = json!(id);
        }
        event
    });
    assert_eq!(server.post(&batch(events)).0, 200);
    for format in ["ndjson", "csv", "csv-spreadsheet", "parquet"] {
        let address = format!("/api/analytics/export?days=2&format={format}");
        let (status, body) = server.get_bytes(&address, &[("x-dash-key", KEY)]);
        assert_eq!(status, 200, "{format}");
        std::fs::write(dir.path().join(format!("all.{format}")), body).unwrap();
    }
    let access = server.get_bytes("/api/analytics/users/-5/events", &[("x-dash-key", KEY)]);
    std::fs::write(dir.path().join("user.ndjson"), access.1).unwrap();
    let counts = python(
        "import sys, json, csv, re, duckdb, pandas as pd, pyarrow.csv as pc, pyarrow.parquet as pq, pyarrow as pa\n\
         d = sys.argv[1]\n\
         true = pq.read_table(d + '/all.parquet').to_pylist()\n\
         width = re.compile(r'\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d[.]\\d{6}Z')\n\
         strings = ['event_type', 'user_id', 'feature', 'metadata', 'url', 'event_id']\n\
         form = '%Y-%m-%dT%H:%M:%S.%fZ'\n\
         lines = [json.loads(line) for name in ('all', 'user') for line in open(f'{d}/{name}.ndjson')]\n\
         frame = pd.read_csv(d + '/all.csv', dtype=str, keep_default_na=False)\n\
         rows = list(csv.DictReader(open(d + '/all.csv', newline='')))\n\
         sheet = list(csv.DictReader(open(d + '/all.csv-spreadsheet', newline='', encoding='utf-8-sig')))\n\
         for row in [*lines, *rows, *sheet]: assert width.fullmatch(row['ts']) and width.fullmatch(row['received_at']), row\n\
         # All have the same format, so that the format of the first row fits all rows.\n\
         for column in ('ts', 'received_at'): assert pd.to_datetime(frame[column], format=form, utc=True).tolist() == [pd.Timestamp(row[column]) for row in true]\n\
         assert [row['ts'] for row in true] == pd.read_csv(d + '/all.csv', parse_dates=['ts'])['ts'].tolist()\n\
         same = lambda row: [row[name] or '' for name in strings]\n\
         assert [same(row) for row in rows] == [same(row) for row in true] == [same(row) for row in frame.to_dict('records')]\n\
         # Readers with a null value distinguish it from an empty string.\n\
         exact = [[row[name] for name in strings] for row in true]\n\
         found = duckdb.execute(\"select \" + ', '.join(strings) + \" from read_csv(?, all_varchar = true, allow_quoted_nulls = false)\", [d + '/all.csv']).fetchall()\n\
         assert [list(row) for row in found] == exact\n\
         assert duckdb.execute(\"select typeof(ts) from read_csv(?)\", [d + '/all.csv']).fetchone()[0].startswith('TIMESTAMP')\n\
         options = pc.ConvertOptions(column_types={name: pa.string() for name in strings}, null_values=[''], strings_can_be_null=True, quoted_strings_can_be_null=False)\n\
         found = pc.read_csv(d + '/all.csv', convert_options=options).to_pylist()\n\
         assert [[row[name] for name in strings] for row in found] == exact\n\
         assert open(d + '/all.csv-spreadsheet', 'rb').read(3) == b'\\xef\\xbb\\xbf' and open(d + '/all.csv', 'rb').read(3) == b'ts,'\n\
         begins = {row['user_id'][0] for row in sheet}\n\
         assert not begins & set('=+-@') and \"'-5\" in {row['user_id'] for row in sheet}\n\
         print(json.dumps([len(lines), len(rows), len(sheet), len(true)]))\n",
        &[dir.path().to_str().unwrap()],
    );
    assert_eq!(counts, json!([12, 11, 11, 11]));
}

#[test]
fn an_empty_store_exports_no_events() {
    let dir = folder();
    let exported = export(&dir.path().join("data"), &dir.path().join("out"), &[]);
    assert_eq!(
        (&exported["events"], &exported["files"]),
        (&json!(0), &json!(0))
    );
    let server = Server::start(&dir.path().join("data"));
    let (status, body) =
        server.get_bytes("/api/analytics/export?format=csv", &[("x-dash-key", KEY)]);
    assert_eq!(
        (status, body.starts_with(b"ts,event_type,user_id")),
        (200, true)
    );
    let output = run(
        &dir.path().join("data"),
        &["export", "--to", "/proc/nowhere"],
    );
    assert_eq!(output.status.code(), Some(1));
}
