-- {"metric":"trends","series":[{"filter":{"event_type":"page_view"},"measure":"sum","of":"metadata.price"},{"filter":{"event_type":"page_view"},"measure":"mean","of":"metadata.price"},{"filter":{"event_type":"page_view"},"measure":"min","of":"metadata.price"},{"filter":{"event_type":"page_view"},"measure":"max","of":"metadata.price"},{"filter":{"event_type":"page_view"},"measure":"median","of":"metadata.price"},{"filter":{"event_type":"page_view"},"measure":"p90","of":"metadata.price"},{"filter":{"event_type":"page_view"},"measure":"p95","of":"metadata.price"},{"filter":{"event_type":"page_view"},"measure":"p99","of":"metadata.price"}],"grain":"week","days":33,"end":"2024-02-02"}
-- The sum, mean, least and greatest value, median and percentiles of a number of the events of a type, by week. Events
-- whose value is null or no number (amount is null) are left out; a week without any has no row. A quantile between
-- two numbers is interpolated linearly. Every stored event counts: the lake has an event_id once.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param series_event_type TEXT event type of the series
with scoped as (
  select week_num, amount
  from events
  where day between :from_day and :to_day
    and event_type = :series_event_type
    and amount is not null
),
sizes as (
  select week_num, count(*) - 1 as last_place
  from scoped
  group by week_num
),
ranked as (
  select
    week_num,
    amount,
    count(*) over (
      partition by week_num
      order by amount
      rows between unbounded preceding and current row
    ) - 1 as rank_place
  from scoped
),
distances as (
  -- Distance of each row from the position of a quantile, in the parts of a row that it is a multiple of: halves,
  -- tenths, twentieths and hundredths.
  select
    ranked.week_num as week_num,
    ranked.amount as amount,
    2 * ranked.rank_place - sizes.last_place as from_median,
    10 * ranked.rank_place - 9 * sizes.last_place as from_p90,
    20 * ranked.rank_place - 19 * sizes.last_place as from_p95,
    100 * ranked.rank_place - 99 * sizes.last_place as from_p99
  from ranked
  join sizes on sizes.week_num = ranked.week_num
),
parts as (
  select
    week_num,
    amount,
    case
      when from_median between -2 and 0 then amount * (2 + from_median)
      when from_median between 0 and 2 then amount * (2 - from_median)
      else 0
    end as median_part,
    case
      when from_p90 between -10 and 0 then amount * (10 + from_p90)
      when from_p90 between 0 and 10 then amount * (10 - from_p90)
      else 0
    end as p90_part,
    case
      when from_p95 between -20 and 0 then amount * (20 + from_p95)
      when from_p95 between 0 and 20 then amount * (20 - from_p95)
      else 0
    end as p95_part,
    case
      when from_p99 between -100 and 0 then amount * (100 + from_p99)
      when from_p99 between 0 and 100 then amount * (100 - from_p99)
      else 0
    end as p99_part
  from distances
)
select
  week_num,
  count(*) as amounts,
  sum(amount) as total,
  min(amount) as least,
  max(amount) as greatest,
  sum(median_part) as median_2,
  sum(p90_part) as p90_10,
  sum(p95_part) as p95_20,
  sum(p99_part) as p99_100
from parts
group by week_num
order by week_num
