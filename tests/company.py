"""Logs of scenes whose scripts are known, so that what a query says of them is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from logs import drive, make_log, plain_sql
from social import RESPONSE, Script
from story import social_record

from matrix_py import _core
from matrix_py.labels import label_run
from matrix_py.testing import ScriptedModel

# What is special about a scene: path or kind of turn -> what is said.
Rules = Mapping[str, Any]


def tell_all(
    path: Path,
    scenes: Mapping[str, Rules],
    *,
    notice: Mapping[str, str] | None = None,
    meta: Mapping[str, Mapping[str, Any]] | None = None,
    responses: Mapping[str, str | None] | None = None,
    prompts: Mapping[str, str] | None = None,
    method: str = "matrix",
    **limits: int,
) -> Path:
    """Write a labelled log of scenes.

    Args:
        path: the log.
        scenes: by instruction.
        notice: path of an action -> who notices it, in every scene whose rules do not say.
        meta: of the input's other columns, by instruction.
        responses: the given response, by instruction, where it is another or None.
        prompts: files in the place of the package's.
        method: the scene.
        **limits: of the scenes; one step and two roles where not given.
    """
    record = social_record(method, **{"steps": 1, "roles": 2} | limits)
    if prompts:
        config = msgspec.structs.replace(record.config, prompts={**record.config.prompts, **prompts})
        record = msgspec.structs.replace(record, config=config)
    rows = [(instruction, (responses or {}).get(instruction, RESPONSE)) for instruction in scenes]
    noticed = {f"{action}/recipients": recipients for action, recipients in (notice or {}).items()}
    scripts = {
        _core.scene_id(method, instruction, response, 0): Script({**noticed, **scenes[instruction]}) for instruction, response in rows
    }
    with make_log(path, rows, record=record) as log:
        drive(log, ScriptedModel(lambda turn: scripts[turn.scene].say(turn)))
        label_run(log)
    for position, instruction in enumerate(scenes):
        if instruction in (meta or {}):
            found = msgspec.json.encode((meta or {})[instruction]).decode()
            plain_sql(path, "UPDATE scenes SET meta = ? WHERE position = ?", parameters=[found, position])
    return path


def set_facts(path: Path, turn: str, position: int | None = None, **facts: object) -> None:
    """Set what stands beside a completion: of a turn by its path, in one scene or in all."""
    columns = ", ".join(f"{name} = ?" for name in facts)
    where = "path = ?" + ("" if position is None else f" AND scene = (SELECT scene FROM scenes WHERE position = {position})")
    plain_sql(path, f"UPDATE completions SET {columns} WHERE {where}", parameters=[*facts.values(), turn])
