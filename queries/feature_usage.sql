-- {"metric":"feature_usage","limit":3,"days":35,"end":"2024-03-02"}
-- How often was each feature used within the window, and by how many distinct users? The most used come first.
-- Events without a feature (null) are not counted; those without a user count as uses and not as users. Ties are ordered
-- by name.
-- Every stored event is a use: the lake has an event_id once, and an event without an id is never a duplicate.
-- param from_day DATE first day of the window
-- param to_day DATE last day of the window
-- param max_rows BIGINT limit of the features
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
