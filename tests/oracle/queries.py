"""Metrics of a lake, computed by DuckDB from the portable SQL in `queries/`: an independent implementation.

Usage: queries.py run LAKE QUERY.sql [--days N] [--end DATE]    prints the rows of the query, as JSON
       queries.py compare QUERY.sql RESULT.json LAKE            compares the rows with a result of the engine
       queries.py compare_all RESULTS LAKE                      the same for the results in a folder, METRIC.json each
       queries.py golden QUERY.sql GOLDEN.csv LAKE              compares the rows with those counted by hand
       queries.py translate QUERY.sql...                        translates the query to other dialects and back

LAKE is a folder with dt=YYYY-MM-DD/*.parquet. The request is line 1 of the query; options replace its window.
Exit codes: 0 done or equal, 1 different, 2 wrong usage.
"""

import argparse
import csv
import datetime
import itertools
import json
import math
import pathlib
import re
import sys

EPOCH = datetime.date(1970, 1, 1)
QUERIES = pathlib.Path(__file__).parents[2] / "queries"
VIEWS = QUERIES / "views"
DIALECTS = ("bigquery", "snowflake", "spark", "databricks", "clickhouse", "trino")
TYPES = {"DATE": datetime.date, "BIGINT": int, "TEXT": str}
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
# Columns of strings. A cell of any other column is a number if it can be read as one.
STRINGS = {
    *("period", "previous_period", "cohort", "feature", "event_type", "from", "to", "variant"),
    *("series", "breakdown", "kind", "ts", "user_id", "url", "event_id"),
}


class Query:
    """A file of `queries/`: its request, its parameters and its SQL."""

    def __init__(self, path):
        content = pathlib.Path(path).read_text()
        self.name = pathlib.Path(path).stem
        self.request = json.loads(content.splitlines()[0].removeprefix("-- "))
        self.types = dict(re.findall(r"^-- param (\w+) (\w+) \w", content, re.M))
        self.sql = "\n".join(line for line in content.splitlines() if not line.lstrip().startswith("--"))
        used = set(re.findall(r":(\w+)", self.sql))
        if used != set(self.types):
            sys.exit(f"{path}: declared and used parameters differ: {sorted(used ^ set(self.types))}")

    def values(self):
        """Returns the values of the parameters, from the request."""
        known = parameters(self.request)
        values = {name: known[name] for name in self.types}
        for name, value in values.items():
            if not isinstance(value, TYPES[self.types[name]]):
                sys.exit(f"parameter {name} is {value!r}; declared is {self.types[name]}")
        return values

    def run(self, lake):
        """Returns the rows over a lake, as dictionaries."""
        import duckdb

        db = duckdb.connect()
        view = with_links((VIEWS / "duckdb.sql").read_text(), lake)
        amounts = [
            series["of"].removeprefix("metadata.") for series in self.request.get("series", []) if "of" in series
        ]
        holes = {"lake": lake, "variant": self.request.get("variant", "variant"), "amount": [*amounts, "amount"][0]}
        for hole, value in holes.items():
            view = view.replace(f"{{{hole}}}", str(value).replace("'", "''"))
        db.execute(view)
        result = db.execute(re.sub(r":(\w+)", r"$\1", self.sql), self.values())
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def with_links(view, lake):
    """Returns the views over a lake; without a table of links next to it they have none."""
    if lake is not None and list((pathlib.Path(lake).parent / "links").glob("*.parquet")):
        return view
    none = "(select null::varchar as alias, null::varchar as user_id limit 0)"
    return view.replace("read_parquet('{lake}/../links/*.parquet')", none)


def parameters(request):
    """Returns the value of each parameter that the request gives."""
    last = datetime.date.fromisoformat(request["end"])
    first = last - datetime.timedelta(days=request["days"] - 1)
    values = {
        "from_day": first,
        "to_day": last,
        "eve_day": first - datetime.timedelta(days=1),
        "lookback_day": first - datetime.timedelta(days=29),
        "from_num": day_num(first),
        "to_num": day_num(last),
        "from_week": week_num(first),
        "to_week": week_num(last),
        "max_rows": request.get("limit", 100),
        "depth": request.get("depth", 5),
        "max_groups": request.get("limit", 10),
    }
    for series in request.get("series", []):
        if "filter" in series:
            values["series_event_type"] = only(series["filter"], "event_type")
    steps = [only(step, "feature") for step in request.get("steps", [])]
    if len(set(steps)) < len(steps):
        sys.exit("steps of one feature: the query needs different ones")
    values |= {f"step_{number}": step for number, step in enumerate(steps, start=1)}
    if "within" in request:
        number, unit = re.fullmatch(r"(\d+)([smhdw])", request["within"]).groups()
        values["within_us"] = int(number) * SECONDS[unit] * 1_000_000
    for field, key in [("start", "feature"), ("return", "feature"), ("exposure", "feature"), ("goal", "event_type")]:
        if field in request:
            values[f"{field}_{key}"] = only(request[field], key)
    if "control" in request:
        values["control"] = request["control"]
    return values


def only(condition, key):
    """Returns the value of a filter with one property and one value."""
    if list(condition) != [key] or not isinstance(condition[key], str):
        sys.exit(f"filter {json.dumps(condition)}: the query can only bind one {key}")
    return condition[key]


def day_num(day):
    return (day - EPOCH).days


def week_num(day):
    return day_num(day) - day.weekday()


def date(num):
    return (EPOCH + datetime.timedelta(days=num)).isoformat()


def timestamp(ts_us):
    time = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=ts_us)
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def ratio(part, whole):
    return part / whole if whole else 0


# From the rows of a query to the columns of the engine's CSV that can be compared.


def active_users(rows, _):
    return [
        {"period": date(row["day_num"]), **pick(row, "dau", "wau", "mau"), "stickiness": ratio(row["dau"], row["mau"])}
        for row in rows
    ]


def feature_usage(rows, _):
    return [{"feature": row["feature"], "events": row["uses"], "users": row["users"]} for row in rows]


def event_types(rows, _):
    return [{"event_type": row["event_type"], "events": row["occurrences"], "users": row["users"]} for row in rows]


def trends(rows, _):
    """Makes a row of each series, and one of their quotient, from a row of the query."""

    def series(name, value):
        return [
            {
                "series": name,
                "period": date(row["week_num"]),
                "breakdown": row["group_name"] if row["kind"] == "value" else None,
                "kind": row["kind"],
                "value": value(row["occurrences_of_week"], row["users_of_week"]),
            }
            for row in rows
        ]

    return [
        *series("A", lambda events, _: events),
        *series("B", lambda _, users: users),
        *series("formula", lambda events, users: events / users if users else None),
    ]


def trends_numbers(rows, request):
    """Makes a row of each measure and week; a week without numbers has no row in the query."""
    weeks = {row["week_num"]: row for row in rows}
    window = parameters(request)
    values = {
        "sum": lambda row: row["total"],
        "mean": lambda row: row["total"] / row["amounts"],
        "min": lambda row: row["least"],
        "max": lambda row: row["greatest"],
        "median": lambda row: row["median_2"] / 2,
        "p90": lambda row: row["p90_10"] / 10,
        "p95": lambda row: row["p95_20"] / 20,
        "p99": lambda row: row["p99_100"] / 100,
    }
    return [
        {
            "series": chr(ord("A") + place),
            "period": date(week),
            "value": float(values[series["measure"]](weeks[week]))
            if week in weeks
            else (0.0 if series["measure"] == "sum" else None),
        }
        for place, series in enumerate(request["series"])
        for week in range(window["from_week"], window["to_week"] + 1, 7)
    ]


def trends_sessions(rows, _):
    return [
        {
            "series": "A",
            "period": date(row["week_num"]),
            "breakdown": row["group_name"] if row["kind"] == "value" else None,
            "kind": row["kind"],
            "value": row["session_count"],
        }
        for row in rows
    ]


def sessions(rows, _):
    table = []
    for row in rows:
        count = row["session_count"]
        table.append(
            {
                "period": date(row["first_week"]),
                "sessions": count,
                "users": row["users"],
                "events": row["visit_count"],
                "bounces": row["bounce_count"],
                "seconds_mean": row["sum_us"] / (count * 1_000_000) if count else None,
                "seconds_median": row["median_2us"] / 2_000_000 if count else None,
                "seconds_p90": row["p90_10us"] / 10_000_000 if count else None,
            }
        )
    return table


def lifecycle(rows, _):
    states = ("new", "returning", "resurrecting", "dormant")
    return [{"period": date(row["week_num"]), **{state: row[f"{state}_count"] for state in states}} for row in rows]


def stickiness(rows, _):
    return [{"periods": row["active_days"], **pick(row, "users", "cumulative")} for row in rows]


def funnel(rows, _):
    """Makes a row of the engine from two of the query: since step 1, and since the previous step."""
    by_step = {}
    for row in rows:
        by_step.setdefault(row["step"], {})[row["since"]] = row
    table = []
    for step, since in sorted(by_step.items()):
        users = since["first"]["users"]
        first, previous = (table[0]["users"], table[-1]["users"]) if table else (users, users)
        row = {
            "step": step,
            "users": users,
            "conversion_from_first": ratio(users, first),
            "conversion_from_previous": ratio(users, previous),
            "drop_off": previous - users,
        }
        for name in ("first", "previous"):
            times = since.get(name) if step > 1 and users else None
            row[f"seconds_from_{name}_mean"] = times and times["sum_us"] / (users * 1_000_000)
            row[f"seconds_from_{name}_median"] = times and times["median_2us"] / 2_000_000
            row[f"seconds_from_{name}_p90"] = times and times["p90_10us"] / 10_000_000
        table.append(row)
    return table


def retention(rows, request):
    """Makes a cell of the engine from each row of the query; a cell without a row is null."""
    window = parameters(request)
    weeks = range(window["from_week"], window["to_week"] + 1, 7)
    cells = {(row["cohort_num"], row["weeks_later"]): row["users"] for row in rows}
    table = [
        {
            "cohort": date(week),
            "size": cells[week, 0],
            **{f"cell_{later}": cells.get((week, later)) for later in range(len(weeks))},
        }
        for week in weeks
    ]
    average = {"cohort": "average", "size": sum(row["size"] for row in table)}
    for later in range(len(weeks)):
        complete = [row for row in table if row[f"cell_{later}"] is not None]
        size = sum(row["size"] for row in complete)
        average[f"cell_{later}"] = sum(row[f"cell_{later}"] for row in complete) / size if size else None
    return [*table, average]


def paths(rows, _):
    return [
        {"step": row["step"], "from": row["from_feature"], "to": row["to_feature"], "users": row["users"]}
        for row in rows
    ]


def experiment(rows, _):
    *arms, multiple = rows
    total = sum(arm["exposed"] for arm in arms)
    return [
        *(
            {**pick(arm, "variant", "exposed", "converted"), "rate": ratio(arm["converted"], arm["exposed"])}
            for arm in arms
        ),
        pick(multiple, "variant", "exposed"),
        {"variant": "__sample_ratio__", "exposed": total},
    ]


def events(rows, _):
    """Makes the time a string and the metadata an object; the query does not return the time of receipt."""
    return [
        {
            "ts": timestamp(row["ts_us"]),
            **pick(row, "event_type", "user_id", "feature", "url", "event_id"),
            "metadata": json.loads(row["metadata"]),
        }
        for row in rows
    ]


METRICS = {
    metric.__name__: metric
    for metric in (
        active_users,
        feature_usage,
        event_types,
        trends,
        trends_numbers,
        trends_sessions,
        sessions,
        lifecycle,
        stickiness,
        funnel,
        retention,
        paths,
        experiment,
        events,
    )
}


def pick(row, *names):
    return {name: row[name] for name in names}


def flat(row):
    """Returns a row of the engine's JSON with the columns of its CSV."""
    cells = {}
    for name, value in row.items():
        if name == "metadata":
            cells[name] = value
        elif isinstance(value, dict):
            cells |= {f"{name}_{inner}": cell for inner, cell in value.items()}
        elif name == "cells":
            cells |= {f"cell_{number}": cell for number, cell in enumerate(value)}
        elif name == "interval":
            cells |= dict(zip(("interval_low", "interval_high"), value or (None, None), strict=True))
        else:
            cells[name] = value
    return cells


def read_csv(path):
    def value(name, cell):
        if cell == "" or name in STRINGS:
            return cell or None
        try:
            return json.loads(cell)
        except ValueError:
            return cell

    with open(path, newline="", encoding="utf-8") as file:
        return [{name: value(name, cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def differences(expected, found):
    """Yields a line for each number that differs. Columns that the query does not have are not compared."""
    for place, (ours, theirs) in enumerate(itertools.zip_longest(expected, found), start=1):
        if ours is None or theirs is None:
            yield f"row {place}: {ours} by the query, {theirs} by the engine"
            continue
        for name, number in ours.items():
            if not same(number, theirs.get(name)):
                yield f"row {place}, {name}: {number} by the query, {theirs.get(name)} by the engine; row: {theirs}"


def same(number, found):
    """Compares cells. Quotients may differ in the last digits; whole numbers and strings must be equal."""
    if isinstance(number, float) and isinstance(found, (int, float)):
        return math.isclose(number, found, rel_tol=1e-12, abs_tol=1e-9)
    return number == found and isinstance(found, bool) == isinstance(number, bool)


def compare_rows(query, lake, found):
    """Prints the differences; returns the exit code."""
    metric = METRICS[query.name]
    lines = list(differences(metric(query.run(lake), query.request), found))
    print("\n".join(lines) or f"{metric.__name__}: {len(found)} rows are equal")
    return 1 if lines else 0


def run(arguments):
    query = Query(arguments.query)
    query.request |= {name: value for name in ("days", "end") if (value := getattr(arguments, name)) is not None}
    print(json.dumps(query.run(arguments.lake)))
    return 0


def compare(arguments):
    return compare_result(Query(arguments.query), pathlib.Path(arguments.result), arguments.lake)


def compare_all(arguments):
    results = sorted(pathlib.Path(arguments.results).glob("*.json"))
    return max([compare_result(Query(QUERIES / f"{result.stem}.sql"), result, arguments.lake) for result in results])


def compare_result(query, path, lake):
    result = json.loads(path.read_text())
    window = result["window"]
    query.request |= {"days": window["days"], "end": window["to"]}
    return compare_rows(query, lake, [flat(row) for row in result["rows"]])


def golden(arguments):
    return compare_rows(Query(arguments.query), arguments.lake, read_csv(arguments.golden))


def translate(arguments):
    """Checks that each query reads back unchanged from each dialect, and that the views have its columns."""
    from sqlglot.errors import SqlglotError

    failed = False
    for path in arguments.queries:
        query = Query(path)
        for dialect in DIALECTS:
            try:
                translate_to(dialect, query)
                print(f"{path}: {dialect} is equal")
            except (SqlglotError, ValueError) as error:
                failed = True
                print(f"{path}: {dialect}: {error}")
    return 1 if failed else 0


def translate_to(dialect, query):
    from sqlglot import ErrorLevel, exp, parse_one
    from sqlglot.optimizer.qualify import qualify

    def tree(sql, read):
        return parse_one(sql, read=read, error_level=ErrorLevel.RAISE)

    def plain(node):
        """Removes what has two spellings: parameters, parentheses, and the order of nulls, which are never sorted."""
        if isinstance(node, (exp.Placeholder, exp.Parameter)):
            return exp.Placeholder(this=node.name)
        if isinstance(node, exp.Paren):
            return node.this.transform(plain)
        if isinstance(node, exp.Ordered):
            return exp.Ordered(this=node.this.transform(plain), desc=bool(node.args.get("desc")))
        return node

    def bound(node):
        """Writes a parameter as a client of the dialect binds it."""
        if isinstance(node, exp.Placeholder) and dialect == "bigquery":
            return exp.Parameter(this=exp.var(node.name))
        if isinstance(node, exp.Placeholder) and dialect == "clickhouse":
            kind = {"DATE": "Date", "BIGINT": "Int64", "TEXT": "String"}[query.types[node.name]]
            return exp.Placeholder(this=node.name, kind=exp.var(kind))
        return node

    original = tree(query.sql, None)
    written = original.transform(bound).sql(dialect=dialect, unsupported_level=ErrorLevel.RAISE)
    back = tree(written, dialect)
    if original.transform(plain) != back.transform(plain):
        raise ValueError(f"reads back as another query:\n{back.sql(pretty=True)}")
    schema = {name: dict.fromkeys(columns, "text") for name, columns in view_columns(dialect).items()}
    qualify(back, schema=schema, dialect=dialect, validate_qualify_columns=True)


def view_columns(dialect):
    """Returns the columns of the two views, which must be those of DuckDB's."""
    from sqlglot import exp, parse_one

    def columns(of):
        sql = (VIEWS / f"{'spark' if of == 'databricks' else of}.sql").read_text()
        sql = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
        tables = {"{source}": "lake", "{table}": "lake", "{links}": "links", "{dataset}.": ""}
        sql = re.sub(r"\{(source|table|links|dataset)\}\.?", lambda hole: tables[hole[0]], sql)
        found = {}
        for statement in sql.split(";"):
            # The view events has all columns of all_events.
            if re.search(r"create or replace (temporary )?view (all_events|numbers)", statement):
                view = parse_one(statement, read=of)
                found[view.find(exp.Table).name.removeprefix("all_")] = view.expression.named_selects
        return found

    if columns(dialect) != columns("duckdb"):
        raise ValueError(f"the views have other columns: {columns(dialect)}")
    return columns(dialect)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, names in [
        (run, ["lake", "query"]),
        (compare, ["query", "result", "lake"]),
        (compare_all, ["results", "lake"]),
        (golden, ["query", "golden", "lake"]),
        (translate, []),
    ]:
        arguments = commands.add_parser(command.__name__)
        arguments.set_defaults(command=command)
        for name in names:
            arguments.add_argument(name)
        if command is run:
            arguments.add_argument("--days", type=int)
            arguments.add_argument("--end")
        if command is translate:
            arguments.add_argument("queries", nargs="+")
    arguments = parser.parse_args()
    return arguments.command(arguments)


if __name__ == "__main__":
    sys.exit(main())
