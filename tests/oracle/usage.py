"""Usage of a window, computed by DuckDB from the lake and the lines of the event log: an independent implementation.

Usage: usage.py DATA_DIR FROM TO TZ      (days, both included, of the zone)
"""

import glob
import json
import sys

import duckdb

data_dir, first, last, tz = sys.argv[1:5]
sources = [
    f"""select ts, event_type, user_id, feature
    from read_json('{data_dir}/analytics_events.ndjson', format = 'newline_delimited', columns = {{
        ts: 'TIMESTAMPTZ', event_type: 'VARCHAR', user_id: 'VARCHAR', feature: 'VARCHAR'}})"""
]
lake = f"{data_dir}/events/*/*.parquet"
if glob.glob(lake):
    sources.append(f"select ts, event_type, user_id, feature from read_parquet('{lake}')")
db = duckdb.connect()
db.execute(f"set timezone = '{tz}'")
db.execute(
    f"""
    create table events as
    select cast(ts at time zone ? as date) as day, event_type, user_id, feature
    from ({" union all ".join(sources)})
    where cast(ts at time zone ? as date) between cast(? as date) and cast(? as date)
    """,
    [tz, tz, first, last],
)


def number(sql):
    return db.execute(sql).fetchone()[0]


days = number("select count(distinct day) from events")
weeks = number("select count(distinct date_trunc('week', day)) from events")
per_day = number(
    "select coalesce(sum(users), 0) from (select count(distinct user_id) as users from events group by day)"
)
per_week = number(
    "select coalesce(sum(users), 0) from"
    " (select count(distinct user_id) as users from events group by date_trunc('week', day))"
)
features = db.execute(
    "select feature, count(*) as n from events where feature is not null"
    " group by feature order by n desc, encode(feature)"
).fetchall()
types = dict(db.execute("select event_type, count(*) from events group by event_type").fetchall())
print(
    json.dumps(
        {
            "dau": int(per_day) / days if days else 0.0,
            "wau": int(per_week) / weeks if weeks else 0.0,
            "mau": number("select count(distinct user_id) from events"),
            "feature_usage": features,
            "funnel_steps": [[t, types.get(t, 0)] for t in ("page_view", "action", "conversion")],
            "total_events": number("select count(*) from events"),
            "unique_days": days,
            "unique_weeks": weeks,
        }
    )
)
