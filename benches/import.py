"""Import of NDJSON, sealing included, beside DuckDB reading the same file to memory in the same run.

Usage: import.py ECHOPILOT [EVENTS]      (from `make bench`)
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import duckdb

program = os.path.abspath(sys.argv[1])
events = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000
ROUNDS = 5


def run(*arguments):
    """Seconds and peak resident MB of one command."""
    started = time.monotonic()
    child = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, arguments
    return time.monotonic() - started, used.ru_maxrss / 1024


def duckdb_read(path):
    started = time.monotonic()
    db = duckdb.connect()
    db.execute("set threads = 2")
    db.execute(f"create table events as select * from read_json('{path}', format = 'newline_delimited')")
    assert db.execute("select count(*) from events").fetchone()[0] > 0
    return time.monotonic() - started


def compare(folder, path, events):
    print(f"{events:,} events, {os.path.getsize(path) / 1e6:.0f} MB, {ROUNDS} rounds in turns, medians")
    ours, theirs = [], []
    for number in range(ROUNDS):
        ours.append(run("import", path, "--data-dir", os.path.join(folder, f"store{number}"))[0])
        theirs.append(duckdb_read(path))
    print(f"  echopilot import (durable, sealed): {events / statistics.median(ours):,.0f} events/s")
    print(f"  DuckDB {duckdb.__version__} read_json:   {events / statistics.median(theirs):,.0f} events/s")
    ratios = sorted(t / o for o, t in zip(ours, theirs))
    print(f"  ratio, round by round: {', '.join(f'{r:.2f}' for r in ratios)}")


with tempfile.TemporaryDirectory(dir=".") as folder:
    made = os.path.join(folder, "made")
    run("demo", "--data-dir", made, "--events", str(events), "--users", "200000", "--days", "300")
    lines = os.path.join(folder, "lines.ndjson")
    duckdb.execute("set timezone = 'UTC'")
    duckdb.execute(f"""
        copy (select strftime(ts, '%Y-%m-%dT%H:%M:%S.%fZ') as ts, event_type, user_id, feature, metadata::json as metadata, url
              from read_parquet('{made}/events/*/*.parquet') order by read_parquet.ts) to '{lines}' (format json)""")
    compare(folder, lines, events)
