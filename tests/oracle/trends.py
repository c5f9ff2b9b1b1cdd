"""Trends of a lake, computed by DuckDB with its own calendar: an independent implementation.

Usage: trends.py LAKE REQUESTS.json      (prints the rows and totals of each request)

A request has `from`, `to` and `tz`; its filters have one value for each property. Empty periods have no row.
"""

import functools
import json
import sys

import duckdb

MEASURES = {
    "events": "count(*)",
    "users": "count(distinct user_id)",
    "events_per_user": "count(*) / nullif(count(distinct user_id), 0)",
    "sessions": "count(*)",
    "sum": "coalesce(sum(number), 0)",
    "mean": "avg(number)",
    "min": "min(number)",
    "max": "max(number)",
    "median": "quantile_cont(number, 0.5)",
    "p90": "quantile_cont(number, 0.9)",
    "p95": "quantile_cont(number, 0.95)",
    "p99": "quantile_cont(number, 0.99)",
}
NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
PERIODS = {
    # An hour that is repeated has two offsets.
    "hour": """strftime(date_trunc('hour', local), '%Y-%m-%dT%H:00:00')
        || printf('%s%02d:%02d', case when shift < 0 then '-' else '+' end, abs(shift) // 60, abs(shift) % 60)""",
    **{grain: f"cast(cast(date_trunc('{grain}', local) as date) as varchar)" for grain in ("day", "week", "month")},
}


def text(value):
    return "'" + value.replace("'", "''") + "'"


def value_of(name):
    """Returns the SQL of the value of a property."""
    path = name.removeprefix("metadata.")
    return name if path == name else f"json_extract_string(metadata, '$.\"{path}\"')"


class Trends:
    def __init__(self, lake, request):
        self.db = duckdb.connect()
        tz = text(request["tz"])
        self.db.execute(f"set timezone = {tz}")
        self.db.execute(
            f"""
            create view events as
            select *, ts at time zone {tz} as local,
                date_diff('minute', ts at time zone 'UTC', ts at time zone {tz}) as shift
            from read_parquet('{lake}/dt=*/*.parquet', filename = true, file_row_number = true)
            """
        )
        self.request = request
        self.series = request["series"]
        breakdown = request.get("breakdown")
        self.group = value_of(breakdown) if breakdown else "cast(null as varchar)"
        for place, series in enumerate(self.series):
            self.db.execute(f"create table series{place} as {self.counted(series)}")

    def counted(self, series):
        """Returns the SQL of what a series measures: events, or the first event of each session."""
        number = value_of(series.get("of", "url"))
        conditions = {**self.request.get("filter", {}), **series.get("filter", {})}
        conditions = [f"{value_of(name)} = {text(value)}" for name, value in conditions.items()]
        events = f"""
            select user_id, ts, filename, file_row_number, cast(local as date) as day,
                {PERIODS[self.request.get("grain", "day")]} as period, {self.group} as grouped,
                case when regexp_full_match({number}, '{NUMBER}') then cast({number} as double) end as number
            from events
            where {" and ".join(["true", *conditions])}
        """
        day = f"day between {text(self.request['from'])} and {text(self.request['to'])}"
        if series.get("measure") != "sessions":
            return f"select * from ({events}) where {day}"
        return f"""
            select * from (
                select *, lag(ts) over (partition by user_id order by ts, filename, file_row_number) as before
                from ({events}) where user_id is not null
            )
            where {day} and (before is null or ts - before > interval 30 minutes)
        """

    def measured(self, place, keys):
        """Yields the keys and the value of each group of the events of a series."""
        measure = MEASURES[self.series[place].get("measure", "events")]
        by = ", ".join(keys)
        rows = self.db.execute(f"select {by}, {measure} from series{place} group by {by}").fetchall()
        return [(row[:-1], row[-1]) for row in rows]

    def groups(self):
        """Returns the SQL of the kind and of the value of a group."""
        if "breakdown" not in self.request:
            return ["'all'", "cast(null as varchar)"]
        totals = [dict(self.measured(place, ["grouped"])) for place in range(len(self.series))]
        empty = [
            0 if s.get("measure", "events") in ("events", "users", "sessions", "sum") else None for s in self.series
        ]

        def order(a, b):
            for of_series, none in zip(totals, empty, strict=True):
                one, other = of_series.get((a,), none), of_series.get((b,), none)
                if one != other:
                    return -1 if other is None or (one is not None and one > other) else 1
            return -1 if a < b else 1

        values = {value for of_series in totals for (value,) in of_series if value is not None}
        most = sorted(values, key=functools.cmp_to_key(order))[: self.request.get("limit", 10)]
        listed = f"grouped in ({', '.join(map(text, most))})" if most else "false"
        kind = f"case when grouped is null then 'missing' when {listed} then 'value' else 'rest' end"
        return [kind, f"case when {listed} then grouped end"]

    def answer(self):
        groups = self.groups()
        rows, totals = [], []
        for place in range(len(self.series)):
            name = chr(ord("A") + place)
            for (period, kind, value), measured in self.measured(place, ["period", *groups]):
                rows.append([name, period, kind, value, measured])
            for (kind, value), measured in self.measured(place, groups):
                totals.append([name, kind, value, measured])
        return {"rows": rows, "totals": totals}


lake, requests = sys.argv[1:]
with open(requests, encoding="utf-8") as file:
    print(json.dumps([Trends(lake, request).answer() for request in json.load(file)], default=float))
