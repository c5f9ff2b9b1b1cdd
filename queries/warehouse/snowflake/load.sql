-- Loads the files that are new in the stage {stage}, which points at the folder events of the export. The session's zone is set
-- first, because timestamps are shifted to it. Columns are taken by name, so that case and order do not matter. One bad file ends
-- the load: the default for bulk loads would do so too, and that of pipes would skip it without a word. No file name is ever used
-- twice: a day that was exported again has files of other names. The rows of files that are gone are taken out in the same
-- transaction, and copy knows the files that it loaded before.
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

commit;
