-- {"metric":"paths","by":"user","depth":4,"start":{"feature":"catalog"},"limit":10,"days":26,"end":"2024-01-21"}
-- From which feature to which do users go, step by step, from their first use of the start on? The most used transitions
-- come first. Events without a user or a feature are left out; repeats of a feature are one stop. Events of a user at one
-- microsecond are in the order of the log (position). Transitions with equal counts are ordered by name.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param start_feature TEXT feature that a path starts with
-- param depth BIGINT limit of the stops of a path
-- param max_rows BIGINT limit of the transitions of a step
with uses as (
  select
    user_id,
    feature,
    count(*) over (
      partition by user_id
      order by ts_us, position
      rows between unbounded preceding and current row
    ) as place,
    sum(case when feature = :start_feature then 1 else 0 end) over (
      partition by user_id
      order by ts_us, position
      rows between unbounded preceding and current row
    ) as starts
  from events
  where day between :from_day and :to_day
    and user_id is not null
    and feature is not null
),
begun as (
  select
    user_id,
    feature,
    place,
    place + 1 as next_place
  from uses
  where starts > 0
),
openings as (
  select
    user_id,
    min(place) as place
  from begun
  group by user_id
),
changes as (
  select
    openings.user_id as user_id,
    :start_feature as feature,
    openings.place as place
  from openings
  union all
  select
    later.user_id as user_id,
    later.feature as feature,
    later.place as place
  from begun as later
  join begun as earlier on earlier.user_id = later.user_id and earlier.next_place = later.place
  where earlier.feature <> later.feature
),
stops as (
  select
    user_id,
    feature,
    count(*) over (
      partition by user_id
      order by place
      rows between unbounded preceding and current row
    ) as step
  from changes
),
departures as (
  select
    user_id,
    feature,
    step,
    step + 1 as next_step
  from stops
  where step < :depth
),
ways as (
  select
    departures.step as step,
    departures.feature as from_feature,
    stops.feature as to_feature,
    count(*) as users
  from departures
  join stops on stops.user_id = departures.user_id and stops.step = departures.next_step
  group by departures.step, departures.feature, stops.feature
),
ranked as (
  select
    step,
    from_feature,
    to_feature,
    users,
    count(*) over (
      partition by step
      order by users desc, from_feature, to_feature
      rows between unbounded preceding and current row
    ) as place
  from ways
)
select
  step,
  from_feature,
  to_feature,
  users
from ranked
where place <= :max_rows
order by step, users desc, from_feature, to_feature
