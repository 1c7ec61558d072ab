//! Hot paths of the core, without a model: what it costs beside the model's time.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use matrix_core::engine::{Engine, Options};
use matrix_core::grammar::Grammars;
use matrix_core::hash::Hash;
use matrix_core::log::EventLog;
use matrix_core::payload::Payload;
use matrix_core::sampler::choose;
use matrix_core::scheduler::{Phase, decode, mixed, prefill};
use matrix_core::scripted::{ByteVocab, Idle};
use matrix_core::turn::{Sampling, Segment, Turn};
use matrix_core::vocab::Tokenizer;

const TURNS: usize = 16_384;
const TOKENS: u32 = 8;
const PARALLEL: usize = 64;
const WINDOW: usize = 1024;
const AT_ONCE: usize = 64;
const PENDING: usize = 4096;

fn sampling(max_tokens: u32) -> Sampling {
    Sampling {
        max_tokens,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        stop: vec![],
        form: None,
        choices: vec![],
    }
}

/// A turn of a scene of eight, which have the beginning of their prompts in common.
fn turn(i: usize) -> Turn {
    let scene = Hash::of(&(i / 8).to_le_bytes());
    let segments = vec![
        Segment { text: "<s><|role|>".into(), trusted: true },
        Segment { text: format!("Scene {}: what happens next? ", i / 8), trusted: false },
        Segment { text: format!("Turn {i}."), trusted: false },
    ];
    let turn = Turn::new(7, scene, format!("step/{i}"), 1, "bench".into(), segments, sampling(TOKENS)).unwrap();
    Turn { rank: (i / 8) as u64, ..turn }
}

/// Turns through the engine and the log to Arrow batches: identity, tokens, scheduling, sampling, rows.
fn engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(TURNS as u64)).sample_size(20).measurement_time(Duration::from_secs(6));
    let tokenizer = Arc::new(Tokenizer::new(Box::new(ByteVocab::default())).unwrap());
    let model = Idle::new(2 * PARALLEL, 256, 512);
    let options = Options { parallel: PARALLEL, prefix_reuse: true, context: 256, preempt_every: None };
    let engine = Engine::open(Box::new(model), tokenizer, options).unwrap();
    group.bench_function("turns of 8 tokens, to Arrow", |bencher| {
        bencher.iter(|| {
            let mut log = EventLog::default();
            let (mut asked, mut done) = (0, 0);
            while done < TURNS {
                // As the pump does: a window of scenes is open, and those that end make room.
                while asked < TURNS && asked < done + WINDOW {
                    engine.submit((asked..asked + AT_ONCE).map(turn).collect()).unwrap();
                    asked += AT_ONCE;
                }
                for answer in engine.collect(Duration::from_secs(10)).unwrap() {
                    log.record(&answer.turn, answer.result.unwrap()).unwrap();
                    done += 1;
                }
                if log.pending() > PENDING {
                    black_box(log.drain().into_batches());
                }
            }
            black_box(log.drain().into_batches())
        });
    });
    group.finish();
}

fn sampler(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sampler, 32,000 tokens");
    let logits: Vec<f32> = (0..32_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 21) as f32).collect();
    let settings = [
        ("greedy", sampling(1)),
        ("temperature", Sampling { temperature: 0.7, ..sampling(1) }),
        ("temperature, top-p", Sampling { temperature: 0.7, top_p: 0.9, ..sampling(1) }),
        ("temperature, penalty", Sampling { temperature: 0.7, repetition_penalty: 1.1, ..sampling(1) }),
    ];
    for (name, settings) in &settings {
        let mut scratch = Vec::new();
        group.bench_function(*name, |bencher| bencher.iter(|| choose(&logits, settings, &[5, 7, 9], None, || 0.5, &mut scratch)));
    }
    group.finish();
}

fn forms(criterion: &mut Criterion) {
    let tokenizer = Tokenizer::new(Box::new(ByteVocab::default())).unwrap();
    let mut grammars = Grammars::new(&tokenizer).unwrap();
    let list = "start: name (\", \" name){4}\nname: /[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8})?/";
    let mut group = criterion.benchmark_group("form of 5 names");
    group.bench_function("begin", |bencher| bencher.iter(|| grammars.form(list).unwrap()));
    group.bench_function("mask", |bencher| {
        bencher.iter_batched(|| grammars.form(list).unwrap(), |mut form| form.mask(), BatchSize::SmallInput);
    });
    group.finish();
}

fn scheduler(criterion: &mut Criterion) {
    let phase =
        |slot: u64| if slot.is_multiple_of(5) { Phase::Prefill { remaining: 30 + slot as usize, order: slot } } else { Phase::Decode };
    let phases: Vec<Phase> = (0..256).map(phase).collect();
    let mut group = criterion.benchmark_group("schedule of 256 slots");
    group.bench_function("isolated", |bencher| bencher.iter(|| (prefill(&phases, 512), decode(&phases, 512))));
    group.bench_function("shared", |bencher| bencher.iter(|| mixed(&phases, 512)));
    group.finish();
}

fn events(criterion: &mut Criterion) {
    let payload =
        br#"{"kind":"ActionProposed","v":1,"path":"step/3/act","actor":"Ada Brook","text":"She asks the guard where the keys are kept."}"#;
    let scene = Hash::of(b"scene");
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1,000 events, to Arrow", |bencher| {
        bencher.iter(|| {
            let mut log = EventLog::default();
            log.open(scene, 0).unwrap();
            for _ in 0..1000 {
                let text = std::str::from_utf8(payload).unwrap().to_owned();
                log.append(scene, Payload::parse(text).unwrap()).unwrap();
            }
            black_box(log.drain().into_batches())
        });
    });
    group.finish();
}

criterion_group!(benches, engine, sampler, forms, scheduler, events);
criterion_main!(benches);
