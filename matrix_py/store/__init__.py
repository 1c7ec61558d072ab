"""The log: a DuckDB file that holds one run. The only package that imports duckdb.

Tables (docs/sql.md says what each column means, and which are hashed): `run`, `texts`, `scenes`, `completions`, `events`, and views over
them. One writer thread with a connection of its own commits what the run has buffered, in one transaction: texts and completions no later
than the events that follow from them.
"""

from matrix_py.store.check import Checked, Finding, check, check_scene
from matrix_py.store.labels import LabelRow, LabelTables, SceneTexts, TurnText
from matrix_py.store.listing import SceneLister, check_writable
from matrix_py.store.log import FORMAT, OLDEST_FORMAT, Log
from matrix_py.store.writer import Writer

__all__ = [
    "FORMAT",
    "OLDEST_FORMAT",
    "Checked",
    "Finding",
    "LabelRow",
    "LabelTables",
    "Log",
    "SceneLister",
    "SceneTexts",
    "TurnText",
    "Writer",
    "check",
    "check_scene",
    "check_writable",
]
