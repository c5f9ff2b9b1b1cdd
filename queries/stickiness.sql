-- {"metric":"stickiness","grain":"day","days":7,"end":"2024-03-02"}
-- How many users were active on exactly n days of the window, and on n or more? For each n from 1 to the number of its days.
-- Events without a user (null) are not counted. Several events on a day are one day, so ties do not matter.
-- A number of days without users has a row of zeros.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param from_num BIGINT day_num of the first day of the window
-- param to_num BIGINT day_num of the last day of the window
with habits as (
  select
    user_id,
    count(distinct day_num) as active_days
  from events
  where day between :from_day and :to_day
    and user_id is not null
  group by user_id
),
counted as (
  select
    active_days,
    count(*) as users
  from habits
  group by active_days
  union all
  select
    number + 1 as active_days,
    0 as users
  from numbers
  where number <= :to_num - :from_num
),
histogram as (
  select
    active_days,
    sum(users) as users
  from counted
  group by active_days
)
select
  active_days,
  users,
  sum(users) over (
    order by active_days desc
    rows between unbounded preceding and current row
  ) as cumulative
from histogram
order by active_days
