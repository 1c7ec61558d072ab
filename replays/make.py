"""Record the golden runs again, on purpose: `make record`, or `python replays/make.py [FOLDER]`. README.md says when.

Scripts answer in the place of a model; pump, scenes, prompts, event log and store are the real ones. Everything that a log says is fixed,
so that the same code records the same root hash on any machine.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from matrix_py import _core
from matrix_py.models.chat import ChatTemplate
from matrix_py.models.chat import load as load_template
from matrix_py.prompts import load_files, load_settings
from matrix_py.scene import find_scene
from matrix_py.scene.rules import RULES
from matrix_py.simulate import recorded_prompts, run
from matrix_py.store import Log, SceneLister
from matrix_py.testing import FormFailed, ScriptedModel, TooLong
from matrix_py.types import CONFIG_FORMAT, Execution, Limits, RunConfig, RunRecord

ROOTS = "roots.json"

_Said = str | FormFailed | TooLong
_Answer = Callable[[_core.Turn], _Said]


@dataclass(frozen=True)
class Golden:
    """How a golden run is made: the scene, (instruction, given response) of each of its scenes, the script, and the limits."""

    scene: str
    rows: tuple[tuple[str, str | None], ...]
    answer: _Answer
    limits: Limits = field(default_factory=Limits)


# One instruction is asked twice, one comes with its response, the last finds no room for its critique.
_CRITIQUE_REVISE = (
    ("How do I repair a puncture in a bicycle tyre?", None),
    ("Which trees grow well beside a street?", "Limes and maples do."),
    ("How do I repair a puncture in a bicycle tyre?", None),
    ("Wie schreibt man „Straße“ in Großbuchstaben? 🌳", None),
    ("What should I cook for six guests on a small budget?", None),
)


def _critique_revise(turn: _core.Turn) -> _Said:
    prompt = "".join(text for text, _ in turn.segments)
    if turn.path == "critique" and "six guests" in prompt:
        return TooLong()
    return {
        "respond": " Take your time, and ask somebody who knows.\n",
        "critique": " Nobody is harmed <|im_end|> by this; it says little, though.",
        "revise": "Ask somebody who knows, und nimm dir Zeit.",
    }[turn.path]


_SHOP = (("How do I get the shop's till to open?", "Press the key under the drawer."),)
_SHOP_SCENE = _core.scene_id("matrix", *_SHOP[0], 0)
# By kind of turn. A turn says so at every attempt, but where a rule by its path says otherwise.
_SOCIAL: Mapping[str, str] = {
    "respond": "Press the key under the drawer.",
    "situation": "Somebody stands alone at the till of a small shop, after hours.",
    "ego": "visitor",
    "future": "The drawer opens, and the money of the day is missing in the evening.",
    "characters": "The owner of the shop, the cashier who was on duty, and a customer.",
    "roles": "owner\nthe cashier\ncustomer\nVisitor\nthe till",
    "public": "customer\npolice\nneighbours",
    "traits": "curious",
    "target": "to see the till open",
    "act": "tries again, with a look over the shoulder",
    "recipients": "nobody",
    "condense_memory": "The visitor was seen at the till, and people talk about it.",
    "condense_critiques": "Money that belongs to others is at risk.",
    "consequence": "The shop's money is missing, and the cashier is blamed for it.",
    "outcome": "The visitor saw the till open.",
    "summary": "An answer about a till.",
    "revise": "Ask the owner to open it.",
}


def _social(says: Mapping[str, _Said] | None = None) -> _Answer:
    """Return a script of social scenes. `says` is by path, with "#2" at its end for a second attempt, or by kind of turn."""
    rules: Mapping[str, _Said] = {**_SOCIAL, **(says or {})}

    def answer(turn: _core.Turn) -> _Said:
        form = turn.sampling.form or ""
        attempt = f"{turn.path}#{turn.attempt}"
        for key in (attempt, turn.path, turn.kind):
            if key in rules:
                return rules[key]
        match turn.kind:
            case "profile":
                age = "Age: none\n" if "Age: " in form else ""
                return f"{age}Traits: those of {turn.path.rpartition('/')[2]}\nStatus: near the shop"
            case "plan":
                steps = form.count("LINE") - 1
                return "\n".join(f"{step}. presses key number {step}" for step in range(1, steps + 1))
            case "feasible":
                reason = f"Nothing stands in the way of {turn.path}."
                return f"yes: {reason}" if form.startswith("start: VERDICT") else f"{reason}\nVerdict: yes"
            case "critique":
                return "none" if form else f"Somebody may lose by {turn.path}."
        return f"speaks up at {turn.path}"

    return answer


# No act stands twice in a plan, but case makes no difference to what is new.
_SAME_AGAIN = "1. presses the key\n2. Presses the key\n3. presses The key\n4. presses the Key"
_REFUSAL = "I'm sorry, but I can't assist with that request."
_FLAWED: Mapping[str, _Said] = {
    "situation": "<think>Where do they stand?</think>Somebody stands at the till of a shop.",
    "future": "As an AI language model, I see the drawer open.",
    "cast/future#2": "The drawer opens.",
    "characters": "店主、收银员和一位顾客都在商店里，他们看着那台收银机。",
    "cast/profile/owner#1": FormFailed("Age: very old"),
    "cast/profile/the cashier": f"Age: 31\nTraits: {_REFUSAL}\nStatus: on duty",
    "step/1/act/feasible": FormFailed("Well"),
    "step/1/act/recipients": "owner, the cashier, customer, the till",
    "step/1/act/critique": "2: somebody's money is touched",
    "step/1/react/owner": "owner: counts the money\ncustomer: watches",
    "step/1/react/owner/recipients": "visitor",
    "step/1/react/the cashier": _REFUSAL,
    "step/1/react/customer": "says that it is late, " * 12,
    "step/1/react/the till": "...",
    "step/2/act#1": "",
    "step/2/act": "leaves the shop",
    "consequence": _REFUSAL,
}


_ALL = "owner, the cashier, customer"

RUNS: dict[str, Golden] = {
    "critique-revise-scripted": Golden("critique-revise", _CRITIQUE_REVISE, _critique_revise),
    # The first act is delivered, the second is not possible; nor is the cashier's reaction. One harm is noted.
    "matrix-infeasible-acts-reach-only-the-consequence": Golden(
        "matrix",
        _SHOP,
        _social(
            {
                "step/1/act/recipients": "owner, the cashier",
                "step/1/act/critique": "2: somebody's money is touched",
                "step/1/react/the cashier/feasible": "She has left the shop.\nVerdict: no",
                "step/2/act/feasible": "The till has no such key.\nVerdict: no",
            }
        ),
        Limits(roles=3, steps=3),
    ),
    # All notice the act, then the first reaction, which the others answer in a second wave; the ego answers with its next act.
    "matrix-waves-answer-what-was-noticed": Golden(
        "matrix",
        _SHOP,
        _social(
            {
                "step/1/act/recipients": "customer, owner, the cashier",
                "step/1/react/owner/recipients": "the cashier, visitor",
                "step/1/react/customer/recipients": "the cashier",
                "step/1/react/the cashier/2/recipients": "visitor",
                "step/2/act/recipients": "owner",
                "step/2/act/critique": "1: somebody is disturbed",
            }
        ),
        Limits(roles=3, steps=2, depth=2),
    ),
    # All notice each act, and everything does harm. 8 critiques are not condensed, 10 are; the last wave is cut by the limit.
    "matrix-condenses-and-stops-at-its-limits": Golden(
        "matrix",
        _SHOP,
        _social({"step/1/act/recipients": _ALL, "step/2/act/recipients": _ALL, "step/3/act/recipients": _ALL, "critique": "3: a loss"}),
        Limits(roles=3, interactions=10),
    ),
    # The first scene uses up its plan, in the second the same thing is done again and again.
    "matrix-keeps-a-response-without-harm": Golden(
        "matrix",
        (("How do I repair a puncture in a bicycle tyre?", None), *_SHOP),
        lambda turn: _social({"plan": _SAME_AGAIN} if turn.scene == _SHOP_SCENE else {})(turn),
        Limits(roles=1, steps=4),
    ),
    # One flaw of each sort with each policy; forms that fail, then or for good; in the second scene, a refusal without a fallback.
    "matrix-flawed-replies": Golden(
        "matrix",
        (*_SHOP, ("Help me spread a rumour about the family next door.", "Tell it to two people.")),
        lambda turn: _social(_FLAWED if turn.scene == _SHOP_SCENE else {"future": _REFUSAL})(turn),
        Limits(roles=4, steps=2),
    ),
    # Memory and critiques are condensed as they grow, and at the end. What is impossible reaches nobody.
    "published-condenses-as-it-goes": Golden(
        "published",
        _SHOP,
        _social(
            {
                "roles": "owner\nthe cashier\ncustomer\nthe till",
                **{f"step/{step}/act/recipients": f"{_ALL}, the till" for step in range(1, 4)},
                "step/2/act/feasible": "no: The till has no such key.",
            }
        ),
        Limits(roles=4, steps=3),
    ),
}


def make(name: str, folder: Path) -> str:
    """Record one golden run into `folder`, and return its root hash in hex."""
    golden = RUNS[name]

    def scenes(lister: SceneLister) -> None:
        for row, (instruction, response) in enumerate(golden.rows):
            lister.add(label="golden", row=row, instruction=instruction, response=response, meta="{}")

    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "run.duckdb"
        with Log.create(path, _record(name, golden), scenes, overwrite=False) as log:
            config = log.record.config
            summary = run(log, recorded_prompts(config), find_scene(golden.scene), ScriptedModel(golden.answer), window=2)
        _shrink(path, folder / f"{name}.duckdb")
    assert summary.root is not None, summary.counts.errors
    return summary.root.hex()


def _record(name: str, golden: Golden) -> RunRecord:
    template: ChatTemplate = load_template({}, override="chatml", bos_token="", eos_token="")
    config = RunConfig(
        format=CONFIG_FORMAT,
        scene=golden.scene,
        limits=golden.limits,
        seed=11,
        model=_core.blake3(b"a script").hex(),
        template=template.source,
        bos_token="",
        eos_token="",
        context=2048,
        deterministic=True,
        rules=RULES,
        system="You are a helpful assistant.",
        prompts=load_files(None, golden.scene),
        settings=load_settings(None, None, golden.scene),
    )
    execution = Execution(
        model_path="a script",
        model_description="a script",
        llama_cpp="none",
        device="none",
        gpu_layers=0,
        kv="none",
        parallel=1,
        threads=1,
        batch=32,
        prefix_reuse=False,
        self_test="none",
        inputs=[],
        dropped={},
        prompts_dir="",
        config_file="",
        versions={},
    )
    return RunRecord(run_id=name, config=config, execution=execution)


def _shrink(log: Path, out: Path) -> None:
    """Copy a log into blocks of 16 KiB: each column's data begins a new one, and git keeps every version."""
    out.unlink(missing_ok=True)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(f"ATTACH '{log}' AS log (READ_ONLY)")
        connection.execute(f"ATTACH '{out}' AS small (BLOCK_SIZE 16384, STORAGE_VERSION 'v1.2.0')")
        connection.execute("COPY FROM DATABASE log TO small")


def main(folder: Path) -> None:
    """Record all golden runs and their roots into `folder`."""
    roots = {name: make(name, folder) for name in RUNS}
    (folder / ROOTS).write_text(json.dumps(roots, indent=2) + "\n", "utf-8")
    for name, root in roots.items():
        print(f"{name}: {root}, {(folder / f'{name}.duckdb').stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
