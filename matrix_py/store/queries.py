"""Named queries: questions about a log that come up again and again, each a file of `sql/queries`.

Such a file begins with comments: the question in one line; `Of two logs.`, if it is about two of them; then a line for each parameter,
`-- $name = default: what it means`, whose default is JSON.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import takewhile

import msgspec

from matrix_py import _core
from matrix_py.errors import ConfigError
from matrix_py.store.reading import ReadableLog
from matrix_py.store.together import LogsTogether

_PARAMETER = re.compile(r"-- \$(\w+) = (.+?): (.+)")
_OF_TWO = "-- Of two logs."

Value = str | int | float


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """What may be chosen about a named query. Its values are of the type of the default."""

    name: str
    default: Value
    meaning: str

    def __str__(self) -> str:
        return f"{self.name} ({msgspec.json.encode(self.default).decode()})"


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """A question, and the SQL that answers it.

    Attributes:
        of_two: whether it compares two logs, the second of which goes by the name `b`.
    """

    name: str
    question: str
    statement: str
    parameters: tuple[QueryParameter, ...]
    of_two: bool

    def bind(self, values: Mapping[str, Value] | None = None) -> dict[str, Value]:
        """Return a value for each parameter; text that is given for a number is read as one.

        Raises:
            ConfigError: a name or a value does not fit.
        """
        bound = {parameter.name: parameter.default for parameter in self.parameters}
        for name, value in (values or {}).items():
            if name not in bound:
                known = ", ".join(bound) or "none"
                raise ConfigError(f"query {self.name!r} has no parameter {name!r}: it has {known}")
            try:
                bound[name] = msgspec.convert(value, type(bound[name]), strict=False)
            except msgspec.ValidationError as error:
                what = "a number" if isinstance(bound[name], float) else "a whole number" if isinstance(bound[name], int) else "a text"
                raise ConfigError(f"parameter {name!r} of query {self.name!r} is {value!r}: give {what}") from error
        return bound


def ask(log: ReadableLog, name: str, **parameters: Value) -> _core.ArrowTable:
    """Ask a named query of a log.

    Args:
        log: what `open_for_reading` opened; for a query of two logs, with the other one.
        name: one of `named_queries()`.
        **parameters: in the place of their defaults.

    Returns:
        The rows as Arrow: for `pyarrow.table`, `polars.DataFrame` or `pandas.DataFrame.from_arrow`.

    Raises:
        ConfigError: there is no such query, a parameter does not fit, or a second log is missing.
        StoreError: the log does not answer.
    """
    query = find_query(name)
    if query.of_two and not isinstance(log, LogsTogether):
        raise ConfigError(f"query {name!r} is about two logs: open them together, as in open_for_reading(one, others=[two])")
    return log.query_arrow(query.statement, query.bind(parameters))


def find_query(name: str) -> NamedQuery:
    """Return the query of that name.

    Raises:
        ConfigError: there is none.
    """
    found = {query.name: query for query in named_queries()}
    if name not in found:
        raise ConfigError(f"query {name!r} is not known: matrix sql --queries lists {', '.join(found)}")
    return found[name]


@cache
def named_queries() -> tuple[NamedQuery, ...]:
    """Return all named queries, by name."""
    files = {file.name: file for file in (resources.files("matrix_py.sql") / "queries").iterdir()}
    return tuple(_read(name.removesuffix(".sql"), file.read_text("utf-8")) for name, file in sorted(files.items()) if name.endswith(".sql"))


def _read(name: str, text: str) -> NamedQuery:
    header = [*takewhile(lambda line: line.startswith("--"), text.splitlines())]
    parameters = [
        QueryParameter(found[1], msgspec.json.decode(found[2]), found[3]) for line in header if (found := _PARAMETER.fullmatch(line))
    ]
    return NamedQuery(name, header[0].removeprefix("-- "), text, tuple(parameters), of_two=_OF_TWO in header)
