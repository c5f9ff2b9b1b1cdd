-- {"metric":"retention","grain":"week","cohort":"first","returning":"on","start":{"feature":"catalog"},"return":{"feature":"product_view"},"days":22,"end":"2024-01-17"}
-- Of the users whose first start in the window is in a week, how many returned in the k-th calendar week after it?
-- Cell 0 is the size of the cohort. Events without a user, and events outside the window, are not counted. Several events
-- in a week are one return, so ties do not matter. A cell whose week ends after the window has no row; a zero has one.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param to_num BIGINT day_num of the last day of the window
-- param from_week BIGINT week_num of the first day of the window
-- param to_week BIGINT week_num of the last day of the window
-- param start_feature TEXT feature of a start
-- param return_feature TEXT feature of a return
with weeks as (
  select :from_week + 7 * number as week_num
  from numbers
  where 7 * number <= :to_week - :from_week
),
cells as (
  select
    weeks.week_num as cohort_num,
    numbers.number as weeks_later,
    weeks.week_num + 7 * numbers.number as return_num
  from weeks
  cross join numbers
  where weeks.week_num + 7 * numbers.number + 6 <= :to_num
    or numbers.number = 0
),
starts as (
  select
    user_id,
    min(week_num) as cohort_num
  from events
  where day between :from_day and :to_day
    and user_id is not null
    and feature = :start_feature
  group by user_id
),
returns as (
  select distinct
    user_id,
    week_num
  from events
  where day between :from_day and :to_day
    and user_id is not null
    and feature = :return_feature
),
kept as (
  select
    starts.cohort_num as cohort_num,
    starts.cohort_num as return_num
  from starts
  union all
  select
    starts.cohort_num as cohort_num,
    returns.week_num as return_num
  from starts
  join returns on returns.user_id = starts.user_id
  where returns.week_num > starts.cohort_num
),
counted as (
  select
    cells.cohort_num as cohort_num,
    cells.weeks_later as weeks_later,
    1 as users
  from cells
  join kept on kept.cohort_num = cells.cohort_num and kept.return_num = cells.return_num
  union all
  select
    cohort_num,
    weeks_later,
    0 as users
  from cells
)
select
  cohort_num,
  weeks_later,
  sum(users) as users
from counted
group by cohort_num, weeks_later
order by cohort_num, weeks_later
