"""Usage of a year with a million users who have an alias each, before and after the night.

Usage: links.py ECHOPILOT [USERS]

Each user has two page views of a visitor and an action after the log-in, on days of the year. The links come last, so
that they change all days. Before the night each query follows ten new links.
"""

import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from server import ENVIRONMENT, Server

DAYS = 365
BATCH = 1_000
QUERIES = 200
NEW_LINKS = 10
BARS_MS = {"before the night": 250, "after the night": 25}


def events(users, today):
    """Yields the events of a year as messages of Segment, without identity calls."""
    choose = random.Random(7)
    for user in range(users):
        for kind in ("page", "page", "track"):
            day = today - datetime.timedelta(days=choose.randrange(DAYS - 1) + 1)
            message = {"type": kind, "timestamp": f"{day}T{choose.randrange(24):02}:00:00Z"}
            if kind == "page":
                message |= {"anonymousId": f"visitor-{user}", "properties": {"path": "/", "url": "https://a.example/"}}
            else:
                message |= {"userId": f"user-{user}", "event": "used"}
            yield message


def call(user, today):
    ids = {"anonymousId": f"visitor-{user}", "userId": f"user-{user}"}
    return {"type": "identify", **ids, "timestamp": f"{today}T00:00:01Z"}


def main():
    program, users = sys.argv[1], int([*sys.argv[2:], "1000000"][0])
    today = datetime.datetime.now(datetime.UTC).date()
    # Users and aliases are new on one day. The command and the server read it.
    os.environ["ECHOPILOT_LIMIT_NEW_USERS"] = ENVIRONMENT["ECHOPILOT_LIMIT_NEW_USERS"] = str(4 * users)
    times = {"before the night": [], "after the night": []}
    with tempfile.TemporaryDirectory() as folder:
        history, data = f"{folder}/history.ndjson", f"{folder}/data"
        with open(history, "w") as out:
            for message in events(users, today):
                out.write(json.dumps(message) + "\n")
        run = [program, "import", "--data-dir", data, "--from", "segment", history]
        subprocess.run(run, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        os.remove(history)
        server = Server(program, data)

        def link(numbers):
            body = json.dumps({"batch": [call(user, today) for user in numbers]}).encode()
            urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/batch", body)).read()

        def usage():
            seconds, answer = server.ask(f"usage?days={DAYS}")
            return seconds * 1e3, answer["mau"]

        _, unlinked = usage()
        kept = NEW_LINKS * QUERIES
        for start in range(0, users - kept, BATCH):
            link(range(start, min(start + BATCH, users - kept)))
        first, mau = usage()
        print(f"{unlinked} users without links, {mau} with {users - kept}; the first query took {first:.0f} ms")
        for query in range(QUERIES):
            start = users - kept + query * NEW_LINKS
            link(range(start, start + NEW_LINKS))
            times["before the night"].append(usage()[0])
        job = server.ask("seal", {})[1]["id"]
        while server.ask(f"jobs/{job}")[1]["state"] in ("queued", "running"):
            time.sleep(0.2)
        usage()
        for _ in range(QUERIES):
            elapsed, mau = usage()
            times["after the night"].append(elapsed)
        print(f"{server.memory():.0f} MB of memory")
        server.stop()
        if mau != users:
            sys.exit(f"{mau} users of {users}")
    failed = False
    for name, bar in BARS_MS.items():
        p50, p95 = statistics.median(times[name]), statistics.quantiles(times[name], n=20)[-1]
        print(f"usage of a year, {users} users and aliases, {name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms of {bar} ms")
        failed |= p95 > bar
    sys.exit(failed)


if __name__ == "__main__":
    main()
