-- Microsoft Fabric: make shortcuts in a lakehouse to {place}/events as the table lake, to {place}/links,
-- {place}/daily_rollups, {place}/daily_features and {place}/daily_event_types, then run this in its SQL endpoint. Not run: it
-- needs an account. There are no row numbers of files, so events of one user at one microsecond have no order.
create or alter view all_events as
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
  datediff_big(microsecond, '1970-01-01', ts) as ts_us,
  datediff(day, '1970-01-01', dt) as day_num,
  datediff(day, '1970-01-01', dt) - (datediff(day, '1970-01-01', dt) + 3) % 7 as week_num,
  0 as position,
  json_value(metadata, '$."{variant}"') as variant,
  case
    when
      json_value(metadata, '$."{amount}"') like '[0-9-]%'
      and json_value(metadata, '$."{amount}"') not like '%[^0-9.eE+-]%'
      and json_value(metadata, '$."{amount}"') not like '%.'
      and json_value(metadata, '$."{amount}"') not like '0[0-9]%'
      and json_value(metadata, '$."{amount}"') not like '-0[0-9]%'
      then try_cast(json_value(metadata, '$."{amount}"') as float)
  end as amount
from lake as sent
left join links on links.alias = sent.user_id;

go

create or alter view events as
select *
from all_events
where event_type <> 'system';

go

create or alter view numbers as
select value as number
from generate_series(0, 365);
