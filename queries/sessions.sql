-- {"metric":"sessions","grain":"week","days":26,"end":"2024-01-21"}
-- How many sessions began in each week of the window, by how many distinct users, with how many events, how many of one
-- event (bounces), and how long were they? A session is the events of one user with gaps of at most 30 minutes. Events
-- without a user (null) are in none; events of a user at one microsecond are in the order of the log (position).
-- A session that began before the window is left out: its events of the day before show it. Weeks without any have zeros.
-- param eve_day DATE day before the first day of the window
-- param to_day DATE last day of the window
-- param from_num BIGINT day_num of the first day of the window
-- param from_week BIGINT week_num of the first day of the window
-- param to_week BIGINT week_num of the last day of the window
with placed as (
  select
    user_id,
    ts_us,
    day_num,
    week_num,
    count(*) over (
      partition by user_id
      order by ts_us, position
      rows between unbounded preceding and current row
    ) as place
  from events
  where day between :eve_day and :to_day
    and user_id is not null
),
followed as (
  select user_id, ts_us, place + 1 as next_place
  from placed
),
marks as (
  select user_id, place, 1 as mark
  from placed
  union all
  select placed.user_id as user_id, placed.place as place, 0 - 1 as mark
  from placed
  join followed on followed.user_id = placed.user_id and followed.next_place = placed.place
  where placed.ts_us - followed.ts_us <= 1800000000
),
starts as (
  select user_id, place, sum(mark) as is_start
  from marks
  group by user_id, place
),
numbered as (
  select
    placed.user_id as user_id,
    placed.ts_us as ts_us,
    placed.day_num as day_num,
    placed.week_num as week_num,
    sum(starts.is_start) over (
      partition by placed.user_id
      order by placed.place
      rows between unbounded preceding and current row
    ) as session_num
  from placed
  join starts on starts.user_id = placed.user_id and starts.place = placed.place
),
bounded as (
  select
    user_id,
    session_num,
    min(day_num) as first_num,
    min(week_num) as first_week,
    count(*) as visits,
    max(ts_us) - min(ts_us) as elapsed_us
  from numbered
  group by user_id, session_num
),
begun as (
  select user_id, first_week, visits, elapsed_us
  from bounded
  where first_num >= :from_num
),
sizes as (
  select first_week, count(*) - 1 as last_place
  from begun
  group by first_week
),
ranked as (
  select
    first_week,
    user_id,
    visits,
    elapsed_us,
    count(*) over (
      partition by first_week
      order by elapsed_us
      rows between unbounded preceding and current row
    ) - 1 as rank_place
  from begun
),
distances as (
  -- Distance of each row from the position of the median, in halves of a row, and from that of the p90, in tenths.
  select
    ranked.first_week as first_week,
    ranked.user_id as user_id,
    ranked.visits as visits,
    ranked.elapsed_us as elapsed_us,
    2 * ranked.rank_place - sizes.last_place as from_median,
    10 * ranked.rank_place - 9 * sizes.last_place as from_p90
  from ranked
  join sizes on sizes.first_week = ranked.first_week
),
counted as (
  -- A quantile between two rows is interpolated linearly.
  select
    first_week,
    1 as one,
    visits,
    case when visits = 1 then 1 else 0 end as bounce,
    elapsed_us,
    case
      when from_median between -2 and 0 then elapsed_us * (2 + from_median)
      when from_median between 0 and 2 then elapsed_us * (2 - from_median)
      else 0
    end as median_part,
    case
      when from_p90 between -10 and 0 then elapsed_us * (10 + from_p90)
      when from_p90 between 0 and 10 then elapsed_us * (10 - from_p90)
      else 0
    end as p90_part,
    0 as one_user
  from distances
  union all
  select first_week, 0 as one, 0 as visits, 0 as bounce, 0 as elapsed_us, 0 as median_part, 0 as p90_part,
    count(distinct user_id) as one_user
  from begun
  group by first_week
  union all
  select :from_week + 7 * number as first_week, 0 as one, 0 as visits, 0 as bounce, 0 as elapsed_us, 0 as median_part,
    0 as p90_part, 0 as one_user
  from numbers
  where 7 * number <= :to_week - :from_week
)
select
  first_week,
  sum(one) as session_count,
  sum(one_user) as users,
  sum(visits) as visit_count,
  sum(bounce) as bounce_count,
  sum(elapsed_us) as sum_us,
  sum(median_part) as median_2us,
  sum(p90_part) as p90_10us
from counted
group by first_week
order by first_week
