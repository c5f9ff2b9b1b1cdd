-- Not run: it needs a project. The lake is copied to gs://{bucket}/{prefix} and the links of an export to
-- gs://{bucket}/{links}; {dataset} is the data set of the queries. An id that is an alias counts as its user.
-- BigQuery has no row numbers of files, so events of one user at one microsecond have no order.
create external table {dataset}.lake (
  ts timestamp,
  event_type string,
  user_id string,
  feature string,
  metadata string,
  url string,
  event_id string,
  received_at timestamp
)
with partition columns (dt date)
options (
  format = 'PARQUET',
  uris = ['gs://{bucket}/{prefix}/*'],
  hive_partition_uri_prefix = 'gs://{bucket}/{prefix}'
);

create external table {dataset}.links (
  alias string,
  user_id string,
  since timestamp
)
options (
  format = 'PARQUET',
  uris = ['gs://{bucket}/{links}/*']
);

create or replace view {dataset}.all_events as
select
  ts,
  event_type,
  coalesce(links.user_id, sent.user_id) as user_id,
  feature,
  metadata,
  url,
  event_id,
  received_at,
  dt as day,
  unix_micros(ts) as ts_us,
  unix_date(dt) as day_num,
  unix_date(dt) - mod(unix_date(dt) + 3, 7) as week_num,
  0 as position,
  json_value(metadata, '$."{variant}"') as variant,
  case
    when regexp_contains(json_value(metadata, '$."{amount}"'), '^-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?$')
      then safe_cast(json_value(metadata, '$."{amount}"') as float64)
  end as amount
from {dataset}.lake as sent
left join {dataset}.links as links on links.alias = sent.user_id;

create or replace view {dataset}.events as
select *
from {dataset}.all_events
where event_type <> 'system';

create or replace view {dataset}.numbers as
select number
from unnest(generate_array(0, 365)) as number;
