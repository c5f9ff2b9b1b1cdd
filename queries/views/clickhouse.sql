-- {source} is file('LAKE/dt=*/*.parquet', Parquet), s3('URL/dt=*/*.parquet', 'KEY', 'SECRET', 'Parquet') or s3Cluster(...).
create or replace view all_events as
select
  ts,
  event_type,
  user_id,
  feature,
  metadata,
  url,
  event_id,
  received_at,
  toDate(assumeNotNull(dt)) as day,
  toUnixTimestamp64Micro(assumeNotNull(ts)) as ts_us,
  toInt64(toDate(assumeNotNull(dt))) as day_num,
  toInt64(toDate(assumeNotNull(dt))) - (toInt64(toDate(assumeNotNull(dt))) + 3) % 7 as week_num,
  toInt64(row_number() over (partition by dt, user_id, ts order by _path, _row_number)) - 1 as position,
  nullIf(JSON_VALUE(ifNull(metadata, '{}'), '$."{variant}"'), '') as variant,
  case
    when match(JSON_VALUE(ifNull(metadata, '{}'), '$."{amount}"'), '^-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?$')
      then toFloat64OrNull(JSON_VALUE(ifNull(metadata, '{}'), '$."{amount}"'))
  end as amount
from {source}
settings use_hive_partitioning = 1;

create or replace view events as
select *
from all_events
where event_type <> 'system';

create or replace view numbers as
select number
from system.numbers
limit 366;
