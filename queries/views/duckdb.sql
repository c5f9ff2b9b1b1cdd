-- Run with DuckDB 2.0. {lake} is a folder, or s3://bucket/prefix with the extension httpfs; the folder links is next to it: an
-- id that is an alias counts as its user.
create or replace view links as
select alias, user_id
from read_parquet('{lake}/../links/*.parquet');

create or replace view lake as
select *
from read_parquet(
  '{lake}/dt=*/*.parquet',
  hive_partitioning = true,
  hive_types = {'dt': date},
  filename = true,
  file_row_number = true
);

create or replace view all_events as
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
  epoch_us(ts) as ts_us,
  date_diff('day', date '1970-01-01', dt) as day_num,
  date_diff('day', date '1970-01-01', dt) - (date_diff('day', date '1970-01-01', dt) + 3) % 7 as week_num,
  row_number() over (partition by dt, coalesce(links.user_id, sent.user_id), ts order by filename, file_row_number) - 1 as position,
  case json_type(metadata, '$."{variant}"')
    when 'DOUBLE' then regexp_replace(cast(json_extract(metadata, '$."{variant}"') as double)::varchar, '\.0$', '')
    else json_extract_string(metadata, '$."{variant}"')
  end as variant,
  case
    when regexp_full_match(json_extract_string(metadata, '$."{amount}"'), '-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?')
      then try_cast(json_extract_string(metadata, '$."{amount}"') as double)
  end as amount
from lake as sent
left join links on links.alias = sent.user_id;

create or replace view events as
select *
from all_events
where event_type <> 'system';

create or replace view numbers as
select range as number
from range(366);
