"""Start of the server with events that wait to be sealed: time from the start of the process to the first response.

Usage: recovery.py ECHOPILOT [EVENTS] [--plain]      (from `make bench-recovery`; default 2 million)

A file in the place of the lake's folder fails every seal during ingest; then the server is killed. With `--plain`
the events have no ids. Prints the median of five starts, each of which is killed again.
"""

import http.client
import os
import statistics
import sys
import tempfile
import threading

import traffic
from hostile import ask

from server import Server

STARTS = 5
SENDERS = 4


def feed(port, templates, numbers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for number in numbers:
        body = traffic.body(templates, number)
        connection.request("POST", "/api/analytics/event", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status


def main():
    is_plain = traffic.take_plain()
    program = sys.argv[1]
    events = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000
    with tempfile.TemporaryDirectory(dir=".", prefix=".tmp-recovery-") as folder:
        server = Server(program, folder, "--limit-client-events", "0")
        blocker = os.path.join(folder, "events")
        open(blocker, "w").close()
        batches = range(events // traffic.BATCH)
        templates = traffic.templates(is_plain)
        threads = [
            threading.Thread(target=feed, args=(server.port, templates, batches[start::SENDERS]))
            for start in range(SENDERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.kill()
        os.remove(blocker)
        seconds, peak = [], []
        for _ in range(STARTS):
            server = Server(program, folder)
            seconds.append(server.start_seconds)
            peak.append(server.peak())
            server.kill()
        server = Server(program, folder)
        status, _, _ = ask(server, "/api/analytics/usage?days=2")
        assert status == 200, status
        server.stop()
    print(
        f"{events:,} waiting events: start {statistics.median(seconds):.2f} s "
        f"({min(seconds):.2f} to {max(seconds):.2f}), peak {statistics.median(peak):.0f} MB"
    )


if __name__ == "__main__":
    main()
