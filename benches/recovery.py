"""Start with events that wait to be sealed: from the start of the process to the first answer.

Usage: recovery.py ECHOPILOT [EVENTS]      (from `make bench-recovery`; default 2 million)

The lake's folder is kept from being made while the server is fed, so that no seal ends; then the server is killed. Events are
as clients send them, with ids, URLs and metadata. The median of five starts, each killed again.
"""

import os
import statistics
import sys
import tempfile
import threading

from hold import BATCH, template
from hostile import ask
from server import Server

STARTS = 5
SENDERS = 4


def feed(port, numbers):
    import http.client

    templates = [template(number) for number in range(50)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for number in numbers:
        body = templates[number % len(templates)].replace(b"@@@@@@@@", b"%08x" % number)
        connection.request("POST", "/api/analytics/event", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status


def main():
    program = sys.argv[1]
    events = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000
    with tempfile.TemporaryDirectory(dir=".", prefix=".tmp-recovery-") as folder:
        server = Server(program, folder, "--limit-client-events", "0")
        blocker = os.path.join(folder, "events")
        open(blocker, "w").close()
        batches = range(events // BATCH)
        threads = [
            threading.Thread(target=feed, args=(server.port, batches[start::SENDERS])) for start in range(SENDERS)
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
