"""Runs the SQL that `echopilot sql` prints, with other engines than ours.

Usage: sql.py duckdb|clickhouse STATEMENTS    prints a list with the columns and rows of each statement, as JSON
       sql.py parse STATEMENTS                checks that sqlglot reads each statement in its dialect

STATEMENTS is a JSON file with a list of {"dialect","views","text","parameters"}. Exit codes: 0 done, 1 failed.
"""

import datetime
import json
import pathlib
import sys


def values(statement):
    """Returns the values of the parameters by name."""
    read = {"DATE": datetime.date.fromisoformat, "BIGINT": int, "TEXT": str}
    return {each["name"]: read[each["type"]](each["value"]) for each in statement["parameters"]}


def duckdb_rows(statements):
    import duckdb

    db = duckdb.connect()
    views = None
    for statement in statements:
        if statement["views"] != views:
            views = statement["views"]
            db.execute(views)
        result = db.execute(statement["text"], values(statement))
        yield [column[0] for column in result.description], [list(row) for row in result.fetchall()]


def clickhouse_rows(statements):
    from chdb import session

    db = session.Session()
    views = None
    for statement in statements:
        if statement["views"] != views:
            views = statement["views"]
            lines = [line for line in views.splitlines() if not line.startswith("--")]
            for view in "\n".join(lines).split(";"):
                if view.strip():
                    db.query(view)
        # Values are escaped as in TSV.
        bound = {name: str(value).replace("\\", "\\\\") for name, value in values(statement).items()}
        result = json.loads(db.query(statement["text"], "JSONCompact", params=bound).bytes())
        is_number = ["Int" in column["type"] for column in result["meta"]]
        rows = [
            [int(cell) if number and cell is not None else cell for number, cell in zip(is_number, row, strict=True)]
            for row in result["data"]
        ]
        yield [column["name"] for column in result["meta"]], rows


def parse(statements):
    """Checks the syntax in the dialect of each statement, and that a dialect without names has a value for each use."""
    from sqlglot import exp
    from sqlglot import parse as parse_script
    from sqlglot.errors import ErrorLevel

    for statement in statements:
        dialect = statement["dialect"]
        (tree,) = parse_script(statement["text"], read=dialect, error_level=ErrorLevel.RAISE)
        holes = list(tree.find_all(exp.Placeholder, exp.Parameter))
        names = {hole.name for hole in holes}
        if dialect == "trino":
            found = len(holes) == len(statement["parameters"])
        else:
            found = names == {each["name"] for each in statement["parameters"]}
        if not found:
            sys.exit(f"{dialect}: the SQL has the parameters {sorted(names)}:\n{statement['text']}")
    return len(statements)


def main():
    engine, path = sys.argv[1:]
    statements = json.loads(pathlib.Path(path).read_text())
    if engine == "parse":
        print(json.dumps(parse(statements)))
        return
    run = {"duckdb": duckdb_rows, "clickhouse": clickhouse_rows}[engine]
    print(json.dumps([{"names": names, "rows": rows} for names, rows in run(statements)]))


if __name__ == "__main__":
    main()
