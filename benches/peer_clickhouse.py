"""The queries of the comparison in ClickHouse (chdb): on the lake, and on daily bitmaps that are built before."""

import datetime
import json
import os

from chdb.session import Session
from figures import (
    DAYS,
    FEATURE_ROWS,
    PATH_DEPTH,
    PATH_ROWS,
    PROPERTY,
    STEPS,
    VALUE,
    VALUES,
    WITHIN_US,
    ZONE,
    reached,
    rolling,
)

VALUE_OF = f"JSONExtractString(metadata, '{PROPERTY}')"
CODES = list(range(1, len(STEPS) + 1))
STEP_NAMES = ", ".join(f"'{step}'" for step in STEPS)
SETTINGS = "max_threads = 2, session_timezone = 'UTC', use_hive_partitioning = 0"


class Lake:
    name = "ClickHouse"

    def __init__(self, window, path=None):
        self.window = window
        self.session = Session(path) if path else Session()

    def rows(self, sql):
        found = self.session.query(f"{sql} settings {SETTINGS}", "JSONCompactEachRow").bytes().decode()
        return [json.loads(line) for line in found.splitlines()]

    def events(self, is_filtered=False):
        """The `from` and `where` of the events of the window."""
        start, end = (f"toDateTime64('{time}', 6, 'UTC')" for time in (self.window.start, self.window.end))
        filtered = f" and {VALUE_OF} = '{VALUE}'" if is_filtered else ""
        return f"file('{self.window.files}', Parquet) where ts >= {start} and ts < {end}{filtered}"

    def usage(self):
        zone = self.window.zone
        total, days, weeks, user_days, mau, user_weeks = self.rows(f"""
            select toInt32(sum(n)), toInt32(uniqExact(day)), toInt32(uniqExact(toMonday(day))),
                toInt32(countIf(user_id is not null)), toInt32(uniqExact(user_id)),
                toInt32(uniqExactIf((toMonday(day), user_id), user_id is not null))
            from (select toDate(ts, '{zone}') as day, user_id, count() as n from {self.events()} group by day, user_id)
        """)[0]
        groups = [
            dict(
                self.rows(
                    f"select {column}, toInt32(count()) from {self.events()} and {column} is not null group by {column}"
                )
            )
            for column in ("feature", "event_type")
        ]
        return [[total, days, weeks, mau, user_days, user_weeks], *groups]

    def active_users(self, filtered=False):
        gaps = self.rows(f"""
            select day, gap, toInt32(count()) from (
                select day, least(if(next = toDate(0), 30, next - day), 30) as gap from (
                    select day, leadInFrame(day, 1, toDate(0)) over (
                        partition by user_id order by day rows between current row and unbounded following) as next
                    from (select distinct user_id, toDate(ts, '{self.window.zone}') as day
                        from {self.events(filtered)} and user_id is not null)))
            group by day, gap""")
        return rolling(self.window, [(datetime.date.fromisoformat(day), gap, users) for day, gap, users in gaps])

    def feature_usage(self):
        return self.rows(f"""
            select feature, toInt32(count()) as n, toInt32(uniqExact(user_id))
            from {self.events(True)} and feature is not null
            group by feature order by n desc, feature limit {FEATURE_ROWS}""")

    def trends(self, users=False):
        counted = "uniqExact(user_id)" if users else "count()"
        return self.rows(f"""
            select toString(toDate(ts, '{self.window.zone}')) as day, {VALUE_OF} as value, toInt32({counted}) as n
            from {self.events()} group by day, value having n > 0 order by day, value""")

    def hours(self):
        return self.rows(f"""
            select formatDateTime(toStartOfHour(ts), '%Y-%m-%dT%H') as hour, toInt32(count()),
                toInt32(uniqExact(user_id))
            from {self.events()} group by hour order by hour""")

    def values(self):
        return self.rows(f"""
            select {VALUE_OF} as value, toInt32(count()) as n from {self.events()} and value != ''
            group by value order by n desc, value limit {VALUES}""")

    def funnel(self, filtered=False, breakdown=False):
        steps = ", ".join(f"feature = '{step}'" for step in STEPS)
        group = f"anyIf({VALUE_OF}, feature = '{STEPS[0]}')" if breakdown else "'all'"
        return reached(
            self.rows(f"""
            select value, level, toInt32(count()) from (
                select {group} as value,
                    windowFunnel({WITHIN_US})(toUInt64(toUnixTimestamp64Micro(ts)), {steps}) as level
                from {self.events(filtered)} and user_id is not null and feature in ({STEP_NAMES})
                group by user_id)
            where level > 0 group by value, level""")
        )

    def strict_funnel(self):
        # windowFunnel in strict order ends with the first attempt. Here every event may start one.
        code = f"transform(feature, {STEPS}, {CODES}, 0)"
        return reached(
            self.rows(f"""
            select 'all', level, toInt32(count()) from (
                select
                    arraySort(groupArray((toUnixTimestamp64Micro(ts), toUInt8({code})))) as events,
                    arrayMap(event -> event.1, events) as us,
                    arrayMap(event -> event.2, events) as step,
                    arrayMax(arrayMap((place, us_1, step_1) -> multiIf(
                        step_1 != 1, 0,
                        step[place + 1] != 2 or us[place + 1] - us_1 > {WITHIN_US}, 1,
                        step[place + 2] != 3 or us[place + 2] - us_1 > {WITHIN_US}, 2,
                        3), arrayEnumerate(us), us, step)) as level
                from {self.events()} and user_id is not null group by user_id)
            where level > 0 group by level""")
        )

    def paths(self):
        names = sorted(
            row[0] for row in self.rows(f"select distinct feature from {self.events()} and feature is not null")
        )
        codes = list(range(len(names)))
        return self.rows(f"""
            select step, {names}[move.1 + 1] as from_feature, {names}[move.2 + 1] as to_feature,
                toInt32(count()) as users from (
                select
                    arraySort(groupArray((toUnixTimestamp64Micro(ts), toUInt16(transform(feature, {names}, {codes}, 0)))
                    )) as uses,
                    arraySlice(arrayCompact(arrayMap(use -> use.2, uses)), 1, {PATH_DEPTH}) as stops,
                    arrayZip(arrayPopBack(stops), arrayPopFront(stops)) as moves
                from {self.events()} and user_id is not null and feature is not null group by user_id)
            array join moves as move, arrayEnumerate(moves) as step
            group by step, move order by step, users desc, from_feature, to_feature limit {PATH_ROWS} by step""")


class Bitmaps(Lake):
    """Tables of bitmaps of dense user ids by day and of daily counts, for UTC and the zone."""

    name = "ClickHouse, daily bitmaps"
    functions = ("usage", "active_users")

    def __init__(self, window):
        super().__init__(window, f"{window.prepared}/bitmaps")

    @classmethod
    def prepare(cls, window):
        path = f"{window.prepared}/bitmaps"
        if os.path.exists(f"{path}/complete"):
            return
        session = Session(path)
        lake = f"file('{window.files}', Parquet)"
        statements = [
            f"""create table users engine = MergeTree order by user_id as
                select assumeNotNull(user_id) as user_id, toUInt32(rowNumberInAllBlocks()) as id
                from (select distinct user_id from {lake} where user_id is not null)""",
            """create table daily_users (zone LowCardinality(String), day Date,
                users AggregateFunction(groupBitmap, UInt32)) engine = MergeTree order by (zone, day)""",
            """create table daily_counts (zone LowCardinality(String), day Date, event_type LowCardinality(String),
                feature LowCardinality(String), n UInt64) engine = MergeTree order by (zone, day)""",
        ]
        for zone in ("UTC", ZONE):
            statements += [
                f"""insert into daily_users select '{zone}', toDate(ts, '{zone}') as day, groupBitmapState(id)
                    from {lake} as lake join users on users.user_id = lake.user_id group by day""",
                f"""insert into daily_counts
                    select '{zone}', toDate(ts, '{zone}') as day, event_type, ifNull(feature, '') as of_feature, count()
                    from {lake} group by day, event_type, of_feature""",
            ]
        for statement in statements:
            session.query(f"{statement} settings {SETTINGS}" if "select" in statement else statement)
        session.close()
        open(f"{path}/complete", "w").close()

    def of(self, table, join=""):
        window = self.window
        return f"{table}{join} where zone = '{window.zone}' and day between '{window.first}' and '{window.last}'"

    def usage(self):
        user_days, mau = self.rows(
            f"select toInt32(sum(bitmapCardinality(users))), toInt32(groupBitmapMerge(users)) "
            f"from (select day, groupBitmapMergeState(users) as users from {self.of('daily_users')} group by day)"
        )[0]
        ((user_weeks,),) = self.rows(
            "select toInt32(sum(users)) from (select groupBitmapMerge(users) as users "
            f"from {self.of('daily_users')} group by toMonday(day))"
        )
        total, days, weeks = self.rows(
            f"select toInt32(sum(n)), toInt32(uniqExact(day)), toInt32(uniqExact(toMonday(day))) "
            f"from {self.of('daily_counts')}"
        )[0]
        groups = [
            dict(
                self.rows(
                    f"select {column}, toInt32(sum(n)) from {self.of('daily_counts')} and {column} != '' "
                    f"group by {column}"
                )
            )
            for column in ("feature", "event_type")
        ]
        return [[total, days, weeks, mau, user_days, user_weeks], *groups]

    def active_users(self):
        """Each day's bitmap is merged into those of the 7 and 30 days that it counts for."""
        by_length = []
        for length in (1, 7, 30):
            covered = self.of("daily_users", f" array join range({length}) as later")
            counted = self.rows(
                f"select toInt32(day + later - toDate('{self.window.first}')) as place, "
                f"toInt32(groupBitmapMerge(users)) from {covered} group by place having place < {DAYS}"
            )
            users = [0] * DAYS
            for place, count in counted:
                users[place] = count
            by_length.append(users)
        return [list(counts) for counts in zip(*by_length, strict=True)]


ENGINES = [Lake, Bitmaps]
