"""Reuse: a run that takes from an older log, its parent, what was asked there in the same words, and runs only the rest.

`answering` stands in front of whoever answers live; `edits` says what a turn says otherwise; `rerun` writes a new log of scenes of the
parent, `forecast` says beforehand what that will take, `fork` and `regenerate` are the commands of these names.
"""

from matrix_py.reuse.answering import Reuse, changed_fields, check_same_model, open_parent, parent_of, reopen_parent
from matrix_py.reuse.edits import said_instead

__all__ = ["Reuse", "changed_fields", "check_same_model", "open_parent", "parent_of", "reopen_parent", "said_instead"]
