-- BigQuery: {dataset} is the data set, {connection} a Cloud resource connection that may read the bucket. Not run: it needs a
-- project. BigQuery has no row numbers of files, so events of one user at one microsecond have no order.
create external table if not exists {dataset}.lake
with connection {connection}
options (
  format = 'DELTA_LAKE',
  uris = ['{place}/events']
);

create external table if not exists {dataset}.daily_rollups
with connection {connection}
options (
  format = 'DELTA_LAKE',
  uris = ['{place}/daily_rollups']
);

create external table if not exists {dataset}.daily_features
with connection {connection}
options (
  format = 'DELTA_LAKE',
  uris = ['{place}/daily_features']
);

create external table if not exists {dataset}.daily_event_types
with connection {connection}
options (
  format = 'DELTA_LAKE',
  uris = ['{place}/daily_event_types']
);

create external table if not exists {dataset}.links
with connection {connection}
options (
  format = 'DELTA_LAKE',
  uris = ['{place}/links']
);
