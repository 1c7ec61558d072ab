"""The golden vectors (`golden/README.md`), through the core and derived again by hand.

`rust_core/tests/golden.rs` checks the same file.
"""

import importlib
import json
import pkgutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import matrix_py.scene
from matrix_py import _core
from matrix_py.errors import PayloadError
from matrix_py.events import ActionNoticed, Event, HarmNoted, encode
from matrix_py.scene.quote import Quote

VECTORS: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "golden" / "vectors.json").read_bytes().decode("ascii"))
ADVICE = "old logs would not replay: raise the event's `version`, and add a vector beside the old one"


def each(name: str) -> pytest.MarkDecorator:
    """Run a test with every vector of a list."""
    return pytest.mark.parametrize("vector", VECTORS[name], ids=lambda vector: vector.get("name") or vector["kind"])


def raw(digits: str) -> bytes:
    return bytes.fromhex(digits)


# The documented structure, without Rust's Hasher: each field stands behind its length, the domain is the first field.


def hash_fields(domain: str, *fields: bytes) -> bytes:
    return _core.blake3(b"".join(u64(len(field)) + field for field in (domain.encode(), *fields)))


def u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def f32(number: float) -> bytes:
    """Bits of the number as a 32-bit float, as an integer field; zero has no sign."""
    (bits,) = struct.unpack("<I", struct.pack("<f", number + 0.0))
    return u64(bits)


def hash_key(seed: int, scene: bytes, name: str) -> bytes:
    return hash_fields("matrix.random.1", u64(seed), scene, name.encode())


def hash_sampling(sampling: dict[str, Any]) -> bytes:
    floats = [sampling[name] for name in ("temperature", "top_p", "min_p", "repetition_penalty")]
    form = sampling["form"]
    return hash_fields(
        "matrix.sampling.1",
        u64(sampling["max_tokens"]),
        u64(sampling["top_k"]),
        *map(f32, floats),
        u64(len(sampling["stop"])),
        *(stop.encode() for stop in sampling["stop"]),
        u64(form is not None),
        (form or "").encode(),
    )


def hash_request(vector: dict[str, Any]) -> bytes:
    segments = [(u64(trusted), _core.blake3(text.encode())) for text, trusted in vector["segments"]]
    parts = [part for segment in segments for part in segment]
    return hash_fields("matrix.request.1", u64(len(segments)), *parts, hash_sampling(vector["sampling"]), raw(vector["key"]))


@pytest.mark.parametrize(
    ("length", "digest"),
    [
        (1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"),
        (1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"),
        (2048, "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a"),
    ],
)
def test_blake3_gives_its_published_vectors(tmp_path: Path, length: int, digest: str) -> None:
    content = bytes(at % 251 for at in range(length))
    (tmp_path / "file").write_bytes(content)
    assert _core.blake3(content).hex() == _core.hash_file(tmp_path / "file").hex() == digest


@each("texts")
def test_texts_have_the_addresses_of_the_log(vector: dict[str, Any]) -> None:
    text = vector["text"]
    assert _core.blake3(text.encode()) == _core.EventLog().text(text) == raw(vector["hash"])


@each("fields")
def test_fields_are_hashed_behind_their_lengths(vector: dict[str, Any]) -> None:
    to_bytes: dict[str, Any] = {"text": str.encode, "int": u64, "bytes": raw, "hash": raw}
    fields = [to_bytes[kind](value) for kind, value in vector["fields"]]
    assert hash_fields(vector["domain"], *fields) == raw(vector["hash"])


@each("scenes")
def test_scenes_have_their_ids(vector: dict[str, Any]) -> None:
    scene, instruction, response = vector["scene"], vector["instruction"], vector["response"]
    given, occurrence = u64(response is not None), vector["occurrence"]
    by_hand = hash_fields("matrix.scene.1", scene.encode(), instruction.encode(), given, (response or "").encode(), u64(occurrence))
    assert _core.scene_id(scene, instruction, response, occurrence) == by_hand == raw(vector["id"])


@each("draws")
def test_random_numbers_are_drawn_as_before(vector: dict[str, Any]) -> None:
    scene, index, key = raw(vector["scene"]), vector["index"], raw(vector["key"])
    assert hash_key(vector["seed"], scene, vector["of"]) == key
    word = int.from_bytes(hash_fields("matrix.uniform.1", key, u64(index))[:8], "little")
    assert word >> 11 == vector["numerator"]
    assert _core.draw(vector["seed"], scene, vector["of"], index) == vector["numerator"] / 2**53


@each("turns")
def test_turns_have_their_keys_and_requests(vector: dict[str, Any]) -> None:
    scene, path, attempt = raw(vector["scene"]), vector["path"], vector["attempt"]
    turn = _core.Turn(
        seed=vector["seed"],
        scene=scene,
        path=path,
        attempt=attempt,
        kind=vector["kind"],
        segments=[(text, trusted) for text, trusted in vector["segments"]],
        sampling=_core.Sampling(**vector["sampling"]),
    )
    name = path if attempt == 1 else f"{path}#{attempt}"
    assert turn.key == hash_key(vector["seed"], scene, name) == raw(vector["key"])
    assert turn.request == hash_request(vector) == raw(vector["request"])


def test_turns_that_say_the_same_have_one_request_and_others_their_own() -> None:
    requests = {vector["name"]: vector["request"] for vector in VECTORS["turns"]}
    same = {
        "another kind, the same request": "greedy",
        "zero with a sign is zero": "greedy",
        "a temperature that rounds to another's 32 bits": "temperature",
    }
    for name, other in same.items():
        assert requests.pop(name) == requests[other]
    assert len(set(requests.values())) == len(requests)


@each("payloads")
def test_payloads_are_canonical_as_they_stand(vector: dict[str, Any]) -> None:
    text = vector["text"].encode()
    log = _core.EventLog()
    log.open(bytes(32))
    assert log.append(bytes(32), text)[0] == 0
    assert msgspec.json.encode({"kind": vector["kind"], "v": vector["v"], **vector["fields"]}) == text


@each("refused")
def test_what_is_not_canonical_is_refused_at_its_place(vector: dict[str, Any]) -> None:
    log = _core.EventLog()
    log.open(bytes(32))
    with pytest.raises(PayloadError, match=f"at byte {vector['offset']}:"):
        log.append(bytes(32), vector["text"].encode())


def event_classes(base: type[Event] = Event) -> Iterator[type[Event]]:
    """Every event class of the package; tests may have made more."""
    for cls in base.__subclasses__():
        if cls.__module__.split(".")[0] == "matrix_py":
            yield cls
        yield from event_classes(cls)


for module in pkgutil.walk_packages(matrix_py.scene.__path__, "matrix_py.scene."):
    importlib.import_module(module.name)  # scenes may define events of their own
EVENTS = {cls.__name__: cls for cls in event_classes()}


@pytest.mark.parametrize("cls", EVENTS.values(), ids=EVENTS)
def test_each_event_is_written_as_its_vectors_say(cls: type[Event]) -> None:
    vectors = [vector for vector in VECTORS["payloads"] if (vector["kind"], vector["v"]) == (cls.__name__, cls.version)]
    assert vectors, f"{cls.__name__} version {cls.version} has no golden vector: add one"
    for vector in vectors:
        assert encode(cls(**vector["fields"])).decode() == vector["text"], ADVICE


def test_texts_that_know_their_turns_are_written_as_plain_ones() -> None:
    said, names = '"It" is\nso', ["die Ärztin", "bank"]
    noted, noticed = HarmNoted(action="a", severity=1, text=said), ActionNoticed(action="a", recipients=tuple(names))
    assert encode(HarmNoted(action="a", severity=1, text=Quote(said, ["b"]))) == encode(noted)
    assert encode(ActionNoticed(action="a", recipients=tuple(Quote(name, ["b"]) for name in names))) == encode(noticed)


def test_event_names_are_not_shared() -> None:
    assert len(EVENTS) == len(list(event_classes()))


@each("chains")
def test_chains_bind_events_to_their_order(vector: dict[str, Any]) -> None:
    scene, log = raw(vector["scene"]), _core.EventLog()
    log.open(scene)
    last = scene
    for seq, (text, digest) in enumerate(zip(vector["payloads"], vector["hashes"], strict=True)):
        last = hash_fields("matrix.event.1", last, u64(seq), text.encode())
        assert log.append(scene, text.encode()) == (seq, last) == (seq, raw(digest))
    assert log.close(scene) == (len(vector["payloads"]), last)


@each("roots")
def test_roots_bind_scenes_to_a_configuration_and_their_order(vector: dict[str, Any]) -> None:
    config, scenes = raw(vector["config"]), [(raw(scene), raw(last)) for scene, last in vector["scenes"]]
    by_hand = hash_fields("matrix.root.1", config, *(digest for pair in scenes for digest in pair))
    assert _core.run_root(config, iter(scenes)) == by_hand == raw(vector["root"])
