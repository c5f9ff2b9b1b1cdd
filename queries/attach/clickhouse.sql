-- ClickHouse. Run as chdb on a folder and on an S3 server, with every query of queries/.
create or replace view daily_rollups as
select *
from {daily_rollups};

create or replace view daily_features as
select *
from {daily_features};

create or replace view daily_event_types as
select *
from {daily_event_types};
