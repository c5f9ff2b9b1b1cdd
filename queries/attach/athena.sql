-- Athena, engine 3: run one statement after another. Not run: it needs an account. Athena has milliseconds and no row numbers
-- of files, so events of one user at one millisecond have no order.
create external table if not exists lake
location '{place}/events/'
tblproperties ('table_type' = 'DELTA');

create external table if not exists daily_rollups
location '{place}/daily_rollups/'
tblproperties ('table_type' = 'DELTA');

create external table if not exists daily_features
location '{place}/daily_features/'
tblproperties ('table_type' = 'DELTA');

create external table if not exists daily_event_types
location '{place}/daily_event_types/'
tblproperties ('table_type' = 'DELTA');

create external table if not exists links
location '{place}/links/'
tblproperties ('table_type' = 'DELTA');
