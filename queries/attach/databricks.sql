-- Databricks, in the schema of the session; an external location must cover the place. Not run: it needs an account.
create table if not exists lake using delta location '{place}/events';

create table if not exists daily_rollups using delta location '{place}/daily_rollups';

create table if not exists daily_features using delta location '{place}/daily_features';

create table if not exists daily_event_types using delta location '{place}/daily_event_types';

create table if not exists links using delta location '{place}/links';
