"""Memory of the server under hostile clients: unread responses, and millions of distinct users, features and event ids.

Usage: hostile.py ECHOPILOT [SCALE]      (from `make bench-hostile`; SCALE 1 is 5 M users, 1 M features, 5 M ids)

Each kind of name has its own server and folder. "features of a year" spreads the features over the 365 days that are
kept, below the limit of a day. Prints for each kind the rate, the server's memory after ingest and after queries, the
size of the responses to usage and feature usage, and the time and memory of the next start until its first response.
"""

import contextlib
import http.client
import json
import socket
import sys
import tempfile
import threading
import time

from server import KEY, Server

BATCH = 100
SENDERS = 4
DAY_SECONDS = 86_400


def user(number, _):
    return f'{{"event_type":"action","user_id":"user-{number:031d}","feature":"page"}}'


def feature(number, _):
    return f'{{"event_type":"action","user_id":"u{number % 1000}","feature":"{number:0200d}"}}'


def feature_of_a_year(number, now):
    ts = int(now) - (number % 364 + 1) * DAY_SECONDS
    return f'{{"event_type":"action","user_id":"u{number % 1000}","feature":"{number:0200d}","ts":{ts}}}'


def event_id(number, _):
    return f'{{"event_type":"action","user_id":"u{number % 1000}","feature":"page","event_id":"{number:036d}"}}'


KINDS = {
    "users": (user, 5_000_000),
    "features": (feature, 1_000_000),
    "features of a year": (feature_of_a_year, 1_000_000),
    "event ids": (event_id, 5_000_000),
}


def send(server, make, numbers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    now = time.time()
    for start in range(numbers.start, numbers.stop, BATCH):
        events = ",".join(make(number, now) for number in range(start, min(start + BATCH, numbers.stop)))
        while True:
            connection.request(
                "POST", "/api/analytics/event", f'{{"events":[{events}]}}', {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                break
            time.sleep(float(response.headers.get("Retry-After", 1)))


def ask(server, path, body=None):
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    headers = {"X-Dash-Key": KEY, "Content-Type": "application/json"}
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    size = len(response.read())
    return response.status, size, time.monotonic() - started


def query_all(server):
    found = {}
    for name, path, body in [
        ("usage of 30 days", "/api/analytics/usage?days=30", None),
        ("usage of a year", "/api/analytics/usage?days=365", None),
        ("usage of a year in a zone", "/api/analytics/usage?days=365&tz=Europe/Berlin", None),
        ("feature usage", "/api/analytics/query", {"metric": "feature_usage", "days": 365}),
    ]:
        status, size, seconds = ask(server, path, body)
        found[name] = f"{status}, {size / 1e6:.2f} MB, {seconds:.2f} s"
    return found


def unread(program):
    """Runs 200 clients that pipeline 700 requests each and read nothing, and measures how long another client waits."""
    requests = b"GET /static/charts.js HTTP/1.1\r\nHost: a\r\n\r\n" * 700
    with tempfile.TemporaryDirectory(dir=".", prefix=".tmp-hostile-") as folder:
        server = Server(program, folder)
        clients, longest = [], 0
        for _ in range(200):
            client = socket.create_connection(("127.0.0.1", server.port))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.send(requests)
            clients.append(client)
            status, _, seconds = ask(server, "/api/analytics/usage?days=1")
            assert status == 200, status
            longest = max(longest, seconds)
        peak = server.peak()
        server.stop()
    print(
        f"200 clients that read nothing: peak {peak:.0f} MB, another client waits {1_000 * longest:.0f} ms at most",
        flush=True,
    )


def main():
    program = sys.argv[1]
    unread(program)
    scale = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    options = ["--limit-client-events", "0"]
    for kind, (make, count) in KINDS.items():
        count = int(count * scale)
        with tempfile.TemporaryDirectory(dir=".", prefix=".tmp-hostile-") as folder:
            server = Server(program, folder, *options)
            started = time.monotonic()
            step = -(-count // SENDERS)
            parts = [range(start, min(start + step, count)) for start in range(0, count, step)]
            threads = [threading.Thread(target=send, args=(server, make, part)) for part in parts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = count / (time.monotonic() - started)
            fed = server.peak()
            responses = query_all(server)
            queried = server.peak()
            server.stop()
            started = time.monotonic()
            server = Server(program, folder, *options)
            ask(server, "/api/analytics/usage?days=365")
            start = time.monotonic() - started
            again = server.peak()
            server.stop()
        print(
            f"{kind}: {count:,} events, {rate:,.0f}/s; peak {fed:.0f} MB after ingest, {queried:.0f} MB after queries"
        )
        for name, response in responses.items():
            print(f"    {name}: {response}")
        print(f"    next start to first response: {start:.1f} s, peak {again:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
