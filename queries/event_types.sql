-- {"metric":"event_types","days":90,"end":"2024-03-02"}
-- How many events of each type were there within the window, and of how many distinct users? In the order of a funnel.
-- Events without a user (null) count as events and not as users. Each of the three types has a row, also without events; declared ones follow by name.
-- Every stored event counts: the lake has an event_id once, and an event without an id is never a duplicate.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
with counted as (
  select
    event_type,
    count(*) as occurrences,
    count(distinct user_id) as users
  from events
  where day between :from_day and :to_day
  group by event_type
  union all
  select
    'page_view' as event_type,
    0 as occurrences,
    0 as users
  union all
  select
    'action' as event_type,
    0 as occurrences,
    0 as users
  union all
  select
    'conversion' as event_type,
    0 as occurrences,
    0 as users
),
types as (
  select
    event_type,
    case
      when event_type = 'page_view' then 1
      when event_type = 'action' then 2
      when event_type = 'conversion' then 3
      else 4
    end as place,
    max(occurrences) as occurrences,
    max(users) as users
  from counted
  group by event_type
)
select
  event_type,
  occurrences,
  users
from types
order by place, event_type
