-- {"metric":"active_users","grain":"day","days":6,"end":"2024-03-02"}
-- How many distinct users had an event on each day of the window, in the 7 days and in the 30 days that end with that day?
-- Events without a user (null) count for nobody. A user counts once however many events there are, so ties cannot matter.
-- The days before the window are looked back at: its first day sees as far as its last. Days without users have zeros.
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
remembered as (
  select
    active.user_id as month_user,
    case when numbers.number < 7 then active.user_id else null end as week_user,
    case when numbers.number = 0 then active.user_id else null end as day_user,
    active.day_num + numbers.number as day_num
  from active
  cross join numbers
  where numbers.number < 30
),
counted as (
  select
    day_num,
    count(distinct day_user) as day_users,
    count(distinct week_user) as week_users,
    count(distinct month_user) as month_users
  from remembered
  where day_num between :from_num and :to_num
  group by day_num
  union all
  select
    :from_num + number as day_num,
    0 as day_users,
    0 as week_users,
    0 as month_users
  from numbers
  where number <= :to_num - :from_num
)
select
  day_num,
  max(day_users) as dau,
  max(week_users) as wau,
  max(month_users) as mau
from counted
group by day_num
order by day_num
