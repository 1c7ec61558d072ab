"""The engine: an open model with its contexts, and the batching loop of the core over them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from matrix_py import _core
from matrix_py.errors import ConfigError, ModelError
from matrix_py.models import chat, hub
from matrix_py.models.llama import ContextShape, LlamaModel, supports_gpu
from matrix_py.models.vet import ModelFacts, vet
from matrix_py.types import KvMode, KvType

DEFAULT_CONTEXT = 4096
DEFAULT_PARALLEL = 16
DEFAULT_BATCH = 512
_MIN_BATCH = 32
_Q8_0 = 7  # llama_ftype


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to open a model.

    Attributes:
        context: tokens that a turn may hold; None for what the model was trained on, at most 4,096.
        parallel: turns in flight; None for 16, or fewer where the KV of so many does not fit the memory.
        cached: beginnings of prompts that are kept in KV beside those of the turns in flight, because they may come again; None for as many
            as turns in flight, or fewer where they do not fit half of the memory.
        kv: whether each sequence has a KV stream of its own (`isolated`, which the deterministic mode needs), or all share one (`shared`),
            where common beginnings stand once and a long turn may use what short ones leave. `auto` is isolated where the self-test passes,
            and on a CPU, where it is faster.
        kv_type: how keys are held in KV. In 8 bits they are read faster; what is said changes, and so this is part of the run.
        kv_tokens: tokens of a shared KV; None for what all sequences could need, or fits half of the memory.
        lora: an adapter (GGUF) to use with the model. It ends determinism.
        deterministic: None to follow the self-test.
        threads: CPU threads; None for all.
        batch: tokens a call to llama.cpp may hold (n_ubatch).
        gpu_layers: layers on a GPU; -1 for all.
        prefix_reuse: begin prompts with what is in KV already.
        chat_template: name of a built-in template or path of a file; None for the model's own.
        preempt_every: let the youngest turn in flight wait again at every so many steps, as a lack of KV would (tests).
        count_sub_batches: see `ContextShape`.
    """

    context: int | None = None
    parallel: int | None = None
    cached: int | None = None
    kv: KvMode = KvMode.AUTO
    kv_type: KvType = KvType.F16
    kv_tokens: int | None = None
    lora: Path | None = None
    deterministic: bool | None = None
    threads: int | None = None
    batch: int = DEFAULT_BATCH
    gpu_layers: int = 0
    prefix_reuse: bool = True
    chat_template: str | None = None
    preempt_every: int | None = None
    count_sub_batches: bool = False

    def check(self) -> None:
        """Refuse what cannot work, before a model is loaded.

        Raises:
            ConfigError: an option is out of range.
        """
        if self.parallel is not None and not 1 <= self.parallel <= _core.MAX_SEQUENCES:
            raise ConfigError(
                f"--parallel is {self.parallel}: give 1 to {_core.MAX_SEQUENCES} (llama.cpp allows {_core.MAX_SEQUENCES} sequences)"
            )
        if self.cached is not None and not 0 <= self.cached <= _core.MAX_SEQUENCES - (self.parallel or 1):
            raise ConfigError(
                f"--cache is {self.cached}: give 0 to {_core.MAX_SEQUENCES - (self.parallel or 1)} (llama.cpp allows "
                f"{_core.MAX_SEQUENCES} sequences, turns in flight included)"
            )
        if self.kv == KvMode.SHARED and self.deterministic:
            raise ConfigError("--kv is shared, where text depends on company: leave out --deterministic, or give --kv isolated")
        if self.kv_tokens is not None and (self.kv == KvMode.ISOLATED or self.kv_tokens < 16):
            raise ConfigError(
                f"--kv-tokens is {self.kv_tokens}: it is for --kv shared"
                if self.kv == KvMode.ISOLATED
                else f"--kv-tokens is {self.kv_tokens}: give at least the tokens of a turn (--ctx)"
            )
        if self.context is not None and self.context < 16:
            raise ConfigError(f"--ctx is {self.context}: give at least 16 tokens")
        if self.batch < _MIN_BATCH:
            raise ConfigError(f"--batch is {self.batch}: give at least {_MIN_BATCH} tokens")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"--threads is {self.threads}: give at least 1")
        if self.gpu_layers < -1:
            raise ConfigError(f"--gpu-layers is {self.gpu_layers}: give a number of layers, or -1 for all")


class Engine:
    """Answers turns with a model. Implements `matrix_py.pump.Answerer`."""

    def __init__(self, spec: str, options: EngineOptions, *, announce: Callable[[str], None] = lambda line: None) -> None:
        """Open a model.

        Args:
            spec: path of a GGUF, `hf:owner/repo/file.gguf`, or `embedded`.
            options: how.
            announce: told in a line each what takes time and what was decided.

        Raises:
            ConfigError: an option is out of range, or asks for what the model cannot give.
            ModelError: the model cannot be found, opened or used.
        """
        options.check()
        self.path = hub.resolve(spec)
        if options.gpu_layers != 0 and not supports_gpu():
            raise ConfigError(
                f"--gpu-layers is {options.gpu_layers}, but this llama.cpp was built without a GPU backend: "
                "the README says how to install the CUDA build"
            )
        self.facts = vet(self.path, n_gpu_layers=options.gpu_layers, lora=options.lora)
        self.options = options
        self.template = chat.load(
            self.facts.metadata,
            override=options.chat_template,
            bos_token=self.facts.bos_token or "",
            eos_token=self.facts.eos_token or "",
        )
        if self.template.is_plain and options.chat_template is None:
            announce(f"{self.path.name} has no chat template: prompts use plain headings (--chat-template NAME chooses another)")
        self.context = _context(options.context, self.facts)
        self.threads = options.threads or available_cpus()
        # Of the weights that the log pins, before they are used.
        self.model_hash = _core.hash_file(self.path)
        self.lora_hash = None if options.lora is None else _core.hash_file(options.lora)
        self._model = LlamaModel(self.path, gpu_layers=options.gpu_layers, lora=options.lora)
        try:
            self.tokenizer = self._model.tokenizer
            self.deterministic, self.self_test = self._decide(options, announce)
            self.kv = options.kv
            if self.kv == KvMode.AUTO:
                # On CPU it is faster too (measured), for attention runs over the cells of all who share.
                self.kv = KvMode.ISOLATED if self.deterministic or options.gpu_layers == 0 else KvMode.SHARED
            sizes = _sizes(options, self.context, self._model.kv_bytes_per_token(options.kv_type), shared=self.kv == KvMode.SHARED)
            self.parallel, self.cached, self.kv_tokens = sizes
            shape = ContextShape(
                slots=self.parallel + self.cached,
                slot_context=self.context,
                batch=options.batch,
                threads=self.threads,
                # On CPU, flash attention is slower with one stream a sequence (measured), and less exact.
                flash_attention=False if self.deterministic or (self.kv == KvMode.ISOLATED and options.gpu_layers == 0) else None,
                cells=self.kv_tokens,
                kv_type=options.kv_type,
                count_sub_batches=options.count_sub_batches,
            )
            self._context = self._model.context(shape)
        except BaseException:
            self._model.close()
            raise
        try:
            self._core = _core.Engine(
                tokenizer=self.tokenizer,
                context=self._context.address,
                slots=self.parallel + self.cached,
                parallel=self.parallel,
                slot_context=self._context.slot_context,
                batch=options.batch,
                turn_context=self.context,
                cells=self.kv_tokens,
                prefix_reuse=options.prefix_reuse and not (self.facts.recurrent or self.facts.hybrid),
                preempt_every=options.preempt_every,
            )
        except BaseException:
            self._context.close()
            self._model.close()
            raise
        kv = f"KV {self.kv} {options.kv_type}"
        kv_mib = self._model.kv_bytes_per_token(options.kv_type) * self._context.kv_tokens / 2**20
        self.summary = (
            f"{self.path.name}: {self.facts.n_params / 1e6:,.1f}M parameters ({self.facts.description}), "
            f"{self.parallel} sequences of {self.context} tokens, {self.cached} more for prompts to come, {kv} {kv_mib:.0f} MiB, "
            f"{self.threads} threads, {'deterministic' if self.deterministic else 'not deterministic'} ({self.self_test})"
        )

    def _decide(self, options: EngineOptions, announce: Callable[[str], None]) -> tuple[bool, str]:
        """Whether to run deterministically, and why."""
        if options.deterministic is False:
            return False, "switched off"
        if options.kv == KvMode.SHARED:
            return False, "in a shared KV text depends on company"
        if options.lora is not None:
            reason = "an adapter gives other bits in company: for that, merge it into the model"
        elif options.batch > DEFAULT_BATCH:
            reason = f"the same bits were measured for batches of at most {DEFAULT_BATCH} tokens"
        elif self.facts.recurrent or self.facts.hybrid:
            reason = "recurrent state cannot be taken back to a prefix"
        elif options.gpu_layers == 0 and self.facts.ftype != _Q8_0:
            # Measured: on CPU, the other formats' kernels depend on company, in too few places for a short test to be sure to see it.
            reason = "on CPU only Q8_0 weights give the same bits in any company"
        else:
            announce("testing whether the model gives the same bits in any company ...")
            failed = self._self_test(options)
            if not failed:
                return True, "self-test passed"
            reason = f"self-test failed: other bits {failed[0]}"
        if options.deterministic:
            raise ConfigError(f"--deterministic is not possible with {self.path.name}: {reason}; leave it out to run without the promise")
        return False, reason

    def _self_test(self, options: EngineOptions) -> list[str]:
        # Longer prompts test more; those of a large model on CPU would take minutes.
        wanted = 300 if self.facts.n_params < 1_000_000_000 or options.gpu_layers else 96
        prompt = max(_core.MIN_SELF_TEST_PROMPT, min(wanted, self.context // 2 - 8))
        # Of its own sizes, so that the outcome depends on the model alone and not on --parallel or --batch.
        shape = ContextShape(
            slots=_core.SELF_TEST_SLOTS,
            slot_context=2 * prompt + 8,
            batch=DEFAULT_BATCH,
            threads=self.threads,
            flash_attention=False,
            kv_type=options.kv_type,
        )
        with self._model.context(shape) as context:
            _, differing = _core.self_test(
                tokenizer=self.tokenizer,
                context=context.address,
                slots=shape.slots,
                slot_context=context.slot_context,
                batch=shape.batch,
                prompt_tokens=prompt,
                threads=self.threads,
            )
        return differing

    def submit(self, turns: list[_core.Turn]) -> None:
        """Queue turns; see `Answerer`."""
        self._core.submit(turns)

    def submit_tokens(self, work: list[tuple[_core.Turn, list[int]]]) -> None:
        """Queue turns with these tokens as their prompts, for benchmarks; see `_core.Engine`."""
        self._core.submit_tokens(work)

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        """Return what is answered; see `Answerer`."""
        return self._core.collect(timeout_s)

    def cancel(self, scene: bytes) -> None:
        """Cancel a scene's turns; see `Answerer`."""
        self._core.cancel(scene)

    def stats(self) -> dict[str, int]:
        """Return what the engine has done since it was opened, by name."""
        return self._core.stats()

    def close(self) -> None:
        """Stop the engine and free the model. Closing twice is fine."""
        self._core.close()
        self._context.close()
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _context(wanted: int | None, facts: ModelFacts) -> int:
    trained = facts.n_ctx_train
    if wanted is None:
        return min(trained, DEFAULT_CONTEXT) if trained > 0 else DEFAULT_CONTEXT
    if 0 < trained < wanted:
        raise ConfigError(f"--ctx is {wanted}, but {facts.name or 'the model'} was trained on {trained} tokens: give at most that")
    return wanted


def _sizes(options: EngineOptions, context: int, kv_bytes_per_token: int, *, shared: bool) -> tuple[int, int, int | None]:
    """Return how many turns may be in flight, how many beginnings of prompts are kept besides, and the tokens of a shared KV."""
    memory = _available_bytes()
    # llama.cpp rounds a stream up to 256 tokens.
    stream = context + 256
    fitting = memory // 2 // max(kv_bytes_per_token * stream, 1)
    # In a shared KV turns share what there is, and most need far less than they may.
    parallel = options.parallel or (DEFAULT_PARALLEL if shared else max(1, min(DEFAULT_PARALLEL, fitting)))
    cached = options.cached
    if cached is None:
        most = _core.MAX_SEQUENCES - parallel
        cached = max(0, min(parallel, most if shared else fitting - parallel, most)) if options.prefix_reuse else 0
    kv_tokens = (parallel + cached) * stream
    if shared:
        wanted = options.kv_tokens or max(context, min((parallel + cached) * context, fitting * stream))
        if wanted < context:
            raise ConfigError(f"--kv-tokens is {wanted}, and a turn may hold {context}: give at least that, or lower --ctx")
        kv_tokens = wanted
    elif options.kv_tokens is not None:
        raise ConfigError(f"--kv-tokens is {options.kv_tokens}, but the KV is not shared here: give --kv shared, or leave it out")
    if kv_tokens * kv_bytes_per_token > memory:
        raise ModelError(
            f"{parallel + cached} sequences of {context} tokens need {kv_tokens * kv_bytes_per_token / 2**30:.1f} GiB of KV, and "
            f"{memory / 2**30:.1f} GiB of memory are free: lower {'--kv-tokens' if shared else '--parallel, --cache'} or --ctx"
        )
    return parallel, cached, kv_tokens if shared else None


def available_cpus() -> int:
    """CPUs that this process may use: more threads than that would wait for one another."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available_bytes() -> int:
    """Free memory of the host; without a way to know, as much as nobody would run out of by mistake."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 1 << 40
