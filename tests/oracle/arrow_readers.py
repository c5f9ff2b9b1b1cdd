"""Common operations on a table in a file, with each installed Arrow reader.

Usage: arrow_readers.py NAME=PATH…      NAME is a column of strings, or empty. PATH is a Parquet file, or, if it ends
                                        with .arrow, an Arrow stream. Prints the versions, and the results by file.

It also runs with old readers (`tests/requirements-old.txt`), so it uses only functions that these have.
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
    """Returns the types of the columns. Views are not allowed, because many readers cannot work with them."""
    types = {field.name: str(field.type) for field in schema}
    assert not any("view" in name for name in types.values()), types
    return types


def with_pyarrow(table, name, value):
    """Counts the rows with the value."""
    assert table.sort_by(name).num_rows == table.num_rows
    assert table.take([0]).num_rows == 1
    pc.dictionary_encode(table[name])
    keys = pa.table({name: pa.array([value], pa.string())})
    grouped = table.group_by(name).aggregate([(name, "count")]).to_pydict()
    counts = {
        table.filter(pc.equal(table[name], value)).num_rows,
        table.select([name]).join(keys, name, join_type="inner").num_rows,
        dict(zip(grouped[name], grouped[f"{name}_count"], strict=True))[value],
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
    # As a single file, so that the name of its folder does not become a column.
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
