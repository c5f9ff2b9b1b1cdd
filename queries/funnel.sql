-- {"metric":"funnel","steps":[{"feature":"catalog"},{"feature":"product_view"},{"feature":"add_to_cart"}],"within":"7d","order":"ordered","days":26,"end":"2024-01-21"}
-- How many users took the three steps in order, within the conversion window (inclusive) of step 1, and in what time?
-- A user counts by the best entry: most steps, earliest completion, latest step 1 for it; between them, the earliest step 2.
-- Events without a user (null) are not counted. At one microsecond steps are in the order of their numbers. The steps are
-- different features.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param step_1 TEXT feature of step 1
-- param step_2 TEXT feature of step 2
-- param step_3 TEXT feature of step 3
-- param within_us BIGINT the conversion window in microseconds
with hits as (
  select
    user_id,
    ts_us,
    case
      when feature = :step_1 then 1
      when feature = :step_2 then 2
      else 3
    end as step
  from events
  where day between :from_day and :to_day
    and user_id is not null
    and feature in (:step_1, :step_2, :step_3)
),
entries as (
  select
    user_id,
    ts_us,
    step,
    max(case when step = 1 then ts_us else null end) over (
      partition by user_id
      order by ts_us, step
      rows between unbounded preceding and current row
    ) as entry_us
  from hits
),
second_steps as (
  select
    user_id,
    ts_us,
    step,
    entry_us,
    case when step = 2 and ts_us - entry_us <= :within_us then entry_us else null end as second_entry_us
  from entries
),
carried as (
  select
    user_id,
    ts_us,
    step,
    entry_us,
    second_entry_us,
    max(second_entry_us) over (
      partition by user_id
      order by ts_us, step
      rows between unbounded preceding and current row
    ) as carried_entry_us
  from second_steps
),
third_steps as (
  select
    user_id,
    ts_us,
    entry_us,
    second_entry_us,
    case when step = 3 and ts_us - carried_entry_us <= :within_us then carried_entry_us else null end as third_entry_us
  from carried
),
completions as (
  -- The carried entries never go back in time, so the first completion is also the one with the earliest entry.
  select
    user_id,
    min(second_entry_us) as entry_of_two_us,
    min(third_entry_us) as entry_of_three_us,
    min(case when third_entry_us is not null then ts_us else null end) as third_us
  from third_steps
  where entry_us is not null
  group by user_id
),
attempts as (
  select
    user_id,
    case
      when entry_of_three_us is not null then 3
      when entry_of_two_us is not null then 2
      else 1
    end as reached,
    case when entry_of_three_us is not null then entry_of_three_us else entry_of_two_us end as entry_us,
    third_us
  from completions
),
followed as (
  select
    attempts.user_id as user_id,
    attempts.reached as reached,
    attempts.entry_us as entry_us,
    attempts.third_us as third_us,
    min(hits.ts_us) as second_us
  from attempts
  join hits on hits.user_id = attempts.user_id
  where hits.step = 2
    and hits.ts_us >= attempts.entry_us
  group by attempts.user_id, attempts.reached, attempts.entry_us, attempts.third_us
),
times as (
  select
    2 as step,
    'first' as since,
    second_us - entry_us as elapsed_us
  from followed
  union all
  select
    2 as step,
    'previous' as since,
    second_us - entry_us as elapsed_us
  from followed
  union all
  select
    3 as step,
    'first' as since,
    third_us - entry_us as elapsed_us
  from followed
  where reached = 3
  union all
  select
    3 as step,
    'previous' as since,
    third_us - second_us as elapsed_us
  from followed
  where reached = 3
),
sizes as (
  select
    step,
    since,
    count(*) - 1 as last_place
  from times
  group by step, since
),
ranked as (
  select
    step,
    since,
    elapsed_us,
    count(*) over (
      partition by step, since
      order by elapsed_us
      rows between unbounded preceding and current row
    ) - 1 as place
  from times
),
placed as (
  -- Distance of each row from the position of the median, in halves of a row, and from that of the p90, in tenths.
  select
    ranked.step as step,
    ranked.since as since,
    ranked.elapsed_us as elapsed_us,
    2 * ranked.place - sizes.last_place as from_median,
    10 * ranked.place - 9 * sizes.last_place as from_p90
  from ranked
  join sizes on sizes.step = ranked.step and sizes.since = ranked.since
),
counted as (
  -- A quantile between two rows is interpolated linearly.
  select
    step,
    since,
    1 as users,
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
    end as p90_part
  from placed
  union all
  select
    1 as step,
    'first' as since,
    1 as users,
    0 as elapsed_us,
    0 as median_part,
    0 as p90_part
  from attempts
  union all
  select
    number as step,
    'first' as since,
    0 as users,
    0 as elapsed_us,
    0 as median_part,
    0 as p90_part
  from numbers
  where number between 1 and 3
  union all
  select
    number as step,
    'previous' as since,
    0 as users,
    0 as elapsed_us,
    0 as median_part,
    0 as p90_part
  from numbers
  where number between 2 and 3
)
select
  step,
  since,
  sum(users) as users,
  sum(elapsed_us) as sum_us,
  sum(median_part) as median_2us,
  sum(p90_part) as p90_10us
from counted
group by step, since
order by step, since
