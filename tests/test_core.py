"""The core as Python sees it: errors, the event log and its Arrow batches, what turns and completions refuse."""

import concurrent.futures
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import make_log, plain_sql

from matrix_py import _core, errors
from matrix_py.errors import MatrixError, ModelError, PayloadError, RequestError, SceneError
from matrix_py.events import TurnFellBack, encode

SCENES = [_core.blake3(name.encode()) for name in ("first", "second", "third")]
SCENE = SCENES[0]
BARE = b'{"kind":"Tested","v":1}'

leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
payloads = values.map(lambda value: msgspec.json.encode({"kind": "Tested", "v": 1, "value": value}))
quick = settings(max_examples=80)


def opened(*scenes: bytes, stored: int = 0) -> _core.EventLog:
    log = _core.EventLog()
    for scene in scenes:
        log.open(scene, stored)
    return log


def chain(scene: bytes, texts: list[bytes]) -> list[tuple[int, bytes]]:
    log = opened(scene)
    return [log.append(scene, text) for text in texts]


def rows(batch: _core.ArrowBatch) -> list[dict[str, Any]]:
    pyarrow = pytest.importorskip("pyarrow")
    read: list[dict[str, Any]] = pyarrow.table(batch).to_pylist()
    assert len(read) == len(batch)
    return read


def sampling(**changed: Any) -> _core.Sampling:
    return _core.Sampling(**{"max_tokens": 8, **changed})


def turn(**changed: Any) -> _core.Turn:
    given: dict[str, Any] = {"seed": 1, "scene": SCENE, "path": "cast/ego", "attempt": 1, "kind": "cast"}
    return _core.Turn(**{**given, "segments": [("<s>", True), ("Who?", False)], "sampling": sampling(), **changed})


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _core.ERROR_CLASSES)
def test_each_error_of_the_core_is_a_matrix_error(name: str) -> None:
    assert issubclass(getattr(errors, name), MatrixError)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: _core.EventLog().append(SCENE, BARE), SceneError),
        (lambda: opened(SCENE, SCENE), SceneError),
        (lambda: opened(SCENE).append(SCENE, b"{}"), PayloadError),
        (lambda: sampling(max_tokens=0), RequestError),
        (lambda: _core.form_accepts("start: (", ""), RequestError),
        (lambda: _core.Tokenizer(addresses={}, layout=_core.BATCH_LAYOUT, vocab=1), ModelError),
        (
            lambda: _core.Tokenizer(addresses={}, layout={**_core.BATCH_LAYOUT, "size of llama_batch": 8}, vocab=1),
            ModelError,
        ),
    ],
)
def test_errors_of_the_core_arrive_as_their_classes(call: Callable[[], object], error: type[MatrixError]) -> None:
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)


# Event log -----------------------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.tuples(st.sampled_from(SCENES), payloads), max_size=20), st.sets(st.integers(0, 20)))
def test_interleaving_and_draining_leave_no_trace_in_hashes_or_rows(appended: list[tuple[bytes, bytes]], drained_after: set[int]) -> None:
    # given: events of three scenes in any order, and the writer draining at any time
    log = opened(*SCENES)
    stored: list[dict[str, Any]] = []
    bound: dict[bytes, list[tuple[int, bytes]]] = {scene: [] for scene in SCENES}
    # when
    for at, (scene, text) in enumerate(appended):
        bound[scene].append(log.append(scene, text))
        if at in drained_after and (batches := log.drain()) is not None:
            stored += rows(batches[3])
    if (batches := log.drain()) is not None:
        stored += rows(batches[3])
    # then: each chain is what the scene's events alone give, and the rows are the events, once and in order
    for scene in SCENES:
        texts = [text for owner, text in appended if owner == scene]
        expected = chain(scene, texts)
        assert bound[scene] == expected
        own = [row for row in stored if row["scene"] == scene]
        assert [(row["seq"], row["hash"]) for row in own] == expected
        assert [row["payload"].encode() for row in own] == texts
        assert [row["seq"] for row in own] == list(range(len(texts)))
        assert log.close(scene) == (len(texts), expected[-1][1] if expected else scene)
    assert [(row["scene"], row["payload"].encode()) for row in stored] == appended
    assert all(row["kind"] == "Tested" and row["recorded_at"] is not None for row in stored)


@quick
@given(st.lists(payloads, max_size=6), st.integers(0, 8))
def test_stored_events_are_derived_again_and_not_handed_over(texts: list[bytes], stored: int) -> None:
    log = opened(SCENE, stored=stored)
    assert [log.append(SCENE, text) for text in texts] == chain(SCENE, texts)
    assert log.pending == max(len(texts) - stored, 0)
    batches = log.drain()
    handed_over = [row["seq"] for row in rows(batches[3])] if batches is not None else []
    assert handed_over == list(range(stored, len(texts)))


@quick
@given(st.text(), st.text())
def test_any_text_in_an_event_is_canonical_and_comes_back(path: str, text: str) -> None:
    payload = encode(TurnFellBack(path=path, attempts=3, text=text))
    log = opened(SCENE)
    log.append(SCENE, payload)
    batches = log.drain()
    assert batches is not None
    (row,) = rows(batches[3])
    assert row["payload"].encode() == payload
    decoded = msgspec.json.decode(row["payload"])
    assert (decoded["path"], decoded["text"]) == (path, text)


@quick
@given(st.lists(leaves, max_size=3), st.data())
def test_an_edited_payload_is_refused_or_another_canonical_one(value: list[Any], data: st.DataObject) -> None:
    # given
    text = msgspec.json.encode({"kind": "Tested", "v": 1, "value": value})
    at = data.draw(st.integers(0, len(text)))
    inserted = data.draw(st.binary(max_size=2) | st.sampled_from([b" ", b"0", b"-", b".", b"e", b"\\", b'"', b",", b"[", b"}"]))
    edited = text[:at] + inserted + text[at + data.draw(st.integers(0, 2)) :]
    log = opened(SCENE)
    log.append(SCENE, BARE)
    # when
    try:
        log.append(SCENE, edited)
    except PayloadError:
        # then: the chain goes on as if it had not been tried
        assert log.pending == 1
        assert [log.append(SCENE, text)] == chain(SCENE, [BARE, text])[1:]
    else:
        assert msgspec.json.encode(msgspec.json.decode(edited)) == edited


@pytest.mark.parametrize(
    "bad", [b"", b"\xff", BARE[:-1], BARE + b" ", b'{"kind":"Tested","v":1,"x":0.5}', b'{"kind":"T","v":1,"x":"\xc3"}']
)
def test_a_bad_payload_leaves_the_chain_as_it_was(bad: bytes) -> None:
    log = opened(SCENE)
    log.append(SCENE, BARE)
    with pytest.raises(PayloadError, match="not canonical at byte"):
        log.append(SCENE, bad)
    assert log.pending == 1
    assert [log.append(SCENE, BARE)] == chain(SCENE, [BARE, BARE])[1:]


def test_a_scene_opened_twice_keeps_its_chain() -> None:
    log = opened(SCENE)
    log.append(SCENE, BARE)
    with pytest.raises(SceneError, match=SCENE.hex()):
        log.open(SCENE)
    assert [log.append(SCENE, BARE)] == chain(SCENE, [BARE, BARE])[1:]


@pytest.mark.parametrize("fields", [b'"x":1,"x":2', b'"kind":"Other"', b'"x":{"a":1,"a":1}'])
def test_a_name_that_occurs_twice_is_not_canonical(fields: bytes) -> None:
    with pytest.raises(PayloadError):
        opened(SCENE).append(SCENE, BARE[:-1] + b"," + fields + b"}")


def test_events_of_many_threads_are_all_handed_over() -> None:
    log, count = opened(*SCENES), 1500
    stored: list[dict[str, Any]] = []

    def work(scene: bytes) -> None:
        for at in range(count):
            log.append(scene, b'{"kind":"Tested","v":1,"at":%d}' % at)

    with concurrent.futures.ThreadPoolExecutor(len(SCENES)) as pool:
        working = [pool.submit(work, scene) for scene in SCENES]
        while log.pending or not all(future.done() for future in working):
            if (batches := log.drain()) is not None:
                stored += rows(batches[3])
    for future in working:
        future.result()
    for scene in SCENES:
        assert [row["seq"] for row in stored if row["scene"] == scene] == list(range(count))


def test_nothing_to_drain_is_none_and_a_batch_reads_twice() -> None:
    log = opened(SCENE)
    assert log.drain() is None
    log.append(SCENE, BARE)
    batches = log.drain()
    assert batches is not None
    assert [len(batch) for batch in batches] == [0, 0, 0, 1]
    assert rows(batches[3]) == rows(batches[3])
    assert log.drain() is None


def test_a_recorded_completion_is_a_row_that_names_its_texts() -> None:
    log = _core.EventLog()
    asked = turn(segments=[("<s>", True), ("Who?", False), ("<s>", True)])
    log.record(asked, _core.Completion(asked, text="Who?", finish="stop", prompt_tokens=5, cached_tokens=2, generated_tokens=3))
    batches = log.drain()
    assert batches is not None
    texts, scenes, completions, events = map(rows, batches)
    assert {row["hash"]: row["text"] for row in texts} == {_core.blake3(text.encode()): text for text in ("<s>", "Who?")}
    assert len(texts) == 2 and scenes == events == []
    (row,) = completions
    mark, question = _core.blake3(b"<s>"), _core.blake3(b"Who?")
    expected = {
        "scene": SCENE,
        "path": "cast/ego",
        "attempt": 1,
        "kind": "cast",
        "request": asked.request,
        "outcome": "text",
        "finish": "stop",
        "text": question,
        "segments": [mark, question, mark],
        "trusted": [True, False, True],
        "prompt_tokens": 5,
        "cached_tokens": 2,
        "generated_tokens": 3,
        "masked_tokens": 0,
        "log_odds": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_log_odds_stand_beside_the_turn_in_sql(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    log = _core.EventLog()
    for number, log_odds in enumerate([None, -2.25, 0.0]):
        asked = turn(path=f"t{number}")
        log.record(asked, _core.Completion(asked, text="yes", masked_tokens=7, log_odds=log_odds))
    with make_log(path, ["Why?"]) as stored:
        stored.writer(log).close()

    found = plain_sql(path, "SELECT path, masked_tokens, log_odds, queued_us FROM turn ORDER BY path")
    assert found == [("t0", 7, None, 0), ("t1", 7, -2.25, 0), ("t2", 7, 0.0, 0)]


def test_a_scene_of_the_input_is_a_row_that_names_its_texts() -> None:
    log = _core.EventLog()
    given: dict[str, Any] = {"label": "in", "row": 2**64 - 1, "occurrence": 3, "meta": '{"tag":"x"}'}
    log.add_scene(SCENES[0], position=0, instruction="What now?", response=None, **given)
    log.add_scene(SCENES[1], position=1, instruction="What now?", response="", **given)
    assert log.pending == 4
    batches = log.drain()
    assert batches is not None
    question, nothing = _core.blake3(b"What now?"), _core.blake3(b"")
    assert rows(batches[1]) == [
        {"scene": SCENES[0], "position": 0, "instruction": question, "response": None, **given},
        {"scene": SCENES[1], "position": 1, "instruction": question, "response": nothing, **given},
    ]


# Turns, sampling, completions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("max_tokens", 0),
        *(("temperature", bad) for bad in (-0.01, 100.1, float("nan"), float("inf"))),
        *(("top_p", bad) for bad in (0.0, -0.5, 1.01, float("nan"))),
        *(("min_p", bad) for bad in (-0.01, 1.0, float("nan"))),
        *(("repetition_penalty", bad) for bad in (0.99, 10.1, float("nan"))),
        ("stop", ["end", ""]),
        *(("choices", bad) for bad in (["yes"], ["yes", "no", "maybe"], ["", "no"], ["no", "no"], ["no", "none"], ["nobody", "no"])),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_bounds(name: str, bad: Any) -> None:
    with pytest.raises(RequestError, match=f"^turn setting {name} is .*; it must be "):
        sampling(**{name: bad})


@pytest.mark.parametrize(
    "edge",
    [
        {"max_tokens": 1, "temperature": 100.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0},
        {"max_tokens": 2**32 - 1, "temperature": 0.0, "top_p": 1e-30, "min_p": 0.999, "repetition_penalty": 10.0},
        {"top_k": 2**32 - 1, "stop": [], "form": ""},
    ],
)
def test_settings_at_their_bounds_are_taken(edge: dict[str, Any]) -> None:
    taken = turn(sampling=sampling(**edge)).sampling
    assert (taken.max_tokens, taken.form) == (edge.get("max_tokens", 8), edge.get("form"))
    assert taken.temperature == edge.get("temperature", 0.0)


def test_choices_come_back_and_are_not_in_the_request() -> None:
    asked = turn(sampling=sampling(choices=["yes", "no"]))
    assert asked.sampling.choices == ["yes", "no"]
    assert sampling().choices == sampling(choices=()).choices == []
    assert asked.request == turn().request


def test_a_completion_has_log_odds_of_32_bits_or_none() -> None:
    assert _core.Completion(turn(), text="x").log_odds is None
    assert _core.Completion(turn(), text="x", log_odds=None).log_odds is None
    assert _core.Completion(turn(), text="x", log_odds=-1.5).log_odds == -1.5
    assert _core.Completion(turn(), text="x", log_odds=0.1).log_odds == struct.unpack("f", struct.pack("f", 0.1))[0]


@pytest.mark.parametrize("name", ["outcome", "finish"])
def test_a_completion_has_only_known_outcomes_and_finishes(name: str) -> None:
    known = {"outcome": ("text", "form_failed", "too_long"), "finish": ("eos", "stop", "form", "length", "none")}[name]
    for value in known:
        assert getattr(_core.Completion(turn(), text="x", **{name: value}), name) == value  # type: ignore[arg-type]
    for value in ("", "Text", "EOS", "cancelled"):
        with pytest.raises(RequestError, match=f"^turn setting {name} is {value}; it must be {known[0]}"):
            _core.Completion(turn(), text="x", **{name: value})  # type: ignore[arg-type]


def test_a_turn_counts_its_attempts_from_one() -> None:
    with pytest.raises(RequestError, match="turn setting attempt is 0; it must be at least 1"):
        turn(attempt=0)
    assert len({turn(attempt=attempt).key for attempt in (1, 2, 3, 2**32 - 1)}) == 4


def test_all_64_bits_of_a_seed_count() -> None:
    seeds = [0, 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64 - 1]
    assert len({turn(seed=seed).request for seed in seeds}) == len(seeds)
    assert len({_core.draw(seed, SCENE, "order", 0) for seed in seeds}) == len(seeds)
    for seed in (-1, 2**64):
        with pytest.raises(OverflowError):
            turn(seed=seed)
        with pytest.raises(OverflowError):
            _core.draw(seed, SCENE, "order", 0)


@pytest.mark.parametrize("segments", [[], [("", False)], [("", True), ("", True)]])
def test_empty_segments_make_turns_of_their_own(segments: list[tuple[str, bool]]) -> None:
    asked = turn(segments=segments)
    assert asked.segments == segments
    assert asked.request not in {turn(segments=[*segments, ("", False)]).request, turn().request}


def test_what_a_turn_was_made_of_comes_back() -> None:
    asked = turn(path="step/2/react/Ärztin", attempt=2, kind="react")
    assert (asked.scene, asked.path, asked.attempt, asked.kind) == (SCENE, "step/2/react/Ärztin", 2, "react")
    assert asked.segments == [("<s>", True), ("Who?", False)]
    asked.segments.clear()
    assert len(asked.segments) == 2
    with pytest.raises(AttributeError):
        asked.path = "other"  # type: ignore[misc]
    answer = _core.Completion(asked, text="\N{GRINNING FACE}\0")
    assert (answer.request, answer.text) == (asked.request, "\N{GRINNING FACE}\0")
    assert repr(asked) == f"Turn(step/2/react/Ärztin#2 of scene {SCENE.hex()})"


@pytest.mark.parametrize("digest", [b"", SCENE[:31], SCENE + b"\0"])
def test_a_hash_has_32_bytes(digest: bytes) -> None:
    for call in (opened, lambda scene: turn(scene=scene), lambda scene: _core.run_root(SCENE, [(SCENE, scene)])):
        with pytest.raises(ValueError, match="32"):
            call(digest)


def test_a_lone_surrogate_is_no_text() -> None:
    for call in (
        lambda text: turn(segments=[(text, False)]),
        _core.EventLog().text,
        lambda text: encode(TurnFellBack(path=text, attempts=1, text="")),
    ):
        with pytest.raises(UnicodeEncodeError):
            call("\ud800")
