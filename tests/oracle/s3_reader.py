"""Prints the objects of the bucket, the events of the export in it, and the users with their events, as pyarrow reads them."""

import json
import sys

import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import FileSelector, S3FileSystem

address = sys.argv[1].removeprefix("http://")
s3 = S3FileSystem(
    access_key="test", secret_key="test", endpoint_override=address, scheme="http", region="us-east-1"
)
found = s3.get_file_info(FileSelector("lake", recursive=True))
objects = sorted(info.path.removeprefix("lake/") for info in found if info.is_file)
table = ds.dataset("lake/our/events/events", filesystem=s3, format="parquet", partitioning="hive").to_table(["user_id"])
users = sorted((row["values"], row["counts"]) for row in pc.value_counts(table["user_id"]).to_pylist())
print(json.dumps({"objects": objects, "events": table.num_rows, "users": users}))
