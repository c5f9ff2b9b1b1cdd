-- {lake} is a folder, s3a://bucket/prefix or gs://bucket/prefix, with the folder links next to it: an id that is an alias
-- counts as its user. The session's time zone does not matter. Not run on Databricks, which has s3:// and volumes.
create or replace temporary view all_events as
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
  unix_date(dt) - (unix_date(dt) + 3) % 7 as week_num,
  row_number() over (partition by dt, coalesce(links.user_id, sent.user_id), ts order by file_path, row_index) - 1 as position,
  get_json_object(metadata, '$[\'{variant}\']') as variant,
  case
    when get_json_object(metadata, '$[\'{amount}\']') rlike '^-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?$'
      then cast(get_json_object(metadata, '$[\'{amount}\']') as double)
  end as amount
from (
  select *, _metadata.file_path as file_path, _metadata.row_index as row_index
  from parquet.`{lake}`
) as sent
left join parquet.`{lake}/../links/*.parquet` as links on links.alias = sent.user_id;

create or replace temporary view events as
select *
from all_events
where event_type <> 'system';

create or replace temporary view numbers as
select id as number
from range(366);
