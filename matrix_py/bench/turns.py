"""Turns a second on work of a given shape: this engine's, and a llama-server's beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matrix_py import _core
from matrix_py.bench.server import Server
from matrix_py.bench.workload import Answering, Ask, Work, distinct_tokens
from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import EngineError

# What a server may run with; the best of them is what it is compared by.
SERVER_CONFIGURATIONS = tuple(
    f"-np {slots} {unified} -fa {attention}" for slots in (4, 8, 16) for unified in ("-kvu", "-no-kvu") for attention in ("on", "off")
)

# As long as a turn may be: a list of names never ends by itself.
_NAMES = 'start: NAME (", " NAME)*\nNAME: /[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8}){0,3}/'


@dataclass(slots=True)
class Timing:
    """What runs of one engine on the same work took.

    Attributes:
        name: the engine, with its configuration.
        turns: of one run.
        generated: tokens of one run.
        seconds: of each run.
        prompt_tokens: of all prompts of one run.
        prefilled: of these, computed in the last run.
        prefill_s: of the last run, seconds in calls to llama.cpp with prompt tokens, where that is known.
        decode_s: and in those without.
    """

    name: str
    turns: int
    generated: int
    prompt_tokens: int
    seconds: list[float] = field(default_factory=list)
    prefilled: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @property
    def median_s(self) -> float:
        """Median of the runs."""
        return statistics.median(self.seconds)

    @property
    def turns_per_s(self) -> float:
        """Of the median run."""
        return self.turns / self.median_s

    @property
    def outside_share(self) -> float | None:
        """Share of the last run's time that was not in llama.cpp, where that is known."""
        return 1 - (self.prefill_s + self.decode_s) / self.seconds[-1] if self.prefill_s else None

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return asdict(self) | {"median_s": self.median_s, "turns_per_s": self.turns_per_s, "outside_share": self.outside_share}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured.

    Attributes:
        work: what it is.
        distinct: prompt tokens that have to be computed if every shared beginning is computed once.
        engine: this engine.
        bound: this engine with turns that are bound by forms, if that was asked for.
        server: the server in its best configuration, if one was given.
        tried: turns a second of the server's configurations in the runs that chose among them.
    """

    work: dict[str, object]
    distinct: int
    engine: Timing
    bound: Timing | None
    server: Timing | None
    tried: dict[str, float]

    @property
    def ratio(self) -> float | None:
        """How many times as many turns a second as the server."""
        return self.engine.turns_per_s / self.server.turns_per_s if self.server else None

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {
            "work": self.work,
            "distinct_prompt_tokens": self.distinct,
            "engine": self.engine.document(),
            "bound": self.bound.document() if self.bound else None,
            "server": self.server.document() if self.server else None,
            "server_tried_turns_per_s": self.tried,
            "ratio": self.ratio,
        }


def bench_turns(
    model: str,
    prepare: Callable[[Engine], Work],
    options: EngineOptions,
    *,
    runs: int = 1,
    forms: bool = False,
    server: Path | None = None,
    server_options: Sequence[str] = (),
    announce: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Run the work, alternating with a llama-server if one is given.

    Args:
        model: path of a GGUF, `hf:owner/repo/file.gguf`, or `embedded`.
        prepare: makes the work for an engine.
        options: of the engine; its context is what a turn of the work may need, of the server too.
        runs: of each engine.
        forms: time the same work once more with each turn bound by a form of names.
        server: path of llama.cpp's llama-server.
        server_options: its configurations, which are tried once each to take the best; none for `SERVER_CONFIGURATIONS`.
        announce: told in a line each what is under way.

    Raises:
        MatrixError: the model or the server cannot be used, or a turn fails.
    """
    with Engine(model, options, announce=announce) as engine:
        announce(engine.summary)
        work = prepare(engine)
        path, context, threads, parallel = engine.path, engine.context, engine.threads, engine.parallel
        mode = f"{'deterministic' if engine.deterministic else 'not deterministic'}, --kv {engine.kv} --kv-type {options.kv_type}"
        name = f"matrix, {mode}, --parallel {parallel} --cache {engine.cached}"
    asks = [ask for ask in work.asks() if ask.tokens]
    size = (len(asks), sum(ask.tokens for ask in asks), sum(len(ask.prompt) for ask in asks))
    ours = Timing(name, *size)

    # An engine and a server of their own for each run, so that no run finds what another left behind.
    def run_engine(timing: Timing, form: str | None = None) -> None:
        with Engine(model, options) as engine:
            timing.seconds.append(_timed(work, _engine_answering(engine, form)))
            stats = engine.stats()
        timing.prefilled = stats["prefilled_tokens"]
        timing.prefill_s, timing.decode_s = stats["prefill_us"] / 1e6, stats["decode_us"] / 1e6

    def run_server(configuration: str, timing: Timing) -> None:
        with (
            Server(server or Path(), path, configuration, context=context, threads=threads) as running,
            running.answering(parallel) as answering,
        ):
            timing.seconds.append(_timed(work, answering))
            timing.prefilled = running.prefilled

    bound = Timing(f"{name}, bound by a form", *size) if forms else None
    tried: dict[str, float] = {}
    theirs: Timing | None = None
    if server is not None:
        for configuration in server_options or SERVER_CONFIGURATIONS:
            timing = Timing(f"llama-server {configuration}", *size)
            run_server(configuration, timing)
            tried[configuration] = timing.turns_per_s
            announce(f"{timing.name}: {timing.turns_per_s:.3f} turns/s")
        theirs = Timing(f"llama-server {max(tried, key=lambda each: tried[each])}", *size)
    for number in range(runs):
        run_engine(ours)
        if bound is not None:
            run_engine(bound, _NAMES)
        if theirs is not None:
            run_server(theirs.name.removeprefix("llama-server "), theirs)
        announce(f"run {number + 1} of {runs}: " + ", ".join(f"{each.seconds[-1]:.2f} s" for each in (ours, bound, theirs) if each))
    return Comparison(work.describe(), distinct_tokens(ask.prompt for ask in asks), ours, bound, theirs, tried)


def _timed(work: Work, answering: Answering) -> float:
    began = time.perf_counter()
    work.run(answering)
    return time.perf_counter() - began


def _engine_answering(engine: Engine, form: str | None = None) -> Answering:
    name = _core.scene_id("bench", "", None, 0)
    asked: dict[str, Ask] = {}

    def submit(asks: list[Ask]) -> None:
        work = []
        for ask in asks:
            path = f"bench/{len(asked)}"
            asked[path] = ask
            turn = _core.Turn(
                seed=0,
                scene=name,
                path=path,
                attempt=1,
                kind="bench",
                segments=[("bench", True)],
                sampling=_core.Sampling(ask.tokens, form=form),
                rank=ask.rank,
            )
            work.append((turn, ask.prompt))
        engine.submit_tokens(work)

    def collect() -> list[Hashable]:
        found: list[Hashable] = []
        for turn, completion in engine.collect(600.0):
            if isinstance(completion, Exception):
                raise completion
            ask = asked[turn.path]
            if completion.generated_tokens != ask.tokens:
                raise EngineError(f"a turn gave {completion.generated_tokens} tokens instead of {ask.tokens}")
            found.append(ask.key)
        return found

    return Answering(submit, collect)
