"""Reads published Delta tables with independent readers: delta-rs, Polars, ClickHouse (chdb), DataFusion, Sail.

Usage: delta.py rows PLACE LAKE        prints the number of rows; fails if a reader finds others than DuckDB in the lake
       delta.py count PLACE            prints the number of rows that delta-rs finds
       delta.py daily PLACE            prints the rows of each of the tables of daily rollups, as Polars finds them
       delta.py queries PLACE RESULTS  compares every query with the results of the engine in a folder, METRIC.json each
       delta.py statements FOLDER...   parses the statements for each engine; prints how many
       delta.py follow PLACE           counts with each reader until its standard input ends; one line of JSON a read

PLACE is a folder, or s3://BUCKET/PREFIX of the server ECHOPILOT_TEST_S3.
"""

import datetime
import functools
import itertools
import json
import os
import pathlib
import re
import sys
import threading

import queries

# ClickHouse reads files below the working directory only.
os.chdir("/")
S3 = os.environ.get("ECHOPILOT_TEST_S3", "")
OPTIONS = {
    "AWS_ENDPOINT_URL": S3,
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
COLUMNS = ("ts", "event_type", "user_id", "feature", "metadata", "url", "event_id", "received_at", "dt")


def options(table):
    return OPTIONS if "://" in table else None


def by_delta_rs(table):
    from deltalake import DeltaTable

    return normal(DeltaTable(table, storage_options=options(table)).to_pyarrow_table())


def by_polars(table):
    import polars

    return normal(polars.scan_delta(table, storage_options=options(table)).collect().to_arrow())


def by_datafusion(table):
    from datafusion import SessionContext
    from deltalake import DeltaTable, QueryBuilder

    lake = DeltaTable(table, storage_options=options(table))
    if options(table):
        # The package has no object store of its own; delta-rs has DataFusion with one.
        import pyarrow

        return normal(pyarrow.table(QueryBuilder().register("lake", lake).execute("select * from lake").read_all()))
    context = SessionContext()
    context.register_table("lake", lake)
    return normal(context.sql("select * from lake").to_arrow_table())


def by_chdb(table):
    import chdb

    number = "toUnixTimestamp64Micro(assumeNotNull({0})) as {0}"
    columns = ", ".join(number.format(name) if name in ("ts", "received_at") else name for name in COLUMNS)
    sql = f"select {columns.replace('dt', 'toString(dt) as dt')} from {in_chdb(table)}"
    rows = chdb.connect(":memory:").query(sql, "JSONCompactEachRow").bytes().decode()
    rows = (json.loads(line) for line in rows.splitlines())
    return sorted((tuple(int(v) if i in (0, 7) else v for i, v in enumerate(row)) for row in rows), key=repr)


@functools.cache
def sail():
    """A session of Sail, which speaks Spark Connect and runs in this process."""
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    os.environ |= OPTIONS | {"AWS_ENDPOINT": S3} if S3 else {}
    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    _, port = server.listening_address
    session = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate()
    session.conf.set("spark.sql.session.timeZone", "UTC")
    # The server ends with its last reference.
    session.sail = server
    return session


def by_sail(table):
    return normal(sail().sql(f"select * from delta.`{table}`").toArrow())


def in_chdb(table):
    if "://" not in table:
        return f"deltaLakeLocal('{table}')"
    return f"deltaLake('{S3}/{table.removeprefix('s3://')}/', 'test', 'test')"


READERS = {
    "delta-rs": by_delta_rs,
    "polars": by_polars,
    "datafusion": by_datafusion,
    "chdb": by_chdb,
    "sail": by_sail,
}


def normal(table):
    """The rows as sorted tuples, with times in microseconds and the day as a string."""
    import pyarrow

    columns = []
    for name in COLUMNS:
        column = table[name]
        if name in ("ts", "received_at"):
            column = column.cast(pyarrow.timestamp("us", "UTC")).cast(pyarrow.int64())
        columns.append(column.cast(pyarrow.int64() if name in ("ts", "received_at") else pyarrow.string()).to_pylist())
    return sorted(zip(*columns, strict=True), key=repr)


def rows(place, lake):
    import duckdb

    files = f"read_parquet('{lake}/*/*.parquet', hive_partitioning = true, hive_types = {{'dt': date}})"
    expected = normal(duckdb.sql(f"select * from {files}").to_arrow_table())
    for name, read in READERS.items():
        found = read(f"{place}/events")
        if found != expected:
            wrong = [pair for pair in itertools.zip_longest(expected, found) if pair[0] != pair[1]]
            sys.exit(f"{name}: {len(found)} rows, {len(wrong)} differ, such as {wrong[0]}")
    print(json.dumps(len(expected)))


def daily(place):
    import polars

    tables = []
    for name in ("daily_rollups", "daily_features", "daily_event_types"):
        rows = polars.scan_delta(f"{place}/{name}").collect().rows()
        tables.append(sorted([str(value) for value in row] for row in rows))
    print(json.dumps(tables))


def duckdb_engine(place, variant):
    """DuckDB over the files of the newest version, as delta-rs lists them."""
    import duckdb
    from deltalake import DeltaTable

    view = (queries.VIEWS / "duckdb.sql").read_text()
    for table, files in {"events": "'{lake}/dt=*/*.parquet'", "links": "'{lake}/../links/*.parquet'"}.items():
        view = view.replace(files, repr(DeltaTable(f"{place}/{table}").file_uris()))
    view = view.replace("{variant}", variant).replace("{amount}", "amount")
    db = duckdb.connect()
    db.execute(view)

    def run(query):
        result = db.execute(re.sub(r":(\w+)", r"$\1", query.sql), query.values())
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    return run


def object_of(address):
    import boto3

    bucket, key = address.removeprefix("s3://").split("/", 1)
    access = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=S3, **access).get_object(Bucket=bucket, Key=key)["Body"].read()


def chdb_engine(place, variant):
    """ClickHouse with the statements that the export wrote."""
    from chdb.session import Session

    session = Session()
    if "://" in place:
        statements = object_of(f"{place}/attach/clickhouse.sql").decode()
        for hole, value in {"endpoint": S3, "key": "test", "secret": "test"}.items():
            statements = statements.replace(f"{{{hole}}}", value)
    else:
        statements = (pathlib.Path(place) / "attach/clickhouse.sql").read_text()
    statements = "\n".join(line for line in statements.splitlines() if not line.startswith("--"))
    for statement in statements.replace("{variant}", variant).replace("{amount}", "amount").split(";"):
        if statement.strip():
            session.query(statement)

    def run(query):
        values = query.values()
        kinds = {datetime.date: "Date", int: "Int64", str: "String"}
        sql = re.sub(r":(\w+)", lambda name: f"{{{name[1]}:{kinds[type(values[name[1]])]}}}", query.sql)
        values = {name: str(value).replace("\\", "\\\\") for name, value in values.items()}
        found = json.loads(session.query(sql, "JSON", params=values).bytes())
        numbers = {column["name"] for column in found["meta"] if "Int" in column["type"]}
        return [
            {name: int(value) if name in numbers and value is not None else value for name, value in row.items()}
            for row in found["data"]
        ]

    return run


# The views in DataFusion, which has no functions of JSON and no row numbers of files: enough for `demo`.
DATAFUSION_VIEWS = """all_events as (
  select
    lake.*,
    coalesce(links.user_id, lake.sent_id) as user_id,
    dt as day,
    arrow_cast(arrow_cast(ts, 'Timestamp(Microsecond, Some("UTC"))'), 'Int64') as ts_us,
    arrow_cast(arrow_cast(dt, 'Int32'), 'Int64') as day_num,
    arrow_cast(arrow_cast(dt, 'Int32'), 'Int64') - (arrow_cast(arrow_cast(dt, 'Int32'), 'Int64') + 3) % 7 as week_num,
    arrow_cast(0, 'Int64') as position,
    regexp_match(metadata, '"{variant}":"([^"]*)"')[1] as variant,
    arrow_cast(regexp_match(metadata, '"amount":(-?[0-9.]+)')[1], 'Float64') as amount
  from (select * except (user_id), user_id as sent_id from lake) as lake
  left join links on links.alias = lake.sent_id
),
events as (select * from all_events where event_type <> 'system'),
numbers as (select value as number from generate_series(0, 365)),
"""


def literal(value):
    if isinstance(value, datetime.date):
        return f"date '{value}'"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def with_literals(query):
    """The SQL of a query for an engine without parameters."""
    values = query.values()
    return re.sub(r":(\w+)", lambda name: literal(values[name[1]]), query.sql.strip())


def polars_engine(place, variant):
    """Polars, with the columns of the views as expressions; it has no row numbers of files."""
    import polars

    lake, links = (
        polars.scan_delta(f"{place}/{table}", storage_options=options(place)) for table in ("events", "links")
    )
    lake = lake.join(links.select(user_id="alias", linked="user_id"), on="user_id", how="left", maintain_order="left")
    lake = lake.filter(polars.col("event_type") != "system").with_columns(
        user_id=polars.coalesce("linked", "user_id"),
        day=polars.col("dt"),
        ts_us=polars.col("ts").dt.epoch("us"),
        day_num=polars.col("dt").dt.epoch("d").cast(polars.Int64),
        position=polars.lit(0, dtype=polars.Int64),
        variant=polars.col("metadata").str.json_path_match(f"$.{variant}"),
        amount=polars.col("metadata").str.json_path_match("$.amount").cast(polars.Float64, strict=False),
    )
    lake = lake.with_columns(week_num=polars.col("day_num") - (polars.col("day_num") + 3) % 7)
    numbers = polars.LazyFrame({"number": list(range(366))})

    def run(query):
        with polars.SQLContext(events=lake, numbers=numbers) as context:
            return context.execute(with_literals(query), eager=True).to_dicts()

    return run


def datafusion_engine(place, variant):
    """DataFusion over the table, as delta-rs registers it."""
    import pyarrow
    from deltalake import DeltaTable, QueryBuilder

    engine = QueryBuilder()
    for name, table in {"lake": "events", "links": "links"}.items():
        engine.register(name, DeltaTable(f"{place}/{table}", storage_options=options(place)))

    def run(query):
        sql = with_literals(query)
        sql = "with " + DATAFUSION_VIEWS.replace("{variant}", variant) + sql.removeprefix("with ")
        return pyarrow.table(engine.execute(sql).read_all()).to_pylist()

    return run


def sail_engine(place, variant):
    """Sail with the views of Spark, but for the row numbers of files, which it does not have."""
    views = (queries.VIEWS / "spark.sql").read_text()
    views = re.sub(r"row_number\(\) over \(.*row_index\) - 1 as position", "0 as position", views)
    views = re.sub(r"\*, _metadata.*as row_index", "*", views)
    for source, table in {"{lake}": "events", "{lake}/../links/*.parquet": "links"}.items():
        views = views.replace(f"parquet.`{source}`", f"delta.`{place}/{table}`")
    views = views.replace("{amount}", "amount")
    views = "\n".join(line for line in views.splitlines() if not line.startswith("--"))
    for view in views.replace("{variant}", variant).split(";"):
        if view.strip():
            sail().sql(view).collect()

    def run(query):
        return [row.asDict() for row in sail().sql(query.sql, args=query.values()).collect()]

    return run


def check_queries(place, results):
    compared = 0
    for path in sorted(pathlib.Path(results).glob("*.json")):
        result = json.loads(path.read_text())
        query = queries.Query(queries.QUERIES / f"{path.stem}.sql")
        query.request |= {"days": result["window"]["days"], "end": result["window"]["to"]}
        expected = [queries.flat(row) for row in result["rows"]]
        engines = {
            "duckdb": duckdb_engine,
            "chdb": chdb_engine,
            "datafusion": datafusion_engine,
            "polars": polars_engine,
            "sail": sail_engine,
        }
        if "://" in place:
            # DuckDB reads a bucket with an extension that comes from the network.
            del engines["duckdb"]
        for name, engine in engines.items():
            try:
                found = engine(place, query.request.get("variant", "variant"))(query)
            except Exception as error:
                sys.exit(f"{path.stem}, {name}: {error}")
            found = queries.METRICS[path.stem](found, query.request)
            lines = list(queries.differences(found, expected))
            if lines:
                sys.exit(f"{path.stem}, {name}: {lines[0]}")
            compared += 1
    print(json.dumps(compared))


DIALECTS = {"athena": "athena", "fabric": "fabric", "databricks": "databricks"}
# Statements of one engine that the parser does not know; their form was copied from the manual of the engine.
UNKNOWN = re.compile(
    r"^(install|load|call|use|create (external (volume|table)|catalog integration|or replace iceberg))\b"
)


def statements(folders):
    import sqlglot

    parsed = 0
    for path in sorted(path for folder in folders for path in pathlib.Path(folder).glob("*.sql")):
        sql = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("--"))
        sql = re.sub(r"\{(\w+)\}", r"\1", sql).replace("go\n", "")
        for statement in sql.split(";"):
            if not statement.strip() or UNKNOWN.match(statement.strip()):
                continue
            dialect = DIALECTS.get(path.stem, path.stem)
            tree = sqlglot.parse_one(statement, dialect=dialect, error_level=sqlglot.ErrorLevel.RAISE)
            if isinstance(tree, sqlglot.exp.Command):
                sys.exit(f"{path}: not parsed: {statement}")
            parsed += 1
    print(json.dumps(parsed))


def newest(table):
    log = os.listdir(f"{table}/_delta_log")
    return max(int(name.removesuffix(".json")) for name in log if re.fullmatch(r"\d{20}\.json", name))


def counts(table):
    """The readers of `follow`: rows and distinct ids."""
    import chdb
    import polars
    from datafusion import SessionContext
    from deltalake import DeltaTable

    clickhouse = chdb.connect(":memory:")

    def by_chdb():
        sql = f"select count(), count(distinct event_id) from {in_chdb(table)}"
        return map(int, clickhouse.query(sql, "CSV").bytes().decode().strip().split(","))

    def by_datafusion():
        context = SessionContext()
        context.register_table("lake", DeltaTable(table))
        found = context.sql("select count(*) as a, count(distinct event_id) as b from lake").to_pylist()[0]
        return found["a"], found["b"]

    def by_polars():
        return (
            polars.scan_delta(table).select(polars.len(), b=polars.col("event_id").drop_nulls().n_unique()).collect()
        ).row(0)

    def by_delta_rs():
        ids = DeltaTable(table).to_pyarrow_table(columns=["event_id"])["event_id"]
        return len(ids), len(ids.unique())

    def by_sail():
        return sail().sql(f"select count(*), count(distinct event_id) from delta.`{table}`").collect()[0]

    return {
        "chdb": by_chdb,
        "datafusion": by_datafusion,
        "polars": by_polars,
        "delta-rs": by_delta_rs,
        "sail": by_sail,
    }


def follow(place):
    table = f"{place}/events"
    readers = counts(table)
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    while not stopped.is_set():
        for name, count in readers.items():
            first = newest(table)
            try:
                found, ids = count()
                line = {"rows": found, "ids": ids}
            except Exception as error:
                line = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps({"reader": name, "first": first, "last": newest(table), **line}), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["rows", place, lake]:
            rows(place, lake)
        case ["count", place]:
            print(json.dumps(len(by_delta_rs(f"{place}/events"))))
        case ["daily", place]:
            daily(place)
        case ["queries", place, results]:
            check_queries(place, results)
        case ["statements", *folders]:
            statements(folders)
        case ["follow", place]:
            follow(place)
        case _:
            sys.exit(__doc__)
    # Threads of the readers may abort Python while it ends.
    sys.stdout.flush()
    os._exit(0)
