-- {"metric":"active_users","grain":"day","days":6,"end":"2024-03-02"}
-- How many distinct users had an event on each day of the window, in the 7 days and in the 30 days that end with that day?
-- Events without a user (null) are not counted. A user counts once, whatever the number of events, so ties do not matter.
-- A user's active day counts for 7 and 30 days, less the days that the user's next active day covers. Days without users
-- have zeros. Less 0, a count has a sign also in engines whose counts have none, which could not be added to those with one.
-- param lookback_day DATE 29 days before the first day of the window
-- param to_day DATE last day of the window
-- param from_num BIGINT day_num of the first day of the window
-- param to_num BIGINT day_num of the last day of the window
with active as (
  select distinct
    user_id,
    day_num
  from events
  where day between :lookback_day and :to_day
    and user_id is not null
),
placed as (
  select
    user_id,
    day_num,
    count(*) over (
      partition by user_id
      order by day_num
      rows between unbounded preceding and current row
    ) as place
  from active
),
followed as (
  select
    user_id,
    day_num,
    place + 1 as next_place
  from placed
),
begun as (
  select
    day_num,
    count(*) - 0 as users
  from active
  group by day_num
),
covered as (
  select
    followed.day_num as day_num,
    placed.day_num as next_num,
    count(*) - 0 as users
  from followed
  join placed on placed.user_id = followed.user_id and placed.place = followed.next_place
  where placed.day_num < followed.day_num + 30
  group by followed.day_num, placed.day_num
),
steps as (
  select day_num, users as day_step, users as week_step, users as month_step
  from begun
  union all
  select day_num + 1 as day_num, 0 - users as day_step, 0 as week_step, 0 as month_step
  from begun
  union all
  select day_num + 7 as day_num, 0 as day_step, 0 - users as week_step, 0 as month_step
  from begun
  union all
  select day_num + 30 as day_num, 0 as day_step, 0 as week_step, 0 - users as month_step
  from begun
  union all
  select
    next_num as day_num,
    0 as day_step,
    case when next_num < day_num + 7 then 0 - users else 0 end as week_step,
    0 - users as month_step
  from covered
  union all
  select day_num + 7 as day_num, 0 as day_step, users as week_step, 0 as month_step
  from covered
  where next_num < day_num + 7
  union all
  select day_num + 30 as day_num, 0 as day_step, 0 as week_step, users as month_step
  from covered
  union all
  select :from_num + number as day_num, 0 as day_step, 0 as week_step, 0 as month_step
  from numbers
  where number <= :to_num - :from_num
),
changes as (
  select
    day_num,
    sum(day_step) as day_change,
    sum(week_step) as week_change,
    sum(month_step) as month_change
  from steps
  group by day_num
),
counted as (
  select
    day_num,
    sum(day_change) over (
      order by day_num
      rows between unbounded preceding and current row
    ) as dau,
    sum(week_change) over (
      order by day_num
      rows between unbounded preceding and current row
    ) as wau,
    sum(month_change) over (
      order by day_num
      rows between unbounded preceding and current row
    ) as mau
  from changes
)
select
  day_num,
  dau,
  wau,
  mau
from counted
where day_num between :from_num and :to_num
order by day_num
