"""The Rust half of matrix (`rust_core/src/py.rs`): what must be fast or exact.

Hashes (of scenes, requests, texts, events, files) are `bytes` of length 32; where one is expected, another length
raises ValueError. Errors are those of `matrix_py.errors`, one class for each error of the core (`ERROR_CLASSES`).
Besides those, wherever a value does not fit the type that is named: TypeError for another type, OverflowError for an
integer out of range, UnicodeEncodeError for text with a lone surrogate.

All classes may be shared between threads. "GIL released" says that other Python threads go on during the call; where it
is not said, the call holds the GIL and takes microseconds. The engine's own thread never takes the GIL, so waiting for
it cannot deadlock.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, Self, final

__all__ = [
    "BATCH_LAYOUT",
    "ERROR_CLASSES",
    "LLAMA_SYMBOLS",
    "MAX_SEQUENCES",
    "MIN_SELF_TEST_PROMPT",
    "SELF_TEST_SLOTS",
    "ArrowBatch",
    "ArrowTable",
    "Completion",
    "Engine",
    "EventLog",
    "IpcEncoder",
    "Sampling",
    "Tokenizer",
    "Turn",
    "__version__",
    "blake3",
    "draw",
    "form_accepts",
    "hash_file",
    "ipc_decode",
    "ipc_encode",
    "log_callback_address",
    "request_hash",
    "run_root",
    "scene_id",
    "self_test",
    "simulate_schedule",
    "sub_batch_callback_address",
    "sub_batches",
    "take_llama_log",
]

__version__: Final[str]
"""Version of the Rust crate, which is the package's."""

MAX_SEQUENCES: Final[int]
"""The most slots that an `Engine` may have: llama.cpp's own bound on sequence ids."""

LLAMA_SYMBOLS: Final[list[str]]
"""The C functions of llama.cpp whose addresses `Tokenizer` wants."""

BATCH_LAYOUT: Final[dict[str, int]]
"""Size and field offsets of `llama_batch`, in bytes, that the core was built for (see `Tokenizer`)."""

ERROR_CLASSES: Final[list[str]]
"""Names of the classes in `matrix_py.errors` that the core raises."""

MIN_SELF_TEST_PROMPT: Final[int]
"""The shortest prompt that `self_test` can cut its compositions from, in tokens."""

SELF_TEST_SLOTS: Final[int]
"""Slots that `self_test` needs."""

@final
class Sampling:
    """How the tokens of a turn are chosen, and where they end. Immutable.

    The order is: form, repetition penalty, temperature, top-k, top-p, min-p; then one random number, a function of the
    turn's key and the token's index, picks from what is left. Ties go to the lowest token id.
    """

    def __new__(
        cls,
        max_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = ...,
        form: str | None = None,
        choices: Sequence[str] = ...,
    ) -> Self:
        """Make and check settings. Floats are rounded to 32 bits, and it is these that a request's hash covers.

        It covers everything but `choices`.

        Args:
            max_tokens: most tokens to generate, at least 1; the context may allow fewer.
            temperature: 0 to 100; at 0 the most likely token is taken, whatever `top_k`, `top_p` and `min_p` are.
            top_k: keep the k most likely tokens; 0 keeps all.
            top_p: keep the most likely tokens that together reach this probability, above 0; 1 keeps all.
            min_p: keep tokens at least this probable relative to the most likely one, below 1; 0 keeps all.
            repetition_penalty: 1 to 10; positive logits of the last 64 generated tokens are divided by it, negative
                ones multiplied. 1 leaves them.
            stop: texts that end the turn, none empty; the completion stops before the first of them.
            form: a Lark grammar that binds the completion. It is parsed when the turn is submitted. Behind a first line
                `%distinct_lines`, no line of the completion stands twice, whatever number (`2. `) stands before it.
            choices: the two texts between which the form decides, for `Completion.log_odds`, or none. Neither may be
                empty or the beginning of the other. Nothing is recorded where they begin with the same letter or with a space.

        Raises:
            RequestError: a setting is out of range; the message names it.
        """

    @property
    def max_tokens(self) -> int:
        """Most tokens to generate."""

    @property
    def temperature(self) -> float:
        """The temperature, as rounded to 32 bits."""

    @property
    def form(self) -> str | None:
        """The grammar that binds the completion, if there is one."""

    @property
    def choices(self) -> list[str]:
        """The two texts whose log-odds are recorded, or none; a new list each time."""

@final
class Turn:
    """One request to the model. Immutable; compared by identity, so compare `request` (or path and attempt) instead."""

    def __new__(
        cls,
        *,
        seed: int,
        scene: bytes,
        path: str,
        attempt: int,
        kind: str,
        segments: Sequence[tuple[str, bool]],
        sampling: Sampling,
        rank: int = 0,
    ) -> Self:
        """Make a turn, with its random key and its request hash.

        Args:
            seed: the run's seed, 0 to 2**64 - 1.
            scene: the scene's id, 32 bytes.
            path: name of the turn in its scene, such as `step/2/react/doctor`.
            attempt: 1 for the first try; a form that failed is tried again as 2 and 3.
            kind: what the turn is for, such as `react`. It is stored beside the completion and not part of the request.
            segments: the prompt's texts in order, each with whether it is trusted: untrusted text never makes a special
                token.
            sampling: how tokens are chosen.
            rank: of the turns that wait, those of the lowest rank go first. It is not part of the request.

        Raises:
            RequestError: `attempt` is 0.
        """

    @property
    def scene(self) -> bytes:
        """Id of the scene that asks, 32 bytes."""

    @property
    def path(self) -> str:
        """Name of the turn in its scene, without the attempt."""

    @property
    def attempt(self) -> int:
        """Number of the try, from 1."""

    @property
    def name(self) -> str:
        """The path with its attempt, as read sets spell it: `cast/ego`, then `cast/ego#2`."""

    @property
    def kind(self) -> str:
        """What the turn is for."""

    @property
    def segments(self) -> list[tuple[str, bool]]:
        """The prompt's texts in order, each with whether it is trusted; a new list each time."""

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""

    @property
    def request(self) -> bytes:
        """Identity of the request, 32 bytes: a hash over segments, sampling and key.

        On the same model, the same request has the same completion.
        """

    @property
    def key(self) -> bytes:
        """Source of the turn's random numbers, 32 bytes: a hash over seed, scene, path and attempt."""

@final
class Completion:
    """The model's answer to a turn. Immutable. The engine makes them, and whoever stands in for it."""

    def __new__(
        cls,
        turn: Turn,
        *,
        text: str,
        outcome: str = "text",
        finish: str = "eos",
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
        generated_tokens: int = 0,
        masked_tokens: int = 0,
        log_odds: float | None = None,
        source: str = "model",
    ) -> Self:
        """Answer a turn with a text that is at hand.

        Args:
            turn: the turn that is answered; the completion takes scene, path, attempt and request from it.
            text: the answer.
            outcome: `text`, `form_failed` or `too_long`.
            finish: `eos`, `stop`, `form`, `length` or `none`.
            prompt_tokens: see the property of that name; so for the others.
            cached_tokens: see there.
            generated_tokens: see there.
            masked_tokens: see there.
            log_odds: see there.
            source: see there.

        Raises:
            RequestError: `outcome`, `finish` or `source` is not one of those names.
        """

    @property
    def request(self) -> bytes:
        """Hash of the request that is answered, 32 bytes."""

    @property
    def outcome(self) -> Literal["text", "form_failed", "too_long"]:
        """Whether the text is what was asked for, ended before its form was complete, or found no room."""

    @property
    def finish(self) -> Literal["eos", "stop", "form", "length", "none"]:
        """What ended the text: the model, a stop text, the form, the budget; `none` when nothing was generated."""

    @property
    def text(self) -> str:
        """The generated text, without the stop text; bytes that are not UTF-8 are U+FFFD."""

    @property
    def source(self) -> Literal["model", "reused", "edited"]:
        """Who said it: the run's model, an older log in which the same request was answered, or whoever forked the run."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt whose KV was there already. It depends on company."""

    @property
    def generated_tokens(self) -> int:
        """Tokens of the answer, the one that ended it not counted."""

    @property
    def masked_tokens(self) -> int:
        """Tokens of the answer at which the choice without the form's mask would have broken the form."""

    @property
    def log_odds(self) -> float | None:
        """The log-odds of the turn's two choices, ln P(first) - ln P(second) in nats, at the token where the form decided.

        P is the model's own probability, before mask, penalty and temperature, summed over the tokens that the form allows
        and that begin a choice or begin with it, whatever spaces come first. The form decides at the first token where it
        allows such tokens of both choices, nothing else but spaces, and one of them is chosen. None where it does so
        nowhere: without choices or form, in another form, or when the text ended before.
        """

@final
class ArrowBatch:
    """Rows of one table for the writer. Reads as an Arrow stream of one batch, any number of times, without a copy."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the rows as an `arrow_array_stream` capsule (Arrow's PyCapsule interface), with its own schema."""

    def __len__(self) -> int:
        """Return the number of rows."""

@final
class EventLog:
    """The log in memory: it sequences and hashes events of open scenes, and buffers rows until the writer takes them.

    One thread may append while another drains: a call then waits, with the GIL held, until the batches are built
    (milliseconds).
    """

    def __new__(cls, *, max_known_texts: int = ...) -> Self:
        """Make an empty log.

        Args:
            max_known_texts: texts that it remembers, 917,504 if not given, which take 35 MB; after so many it starts anew.
        """

    def know_texts(self, hashes: Iterable[bytes]) -> None:
        """Take the hashes of all texts that the file holds, before any text is buffered: then none of them is handed over again."""

    @property
    def knows_all_texts(self) -> bool:
        """Whether every text that is buffered is new to the file, by what `know_texts` was given. Once false, it stays so."""

    def open(self, scene: bytes, stored: int = 0) -> None:
        """Begin a scene's hash chain.

        Args:
            scene: the scene's id, 32 bytes.
            stored: how many of its events the file holds already: the first `stored` are sequenced and hashed like all
                others, for the caller to compare, but not buffered.

        Raises:
            SceneError: the scene is open.
        """

    def append(self, scene: bytes, payload: bytes) -> tuple[int, bytes]:
        """Bind an event to the end of its scene's chain, and buffer it.

        Args:
            scene: id of an open scene, 32 bytes.
            payload: the event in canonical form: `matrix_py.events.encode` writes it.

        Returns:
            The event's place in its scene, from 0, and its hash (32 bytes).

        Raises:
            PayloadError: the payload is not canonical; the message names the first byte that is wrong. The chain is
                as before.
            SceneError: the scene is not open.
        """

    def close(self, scene: bytes) -> tuple[int, bytes]:
        """Forget a scene, finished or not; what is buffered stays.

        Returns:
            The number of its events, stored ones included, and the hash of the last: of a scene without events, its id.

        Raises:
            SceneError: the scene is not open.
        """

    def record(self, turn: Turn, completion: Completion) -> None:
        """Buffer a completion with its text and the segments of its prompt. The scene need not be open.

        Args:
            turn: the turn, whose kind and segments are stored.
            completion: the answer to that turn; whether it is, is not checked.
        """

    def add_scene(
        self,
        scene: bytes,
        *,
        position: int,
        label: str,
        row: int,
        occurrence: int,
        instruction: str,
        response: str | None,
        meta: str,
    ) -> None:
        """Buffer a scene of the run's input, with its texts.

        Args:
            scene: the scene's id, 32 bytes.
            position: place in the run's input, from 0: the order of the run root.
            label: name of the input.
            row: place in that input.
            occurrence: number of earlier scenes with the same instruction and response.
            instruction: the instruction.
            response: the given response, if there is one.
            meta: the input's other columns, as JSON; it is stored unread.
        """

    def text(self, text: str) -> bytes:
        """Buffer a text, unless it was buffered before, and return its address: the hash of its UTF-8 bytes (32 bytes).

        Once it has started anew, the writer may be handed a text twice.
        """

    @property
    def pending(self) -> int:
        """Number of buffered rows, of all tables together."""

    def drain(self) -> tuple[ArrowBatch, ArrowBatch, ArrowBatch, ArrowBatch] | None:
        """Take everything that is buffered. GIL released.

        Returns:
            Rows of the tables texts, scenes, completions and events, to be written in one transaction in this order;
            some may be empty. None when nothing is buffered. Rows are in the order of the calls that made them.
        """

@final
class Tokenizer:
    """A model's vocabulary: segments to tokens and back, exactly.

    It reads the vocabulary through pointers: call `close` before the model is freed.
    """

    def __new__(cls, *, addresses: dict[str, int], layout: dict[str, int], vocab: int) -> Self:
        """Read a vocabulary and see whether text survives it. GIL released.

        Args:
            addresses: address of each function in `LLAMA_SYMBOLS`, in the library that the model was opened with. A
                wrong one ends the process.
            layout: size and offsets of the caller's `llama_batch`, in bytes, by the names in `BATCH_LAYOUT`.
            vocab: address of the `llama_vocab`.

        Raises:
            ModelError: an address is missing or null, the layout is another one, or plain text does not survive.
        """

    def encode(self, segments: Sequence[tuple[str, bool]]) -> list[int]:
        """Return a prompt's tokens. GIL released.

        Segments are tokenised one by one: prompts that begin with the same segments begin with the same tokens. The
        vocabulary's BOS comes first if it asks for one and the text does not begin with it. A character that the
        vocabulary cannot spell, not even by its bytes, becomes U+FFFD.

        Args:
            segments: texts in order, each with whether it is trusted: only trusted text may name special tokens.

        Raises:
            ModelError: a text cannot be encoded exactly.
            EngineClosedError: the tokenizer is closed.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without a BOS at the beginning; bytes that are not UTF-8 become U+FFFD, control tokens their names.

        Raises:
            RequestError: a token is not in the vocabulary.
        """

    def close(self) -> None:
        """Let go of the vocabulary, once no other thread is encoding. GIL released while waiting.

        Nothing can be encoded afterwards, in an `Engine` neither; decoding goes on. Closing twice is fine.
        """

    def is_special(self, token: int) -> bool:
        """Return whether a token stands for no text (a control token, or an added one written like a mark).

        False for what is not in the vocabulary.
        """

    def __len__(self) -> int:
        """Return the number of tokens in the vocabulary."""

@final
class Engine:
    """The batching loop over an open context, on a thread of its own.

    It is closed when the last reference goes, too; the GIL is then held until the step under way is done.
    """

    def __new__(
        cls,
        *,
        tokenizer: Tokenizer,
        context: int,
        slots: int,
        parallel: int,
        slot_context: int,
        batch: int,
        turn_context: int,
        cells: int | None = None,
        prefix_reuse: bool = True,
        preempt_every: int | None = None,
    ) -> Self:
        """Probe the context with two tokens and start the thread. GIL released.

        Args:
            tokenizer: of the model that the context belongs to, not closed.
            context: address of the `llama_context`: `n_seq_max` = `slots`, `n_ubatch` = `batch`. Nobody else may use it until the
                engine is closed; its owner frees it afterwards.
            slots: sequences in KV, 1 to `MAX_SEQUENCES`.
            parallel: turns in flight, 1 to `slots`; the other slots keep beginnings of prompts that may come again.
            slot_context: tokens that a sequence may hold.
            batch: tokens that a call to llama.cpp may hold.
            turn_context: tokens that a turn may hold, prompt and completion together: 3 to `slot_context`.
            cells: tokens of the KV that all slots share (`kv_unified`); None where each slot has a stream of its own.
            prefix_reuse: begin prompts with what other turns left in KV.
            preempt_every: let the youngest turn in flight wait again at every so many steps (tests).

        Raises:
            ConfigError: an option is out of range; the message names it.
            EngineError: the probe fails.
            ModelError: the address is null, or the vocabulary has no two ordinary tokens to probe with.
        """

    def submit_tokens(self, work: Sequence[tuple[Turn, Sequence[int]]]) -> None:
        """Queue turns whose prompts are these tokens, whatever their segments say, and which go on to the end of their budget.

        Work of a given shape, for benchmarks. All of them are queued or, after an error, none. GIL released.

        Raises:
            ConfigError: a prompt and its budget do not fit the context, or a token is not in the vocabulary.
            RequestError: a prompt has fewer than two tokens.
            EngineError: the engine is closed, or its thread has ended.
        """

    def submit(self, turns: Sequence[Turn]) -> None:
        """Queue turns; all of them or, after an error, none. They are tokenised here. GIL released.

        A turn whose prompt leaves no room for a token is queued too: its completion has the outcome `too_long`.

        Raises:
            RequestError: a prompt has fewer than two tokens, or a form does not parse.
            ModelError: a prompt cannot be encoded exactly, or the vocabulary allows no forms.
            EngineClosedError: the engine or the tokenizer is closed.
        """

    def collect(self, timeout_s: float) -> list[tuple[Turn, Completion | Exception]]:
        """Return the turns that are answered; when there are none, wait for the first. GIL released while waiting.

        A signal (Ctrl-C) is seen when the call returns, so keep the timeout short.

        Args:
            timeout_s: seconds to wait at most; 0 only looks.

        Returns:
            Turns in the order in which they were done, equal to those submitted but not the same objects, each with its
            completion, or with the EngineError that stands for none: llama.cpp failed, the turn was cancelled. Empty
            after the timeout.

        Raises:
            EngineClosedError: the engine is closed, or its thread has ended, and nothing is left to collect.
            RequestError: `timeout_s` is negative or no finite number.
        """

    def cancel(self, scene: bytes) -> None:
        """Cancel a scene's turns at the next step.

        `collect` returns each with an EngineError, or with its completion if it was done already.

        Raises:
            EngineClosedError: the engine is closed.
        """

    def stats(self) -> dict[str, int]:
        """Return what the engine has done since it was opened, as of the last step that it finished.

        `steps`: rounds of the loop, each with prompt tokens up to a batch and a token of each sequence that decodes;
        `prefill_calls`, `decode_calls`: calls to llama.cpp; `prefilled_tokens`, `cached_tokens`: prompt tokens
        computed, and taken over from KV; `generated_tokens`: tokens sampled; `prefill_us`, `decode_us`: time in llama.cpp, in
        microseconds, in calls with prompt tokens and in those without;
        `copies`: slots copied, each a whole KV stream where it has its own; `preemptions`: turns that had to wait again;
        `turns`, `failed_turns`: turns answered, and those of them without a completion; `running`, `waiting`: turns in
        slots, and turns without one.
        """

    def close(self) -> None:
        """Stop after the step under way and end the thread. GIL released while waiting.

        Turns in flight are not answered; what was answered can still be collected. Closing twice is fine.
        """

def simulate_schedule(
    *,
    policy: str,
    scenes: int,
    roles: int,
    steps: int,
    window: int,
    parallel: int,
    cached: int,
    batch: int,
    seed: int,
    on_progress: Callable[[int], None],
) -> dict[str, float]:
    """Run social scenes on the engine's own loop over a model that computes nothing. GIL released.

    A step costs 8.5 ms, 3.0 ms for each sequence that decodes a token in it, and 1.74 ms for each prompt token: what a model of 135 million
    parameters (Q8_0) was measured to need on two CPU cores. Lengths of completions are log-normal.

    Args:
        policy: `oldest-scene`, as runs do it; `fifo`; `lock-step`, in which all open scenes wait for one another after each turn.
        scenes: number of scenes.
        roles: roles of a scene besides the one who acts.
        steps: acts of a scene.
        window: scenes open at a time.
        parallel: turns in flight.
        cached: KV streams beside theirs.
        batch: tokens a call may hold.
        seed: of the lengths.
        on_progress: told how many scenes have ended, after each.

    Returns:
        `seconds`, that the run would take; `work` and `critical_path`, two bounds that it cannot be shorter than, in seconds;
        `efficiency`, the greater of them divided by `seconds`; `distinct_tokens`, prompt tokens if every shared beginning is computed
        once; `prefilled_tokens`, those that were; `generated_tokens`, `turns`, `steps`, `calls`, `copies`.

    Raises:
        ConfigError: a number is 0, or there is no such policy.
    """

def self_test(
    *, tokenizer: Tokenizer, context: int, slots: int, slot_context: int, batch: int, prompt_tokens: int, threads: int
) -> tuple[int, list[str]]:
    """Decode the same tokens in fourteen compositions, and compare the logits bit by bit. GIL released.

    The compositions differ in what must not matter: chunks, company, slots, copied prefixes, threads.

    Args:
        tokenizer: of the model that the context belongs to, not closed.
        context: address of a fresh `llama_context`, as for `Engine`; it is to be freed afterwards.
        slots: its sequences, at least `SELF_TEST_SLOTS`.
        slot_context: tokens that a KV stream holds; twice `prompt_tokens` and 4 more, or more: one of the company is that long.
        batch: tokens that a call to llama.cpp may hold, at least `MIN_SELF_TEST_PROMPT`.
        prompt_tokens: length of the prompt, at least `MIN_SELF_TEST_PROMPT`.
        threads: CPU threads; one composition uses a single one.

    Returns:
        The number of compositions, and the names of those that gave other bits: none, if the model may run
        deterministically.

    Raises:
        ConfigError: the sizes are too small for the test.
        EngineError: llama.cpp fails.
        ModelError: the address is null, or the vocabulary has no two ordinary tokens.
    """

@final
class IpcEncoder:
    """The Arrow IPC bytes of a stream, a batch at a time: an iterator. Made by `ipc_encode`."""

    @property
    def rows(self) -> int:
        """Rows whose bytes were given so far."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes:
        """Return the next batch's bytes; the first with the schema before them, the last those of the end. GIL released.

        Raises:
            StoreError: the stream fails; in the words of who made it.
        """

def ipc_encode(stream: object) -> IpcEncoder:
    """Begin to write an Arrow stream in the IPC format. GIL released while the schema is asked for.

    Nothing of the stream is read ahead, so memory holds one of its batches.

    Args:
        stream: an object with `__arrow_c_stream__`, which is called once.

    Raises:
        AttributeError: it has no such method.
        StoreError: the stream gives no schema, or one with a type that the format does not know.
    """

@final
class ArrowTable:
    """An Arrow stream that was decoded. `len` is its rows; `__arrow_c_stream__` may be called more than once. Made by `ipc_decode`."""

    def __len__(self) -> int: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the rows as a stream (Arrow PyCapsule interface); a wish for another schema is ignored."""

def ipc_decode(data: bytes) -> ArrowTable:
    """Read a whole Arrow stream in the IPC format. GIL released.

    Raises:
        StoreError: the bytes are no such stream, or not whole.
    """

def blake3(data: bytes) -> bytes:
    """Return the BLAKE3 hash of `data`, 32 bytes: of a text's UTF-8 bytes, its address in the log."""

def hash_file(path: str | os.PathLike[str]) -> bytes:
    """Return the BLAKE3 hash of a file's content, 32 bytes, computed on all cores. GIL released.

    Raises:
        OSError: the file cannot be read (FileNotFoundError and the like).
    """

def scene_id(scene: str, instruction: str, response: str | None, occurrence: int) -> bytes:
    """Return a scene's identity, 32 bytes, which no row number enters.

    Args:
        scene: name of the scene.
        instruction: the instruction.
        response: the given response, if the input has one; an empty one is not none.
        occurrence: number of earlier inputs with the same instruction and response.
    """

def request_hash(
    *, seed: int, scene: bytes, path: str, attempt: int, segments: Sequence[bytes], trusted: Sequence[bool], sampling: bytes
) -> bytes:
    """Return the identity of a request, 32 bytes, from what a log holds of it: see `Turn.request`.

    Args:
        seed: the run's seed.
        scene: the scene's id, 32 bytes.
        path: name of the turn.
        attempt: its attempt, from 1.
        segments: hashes of the prompt's segments, 32 bytes each.
        trusted: for each of them, whether it is trusted.
        sampling: hash of how tokens are chosen, 32 bytes.

    Raises:
        ValueError: `segments` and `trusted` are not equally many, or a hash has another length.
    """

def run_root(config: bytes, scenes: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the root hash of a run, 32 bytes.

    Args:
        config: hash of the run's configuration, 32 bytes.
        scenes: each scene's id and the hash of its last event, in input order; read one by one.
    """

def draw(seed: int, scene: bytes, name: str, index: int) -> float:
    """Return a random number in [0, 1): a function of the arguments alone, a multiple of 2**-53.

    With a turn's path for `name` (from the second attempt on, `path#2`) and a token's index, it is the number that
    token is chosen by.

    Args:
        seed: the run's seed, 0 to 2**64 - 1.
        scene: the scene's id, 32 bytes.
        name: what the number is for.
        index: which of the numbers of that name, 0 to 2**64 - 1.
    """

def form_accepts(form: str, text: str) -> bool:
    """Return whether a form accepts a whole text: what stands in for a model has to be held to it, too.

    A grammar is compiled when a thread first asks for it, which takes milliseconds; a few hundred are kept.

    Args:
        form: a Lark grammar.
        text: the answer, from its beginning to its end.

    Raises:
        RequestError: the form does not parse.
    """

def log_callback_address() -> int:
    """Return the address of a `ggml_log_callback` that keeps the last 32 warnings and errors, and takes no GIL."""

def take_llama_log() -> list[str]:
    """Return the lines that the log callback has kept, oldest first, and forget them."""

def sub_batch_callback_address(get_name_address: int) -> int:
    """Return the address of a `ggml_backend_sched_eval_callback` that counts sub-batches, for tests and benchmarks.

    Args:
        get_name_address: address of `ggml_get_name` in the same library; 0 counts nothing. A wrong one ends the
            process.
    """

def sub_batches() -> int:
    """Return how many sub-batches were counted in this process: the graphs that llama.cpp ran, not the calls to it."""
