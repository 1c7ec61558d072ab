"""Datasets: rows to train on, made of the scenes of logs, each traceable to the turn that it is from."""

from matrix_py.dataset.building import build
from matrix_py.dataset.options import DatasetOptions
from matrix_py.dataset.recording import record
from matrix_py.dataset.result import Dataset, KindCounts, SourceRun
from matrix_py.dataset.row import Row, RowKind

__all__ = ["Dataset", "DatasetOptions", "KindCounts", "Row", "RowKind", "SourceRun", "build", "record"]
