"""`matrix check-model`: what a model can do in a social scene, measured in about two minutes.

The model is asked the turns of planted scenes (`planted.toml`), in which it is known what is possible, who notices an act, and what does
harm. Turns with a form are asked under its mask and without. What came of it is kept beside the vetted facts of the model, by the hash of
its file, and goes into the record of later runs on it.
"""

import math
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Literal, TypeAlias

import msgspec

from matrix_py import _core
from matrix_py.cache import cache_entry, keep
from matrix_py.embedded import EMBEDDED
from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import ConfigError
from matrix_py.prompts import Prompts, Value, load_files, load_settings
from matrix_py.pump import Answerer
from matrix_py.scene import forms
from matrix_py.scene.flaws import clean, find_flaw, find_flaw_in_form
from matrix_py.scene.quote import Quote

DEFAULT_SECONDS = 120.0
_SCENE = "matrix"
_KEPT = "checked"
# What is worth a remark: fewer valid forms, more flawed replies, or a smaller difference between true and false judgements than this.
_FEW_FORMS, _MANY_FLAWS, _LITTLE_SENSE, _SHORT_CONTEXT = 0.85, 0.1, 0.2, 2048
_NEVER_ENDS = 0.5
# The planted cases: acts that are to be judged so, acts that are not, and what it means if both are judged alike.
PAIRS = (
    ("infeasible rejected", "feasible rejected", "it judges possible and impossible acts alike"),
    ("harmful criticised", "harmless criticised", "it judges harmful and harmless acts alike"),
    ("public noticed", "secret noticed", "who notices an act does not depend on the act"),
)

Verdict: TypeAlias = Literal["can play", "can play, with reservations", "cannot play"]


class Share(msgspec.Struct, frozen=True):
    """So many of so many."""

    count: int
    of: int

    @property
    def rate(self) -> float:
        """The share; not a number of nothing."""
        return self.count / self.of if self.of else math.nan


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    Attributes:
        model: hash of the file, hex.
        description: as llama.cpp describes it.
        template: name of the chat template, or where it comes from.
        system_role: whether the template has a place for a system message, or it is folded into the first one of the user.
        bos: whether prompts begin with a token of their own.
        end: text of the token that ends a reply.
        context: tokens that a turn may hold.
        fits: what of it fits this machine.
        deterministic: whether the same text comes in any company; `self_test` says why or why not.
        ended: free texts that the model ended itself, before its budget did.
        masked: by kind of turn, forms that were filled under their mask.
        unmasked: the same where the model was only asked for the form.
        too_long: prompts that left no room in the context.
        flaws: by kind of turn, the replies with each flaw (`matrix_py.scene.flaws`), and under "turns" all of them.
        planted: by case, how often an act was judged as the case says: true rates and false rates.
        turns_per_second: over the whole check, with the batch that it ran in.
        verdict: whether the model can play; `remarks` says in words why not, or what to expect.
    """

    model: str
    description: str
    template: str
    system_role: str
    bos: bool
    end: str
    context: int
    fits: str
    deterministic: bool
    self_test: str
    ended: Share
    masked: dict[str, Share]
    unmasked: dict[str, Share]
    too_long: int
    flaws: dict[str, dict[str, int]]
    planted: dict[str, Share]
    turns: int
    seconds: float
    turns_per_second: float
    verdict: Verdict
    remarks: list[str]


class _Planted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scene of `planted.toml`."""

    instruction: str
    response: str
    situation: str
    ego: str
    future: str
    characters: str
    roles: list[str]
    story: list[str]
    feasible: list[str]
    infeasible: list[str]
    secret: list[str]
    noticed: list[tuple[str, str]]
    harmless: list[str]
    harmful: list[str]


@dataclass(frozen=True, slots=True)
class _Probe:
    """A turn to ask, and what it is for.

    Attributes:
        form: what the reply is to fill, if anything.
        masked: whether the form binds the completion.
        case: which of `Check.planted` it counts for.
        right: of a planted act, the name that is to be among those who notice it.
    """

    kind: str
    values: dict[str, Value]
    form: str | None = None
    masked: bool = True
    times: int = 1
    case: str = ""
    right: str = ""


@dataclass(slots=True)
class _Tally:
    ended: list[bool] = field(default_factory=list)
    masked: dict[str, list[bool]] = field(default_factory=dict)
    unmasked: dict[str, list[bool]] = field(default_factory=dict)
    flaws: dict[str, Counter[str]] = field(default_factory=dict)
    planted: dict[str, list[bool]] = field(default_factory=dict)
    too_long: int = 0
    turns: int = 0


def check_model(
    model: str = EMBEDDED,
    options: EngineOptions | None = None,
    *,
    seconds: float = DEFAULT_SECONDS,
    announce: Callable[[str], None] = lambda line: None,
) -> Check:
    """Find out what a model can do in a social scene, and keep the result for the records of later runs.

    Args:
        model: path of a GGUF, `hf:owner/repo/file.gguf`, or `embedded`.
        options: how to open it.
        seconds: scenes are asked one after another until so much time is up, the first in any case.
        announce: told in a line each how it goes.

    Raises:
        ConfigError: an option is out of range.
        ModelError: the model cannot be found, opened or used.
    """
    options = options or EngineOptions()
    if not seconds > 0:
        raise ConfigError(f"--seconds is {seconds}: give more than 0")
    start = time.monotonic()
    with Engine(model, options, announce=announce) as engine:
        prompts = Prompts(
            load_files(None, _SCENE), load_settings(None, None, _SCENE), system="", template=engine.template, context=engine.context
        )
        tally, asked_at = _Tally(), time.monotonic()
        scenes = planted_scenes()
        for number, scene in enumerate(scenes, 1):
            _ask(engine, prompts, scene, number, tally)
            announce(f"scene {number} of {len(scenes)}: {tally.turns} turns so far")
            # Another scene takes about as long as those before.
            spent = time.monotonic() - start
            if spent + (time.monotonic() - asked_at) / number > seconds:
                break
        found = _check(engine, tally, time.monotonic() - asked_at)
    keep(cache_entry(_KEPT, found.model), msgspec.json.encode(found))
    return found


def kept_check(model: str) -> Check | None:
    """Return what an earlier check found of the model with this hash (hex), if it was kept."""
    entry = cache_entry(_KEPT, model)
    try:
        return None if entry is None else msgspec.json.decode(entry.read_bytes(), type=Check)
    except (OSError, msgspec.MsgspecError):
        return None


@cache
def planted_scenes() -> tuple[_Planted, ...]:
    """Return the scenes of `planted.toml`."""
    text = (resources.files("matrix_py") / "planted.toml").read_text("utf-8")
    return tuple(msgspec.convert(tomllib.loads(text)["scene"], list[_Planted]))


def _probes(scene: _Planted) -> Iterator[_Probe]:
    instruction, response, situation, future = scene.instruction, scene.response, scene.situation, scene.future
    about: dict[str, Value] = {"instruction": instruction, "response": response, "situation": situation, "future": future, "ego": scene.ego}
    about |= {"characters": scene.characters, "steps": "3", "role": scene.ego, "profile": scene.roles[0].partition(". ")[2]}
    about |= {"memory": scene.story, "plan": scene.feasible[0].partition(": ")[2], "noticed": scene.harmful[0], "story": scene.story}
    about |= {"failed": scene.infeasible[0], "critiques": "Serious: somebody is hurt", "consequence": "Somebody is hurt."}
    for kind in ("respond", "situation", "future", "characters", "act", "react", "condense_memory", "consequence", "revise"):
        yield _Probe(kind, about)
    judged: dict[str, Value] = about | {"roles": scene.roles}
    names = [Quote(role.partition(".")[0]) for role in scene.roles]
    for masked in (True, False):
        yield _Probe("ego", about, forms.NAME, masked)
        yield _Probe("roles", about, forms.names(8), masked, times=8)
        yield _Probe("profile", about, forms.PROFILE, masked)
        yield _Probe("plan", about, forms.plan(3), masked, times=3)
        # Without the mask, one act of each list is enough to see whether the form is known.
        for case, acts in (("infeasible rejected", scene.infeasible), ("feasible rejected", scene.feasible)):
            for act in acts if masked else acts[:1]:
                yield _Probe("feasible", judged | {"action": act}, forms.VERDICT, masked, case=case)
        for case, acts in (("harmful criticised", scene.harmful), ("harmless criticised", scene.harmless)):
            for act in acts if masked else acts[:1]:
                yield _Probe("critique", judged | {"action": act}, forms.CRITIQUE, masked, case=case)
        secret = [("secret noticed", act, "") for act in scene.secret]
        for case, act, right in [*secret, *(("public noticed", act, role) for act, role in scene.noticed)] if masked else secret[:1]:
            others = [name for name in names if name != act.partition(":")[0]]
            values = judged | {"action": act, "others": others}
            yield _Probe("recipients", values, forms.some_of(others), masked, times=len(others), case=case, right=right)


def _ask(answerer: Answerer, prompts: Prompts, scene: _Planted, number: int, tally: _Tally) -> None:
    """Ask all probes of a scene at once."""
    probes = {}
    for place, probe in enumerate(_probes(scene)):
        sampling = prompts.sampling(probe.kind, probe.form if probe.masked else None, times=probe.times)
        turn = _core.Turn(
            seed=0,
            scene=_core.scene_id("check-model", scene.instruction, None, number),
            path=f"{place}",
            attempt=1,
            kind=probe.kind,
            segments=prompts.render(probe.kind, probe.values),
            sampling=sampling,
        )
        probes[turn.path] = (turn, probe)
    answerer.submit([turn for turn, _ in probes.values()])
    left = len(probes)
    while left:
        for turn, completion in answerer.collect(1.0):
            if isinstance(completion, Exception):
                raise completion
            left -= 1
            like = scene.instruction, "".join(text for text, trusted in turn.segments if trusted)
            _count(tally, probes[turn.path][1], completion, like, in_world=prompts.settings[turn.kind].system == "writer")


def _count(tally: _Tally, probe: _Probe, completion: _core.Completion, like: tuple[str, ...], *, in_world: bool) -> None:
    tally.turns += 1
    if completion.outcome == "too_long":
        tally.too_long += 1
        return
    text = completion.text.strip()
    if probe.form is None:
        tally.ended.append(completion.finish in ("eos", "stop"))
        text, cuts = clean(text)
        flaw = find_flaw(text, like=like, in_world=in_world, cuts=cuts)
        counted = tally.flaws.setdefault(probe.kind, Counter())
        counted["turns"] += 1
        if flaw is not None:
            counted[flaw] += 1
        return
    valid = completion.outcome == "text" and _core.form_accepts(probe.form, text)
    (tally.masked if probe.masked else tally.unmasked).setdefault(probe.kind, []).append(valid)
    if valid and probe.masked and probe.kind != "recipients":  # those are names that were given
        counted = tally.flaws.setdefault(probe.kind, Counter())
        counted["turns"] += 1
        flaw = find_flaw_in_form(text, like=like)
        if flaw is not None:
            counted[flaw] += 1
    if valid and probe.masked and probe.case:
        tally.planted.setdefault(probe.case, []).append(_is_so(probe, Quote(text)))


def _is_so(probe: _Probe, text: Quote) -> bool:
    """Whether an act was judged as its case says."""
    match probe.kind:
        case "feasible":
            return not forms.read_verdict(text)[0]
        case "critique":
            return forms.read_critique(text) is not None
    return probe.right in text.split(", ") if probe.right else text != forms.NOBODY


def _check(engine: Engine, tally: _Tally, seconds: float) -> Check:
    masked, unmasked, planted = (
        {kind: _share(each) for kind, each in found.items()} for found in (tally.masked, tally.unmasked, tally.planted)
    )
    flaws = {kind: dict(sorted(counted.items())) for kind, counted in sorted(tally.flaws.items())}
    verdict, remarks = _judge(engine, tally, masked, unmasked, planted)
    return Check(
        model=engine.model_hash.hex(),
        description=engine.facts.description,
        template=engine.template.name,
        system_role="folded into the user's first message" if engine.template.folds_system else "has a place",
        bos=engine.facts.add_bos,
        end=engine.facts.eos_token or "",
        context=engine.context,
        fits=engine.summary,
        deterministic=engine.deterministic,
        self_test=engine.self_test,
        ended=_share(tally.ended),
        masked=masked,
        unmasked=unmasked,
        too_long=tally.too_long,
        flaws=flaws,
        planted=planted,
        turns=tally.turns,
        seconds=round(seconds, 3),
        turns_per_second=round(tally.turns / max(seconds, 1e-3), 3),
        verdict=verdict,
        remarks=remarks,
    )


def _judge(
    engine: Engine, tally: _Tally, masked: dict[str, Share], unmasked: dict[str, Share], planted: dict[str, Share]
) -> tuple[Verdict, list[str]]:
    """Say in words what is wrong, what bars a model from playing first."""
    bars, reservations = [], []
    if tally.too_long:
        bars.append(f"{tally.too_long} of {tally.turns} prompts do not fit its context of {engine.context} tokens: scenes of it fail")
    elif engine.context < _SHORT_CONTEXT:
        reservations.append(f"its context of {engine.context} tokens is short: long scenes will fail (give more with --ctx if it has it)")
    if engine.template.is_plain:
        reservations.append("it has no chat template: it was hardly trained to do what a prompt asks for")
    for name, forms_of, where in (("under the mask", masked, bars), ("without the mask", unmasked, reservations)):
        total = _sum(forms_of)
        if total.of and total.rate < _FEW_FORMS:
            where.append(f"{name} it fills {total.count} of {total.of} forms: what it cannot fill falls back")
    if tally.ended and sum(tally.ended) / len(tally.ended) < _NEVER_ENDS:
        reservations.append(f"it ends {sum(tally.ended)} of {len(tally.ended)} free texts itself; the others are cut by their budget")
    senseless = 0
    for right, wrong, what in PAIRS:
        true, false = planted.get(right), planted.get(wrong)
        if true and false and true.rate - false.rate < _LITTLE_SENSE:
            senseless += 1
            reservations.append(f"{what}: {right} {true.count} of {true.of}, {wrong} {false.count} of {false.of}")
    replies = sum(counted["turns"] for counted in tally.flaws.values())
    flawed = sum(sum(counted.values()) - counted["turns"] for counted in tally.flaws.values())
    if replies and flawed / replies > _MANY_FLAWS:
        worst = sum(tally.flaws.values(), Counter[str]())
        del worst["turns"]
        reservations.append(f"{flawed} of {replies} replies are flawed, most often by {worst.most_common(1)[0][0]}")
    # A model whose verdicts mean nothing plays no scene, even if it fills all forms.
    if bars or senseless == len(PAIRS):
        return "cannot play", bars + reservations
    return ("can play, with reservations" if reservations else "can play"), reservations


def _share(found: list[bool]) -> Share:
    return Share(sum(found), len(found))


def _sum(shares: dict[str, Share]) -> Share:
    return Share(sum(share.count for share in shares.values()), sum(share.of for share in shares.values()))
