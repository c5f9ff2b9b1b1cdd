"""Prints the objects of the bucket, and the events and users of the export in it, as pyarrow reads them.

Then the number of events by the list of the export, and the listed files that are missing.
"""

import json
import sys

import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import FileSelector, S3FileSystem

address = sys.argv[1].removeprefix("http://")
s3 = S3FileSystem(access_key="test", secret_key="test", endpoint_override=address, scheme="http", region="us-east-1")
found = s3.get_file_info(FileSelector("lake", recursive=True))
objects = sorted(info.path.removeprefix("lake/") for info in found if info.is_file)
table = ds.dataset("lake/our/events/events", filesystem=s3, format="parquet", partitioning="hive").to_table(["user_id"])
users = sorted((row["values"], row["counts"]) for row in pc.value_counts(table["user_id"]).to_pylist())
root = "lake/our/events"
listing = (
    json.load(s3.open_input_stream(f"{root}/export.json")) if "our/events/export.json" in objects else {"days": {}}
)
files = [file["path"] for day in listing["days"].values() for file in day["files"]]
missing = [name for name in files + listing.get("files", []) if f"our/events/{name}" not in objects]
listed = sum(ds.dataset(f"{root}/{name}", filesystem=s3, format="parquet").count_rows() for name in files)
print(
    json.dumps(
        {"objects": objects, "events": table.num_rows, "users": users, "listed_events": listed, "missing": missing}
    )
)
