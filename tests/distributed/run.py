"""Every metric on a real cluster of Apache Spark on this machine, compared with the embedded engine.

Usage: run.py ECHOPILOT [--quick]

Starts a master, two worker processes and a Spark Connect server on the loopback, all of which it ends. Over a synthetic
history and a random one with hostile names it runs `echopilot engine check` and random queries, with the session zones
UTC and Pacific/Apia, and kills a worker during a query. Needs Java 17 or newer and the package pyspark. Exit codes: 0
equal, 1 different or failed.
"""

import argparse
import datetime
import json
import math
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from cluster import Cluster

HOSTILE = [
    "home",
    "cart",
    'it\'s "quoted"',
    "\\' OR 1=1 -- ",
    "検索 ünï",
    "a:b $c @d {e} ?f",
    "line\nend",
    "Cart",
    "10.0",
]
# Calls that link ids of the users; those after the first contradict it.
LINKS = [
    (f"{name}-{alias}", f"{name}-{alias + 20 + more}") for more in (0, 1) for name in HOSTILE for alias in (1, 2, 5)
]
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu"]


def hostile_events(count, days, seed):
    """Yields lines of events with hostile names and ties of every kind."""
    rng = random.Random(seed)
    now = int(time.time()) // 900 * 900
    for number in range(count):
        user = rng.randrange(40)
        event = {
            "ts": now - rng.randrange(1, days * 96) * 900,
            "event_type": rng.choice(["page_view", "action", "action", "conversion"]),
            "user_id": f"{rng.choice(HOSTILE)}-{user}" if user else None,
            "feature": rng.choice([*HOSTILE, None]),
            "url": rng.choice([None, "/" + rng.choice(HOSTILE)]),
            "metadata": rng.choice(
                [
                    {},
                    {
                        "plan": rng.choice(["free", "pro", "it's", "", "10.0", None, True]),
                        "amount": rng.choice([0, 7, -3, 2.5, 12.25, 0.05, "12", "1e1", 9007199254740993]),
                        "in it": {"plan": "other"},
                    },
                ]
            ),
            "event_id": f"id-{number}",
        }
        yield json.dumps({name: value for name, value in event.items() if value is not None})


def identity_calls():
    """Yields lines of messages of Segment that say that two ids are of one user."""
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    for number, (alias, user) in enumerate(LINKS):
        ts = now + datetime.timedelta(seconds=number)
        yield json.dumps({"type": "identify", "anonymousId": alias, "userId": user, "timestamp": ts.isoformat()})


def queries(seed):
    """Returns a random query of each metric."""
    rng = random.Random(seed)

    def grain():
        return rng.choice(["day", "week", "month"])

    def condition():
        name = rng.choice(HOSTILE)
        return rng.choice(
            [
                name,
                [name, "none"],
                {"contains": name[1:4]},
                {"prefix": name[:2]},
                {"suffix": name[-2:]},
                {"not": name},
                {"contains": name[1:4].upper(), "ignore_case": True},
                {"matches": rng.choice(["^[a-z]+$", "(?i)CART|検", "[0-9]\\.", "^.{2,5}$", "e|\\$"])},
                {"above": 5},
            ]
        )

    def of_metadata():
        return rng.choice(
            [
                {"metadata.plan": rng.choice(["pro", "it's", "true", "other", ""])},
                {"metadata.plan": {"not": ["pro", "free"]}},
                {"metadata.plan": {"exists": rng.choice([True, False])}},
                {"metadata.amount": [7, 2.5, "12", 10]},
                {"metadata.amount": {"min": -3, "below": 12.25}},
                {"metadata.amount": {"not": {"above": 2.5}}},
                {"metadata.plan": {"matches": "^(PRO|f)", "ignore_case": True}},
            ]
        )

    def where():
        return rng.choice(
            [
                {},
                {"feature": condition()},
                {"url": condition()},
                {"any": [{"feature": condition()}, {"event_type": "conversion"}]},
                {"not": {"feature": condition(), "url": {"exists": True}}},
                of_metadata(),
                {"any": [of_metadata(), {"feature": condition()}]},
            ]
        )

    metrics = [
        {"metric": "active_users", "grain": grain()},
        {"metric": "feature_usage", "limit": 5},
        {"metric": "event_types"},
        {"metric": "trends", "grain": grain(), "breakdown": "feature", "limit": 3, "series": [{"filter": where()}]},
        {"metric": "trends", "grain": "hour", "days": 2, "compare": "previous", "series": [{"filter": of_metadata()}]},
        {
            "metric": "trends",
            "grain": grain(),
            "rolling": 3,
            "compare": "previous",
            "breakdown": "metadata.plan",
            "limit": 2,
            "series": [{"measure": "users"}, {"filter": where()}],
        },
        {"metric": "feature_usage", "limit": 5, "breakdown": rng.choice(["metadata.plan", "url", "event_type"])},
        {"metric": "sessions", "grain": grain()},
        {"metric": "lifecycle", "grain": grain()},
        {"metric": "stickiness", "grain": grain()},
        {"metric": "funnel", "within": "5d", "steps": [{"feature": name} for name in rng.sample(HOSTILE, 4)]},
        {"metric": "retention", "grain": grain(), "ever": True, "returning": "on_or_after", "start": where()},
        {"metric": "paths", "depth": 3, "start": where()},
        {"metric": "experiment", "variant": "plan", "exposure": {"event_type": "page_view"}, "goal": where()},
        {"metric": "events", "limit": 50},
    ]
    yesterday = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
    for query in metrics:
        window = {"tz": rng.choice(ZONES), "days": rng.choice([2, 9, 40]), "end": str(yesterday)}
        cohort = rng.choice([{}, {"cohort": "fans"}, {"cohort": {"not": "paying"}}])
        yield window | query | {"filter": where() | cohort}


COHORTS = [
    {"name": "fans", "did": {"filter": {"feature": ["home", "Cart"]}, "at_least": 3}},
    {"name": "paying", "last": {"property": "metadata.plan", "is": ["pro", "it's"]}},
]


def same(ours, theirs):
    if isinstance(ours, float) or isinstance(theirs, float):
        return ours is not None and theirs is not None and math.isclose(ours, theirs, rel_tol=1e-12)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)
    return ours == theirs


def answer(program, data, query, *options):
    command = [program, "query", json.dumps(query), "--format", "json", "--data-dir", str(data), *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(f"{json.dumps(query)}: {found.stderr}")
    found = json.loads(found.stdout)
    for name in ("ts", "engine", "version", "sealed_through", "files"):
        found.pop(name, None)
    return found


def compare(program, data, query, remote):
    ours = answer(program, data, query)
    theirs = answer(program, data, query, "--engine", "spark", "--remote", remote)
    if not same(ours, theirs):
        sys.exit(f"{json.dumps(query)} differs:\nhere {json.dumps(ours)}\non the cluster {json.dumps(theirs)}")


def check(program, data, remote, days):
    command = [program, "engine", "check", "--remote", remote, "--days", str(days), "--data-dir", str(data)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    print(found.stdout, found.stderr, flush=True)
    if found.returncode:
        sys.exit("engine check found a difference")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--quick", action="store_true", help="one zone and one round of random queries")
    arguments = parser.parse_args()
    if not shutil.which("java"):
        sys.exit("There is no java: install openjdk-17-jre-headless")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="echopilot-distributed-") as folder:
        folder = pathlib.Path(folder)
        hostile, demo = folder / "hostile", folder / "demo"
        (folder / "events.ndjson").write_text("\n".join(hostile_events(4_000, 50, 1)))
        (folder / "calls.ndjson").write_text("\n".join(identity_calls()))
        for command in (
            ["import", str(folder / "events.ndjson"), "--data-dir", str(hostile)],
            ["import", "--from", "segment", str(folder / "calls.ndjson"), "--data-dir", str(hostile)],
            ["demo", "--events", "30000", "--days", "60", "--users", "800", "--data-dir", str(demo)],
        ):
            subprocess.run([arguments.program, *command], check=True, capture_output=True)
        for cohort in COHORTS:
            command = ["cohort", "set", json.dumps(cohort), "--data-dir", str(hostile)]
            subprocess.run([arguments.program, *command], check=True, capture_output=True)
        cluster = Cluster(folder)
        try:
            cluster.start()
            for zone in ["UTC"] if arguments.quick else ["UTC", "Pacific/Apia"]:
                remote = cluster.connect(zone)
                print(f"{time.monotonic() - started:.0f} s: Spark Connect with the session zone {zone}", flush=True)
                check(arguments.program, demo, remote, 30)
                for query in queries(zone):
                    compare(arguments.program, hostile, query, remote)
                print(f"{time.monotonic() - started:.0f} s: random queries are equal", flush=True)
            paths = {"metric": "paths", "depth": 5, "days": 60}
            expected = answer(arguments.program, demo, paths)
            options = ["--engine", "spark", "--remote", remote]
            command = [
                arguments.program,
                "query",
                json.dumps(paths),
                "--format",
                "json",
                "--data-dir",
                str(demo),
                *options,
            ]
            connect = cluster.processes["connect"]
            before = len(connect.lines)
            running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            connect.wait_for("Starting task", before)
            is_in_the_middle = running.poll() is None
            cluster.stop("worker-1")
            found = json.loads(running.communicate()[0])
            for name in ("ts", "engine", "version", "sealed_through", "files"):
                found.pop(name, None)
            expected.pop("ts", None)
            if not is_in_the_middle or not same(expected, found):
                sys.exit(f"a query with a lost worker: running then {is_in_the_middle}, equal {same(expected, found)}")
            compare(arguments.program, demo, paths, remote)
            print(
                f"{time.monotonic() - started:.0f} s: equal while a worker was killed, and on the other one", flush=True
            )
        except SystemExit:
            print((folder / "connect.log").read_text()[-5000:], file=sys.stderr)
            raise
        finally:
            cluster.end()


if __name__ == "__main__":
    main()
