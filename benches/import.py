"""Import of NDJSON and usage over a large log, beside DuckDB reading the same file in the same run.

Usage: import.py ECHOPILOT [EVENTS]      (from `make bench`)
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import duckdb

program = os.path.abspath(sys.argv[1])
events = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000
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


def compare(folder, name, path, events):
    print(f"{name}: {events:,} events, {os.path.getsize(path) / 1e6:.0f} MB, {ROUNDS} rounds in turns, medians")
    ours, theirs = [], []
    for number in range(ROUNDS):
        store = os.path.join(folder, f"store{number}")
        ours.append(run("import", path, "--data-dir", store)[0])
        subprocess.run(["rm", "-rf", store], check=True)
        theirs.append(duckdb_read(path))
    print(f"  echopilot import (durable): {events / statistics.median(ours):,.0f} events/s")
    print(f"  DuckDB {duckdb.__version__} read_json:   {events / statistics.median(theirs):,.0f} events/s")
    ratios = sorted(t / o for o, t in zip(ours, theirs))
    print(f"  ratio, round by round: {', '.join(f'{r:.2f}' for r in ratios)}")


with tempfile.TemporaryDirectory(dir=".") as folder:
    made = os.path.join(folder, "made")
    run("demo", "--data-dir", made, "--events", str(events // 5), "--users", "200000", "--days", "300")
    lines = os.path.join(made, "analytics_events.ndjson")
    foreign = os.path.join(folder, "foreign.ndjson")
    with open(lines) as log, open(foreign, "w") as out:
        out.writelines(line[: line.index(',"received_at"')] + "}\n" for line in log)
    for name, path in [("an event log", lines), ("NDJSON of another program", foreign)]:
        compare(folder, name, path, events // 5)
    subprocess.run(["rm", "-rf", made], check=True)

    large = os.path.join(folder, "large")
    run("demo", "--data-dir", large, "--events", str(events), "--users", "1000000", "--days", "365")
    seconds, peak = run("usage", "--data-dir", large, "--days", "365")
    print(f"\nusage of 365 days over {events:,} events in the log, reading the log first: "
          f"{seconds:.1f} s, peak {peak:.0f} MB")
