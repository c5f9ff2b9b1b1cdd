-- {"metric":"experiment","exposure":{"feature":"home"},"variant":"platform","goal":{"event_type":"conversion"},"control":"desktop","days":7,"end":"2024-03-02"}
-- How many users were exposed to each variant within the window, and how many of them reached the goal from then on?
-- An exposure without a variant (null) and an event without a user are not counted. An exposure is never a goal.
-- A goal at the microsecond of the exposure counts. A user exposed to several variants is in none of them, only in __multiple__.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param exposure_feature TEXT feature of an exposure
-- param goal_event_type TEXT event_type of a goal
-- param control TEXT the variant that the others are compared with
with exposed as (
  select
    user_id,
    min(variant) as arm,
    count(distinct variant) as variants,
    min(ts_us) as exposed_us
  from events
  where day between :from_day and :to_day
    and user_id is not null
    and feature = :exposure_feature
    and variant is not null
  group by user_id
),
goals as (
  select
    user_id,
    max(ts_us) as goal_us
  from events
  where day between :from_day and :to_day
    and user_id is not null
    and event_type = :goal_event_type
    and (feature is null or feature <> :exposure_feature)
  group by user_id
),
counted as (
  select
    arm as variant,
    1 as exposed,
    0 as converted
  from exposed
  where variants = 1
  union all
  select
    exposed.arm as variant,
    0 as exposed,
    1 as converted
  from exposed
  join goals on goals.user_id = exposed.user_id
  where exposed.variants = 1
    and goals.goal_us >= exposed.exposed_us
  union all
  select
    '__multiple__' as variant,
    1 as exposed,
    0 as converted
  from exposed
  where variants > 1
  union all
  select
    :control as variant,
    0 as exposed,
    0 as converted
  union all
  select
    '__multiple__' as variant,
    0 as exposed,
    0 as converted
),
arms as (
  select
    variant,
    sum(exposed) as exposed,
    sum(converted) as converted,
    case
      when variant = :control then 1
      when variant = '__multiple__' then 3
      else 2
    end as place
  from counted
  group by variant
)
select
  variant,
  exposed,
  converted
from arms
order by place, variant
