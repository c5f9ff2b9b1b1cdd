#!/bin/sh
# Loads the export into BigQuery: copies it to a bucket, then replaces the table by what is there. Loading is free and counts
# as one change of the table. The timestamps are adjusted to UTC and become TIMESTAMP, texts become STRING; nothing is inferred
# from values. DATE as the type of the partition is said here, because AUTO would look at names.
set -eu
: "${BUCKET:?a bucket}" "${PREFIX:?a folder in it}" "${DATASET:?a data set}"
here=$(dirname "$0")
gcloud storage rsync --recursive --delete-unmatched-destination-objects "$here/../events" "gs://$BUCKET/$PREFIX/events"
bq load --replace --source_format=PARQUET --parquet_enable_list_inference=false \
    --hive_partitioning_mode=CUSTOM \
    --hive_partitioning_source_uri_prefix="gs://$BUCKET/$PREFIX/events/{dt:DATE}" \
    --time_partitioning_field=dt --clustering_fields=user_id \
    "$DATASET.lake" "gs://$BUCKET/$PREFIX/events/*"
