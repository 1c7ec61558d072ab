//! The golden vectors (`tests/golden/README.md`) through the public API. `tests/test_golden.py` checks the same file from Python.

use std::fs;

use matrix_core::error::Error;
use matrix_core::event::{Chain, Root, scene_id};
use matrix_core::hash::{Hash, Hasher};
use matrix_core::log::EventLog;
use matrix_core::payload::Payload;
use matrix_core::sampler::uniform;
use matrix_core::turn::{Sampling, Segment, Turn, numbered_path, random_key};
use serde_json::{Map, Value};

/// The vectors of one list, of which there is at least one.
fn vectors(list: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/vectors.json");
    let mut file: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let Value::Array(vectors) = file[list].take() else { panic!("no list {list}") };
    assert!(!vectors.is_empty(), "{list} is empty");
    vectors
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn int(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no u64"))
}

fn int32(value: &Value) -> u32 {
    u32::try_from(int(value)).unwrap()
}

fn float(value: &Value) -> f32 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no float")) as f32
}

fn hash(value: &Value) -> Hash {
    text(value).parse().unwrap_or_else(|error| panic!("{value}: {error}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn bytes(value: &Value) -> Vec<u8> {
    let hex = text(value);
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn payload(value: &Value) -> Payload {
    Payload::parse(text(value).to_owned()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

fn turn(vector: &Value) -> Turn {
    let settings = &vector["sampling"];
    let sampling = Sampling {
        max_tokens: int32(&settings["max_tokens"]),
        temperature: float(&settings["temperature"]),
        top_k: int32(&settings["top_k"]),
        top_p: float(&settings["top_p"]),
        min_p: float(&settings["min_p"]),
        repetition_penalty: float(&settings["repetition_penalty"]),
        stop: list(&settings["stop"]).iter().map(|stop| text(stop).to_owned()).collect(),
        form: settings["form"].as_str().map(str::to_owned),
        choices: vec![],
    };
    let segment = |pair: &Value| Segment { text: text(&pair[0]).to_owned(), trusted: pair[1].as_bool().unwrap() };
    let segments = list(&vector["segments"]).iter().map(segment).collect();
    let (path, kind) = (text(&vector["path"]).to_owned(), text(&vector["kind"]).to_owned());
    let (seed, attempt) = (int(&vector["seed"]), int32(&vector["attempt"]));
    Turn::new(seed, hash(&vector["scene"]), path, attempt, kind, segments, sampling).unwrap()
}

#[test]
fn texts_have_the_addresses_of_the_log() {
    for vector in vectors("texts") {
        assert_eq!(Hash::of(text(&vector["text"]).as_bytes()), hash(&vector["hash"]), "{}", vector["name"]);
    }
}

#[test]
fn fields_are_hashed_behind_their_lengths() {
    for vector in vectors("fields") {
        let mut hasher = Hasher::new(text(&vector["domain"]));
        for field in list(&vector["fields"]) {
            match text(&field[0]) {
                "text" => hasher.text(text(&field[1])),
                "int" => hasher.int(int(&field[1])),
                "bytes" => hasher.bytes(&bytes(&field[1])),
                "hash" => hasher.hash(hash(&field[1])),
                kind => panic!("unknown kind of field {kind}"),
            };
        }
        assert_eq!(hasher.finish(), hash(&vector["hash"]), "{}", vector["name"]);
    }
}

#[test]
fn scenes_have_their_ids() {
    for vector in vectors("scenes") {
        let (scene, instruction) = (text(&vector["scene"]), text(&vector["instruction"]));
        let id = scene_id(scene, instruction, vector["response"].as_str(), int(&vector["occurrence"]));
        assert_eq!(id, hash(&vector["id"]), "{}", vector["name"]);
    }
}

#[test]
fn random_numbers_are_drawn_as_before() {
    for vector in vectors("draws") {
        let key = random_key(int(&vector["seed"]), hash(&vector["scene"]), text(&vector["of"]));
        assert_eq!(key, hash(&vector["key"]), "{}", vector["name"]);
        let numerator = uniform(key, int(&vector["index"])) * (1u64 << 53) as f64;
        assert_eq!(numerator.to_bits(), (int(&vector["numerator"]) as f64).to_bits(), "{}", vector["name"]);
    }
}

#[test]
fn turns_have_their_keys_and_requests() {
    for vector in vectors("turns") {
        let turn = turn(&vector);
        assert_eq!((turn.key, turn.request), (hash(&vector["key"]), hash(&vector["request"])), "{}", vector["name"]);
        let name = numbered_path(&turn.path, turn.attempt);
        assert_eq!(random_key(int(&vector["seed"]), turn.scene, &name), turn.key, "{}", vector["name"]);
    }
}

#[test]
fn payloads_are_canonical_as_they_stand() {
    for vector in vectors("payloads") {
        let parsed = payload(&vector["text"]);
        assert_eq!(parsed.kind(), text(&vector["kind"]));
        let Value::Object(fields) = &vector["fields"] else { panic!("{vector} has no fields") };
        let mut whole = Map::from_iter([("kind".to_owned(), vector["kind"].clone()), ("v".to_owned(), vector["v"].clone())]);
        whole.extend(fields.clone());
        assert_eq!(Value::Object(whole).to_string(), parsed.as_str());
    }
}

#[test]
fn what_is_not_canonical_is_refused_at_its_place() {
    for vector in vectors("refused") {
        match Payload::parse(text(&vector["text"]).to_owned()) {
            Err(Error::Payload { offset, .. }) => assert_eq!(offset as u64, int(&vector["offset"]), "{}", vector["name"]),
            other => panic!("{}: {other:?}", vector["name"]),
        }
    }
}

#[test]
fn chains_bind_events_to_their_order() {
    for vector in vectors("chains") {
        let scene = hash(&vector["scene"]);
        let mut chain = Chain::new(scene);
        let mut log = EventLog::default();
        log.open(scene, 0).unwrap();
        let (payloads, hashes) = (list(&vector["payloads"]), list(&vector["hashes"]));
        assert_eq!(payloads.len(), hashes.len(), "{}", vector["name"]);
        for (seq, (body, expected)) in (0..).zip(payloads.iter().zip(hashes)) {
            let event = chain.append(payload(body));
            assert_eq!((event.seq, event.hash), (seq, hash(expected)), "{} at {seq}", vector["name"]);
            assert_eq!(log.append(scene, payload(body)).unwrap(), event, "{} at {seq}", vector["name"]);
        }
        assert_eq!(chain.last(), hashes.last().map_or(scene, hash), "{}", vector["name"]);
        assert_eq!(log.close(scene).unwrap(), chain, "{}", vector["name"]);
    }
}

#[test]
fn roots_bind_scenes_to_a_configuration_and_their_order() {
    for vector in vectors("roots") {
        let mut root = Root::new(hash(&vector["config"]));
        for pair in list(&vector["scenes"]) {
            root.scene(hash(&pair[0]), hash(&pair[1]));
        }
        assert_eq!(root.finish(), hash(&vector["root"]), "{}", vector["name"]);
    }
}
