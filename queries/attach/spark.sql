-- Spark with the package delta-spark. Not run with it; the view was run on the files. Fabric notebooks take it as it is.
create or replace temporary view daily_rollups as
select *
from delta.`{place}/daily_rollups`;

create or replace temporary view daily_features as
select *
from delta.`{place}/daily_features`;

create or replace temporary view daily_event_types as
select *
from delta.`{place}/daily_event_types`;
