-- {"metric":"lifecycle","grain":"week","days":26,"end":"2024-01-21"}
-- How many users of each week were new, returned from the week before, or after a pause, and how many of last week stayed away?
-- New is the week of the first event ever, so all history up to the end of the window is read. Events without a user are
-- not counted. A week in which the window begins counts in full; events after the end of the window do not count. A user
-- counts once in a week, so ties do not matter.
-- param to_day DATE last day of the window
-- param from_week BIGINT week_num of the first day of the window
-- param to_week BIGINT week_num of the last day of the window
with active as (
  select distinct
    user_id,
    week_num
  from events
  where day <= :to_day
    and user_id is not null
),
aged as (
  select
    user_id,
    week_num,
    min(week_num) over (
      partition by user_id
      order by week_num
      rows between unbounded preceding and current row
    ) as first_week
  from active
),
marks as (
  select
    user_id,
    first_week,
    week_num,
    1 as is_here,
    0 as was_here
  from aged
  union all
  select
    user_id,
    first_week,
    week_num + 7 as week_num,
    0 as is_here,
    1 as was_here
  from aged
),
states as (
  select
    user_id,
    first_week,
    week_num,
    max(is_here) as is_here,
    max(was_here) as was_here
  from marks
  where week_num between :from_week and :to_week
  group by user_id, first_week, week_num
),
counted as (
  select
    week_num,
    case when first_week = week_num then 1 else 0 end as new_users,
    case when is_here = 1 and was_here = 1 then 1 else 0 end as returning_users,
    case when is_here = 1 and was_here = 0 and first_week < week_num then 1 else 0 end as resurrecting_users,
    case when is_here = 0 then -1 else 0 end as dormant_users
  from states
  union all
  select
    :from_week + 7 * number as week_num,
    0 as new_users,
    0 as returning_users,
    0 as resurrecting_users,
    0 as dormant_users
  from numbers
  where 7 * number <= :to_week - :from_week
)
select
  week_num,
  sum(new_users) as new_count,
  sum(returning_users) as returning_count,
  sum(resurrecting_users) as resurrecting_count,
  sum(dormant_users) as dormant_count
from counted
group by week_num
order by week_num
