"""Usage of a year, compared with DuckDB, ClickHouse and Polars reading the same lake on the same cores in the same run.

Usage: peers.py ECHOPILOT [EVENTS]...      (from `make bench-peers`; default 1, 10 and 100 million)

For each history the server is queried over HTTP, first cold, then warm; then each peer runs the same query in its own
process, which is `peers.py --peer NAME LAKE FROM TO`. All results must be equal.
"""

import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from server import Server

ROUNDS = 3
WARM_QUERIES = 300

SQL = """
with e as (
    select {day} as day, {week} as week, user_id, feature, event_type
    from {lake} where ts >= {first} and ts < {end}
)
select
    (select count(*) from e) as total,
    (select count(distinct day) from e) as days,
    (select count(distinct week) from e) as weeks,
    (select count(distinct user_id) from e) as mau,
    (select count(*) from (select distinct day, user_id from e where user_id is not null) as d) as user_days,
    (select count(*) from (select distinct week, user_id from e where user_id is not null) as w) as user_weeks
"""
GROUPS = "select {column}, count(*) from {lake} where ts >= {first} and ts < {end} and {column} is not null group by 1"


def duckdb_usage(lake, first, end):
    import duckdb

    db = duckdb.connect()
    db.execute("set threads = 2; set timezone = 'UTC'")
    names = {
        "lake": f"read_parquet('{lake}')",
        "first": f"timestamptz '{first} 00:00:00+00'",
        "end": f"timestamptz '{end} 00:00:00+00'",
    }
    totals = db.execute(SQL.format(day="cast(ts as date)", week="date_trunc('week', ts)", **names)).fetchone()
    return totals, *(dict(db.execute(GROUPS.format(column=c, **names)).fetchall()) for c in ("feature", "event_type"))


def clickhouse_usage(lake, first, end):
    import chdb

    names = {
        "lake": f"file('{lake}', Parquet)",
        "first": f"toDateTime64('{first} 00:00:00', 6, 'UTC')",
        "end": f"toDateTime64('{end} 00:00:00', 6, 'UTC')",
    }

    def rows(sql):
        settings = " settings max_threads = 2, session_timezone = 'UTC', use_hive_partitioning = 0"
        found = chdb.query(sql + settings, "JSONCompactEachRow").bytes().decode()
        return [json.loads(line) for line in found.splitlines()]

    totals = rows(SQL.format(day="toDate(ts, 'UTC')", week="toMonday(ts, 'UTC')", **names))[0]
    groups = ({k: int(v) for k, v in rows(GROUPS.format(column=c, **names))} for c in ("feature", "event_type"))
    return [int(value) for value in totals], *groups


def polars_usage(lake, first, end):
    import polars as pl

    def bound(day):
        return pl.lit(day).str.to_datetime(time_unit="us", time_zone="UTC")

    events = pl.scan_parquet(lake, hive_partitioning=False).filter(
        pl.col("ts") >= bound(f"{first} 00:00:00"), pl.col("ts") < bound(f"{end} 00:00:00")
    )
    active = (
        events.select(day=pl.col("ts").dt.date(), user=pl.col("user_id"))
        .unique()
        .with_columns(week=pl.col("day").dt.truncate("1w"))
    )
    known = active.filter(pl.col("user").is_not_null())
    frames = pl.collect_all(
        [
            events.select(pl.len()),
            active.select(pl.col("day").n_unique(), pl.col("week").n_unique()),
            known.select(pl.col("user").n_unique(), pl.len().alias("user_days")),
            known.select("week", "user").unique().select(pl.len()),
            *(events.filter(pl.col(c).is_not_null()).group_by(c).agg(pl.len()) for c in ("feature", "event_type")),
        ],
        engine="streaming",
    )
    (total,), (days, weeks), (mau, user_days), (user_weeks,) = (frame.row(0) for frame in frames[:4])
    return (total, days, weeks, mau, user_days, user_weeks), dict(frames[4].iter_rows()), dict(frames[5].iter_rows())


PEERS = {"DuckDB": duckdb_usage, "ClickHouse": clickhouse_usage, "Polars": polars_usage}


def as_peer(name, lake, first, end):
    started = time.monotonic()
    totals, features, types = PEERS[name](lake, first, end)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "result": [list(totals), features, types]}))


def milliseconds(seconds):
    ordered = sorted(seconds)
    return f"p50 {statistics.median(ordered) * 1e3:.1f}, p95 {ordered[int(len(ordered) * 0.95)] * 1e3:.1f} ms"


def folder_bytes(path):
    return sum(os.path.getsize(os.path.join(root, file)) for root, _, files in os.walk(path) for file in files)


def measure(program, folder, events):
    if not os.path.exists(folder):
        demo = ["demo", "--data-dir", folder, "--events", str(events), "--users", "1000000", "--days", "365"]
        subprocess.run([program, *demo], capture_output=True, check=True)
    lake, states = folder_bytes(f"{folder}/events"), folder_bytes(f"{folder}/states")
    print(
        f"\n{events:,} events: lake {lake / events:.1f} bytes an event, states {states / lake:.1%} of it, "
        f"dictionary {os.path.getsize(f'{folder}/users.ndjson') / 1e6:.0f} MB"
    )
    server = Server(program, folder)
    newest = max(name[3:] for name in os.listdir(f"{folder}/events"))
    first_seconds, response = server.ask(f"usage?days=365&end={newest}")
    warm = [server.ask(f"usage?days=365&end={newest}")[0] for _ in range(WARM_QUERIES)]
    month = [server.ask(f"usage?days=30&end={newest}")[0] for _ in range(WARM_QUERIES)]
    print(
        f"  EchoPilot: start {server.start_seconds:.2f} s, first response {first_seconds * 1e3:.0f} ms, "
        f"365 days {milliseconds(warm)}, 30 days {milliseconds(month)}, peak {server.peak():.0f} MB"
    )
    server.stop()
    window = response["window"]
    first = window["from"]
    end = (datetime.date.fromisoformat(window["to"]) + datetime.timedelta(days=1)).isoformat()
    totals = ("total_events", "unique_days", "unique_weeks", "mau", "users_per_day", "users_per_week")
    ours = [
        [response[name] for name in totals],
        response["feature_usage"],
        {name: count for name, count in response["funnel_steps"].items() if count},
    ]
    for peer in PEERS:
        rounds = []
        for _ in range(ROUNDS if events <= 10_000_000 else 1):
            child = subprocess.run(
                [sys.executable, __file__, "--peer", peer, f"{folder}/events/*/*.parquet", first, end],
                capture_output=True,
                text=True,
            )
            if child.returncode:
                print(f"  {peer}: no result: {child.stderr.strip().splitlines()[-1:]}")
                break
            rounds.append(json.loads(child.stdout))
        if not rounds:
            continue
        assert all(found["result"] == ours for found in rounds), (peer, rounds[0]["result"], ours)
        seconds = statistics.median(found["seconds"] for found in rounds)
        print(
            f"  {peer}: {seconds:.1f} s, peak {rounds[0]['peak']:,.0f} MB, equal result; "
            f"{seconds / statistics.median(warm):,.0f} times as long"
        )


if sys.argv[1] == "--peer":
    as_peer(*sys.argv[2:])
else:
    program = os.path.abspath(sys.argv[1])
    sizes = [int(size) for size in sys.argv[2:]] or [1_000_000, 10_000_000, 100_000_000]
    kept = os.environ.get("BENCH_FOLDER")
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        for events in sizes:
            measure(program, os.path.join(kept or temporary, str(events)), events)
