-- DuckDB with its extension delta. Not run: the extension comes from the network. The same views were run over the files.
install delta;

load delta;

create or replace view lake as
select *, filename, file_row_number
from delta_scan('{place}/events');

create or replace view daily_rollups as
select *
from delta_scan('{place}/daily_rollups');

create or replace view daily_features as
select *
from delta_scan('{place}/daily_features');

create or replace view daily_event_types as
select *
from delta_scan('{place}/daily_event_types');

create or replace view links as
select *
from delta_scan('{place}/links');
