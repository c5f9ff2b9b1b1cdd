"""Rate of an NDJSON import, sealing included, compared with DuckDB reading the same file in the same run.

DuckDB reads it to memory, to its own database on disk, and to a Parquet file for each day in the order of our segments,
without a sync, without deduplication and without daily states.

Usage: import.py ECHOPILOT [EVENTS] [--plain]      (from `make bench`)

With `--plain` the events have no ids, and two metadata keys.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import duckdb
import traffic

is_plain = traffic.take_plain()
program = os.path.abspath(sys.argv[1])
events = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000
ROUNDS = 5


def run(*arguments):
    """Runs a command; returns its seconds and its peak resident MB."""
    started = time.monotonic()
    child = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, arguments
    return time.monotonic() - started, used.ru_maxrss / 1024


def duckdb_runs(statement, database=":memory:"):
    """Runs a statement in DuckDB on two threads; returns the seconds until the database is closed."""
    started = time.monotonic()
    with duckdb.connect(database) as db:
        db.execute("set threads = 2")
        db.execute(statement)
    return time.monotonic() - started


def compare(folder, path, events):
    print(f"{events:,} events, {os.path.getsize(path) / 1e6:.0f} MB, {ROUNDS} rounds in turns, medians")
    lines = f"read_json('{path}', format = 'newline_delimited')"
    table = f"create table events as select * from {lines}"
    ours, to_memory, to_database, to_parquet = [], [], [], []
    for number in range(ROUNDS):
        ours.append(run("import", path, "--data-dir", os.path.join(folder, f"store{number}"))[0])
        to_memory.append(duckdb_runs(table))
        to_database.append(duckdb_runs(table, os.path.join(folder, f"database{number}")))
        to_parquet.append(
            duckdb_runs(f"""
            copy (select *, ts::date as dt from {lines} order by dt, user_id, ts)
            to '{os.path.join(folder, f"lake{number}")}' (format parquet, compression zstd, partition_by (dt))""")
        )
    print(f"  echopilot import (durable, sealed): {events / statistics.median(ours):,.0f} events/s")
    for name, theirs in [("to memory", to_memory), ("to its database", to_database), ("to Parquet by day", to_parquet)]:
        ratios = sorted(t / o for o, t in zip(ours, theirs, strict=True))
        print(
            f"  DuckDB {duckdb.__version__} read_json {name}: {events / statistics.median(theirs):,.0f} events/s; "
            f"ratio, round by round: {', '.join(f'{r:.2f}' for r in ratios)}"
        )


with tempfile.TemporaryDirectory(dir=".") as folder:
    made = os.path.join(folder, "made")
    run(
        "demo",
        "--data-dir",
        made,
        "--events",
        str(events),
        "--users",
        "200000",
        "--days",
        "300",
        *["--plain"] * is_plain,
    )
    lines = os.path.join(folder, "lines.ndjson")
    duckdb.execute("set timezone = 'UTC'")
    duckdb.execute(f"""
        copy (select strftime(ts, '%Y-%m-%dT%H:%M:%S.%fZ') as ts, event_type, user_id, feature,
                     metadata::json as metadata, url{"" if is_plain else ", event_id"}
              from read_parquet('{made}/events/*/*.parquet') order by read_parquet.ts) to '{lines}' (format json)""")
    compare(folder, lines, events)
