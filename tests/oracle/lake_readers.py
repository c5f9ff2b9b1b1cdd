"""Counts the rows of a lake with three engines, again and again, until its standard input ends.

Usage: lake_readers.py LAKE      Prints a line of JSON for each count: engine, rows, distinct ids, and the number of
                                 attempts so far in which a file was missing.
"""

import json
import os
import sys
import threading

import duckdb
import pandas
import polars
import pyarrow.dataset

lake = sys.argv[1]
files = f"{lake}/*/*.parquet"
READERS = {
    "duckdb": lambda: duckdb.execute(
        f"select count(*), count(distinct event_id) from read_parquet('{files}')"
    ).fetchone(),
    "polars": lambda: (
        polars.scan_parquet(files).select(polars.len(), polars.col("event_id").n_unique()).collect().row(0)
    ),
    "pyarrow": lambda: distinct(pyarrow.dataset.dataset(lake, partitioning="hive").to_table(["event_id"])["event_id"]),
    "pandas": lambda: distinct(pandas.read_parquet(lake, columns=["event_id"])["event_id"]),
}


def distinct(ids):
    return (len(ids), len(ids.unique()))


stopped = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
gone = 0
last = False
while not last:
    # The last round begins after the writer has stopped.
    last = stopped.is_set()
    for name, count in READERS.items():
        while True:
            try:
                rows, ids = count()
                break
            except Exception as error:
                # A folder was listed and then replaced.
                missing = ("No such file", "No files found", "not found", "Cannot open file", "cannot find")
                if not isinstance(error, FileNotFoundError) and not any(text in str(error) for text in missing):
                    raise
                gone += 1
        print(json.dumps({"engine": name, "rows": int(rows), "ids": int(ids), "gone": gone}), flush=True)
os._exit(0)
