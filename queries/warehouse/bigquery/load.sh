#!/bin/sh
# Loads the export into BigQuery: copies it to a bucket, then replaces the content of each table. Loading is free and is one
# change of a table. Timestamps are adjusted to UTC and become TIMESTAMP, strings become STRING; no type is inferred from
# values. The type DATE of the partition is explicit, because AUTO would infer it from the names.
set -eu
: "${BUCKET:?a bucket}" "${PREFIX:?a folder in it}" "${DATASET:?a data set}"
here=$(dirname "$0")
gcloud storage rsync --recursive --delete-unmatched-destination-objects "$here/../events" "gs://$BUCKET/$PREFIX/events"
bq load --replace --source_format=PARQUET --parquet_enable_list_inference=false \
    --hive_partitioning_mode=CUSTOM \
    --hive_partitioning_source_uri_prefix="gs://$BUCKET/$PREFIX/events/{dt:DATE}" \
    --time_partitioning_field=dt --clustering_fields=user_id \
    "$DATASET.lake" "gs://$BUCKET/$PREFIX/events/*"
gcloud storage rsync --recursive --delete-unmatched-destination-objects "$here/../links" "gs://$BUCKET/$PREFIX/links"
bq load --replace --source_format=PARQUET "$DATASET.links" "gs://$BUCKET/$PREFIX/links/*"
