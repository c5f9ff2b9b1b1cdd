-- {source} is file('LAKE/dt=*/*.parquet', Parquet), s3('URL/dt=*/*.parquet', 'KEY', 'SECRET', 'Parquet') or s3Cluster(...);
-- {links} is the same of the table of links next to it, LAKE/../links/*.parquet. An id that is an alias counts as its user.
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
  toDate(assumeNotNull(dt)) as day,
  toUnixTimestamp64Micro(assumeNotNull(ts)) as ts_us,
  toInt64(toDate(assumeNotNull(dt))) as day_num,
  toInt64(toDate(assumeNotNull(dt))) - (toInt64(toDate(assumeNotNull(dt))) + 3) % 7 as week_num,
  toInt64(
    row_number() over (partition by sent.dt, coalesce(links.user_id, sent.user_id), sent.ts order by sent._path, sent._row_number)
  ) - 1 as position,
  nullIf(JSON_VALUE(ifNull(metadata, '{}'), '$."{variant}"'), '') as variant,
  case
    when match(JSON_VALUE(ifNull(metadata, '{}'), '$."{amount}"'), '^-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?$')
      then toFloat64OrNull(JSON_VALUE(ifNull(metadata, '{}'), '$."{amount}"'))
  end as amount
from {source} as sent
left join {links} as links on links.alias = sent.user_id
settings use_hive_partitioning = 1;

create or replace view events as
select *
from all_events
where event_type <> 'system';

create or replace view numbers as
select number
from system.numbers
limit 366;
