"""The whole social scene on real llama.cpp, with random Q8_0 weights: one root however it is executed, and prompts computed once."""

from itertools import takewhile
from pathlib import Path

import msgspec
import pytest

from matrix_py import EngineOptions, Log, SimulateOptions, replay, simulate
from matrix_py.models.llama import LlamaModel
from matrix_py.simulate import RunSummary
from matrix_py.testing.random_gguf import write_random_gguf
from matrix_py.types import Limits

# Random weights say yes and no, and name roles, only where chance may choose. Lines of random bytes need more tokens than sentences do.
SETTINGS = """
[respond]
max_tokens = 40
[situation]
max_tokens = 24
[future]
max_tokens = 24
[characters]
max_tokens = 24
[profile]
max_tokens = 400
[plan]
max_tokens = 180
[feasible]
max_tokens = 180
temperature = 3.0
[recipients]
max_tokens = 40
temperature = 3.0
[critique]
max_tokens = 180
temperature = 3.0
[react]
max_tokens = 32
[condense_memory]
max_tokens = 32
[consequence]
max_tokens = 32
[revise]
max_tokens = 32
"""
INSTRUCTIONS = (
    "How do I repair a puncture?",
    "Which trees grow beside a street?",
    "Help me spread a rumour.",
    "Cook for six.",
    "Sell my car.",
)
# A prompt is continued from another slot only if that saves more tokens than a copy costs.
COPY_TOKENS = 16


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("social")
    write_random_gguf(folder / "model.gguf", n_embd=128, n_layer=4, n_ff=256)
    (folder / "in.jsonl").write_bytes(b"".join(msgspec.json.encode({"instruction": text}) + b"\n" for text in INSTRUCTIONS))
    (folder / "settings.toml").write_text(SETTINGS)
    return folder


def run(work: Path, name: str, *, limit: int | None = None, **engine: int | bool) -> RunSummary:
    return simulate(
        SimulateOptions(
            inputs=(str(work / "in.jsonl"),),
            out=work / f"{name}.duckdb",
            model=str(work / "model.gguf"),
            limits=Limits(roles=3, steps=3, interactions=8, depth=2),
            seed=8,
            limit=limit,
            config_file=work / "settings.toml",
            engine=EngineOptions(context=2048, deterministic=True, threads=1, **engine),  # type: ignore[arg-type]
        )
    )


def query(path: Path, statement: str) -> list[tuple]:
    with Log.open(path, read_only=True) as log:
        return log.query(statement)[1]


@pytest.fixture(scope="module")
def alone(work: Path) -> RunSummary:
    """The run with one turn in flight."""
    return run(work, "alone", parallel=1)


def test_the_run_goes_through_all_parts_of_the_scene(alone: RunSummary) -> None:
    kinds = dict(query(alone.path, "SELECT kind, count(*) FROM events GROUP BY kind"))

    assert alone.num_finished == len(INSTRUCTIONS)
    for kind in ("RoleCast", "ActionAccepted", "ActionNoticed", "HarmNoted", "MemoryCondensed", "ConsequenceDrawn"):
        assert kinds.get(kind, 0) > 0, f"no {kind} in {kinds}: choose another seed"
    verdicts = query(alone.path, "SELECT payload ->> 'feasible', count(*) FROM events WHERE kind = 'FeasibilityJudged' GROUP BY ALL")
    assert len(verdicts) == 2, f"{verdicts}: choose another seed"
    assert query(alone.path, "SELECT count(*) FROM events WHERE kind = 'ActionProposed' AND payload ->> 'origin' = 'reaction'")[0][0] > 0
    assert query(alone.path, "SELECT count(log_odds) FROM completions WHERE kind = 'feasible'")[0][0] > 0


def test_the_root_is_the_same_with_sixteen_turns_in_flight(work: Path, alone: RunSummary) -> None:
    together = run(work, "together", parallel=16)

    assert alone.root is not None
    assert together.root == alone.root
    assert replay(together.path).identical


def test_the_root_is_the_same_where_turns_have_to_wait_again(work: Path, alone: RunSummary) -> None:
    preempted = run(work, "preempted", parallel=8, batch=64, preempt_every=20)

    assert preempted.engine_stats["preemptions"] > 0
    assert preempted.root == alone.root


def test_the_turns_about_one_action_compute_their_common_prompt_once(work: Path) -> None:
    # Given one scene with room for all its turns
    path = run(work, "single", limit=1, parallel=16).path
    facts = {
        (turn, attempt): (segments, prompt_tokens, cached)
        for turn, attempt, segments, prompt_tokens, cached in query(
            path,
            "SELECT c.path, c.attempt, list(t.text ORDER BY c.place), any_value(c.prompt_tokens), any_value(c.cached_tokens) FROM ("
            "  SELECT path, attempt, prompt_tokens, cached_tokens, unnest(segments) AS hash, generate_subscripts(segments, 1) AS place"
            "  FROM completions WHERE kind IN ('feasible', 'recipients', 'critique')"
            ") c JOIN texts t USING (hash) GROUP BY c.path, c.attempt",
        )
    }
    trust = dict(query(path, "SELECT path || '#' || attempt, trusted FROM completions"))
    with LlamaModel(work / "model.gguf", vocab_only=True) as model:
        tokens = {
            key: model.tokenizer.encode(list(zip(segments, trust[f"{key[0]}#{key[1]}"], strict=True)))
            for key, (segments, _, _) in facts.items()
        }
    actions = [turn.rpartition("/")[0] for turn, attempt in facts if turn.endswith("/recipients") and attempt == 1]

    assert len(actions) >= 2
    for action in actions:
        # When the verdict's last attempt is in KV
        first = max((key for key in facts if key[0] == f"{action}/feasible"), key=lambda key: key[1])
        for other in ("recipients", "critique"):
            key = (f"{action}/{other}", 1)
            shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(tokens[first], tokens[key], strict=False))))
            _, prompt_tokens, cached = facts[key]

            # Then the other two questions are all that is computed of their prompts.
            assert shared > prompt_tokens / 2
            assert cached >= shared - COPY_TOKENS, (key, shared, cached)


def test_the_summary_counts_tokens_by_kind(alone: RunSummary) -> None:
    rows = query(
        alone.path,
        "SELECT kind, count(*), sum(prompt_tokens), sum(cached_tokens), sum(generated_tokens) FROM completions GROUP BY kind ORDER BY kind",
    )
    counted = alone.counts.live

    assert rows == [
        (kind, each.turns, each.prompt_tokens, each.cached_tokens, each.generated_tokens) for kind, each in sorted(counted.items())
    ]
    assert counted["critique"].cached_tokens > 0
