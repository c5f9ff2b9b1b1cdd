-- {"metric":"feature_usage","limit":3,"days":35,"end":"2024-03-02"}
-- How often was each feature used within the window, and by how many distinct users? The most used come first.
-- Events without a feature (null) add to none; those without a user are uses and no users. Ties are ordered by the name.
-- Every stored event is a use: the lake holds an event_id once, and an event without an id is never taken for another.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param max_rows BIGINT how many features at most
with used as (
  select
    feature,
    count(*) as uses,
    count(distinct user_id) as users
  from events
  where day between :from_day and :to_day
    and feature is not null
  group by feature
),
ranked as (
  select
    feature,
    uses,
    users,
    count(*) over (
      order by uses desc, feature
      rows between unbounded preceding and current row
    ) as place
  from used
)
select
  feature,
  uses,
  users
from ranked
where place <= :max_rows
order by uses desc, feature
