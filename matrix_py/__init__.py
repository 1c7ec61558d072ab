"""MATRIX as an event-sourced simulation engine.

    from matrix_py import SimulateOptions, simulate, replay

    simulate(SimulateOptions(inputs=("instructions.jsonl",), out=Path("run.duckdb"), model="model.gguf"))
    assert replay(Path("run.duckdb")).identical

Users' own scenes are `async def` functions that take a `Scene`; `matrix_py.testing` runs them on scripted models.
"""

from matrix_py._core import __version__
from matrix_py.diff import Diff, diff
from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import MatrixError
from matrix_py.plan import SimulateOptions
from matrix_py.replay import Replay, replay
from matrix_py.scene import Reply, Scene
from matrix_py.simulate import RunSummary, resume, simulate
from matrix_py.status import Status, read_status
from matrix_py.store import Log, NamedQuery, ReadableLog, ask, named_queries, open_for_reading

__all__ = [
    "Diff",
    "Engine",
    "EngineOptions",
    "Log",
    "MatrixError",
    "NamedQuery",
    "ReadableLog",
    "Replay",
    "Reply",
    "RunSummary",
    "Scene",
    "SimulateOptions",
    "Status",
    "__version__",
    "ask",
    "diff",
    "named_queries",
    "open_for_reading",
    "read_status",
    "replay",
    "resume",
    "simulate",
]
