-- {"metric":"events","limit":9,"days":10,"end":"2024-02-29"}
-- Which events were there within the window? The newest come first, at most as many as the limit.
-- Events at one time are ordered by user, those without a user (null) first, and those of one user by their place in the
-- log, the last one first.
-- Every stored event is a row: the lake has an event_id once, and an event without an id is never a duplicate.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param max_rows BIGINT limit of the events
with scoped as (
  select
    ts_us,
    case when user_id is null then '' else user_id end as holder,
    position,
    event_type,
    user_id,
    feature,
    metadata,
    url,
    event_id
  from events
  where day between :from_day and :to_day
),
ranked as (
  select
    ts_us,
    holder,
    position,
    event_type,
    user_id,
    feature,
    metadata,
    url,
    event_id,
    count(*) over (
      order by ts_us desc, holder, position desc
      rows between unbounded preceding and current row
    ) as place
  from scoped
)
select
  ts_us,
  event_type,
  user_id,
  feature,
  metadata,
  url,
  event_id
from ranked
where place <= :max_rows
order by ts_us desc, holder, position desc
