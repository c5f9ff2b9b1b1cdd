-- Not run: it needs a server, and two Hive tables: {table} over the lake with the columns of the lake and the partition dt, and
-- {links} over the links next to it with the columns alias, user_id and since. An id that is an alias counts as its user.
-- Trino has no row numbers of files, so events of one user at one microsecond have no order.
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
  cast(round(to_unixtime(ts) * 1000000) as bigint) as ts_us,
  date_diff('day', date '1970-01-01', dt) as day_num,
  date_diff('day', date '1970-01-01', dt) - (date_diff('day', date '1970-01-01', dt) + 3) % 7 as week_num,
  0 as position,
  json_extract_scalar(metadata, '$["{variant}"]') as variant,
  case
    when regexp_like(json_extract_scalar(metadata, '$["{amount}"]'), '^-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?$')
      then try_cast(json_extract_scalar(metadata, '$["{amount}"]') as double)
  end as amount
from {table} as sent
left join {links} as links on links.alias = sent.user_id;

create or replace view events as
select *
from all_events
where event_type <> 'system';

create or replace view numbers as
select number
from unnest(sequence(0, 365)) as t (number);
