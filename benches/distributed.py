"""Every metric here and on Apache Spark with one and two workers of this machine: wall and CPU time.

Usage: distributed.py ECHOPILOT [EVENTS]      (from `make bench-distributed`; default 10,000,000)

The history is of 90 days, the window of 30. Each query is run twice on each side; the second time counts, and its
result must be equal. Of the cluster the CPU time is that of all of its processes.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/distributed"))

from cluster import Cluster
from run import same

DAYS = 30


def of_type(name):
    return {"event_type": name}


QUERIES = [
    {"metric": "active_users"},
    {"metric": "feature_usage"},
    {"metric": "event_types"},
    {"metric": "trends", "series": [{}, {"measure": "users"}], "breakdown": "feature"},
    {"metric": "trends", "series": [{"measure": "users", "filter": {"metadata.plan": "pro"}}]},
    {"metric": "sessions"},
    {"metric": "lifecycle", "grain": "week"},
    {"metric": "stickiness"},
    {"metric": "funnel", "steps": [of_type("page_view"), of_type("action"), of_type("conversion")], "within": "2d"},
    {"metric": "retention", "start": of_type("page_view"), "return": of_type("action")},
    {"metric": "paths", "depth": 3},
    {"metric": "experiment", "variant": "plan", "exposure": of_type("page_view"), "goal": of_type("conversion")},
    {"metric": "events"},
]


def ask(program, data, query, *options):
    """Returns the rows of a query, and the wall and CPU time of its process."""
    command = [program, "query", json.dumps(query | {"days": DAYS}), "--format", "json", "--data-dir", data, *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if found.returncode:
        sys.exit(f"{json.dumps(query)}: {found.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(found.stdout)["rows"], wall, cpu


def main():
    program = sys.argv[1]
    events = sys.argv[2] if len(sys.argv) > 2 else "10000000"
    with tempfile.TemporaryDirectory(dir=".", prefix=".tmp-distributed-") as folder:
        data = f"{folder}/data"
        history = ["--events", events, "--days", "90", "--users", "200000"]
        for command in (["demo", *history], ["seal"]):
            subprocess.run([program, *command, "--data-dir", data], check=True, capture_output=True)
        data = str(pathlib.Path(data).resolve())
        expected = []
        print(f"{events} events; seconds, wall and (CPU)\n{'query':44}{'here':>14}", flush=True)
        for query in QUERIES:
            ask(program, data, query)
            rows, wall, cpu = ask(program, data, query)
            expected.append(rows)
            print(f"{name_of(query):44}{wall:7.2f} ({cpu:.2f})", flush=True)
        for workers in (1, 2):
            place = pathlib.Path(folder).resolve() / f"spark-{workers}"
            place.mkdir()
            cluster = Cluster(place, workers)
            try:
                cluster.start()
                options = ["--engine", "spark", "--remote", cluster.connect("UTC")]
                print(f"{f'Spark, {workers} workers of one core':44}")
                for query, here in zip(QUERIES, expected, strict=True):
                    ask(program, data, query, *options)
                    before = cluster.cpu_seconds()
                    rows, wall, cpu = ask(program, data, query, *options)
                    cpu += cluster.cpu_seconds() - before
                    if not same(here, rows):
                        sys.exit(f"{json.dumps(query)} differs")
                    # The time of a process that ended meanwhile is gone.
                    shown = f"{cpu:.2f}" if cpu >= 0 else "a process ended"
                    print(f"{name_of(query):44}{wall:7.2f} ({shown})", flush=True)
            finally:
                cluster.end()


def name_of(query):
    return " ".join([query["metric"], *(name for name in query if name not in ("metric", "steps"))])[:42]


if __name__ == "__main__":
    main()
