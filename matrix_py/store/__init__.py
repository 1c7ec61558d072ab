"""The log: a DuckDB file that holds one run. The only package that imports duckdb.

Tables (docs/sql.md says what each column means, and which are hashed): `run`, `texts`, `scenes`, `completions`, `events`, and views over
them. One writer thread with a connection of its own commits what the run has buffered, in one transaction: texts and completions no later
than the events that follow from them. While it does, this process answers those who want to read (`live`); `open_for_reading` asks it.
"""

from matrix_py.store.checking import Checked, Finding, check, check_scene, strays, summary
from matrix_py.store.compaction import compact
from matrix_py.store.datasets import DatasetRow, DatasetTables
from matrix_py.store.draft import FORMAT, OLDEST_FORMAT
from matrix_py.store.frames import DEFAULT_MAX_ROWS, DEFAULT_TIMEOUT_S
from matrix_py.store.labels import LabelRow, LabelTables, SceneTexts, TurnText
from matrix_py.store.listing import SceneLister, check_writable
from matrix_py.store.log import Log
from matrix_py.store.merge import Merge, merge
from matrix_py.store.parquet import export_log, import_log
from matrix_py.store.played import PlayedScene, PlayedTurn, played_scenes
from matrix_py.store.queries import NamedQuery, ask, find_query, named_queries
from matrix_py.store.reading import ReadableLog, open_for_reading
from matrix_py.store.recorded import ListedScene, RecordedScene, RecordedTurn, listed_scenes, recorded_scenes
from matrix_py.store.salvage import Salvage, salvage
from matrix_py.store.table import TableWriter, check_table
from matrix_py.store.tunings import TuningStep, TuningTables
from matrix_py.store.writer import Writer

__all__ = [
    "DEFAULT_MAX_ROWS",
    "DEFAULT_TIMEOUT_S",
    "FORMAT",
    "OLDEST_FORMAT",
    "Checked",
    "DatasetRow",
    "DatasetTables",
    "Finding",
    "LabelRow",
    "LabelTables",
    "ListedScene",
    "Log",
    "Merge",
    "NamedQuery",
    "PlayedScene",
    "PlayedTurn",
    "ReadableLog",
    "RecordedScene",
    "RecordedTurn",
    "Salvage",
    "SceneLister",
    "SceneTexts",
    "TableWriter",
    "TuningStep",
    "TuningTables",
    "TurnText",
    "Writer",
    "ask",
    "check",
    "check_scene",
    "check_table",
    "check_writable",
    "compact",
    "export_log",
    "find_query",
    "import_log",
    "listed_scenes",
    "merge",
    "named_queries",
    "open_for_reading",
    "played_scenes",
    "recorded_scenes",
    "salvage",
    "strays",
    "summary",
]
