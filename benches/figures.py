"""The queries of the comparison with other engines: their parameters, and the common form of their results."""

import dataclasses
import datetime
import os
import zoneinfo

STEPS = ["calendar", "projects", "tasks"]
WITHIN_DAYS = 7
WITHIN_US = WITHIN_DAYS * 86_400_000_000
# A property that most users have, and its value in filters. In the synthetic history it is constant for a user, so that
# engines that cannot tell which attempt counts still give the same numbers.
PROPERTY, VALUE = "plan", "pro"
ZONE = "Europe/Berlin"
PATH_DEPTH = 5
PATH_ROWS = 100
FEATURE_ROWS = 100
DAYS = 365

FUNNEL = {"metric": "funnel", "steps": [{"feature": step} for step in STEPS], "within": f"{WITHIN_DAYS}d"}
IS_VALUE = {"filter": {f"metadata.{PROPERTY}": VALUE}}
TRENDS = {"metric": "trends", "breakdown": f"metadata.{PROPERTY}", "limit": 100}
HOURS = {"metric": "trends", "grain": "hour", "series": [{}, {"measure": "users"}]}
# Days of the hourly trend.
HOUR_DAYS = 7
VALUES = 20


@dataclasses.dataclass(frozen=True)
class Figure:
    """A query. `function` is the name of its function in the modules of the engines, called with `options`."""

    title: str
    function: str
    # The body of our query; `None` is usage.
    ours: dict | None
    zone: str = "UTC"
    days: int = DAYS
    options: dict = dataclasses.field(default_factory=dict)


FIGURES = {
    "usage": Figure("usage of a year", "usage", None),
    "usage-zone": Figure(f"usage of a year in {ZONE}", "usage", None, ZONE),
    "active": Figure("active users by day of a year", "active_users", {"metric": "active_users"}),
    "active-zone": Figure(f"active users by day of a year in {ZONE}", "active_users", {"metric": "active_users"}, ZONE),
    "active-filter": Figure(
        "active users by day with a metadata filter",
        "active_users",
        {"metric": "active_users", **IS_VALUE},
        options={"filtered": True},
    ),
    "features-filter": Figure(
        "feature usage with a metadata filter", "feature_usage", {"metric": "feature_usage", **IS_VALUE}
    ),
    "funnel": Figure("funnel of three features, 7 days", "funnel", FUNNEL),
    "funnel-breakdown": Figure(
        "the same with a breakdown by metadata",
        "funnel",
        {**FUNNEL, "breakdown": f"metadata.{PROPERTY}"},
        options={"breakdown": True},
    ),
    "funnel-filter": Figure(
        "the same funnel with a metadata filter", "funnel", {**FUNNEL, **IS_VALUE}, options={"filtered": True}
    ),
    "funnel-strict": Figure("the same funnel in strict order", "strict_funnel", {**FUNNEL, "order": "strict"}),
    "trends": Figure("events by day of a year, by a property", "trends", TRENDS),
    "trends-users": Figure(
        "users by day of a year, by a property",
        "trends",
        {**TRENDS, "series": [{"measure": "users"}]},
        options={"users": True},
    ),
    "trends-hours": Figure("events and users by hour of the last 7 days", "hours", HOURS, days=HOUR_DAYS),
    "values": Figure("the most used values of a property of a year", "values", None),
    "paths": Figure(f"paths, depth {PATH_DEPTH}", "paths", {"metric": "paths", "depth": PATH_DEPTH}),
}


class Window:
    """The last days of a lake, in a zone."""

    def __init__(self, folder, zone, days=DAYS):
        self.folder = folder
        self.files = f"{folder}/events/*/*.parquet"
        self.prepared = f"{folder}-prepared"
        self.zone = zone
        self.last = datetime.date.fromisoformat(max(name[3:] for name in os.listdir(f"{folder}/events")))
        self.days = days
        self.first = self.last - datetime.timedelta(days=days - 1)
        midnight = datetime.time(tzinfo=zoneinfo.ZoneInfo(zone))
        start = datetime.datetime.combine(self.first, midnight).astimezone(datetime.UTC)
        end = datetime.datetime.combine(self.last + datetime.timedelta(days=1), midnight).astimezone(datetime.UTC)
        # Half-open, in UTC.
        self.start, self.end = (f"{time:%Y-%m-%d %H:%M:%S}" for time in (start, end))


def rolling(window, gaps):
    """Active users of the day and of the 7 and 30 days that end with it, for each day of the window.

    `gaps` are rows of a day, the days until a user's next active day (30 if more, or if none), and a number of users.
    A user counts for 7 and 30 days from an active day on, less the days that the next one covers.
    """
    changes = [[0] * (DAYS + 31) for _ in range(3)]
    for day, gap, users in gaps:
        place = (day - window.first).days
        for change, length in zip(changes, (1, min(gap, 7), min(gap, 30)), strict=True):
            change[place] += users
            change[place + length] -= users
    counts, rows = [0, 0, 0], []
    for step in list(zip(*changes, strict=True))[:DAYS]:
        counts = [count + more for count, more in zip(counts, step, strict=True)]
        rows.append(counts)
    return rows


def reached(levels):
    """Users who reached each step, from rows of a group, the highest step of a user, and a number of users."""
    groups = {}
    for group, level, users in levels:
        steps = groups.setdefault(group, [0] * len(STEPS))
        for step in range(level):
            steps[step] += users
    return groups


def ours(name, window, server):
    """Asks the server; returns the seconds, and the result in the common form."""
    query = FIGURES[name].ours
    where = {"days": window.days, "end": window.last.isoformat(), "tz": window.zone}
    if FIGURES[name].function == "values":
        where |= {"property": f"metadata.{PROPERTY}", "limit": VALUES}
        seconds, found = server.ask("values?" + "&".join(f"{key}={value}" for key, value in where.items()))
        return seconds, [[row["value"], row["events"]] for row in found["values"]]
    if query is None:
        seconds, found = server.ask("usage?" + "&".join(f"{key}={value}" for key, value in where.items()))
        totals = ("total_events", "unique_days", "unique_weeks", "mau", "users_per_day", "users_per_week")
        types = {name: count for name, count in found["funnel_steps"].items() if count}
        return seconds, [[found[total] for total in totals], found["feature_usage"], types]
    seconds, found = server.ask("query", {**query, **where})
    rows = found["rows"]
    match FIGURES[name].function:
        case "active_users":
            return seconds, [[row["dau"], row["wau"], row["mau"]] for row in rows]
        case "feature_usage":
            return seconds, [[row["feature"], row["events"], row["users"]] for row in rows]
        case "trends":
            return seconds, sorted(
                [row["period"], row["breakdown"] or "", row["value"]] for row in rows if row["value"]
            )
        case "hours":
            hours = {}
            for row in rows:
                hours.setdefault(row["period"][: len("2026-01-01T00")], []).append(row["value"])
            return seconds, [[hour, *values] for hour, values in hours.items() if values[0]]
        case "paths":
            return seconds, [[row["step"], row["from"], row["to"], row["users"]] for row in rows]
    groups = {}
    for row in rows:
        groups.setdefault(row.get("breakdown", "all"), []).append(row["users"])
    return seconds, groups
