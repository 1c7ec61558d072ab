"""KV that all turns share, turns that have to wait again, and adapters, on real llama.cpp."""

from dataclasses import replace
from pathlib import Path

import pytest
from logs import plain_sql

from matrix_py import _core
from matrix_py.cli import main
from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import ConfigError, ModelError
from matrix_py.simulate import RunSummary, SimulateOptions, resume, simulate
from matrix_py.store import Log
from matrix_py.testing.random_gguf import write_random_gguf, write_random_lora
from matrix_py.types import KvMode, KvType

SHARED = EngineOptions(context=512, parallel=6, threads=1, kv=KvMode.SHARED)


def turns(count: int, *, max_tokens: int = 40, temperature: float = 0.0) -> list[_core.Turn]:
    sampling = _core.Sampling(max_tokens, temperature=temperature)
    head = "<s>A beginning that all turns have in common, and that is long enough to be worth keeping. "
    return [
        _core.Turn(
            seed=7,
            scene=bytes(32),
            path=f"t{i}",
            attempt=1,
            kind="test",
            segments=[(head, True), (f"Number {i}.", False)],
            sampling=sampling,
        )
        for i in range(count)
    ]


def answers(engine: Engine, asked: list[_core.Turn]) -> dict[str, str]:
    engine.submit(asked)
    found: dict[str, str] = {}
    while len(found) < len(asked):
        batch = engine.collect(30.0)
        assert batch, f"{len(found)} of {len(asked)} answers, then silence: {engine.stats()}"
        for turn, result in batch:
            assert isinstance(result, _core.Completion), result
            found[turn.path] = result.text
    return found


def test_turns_that_share_a_kv_compute_what_they_have_in_common_once(tiny_model: Path) -> None:
    with Engine(str(tiny_model), SHARED) as engine:
        assert (engine.kv, engine.deterministic) == (KvMode.SHARED, False)
        assert "KV shared" in engine.summary
        answers(engine, turns(20))
        # Whatever is wrong in KV when nothing is in flight would fail what is asked next.
        assert len(answers(engine, turns(20))) == 20
        stats = engine.stats()
        whole = len(engine.tokenizer.encode(turns(1)[0].segments))
        assert stats["prefilled_tokens"] < whole + 40 * 10
        assert (stats["failed_turns"], stats["running"], stats["preemptions"]) == (0, 0, 0)


def test_turns_that_do_not_fit_a_shared_kv_together_wait_for_one_another(tiny_model: Path) -> None:
    options = replace(SHARED, context=200, kv_tokens=256)
    work = [(turn, [1, *range(300, 340)]) for turn in turns(8, max_tokens=150)]
    with Engine(str(tiny_model), options) as engine:
        for _ in range(2):
            engine.submit_tokens(work)
            found: list[object] = []
            while len(found) < len(work):
                found += [result for _, result in engine.collect(30.0)]
            assert all(isinstance(result, _core.Completion) and result.generated_tokens == 150 for result in found), found
        assert engine.stats()["preemptions"] > 0
        assert engine.stats()["failed_turns"] == 0


def test_keys_of_8_bits_say_the_same_in_any_company_and_something_else_than_keys_of_16(tmp_path: Path) -> None:
    # Keys of 32 numbers: a block of Q8_0.
    model = write_random_gguf(tmp_path / "model.gguf", n_embd=128, n_layer=4)
    said = []
    for kv_type, parallel, threads, batch in [
        (KvType.Q8_0, 1, 2, 512),
        (KvType.Q8_0, 6, 1, 64),
        (KvType.Q8_0, 16, 2, 512),
        (KvType.F16, 6, 1, 512),
    ]:
        options = EngineOptions(context=512, parallel=parallel, threads=threads, batch=batch, kv_type=kv_type, deterministic=True)
        with Engine(str(model), options) as engine:
            assert f"KV isolated {kv_type} " in engine.summary
            said.append(answers(engine, turns(20, temperature=0.7)))
    assert said[0] == said[1] == said[2] != said[3]


def test_how_keys_are_held_is_part_of_the_run(tmp_path: Path, input_file: Path, settings_file: Path) -> None:
    model = write_random_gguf(tmp_path / "model.gguf", n_embd=128)

    def run(kv_type: KvType) -> Path:
        out = tmp_path / f"{kv_type}.duckdb"
        engine = EngineOptions(context=512, parallel=4, threads=1, kv_type=kv_type)
        simulate(SimulateOptions((str(input_file),), out, str(model), scene="vanilla", config_file=settings_file, limit=2, engine=engine))
        return out

    with Log.open(run(KvType.F16), read_only=True) as log:
        assert b"kv_type" not in log.record.config.encode()
    path = run(KvType.Q8_0)
    with Log.open(path, read_only=True) as log:
        assert (log.record.config.kv_type, log.record.execution.kv) == (KvType.Q8_0, "isolated q8_0")
        root = log.recorded_root()
    plain_sql(path, "DELETE FROM events WHERE scene = (SELECT scene FROM scenes WHERE position = 1)")
    plain_sql(path, "DELETE FROM completions WHERE scene = (SELECT scene FROM scenes WHERE position = 1); UPDATE run SET root = NULL")
    # Resumed, keys are as they were.
    assert resume(path).root == root


def test_keys_that_cannot_be_held_in_8_bits_are_refused_in_one_line(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "turns", "--model", str(tiny_model), "--kv-type", "q8_0"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: --kv-type is q8_0, but a key of tiny.gguf has 16 numbers, no multiple of 32: give --kv-type f16")


@pytest.mark.parametrize(("parallel", "every"), [(2, 3), (6, 1), (16, 7)])
def test_turns_that_have_to_wait_again_say_the_same(tiny_model: Path, parallel: int, every: int) -> None:
    options = EngineOptions(context=512, parallel=parallel, threads=1, deterministic=True)
    with Engine(str(tiny_model), options) as engine:
        expected = answers(engine, turns(20, temperature=0.7))
    with Engine(str(tiny_model), replace(options, preempt_every=every)) as engine:
        assert answers(engine, turns(20, temperature=0.7)) == expected
        assert engine.stats()["preemptions"] > 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (replace(SHARED, deterministic=True), "--kv is shared, where text depends on company"),
        (replace(SHARED, kv=KvMode.ISOLATED, kv_tokens=4096), "--kv-tokens is 4096: it is for --kv shared"),
        (replace(SHARED, kv=KvMode.AUTO, kv_tokens=4096), "--kv-tokens is 4096, but the KV is not shared here"),
        (replace(SHARED, kv_tokens=300), "--kv-tokens is 300, and a turn may hold 512"),
        (replace(SHARED, batch=32, parallel=40), "batch is 32"),
    ],
)
def test_a_kv_that_cannot_be_is_named(tiny_model: Path, options: EngineOptions, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Engine(str(tiny_model), options)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_lora(tmp_path_factory.mktemp("adapter") / "adapter.gguf")


def options(input_file: Path, settings_file: Path, model: Path, out: Path, engine: EngineOptions) -> SimulateOptions:
    return SimulateOptions((str(input_file),), out, str(model), scene="critique-revise", config_file=settings_file, engine=engine)


def completions(summary: RunSummary) -> list[tuple[object, ...]]:
    with Log.open(summary.path, read_only=True) as log:
        return log.query("SELECT scene, path, t.text FROM completions c JOIN texts t ON c.text = t.hash ORDER BY ALL")[1]


def test_an_adapter_changes_what_is_said_and_is_part_of_the_run(
    tmp_path: Path, input_file: Path, settings_file: Path, tiny_model: Path, adapter: Path
) -> None:
    engine = EngineOptions(context=512, parallel=2, threads=1)
    plain = simulate(options(input_file, settings_file, tiny_model, tmp_path / "plain.duckdb", engine))
    tuned = simulate(options(input_file, settings_file, tiny_model, tmp_path / "tuned.duckdb", replace(engine, lora=adapter)))

    assert tuned.root != plain.root
    assert completions(tuned) != completions(plain)
    with Log.open(tuned.path, read_only=True) as log:
        config, execution = log.record.config, log.record.execution
    assert config.adapter == _core.hash_file(adapter).hex()
    assert not config.deterministic
    assert "merge it into the model" in execution.self_test
    assert main(["replay", str(tuned.path)]) == 0


def test_a_run_with_an_adapter_is_resumed_with_that_adapter_only(
    tmp_path: Path, input_file: Path, settings_file: Path, tiny_model: Path, adapter: Path
) -> None:
    # Given a run of which one scene is not finished, and whose adapter was moved
    moved = tmp_path / "moved.gguf"
    moved.write_bytes(adapter.read_bytes())
    engine = EngineOptions(context=512, parallel=2, threads=1, lora=moved)
    path = simulate(options(input_file, settings_file, tiny_model, tmp_path / "run.duckdb", engine)).path
    with Log.open(path, read_only=False) as log:
        log._connection.execute("DELETE FROM events WHERE kind = 'SceneFinished' AND scene = (SELECT scene FROM scenes LIMIT 1)")
    moved.unlink()

    with pytest.raises(ModelError, match="is not the one that the run was begun with: give that file with --lora"):
        resume(path, engine=EngineOptions(parallel=2, threads=1))
    other = write_random_lora(tmp_path / "other.gguf", seed=1)
    with pytest.raises(ModelError, match=r"other\.gguf is not the one"):
        resume(path, engine=EngineOptions(parallel=2, threads=1, lora=other))
    assert resume(path, engine=EngineOptions(parallel=2, threads=1, lora=adapter)).root is not None


def test_an_adapter_that_does_not_fit_is_one_line(
    tmp_path: Path, tiny_model: Path, adapter: Path, capsys: pytest.CaptureFixture[str], input_file: Path
) -> None:
    def refused(*more: str) -> str:
        arguments = ["simulate", str(input_file), "--out", str(tmp_path / "no.duckdb"), "--model", str(tiny_model), "--ctx", "512", "-q"]
        assert main([*arguments, *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "--deterministic is not possible" in refused("--lora", str(adapter), "--deterministic")
    wide = write_random_lora(tmp_path / "wide.gguf", n_embd=128)
    assert "does not work with model tiny.gguf" in refused("--lora", str(wide))
    assert "does not work with model tiny.gguf" in refused("--lora", str(write_random_gguf(tmp_path / "model.gguf")))
    missing = tmp_path / "missing.gguf"
    assert str(missing) in refused("--lora", str(missing))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(adapter.read_bytes()[:2000])
    assert "broken.gguf" in refused("--lora", str(broken))
    assert not (tmp_path / "no.duckdb").exists()
