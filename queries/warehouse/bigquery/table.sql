-- The tables that load.sh fills. {dataset} is your data set. Afterwards run views.sql, and the queries.
create table if not exists {dataset}.lake (
  ts timestamp,
  event_type string,
  user_id string,
  feature string,
  metadata string,
  url string,
  event_id string,
  received_at timestamp,
  dt date
)
partition by dt
cluster by user_id;

create table if not exists {dataset}.links (
  alias string,
  user_id string,
  since timestamp
);
