-- {"metric":"trends","series":[{"filter":{"event_type":"page_view"}},{"filter":{"event_type":"page_view"},"measure":"users"}],"grain":"week","breakdown":"feature","limit":1,"compare":"previous","formula":"A/B","days":33,"end":"2024-02-02"}
-- How many events of a type, and how many distinct users with one, did each week of the window have, by feature? The
-- features with the most events of the window come first, ties by users, then by name; then the events without a feature
-- (kind missing), and those of all other features (kind rest). Events without a user count as events and not as users; a week without any
-- has zeros.
-- The formula divides the two, and the weeks before are the same query with their window.
-- Every stored event counts: the lake has an event_id once, and an event without an id is never a duplicate.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param from_week BIGINT week_num of the first day of the window
-- param to_week BIGINT week_num of the last day of the window
-- param series_event_type TEXT event type of both series
-- param max_groups BIGINT limit of the features
with scoped as (
  select
    week_num,
    user_id,
    case when feature is null then 1 else 0 end as is_missing,
    case when feature is null then '' else feature end as feature_name
  from events
  where day between :from_day and :to_day
    and event_type = :series_event_type
),
totals as (
  select
    is_missing,
    feature_name,
    count(*) as total,
    count(distinct user_id) as total_users
  from scoped
  group by is_missing, feature_name
),
ranked as (
  select
    is_missing,
    feature_name,
    sum(1 - is_missing) over (
      order by is_missing, total desc, total_users desc, feature_name
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
sorted as (
  select
    scoped.week_num as week_num,
    scoped.user_id as user_id,
    placed.group_place as group_place,
    placed.kind as kind,
    placed.group_name as group_name
  from scoped
  join placed on placed.is_missing = scoped.is_missing and placed.feature_name = scoped.feature_name
),
weeks as (
  select :from_week + 7 * number as week_num
  from numbers
  where 7 * number <= :to_week - :from_week
),
cells as (
  select week_num, group_place, kind, group_name, count(*) as occurrences, count(distinct user_id) as users
  from sorted
  group by week_num, group_place, kind, group_name
  union all
  select weeks.week_num as week_num, placed.group_place as group_place, placed.kind as kind,
    placed.group_name as group_name, 0 as occurrences, 0 as users
  from weeks
  cross join placed
)
select
  week_num,
  group_place,
  kind,
  group_name,
  max(occurrences) as occurrences_of_week,
  max(users) as users_of_week
from cells
group by week_num, group_place, kind, group_name
order by group_place, week_num
