-- The tables that load.sql fills, and the file format and stage that it reads. {url} and {integration} are those of your account.
create table if not exists lake (
  dt date,
  file_name varchar,
  file_row number,
  ts timestamp_ntz,
  event_type varchar,
  user_id varchar,
  feature varchar,
  metadata varchar,
  url varchar,
  event_id varchar,
  received_at timestamp_ntz
)
cluster by (dt);

create table if not exists links (
  alias varchar,
  user_id varchar,
  since timestamp_ntz
);
