-- Trino with a catalog of the connector delta_lake as {catalog}, and delta.register-table-procedure.enabled. Not run: it needs
-- a metastore. There are no row numbers of files, so events of one user at one millisecond have no order.
use {catalog}.default;

call {catalog}.system.register_table(schema_name => 'default', table_name => 'lake', table_location => '{place}/events');

call {catalog}.system.register_table(schema_name => 'default', table_name => 'daily_rollups', table_location => '{place}/daily_rollups');

call {catalog}.system.register_table(schema_name => 'default', table_name => 'daily_features', table_location => '{place}/daily_features');

call {catalog}.system.register_table(schema_name => 'default', table_name => 'daily_event_types', table_location => '{place}/daily_event_types');

call {catalog}.system.register_table(schema_name => 'default', table_name => 'links', table_location => '{place}/links');
