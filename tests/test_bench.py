"""Benchmarks: the work is what it says, is computed as seldom as it can be, and a server is asked for the same."""

import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_py import Engine, EngineOptions
from matrix_py.bench.recorded import RecordedWork, Recording, longest_turn, recorded_model
from matrix_py.bench.scheduler import Load, bench_scheduler
from matrix_py.bench.turns import bench_turns
from matrix_py.bench.workload import Shape, ShapedWork, distinct_tokens
from matrix_py.cli import main
from matrix_py.errors import ConfigError, EngineError
from matrix_py.store import Log

# What is shared is worth a copy wherever it is.
SMALL = Shape(scenes=2, rounds=2, roles=3, tokens=4, preamble=30, text=20, growth=20, card=18)
OPTIONS = EngineOptions(context=SMALL.longest, parallel=4, cached=8, threads=1)


def shaped(engine: Engine) -> ShapedWork:
    return ShapedWork(SMALL, len(engine.tokenizer))


def test_work_is_scenes_of_rounds_of_prompts_that_share_what_they_should() -> None:
    work = ShapedWork(SMALL, 1000).prompts
    assert [[len(turns) for turns in scene] for scene in work] == [[3, 3], [3, 3]]
    [[first, second], [other, _]] = work
    assert {len(prompt) for prompt in first} == {1 + 30 + 20 + 20 + 18}
    assert {len(prompt) + SMALL.tokens for prompt in second} == {SMALL.longest}
    assert first[0][:31] == other[0][:31] and first[0][:32] != other[0][:32]
    # The roles of a round have all but their cards in common, a role's rounds all but what is new.
    assert first[0][:71] == first[1][:71] == second[0][:71] and first[0][71:] == second[0][91:] != first[1][71:]
    assert work == ShapedWork(SMALL, 1000).prompts != ShapedWork(SMALL, 1000, seed=1).prompts
    with pytest.raises(ConfigError, match="vocabulary of 310 tokens"):
        ShapedWork(SMALL, 310)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12))
def test_distinct_tokens_are_those_of_a_tree_of_all_prompts(prompts: list[list[int]]) -> None:
    tree = {tuple(prompt[: end + 1]) for prompt in prompts for end in range(len(prompt))}
    assert distinct_tokens(prompts) == len(tree)


def test_the_engine_computes_what_prompts_share_once(tiny_model: Path) -> None:
    found = bench_turns(str(tiny_model), shaped, OPTIONS, runs=2)
    assert (found.engine.turns, found.engine.generated, len(found.engine.seconds)) == (12, 48, 2)
    # The two tokens that each prompt keeps to itself at least are part of its card here.
    assert found.engine.prefilled <= found.distinct
    assert found.engine.outside_share is not None and 0 < found.engine.outside_share < 1
    assert (found.server, found.ratio) == (None, None)


def test_the_same_work_bound_by_forms_is_as_long(tiny_model: Path) -> None:
    found = bench_turns(str(tiny_model), shaped, OPTIONS, forms=True)
    assert found.bound is not None
    assert (found.bound.turns, found.bound.generated) == (found.engine.turns, found.engine.generated)
    assert found.bound.prefilled == found.engine.prefilled


def test_without_reuse_the_engine_computes_every_prompt(tiny_model: Path) -> None:
    options = replace(OPTIONS, prefix_reuse=False)
    found = bench_turns(str(tiny_model), shaped, options)
    assert found.engine.prefilled == found.engine.prompt_tokens > found.distinct


# As much of a llama-server as the benchmark uses. What it was started with and asked is written beside it.
_SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
beside = Path(__file__).with_suffix(".jsonl")
def note(what):
    with beside.open("a") as file:
        file.write(json.dumps(what) + "\\n")
note(sys.argv[1:])
if "--broken" in sys.argv:
    sys.exit("error: unknown argument: --broken")
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.answer({{"status": "ok"}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        note(asked)
        given = asked["n_predict"] - ("--short" in sys.argv)
        self.answer({{"tokens_predicted": given, "timings": {{"prompt_n": len(asked["prompt"]) - 1}}}})
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Path:
    path = tmp_path / "llama-server"
    path.write_text(_SERVER.format(python=sys.executable), "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_server_is_asked_for_the_same_work(tiny_model: Path, server: Path) -> None:
    found = bench_turns(str(tiny_model), shaped, OPTIONS, runs=2, server=server, server_options=["-np 2 -fa on", "-np 1"])

    lines = [json.loads(line) for line in server.with_suffix(".jsonl").read_text("utf-8").splitlines()]
    started = [line for line in lines if isinstance(line, list)]
    asked = [line for line in lines if isinstance(line, dict)]
    # Once each to choose, then once a run.
    assert len(started) == 4
    assert {"-np", "2", "-fa", "on", "-m", str(tiny_model)} <= set(started[0])
    assert "-fa" not in started[1] and started[2][5:7] == started[3][5:7]
    prompts = [ask.prompt for ask in ShapedWork(SMALL, found_vocab(tiny_model)).asks()]
    assert sorted(line["prompt"] for line in asked) == sorted(prompts * 4)
    assert {(line["n_predict"], line["ignore_eos"], line["temperature"]) for line in asked} == {(4, True, 0.0)}
    assert found.server is not None and found.ratio is not None
    assert found.server.prefilled == found.server.prompt_tokens - found.server.turns
    assert list(found.tried) == ["-np 2 -fa on", "-np 1"]


def found_vocab(model: Path) -> int:
    from matrix_py.models.llama import LlamaModel

    with LlamaModel(model, vocab_only=True) as opened:
        return len(opened.tokenizer)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("-np 2 --broken", ConfigError, "llama-server does not run .*unknown argument: --broken"),
        ("-np 2 --short", EngineError, "llama-server failed: it gave 3 tokens instead of 4"),
    ],
)
def test_a_server_that_fails_is_one_line(tiny_model: Path, server: Path, options: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bench_turns(str(tiny_model), shaped, OPTIONS, server=server, server_options=[options])


def test_a_server_that_is_not_there_is_one_line(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--scenes", "1", "--rounds", "1", "--roles", "1", "--tokens", "2", "--server", str(tmp_path / "none"), "-q"]
    assert main(["bench", "turns", "--model", str(tiny_model), *arguments]) == 2
    assert "cannot be started (No such file or directory): give the path of llama-server" in capsys.readouterr().err


def test_a_recorded_runs_turns_are_computed_in_its_own_order(log_file: Path, tiny_model: Path, server: Path) -> None:
    options = EngineOptions(context=longest_turn(log_file), parallel=4, threads=1)
    with Log.open(log_file, read_only=True) as log:
        [(turns, generated, prompt_tokens)] = log.query(
            "SELECT count(*), sum(generated_tokens), sum(prompt_tokens) FROM completions WHERE generated_tokens > 0"
        )[1]

    found = bench_turns(
        recorded_model(log_file),
        lambda engine: RecordedWork(Recording(log_file), engine.tokenizer, window=8),
        options,
        runs=2,
        server=server,
    )

    assert (found.engine.turns, found.engine.generated, found.engine.prompt_tokens) == (turns, generated, prompt_tokens)
    assert found.distinct <= found.engine.prefilled + 2 * turns <= found.engine.prompt_tokens + 2 * turns
    asked = [json.loads(line) for line in server.with_suffix(".jsonl").read_text("utf-8").splitlines()]
    asked = [line for line in asked if isinstance(line, dict)]
    assert sum(line["n_predict"] for line in asked[-turns:]) == generated
    assert sum(len(line["prompt"]) for line in asked[-turns:]) == prompt_tokens


def test_a_run_that_is_not_finished_is_no_benchmark(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Log.open(log_file, read_only=False) as log:
        log._connection.execute("DELETE FROM events WHERE kind = 'SceneFinished'")
    assert main(["bench", "turns", "--from", str(log_file), "-q"]) == 2
    assert "6 scenes that are not finished: matrix resume it first" in capsys.readouterr().err


def test_the_packages_own_model_is_there_for_a_first_try(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "turns", "--scenes", "1", "--rounds", "1", "--roles", "2", "--tokens", "3", "--format", "json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["engine"]["turns"], found["engine"]["generated"]) == (2, 6)


def test_whole_scenes_are_timed_and_say_the_same_each_time(tiny_model: Path, input_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "scenes", str(input_file), "--model", str(tiny_model), "--scene", "vanilla", "--ctx", "512", "--limit", "2"]
    assert main([*arguments, "--runs", "2", "--parallel", "2", "--threads", "1", "--format", "json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scenes"], len(found["seconds"]), len(found["roots"])) == (2, 2, 1)
    assert 0 < found["outside_share"] < 1 and 0 < found["prefilled"] <= found["prompt_tokens"]
    assert main([*arguments, "-q"]) == 0
    assert " scenes/s, " in capsys.readouterr().out


def test_a_recorded_run_is_played_again_without_a_model(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Log.open(log_file, read_only=True) as log:
        root, turns = log.root(), log.num_completions()
    assert main(["bench", "scenes", "--from", str(log_file), "--runs", "2", "--format", "json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert root is not None
    assert (found["scenes"], found["turns"], found["roots"], found["outside_share"]) == (6, turns, [root.hex()], 1.0)
    assert main(["bench", "scenes", "questions.csv", "--from", str(log_file), "-q"]) == 2
    assert "leave out the inputs" in capsys.readouterr().err


def test_the_command_prints_a_line_or_json(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "turns", "--model", str(tiny_model), "--scenes", "1", "--rounds", "1", "--roles", "2", "--tokens", "2", "-q"]
    assert main(arguments) == 0
    assert " turns/s, " in capsys.readouterr().out
    assert main([*arguments, "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["engine"]["turns"], shown["ratio"]) == (2, None)


def test_the_schedulers_figures_are_of_all_policies_and_follow_from_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--scenes", "8", "--roles", "2", "--steps", "2", "--parallel", "8", "--cache", "24"]

    def measured(*more: str) -> list[dict[str, dict[str, float]]]:
        assert main(["bench", "scheduler", *load, "--format", "json", *more]) == 0
        found: list[dict[str, dict[str, float]]] = json.loads(capsys.readouterr().out)["schedules"]
        return found

    schedules = measured()
    assert [schedule["policy"] for schedule in schedules] == ["oldest-scene", "fifo", "lock-step"]
    assert all(0 < schedule["figures"]["efficiency"] <= 1 for schedule in schedules)
    assert measured() == schedules != measured("--seed", "1")
    assert main(["bench", "scheduler", *load]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "of the best possible speed" in lines[0]


def test_a_scheduler_benchmark_can_be_interrupted() -> None:
    class Enough(Exception):
        pass

    def stop(policy: str, ended: int) -> None:
        raise Enough(policy, ended)

    with pytest.raises(Enough, match="oldest-scene"):
        bench_scheduler(Load(scenes=3, roles=1, steps=1, parallel=4, cached=4), on_progress=stop)
