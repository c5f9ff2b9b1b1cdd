"""Ingest under load from clients that hold connections, with queries, rollups and erasures: lost events and latencies.

Usage: hold.py ECHOPILOT [EVENTS_PER_SECOND [SECONDS]] [--plain]      (from `make bench-hold`; default 1,667 for 600 s)

10,000 idle connections and 1,000 clients that send one byte a second, from twenty addresses of this machine, reconnect
when they are closed. Meanwhile events are sent at a steady rate in batches of 100, in an open loop: a late response
delays no other batch. With `--plain` they have no ids. Every acknowledged event must be stored at the end.
"""

import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import traffic

from server import KEY, Server

IDLE = 10_000
SLOW = 1_000
ADDRESSES = 20
CONNECTIONS = 64


async def connect(port, place):
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.1.{place % ADDRESSES + 1}", 0))


async def idle(port, place, open_now):
    while True:
        try:
            reader, writer = await connect(port, place)
            open_now[0] += 1
            try:
                await reader.read(1)
            finally:
                open_now[0] -= 1
                writer.close()
        except OSError:
            await asyncio.sleep(1)


async def slow(port, place):
    while True:
        try:
            reader, writer = await connect(port, place)
            writer.write(b"POST /api/analytics/event HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n")
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(1)
            writer.close()
        except OSError:
            await asyncio.sleep(1)


async def request(reader, writer, method, path, body=b"", key=False):
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += f"X-Dash-Key: {KEY}\r\n\r\n" if key else "\r\n"
    writer.write(head.encode() + body)
    status = int((await reader.readline()).split()[1])
    length = 0
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, await reader.readexactly(length)


class Pool:
    """A pool of connections for requests; a failed one is opened again."""

    def __init__(self, port, size):
        self.port = port
        self.free = asyncio.Queue()
        for _ in range(size):
            self.free.put_nowait(None)

    async def ask(self, *what, **how):
        pair = await self.free.get()
        try:
            for _ in range(2):
                try:
                    pair = pair or await asyncio.open_connection("127.0.0.1", self.port)
                    return await request(*pair, *what, **how)
                except (OSError, asyncio.IncompleteReadError, IndexError):
                    # The server closed an idle connection. Ids keep a second attempt from counting twice.
                    pair = None
            return 0, b""
        finally:
            self.free.put_nowait(pair)


async def hold(port):
    """Runs the clients that hold connections. Their process is another one, so that they do not delay the measured."""
    open_now = [0]
    held = [idle(port, place, open_now) for place in range(IDLE)]
    held += [slow(port, place) for place in range(SLOW)]
    tasks = [asyncio.create_task(one) for one in held]
    while open_now[0] < IDLE * 0.95:
        await asyncio.sleep(0.1)
    print(open_now[0], flush=True)
    await asyncio.gather(*tasks)


async def main(is_plain):
    program = sys.argv[1]
    rate = int(sys.argv[2]) if len(sys.argv) > 2 else 1_667
    seconds = int(sys.argv[3]) if len(sys.argv) > 3 else 600
    with tempfile.TemporaryDirectory(dir=".", prefix=".tmp-hold-") as folder:
        server = Server(program, folder, "--limit-client-events", "0", "--limit-connections", str(IDLE + SLOW + 1_000))
        idle_clients = subprocess.Popen(
            [sys.executable, __file__, "--hold", str(server.port)], stdout=subprocess.PIPE, text=True
        )
        idle_now = idle_clients.stdout.readline().strip()
        print(f"{idle_now} idle connections: {server.memory():.0f} MB", flush=True)

        templates = traffic.templates(is_plain)
        users = traffic.users(templates)
        pool, keyed = Pool(server.port, CONNECTIONS), Pool(server.port, 4)
        waits, usage, memory = [], {30: [], 365: []}, []
        counts = {"logged": 0, "duplicates": 0, "rejected": 0, "erased": 0, "erasures": 0, "rollups": 0}
        end = time.monotonic() + seconds

        async def send(number):
            body = traffic.body(templates, number)
            started = time.monotonic()
            status, response = await pool.ask("POST", "/api/analytics/event", body)
            waits.append(time.monotonic() - started)
            if status == 200:
                outcome = json.loads(response)
                counts["logged"] += outcome["logged"]
                counts["duplicates"] += outcome["duplicates"]
            else:
                counts["rejected"] += traffic.BATCH

        async def ask():
            number = 0
            while time.monotonic() < end:
                days = (30, 365)[number % 2]
                started = time.monotonic()
                status, _ = await keyed.ask("GET", f"/api/analytics/usage?days={days}", key=True)
                assert status == 200, status
                usage[days].append(time.monotonic() - started)
                memory.append(server.memory())
                number += 1
                await asyncio.sleep(1)

        async def jobs():
            number = 0
            while time.monotonic() < end:
                await asyncio.sleep(15)
                user = users[number % len(users)]
                status, response = await keyed.ask("DELETE", f"/api/analytics/users/{user}", key=True)
                assert status == 200, (status, response)
                counts["erased"] += json.loads(response)["events"]
                counts["erasures"] += 1
                status, _ = await keyed.ask("POST", "/api/analytics/rollup", key=True)
                assert status == 200, status
                counts["rollups"] += 1
                number += 1

        others = [asyncio.create_task(ask()), asyncio.create_task(jobs())]
        sends, number, started = set(), 0, time.monotonic()
        while time.monotonic() < end:
            due = int((time.monotonic() - started) * rate / traffic.BATCH)
            while number < due:
                task = asyncio.create_task(send(number))
                sends.add(task)
                task.add_done_callback(sends.discard)
                number += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*sends, *others)
        idle_clients.kill()
        idle_clients.wait()
        _, response = await keyed.ask("GET", "/api/analytics/usage?days=2", key=True)
        kept = json.loads(response)["total_events"]
        peak = server.peak()
        server.stop()
    expected = counts["logged"] - counts["erased"]

    def ms(values, share):
        return 1_000 * sorted(values)[min(int(len(values) * share), len(values) - 1)]

    print(f"offered {number * traffic.BATCH / seconds:,.0f}/s for {seconds} s; {counts}")
    print(f"kept {kept:,}, expected {expected:,}: lost {max(expected - kept, 0)}, twice {max(kept - expected, 0)}")
    print(f"ingest p50 {ms(waits, 0.5):.1f} ms, p99 {ms(waits, 0.99):.1f} ms, longest {1_000 * max(waits):.0f} ms")
    for days, found in usage.items():
        print(f"usage of {days} days p50 {ms(found, 0.5):.1f} ms, p99 {ms(found, 0.99):.1f} ms")
    print(f"memory median {statistics.median(memory):.0f} MB, peak {peak:.0f} MB")
    return 0 if kept == expected else 1


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if sys.argv[1] == "--hold":
        asyncio.run(hold(int(sys.argv[2])))
    sys.exit(asyncio.run(main(traffic.take_plain())))
