-- Not run: it needs an account. The external stage {stage} points at the lake, and {links_stage} at the links of an export: an
-- id that is an alias counts as its user.
create or replace external table lake (
  dt date as to_date(substr(split_part(metadata$filename, 'dt=', 2), 1, 10)),
  file_name varchar as (metadata$filename),
  file_row number as (metadata$file_row_number),
  ts timestamp_ntz as (value:ts::timestamp_ntz),
  event_type varchar as (value:event_type::varchar),
  user_id varchar as (value:user_id::varchar),
  feature varchar as (value:feature::varchar),
  metadata varchar as (value:metadata::varchar),
  url varchar as (value:url::varchar),
  event_id varchar as (value:event_id::varchar),
  received_at timestamp_ntz as (value:received_at::timestamp_ntz)
)
partition by (dt)
location = @{stage}
file_format = (type = parquet use_logical_type = true);

create or replace external table links (
  alias varchar as (value:alias::varchar),
  user_id varchar as (value:user_id::varchar),
  since timestamp_ntz as (value:since::timestamp_ntz)
)
location = @{links_stage}
file_format = (type = parquet use_logical_type = true);

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
  date_part(epoch_microsecond, ts) as ts_us,
  datediff('day', '1970-01-01'::date, dt) as day_num,
  datediff('day', '1970-01-01'::date, dt) - mod(datediff('day', '1970-01-01'::date, dt) + 3, 7) as week_num,
  row_number() over (partition by dt, coalesce(links.user_id, sent.user_id), ts order by file_name, file_row) - 1 as position,
  get(try_parse_json(metadata), '{variant}')::varchar as variant,
  case
    when regexp_like(get(try_parse_json(metadata), '{amount}')::varchar, '-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?')
      then try_to_double(get(try_parse_json(metadata), '{amount}')::varchar)
  end as amount
from lake as sent
left join links on links.alias = sent.user_id;

create or replace view events as
select *
from all_events
where event_type <> 'system';

create or replace view numbers as
select row_number() over (order by seq4()) - 1 as number
from table(generator(rowcount => 366));
