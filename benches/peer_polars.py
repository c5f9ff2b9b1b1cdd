"""The queries of the comparison in Polars, on the lake."""

import polars as pl
from figures import FEATURE_ROWS, PATH_DEPTH, PATH_ROWS, PROPERTY, STEPS, VALUE, VALUES, WITHIN_DAYS, reached, rolling


class Lake:
    name = "Polars"

    def __init__(self, window):
        self.window = window

    def events(self, filtered=False):
        def bound(time):
            return pl.lit(time).str.to_datetime(time_unit="us", time_zone="UTC")

        events = pl.scan_parquet(self.window.files, hive_partitioning=False).filter(
            pl.col("ts") >= bound(self.window.start), pl.col("ts") < bound(self.window.end)
        )
        return events.filter(self.property() == VALUE) if filtered else events

    def property(self):
        return pl.col("metadata").str.json_path_match(f"$.{PROPERTY}")

    def day(self):
        zone = self.window.zone
        ts = pl.col("ts")
        return (ts if zone == "UTC" else ts.dt.convert_time_zone(zone)).dt.date()

    def usage(self):
        events = self.events()
        active = (
            events.select(day=self.day(), user=pl.col("user_id"))
            .unique()
            .with_columns(week=pl.col("day").dt.truncate("1w"))
        )
        known = active.filter(pl.col("user").is_not_null())
        frames = pl.collect_all(
            [
                events.select(pl.len()),
                active.select(pl.col("day").n_unique(), pl.col("week").n_unique()),
                known.select(pl.col("user").n_unique(), pl.len().alias("user_days")),
                known.select("week", "user").unique().select(pl.len()),
                *(events.filter(pl.col(c).is_not_null()).group_by(c).agg(pl.len()) for c in ("feature", "event_type")),
            ],
            engine="streaming",
        )
        (total,), (days, weeks), (mau, user_days), (user_weeks,) = (frame.row(0) for frame in frames[:4])
        groups = (dict(frame.iter_rows()) for frame in frames[4:])
        return [[total, days, weeks, mau, user_days, user_weeks], *groups]

    def active_users(self, filtered=False):
        events = self.events(filtered).filter(pl.col("user_id").is_not_null())
        active = events.select(self.user(), day=self.day()).unique().sort("user", "day")
        gap = pl.when(pl.col("user") == pl.col("user").shift(-1)).then(
            (pl.col("day").shift(-1) - pl.col("day")).dt.total_days()
        )
        gaps = active.with_columns(gap=gap.fill_null(30).clip(upper_bound=30)).group_by("day", "gap").agg(pl.len())
        return rolling(self.window, gaps.collect(engine="streaming").iter_rows())

    def user(self):
        """The users as integers, which sort and compare faster than strings."""
        return pl.col("user_id").cast(pl.Categorical).to_physical().alias("user")

    def feature_usage(self):
        events = self.events(True).filter(pl.col("feature").is_not_null())
        counted = events.group_by("feature").agg(
            pl.len().alias("n"), pl.col("user_id").drop_nulls().n_unique().alias("users")
        )
        counted = counted.sort(["n", "feature"], descending=[True, False]).head(FEATURE_ROWS)
        return counted.collect(engine="streaming").rows()

    def trends(self, users=False):
        n = pl.col("user").drop_nulls().n_unique() if users else pl.len()
        events = self.events().select(day=self.day(), value=self.property().fill_null(""), user="user_id")
        counted = events.group_by("day", "value").agg(n=n).filter(pl.col("n") > 0)
        return (
            counted.select(pl.col("day").cast(pl.String), "value", "n")
            .sort("day", "value")
            .collect(engine="streaming")
            .rows()
        )

    def hours(self):
        hour = pl.col("ts").dt.strftime("%Y-%m-%dT%H")
        counted = (
            self.events()
            .group_by(pl.col("ts").dt.truncate("1h"))
            .agg(n=pl.len(), users=pl.col("user_id").drop_nulls().n_unique())
        )
        return counted.select(hour, "n", "users").sort("ts").collect(engine="streaming").rows()

    def values(self):
        values = self.events().select(value=self.property()).filter(pl.col("value").is_not_null())
        counted = values.group_by("value").agg(n=pl.len()).sort(["n", "value"], descending=[True, False]).head(VALUES)
        return counted.collect(engine="streaming").rows()

    def funnel(self, filtered=False, breakdown=False):
        is_step = pl.col("feature").is_in(STEPS) & pl.col("user_id").is_not_null()
        group = self.property().alias("group") if breakdown else pl.lit("all").alias("group")
        events = self.events(filtered).filter(is_step).select("user_id", "feature", "ts", group).sort("ts")
        within = pl.col("ts") - pl.col("start") <= pl.duration(days=WITHIN_DAYS)
        # Each event continues the attempt with the latest event of the previous step, which has the latest start.
        of_step = events.collect(engine="streaming").partition_by("feature", as_dict=True, include_key=False)
        of_step = [of_step[step,] for step in STEPS]
        attempts = of_step[0].with_columns(start="ts")
        levels = [attempts]
        for step in of_step[1:]:
            step = step.drop("group")
            attempts = step.join_asof(attempts, on="ts", by="user_id", check_sortedness=False).filter(within)
            levels.append(attempts)
        users = pl.concat(
            [level.select("user_id", "group", pl.lit(place).alias("level")) for place, level in enumerate(levels, 1)]
        )
        counted = users.group_by("user_id").agg(pl.col("group").first(), pl.col("level").max())
        return reached(counted.group_by("group", "level").agg(pl.len()).iter_rows())

    def strict_funnel(self):
        step = pl.col("feature").replace_strict(STEPS, [1, 2, 3], default=0, return_dtype=pl.UInt8)
        events = self.events().filter(pl.col("user_id").is_not_null())
        events = events.select(self.user(), "ts", step=step).sort("user", "ts")

        def follows(place):
            later = pl.all_horizontal(
                pl.col("user").shift(-place) == pl.col("user"),
                pl.col("step").shift(-place) == place + 1,
                pl.col("ts").shift(-place) - pl.col("ts") <= pl.duration(days=WITHIN_DAYS),
            )
            return later.fill_null(value=False)

        level = pl.when(follows(1) & follows(2)).then(3).when(follows(1)).then(2).otherwise(1)
        levels = (
            events.with_columns(level=level).filter(pl.col("step") == 1).group_by("user").agg(pl.col("level").max())
        )
        counted = levels.group_by(pl.lit("all").alias("group"), "level").agg(pl.len())
        return reached(counted.collect(engine="streaming").iter_rows())

    def paths(self):
        events = self.events().filter(pl.col("user_id").is_not_null(), pl.col("feature").is_not_null())
        feature = pl.col("feature").cast(pl.Categorical).alias("from")
        uses = events.select(self.user(), "ts", feature).sort("user", "ts")
        is_stop = (pl.col("user") != pl.col("user").shift()) | (pl.col("from") != pl.col("from").shift())
        stops = uses.filter(is_stop.fill_null(value=True)).select("user", "from").collect(engine="streaming").lazy()
        # Stops are in the order of users: their places begin at the first of each user.
        row = pl.int_range(pl.len(), dtype=pl.UInt32)
        is_first = (pl.col("user") != pl.col("user").shift()).fill_null(value=True)
        start = pl.when(is_first).then(row).forward_fill()
        moves = stops.with_columns(
            step=row - start + 1,
            to=pl.when(pl.col("user") == pl.col("user").shift(-1)).then(pl.col("from").shift(-1)),
        ).filter(pl.col("step") < PATH_DEPTH, pl.col("to").is_not_null())
        counted = moves.group_by("step", pl.col("from", "to").cast(pl.String)).agg(users=pl.len())
        order = {"by": ["step", "users", "from", "to"], "descending": [False, True, False, False]}
        ranked = counted.sort(**order).group_by("step", maintain_order=True).head(PATH_ROWS)
        return ranked.select("step", "from", "to", "users").collect().rows()


ENGINES = [Lake]
