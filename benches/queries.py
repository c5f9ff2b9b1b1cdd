"""Queries of a year of 100 million events, export, access, erasure; a funnel and a filter compared with other engines.

Usage: queries.py ECHOPILOT [EVENTS]      (from `make bench-queries`; default 100 million)

The history is that of `echopilot demo`: 365 days, up to 1 M users. The server is queried over HTTP; DuckDB, ClickHouse
(chdb) and Polars read the same lake on the same cores in the same run, one after the other. The funnel is
`queries/funnel.sql` in DuckDB, `windowFunnel` in ClickHouse, and an as-of join for each step in Polars. All counts must
be equal. BENCH_FOLDER keeps the history.
"""

import http.client
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import duckdb

from server import ENVIRONMENT, Server

ROUNDS = 5
# Load during erasures: 20,000 events a second.
SENDERS = 8
SEND_EVERY = 0.04
STEPS = ["calendar", "projects", "tasks"]
FILTER = ("plan", "pro")
QUERIES = pathlib.Path(__file__).parents[1] / "queries"


class Loaded(Server):
    """A server that receives events meanwhile."""

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
        events = [
            {
                "event_type": "action",
                "user_id": f"sender_{number}_{place}",
                "feature": "dashboard",
                "url": "/a",
                "metadata": {"plan": "pro"},
            }
            for place in range(100)
        ]
        body = json.dumps({"events": events})
        due = time.monotonic() + number * SEND_EVERY / SENDERS
        while not stop.is_set():
            time.sleep(max(0, due - time.monotonic()))
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


def duckdb_funnel(lake, first, last):
    sql = (QUERIES / "funnel.sql").read_text()
    views = (QUERIES / "views/duckdb.sql").read_text()
    db = duckdb.connect()
    db.execute("set threads = 2; set timezone = 'UTC'")
    db.execute(views.replace("{lake}", lake).replace("{variant}", "variant"))
    names = {f"step_{place}": step for place, step in enumerate(STEPS, 1)}
    values = {"from_day": first, "to_day": last, "within_us": 7 * 86_400_000_000, **names}
    for name in values:
        sql = sql.replace(f":{name}", f"${name}")
    return lambda: [row[2] for row in db.execute(sql, values).fetchall() if row[1] == "first"]


def duckdb_filter(lake):
    db = duckdb.connect()
    db.execute("set threads = 2; set timezone = 'UTC'")
    key, value = FILTER
    sql = (
        f"select feature, count(*) as n, count(distinct user_id) from read_parquet('{lake}/*/*.parquet') "
        f"where json_extract_string(metadata, '$.{key}') = '{value}' and feature is not null "
        "group by 1 order by n desc, 1 limit 100"
    )
    return lambda: db.execute(sql).fetchall()


def clickhouse(sql):
    import chdb

    sql += " settings max_threads = 2, session_timezone = 'UTC'"
    return lambda: [
        tuple(json.loads(line)) for line in chdb.query(sql, "JSONCompactEachRow").bytes().decode().splitlines()
    ]


def clickhouse_funnel(lake):
    steps = ", ".join(f"feature = '{step}'" for step in STEPS)
    levels = f"""
        select user_id,
            windowFunnel(toUInt64({7 * 86_400_000_000}))(toUInt64(toUnixTimestamp64Micro(ts)), {steps}) as level
        from file('{lake}/*/*.parquet', Parquet)
        where user_id is not null and feature in ({", ".join(f"'{step}'" for step in STEPS)})
        group by user_id"""
    reached = ", ".join(f"toInt32(countIf(level >= {place}))" for place in range(1, len(STEPS) + 1))
    ask = clickhouse(f"select {reached} from ({levels})")
    return lambda: list(ask()[0])


def polars_funnel(lake):
    import polars

    columns = polars.col("user_id", "feature", "ts")
    lake_events = polars.scan_parquet(f"{lake}/*/*.parquet", hive_partitioning=False)
    is_step = polars.col("feature").is_in(STEPS) & polars.col("user_id").is_not_null()
    events = lake_events.filter(is_step).select(columns).sort("ts")
    within = polars.col("ts") - polars.col("start") <= polars.duration(days=7)

    def ask():
        # Each event continues the attempt with the latest event of the previous step, which has the latest start.
        of_step = events.collect(engine="streaming").partition_by("feature", as_dict=True, include_key=False)
        reached = of_step[STEPS[0],].with_columns(start="ts")
        users = [reached["user_id"].n_unique()]
        for step in STEPS[1:]:
            reached = of_step[step,].join_asof(reached, on="ts", by="user_id", check_sortedness=False).filter(within)
            users.append(reached["user_id"].n_unique())
        return users

    return ask


def clickhouse_filter(lake):
    key, value = FILTER
    return clickhouse(
        "select feature, toInt32(count()) as n, toInt32(uniqExact(user_id)) "
        f"from file('{lake}/*/*.parquet', Parquet) where JSONExtractString(metadata, '{key}') = '{value}' "
        "and feature is not null group by feature order by n desc, feature limit 100"
    )


def polars_filter(lake):
    import polars

    key, value = FILTER
    events = polars.scan_parquet(f"{lake}/*/*.parquet", hive_partitioning=False)
    events = events.filter(
        polars.col("metadata").str.json_path_match(f"$.{key}") == value, polars.col("feature").is_not_null()
    )
    counted = events.group_by("feature").agg(
        polars.len().alias("n"), polars.col("user_id").drop_nulls().n_unique().alias("users")
    )
    counted = counted.sort(["n", "feature"], descending=[True, False]).head(100)
    return lambda: counted.collect(engine="streaming").rows()


def main(program, events, folder):
    if not os.path.exists(folder):
        command(program, folder, "demo", "--events", str(events), "--users", "1000000", "--days", "365")
    # Small segments are joined, as they are on a server that runs for a while.
    command(program, folder, "seal")
    lake = f"{folder}/events"
    last = max(name[3:] for name in os.listdir(lake))
    server = Server(program, folder)
    steps = [{"feature": step} for step in STEPS]
    queries = [
        ("active users by day", {"metric": "active_users"}),
        ("lifecycle by day", {"metric": "lifecycle"}),
        ("stickiness", {"metric": "stickiness"}),
        ("retention by week", {"metric": "retention", "grain": "week"}),
        ("retention by day", {"metric": "retention"}),
        ("event types", {"metric": "event_types"}),
        ("feature usage", {"metric": "feature_usage"}),
        ("funnel of three features, 7 days", {"metric": "funnel", "steps": steps, "within": "7d"}),
        (
            "feature usage with a metadata filter",
            {"metric": "feature_usage", "filter": {f"metadata.{FILTER[0]}": FILTER[1]}},
        ),
    ]
    print(f"{events:,} events, 365 days to {last}")
    for name, query in queries:
        times = [server.ask("query", {**query, "days": 365, "end": last})[0] for _ in range(ROUNDS)]
        median, first = statistics.median(times) * 1e3, times[0] * 1e3
        print(f"  {name}: median {median:,.0f} ms, first {first:,.0f} ms; peak {server.peak():,.0f} MB")
    first = min(name[3:] for name in os.listdir(lake))

    def ask(query):
        return server.ask("query", {**query, "days": 365, "end": last})[1]["rows"]

    (funnel, funnel_query), (filtered, filtered_query) = queries[-2:]
    in_turns(
        funnel,
        {
            "EchoPilot": lambda: [row["users"] for row in ask(funnel_query)],
            "DuckDB": duckdb_funnel(lake, first, last),
            "ClickHouse": clickhouse_funnel(lake),
            "Polars": polars_funnel(lake),
        },
    )
    in_turns(
        filtered,
        {
            "EchoPilot": lambda: [tuple(row.values()) for row in ask(filtered_query)],
            "DuckDB": duckdb_filter(lake),
            "ClickHouse": clickhouse_filter(lake),
            "Polars": polars_filter(lake),
        },
    )
    server.stop()
    out = f"{folder}-export"
    seconds, _ = command(program, folder, "export", "--to", out)
    shutil.rmtree(out)
    print(f"  export: {events / seconds / 1e6:.1f} M events/s")
    copy = f"{folder}-copy"
    shutil.copytree(folder, copy)
    with open(f"{copy}/users.ndjson") as file:
        many = [json.loads(line) for line in file]
    user = many[4_999]
    print(f"  access to one user: {command(program, copy, 'user', 'access', user)[0]:.1f} s")
    server = Loaded(program, copy)
    for name, users in (
        ("one user", [user]),
        ("1,000 users", [user for user in many[:: len(many) // 1_000] if user][:1_000]),
    ):
        seconds, (median, p99, longest) = server.erase(users)
        latencies = f"p50 {median:.1f} ms, p99 {p99:.1f} ms, longest {longest:.0f} ms"
        print(f"  erasure of {name}: {seconds:.1f} s; 20,000 events/s meanwhile: {latencies}")
    server.stop()
    shutil.rmtree(copy)


def in_turns(name, engines):
    """Runs one engine after the other, in rounds; all results must be equal. Ours is the first."""
    times = {engine: [] for engine in engines}
    for _ in range(ROUNDS):
        results = []
        for engine, ask in engines.items():
            started = time.monotonic()
            results.append(ask())
            times[engine].append(time.monotonic() - started)
            assert results[-1] == results[0], (engine, results[-1][:3], results[0][:3])
    ours = next(iter(times.values()))
    for engine, of_engine in times.items():
        ratios = sorted(theirs / our for theirs, our in zip(of_engine, ours, strict=True))
        print(
            f"  {name}, in turns: {engine} {statistics.median(of_engine):.2f} s, the same numbers; times ours: "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


program = os.path.abspath(sys.argv[1])
events = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000_000
with tempfile.TemporaryDirectory(dir=".") as temporary:
    main(program, events, os.path.join(os.environ.get("BENCH_FOLDER") or temporary, str(events)))
