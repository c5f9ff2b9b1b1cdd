"""The queries of the comparison in DuckDB: on the lake, and on tables of daily aggregates that are built before."""

import os

import duckdb
from figures import (
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

VALUE_OF = f"json_extract_string(metadata, '$.{PROPERTY}')"
STEP = " ".join(f"when feature = '{step}' then {place}" for place, step in enumerate(STEPS, 1))
STEP_NAMES = ", ".join(f"'{step}'" for step in STEPS)


class Lake:
    name = "DuckDB"

    def __init__(self, window):
        self.window = window
        self.db = duckdb.connect()
        self.db.execute("set threads = 2; set timezone = 'UTC'")

    def events(self, is_filtered=False):
        """The `from` and `where` of the events of the window."""
        window = self.window
        filtered = f" and {VALUE_OF} = '{VALUE}'" if is_filtered else ""
        return (
            f"read_parquet('{window.files}', hive_partitioning = false) where ts >= timestamptz '{window.start}+00' "
            f"and ts < timestamptz '{window.end}+00'{filtered}"
        )

    def rows(self, sql):
        return self.db.execute(sql).fetchall()

    def day(self):
        zone = self.window.zone
        return "cast(ts as date)" if zone == "UTC" else f"cast(timezone('{zone}', ts) as date)"

    def usage(self):
        active = f"select distinct {self.day()} as day, user_id from {self.events()}"
        days, weeks, user_days, mau, user_weeks = self.rows(f"""
            with active as materialized ({active})
            select count(distinct day), count(distinct date_trunc('week', day)), count(user_id),
                count(distinct user_id),
                (select count(*) from (
                    select distinct date_trunc('week', day), user_id from active where user_id is not null) as weekly)
            from active""")[0]
        groups = [
            dict(self.rows(f"select {column}, count(*) from {self.events()} and {column} is not null group by 1"))
            for column in ("feature", "event_type")
        ]
        total = sum(groups[1].values())
        return [[total, days, weeks, mau, user_days, user_weeks], *groups]

    def active_users(self, filtered=False):
        return rolling(
            self.window,
            self.rows(f"""
            with active as (
                select distinct user_id, {self.day()} as day from {self.events(filtered)} and user_id is not null),
            gaps as (
                select day, least(coalesce(lead(day) over (partition by user_id order by day) - day, 30), 30) as gap
                from active)
            select day, gap, count(*) from gaps group by all"""),
        )

    def feature_usage(self):
        return self.rows(f"""
            select feature, count(*) as n, count(distinct user_id) from {self.events(True)} and feature is not null
            group by 1 order by n desc, 1 limit {FEATURE_ROWS}""")

    def trends(self, users=False):
        counted = "count(distinct user_id)" if users else "count(*)"
        return self.rows(f"""
            select cast({self.day()} as varchar), coalesce({VALUE_OF}, '') as value, {counted} as n from {self.events()}
            group by 1, 2 having n > 0 order by 1, 2""")

    def hours(self):
        return self.rows(f"""
            select strftime(date_trunc('hour', ts), '%Y-%m-%dT%H'), count(*), count(distinct user_id)
            from {self.events()} group by 1 order by 1""")

    def values(self):
        return self.rows(f"""
            select {VALUE_OF} as value, count(*) as n from {self.events()} and value is not null
            group by 1 order by n desc, 1 limit {VALUES}""")

    def funnel(self, filtered=False, breakdown=False):
        # The latest start that reaches a step is carried on to the next.
        carried = "max({}) over (partition by user_id order by us, step rows unbounded preceding) as {}"
        group = f"any_value({VALUE_OF}) filter (step = 1)" if breakdown else "'all'"
        property_of = "metadata," if breakdown else ""
        return reached(
            self.rows(f"""
            with hits as (
                select user_id, {property_of} epoch_us(ts) as us, case {STEP} end as step
                from {self.events(filtered)} and user_id is not null and feature in ({STEP_NAMES})),
            first as (select *, {carried.format("case when step = 1 then us end", "start_1")} from hits),
            second as (
                select *, {
                carried.format(f"case when step = 2 and us - start_1 <= {WITHIN_US} then start_1 end", "start_2")
            } from first),
            levels as (
                select {group} as value, max(case
                    when step = 3 and us - start_2 <= {WITHIN_US} then 3
                    when step = 2 and us - start_1 <= {WITHIN_US} then 2
                    when step = 1 then 1
                    else 0 end) as level
                from second group by user_id)
            select value, level, count(*) from levels where level > 0 group by all""")
        )

    def strict_funnel(self):
        return reached(
            self.rows(f"""
            with events as (
                select user_id, epoch_us(ts) as us, case {STEP} else 0 end as step
                from {self.events()} and user_id is not null),
            followed as (
                select user_id, step, us, lead(step) over w as step_2, lead(us) over w as us_2,
                    lead(step, 2) over w as step_3, lead(us, 2) over w as us_3
                from events window w as (partition by user_id order by us)),
            levels as (
                select max(case
                    when step_2 = 2 and us_2 - us <= {WITHIN_US} and step_3 = 3 and us_3 - us <= {WITHIN_US} then 3
                    when step_2 = 2 and us_2 - us <= {WITHIN_US} then 2
                    else 1 end) as level
                from followed where step = 1 group by user_id)
            select 'all', level, count(*) from levels group by all""")
        )

    def paths(self):
        return self.rows(f"""
            with stops as (
                select user_id, feature, ts from {self.events()} and user_id is not null and feature is not null
                qualify lag(feature) over (partition by user_id order by ts) is distinct from feature),
            moves as (
                select row_number() over w as step, feature, lead(feature) over w as next
                from stops window w as (partition by user_id order by ts)
                qualify step < {PATH_DEPTH} and next is not null),
            counted as (select step, feature, next, count(*) as users from moves group by all)
            select * from counted
            qualify row_number() over (partition by step order by users desc, feature, next) <= {PATH_ROWS}
            order by step, users desc, feature, next""")


class Daily(Lake):
    """Tables of the distinct users of each day and of daily counts, for UTC and the zone."""

    name = "DuckDB, daily pre-aggregate"
    functions = ("usage", "active_users")

    def __init__(self, window):
        super().__init__(window)
        self.db.execute(f"attach '{self.path(window)}' as daily (read_only); use daily")

    @staticmethod
    def path(window):
        return f"{window.prepared}/daily.duckdb"

    @classmethod
    def prepare(cls, window):
        path = cls.path(window)
        if os.path.exists(path):
            return
        building = f"{path}.new"
        with duckdb.connect(building) as db:
            db.execute("set threads = 2; set timezone = 'UTC'")
            db.execute(f"""
                create table users as select user_id, cast(row_number() over () as uinteger) as id from (
                    select distinct user_id from read_parquet('{window.files}') where user_id is not null);
                create table daily_users (zone varchar, day date, id uinteger);
                create table daily_counts (zone varchar, day date, event_type varchar, feature varchar, n bigint)""")
            for zone in ("UTC", ZONE):
                day = "cast(ts as date)" if zone == "UTC" else f"cast(timezone('{zone}', ts) as date)"
                db.execute(f"""
                    insert into daily_users select distinct '{zone}', {day} as day, id
                    from read_parquet('{window.files}') join users using (user_id) order by day, id;
                    insert into daily_counts select '{zone}', {day} as day, event_type, feature, count(*)
                    from read_parquet('{window.files}') group by all order by day""")
        os.rename(building, path)

    def of(self, table):
        window = self.window
        return f"{table} where zone = '{window.zone}' and day between date '{window.first}' and date '{window.last}'"

    def usage(self):
        (user_days, mau) = self.rows(f"select count(*), count(distinct id) from {self.of('daily_users')}")[0]
        ((user_weeks,),) = self.rows(
            f"select count(*) from (select distinct date_trunc('week', day), id from {self.of('daily_users')})"
        )
        ((total, days, weeks),) = self.rows(
            "select cast(sum(n) as bigint), count(distinct day), count(distinct date_trunc('week', day)) "
            f"from {self.of('daily_counts')}"
        )
        groups = [
            dict(
                self.rows(
                    f"select {column}, cast(sum(n) as bigint) from {self.of('daily_counts')} "
                    f"and {column} is not null group by 1"
                )
            )
            for column in ("feature", "event_type")
        ]
        return [[total, days, weeks, mau, user_days, user_weeks], *groups]

    def active_users(self):
        return rolling(
            self.window,
            self.rows(f"""
            with gaps as (
                select day, least(coalesce(lead(day) over (partition by id order by day) - day, 30), 30) as gap
                from {self.of("daily_users")})
            select day, gap, count(*) from gaps group by all"""),
        )


ENGINES = [Lake, Daily]
