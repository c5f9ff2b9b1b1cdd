"""Queries of a year of 100 million events over HTTP; export, access and erasure.

Usage: queries.py ECHOPILOT [EVENTS] [--plain]      (from `make bench-queries`; default 100 million)

The history is that of `echopilot demo`: 365 days, up to 1 M users. BENCH_FOLDER keeps it. `peers.py` compares queries
with other engines.
"""

import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import duckdb
import traffic
from figures import FUNNEL, IS_VALUE

from server import ENVIRONMENT, Server

ROUNDS = 5
# Load during erasures: 20,000 events a second.
SENDERS = 8
SEND_EVERY = 0.04


class Loaded(Server):
    """A server that receives events meanwhile."""

    def __init__(self, program, folder, is_plain):
        super().__init__(program, folder)
        self.templates = traffic.templates(is_plain)

    def erase(self, users):
        """Erases users; returns the seconds, and the median, p99 and longest latency of ingest meanwhile, in ms."""
        stop, latencies = threading.Event(), []
        senders = [threading.Thread(target=self.send, args=(number, stop, latencies)) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        seconds, _ = self.ask("erasures", {"users": users})
        stop.set()
        for sender in senders:
            sender.join()
        latencies.sort()
        return seconds, [latencies[int((len(latencies) - 1) * share)] * 1e3 for share in (0.5, 0.99, 1)]

    def send(self, number, stop, latencies):
        """Sends batches of 100 events at a steady pace. Time counts from when a batch was due."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"))
        due = time.monotonic() + number * SEND_EVERY / SENDERS
        while not stop.is_set():
            time.sleep(max(0, due - time.monotonic()))
            body = traffic.body(self.templates, number)
            number += SENDERS
            connection.request("POST", "/api/analytics/event", body)
            response = connection.getresponse()
            body_read = response.read()
            assert response.status == 200, body_read
            latencies.append(time.monotonic() - due)
            due += SEND_EVERY
        connection.close()


def command(program, folder, *arguments):
    started = time.monotonic()
    done = subprocess.run([program, "--data-dir", folder, *arguments], env=ENVIRONMENT, capture_output=True, check=True)
    return time.monotonic() - started, done.stdout


def main(program, events, folder, is_plain):
    if not os.path.exists(folder):
        plain = ["--plain"] * is_plain
        command(program, folder, "demo", "--events", str(events), "--users", "1000000", "--days", "365", *plain)
    # Small segments are joined, as they are on a server that runs for a while.
    command(program, folder, "seal")
    lake = f"{folder}/events"
    last = max(name[3:] for name in os.listdir(lake))
    server = Server(program, folder)
    queries = [
        ("active users by day", {"metric": "active_users"}),
        ("lifecycle by day", {"metric": "lifecycle"}),
        ("stickiness", {"metric": "stickiness"}),
        ("retention by week", {"metric": "retention", "grain": "week"}),
        ("retention by day", {"metric": "retention"}),
        ("event types", {"metric": "event_types"}),
        ("feature usage", {"metric": "feature_usage"}),
        ("funnel of three features, 7 days", FUNNEL),
        ("feature usage with a metadata filter", {"metric": "feature_usage", **IS_VALUE}),
    ]
    print(f"{events:,} events, 365 days to {last}")
    for name, query in queries:
        times = [server.ask("query", {**query, "days": 365, "end": last})[0] for _ in range(ROUNDS)]
        median, first = statistics.median(times) * 1e3, times[0] * 1e3
        print(f"  {name}: median {median:,.0f} ms, first {first:,.0f} ms; peak {server.peak():,.0f} MB")
    server.stop()
    out = f"{folder}-export"
    seconds, _ = command(program, folder, "export", "--to", out)
    shutil.rmtree(out)
    print(f"  export: {events / seconds / 1e6:.1f} M events/s")
    copy = f"{folder}-copy"
    shutil.copytree(folder, copy)
    found = duckdb.sql(f"select distinct user_id from '{copy}/events/*/*.parquet' where user_id is not null order by 1")
    many = [user for (user,) in found.fetchall()]
    user = many[len(many) // 2]
    print(f"  access to one user: {command(program, copy, 'user', 'access', user)[0]:.1f} s")
    server = Loaded(program, copy, is_plain)
    for name, users in (
        ("one user", [user]),
        ("1,000 users", many[:: len(many) // 1_000][:1_000]),
    ):
        seconds, (median, p99, longest) = server.erase(users)
        latencies = f"p50 {median:.1f} ms, p99 {p99:.1f} ms, longest {longest:.0f} ms"
        print(f"  erasure of {name}: {seconds:.1f} s; 20,000 events/s meanwhile: {latencies}")
    server.stop()
    shutil.rmtree(copy)


is_plain = traffic.take_plain()
program = os.path.abspath(sys.argv[1])
events = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000_000
with tempfile.TemporaryDirectory(dir=".") as temporary:
    name = f"{events}-plain" if is_plain else str(events)
    main(program, events, os.path.join(os.environ.get("BENCH_FOLDER") or temporary, name), is_plain)
