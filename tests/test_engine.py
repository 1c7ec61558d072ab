"""The engine on real llama.cpp: against llama-cpp-python's own results, in any company, and opened and closed many times."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from matrix_py import _core
from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import ConfigError, EngineClosedError, ModelError, RequestError
from matrix_py.scene import forms
from matrix_py.testing.random_gguf import write_random_gguf

STORIES = Path(__file__).parents[2] / "shared" / "models" / "stories260K-f32.gguf"
SCENE = bytes(32)


def make_turn(path: str, text: str, *, trusted: str = "", **sampling) -> _core.Turn:
    settings = _core.Sampling(sampling.pop("max_tokens", 16), **sampling)
    segments = [(trusted, True), (text, False)]
    return _core.Turn(seed=7, scene=SCENE, path=path, attempt=1, kind="test", segments=segments, sampling=settings)


def answers(engine: Engine, turns: list[_core.Turn]) -> dict[str, _core.Completion]:
    engine.submit(turns)
    found: dict[str, _core.Completion] = {}
    while len(found) < len(turns):
        batch = engine.collect(30.0)
        assert batch, f"{len(found)} of {len(turns)} answers, then silence: {engine.stats()}"
        for turn, result in batch:
            assert isinstance(result, _core.Completion), result
            found[turn.path] = result
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_gguf(tmp_path_factory.mktemp("engine") / "random.gguf")


def mixed_turns() -> list[_core.Turn]:
    """Turns of many lengths, some with a common beginning."""
    words = ["the", "baker", "waits", "and", "seven", "people", "write", "about", "a", "blue", "door"]
    turns = []
    for i in range(20):
        rng = random.Random(i)
        text = " ".join(rng.choice(words) for _ in range(rng.choice([3, 20, 90, 260])))
        head = "A beginning that several turns have in common, so that it can be reused. " if i % 3 else ""
        turns.append(make_turn(f"t{i}", text, trusted=f"<s>{head}", max_tokens=3 + 2 * i, temperature=0.7, top_p=0.95))
    return turns


def test_text_is_the_same_in_any_company_and_every_call_is_one_sub_batch(model: Path) -> None:
    expected = None
    for parallel, threads, batch, reuse in [(1, 2, 512, False), (3, 1, 64, True), (16, 2, 512, True), (7, 2, 96, False)]:
        options = EngineOptions(
            context=1024, parallel=parallel, threads=threads, batch=batch, prefix_reuse=reuse, deterministic=True, count_sub_batches=True
        )
        with Engine(str(model), options) as engine:
            before = _core.sub_batches()
            texts = {path: completion.text for path, completion in answers(engine, mixed_turns()).items()}
            stats = engine.stats()
            assert _core.sub_batches() - before == stats["prefill_calls"] + stats["decode_calls"]
            assert (stats["running"], stats["waiting"], stats["failed_turns"]) == (0, 0, 0)
            assert (stats["cached_tokens"] > 0) == reuse
        expected = expected or texts
        assert texts == expected
    assert len(set(expected.values())) == len(expected)


def test_a_prefix_in_kv_is_not_prefilled_again(model: Path) -> None:
    head = "<s>" + "A long beginning that all turns share. " * 8
    with Engine(str(model), EngineOptions(context=1024, parallel=2, deterministic=True)) as engine:
        first = answers(engine, [make_turn("first", "one", trusted=head)])["first"]
        second = answers(engine, [make_turn("second", "two", trusted=head)])["second"]
    assert first.cached_tokens == 0
    assert second.cached_tokens > 0.9 * second.prompt_tokens - 8


def test_a_form_binds_the_completion(model: Path) -> None:
    form = 'start: ("yes" | "no") ", because " /[a-z]{3,12}/'
    turns = [make_turn(f"t{i}", f"Is {i} even?", form=form, temperature=0.7, max_tokens=40) for i in range(6)]
    with Engine(str(model), EngineOptions(context=512, parallel=4, deterministic=False)) as engine:
        for completion in answers(engine, turns).values():
            assert completion.finish == "form"
            assert _core.form_accepts(form, completion.text), completion.text
            # Random weights follow no form of their own accord.
            assert completion.masked_tokens > 0


def test_a_list_of_recipients_never_comes_to_a_dead_end(model: Path) -> None:
    form = forms.some_of(["ab", "ba"])
    turns = [make_turn(f"t{i}", "Who is there?", form=form, temperature=2.0, max_tokens=40) for i in range(120)]
    with Engine(str(model), EngineOptions(context=512, parallel=4, deterministic=False)) as engine:
        said = answers(engine, turns).values()
    assert {completion.outcome for completion in said} == {"text"}
    assert sum(", " in completion.text for completion in said) > 5, "hardly anybody named everybody"


def test_lines_that_are_to_be_distinct_are(model: Path) -> None:
    words = 'start: WORD ("\\n" WORD){5}\nWORD: /[ab]{1,4}/'
    turns = {
        directive: [make_turn(f"{directive}{i}", "Say it.", form=f"{directive}{words}", temperature=0.7, max_tokens=40) for i in range(12)]
        for directive in ("", "%distinct_lines\n")
    }
    with Engine(str(model), EngineOptions(context=512, parallel=4, deterministic=False)) as engine:
        free, distinct = ([said.text.split("\n") for said in answers(engine, asked).values()] for asked in turns.values())
    assert any(len(set(lines)) < 6 for lines in free)
    assert all(len(set(lines)) == 6 for lines in distinct)


def verdict_form(mark: str) -> str:
    """A reason, then a verdict behind its mark."""
    return f'start: REASON "\\n{mark}" VERDICT\nREASON: /[^\\n]{{1,20}}/\nVERDICT: "yes" | "no"'


def _beginnings(tokenizer: _core.Tokenizer, word: str) -> list[int]:
    """Tokens that a word may begin with, or that begin with it, whatever spaces come first."""
    spelt = {token: tokenizer.decode([token]).lstrip(" ") for token in range(len(tokenizer))}
    return [token for token, text in spelt.items() if text and (word.startswith(text) or text.startswith(word))]


@pytest.mark.parametrize("vocab", ["spm", "bpe"])
def test_log_odds_agree_with_the_verdict_as_far_as_one_token_tells(tmp_path: Path, vocab: Literal["spm", "bpe"]) -> None:
    model = write_random_gguf(tmp_path / "random.gguf", vocab=vocab)
    asked = [(f"{temperature}/{i}", f"Is {i} even?", temperature) for i in range(10) for temperature in (0.0, 1.0)]
    settings: dict[str, object] = {"form": verdict_form("Verdict: "), "max_tokens": 120}
    with Engine(str(model), EngineOptions(context=512, parallel=4, deterministic=True)) as engine:
        ways = {word: len(_beginnings(engine.tokenizer, word)) for word in ("yes", "no")}
        measured = answers(engine, [make_turn(*turn[:2], temperature=turn[2], choices=["yes", "no"], **settings) for turn in asked])
        plain = answers(engine, [make_turn(*turn[:2], temperature=turn[2], **settings) for turn in asked])
    for path, completion in measured.items():
        assert (plain[path].text, plain[path].log_odds) == (completion.text, None)
        odds = completion.log_odds
        assert odds is not None and math.isfinite(odds)
        if path.startswith("0.0"):
            # Greedy takes the likeliest token. The other word may have more tokens to begin with, and be likelier by no more than that.
            if completion.text.endswith(" yes"):
                assert odds >= -math.log(ways["no"])
            else:
                assert odds <= math.log(ways["yes"])


def test_log_odds_have_the_sign_of_a_greedy_verdict_of_single_tokens(tmp_path: Path) -> None:
    # Without a space before it, each word has one token to begin with in this vocabulary.
    model = write_random_gguf(tmp_path / "random.gguf", vocab="bpe")
    settings: dict[str, object] = {"max_tokens": 120, "choices": ["yes", "no"]}
    turns = [make_turn(f"{i}{mark}", f"Is {i} even?", form=verdict_form(mark), **settings) for i in range(6) for mark in (":", "=", "-")]
    verdicts = set()
    with Engine(str(model), EngineOptions(context=512, parallel=4, deterministic=False)) as engine:
        for completion in answers(engine, turns).values():
            assert completion.log_odds is not None
            verdicts.add("yes" if completion.log_odds > 0 else "no")
            assert completion.text.endswith("yes" if completion.log_odds > 0 else "no")
    assert verdicts == {"yes", "no"}


def _log_sum_exp(values: Sequence[float]) -> float:
    return max(values) + math.log(sum(math.exp(value - max(values)) for value in values))


def test_log_odds_are_those_of_llama_cpp_pythons_logits(model: Path) -> None:
    from llama_cpp import Llama

    # Settings that change what is chosen, and nothing of the odds.
    settings: dict[str, object] = {"form": 'start: "yes" | "no"', "choices": ["yes", "no"], "temperature": 3.0, "top_p": 0.4}
    turns = [make_turn(f"t{i}", f"Is {i} even?", **settings) for i in range(6)]
    llama = Llama(str(model), n_ctx=512, logits_all=True, verbose=False)
    with Engine(str(model), EngineOptions(context=512, parallel=3)) as engine:
        found = answers(engine, turns)
        # No space may come first here.
        sides = [
            [token for token in _beginnings(engine.tokenizer, word) if word.startswith(engine.tokenizer.decode([token]))]
            for word in ("yes", "no")
        ]
        assert min(map(len, sides)) > 1
        for turn in turns:
            llama.reset()
            llama.eval(engine.tokenizer.encode(turn.segments))
            row = llama.scores[llama.n_tokens - 1]
            yes, no = (_log_sum_exp([float(row[token]) for token in side]) for side in sides)
            assert found[turn.path].log_odds == pytest.approx(yes - no, abs=1e-4)
    llama.close()
    assert len({completion.log_odds for completion in found.values()}) == len(turns)


def test_bad_requests_are_refused_and_the_engine_goes_on(model: Path) -> None:
    with Engine(str(model), EngineOptions(context=512, parallel=2, deterministic=False)) as engine:
        with pytest.raises(RequestError, match="Lark"):
            engine.submit([make_turn("bad", "x", form="start: (")])
        long = make_turn("long", "many words " * 600)
        assert answers(engine, [long])["long"].outcome == "too_long"
        assert answers(engine, [make_turn("good", "x")])["good"].outcome == "text"
    with pytest.raises(EngineClosedError):
        engine.submit([make_turn("late", "x")])


def test_weights_whose_bits_depend_on_company_are_not_called_deterministic(tmp_path: Path) -> None:
    f32 = write_random_gguf(tmp_path / "f32.gguf", quantization="f32")
    with Engine(str(f32), EngineOptions(parallel=2)) as engine:
        assert not engine.deterministic
    with pytest.raises(ConfigError, match="--deterministic is not possible"):
        Engine(str(f32), EngineOptions(deterministic=True))


def test_the_self_test_finds_flash_attention_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured: with flash attention the bits depend on how a prompt of 64 tokens or more is cut."""
    monkeypatch.setattr("matrix_py.models.llama._FLASH_ATTENTION_OFF", 1)
    with Engine(str(model), EngineOptions(parallel=2, context=1024)) as engine:
        assert not engine.deterministic
        assert "self-test failed" in engine.self_test


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (EngineOptions(parallel=0), "--parallel is 0"),
        (EngineOptions(parallel=1000), "256"),
        (EngineOptions(context=100_000), "--ctx is 100000"),
        (EngineOptions(batch=8), "--batch is 8"),
        (EngineOptions(threads=0), "--threads is 0"),
        (EngineOptions(gpu_layers=-2), "--gpu-layers is -2"),
    ],
)
def test_options_out_of_range_are_named(model: Path, options: EngineOptions, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Engine(str(model), options)


def test_more_kv_than_memory_is_refused_before_it_is_asked_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matrix_py.engine._available_bytes", lambda: 1 << 20)
    with pytest.raises(ModelError, match="lower --parallel, --cache or --ctx"):
        Engine(str(model), EngineOptions(parallel=64, context=1024))
    with Engine(str(model), EngineOptions(context=1024)) as engine:
        assert engine.parallel == 1


def _greedy_reference(text: str, length: int) -> tuple[list[int], list[float]]:
    """Tokens of `Llama`, and how far the best logit was ahead of the second at each."""
    from llama_cpp import Llama

    llama = Llama(str(STORIES), n_ctx=512, logits_all=True, verbose=False)
    tokens = llama.tokenize(text.encode(), add_bos=True, special=False)
    made, leads = [], []
    llama.eval(tokens)
    for _ in range(length):
        row = llama.scores[llama.n_tokens - 1]
        best, second = sorted(range(len(row)), key=lambda i: -row[i])[:2]
        made.append(int(best))
        leads.append(float(row[best] - row[second]))
        llama.eval([best])
    llama.close()
    return made, leads


@pytest.mark.shared
@pytest.mark.skipif(not STORIES.is_file(), reason="the story model is not beside the checkout")
@pytest.mark.parametrize("parallel", [1, 8])
def test_greedy_text_is_what_llama_cpp_python_gives(parallel: int) -> None:
    beginnings = [
        "Once upon a time",
        "Lily and Tom went",
        "The dog was",
        "One day, a bird",
        "In the park",
        "Mom said",
        "A big",
        "Tim had a red",
    ]
    length = 80
    with Engine(str(STORIES), EngineOptions(parallel=parallel)) as engine:
        # The vocabulary puts a space before a text, and so does Llama; a space of our own stands in for it.
        found = answers(engine, [make_turn(text, f" {text}", max_tokens=length) for text in beginnings])
        for text in beginnings:
            expected, leads = _greedy_reference(text, length)
            prompt = engine.tokenizer.encode([("", True), (f" {text}", False)])
            actual = engine.tokenizer.encode([("", True), (f" {text}{found[text].text}", False)])[len(prompt) :]
            if engine.tokenizer.decode(expected) == found[text].text:
                continue
            first = next(i for i, pair in enumerate(zip(expected, actual, strict=False)) if pair[0] != pair[1])
            assert leads[first] <= 1e-3, f"{text!r} parts at token {first}, where the lead is {leads[first]}"
