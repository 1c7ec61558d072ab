//! How well the scheduler fills a machine: whole runs of social scenes on the engine's own loop, over a model that computes nothing. What a
//! step costs is a linear function, so a run takes as long as its steps cost, and a lower bound on that is known.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crossbeam_channel::unbounded;

use crate::batching::Loop;
use crate::engine::{Options, Stats};
use crate::error::{Error, Result};
use crate::hash::{Hash, Hasher};
use crate::sampler::uniform;
use crate::scheduler::MIN_BATCH;
use crate::scripted::{ByteVocab, Idle};
use crate::sequence::Sequence;
use crate::turn::{Sampling, Turn, random_key};
use crate::vocab::{Token, Tokenizer};

/// What a step costs, in milliseconds: itself, for each sequence that decodes a token in it, and for each prompt token.
///
/// The defaults are those of a model of 135 million parameters (`Q8_0`) on two CPU cores.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub step: f64,
    pub decode: f64,
    pub prefill: f64,
}

impl Default for Cost {
    fn default() -> Self {
        Self { step: 8.5, decode: 3.0, prefill: 1.74 }
    }
}

/// Which turns go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// As the pump and the engine do it: those of the oldest scene.
    OldestScene,
    /// In the order in which they are asked for.
    Fifo,
    /// All open scenes take a turn each, or those of one moment, and wait for one another; the next scenes begin when all have ended.
    LockStep,
}

/// The work, and what there is for it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub scenes: usize,
    /// Roles of a scene besides the one who acts.
    pub roles: usize,
    /// Acts of a scene.
    pub steps: usize,
    /// Scenes open at a time.
    pub window: usize,
    /// Turns in flight, and KV streams beside theirs.
    pub parallel: usize,
    pub cached: usize,
    /// Tokens a call may hold.
    pub batch: usize,
    pub seed: u64,
}

/// What a run came to. Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub seconds: f64,
    /// What the run cannot be shorter than: all slots decode all the time, and every beginning that prompts share is computed once.
    pub work: f64,
    /// What it cannot be shorter than either: the scene that takes longest by itself.
    pub critical_path: f64,
    pub distinct_tokens: u64,
    pub stats: Stats,
}

impl Report {
    /// How much of the best possible speed was reached, 0 to 1.
    #[must_use]
    pub fn efficiency(&self) -> f64 {
        self.work.max(self.critical_path) / self.seconds
    }
}

/// Tokens that prompts are made of.
const PREAMBLE: usize = 200;
const SITUATION: usize = 250;
const CARD: usize = 60;
const QUESTION: usize = 20;
/// Tokens that a turn may hold.
const CONTEXT: usize = 4096;

/// A turn of a scene that is yet to be asked for.
struct Job {
    prompt: Vec<Token>,
    tokens: usize,
    /// The turns that it waits for and that are not done, and those that wait for it.
    waits_for: usize,
    unblocks: Vec<usize>,
    /// The longest chain of turns before it.
    depth: usize,
    /// The earliest end of such a chain, in milliseconds.
    earliest: f64,
}

/// A scene's turns: casting, then for each step an act, its judgement, and reactions with theirs, then the consequence and the revision.
struct Script {
    jobs: Vec<Job>,
    left: usize,
    distinct_tokens: u64,
}

/// Writes a script.
struct Author<'a> {
    key: Hash,
    cost: Cost,
    preamble: &'a [Token],
    jobs: Vec<Job>,
    /// Beginnings of prompts that were counted, by their hash.
    seen: HashSet<Hash>,
    distinct_tokens: u64,
}

impl Author<'_> {
    /// Ask for a turn after others: its prompt is the preamble and pieces of so many tokens, each known by its name within the scene. It is
    /// answered in `median` tokens, more or less.
    fn ask(&mut self, after: &[usize], pieces: &[(String, usize)], median: f64) -> usize {
        let place = self.jobs.len();
        let mut prompt = self.preamble.to_vec();
        let mut beginning = Hasher::new("matrix.simulation.beginning").finish();
        let mut new_tokens = 0;
        for (name, length) in pieces {
            let piece = Hasher::new("matrix.simulation.piece").hash(self.key).text(name).finish();
            prompt.extend(tokens(piece, *length));
            beginning = Hasher::new("matrix.simulation.beginning").hash(beginning).hash(piece).finish();
            if self.seen.insert(beginning) {
                new_tokens += *length as u64;
            }
        }
        self.distinct_tokens += new_tokens;
        // Log-normal, by Box and Muller's transform.
        let random = random_key(0, self.key, &format!("length {place}"));
        let normal = (-2.0 * (1.0 - uniform(random, 0)).ln()).sqrt() * (std::f64::consts::TAU * uniform(random, 1)).cos();
        let answer = (median * (0.5 * normal).exp()).round().clamp(1.0, 600.0) as usize;
        let depth = after.iter().map(|&job| self.jobs[job].depth + 1).max().unwrap_or(0);
        let begins = after.iter().map(|&job| self.jobs[job].earliest).fold(0.0, f64::max);
        // The last piece is a turn's own; its first token comes with it.
        let alone = self.cost.step * answer as f64 + self.cost.decode * (answer - 1) as f64;
        let own = self.cost.prefill * pieces.last().map_or(0, |(_, length)| *length) as f64;
        for &job in after {
            self.jobs[job].unblocks.push(place);
        }
        self.jobs.push(Job { prompt, tokens: answer, waits_for: after.len(), unblocks: Vec::new(), depth, earliest: begins + own + alone });
        place
    }

    /// A turn about an action, as the modulator is asked it.
    fn judge(&mut self, after: &[usize], story: &[(String, usize)], action: &str, question: &str, median: f64) -> usize {
        let own = [(action.to_owned(), 25), (format!("{action}, {question}"), QUESTION)];
        self.ask(after, &[story, &own].concat(), median)
    }
}

fn tokens(key: Hash, length: usize) -> impl Iterator<Item = Token> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&key.0).finalize_xof().fill(&mut bytes);
    bytes.into_iter().map(Token::from)
}

impl Script {
    fn write(load: &Load, cost: Cost, preamble: &[Token], scene: usize) -> Self {
        let key = Hasher::new("matrix.simulation.scene").int(load.seed).int(scene as u64).finish();
        let mut author = Author { key, cost, preamble, jobs: Vec::new(), seen: HashSet::new(), distinct_tokens: 0 };
        let situation = ("situation".to_owned(), SITUATION);
        let piece = |name: &str, length: usize| (name.to_owned(), length);
        let mut last = author.ask(&[], &[piece("instruction", 40), piece("respond", QUESTION)], 150.0);
        for (name, median) in [("situation", 80.0), ("ego", 5.0), ("future", 120.0), ("roles", 20.0)] {
            last = author.ask(&[last], &[situation.clone(), piece(name, QUESTION)], median);
        }
        let mut awaited = vec![author.ask(&[last], &[situation.clone(), piece("plan", QUESTION)], 30.0 * load.steps as f64)];
        for role in 0..=load.roles {
            awaited.push(author.ask(&[last], &[situation.clone(), piece(&format!("profile {role}"), QUESTION)], 50.0));
        }
        let mut story = vec![situation, piece("cards", CARD * (load.roles + 1))];
        for step in 0..load.steps {
            let act = author.ask(&awaited, &[piece("card of ego", CARD), piece(&format!("view {step}"), 60)], 25.0);
            let action = format!("act {step}");
            let feasible = author.judge(&[act], &story, &action, "feasible", 25.0);
            let recipients = author.judge(&[feasible], &story, &action, "recipients", 8.0);
            let critique = author.judge(&[feasible], &story, &action, "critique", 20.0);
            awaited = vec![critique];
            for role in 0..load.roles {
                let own = [piece(&format!("card of {role}"), CARD), piece(&format!("view {step} of {role}"), 60)];
                let react = author.ask(&[recipients], &own, 25.0);
                let action = format!("reaction {step} of {role}");
                let feasible = author.judge(&[react], &story, &action, "feasible", 25.0);
                awaited.push(author.judge(&[feasible], &story, &action, "recipients", 8.0));
                awaited.push(author.judge(&[feasible], &story, &action, "critique", 20.0));
            }
            story.push(piece(&format!("step {step}"), 25 * (load.roles + 1)));
        }
        story.push(piece("consequence", QUESTION));
        let consequence = author.ask(&awaited, &story, 150.0);
        author.ask(&[consequence], &[piece("instruction", 40), piece("revise", 200)], 200.0);
        Self { left: author.jobs.len(), jobs: author.jobs, distinct_tokens: author.distinct_tokens }
    }

    fn critical_path(&self) -> f64 {
        self.jobs.iter().map(|job| job.earliest).fold(0.0, f64::max)
    }
}

/// Run a load. `go_on` is told how many scenes have ended, now and then, and stops the run by answering false.
///
/// # Errors
/// [`Error::Option`] for a load that cannot be run; [`Error::Closed`] when it is stopped.
pub fn run(load: &Load, cost: Cost, policy: Policy, mut go_on: impl FnMut(usize) -> bool) -> Result<Report> {
    for (name, value) in [("scenes", load.scenes), ("steps", load.steps), ("window", load.window), ("parallel", load.parallel)] {
        if value == 0 {
            return Err(Error::Option { name, value: "0".into(), expected: "at least 1".into() });
        }
    }
    let tokenizer = Arc::new(Tokenizer::new(Box::new(ByteVocab::default()))?);
    let model = Idle::new(load.parallel + load.cached, CONTEXT, load.batch.max(MIN_BATCH));
    let (outbox, answers) = unbounded();
    let options = Options { parallel: load.parallel, prefix_reuse: true, context: CONTEXT, preempt_every: None };
    let shared_stats = Arc::default();
    let mut engine = Loop::new(Box::new(model), tokenizer, options, outbox, Arc::clone(&shared_stats));

    let preamble: Vec<Token> = tokens(Hash::of(b"preamble"), PREAMBLE).collect();
    let mut open: BTreeMap<usize, Script> = BTreeMap::new();
    let mut ready: Vec<(usize, usize)> = Vec::new();
    let (mut begun, mut ended, mut in_flight) = (0, 0, 0);
    let (mut distinct_tokens, mut critical_path) = (PREAMBLE as u64, 0.0_f64);
    while ended < load.scenes {
        let fill = policy != Policy::LockStep || open.is_empty();
        while fill && begun < load.scenes && open.len() < load.window {
            let script = Script::write(load, cost, &preamble, begun);
            distinct_tokens += script.distinct_tokens;
            critical_path = critical_path.max(script.critical_path());
            ready.push((begun, 0));
            open.insert(begun, script);
            begun += 1;
        }
        if policy != Policy::LockStep || in_flight == 0 {
            for (scene, job) in release(&mut ready, &open, policy) {
                in_flight += 1;
                let Some(script) = open.get_mut(&scene) else { continue };
                let rank = if policy == Policy::OldestScene { scene as u64 } else { 0 };
                engine.queue(Box::new(sequence(scene, job, &mut script.jobs[job], rank)?));
            }
        }
        engine.step();
        for answer in answers.try_iter().flatten() {
            answer.result?;
            in_flight -= 1;
            // `sequence` wrote both.
            let numbers = answer.turn.path.split_once('/').and_then(|(scene, job)| Some((scene.parse().ok()?, job.parse().ok()?)));
            let Some((scene, job)): Option<(usize, usize)> = numbers else { continue };
            let Some(script) = open.get_mut(&scene) else { continue };
            for next in std::mem::take(&mut script.jobs[job].unblocks) {
                script.jobs[next].waits_for -= 1;
                if script.jobs[next].waits_for == 0 {
                    ready.push((scene, next));
                }
            }
            script.left -= 1;
            if script.left == 0 {
                open.remove(&scene);
                ended += 1;
                if !go_on(ended) {
                    return Err(Error::Closed);
                }
            }
        }
    }
    let stats = engine.stats();
    let decoded = (stats.generated_tokens - stats.turns) as f64;
    let seconds = |steps: f64, prefilled: u64| (cost.step * steps + cost.decode * decoded + cost.prefill * prefilled as f64) / 1e3;
    Ok(Report {
        seconds: seconds(stats.steps as f64, stats.prefilled_tokens),
        work: seconds(decoded / load.parallel as f64, distinct_tokens),
        critical_path: critical_path / 1e3,
        distinct_tokens,
        stats,
    })
}

/// The turns to ask for now, of those that could be.
fn release(ready: &mut Vec<(usize, usize)>, open: &BTreeMap<usize, Script>, policy: Policy) -> Vec<(usize, usize)> {
    if policy != Policy::LockStep {
        return std::mem::take(ready);
    }
    let depth = |&(scene, job): &(usize, usize)| open.get(&scene).map_or(0, |script| script.jobs[job].depth);
    let least = ready.iter().map(depth).min();
    let (now, later) = std::mem::take(ready).into_iter().partition(|place| Some(depth(place)) == least);
    *ready = later;
    now
}

fn sequence(scene: usize, job: usize, asked: &mut Job, rank: u64) -> Result<Sequence> {
    let sampling = Sampling {
        max_tokens: u32::try_from(asked.tokens).unwrap_or(u32::MAX),
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        stop: Vec::new(),
        form: None,
        choices: Vec::new(),
    };
    let turn = Turn::new(0, Hash::of(&scene.to_le_bytes()), format!("{scene}/{job}"), 1, "simulated".into(), Vec::new(), sampling)?;
    Ok(Sequence::new(Turn { rank, ..turn }, std::mem::take(&mut asked.prompt), asked.tokens, None).without_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { scenes: 12, roles: 2, steps: 2, window: 8, parallel: 8, cached: 24, batch: 128, seed: 1 };

    #[test]
    fn no_schedule_beats_the_bounds_and_the_engines_own_is_the_best() {
        let [own, fifo, lock_step] = [Policy::OldestScene, Policy::Fifo, Policy::LockStep].map(|policy| {
            let report = run(&LOAD, Cost::default(), policy, |_| true).unwrap();
            assert!(report.work > 0.0 && report.critical_path > 0.0);
            assert!(report.efficiency() <= 1.0, "{report:?}");
            assert!(report.stats.prefilled_tokens >= report.distinct_tokens, "{report:?}");
            report
        });
        // The work is the same, in whatever order.
        assert_eq!(own.stats.generated_tokens, fifo.stats.generated_tokens);
        assert_eq!((own.stats.turns, own.distinct_tokens), (lock_step.stats.turns, lock_step.distinct_tokens));
        assert!(own.seconds <= fifo.seconds && own.seconds < lock_step.seconds, "{own:?} {fifo:?} {lock_step:?}");
    }

    #[test]
    fn a_scene_alone_takes_as_long_as_its_longest_chain_at_least() {
        let load = Load { scenes: 1, cached: 240, parallel: 16, ..LOAD };
        let report = run(&load, Cost::default(), Policy::OldestScene, |_| true).unwrap();
        assert!(report.critical_path > report.work);
        assert!((0.5..=1.0).contains(&report.efficiency()), "{report:?}");
    }

    #[test]
    fn a_run_can_be_stopped_and_an_empty_one_is_refused() {
        assert_eq!(run(&LOAD, Cost::default(), Policy::Fifo, |ended| ended < 3).unwrap_err(), Error::Closed);
        let error = run(&Load { parallel: 0, ..LOAD }, Cost::default(), Policy::Fifo, |_| true).unwrap_err();
        assert!(matches!(error, Error::Option { name: "parallel", .. }));
    }
}
