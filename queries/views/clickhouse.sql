-- {source} is file('LAKE/dt=*/*.parquet', Parquet), s3('URL/dt=*/*.parquet', 'KEY', 'SECRET', 'Parquet') or s3Cluster(...).
create or replace view events as
select
  ts,
  event_type,
  user_id,
  feature,
  metadata,
  url,
  event_id,
  received_at,
  toDate(dt) as day,
  toUnixTimestamp64Micro(ts) as ts_us,
  toInt64(toDate(dt)) as day_num,
  toInt64(toDate(dt)) - (toInt64(toDate(dt)) + 3) % 7 as week_num,
  toInt64(row_number() over (partition by dt, user_id, ts order by _path, _row_number)) - 1 as position,
  nullIf(JSON_VALUE(ifNull(metadata, '{}'), '$."{variant}"'), '') as variant
from {source}
settings use_hive_partitioning = 1;

create or replace view numbers as
select number
from system.numbers
limit 366;
