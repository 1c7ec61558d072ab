"""The command `matrix sql`. Like the others, it only parses and prints."""

import csv
import enum
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from matrix_py.errors import ConfigError
from matrix_py.store.frames import DEFAULT_MAX_ROWS, DEFAULT_TIMEOUT_S


class TableFormat(enum.StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def sql(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN... [STATEMENT]",
            help="Logs, then one SQL statement unless --query names one; views scene, action and turn are a good start. "
            "Views of a second log begin with b., as in b.scene, those of a third with c.",
        ),
    ] = None,
    query: Annotated[str | None, typer.Option("--query", metavar="NAME", help="A named query in the place of a statement.")] = None,
    queries: Annotated[bool, typer.Option("--queries", help="List the named queries, each with its question and its parameters.")] = False,
    params: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="What $NAME stands for in the query. May be given more than once."),
    ] = None,
    output: Annotated[TableFormat, typer.Option("--format", help="table, csv or json.")] = TableFormat.TABLE,
    max_rows: Annotated[
        int, typer.Option("--max-rows", help="While a run writes the log: rows at most, up to 1000000; more are an error.")
    ] = DEFAULT_MAX_ROWS,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="While a run writes the log: time for the query, up to 60.")
    ] = DEFAULT_TIMEOUT_S,
) -> None:
    """Query logs in SQL (DuckDB's). They are only read; while a run writes a log, the run is asked, which answers SELECT."""
    from matrix_py.store import find_query, named_queries, open_for_reading

    if queries:
        rows = [(each.name, each.question, ", ".join(map(str, each.parameters)), "2" if each.of_two else "1") for each in named_queries()]
        _print(output, ["query", "question", "parameters", "logs"], rows)
        return
    given = dict(_pair(text) for text in params or [])
    runs = list(arguments or [])
    if query is not None:
        found = find_query(query)
        if len(runs) != (2 if found.of_two else 1):
            raise ConfigError(f"query {query!r} is about {'two logs' if found.of_two else 'one log'}, and {len(runs)} are given")
        statement, bound = found.statement, found.bind(given)
    else:
        # A last argument that is named like a log is one.
        if len(runs) < 2 or runs[-1].endswith(".duckdb"):
            raise ConfigError("there is no statement: give SQL after the logs, or --query NAME (matrix sql --queries lists the names)")
        statement, bound = runs.pop(), {name: _number_or_text(value) for name, value in given.items()}
    first, *others = map(Path, runs)
    with open_for_reading(first, others=others, max_rows=max_rows, timeout_s=timeout) as log:
        columns, answer = log.query(statement, bound)
    _print(output, columns, answer)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"--param {text!r} is no pair: write NAME=VALUE")
    return name, value


def _number_or_text(text: str) -> int | float | str:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text


def _print(output: TableFormat, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from matrix_py.show import readable
    from matrix_py.terminal import cell, json_rows, print_table

    match output:
        case TableFormat.TABLE:
            print_table(columns, rows)
        case TableFormat.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(map(readable, columns))
            writer.writerows([readable(cell(value)) for value in row] for row in rows)
        case TableFormat.JSON:
            sys.stdout.write(json_rows(columns, rows) + "\n")
