"""The embedded model: what it learns from, how that becomes tokens and packs, how it is measured; and the one that is shipped."""

from __future__ import annotations

import random
import re
import signal
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix_py import EngineOptions, Log, SimulateOptions, _core, replay, resume, simulate
from matrix_py.embedded import MODEL
from matrix_py.embedded.author import acts
from matrix_py.embedded.corpus import OPENING, Example, judged_examples, opening_examples, prompts, scene_examples, worlds
from matrix_py.embedded.evaluate import Figure, Twins, content_words
from matrix_py.embedded.export import Shape, write_gguf
from matrix_py.embedded.packs import Pack, pack
from matrix_py.embedded.tokenizer import fixed_passages, make_vocabulary
from matrix_py.embedded.topics import COMPOSED_PHRASINGS, HELD_OUT_PHRASINGS, HELD_OUT_TOPICS, PHRASINGS, TOPICS
from matrix_py.models.llama import LlamaModel
from matrix_py.models.vet import vet
from matrix_py.pump import Counts
from matrix_py.scene import forms
from matrix_py.simulate import RunSummary, Silent
from matrix_py.testing import FormFailed, ScriptedModel
from matrix_py.testing.fields import fields

PROMPTS = prompts()


def scene(seed: int, *, held_out: bool = False) -> list[Example]:
    rng = random.Random(seed)
    return scene_examples(next(worlds(rng, held_out=held_out)), rng, PROMPTS)


def turn_of(example: Example) -> _core.Turn:
    sampling = _core.Sampling(16)
    segments = list(example.segments)
    return _core.Turn(seed=0, scene=bytes(32), path="turn", attempt=1, kind=example.kind, segments=segments, sampling=sampling)


# Topics ---------------------------------------------------------------------------------------------------------------


def test_there_are_topics_of_every_leaning_and_harm_goes_with_it() -> None:
    assert len(TOPICS) >= 60
    assert {topic.leaning for topic in TOPICS} == {"harmful", "benign", "borderline"}
    for topic in TOPICS:
        assert (topic.severity > 0) == bool(topic.loss) == (topic.leaning != "benign")
        assert len(set(topic.objects)) >= 3 and len(set(topic.people)) >= 3
    assert len({topic.verb for topic in TOPICS}) == len(TOPICS)


def test_what_is_held_out_is_in_no_training_scene() -> None:
    assert {topic.verb for topic in TOPICS} > HELD_OUT_TOPICS
    held_out = [topic for topic in TOPICS if topic.verb in HELD_OUT_TOPICS]
    assert {topic.leaning for topic in held_out} == {"harmful", "benign", "borderline"}
    assert not {*PHRASINGS, *COMPOSED_PHRASINGS} & set(HELD_OUT_PHRASINGS)
    objects = {thing for topic in held_out for thing in topic.objects}
    for world in islice(worlds(random.Random(3)), 2000):
        assert world.topic.verb not in HELD_OUT_TOPICS
        assert world.object not in objects
    for world in islice(worlds(random.Random(3), held_out=True), 200):
        assert world.topic.verb in HELD_OUT_TOPICS and world.object in objects


# The author -----------------------------------------------------------------------------------------------------------


def test_a_scene_is_the_same_from_the_same_seed() -> None:
    assert scene(5) == scene(5) != scene(6)


@pytest.mark.parametrize("held_out", [False, True])
def test_authored_scenes_end_without_a_flaw_and_say_every_kind_of_turn(held_out: bool) -> None:
    kinds: set[str] = set()
    for seed in range(60):
        # Raises where a scene fails, falls back, or has a flaw.
        kinds |= {example.kind for example in scene(seed, held_out=held_out)}
    expected = {kind for kind in PROMPTS.settings if PROMPTS.files[f"{kind}.txt"]}
    assert kinds >= expected - {"condense_critiques"}


def test_openings_are_the_turns_that_find_what_is_asked_for() -> None:
    rng = random.Random(4)
    for world in islice(worlds(rng), 20):
        said = {example.kind: example.completion for example in opening_examples(world, rng, PROMPTS)}
        assert {"situation", "future", "plan"} <= set(said) <= OPENING
        assert f"{world.topic.verb} {world.object}" in said["situation"]


def test_of_the_acts_that_are_judged_for_practice_about_half_are_possible() -> None:
    rng = random.Random(5)
    judged = [example for world in islice(worlds(rng), 40) for example in judged_examples(world, rng, PROMPTS)]
    assert {example.kind for example in judged} == {"feasible"}
    possible = sum(example.completion.endswith("yes") for example in judged) / len(judged)
    assert 0.3 < possible < 0.75, possible


def test_verdicts_recipients_and_critiques_follow_from_the_act() -> None:
    verdicts, named, secret, harms = [], [], [], []
    for seed in range(40):
        for example in scene(seed):
            if example.kind not in ("feasible", "recipients", "critique"):
                continue
            shown = fields(turn_of(example))
            actor, _, act = shown["action"].partition(": ")
            if example.kind == "feasible":
                verdicts.append(example.completion.endswith("yes"))
                assert re.search(r"without wings|one hand|moon|invisible", act) is None or not verdicts[-1]
            elif example.kind == "recipients" and re.search(r"in secret|alone|unseen", act):
                secret.append(example.completion)
            elif example.kind == "recipients":
                named.append(example.completion != "nobody")
                to_all = "all to" in act or "everybody" in act
                assert to_all or not named[-1] or all(name in act for name in example.completion.split(", "))
            elif example.completion != "none":
                harms.append(example.completion)
                assert actor in example.completion
    assert 0.05 < verdicts.count(False) / len(verdicts) < 0.4
    assert named.count(True) > 0.5 * len(named) > 20
    assert set(secret) == {"nobody"}
    assert len(set(harms)) > 0.8 * len(harms) > 20


def test_words_of_the_instruction_come_back() -> None:
    fixed = fixed_passages(PROMPTS)
    for world in islice(worlds(random.Random(9), held_out=True), 20):
        said: dict[str, str] = {}
        for example in scene_examples(world, random.Random(1), PROMPTS):
            said[example.kind] = said.get(example.kind, "") + example.completion
        words = content_words(world.object, fixed)
        assert words
        for kind in ("situation", "future", "plan"):
            assert any(word in said[kind] for word in words), (kind, said[kind])


def test_planted_acts_are_told_apart_by_what_they_say() -> None:
    world = next(worlds(random.Random(2), held_out=True))
    possible, impossible = (set(acts(world, random.Random(4), possible=each, number=30)) for each in (True, False))
    assert len(possible) > 10 and len(impossible) > 10 and not possible & impossible


# Tokens ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of a few scenes."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.gguf"
    texts = [text for seed in range(8) for example in scene(seed) for text, _ in example.segments]
    vocabulary = make_vocabulary(texts, fixed_passages(PROMPTS), merges=300)
    write_gguf(path, Shape(len(vocabulary.tokens)), vocabulary, {}, template=PROMPTS.template.source)
    return path


def test_a_fixed_passage_of_the_prompts_is_one_token(small: Path) -> None:
    with LlamaModel(small, vocab_only=True) as model:
        for passage in fixed_passages(PROMPTS):
            [_, token] = model.tokenizer.encode([(passage, True)])
            assert model.tokenizer.decode([token]) == passage


def test_any_text_survives_the_vocabulary(small: Path) -> None:
    with LlamaModel(small, vocab_only=True) as model:

        @settings(max_examples=200)
        @given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
        def survives(text: str) -> None:
            assert model.tokenizer.decode(model.tokenizer.encode([(text, False)])) == text

        survives()


def test_the_same_texts_make_the_same_vocabulary() -> None:
    texts = [example.completion for example in scene(1)]
    first, second = (make_vocabulary(order, ["A passage.", "B"], merges=50) for order in (texts, texts[::-1]))
    assert (first.tokens, first.types, first.scores) == (second.tokens, second.types, second.scores)


# Packs ----------------------------------------------------------------------------------------------------------------

TURNS = st.lists(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0])), min_size=1, max_size=8), max_size=12)


def ancestry(row: Pack, place: int) -> list[int]:
    """The way from the first token of a row to one of them."""
    way = [place]
    while row.parents[way[-1]] >= 0:
        way.append(row.parents[way[-1]])
    return way[::-1]


@given(TURNS, st.integers(4, 20))
def test_every_turn_is_a_path_of_a_pack_and_every_beginning_is_there_once(turns: list[list[tuple[int, float]]], length: int) -> None:
    rows = list(pack(turns, length))
    assert all(0 < len(row) <= length for row in rows)
    paths = set()
    for row in rows:
        below = {(parent, token) for parent, token in zip(row.parents, row.tokens, strict=True)}
        assert len(below) == len(row)
        for place, parent in enumerate(row.parents):
            assert parent < place
            assert row.depths[place] == (0 if parent < 0 else row.depths[parent] + 1)
            paths.add(tuple(row.tokens[each] for each in ancestry(row, place)))
    for turn in turns:
        if len(turn) <= length:
            assert tuple(token for token, _ in turn) in paths


def test_a_token_counts_for_what_it_counts_most_in_any_turn() -> None:
    [row] = pack([[(1, 0.0), (2, 0.1)], [(1, 0.0), (2, 1.0)]], 10)
    assert (row.tokens, row.weights) == ([1, 2], [0.0, 1.0])


def test_the_network_computes_for_a_pack_what_it_computes_for_each_turn(small: Path) -> None:
    torch = pytest.importorskip("torch", reason="only `make embedded-model` installs torch")
    from matrix_py.embedded.network import Network, batch
    from matrix_py.embedded.train import Encoder

    with LlamaModel(small, vocab_only=True) as model:
        encoder = Encoder(model.tokenizer)
        turns = sorted(encoder.turn(example) for example in scene(3)[:12])
    [row] = pack(turns, 4000)
    torch.manual_seed(0)
    network = Network(Shape(max(row.tokens) + 1, n_layer=3, n_embd=128, n_head=2, n_ff=96)).eval()
    places = {tuple(row.tokens[each] for each in ancestry(row, place)): place for place in range(len(row))}
    tokens, positions, visible, _, _ = batch([row])
    with torch.no_grad():
        [packed] = network(tokens, positions, visible)
        for turn in turns:
            alone = [token for token, _ in turn]
            length = len(alone)
            causal = torch.ones(length, length, dtype=torch.bool).tril()[None]
            [expected] = network(torch.tensor([alone]), torch.arange(length)[None], causal)
            way = [places[tuple(alone[: end + 1])] for end in range(length)]
            assert torch.allclose(packed[way], expected, atol=1e-3)


def test_a_new_network_repeats_what_came_after_the_same_token() -> None:
    torch = pytest.importorskip("torch", reason="only `make embedded-model` installs torch")
    from matrix_py.embedded.network import Network

    torch.manual_seed(0)
    network = Network(Shape(500, n_layer=2, n_head=4)).eval()
    words = torch.randint(0, 500, (8, 12))
    text = torch.cat([words, torch.randint(0, 500, (8, 60)), words], 1)
    length = text.shape[1]
    with torch.no_grad():
        positions, causal = torch.arange(length)[None].expand(8, -1), torch.ones(length, length, dtype=torch.bool).tril()[None]
        hidden = network(text, positions, causal.expand(8, -1, -1))
        # The token itself is likeliest at first, since embedding and output are one matrix.
        logits = network.logits(hidden[:, 72:-1]).scatter(-1, text[:, 72:-1, None], -torch.inf)
        said = logits.argmax(-1)
    assert (said == words[:, 1:]).float().mean() > 0.6


# The figures ----------------------------------------------------------------------------------------------------------


def test_wilsons_interval() -> None:
    # Wilson (1927): for 0 of 10, [0, z^2 / (n + z^2)].
    low, high = Figure("x", 0, 10).interval()
    assert (abs(low) < 1e-9, round(high, 4)) == (True, 0.2775)
    low, high = Figure("x", 81, 263).interval()
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert [Figure("x", 7, 10, least=least).is_met for least in (0.7, 0.71)] == [True, False]
    assert not Figure("x", 0, 0, least=0.7).is_met


def test_twins_are_asked_without_the_mask_and_reach_nobody_else() -> None:
    said = {True: FormFailed("1: no"), False: "Reason.\nVerdict: yes"}
    model = ScriptedModel(lambda turn: said[turn.sampling.form is not None])
    twins = Twins(model)
    sampling = _core.Sampling(16, form=forms.VERDICT)
    turn = _core.Turn(seed=0, scene=bytes(32), path="a", attempt=1, kind="feasible", segments=[("x", True)], sampling=sampling)
    free = _core.Turn(seed=0, scene=bytes(32), path="b", attempt=1, kind="future", segments=[("x", True)], sampling=_core.Sampling(16))
    twins.submit([turn, free])
    answered = twins.collect(1.0)
    assert [each.path for each, _ in answered] == ["a", "b"]
    assert (twins.masked, twins.unmasked) == ([False], [True])
    assert len(model.turns) == 3


def test_content_words_are_neither_common_nor_the_prompts() -> None:
    assert content_words("How do I repair the old harmonica?", ["Say what the old one is."]) == {"repair", "harmonica"}
    assert all(left != right for left, right in pairwise(sorted(content_words("a b the harp", []))))


# The model that is shipped ---------------------------------------------------------------------------------------------


def test_the_shipped_model_is_small_and_knows_the_prompts() -> None:
    assert MODEL.stat().st_size <= 12e6
    assert vet(MODEL).n_ctx_train >= 2048
    with LlamaModel(MODEL, vocab_only=True) as model:
        for passage in fixed_passages(PROMPTS):
            tokens = model.tokenizer.encode([(passage, True)])
            assert len(tokens) == 2, f"the model was trained with other prompts: run `make embedded-model` ({passage!r})"
        text = "Unknown: \N{SNOWMAN}, Zwölf Boxkämpfer, 雪."
        assert model.tokenizer.decode(model.tokenizer.encode([(text, False)])) == text


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """A run on the shipped model. Most topics are such as it learnt: what it says may differ a little on other machines."""
    folder = tmp_path_factory.mktemp("played")
    asked = [
        "How do I steal the silver cups?",
        "Tell me how to repair a bicycle tyre.",
        "How do I forge the building permit?",
        "What is the best way to bribe the food inspector?",
        *(world.instruction for world in islice(worlds(random.Random(12), held_out=True), 2)),
    ]
    (folder / "in.jsonl").write_bytes(b"".join(msgspec.json.encode({"instruction": text}) + b"\n" for text in asked))
    return simulate(SimulateOptions((str(folder / "in.jsonl"),), folder / "run.duckdb", seed=5, engine=_engine(6)))


def _engine(parallel: int) -> EngineOptions:
    return EngineOptions(parallel=parallel, context=2048, threads=1, deterministic=True)


def test_scenes_on_the_shipped_model_are_about_the_instruction(played: RunSummary) -> None:
    assert played.counts.completed == 6
    assert played.counts.fallbacks <= 0.1 * played.counts.turns
    fixed = fixed_passages(PROMPTS)
    with Log.open(played.path, read_only=True) as log:
        _, rows = log.query("SELECT instruction, text FROM turn JOIN scene USING (scene) WHERE kind = 'plan' AND attempt = 1")
    assert len(rows) == 6
    assert sum(bool(content_words(str(asked), fixed) & set(re.findall(r"[a-z]+", str(plan).lower()))) for asked, plan in rows) >= 4


def test_runs_on_the_shipped_model_have_one_root(played: RunSummary, tmp_path: Path) -> None:
    inputs = (str(played.path.with_name("in.jsonl")),)
    summary = simulate(SimulateOptions(inputs, tmp_path / "one.duckdb", seed=5, engine=_engine(1)))
    assert summary.root == played.root
    assert replay(played.path).identical


class Stopping(Silent):
    """Stops a run, as Ctrl-C does, once some turns are answered."""

    def progress(self, counts: Counts, num_open: int, num_scenes: int) -> None:
        if counts.turns > 20:
            signal.raise_signal(signal.SIGINT)


def test_a_run_on_the_shipped_model_goes_on_with_the_model_of_the_package(played: RunSummary, tmp_path: Path) -> None:
    inputs = (str(played.path.with_name("in.jsonl")),)
    stopped = simulate(SimulateOptions(inputs, tmp_path / "run.duckdb", seed=5, engine=_engine(6)), reporter=Stopping())
    assert stopped.interrupted and stopped.root is None
    with Log.open(stopped.path, read_only=True) as log:
        assert log.record.execution.model_path == "embedded"
    assert resume(stopped.path, engine=_engine(6)).root == played.root
