"""`check` names every change of what is hashed by its scene and event, and finds nothing in a log that was not changed."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from logs import INSTRUCTIONS, drive, make_log, plain_sql, scripted

from matrix_py.cli import main
from matrix_py.store import Finding, Log, check

REPLAYS = sorted((Path(__file__).parents[1] / "replays").glob("*.duckdb"))
GOLDEN = Path(__file__).parent / "golden"
# Of random changes; with MATRIX_DAMAGE=1000, as many.
CHANGES = int(os.environ.get("MATRIX_DAMAGE", "60"))


def findings(path: Path) -> list[Finding]:
    with Log.open(path, read_only=True) as log:
        return check(log).findings


@pytest.mark.parametrize("path", [*REPLAYS, *sorted(GOLDEN.glob("*.duckdb"))], ids=lambda path: path.stem)
def test_nothing_is_found_in_a_log_as_it_was_written(path: Path) -> None:
    assert findings(path) == []


def test_nothing_is_found_in_a_log_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    model = scripted()
    answer = model._answer
    model._answer = lambda turn: RuntimeError("engine gone") if turn.path == "revise" else answer(turn)
    with make_log(tmp_path / "run.duckdb", INSTRUCTIONS) as log:
        drive(log, model)

    assert findings(tmp_path / "run.duckdb") == []


# What is hashed: what it is a row of, and whose.
HASHED = {
    "scenes": ("scene", "position", "occurrence", "instruction", "response"),
    "completions": ("scene", "path", "attempt", "request", "outcome", "finish", "text", "kind", "segments", "trusted", "sampling"),
    "events": ("scene", "seq", "kind", "payload", "hash"),
    "texts": ("hash", "text"),
}


def another(value: Any, dice: random.Random) -> Any:
    """Another value of the same type, mostly close by."""
    match value:
        case None:
            return dice.randbytes(32)
        case bool():
            return not value
        case bytes():
            at = dice.randrange(len(value))
            return dice.choice([value[:at] + bytes([value[at] ^ 1 << dice.randrange(8)]) + value[at + 1 :], dice.randbytes(32)])
        case int():
            return dice.choice([other for other in (value + 1, value + 7, max(value - 1, 0), 100) if other != value])
        case str() if value.startswith("{"):
            # The column takes JSON only.
            places = [at + 3 for at in range(len(value)) if value.startswith('":"', at)]
            at = dice.choice(places)
            return value[:at] + dice.choice("aZ0 é") + value[at:]
        case str():
            at = dice.randrange(len(value) + 1)
            return dice.choice([value[:at] + dice.choice("aZ0 é\n") + value[at:], value[:at] + value[at + 1 :] + "x"])
        case list():
            at = dice.randrange(len(value))
            return dice.choice([[*value[:at], another(value[at], dice), *value[at + 1 :]], value[:-1], [*value, value[0]]])
    raise AssertionError(f"no other value of {value!r}")


def change(path: Path, dice: random.Random) -> tuple[str, set[str]]:
    """Change one thing; return what, and the scenes of which one has to be named."""
    table = dice.choice(list(HASHED))
    kind = dice.choice(["change", "change", "delete", "swap"])
    column = dice.choice(HASHED[table])
    rows = plain_sql(path, f"SELECT rowid, {column} FROM {table} ORDER BY rowid")
    (first, value), (second, other) = dice.choices(rows, k=2)
    users = {
        "scenes": "SELECT lower(hex(scene)) FROM scenes WHERE rowid IN ($1, $2)",
        "completions": "SELECT lower(hex(scene)) FROM completions WHERE rowid IN ($1, $2)",
        "events": "SELECT lower(hex(scene)) FROM events WHERE rowid IN ($1, $2)",
        "texts": "SELECT lower(hex(scene)) FROM scenes s JOIN texts t ON t.hash IN (s.instruction, s.response) WHERE t.rowid IN ($1, $2) "
        "UNION SELECT lower(hex(scene)) FROM completions c JOIN texts t ON t.hash = c.text OR list_contains(c.segments, t.hash) "
        "WHERE t.rowid IN ($1, $2)",
    }[table]
    if kind == "swap" and value == other:
        kind = "change"
    scenes = {scene for (scene,) in plain_sql(path, users, parameters=[first, second if kind == "swap" else first])}
    if kind == "delete":
        plain_sql(path, f"DELETE FROM {table} WHERE rowid = $1", parameters=[first])
        return f"{table}: row {first} deleted", scenes
    changed = other if kind == "swap" else another(value, dice)
    update = f"UPDATE {table} SET {column} = $1 WHERE rowid = $2"
    plain_sql(path, update, parameters=[changed, first])
    if kind == "swap":
        # By what it held: an update may have given the row another rowid.
        plain_sql(path, update, parameters=[value, second])
    return f"{table}.{column} of row {first}: {value!r} -> {changed!r}", scenes


def test_every_change_is_named_by_scene_and_event(tmp_path: Path) -> None:
    with make_log(tmp_path / "small.duckdb", [*INSTRUCTIONS, ("What is a fork?", "A branch.")]) as log:
        drive(log, scripted())
    logs = [tmp_path / "small.duckdb", *(path for path in REPLAYS if path.stem.startswith("matrix"))]
    missed = []
    for seed in range(CHANGES):
        dice = random.Random(seed)
        path = Path(shutil.copy(dice.choice(logs), tmp_path / "run.duckdb"))
        what, scenes = change(path, dice)

        found = findings(path)

        # Deleted or renamed, the scene of a row shows at what is left of it.
        if not any(finding.scene in scenes and finding.seq is not None for finding in found):
            missed.append(f"{seed}: {what}; found {[str(finding)[:200] for finding in found[:3]]}")
    assert missed == []


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ('UPDATE run SET config = replace(config, \'"model":"\', \'"model":"0\')', "the configuration"),
        ("UPDATE run SET root = (SELECT hash FROM events LIMIT 1)", "root hash"),
    ],
)
def test_a_change_of_the_run_itself_is_found(tmp_path: Path, statement: str, what: str) -> None:
    path = Path(shutil.copy(REPLAYS[0], tmp_path / "run.duckdb"))
    plain_sql(path, statement)

    [finding] = findings(path)

    assert finding.scene is None
    assert what in str(finding)


def rehashed(path: Path, edit: Callable[[list[str]], None]) -> None:
    """Edit the payloads of the first scene and compute the chain again: as somebody would who knows how."""
    from matrix_py import _core

    [(scene,)] = plain_sql(path, "SELECT scene FROM scenes WHERE position = 0")
    payloads = [row[0] for row in plain_sql(path, "SELECT payload FROM events WHERE scene = $1 ORDER BY seq", parameters=[scene])]
    edit(payloads)
    plain_sql(path, "DELETE FROM events WHERE scene = $1", parameters=[scene])
    log = _core.EventLog()
    log.open(scene, 0)
    for payload in payloads:
        seq, digest = log.append(scene, payload.encode())
        kind = payload.split('"')[3]
        plain_sql(path, "INSERT INTO events VALUES ($1, $2, $3, $4, $5, now()::TIMESTAMP)", parameters=[scene, seq, kind, payload, digest])


def replace(payloads: list[str], kind: str, old: str, new: str) -> None:
    at = next(at for at, payload in enumerate(payloads) if payload.startswith(f'{{"kind":"{kind}"') and old in payload)
    payloads[at] = payloads[at].replace(old, new, 1)


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda all: replace(all, "SceneFinished", '"count":', '"count":1'), "the end counts"),
        (lambda all: all.append(all[-2]), "events follow the end"),
        (lambda all: all.pop(0), "begins with SceneStarted"),
        (lambda all: replace(all, "TurnCompleted", '"reads":["', '"reads":["step/9/act","'), "did not come before"),
        (lambda all: replace(all, "ActionProposed", '"causes":["', '"causes":["step/9/act","'), "did not come before"),
        (lambda all: replace(all, "TurnCompleted", '"outcome":"text"', '"outcome":"too_long"'), "the completion's outcome"),
        (lambda all: replace(all, "ActionProposed", '"causes"', '"caused"'), "not the fields of its kind"),
        (lambda all: replace(all, "SceneStarted", '"occurrence":0', '"occurrence":1'), "listed with another"),
    ],
)
def test_what_is_wrong_under_hashes_that_fit_is_found_as_well(tmp_path: Path, edit: Callable[[list[str]], None], what: str) -> None:
    source = next(path for path in REPLAYS if path.stem.startswith("matrix-waves"))
    path = Path(shutil.copy(source, tmp_path / "run.duckdb"))
    rehashed(path, edit)

    found = findings(path)

    assert any(what in finding.what and finding.seq is not None for finding in found), [str(finding) for finding in found]
    # The root is made of the hashes of the ends.
    assert what == "events follow the end" or any("root hash" in finding.what for finding in found)


def test_the_command_names_what_is_wrong_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(shutil.copy(REPLAYS[0], tmp_path / "run.duckdb"))

    assert main(["log", "check", str(path)]) == 0
    assert f"{path}: sound, 5 scenes, 13 turns, 36 events, root " in capsys.readouterr().out

    [(scene,)] = plain_sql(path, "SELECT lower(hex(scene)) FROM scenes WHERE position = 2")
    plain_sql(path, f"DELETE FROM completions WHERE scene = unhex('{scene}') AND path = 'critique'")
    assert main(["log", "check", str(path), str(REPLAYS[1])]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"scene {scene} seq 3 turn critique: the event's completion is missing"
    assert lines[1].startswith(f"{path}: 1 findings, ")
    assert lines[2].startswith(f"{REPLAYS[1]}: sound, ")

    assert main(["log", "check", "--format", "json", str(path)]) == 1
    [document] = json.loads(capsys.readouterr().out)
    assert document["findings"] == [{"what": "the event's completion is missing", "scene": scene, "seq": 3, "turn": "critique"}]
