-- {"metric":"trends","series":[{"measure":"sessions"}],"grain":"week","breakdown":"feature","limit":2,"days":26,"end":"2024-01-21"}
-- How many sessions began in each week of the window, by the feature of their first event? A session is the events of
-- one user with gaps of at most 30 minutes. Events without a user (null) are in none; events of a user at one
-- microsecond are in the order of the log (position). A session that began before the window is left out: its events of
-- the day before show it. The features with the most sessions of the window come first, ties by name; then the sessions
-- whose first event has no feature (kind missing), and those of all other features (kind rest). Weeks without any have
-- zeros.
-- param eve_day DATE day before the first day of the window
-- param to_day DATE last day of the window
-- param from_num BIGINT day_num of the first day of the window
-- param from_week BIGINT week_num of the first day of the window
-- param to_week BIGINT week_num of the last day of the window
-- param max_groups BIGINT limit of the features
with visits as (
  select
    user_id,
    ts_us,
    day_num,
    week_num,
    case when feature is null then 1 else 0 end as is_missing,
    case when feature is null then '' else feature end as feature_name,
    count(*) over (
      partition by user_id
      order by ts_us, position
      rows between unbounded preceding and current row
    ) as visit_place
  from events
  where day between :eve_day and :to_day
    and user_id is not null
),
followed as (
  select user_id, ts_us, visit_place + 1 as next_place
  from visits
),
marks as (
  select user_id, visit_place, 1 as mark
  from visits
  union all
  select visits.user_id as user_id, visits.visit_place as visit_place, 0 - 1 as mark
  from visits
  join followed on followed.user_id = visits.user_id and followed.next_place = visits.visit_place
  where visits.ts_us - followed.ts_us <= 1800000000
),
starts as (
  select user_id, visit_place, sum(mark) as is_start
  from marks
  group by user_id, visit_place
),
begun as (
  select
    visits.week_num as week_num,
    visits.is_missing as is_missing,
    visits.feature_name as feature_name
  from visits
  join starts on starts.user_id = visits.user_id and starts.visit_place = visits.visit_place
  where starts.is_start = 1
    and visits.day_num >= :from_num
),
totals as (
  select is_missing, feature_name, count(*) as total
  from begun
  group by is_missing, feature_name
),
ranked as (
  select
    is_missing,
    feature_name,
    sum(1 - is_missing) over (
      order by is_missing, total desc, feature_name
      rows between unbounded preceding and current row
    ) as place
  from totals
),
placed as (
  select
    is_missing,
    feature_name,
    case when is_missing = 1 then :max_groups + 1
      when place <= :max_groups then place
      else :max_groups + 2 end as group_place,
    case when is_missing = 1 then 'missing'
      when place <= :max_groups then 'value'
      else 'rest' end as kind,
    case when is_missing = 0 and place <= :max_groups then feature_name else '' end as group_name
  from ranked
),
weeks as (
  select :from_week + 7 * number as week_num
  from numbers
  where 7 * number <= :to_week - :from_week
),
cells as (
  select begun.week_num as week_num, placed.group_place as group_place, placed.kind as kind,
    placed.group_name as group_name, 1 as one
  from begun
  join placed on placed.is_missing = begun.is_missing and placed.feature_name = begun.feature_name
  union all
  select weeks.week_num as week_num, placed.group_place as group_place, placed.kind as kind,
    placed.group_name as group_name, 0 as one
  from weeks
  cross join placed
)
select
  week_num,
  group_place,
  kind,
  group_name,
  sum(one) as session_count
from cells
group by week_num, group_place, kind, group_name
order by group_place, week_num
