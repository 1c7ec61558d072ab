"""The log: a DuckDB file that holds one run. The only package that imports duckdb.

Tables (docs/sql.md says what each column means, and which are hashed): `run`, `texts`, `scenes`, `completions`, `events`, and views over
them. One writer thread with a connection of its own commits what the run has buffered, in one transaction: texts and completions no later
than the events that follow from them.
"""

from matrix_py.store.listing import SceneLister, check_writable
from matrix_py.store.log import FORMAT, OLDEST_FORMAT, Log
from matrix_py.store.merge import Merge, merge
from matrix_py.store.parquet import export_log, import_log
from matrix_py.store.salvage import Salvage, salvage
from matrix_py.store.writer import Writer

__all__ = [
    "FORMAT",
    "OLDEST_FORMAT",
    "Log",
    "Merge",
    "Salvage",
    "SceneLister",
    "Writer",
    "check_writable",
    "export_log",
    "import_log",
    "merge",
    "salvage",
]
