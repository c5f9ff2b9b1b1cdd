"""The cost of publishing: ingest of a server with `--publish` into a folder and of one without, in turns.

Usage: publish.py ECHOPILOT [ROUNDS [SECONDS]]      (from `make bench-publish`; default 5 rounds of 20 s each)

Batches of 100 events are sent over 16 connections as fast as responses come, while the log is sealed each 5 s and each
seal is published. A round has both servers, one after the other, in alternating order; the ratios are of a round. The
CPU time is that of the server.
"""

import asyncio
import json
import pathlib
import statistics
import sys
import tempfile
import time

import hold
import traffic

from server import Server

CONNECTIONS = 16
SEAL_SECONDS = 5


async def load(port, seconds):
    """Sends batches; returns the number of accepted events."""
    templates = traffic.templates(False)
    pool, keyed = hold.Pool(port, CONNECTIONS), hold.Pool(port, 1)
    end = time.monotonic() + seconds
    numbers = iter(range(sys.maxsize))
    logged = 0

    async def send():
        nonlocal logged
        while time.monotonic() < end:
            body = traffic.body(templates, next(numbers))
            status, response = await pool.ask("POST", "/api/analytics/event", body)
            assert status == 200, (status, response)
            logged += json.loads(response)["logged"]

    async def seal():
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(SEAL_SECONDS, left))
            status, response = await keyed.ask("POST", "/api/analytics/seal", key=True)
            assert status in (200, 202), (status, response)

    await asyncio.gather(seal(), *(send() for _ in range(CONNECTIONS)))
    return logged


def measure(program, seconds, is_published):
    """Returns accepted events a second, and microseconds of CPU time an event."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".tmp-publish-") as folder:
        place = pathlib.Path(folder)
        options = ["--publish", str(place / "lake"), "--publish-every", "1"] if is_published else []
        server = Server(program, str(place / "data"), *options)
        before = server.cpu_seconds()
        started = time.monotonic()
        logged = asyncio.run(load(server.port, seconds))
        wall = time.monotonic() - started
        cpu = server.cpu_seconds() - before
        if is_published:
            # What is sealed must be on its way, or the comparison means nothing.
            _, status = server.ask("status")
            assert status["publication"]["version"] >= 1, status["publication"]
        server.stop()
    return logged / wall, cpu / logged * 1e6


def main():
    program = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    seconds = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    rates, costs = [], []
    for number in range(rounds):
        found = {}
        for is_published in (False, True) if number % 2 else (True, False):
            found[is_published] = measure(program, seconds, is_published)
        (plain, plain_cpu), (published, published_cpu) = found[False], found[True]
        rates.append(published / plain)
        costs.append(published_cpu / plain_cpu)
        print(
            f"round {number + 1}: {plain:,.0f} events/s and {plain_cpu:.2f} us an event without, "
            f"{published:,.0f} and {published_cpu:.2f} with --publish",
            flush=True,
        )
    print(f"events/s with --publish: {statistics.median(rates):.3f} times ({min(rates):.3f} to {max(rates):.3f})")
    print(f"CPU time an event: {statistics.median(costs):.3f} times ({min(costs):.3f} to {max(costs):.3f})")


if __name__ == "__main__":
    main()
