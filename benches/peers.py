"""Queries of a year, compared with DuckDB, ClickHouse and Polars on the same lake and cores in the same run.

Usage: peers.py ECHOPILOT [EVENTS]... [--only FIGURE,...] [--rounds N] [--plain]      (from `make bench-peers`)

The history is that of `echopilot demo`: 365 days, up to 1 M users; default 10 and 100 million events. The engines read
the lake, and where an expert would prepare something, also what was prepared: DuckDB tables of the users and counts of
each day, ClickHouse daily bitmaps of dense user ids. Each engine is a process of its own, ours a new server, one after
the other in rounds. The time is the median of three more queries if the first took less than a second, and that of the
first otherwise. All results must be equal. BENCH_FOLDER keeps the history; BENCH_GB limits the memory of an engine
(default 12).
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from figures import FIGURES, Window, ours

from server import ENVIRONMENT, Server

MODULES = ["peer_duckdb", "peer_clickhouse", "peer_polars"]
WARM_QUERIES = 3
LONG_SECONDS = 1
OURS = "EchoPilot"


def timed(ask, cpu_seconds):
    """Repeats a short query. Returns the seconds and CPU seconds of the first and of one of the others, and the result.

    The seconds are a median, the CPU seconds a mean: their clock has steps of 10 ms.
    """
    before = cpu_seconds()
    first, result = ask()
    found = {"first": first, "seconds": first, "cpu": cpu_seconds() - before, "result": result}
    if first < LONG_SECONDS:
        before = cpu_seconds()
        warm = [ask() for _ in range(WARM_QUERIES)]
        assert all(other == result for _, other in warm)
        found["cpu"] = (cpu_seconds() - before) / WARM_QUERIES
        found["seconds"] = statistics.median(seconds for seconds, _ in warm)
    return found


def engines():
    return {engine.name: engine for module in MODULES for engine in importlib.import_module(module).ENGINES}


def limit_memory():
    size = int(os.environ.get("BENCH_GB", "12")) << 30
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def as_peer(name, figure, folder):
    """Runs in a process of its own. Without a figure it prepares what the engine needs."""
    module = next(module for module in MODULES if module.removeprefix("peer_") == name.split(",")[0].lower())
    engine = next(engine for engine in importlib.import_module(module).ENGINES if engine.name == name)
    if figure == "prepare":
        started = time.monotonic()
        engine.prepare(Window(folder, "UTC"))
        found = {"seconds": time.monotonic() - started}
    else:
        query = FIGURES[figure]
        peer = engine(Window(folder, query.zone, query.days))

        def ask():
            started = time.monotonic()
            result = getattr(peer, query.function)(**query.options)
            return time.monotonic() - started, result

        found = timed(ask, time.process_time)
    print(json.dumps({**found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def run_peer(name, figure, folder):
    """Returns what the process of a peer found; `None` if it failed."""
    child = subprocess.run(
        [sys.executable, __file__, "--peer", name, figure, folder],
        capture_output=True,
        text=True,
        preexec_fn=limit_memory,
    )
    if child.returncode:
        print(f"  {name}: no result: {child.returncode}, {child.stderr.strip().splitlines()[-1:]}", flush=True)
        return None
    return json.loads(child.stdout.splitlines()[-1])


def run_ours(program, figure, folder):
    window = Window(folder, FIGURES[figure].zone, FIGURES[figure].days)
    server = Server(program, folder)
    try:
        found = timed(lambda: ours(figure, window, server), server.cpu_seconds)
        return {**json.loads(json.dumps(found)), "peak": server.peak(), "start": server.start_seconds}
    finally:
        server.stop()


def folder_bytes(path):
    return sum(os.path.getsize(os.path.join(root, file)) for root, _, files in os.walk(path) for file in files)


def prepare(program, folder, events, is_plain):
    if not os.path.exists(folder):
        started = time.monotonic()
        demo = ["demo", "--events", str(events), "--users", "1000000", "--days", "365", *["--plain"] * is_plain]
        for command in (demo, ["seal"]):
            subprocess.run([program, *command, "--data-dir", folder], env=ENVIRONMENT, capture_output=True, check=True)
        print(f"\n{events:,} events, made in {time.monotonic() - started:,.0f} s", flush=True)
    parts = {name: folder_bytes(f"{folder}/{name}") for name in ("events", "states", "columns", "ids")}
    sizes = ", ".join(f"{name} {size / events:.1f}" for name, size in parts.items())
    print(f"\n{events:,} events; bytes an event: {sizes}; all {folder_bytes(folder) / 1e6:,.0f} MB", flush=True)
    os.makedirs(f"{folder}-prepared", exist_ok=True)
    for name, engine in engines().items():
        if hasattr(engine, "prepare"):
            before = folder_bytes(f"{folder}-prepared")
            found = run_peer(name, "prepare", folder)
            if found:
                size = folder_bytes(f"{folder}-prepared") - before
                print(f"  {name}: {found['seconds']:.1f} s, {size / 1e6:,.0f} MB, peak {found['peak']:,.0f} MB")


def at_rest(program, folder, rounds):
    """Prints the time and memory of a start, and the memory of a server at rest after a first response."""
    starts, peaks, rests, firsts = [], [], [], []
    for _ in range(rounds):
        server = Server(program, folder)
        starts.append(server.start_seconds)
        peaks.append(server.peak())
        firsts.append(ours("usage", Window(folder, "UTC"), server)[0])
        rests.append(server.memory())
        server.stop()
    start, peak, rest, first = (statistics.median(values) for values in (starts, peaks, rests, firsts))
    print(
        f"  start {start:.2f} s, peak {peak:.0f} MB; first usage of a year {first * 1e3:.0f} ms, "
        f"then {rest:.0f} MB at rest",
        flush=True,
    )


def compare(program, figure, folder, rounds):
    query = FIGURES[figure]
    print(f"\n  {query.title} ({figure})", flush=True)
    names = [
        name
        for name, engine in engines().items()
        if query.function in getattr(engine, "functions", [query.function])
        and not (query.options.get("filtered") and hasattr(engine, "functions"))
    ]
    found = {OURS: [], **{name: [] for name in names}}
    for _ in range(rounds):
        mine = run_ours(program, figure, folder)
        found[OURS].append(mine)
        for name in list(names):
            theirs = run_peer(name, figure, folder)
            if theirs is None:
                names.remove(name)
                found.pop(name)
                continue
            if theirs["result"] != mine["result"]:
                raise SystemExit(f"{name} differs: {str(theirs['result'])[:300]} and {str(mine['result'])[:300]}")
            found[name].append(theirs)
    for name, of_engine in found.items():
        seconds = sorted(one["seconds"] for one in of_engine)
        first = statistics.median(one["first"] for one in of_engine)
        cpu = statistics.median(one["cpu"] for one in of_engine)
        peak = max(one["peak"] for one in of_engine)
        pairs = zip(of_engine, found[OURS], strict=True)
        ratios = sorted(theirs["seconds"] / mine["seconds"] for theirs, mine in pairs)
        print(
            f"    {name}: {shown(statistics.median(seconds))} ({shown(seconds[0])} to {shown(seconds[-1])}), "
            f"CPU {shown(cpu)}, first {shown(first)}, peak {peak:,.0f} MB; "
            f"times ours {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def shown(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("events", type=int, nargs="*", default=[10_000_000, 100_000_000])
    parser.add_argument("--only", default=",".join(FIGURES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    program = os.path.abspath(arguments.program)
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        for events in arguments.events:
            folder = os.path.abspath(os.path.join(os.environ.get("BENCH_FOLDER") or temporary, str(events)))
            folder += "-plain" * arguments.plain
            prepare(program, folder, events, arguments.plain)
            at_rest(program, folder, arguments.rounds)
            for figure in arguments.only.split(","):
                compare(program, figure, folder, arguments.rounds)


if sys.argv[1:2] == ["--peer"]:
    as_peer(*sys.argv[2:])
else:
    main()
