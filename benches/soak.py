"""Soak: believable traffic with everything on, and every number compared with a model. Nothing may be lost or double.

Usage: soak.py ECHOPILOT [SECONDS]      (from `make soak`; default 3,600; SOAK_RATE events per second, default 2,000)

Two senders post batches as the browser client does, with late, repeated, invalid, anonymous and expired events; some
batches are sent again later. Meanwhile every metric is queried, live events are read, users are erased, a cohort
changes, and rollups are written. In the first half of the time the server is killed, stopped and maintained in turns;
in the second half one process runs, whose memory and descriptors must stay flat.

The model is a table of DuckDB with every event that must be stored. When the senders pause, usage and all nine metrics
(by the SQL in `queries/`), in UTC and in a reporting zone, those of a cohort, the rollup lines and each event of an
export are compared with it. Exit code 1 if anything differs.
"""

import contextlib
import datetime
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
from collections import Counter, deque
from pathlib import Path

import duckdb
import pyarrow

# Before the folder of this file, which has another module `queries`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "oracle"))

import traffic

import queries
from server import ENVIRONMENT, KEY, Server

ZONE = "Europe/Berlin"
ENVIRONMENT["ECHOPILOT_ZONES"] = f"UTC,{ZONE}"
SENDERS = 2
SUBSCRIBERS = 2
# Days by which a late event is late at most, and the window that has all events.
LATE_DAYS = 40
WINDOW_DAYS = 45
LATE_SHARE = 0.05
# Share of the sessions of users who are erased later, and how many of them there are at a time.
LEAVER_SHARE = 0.03
LEAVERS = 5
# One of so many batches is sent again later, and one of so many has an event that is too old.
AGAIN = 10
EXPIRED = 20
DAY_SECONDS = 86_400
INVALID = [
    ({"event_type": "tap"}, "bad_event_type"),
    ({"event_type": "action", "ts": "yesterday"}, "bad_ts"),
    ({"event_type": "action", "ts": time.time() + 90 * DAY_SECONDS}, "future_ts"),
    ({"event_type": "action", "user_id": {"id": 1}}, "bad_user_id"),
    (7, "bad_event"),
]
# The requests of the SQL in `queries/`, with names of the traffic.
STEPS = [{"feature": f"feature-{number}"} for number in (1, 2, 3)]
REQUESTS = {
    "active_users": {},
    "event_types": {},
    "experiment": {"exposure": STEPS[0], "variant": "platform", "goal": {"event_type": "conversion"}, "control": "web"},
    "feature_usage": {"limit": 50},
    "funnel": {"steps": STEPS, "within": "7d"},
    "lifecycle": {},
    "paths": {"start": STEPS[0], "limit": 50},
    "retention": {"start": STEPS[0], "return": STEPS[1]},
    "stickiness": {},
}
# Bounds of the process that runs in the second half, between its first and its last checks.
MAX_MB_PER_MILLION_EVENTS = 60
MAX_MORE_DESCRIPTORS = 16
# With fewer events in this process, growth is that of caches and of the first use of everything.
EVENTS_OF_GROWTH = 1_000_000


class Model:
    """Every event that the server must have, and its numbers."""

    def __init__(self):
        self.db = duckdb.connect()
        self.db.execute("set threads = 2")
        self.db.execute(
            "create table stored (event_id varchar, ts_us bigint, user_id varchar, feature varchar,"
            " event_type varchar, variant varchar, day_utc date, day_zone date)"
        )
        self.db.execute("create table numbers as select range as number from range(366)")
        self.lock = threading.Lock()
        self.new = []

    def add(self, rows):
        with self.lock:
            self.new += rows

    def flush(self):
        with self.lock:
            rows, self.new = self.new, []
        if rows:
            names = ("event_id", "ts_us", "user_id", "feature", "event_type", "variant")
            columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
            self.db.register("rows", pyarrow.table(columns))
            self.db.execute(
                "insert into stored select *, cast(make_timestamp(ts_us) as date),"
                " cast(timezone(?, make_timestamptz(ts_us)) as date) from rows",
                [ZONE],
            )
            self.db.unregister("rows")

    def erase(self, user):
        """Removes a user, who sends nothing any more; returns the number of events."""
        self.flush()
        return self.db.execute("delete from stored where user_id = ?", [user]).fetchall()[0][0]

    def count(self, user):
        self.flush()
        return self.number("select count(*) from stored where user_id = ?", [user])

    def look(self, tz, users=None):
        """Makes the view of the queries: days of a zone, and the events of all users or of some."""
        condition = ""
        if users is not None:
            names = ", ".join("'" + user.replace("'", "''") + "'" for user in users)
            condition = f"where user_id in ({names})"
        column = {"UTC": "day_utc", ZONE: "day_zone"}[tz]
        self.db.execute(
            f"""create or replace view events as
            select *, {column} as day, 0 as position,
                date_diff('day', date '1970-01-01', {column}) as day_num,
                date_diff('day', date '1970-01-01', {column})
                    - (date_diff('day', date '1970-01-01', {column}) + 3) % 7 as week_num
            from stored {condition}"""
        )

    def number(self, sql, values=()):
        return self.db.execute(sql, list(values)).fetchall()[0][0]

    def usage(self, last, days):
        """Returns usage of a window of the view."""
        first = last - datetime.timedelta(days=days - 1)
        self.db.execute(
            f"create or replace view counted as select * from events where day between '{first}' and '{last}'"
        )
        per = {
            name: self.number(
                f"select coalesce(sum(n), 0) from (select count(distinct user_id) as n from counted group by {key})"
            )
            for name, key in (("day", "day"), ("week", "week_num"))
        }
        found = {
            "total_events": self.number("select count(*) from counted"),
            "mau": self.number("select count(distinct user_id) from counted"),
            "users_per_day": int(per["day"]),
            "users_per_week": int(per["week"]),
            "unique_days": self.number("select count(distinct day) from counted"),
            "unique_weeks": self.number("select count(distinct week_num) from counted"),
            "feature_usage": dict(
                self.db.execute("select feature, count(*) from counted where feature is not null group by 1").fetchall()
            ),
            "funnel_steps": dict.fromkeys(traffic.TYPES, 0)
            | dict(self.db.execute("select event_type, count(*) from counted group by 1").fetchall()),
        }
        found["dau"] = queries.ratio(found["users_per_day"], found["unique_days"])
        found["wau"] = queries.ratio(found["users_per_week"], found["unique_weeks"])
        return found

    def rows(self, metric, request):
        """Returns the rows of a metric over the view, by its SQL."""
        query = queries.Query(queries.QUERIES / f"{metric}.sql")
        query.request = request
        result = self.db.execute(queries.re.sub(r":(\w+)", r"$\1", query.sql), query.values())
        names = [column[0] for column in result.description]
        return queries.METRICS[metric]([dict(zip(names, row, strict=True)) for row in result.fetchall()], request)


class Batch:
    """The events of a request, and the response that it must get."""

    def __init__(self, rng, name, clock, leavers):
        self.rows, self.errors, events = [], {}, []
        self.repeated = self.expired = 0
        for event in traffic.events_of_a_batch(rng, False):
            place = len(events)
            if place < 98 and rng.random() < 0.02:
                event, code = rng.choice(INVALID)
                self.errors[place] = code
                events.append(event)
                continue
            if place == 50 and rng.randrange(EXPIRED) == 0:
                events.append({"event_type": "action", "ts": time.time() - 400 * DAY_SECONDS})
                self.expired += 1
                continue
            if rng.random() < 0.01 and self.rows:
                # The same event twice in a request; its first copy may be anywhere before.
                events.append(rng.choice([old for old in events if isinstance(old, dict) and "event_id" in old]))
                self.repeated += 1
                continue
            if "user_id" in event and rng.random() < LEAVER_SHARE:
                event["user_id"] = rng.choice(leavers)
            # Times are distinct, so that the order of the events of a user does not depend on the log.
            ts_us = clock()
            if rng.random() < LATE_SHARE:
                ts_us -= rng.randrange(1, LATE_DAYS * DAY_SECONDS) * 1_000_000
            event["event_id"] = f"{name}-{place}"
            event["ts"] = stamp(ts_us)
            events.append(event)
            self.rows.append(
                (
                    event["event_id"],
                    ts_us,
                    event.get("user_id"),
                    event["feature"],
                    event["event_type"],
                    event["metadata"]["platform"],
                )
            )
        self.events = json.dumps(events, separators=(",", ":"))
        self.accepted = False

    def body(self):
        return f'{{"sent_at":"{stamp(time.time_ns() // 1_000)}","events":{self.events}}}'

    def differences(self, response, is_first):
        """Yields what is wrong with a response; `is_first` if no earlier request may have stored the events."""
        logged, duplicates, ignored = (response[name] for name in ("logged", "duplicates", "ignored"))
        errors = {error["index"]: error["code"] for error in response["errors"]}
        if errors != self.errors or response["rejected"] != len(self.errors):
            yield f"errors {errors}, expected {self.errors}"
        if logged + duplicates + ignored != len(self.rows) + self.repeated + self.expired:
            yield f"{response} for {len(self.rows)} events, {self.repeated} repeated and {self.expired} expired"
        if is_first and (logged, ignored) != (len(self.rows), self.expired):
            yield f"{response} for a batch of {len(self.rows)} new events"
        if self.accepted and logged:
            yield f"{logged} events were stored twice"


def stamp(ts_us):
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=ts_us)
    return moment.isoformat(timespec="microseconds") + "Z"


class Soak:
    def __init__(self, program, folder, seconds):
        self.program, self.folder = program, Path(folder)
        self.data = self.folder / "data"
        self.seconds = seconds
        self.rate = int(os.environ.get("SOAK_RATE", "2000"))
        self.model = Model()
        self.counts = Counter()
        self.faults = []
        self.waits = []
        self.growth = []
        self.process = None
        self.sending = threading.Event()
        self.ended = threading.Event()
        self.idle = [threading.Event() for _ in range(SENDERS)]
        self.last_us = time.time_ns() // 1_000
        self.clock_lock = threading.Lock()
        self.generation = 0
        self.gone = []
        self.cohort = []
        self.server = None
        self.start()

    def fault(self, message):
        print(f"DIFFERENT: {message}", flush=True)
        self.faults.append(message)

    # The server.

    def start(self):
        self.server = Server(self.program, str(self.data), "--rollup-at", "00:00")
        self.counts["starts"] += 1

    def kill(self):
        self.server.kill()
        self.counts["kill -9"] += 1
        self.start()

    def stop(self):
        started = time.monotonic()
        self.server.stop()
        if self.server.child.returncode != 0:
            self.fault(f"the server stopped with {self.server.child.returncode}")
        if time.monotonic() - started > 20:
            self.fault(f"the server needed {time.monotonic() - started:.1f} s to stop")
        self.counts["stops"] += 1

    def restart(self):
        self.stop()
        self.start()

    def maintain(self):
        """Seals, compacts and verifies without the server."""
        self.stop()
        self.command("seal")
        verified = json.loads(self.command("verify"))
        if verified["damage"]:
            self.fault(f"verify: {verified['damage']}")
        self.start()

    def command(self, *arguments):
        done = subprocess.run(
            [self.program, *arguments, "--data-dir", self.data], env=ENVIRONMENT, capture_output=True, text=True
        )
        if done.returncode != 0:
            self.fault(f"echopilot {arguments[0]} exited with {done.returncode}: {done.stderr}")
        return done.stdout

    def ask(self, method, path, body=None, patience=60):
        """Sends a request with the key until the server responds; returns status, body and the number of tries."""
        headers = {"X-Dash-Key": KEY, "Content-Type": "application/json"}
        deadline = time.monotonic() + patience
        tries = 0
        while True:
            tries += 1
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=patience)
                with contextlib.closing(connection):
                    connection.request(method, f"/api/analytics/{path}", body and json.dumps(body), headers)
                    response = connection.getresponse()
                    content = response.read()
                if response.status not in (429, 503) or time.monotonic() > deadline:
                    return response.status, content, tries
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def json(self, method, path, body=None):
        status, content, _ = self.ask(method, path, body)
        if status != 200:
            self.fault(f"{method} {path}: {status} {content[:300]}")
            return {}
        return json.loads(content)

    # The traffic.

    def clock(self):
        """Returns a time in microseconds that no other event has."""
        with self.clock_lock:
            self.last_us = max(self.last_us + 1, time.time_ns() // 1_000)
            return self.last_us

    def leavers(self):
        return [f"leaver-{self.generation}-{number}" for number in range(LEAVERS)]

    def sender(self, place):
        rng = random.Random(place)
        again = deque(maxlen=200)
        connection = None
        number = 0
        while not self.ended.is_set():
            if not self.sending.is_set():
                self.idle[place].set()
                self.sending.wait(0.05)
                continue
            self.idle[place].clear()
            started = time.monotonic()
            if again and rng.randrange(AGAIN) == 0:
                batch = rng.choice(again)
                self.counts["batches again"] += 1
            else:
                batch = Batch(rng, f"{place}-{number}", self.clock, self.leavers())
                number += 1
            connection = self.post(connection, batch)
            again.append(batch)
            time.sleep(max(0, started + SENDERS * traffic.BATCH / self.rate - time.monotonic()))
        self.idle[place].set()

    def post(self, connection, batch):
        """Sends a batch until it is acknowledged; returns the connection."""
        is_first = not batch.accepted
        while True:
            started = time.monotonic()
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
                connection.request("POST", "/api/analytics/event", batch.body(), {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException):
                # The server was killed or stops. Whether it has stored the batch is unknown.
                connection, is_first = None, False
                self.counts["failed requests"] += 1
                time.sleep(0.02)
                continue
            if response.status in (429, 503):
                self.counts["rejected requests"] += 1
                time.sleep(0.05)
                continue
            if response.status != 200:
                self.fault(f"a batch got {response.status} {content[:300]}")
                return connection
            self.waits.append(time.monotonic() - started)
            answer = json.loads(content)
            for message in batch.differences(answer, is_first):
                self.fault(message)
            if not batch.accepted:
                batch.accepted = True
                self.model.add(batch.rows)
                self.counts["events"] += len(batch.rows)
                self.counts["rejected events"] += len(batch.errors)
                self.counts["expired events"] += batch.expired
            self.counts["duplicates"] += answer["duplicates"]
            return connection

    def subscriber(self):
        """Reads live events, and connects again when the server was restarted."""
        while not self.ended.is_set():
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
                with contextlib.closing(connection):
                    connection.request("GET", "/api/analytics/live", headers={"X-Dash-Key": KEY})
                    response = connection.getresponse()
                    for line in response:
                        if line.startswith(b"data: "):
                            self.counts["live messages"] += 1
                            json.loads(line.removeprefix(b"data: "))
                        if self.ended.is_set():
                            return
            except (OSError, http.client.HTTPException):
                pass
            except ValueError:
                # The server was killed while it wrote the line.
                self.counts["torn live messages"] += 1
            time.sleep(0.05)

    def reader(self):
        """Queries every metric while events come in."""
        number = 0
        names = list(REQUESTS)
        while not self.ended.is_set():
            metric = names[number % len(names)]
            request = self.request(metric, ("UTC", ZONE, "Asia/Tokyo")[number % 3])
            status, content, _ = self.ask("POST", "query", request)
            if status != 200:
                self.fault(f"{request}: {status} {content[:300]}")
            self.counts["queries"] += 1
            number += 1
            self.ended.wait(0.05)

    # Changes, and what they must report.

    def erase(self):
        """Asks for all events of a user who has left, erases them, and sees that they are gone."""
        if not self.gone:
            return
        user = self.gone.pop()
        path = f"users/{urllib.parse.quote(user)}"
        expected = self.model.count(user)
        status, lines, _ = self.ask("GET", f"{path}/events")
        found = len(lines.splitlines())
        if (status, found) != (200, expected):
            self.fault(f"access to {user}: {status}, {found} events, expected {expected}")
        status, content, tries = self.ask("DELETE", path)
        receipt = json.loads(content)
        # An erasure that was interrupted is completed by the next start, and then there is nothing to erase.
        if status != 200 or (tries == 1 and receipt["events"] != expected):
            self.fault(f"erasure of {user} with {expected} events: {status} {receipt}")
        self.model.erase(user)
        self.counts["erased users"] += 1
        self.counts["erased events"] += expected

    def change_cohort(self, rng):
        self.cohort = [f"user-{rng.randrange(traffic.USERS):06d}" for _ in range(200)]
        self.json("POST", "cohorts", {"name": "sample", "users": self.cohort})
        self.counts["cohort changes"] += 1

    # The comparison.

    @staticmethod
    def request(metric, tz, **more):
        query = queries.Query(queries.QUERIES / f"{metric}.sql")
        end = datetime.datetime.now(datetime.UTC).date().isoformat()
        return query.request | REQUESTS[metric] | {"days": WINDOW_DAYS, "end": end, "tz": tz} | more

    def compare(self, name, expected, found):
        self.counts["comparisons"] += 1
        for line in list(queries.differences(expected, found))[:5]:
            self.fault(f"{name}: {line[:400]}")

    def check(self):
        """Compares every number with the model. Nothing is sent meanwhile."""
        self.model.flush()
        end = datetime.datetime.now(datetime.UTC).date()
        for tz in ("UTC", ZONE):
            self.model.look(tz)
            found = self.json("GET", f"usage?days={WINDOW_DAYS}&end={end}&tz={tz}&limit=10000")
            self.compare(f"usage in {tz}", [self.model.usage(end, WINDOW_DAYS)], [found])
            for metric in REQUESTS:
                request = self.request(metric, tz)
                rows = self.json("POST", "query", request).get("rows", [])
                self.compare(f"{metric} in {tz}", self.model.rows(metric, request), list(map(queries.flat, rows)))
        if self.cohort:
            self.model.look("UTC", self.cohort)
            request = self.request("feature_usage", "UTC")
            rows = self.json("POST", "query", request | {"filter": {"cohort": "sample"}}).get("rows", [])
            self.compare("a cohort", self.model.rows("feature_usage", request), rows)
        self.check_rollups(end)
        self.check_export(end)
        self.counts["checks"] += 1
        if self.server.child.pid != self.process:
            self.process, self.growth = self.server.child.pid, []
        descriptors = len(os.listdir(f"/proc/{self.process}/fd"))
        # Without pages of mapped files, which the system takes back when it needs them.
        memory = self.server.memory("RssAnon")
        self.growth.append((self.counts["events"] / 1e6, memory, descriptors))
        print(
            f"{time.monotonic() - self.began:5.0f} s: {self.counts['events']:,} events, "
            f"{self.counts['comparisons']:,} comparisons, {memory:.0f} MB, {descriptors} descriptors",
            flush=True,
        )

    def check_rollups(self, end):
        """Compares the newest lines of some days, each of which has the 30 days before."""
        self.json("POST", "rollup")
        lines = (self.data / "analytics.ndjson").read_text().splitlines()
        newest = {line["day"]: line for line in map(json.loads, lines)}
        self.model.look("UTC")
        for days_ago in (1, 2, 11):
            day = end - datetime.timedelta(days=days_ago)
            line = newest.get(day.isoformat())
            if line is None:
                self.fault(f"no rollup of {day}")
                continue
            expected = self.model.usage(day, 30)
            names = ("dau", "wau", "mau", "total_events")
            self.compare(f"rollup of {day}", [{name: expected[name] for name in names}], [line])

    def check_export(self, end):
        """Compares each event of an export."""
        status, content, _ = self.ask("GET", f"export?days={WINDOW_DAYS}&end={end}&format=parquet", patience=300)
        if status != 200:
            self.fault(f"export: {status} {content[:300]}")
            return
        path = self.folder / "export.parquet"
        path.write_bytes(content)
        columns = "event_id, {ts}, user_id, feature, event_type"
        ours = f"select {columns.format(ts='ts_us')} from stored"
        theirs = f"select {columns.format(ts='epoch_us(ts)')} from '{path}'"
        self.counts["comparisons"] += 1
        for name, one, other in (("lost", ours, theirs), ("double or wrong", theirs, ours)):
            if rows := self.model.db.execute(f"{one} except all {other} limit 3").fetchall():
                self.fault(f"{name} in the export: {rows}")
        path.unlink()

    # The schedule.

    def run(self):
        self.began = time.monotonic()
        threads = [threading.Thread(target=self.sender, args=[place]) for place in range(SENDERS)]
        threads += [threading.Thread(target=self.subscriber) for _ in range(SUBSCRIBERS)]
        threads += [threading.Thread(target=self.reader)]
        rng = random.Random(99)
        interruptions = [self.kill, self.restart, self.maintain, self.kill]
        for thread in threads:
            thread.start()
        try:
            cycle = 0
            while cycle < len(interruptions) or time.monotonic() < self.began + self.seconds:
                self.cycle(cycle, rng, interruptions)
                cycle += 1
        finally:
            self.ended.set()
            self.sending.set()
            for thread in threads:
                thread.join()
        self.finish()
        return self.report()

    def cycle(self, cycle, rng, interruptions):
        """Sends for a while, with changes and perhaps an interruption, and compares."""
        phase = max(1.5, self.seconds / 40)
        # Who leaves in this phase sends nothing in the next one, and is erased then.
        left = self.leavers() if cycle else []
        self.generation = cycle
        self.gone += left[:2]
        self.sending.set()
        end = time.monotonic() + phase
        self.ended.wait(phase / 3)
        self.erase()
        self.change_cohort(rng)
        is_early = time.monotonic() < self.began + self.seconds / 2
        if cycle < len(interruptions) or is_early:
            interruptions[cycle % len(interruptions)]()
        self.json("POST", "rollup")
        self.ended.wait(max(0, end - time.monotonic()))
        self.sending.clear()
        for idle in self.idle:
            idle.wait()
        self.erase()
        self.check()

    def finish(self):
        """Stops, verifies, and rebuilds the daily states, which changes no number."""
        self.stop()
        self.command("verify")
        end = datetime.datetime.now(datetime.UTC).date()
        self.command("rebuild")
        usage = json.loads(self.command("usage", "--days", str(WINDOW_DAYS), "--end", str(end), "--tz", ZONE))
        self.model.look(ZONE)
        self.compare("usage after a rebuild", [self.model.usage(end, WINDOW_DAYS)], [usage])

    def report(self):
        seconds = time.monotonic() - self.began
        waits = sorted(self.waits)
        print(f"{seconds:.0f} s; " + ", ".join(f"{name} {count:,}" for name, count in sorted(self.counts.items())))
        print(
            f"ingest p50 {1_000 * statistics.median(waits):.1f} ms, p99 {1_000 * waits[int(len(waits) * 0.99)]:.1f} ms,"
            f" longest {1_000 * waits[-1]:.0f} ms"
        )
        events, memory, descriptors = zip(*self.growth, strict=True)
        print(
            f"the last process: {len(self.growth)} checks, {events[-1] - events[0]:.2f} M events,"
            f" memory {min(memory):.0f} to {max(memory):.0f} MB, descriptors {min(descriptors)} to {max(descriptors)}"
        )
        if events[-1] - events[0] >= EVENTS_OF_GROWTH / 1e6:
            slope = statistics.linear_regression(events, memory).slope
            more = descriptors[-1] - descriptors[0]
            print(f"memory grows by {slope:.1f} MB per million events, descriptors by {more}")
            if slope > MAX_MB_PER_MILLION_EVENTS:
                self.fault(f"memory grows by {slope:.1f} MB per million events")
            if more > MAX_MORE_DESCRIPTORS:
                self.fault(f"the process has {more} more descriptors")
        print(f"{len(self.faults)} differences")
        return 1 if self.faults else 0


def main():
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 3_600
    with tempfile.TemporaryDirectory(dir=".", prefix=".tmp-soak-") as folder:
        soak = Soak(sys.argv[1], folder, seconds)
        try:
            return soak.run()
        finally:
            if soak.server.child.poll() is None:
                soak.server.kill()


if __name__ == "__main__":
    sys.exit(main())
