-- Snowflake reads the log of Delta tables as it is ("Delta Direct"). {role} or {tenant} is what it reads the bucket with. Not
-- run: it needs an account. There are no row numbers of files, so events of one user at one microsecond have no order.
create external volume if not exists echopilot
  storage_locations = ((
    name = 'echopilot'
    storage_provider = '{provider}'
    storage_base_url = '{place}'
    {access}
  ));

create catalog integration if not exists echopilot_delta
  catalog_source = object_store
  table_format = delta
  enabled = true;

create or replace iceberg table lake
  external_volume = 'echopilot'
  catalog = 'echopilot_delta'
  base_location = 'events'
  auto_refresh = true;

create or replace iceberg table daily_rollups
  external_volume = 'echopilot'
  catalog = 'echopilot_delta'
  base_location = 'daily_rollups'
  auto_refresh = true;

create or replace iceberg table daily_features
  external_volume = 'echopilot'
  catalog = 'echopilot_delta'
  base_location = 'daily_features'
  auto_refresh = true;

create or replace iceberg table daily_event_types
  external_volume = 'echopilot'
  catalog = 'echopilot_delta'
  base_location = 'daily_event_types'
  auto_refresh = true;

create or replace iceberg table links
  external_volume = 'echopilot'
  catalog = 'echopilot_delta'
  base_location = 'links'
  auto_refresh = true;
