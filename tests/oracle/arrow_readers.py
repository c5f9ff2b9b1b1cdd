"""What people do with a table in a file, with each Arrow reader that is there.

Usage: arrow_readers.py NAME=PATH…      NAME is a column of strings, or empty. The path is a Parquet file, or an Arrow stream if
                                        it ends with .arrow. Prints the versions, and what was found in each file.

It runs with old readers too (`tests/requirements-old.txt`), so it uses only what these know.
"""

import json
import sys

import pandas
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq


def types_of(schema):
    """The types of the columns; views are what many readers cannot work with."""
    types = {field.name: str(field.type) for field in schema}
    assert not any("view" in name for name in types.values()), types
    return types


def with_pyarrow(table, name, value):
    """How many rows have the value."""
    assert table.sort_by(name).num_rows == table.num_rows
    assert table.take([0]).num_rows == 1
    pc.dictionary_encode(table[name])
    keys = pa.table({name: pa.array([value], pa.string())})
    grouped = table.group_by(name).aggregate([(name, "count")]).to_pydict()
    counts = {
        table.filter(pc.equal(table[name], value)).num_rows,
        table.select([name]).join(keys, name, join_type="inner").num_rows,
        dict(zip(grouped[name], grouped[f"{name}_count"]))[value],
    }
    assert len(counts) == 1, counts
    return counts.pop()


def with_pandas(frame, name, value):
    keys = frame[[name]][frame[name] == value].drop_duplicates()
    counts = {
        int((frame[name] == value).sum()),
        int(frame.groupby(name).size()[value]),
        len(frame.sort_values(name).merge(keys, on=name)),
    }
    assert len(counts) == 1, counts
    return counts.pop()


def with_polars(frame, name, value):
    assert frame.sort(name).height == frame.height
    return frame.filter(polars.col(name) == value).height


def read(name, path):
    if path.endswith(".arrow"):
        table = pa.ipc.open_stream(path).read_all()
        found = {"types": types_of(table.schema), "rows": table.num_rows}
        if name:
            found["equal"] = with_pyarrow(table, name, first(table[name]))
        return found
    found = {"types": types_of(pq.ParquetFile(path).schema_arrow)}
    # As a file of its own: the name of its folder is no column.
    with open(path, "rb") as file:
        table = pq.read_table(file)
    with open(path, "rb") as file:
        frame = polars.read_parquet(file)
    frames = [pandas.read_parquet(path), pandas.read_parquet(path, dtype_backend="pyarrow")]
    found["rows"] = table.num_rows
    assert [frame.height, *map(len, frames)] == [table.num_rows] * 3
    found["instants"] = sorted(str(dtype) for dtype in frame.dtypes if "Datetime" in str(dtype))
    if name and table.num_rows:
        value = first(table[name])
        lazy = polars.scan_parquet(path).filter(polars.col(name) == value).collect()
        counts = {
            with_pyarrow(table, name, value),
            pq.read_table(path, filters=[(name, "==", value)]).num_rows,
            ds.dataset(path).to_table(filter=ds.field(name) == value).num_rows,
            len(pandas.read_parquet(path, filters=[(name, "==", value)])),
            *(with_pandas(frame, name, value) for frame in frames),
            with_polars(frame, name, value),
            lazy.height,
        }
        assert len(counts) == 1, counts
        found["equal"] = counts.pop()
    return found


def first(column):
    return next(value for value in column.to_pylist() if value is not None)


found = [read(*argument.split("=", 1)) for argument in sys.argv[1:]]
versions = {module.__name__: module.__version__ for module in (pa, pandas, polars)}
print(json.dumps({"versions": versions, "found": found}))
