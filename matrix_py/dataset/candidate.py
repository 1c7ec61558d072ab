"""Candidates: the turns of a scene that could give a row, each with its row or with why it gives none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matrix_py.dataset.options import DatasetOptions
from matrix_py.dataset.row import Row, RowKind
from matrix_py.distance import distance
from matrix_py.labels import DETECTORS, Subject, subjects
from matrix_py.prompts import Prompts
from matrix_py.store import PlayedScene, PlayedTurn, SceneTexts, TurnText
from matrix_py.types import RunRecord

# Kinds of turns whose texts are answers to the instruction: rows of other kinds than the scene's own turns.
_ANSWERS = ("respond", "revise")
# What scenes cut off a reply and that is no part of an answer. What else they cut is a part that is missing.
_BESIDE = frozenset({"thinking", "label"})

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A turn that could give a row.

    Attributes:
        row: the row; None where none was made.
        dropped_by: why there is none; None where there is one.
        text: of the row, what near-duplicates are told by: the instruction, or what the turn's prompt was filled with. None where only
            the very same row is a duplicate: what a form bound is short, and a word in it can mean the opposite.
    """

    kind: RowKind
    path: str
    attempt: int
    row: Row | None = None
    dropped_by: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a scene, as its events tell.

    Attributes:
        state: `completed`, `failed` or `open`.
        response: the response, and whether the input gave it.
        revision: the revision.
        kept: whether the response was kept, since no harm was found.
        roles: its cast.
        fell_back: paths of turns for which a fallback stood in.
        flaws: by path and attempt, what was wrong with the reply, each with what was done about it.
    """

    state: str
    response: tuple[str, bool] | None
    revision: str | None
    kept: bool
    roles: tuple[str, ...]
    fell_back: frozenset[str]
    flaws: dict[tuple[str, int], list[tuple[str, str]]]

    @classmethod
    def of(cls, scene: PlayedScene) -> "Told":
        """Read the events of a scene."""
        last: dict[str, Fields] = {}
        roles, fell_back = [], set()
        flaws: dict[tuple[str, int], list[tuple[str, str]]] = {}
        for kind, fields in scene.events:
            last[kind] = fields
            match kind:
                case "RoleCast":
                    roles.append(fields["role"])
                case "TurnFellBack":
                    fell_back.add(fields["path"])
                case "ReplyFlawed":
                    flaws.setdefault((fields["path"], fields["attempt"]), []).append((fields["flaw"], fields["policy"]))
        given, revised, end = last.get("ResponseGiven"), last.get("ResponseRevised"), last.get("SceneFinished")
        return cls(
            state="open" if end is None else end["end"],
            response=None if given is None else (given["text"], given["given"]),
            revision=None if revised is None else revised["text"],
            kept="ResponseKept" in last,
            roles=tuple(roles),
            fell_back=frozenset(fell_back),
            flaws=flaws,
        )


class Collector:
    """Collects the candidates of a run's scenes, one scene at a time.

    Attributes:
        benign: finished scenes that were taken for benign.
        benign_names: of the options' names of benign instructions, those that some scene goes by.
        labels: names of the inputs that scenes are from.
    """

    def __init__(
        self,
        record: RunRecord,
        prompts: Prompts,
        options: DatasetOptions,
        *,
        is_excluded: Callable[[str], bool],
    ) -> None:
        """Set up.

        Args:
            record: the run's.
            prompts: as they were recorded.
            options: what the dataset is to hold.
            is_excluded: whether an instruction is one of an evaluation set, or near one.
        """
        self.benign = 0
        self.benign_names: set[str] = set()
        self.labels: set[str] = set()
        self._record = record
        self._prompts = prompts
        self._options = options
        self._is_excluded = is_excluded

    def scene(self, scene: PlayedScene) -> Iterator[Candidate]:
        """Yield the candidates of a scene."""
        told = Told.of(scene)
        self.labels.add(scene.label)
        found = dict(_labels(scene, told, self._record))
        benign = self.is_benign(scene, told)
        self.benign += benign and told.state != "open"
        answers = [*self._answers(scene, told, benign=benign)]
        fault = self._fault(scene, told, found, refusable=[turn for turn, _ in answers] if benign else [])
        kind = RowKind.HELPFUL if benign else RowKind.ALIGNED
        for turn, text in answers if self._options.shares[kind] else ():
            reason = fault or self._wrong_answer(kind, turn, text, told, found)
            row = None if reason else self._answer_row(kind, scene, turn, text)
            yield Candidate(kind, turn.path, turn.attempt, row, reason, scene.instruction)
        if self._options.shares[RowKind.SIMULATION]:
            for turn in scene.turns:
                if turn.kind not in _ANSWERS:
                    yield self._simulated(scene, turn, told, found, fault)

    def simulated(self, scene: PlayedScene, turn: PlayedTurn) -> Candidate:
        """Return the candidate that a turn of a scene gives, nothing being wrong with it."""
        messages, prefill = self._prompts.unrender(turn.kind, turn.prompt, retry=turn.attempt > 1)
        row = Row(RowKind.SIMULATION, messages, prefill, turn.text, self._record.run_id, scene.scene, turn.path, turn.attempt)
        text = None if turn.finish == "form" else "\n".join(text for text, trusted in turn.prompt if not trusted)
        return Candidate(RowKind.SIMULATION, turn.path, turn.attempt, row, None, text)

    def is_benign(self, scene: PlayedScene, told: Told) -> bool:
        """Whether a scene's instruction is benign: as the options say, or since no harm was found."""
        if not self._options.benign:
            return told.kept
        for name in self._options.benign:
            column, equals, value = name.partition("=")
            if str(scene.meta.get(column)) == value if equals else scene.label == name:
                self.benign_names.add(name)
                return True
        return False

    def _answers(self, scene: PlayedScene, told: Told, *, benign: bool) -> Iterator[tuple[PlayedTurn, str]]:
        """Yield the turn, or what stands for one, and the text of the answer that a scene gives, if it gives one."""
        text, path, given = told.revision, "revise", False
        if benign and (self._options.helpful == "response" or text is None):
            text, given = told.response or (None, False)
            path = "respond"
        if text is None:
            return
        turns = [turn for turn in scene.turns if turn.path == path]
        if given or not turns:
            yield PlayedTurn(path, 0, path, "text", "eos", text, ()), text
        else:
            yield turns[-1], text

    def _fault(self, scene: PlayedScene, told: Told, found: dict[tuple[str, int], str], *, refusable: Sequence[PlayedTurn]) -> str | None:
        """Return why no row is taken from a scene at all.

        Args:
            scene: the scene.
            told: what became of it.
            found: labels of its turns.
            refusable: the answers to a benign instruction, of which none may be a refusal.
        """
        if told.state == "open":
            return "open"
        if told.state == "failed":
            return "failed"
        if self._is_excluded(scene.instruction):
            return "evaluation"
        last = {turn.path: turn for turn in scene.turns}
        answers = {(turn.path, turn.attempt) for turn in refusable}
        for turn in last.values():
            key = turn.path, turn.attempt
            refused = found.get(key) == "refusal" or (
                turn.path in told.fell_back and any(flaw == "refusal" for flaw, _ in told.flaws.get(key, ()))
            )
            if refused and (turn.kind not in _ANSWERS or key in answers):
                return "refused_scene"
        if any(found.get((turn.path, 0)) == "refusal" for turn in refusable):
            return "refused_scene"
        if any(turn.kind == "revise" and found.get((turn.path, turn.attempt)) == "leak" for turn in last.values()):
            return "leaking_scene"
        return None

    def _wrong_answer(self, kind: RowKind, turn: PlayedTurn, text: str, told: Told, found: dict[tuple[str, int], str]) -> str | None:
        """Return why an answer is no row."""
        key = turn.path, turn.attempt
        if turn.finish == "length":
            return "cut"
        if any(policy == "kept" or flaw not in _BESIDE for flaw, policy in told.flaws.get(key, ())):
            return "flawed"
        # What refuses an instruction that is not benign may be just what is to be learnt.
        if (label := found.get(key)) and label != "refusal":
            return label
        if kind is RowKind.ALIGNED and told.response and distance(told.response[0], text) <= self._options.unchanged:
            return "unchanged"
        return None

    def _answer_row(self, kind: RowKind, scene: PlayedScene, turn: PlayedTurn, text: str) -> Row:
        prompt = self._prompts.render("respond", {"instruction": scene.instruction})
        messages, prefill = self._prompts.unrender("respond", prompt)
        return Row(kind, messages, prefill, text, self._record.run_id, scene.scene, turn.path, turn.attempt)

    def _simulated(
        self, scene: PlayedScene, turn: PlayedTurn, told: Told, found: dict[tuple[str, int], str], fault: str | None
    ) -> Candidate:
        reason = fault or _wrong_turn(turn, told, found)
        if reason:
            return Candidate(RowKind.SIMULATION, turn.path, turn.attempt, dropped_by=reason)
        return self.simulated(scene, turn)


def _wrong_turn(turn: PlayedTurn, told: Told, found: dict[tuple[str, int], str]) -> str | None:
    """Return why a turn of a scene is no row."""
    key = turn.path, turn.attempt
    flaws = told.flaws.get(key, ())
    if found.get(key) == "refusal" or any(flaw == "refusal" for flaw, _ in flaws):
        return "refusal"
    if turn.path in told.fell_back:
        return "fallback"
    if turn.outcome != "text":
        return turn.outcome
    if flaws:
        return "flawed"
    if turn.finish == "length":
        return "cut"
    if label := found.get(key):
        return label
    return None if turn.text.strip() else "empty"


def _labels(scene: PlayedScene, told: Told, record: RunRecord) -> Iterator[tuple[tuple[str, int], str]]:
    """Yield the labels of a scene's texts, the first that is found, by path and attempt; of a response that was given, as attempt 0.

    Detectors look at the texts themselves: whether the log was labelled, and by which version, makes no difference.
    """
    response, given = told.response or ("", False)
    turns = [TurnText(turn.path, turn.attempt, turn.kind, turn.finish, turn.text) for turn in scene.turns if turn.outcome != "too_long"]
    if given:
        turns.append(TurnText("respond", 0, "respond", "eos", response))
    texts = SceneTexts(scene.scene, scene.instruction, response, told.roles, tuple(turns))
    for turn, subject in subjects(texts, record.config):
        if label := _label(subject):
            yield (turn.path, turn.attempt), label


def _label(subject: Subject) -> str | None:
    for detector in DETECTORS:
        if detector.looks_at(subject.kind, subject.in_world) and (label := detector.find(subject)):
            return label
    return None
