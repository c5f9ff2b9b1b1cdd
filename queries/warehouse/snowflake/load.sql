-- Loads the new files of the stage {stage}, which points at the folder events of the export, and the links of {links_stage},
-- which points at its folder links. The time zone of the session is set first, because timestamps are converted to it. Columns
-- are matched by name, so that case and order do not matter. One bad file ends the load, as is the default for bulk loads;
-- pipes would silently skip it. No file name is ever used twice: a day that was exported again has new file names. The rows
-- of removed files are deleted in the same transaction, and copy skips files that it loaded before.
alter session set timezone = 'UTC';

begin transaction;

delete from lake
where file_name not in (
  select metadata$filename
  from @{stage}
);

copy into lake
from (
  select
    to_date(substr(split_part(metadata$filename, 'dt=', 2), 1, 10)),
    metadata$filename,
    metadata$file_row_number,
    $1:ts::timestamp_ntz,
    $1:event_type::varchar,
    $1:user_id::varchar,
    $1:feature::varchar,
    $1:metadata::varchar,
    $1:url::varchar,
    $1:event_id::varchar,
    $1:received_at::timestamp_ntz
  from @{stage}
)
file_format = (type = parquet use_logical_type = true binary_as_text = false)
on_error = abort_statement;

delete from links;

copy into links
from (
  select
    $1:alias::varchar,
    $1:user_id::varchar,
    $1:since::timestamp_ntz
  from @{links_stage}
)
file_format = (type = parquet use_logical_type = true binary_as_text = false)
on_error = abort_statement
force = true;

commit;
