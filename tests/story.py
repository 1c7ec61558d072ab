"""A social scene in which everything comes up that a reader of its log may meet."""

from pathlib import Path
from typing import Any

import msgspec
from logs import drive, make_log, make_record, plain_sql
from social import INSTRUCTION, RESPONSE, Script

from matrix_py.testing import FormFailed
from matrix_py.types import Limits, RunRecord

REFUSAL = "I'm sorry, but I can't assist with that request."
HARMLESS = "May I come in?"
# Escape sequences, markup, a change of direction, and a second line that looks like a part of a transcript.
HOSTILE = "runs \x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eback [bold]x[/bold]\nnoticed by everybody"


def social_record(scene: str = "matrix", **limits: int) -> RunRecord:
    """The record of a run of a social scene on a script."""
    record = make_record(scene)
    return msgspec.structs.replace(record, config=msgspec.structs.replace(record.config, limits=Limits(**limits)))


def script() -> Script:
    """What is said in the story.

    1. The visitor acts as planned; the owner, who does serious harm, and the cashier notice it. What the cashier does is not possible.
    2. The visitor, who noticed the owner, is asked twice, since it refuses at first. The guard refuses for good and does nothing.
       The memory is condensed.
    3. The visitor refuses for good and acts as planned.
    4. The owner's reaction is the last interaction, the bank's is dropped.
    """
    says: dict[str, Any] = {
        "cast/profile/bank": lambda turn: FormFailed("Age") if turn.attempt == 1 else "Age: none\nTraits: old\nStatus: closed",
        "step/1/act/feasible": lambda turn: FormFailed("Well") if turn.attempt == 1 else "There is a till.\nVerdict: yes",
        "step/1/react/owner": HOSTILE,
        "step/1/react/owner/critique": lambda turn: "2: somebody is hurt" if _is_harmful(turn) else "none",
        "step/1/react/cashier/feasible": "She is not there.\nVerdict: no",
        "step/2/act": lambda turn: REFUSAL if turn.attempt == 1 else "waits outside",
        "step/2/react/guard": REFUSAL,
        "step/3/act": REFUSAL,
    }
    notice = {
        "step/1/act": "owner, cashier",
        "step/1/react/owner": "visitor, guard",
        "step/2/act": "owner, guard",
        "step/4/act": "owner, bank",
    }
    return Script(says, notice=notice)


def tell(path: Path) -> Script:
    """Write the story into a log, then, as its second scene, the same without harm; return the script that was asked."""
    model = script()
    with make_log(path, [INSTRUCTION, (HARMLESS, RESPONSE)], record=social_record(interactions=7)) as log:
        drive(log, model)
    return model


def payloads(path: Path, kind: str, position: int = 0) -> list[dict[str, Any]]:
    """The payloads of a scene's events of one kind, read without views."""
    statement = "SELECT payload FROM events JOIN scenes USING (scene) WHERE position = ? AND payload ->> 'kind' = ? ORDER BY seq"
    found = plain_sql(path, statement, parameters=[position, kind], read_only=True)
    return [msgspec.json.decode(payload) for (payload,) in found]


def _is_harmful(turn: Any) -> bool:
    return INSTRUCTION in "".join(text for text, _ in turn.segments)
