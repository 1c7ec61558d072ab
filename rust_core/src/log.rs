//! The event log in memory: it sequences and hashes the events of open scenes, and buffers rows until the writer takes them as Arrow
//! batches. It does not know where they are written.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_array::builder::{
    BooleanBuilder, FixedSizeBinaryBuilder, Float32Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder, UInt32Builder,
    UInt64Builder,
};
use arrow_array::{ArrayRef, RecordBatch};

use crate::error::{Error, Result};
use crate::event::{Chain, Event};
use crate::hash::Hash;
use crate::payload::Payload;
use crate::turn::{Completion, Turn};

/// Texts that are remembered as in the file, or on their way there, if no other number is wanted: as many as fit 35 MB. Beyond them the
/// memory starts anew, and the writer, which can ask the file, drops the repetitions: memory stays bounded however long the run is.
pub const MAX_KNOWN_TEXTS: usize = 7 << 17;

/// Rows that the writer has to store in one transaction, in this order: no event without its completions.
pub struct Batches {
    pub texts: RecordBatch,
    pub scenes: RecordBatch,
    pub completions: RecordBatch,
    pub events: RecordBatch,
}

/// Sequences, hashes and buffers.
pub struct EventLog {
    chains: HashMap<Hash, OpenScene>,
    rows: Rows,
    known_texts: HashSet<Hash>,
    max_known_texts: usize,
    knows_all: bool,
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new(MAX_KNOWN_TEXTS)
    }
}

/// Buffered rows, with the times (microseconds since 1970) at which they came.
#[derive(Default)]
pub struct Rows {
    events: Vec<(Event, i64)>,
    completions: Vec<(Recorded, i64)>,
    texts: Vec<(Hash, String)>,
    scenes: Vec<(SceneRow, Hash, Option<Hash>)>,
}

impl Rows {
    fn len(&self) -> usize {
        self.events.len() + self.completions.len() + self.texts.len() + self.scenes.len()
    }

    /// The rows as Arrow batches; `None` when there are none.
    #[must_use]
    pub fn into_batches(self) -> Option<Batches> {
        (self.len() > 0).then(|| Batches {
            texts: texts_batch(&self.texts),
            scenes: scenes_batch(&self.scenes),
            completions: completions_batch(&self.completions),
            events: events_batch(&self.events),
        })
    }
}

struct OpenScene {
    chain: Chain,
    /// Events that the file already holds: derived again on resume, compared by the caller, not written twice.
    stored: u32,
}

/// A scene as the run's input lists it.
#[derive(Clone, Debug)]
pub struct SceneRow {
    pub scene: Hash,
    /// Place in the run's input, from 0: the order of the run root.
    pub position: u64,
    /// Name of the input, and the place in it.
    pub label: String,
    pub row: u64,
    /// Earlier scenes of the run with the same instruction and response.
    pub occurrence: u64,
    pub instruction: String,
    /// The given response, if there is one.
    pub response: Option<String>,
    /// The input's other columns, as JSON.
    pub meta: String,
}

/// A completion with the texts replaced by their hashes.
struct Recorded {
    completion: Completion,
    kind: String,
    sampling: Hash,
    text: Hash,
    segments: Vec<(Hash, bool)>,
}

impl EventLog {
    /// An empty log, which remembers at most so many texts.
    #[must_use]
    pub fn new(max_known_texts: usize) -> Self {
        Self { chains: HashMap::new(), rows: Rows::default(), known_texts: HashSet::new(), max_known_texts, knows_all: false }
    }

    /// Texts that it remembers at most.
    #[must_use]
    pub fn max_known_texts(&self) -> usize {
        self.max_known_texts
    }

    /// Remember the addresses of all texts that the file holds, before any is buffered: then none of them is handed over again.
    pub fn know_texts(&mut self, held: impl IntoIterator<Item = Hash>) {
        self.knows_all = self.rows.texts.is_empty();
        for hash in held {
            self.remember(hash);
            if !self.knows_all {
                break;
            }
        }
    }

    /// Whether all buffered texts are new to the file. Once it is false, it stays so.
    #[must_use]
    pub fn knows_all_texts(&self) -> bool {
        self.knows_all
    }

    /// Begin a scene's chain. Its first `stored` events are in the file already and will not be handed to the writer.
    ///
    /// # Errors
    /// [`Error::SceneOpenTwice`].
    pub fn open(&mut self, scene: Hash, stored: u32) -> Result<()> {
        match self.chains.entry(scene) {
            Entry::Vacant(place) => {
                place.insert(OpenScene { chain: Chain::new(scene), stored });
                Ok(())
            }
            Entry::Occupied(_) => Err(Error::SceneOpenTwice { scene: scene.to_string() }),
        }
    }

    /// Append an event to its scene's chain.
    ///
    /// # Errors
    /// [`Error::SceneNotOpen`].
    pub fn append(&mut self, scene: Hash, payload: Payload) -> Result<Event> {
        let open = self.chains.get_mut(&scene).ok_or_else(|| Error::SceneNotOpen { scene: scene.to_string() })?;
        let event = open.chain.append(payload);
        if event.seq >= open.stored {
            self.rows.events.push((event.clone(), now_us()));
        }
        Ok(event)
    }

    /// Forget a scene, finished or left open, and return its chain.
    ///
    /// # Errors
    /// [`Error::SceneNotOpen`].
    pub fn close(&mut self, scene: Hash) -> Result<Chain> {
        self.chains.remove(&scene).map(|open| open.chain).ok_or_else(|| Error::SceneNotOpen { scene: scene.to_string() })
    }

    /// Buffer a scene of the run's input, with its texts.
    pub fn add_scene(&mut self, scene: SceneRow) {
        let instruction = self.text(&scene.instruction);
        let response = scene.response.as_deref().map(|response| self.text(response));
        self.rows.scenes.push((scene, instruction, response));
    }

    /// Buffer a completion, with its text and the segments of its prompt.
    ///
    /// # Errors
    /// [`Error::NotTheAnswer`] when the completion answers another turn.
    pub fn record(&mut self, turn: &Turn, completion: Completion) -> Result<()> {
        let asked = (turn.scene, turn.request, turn.path.as_str(), turn.attempt);
        if asked != (completion.scene, completion.request, completion.path.as_str(), completion.attempt) {
            return Err(Error::NotTheAnswer { path: turn.path.clone(), other: completion.path });
        }
        let segments =
            turn.segments.iter().zip(&turn.texts).map(|(segment, &text)| (self.know(text, &segment.text), segment.trusted)).collect();
        let text = self.text(&completion.text);
        self.rows
            .completions
            .push((Recorded { completion, kind: turn.kind.clone(), sampling: turn.sampling_hash, text, segments }, now_us()));
        Ok(())
    }

    /// Buffer a text, unless the writer has had it, and return its address.
    pub fn text(&mut self, text: &str) -> Hash {
        self.know(Hash::of(text.as_bytes()), text)
    }

    fn know(&mut self, hash: Hash, text: &str) -> Hash {
        if self.remember(hash) {
            self.rows.texts.push((hash, text.to_owned()));
        }
        hash
    }

    /// Returns whether it is new.
    fn remember(&mut self, hash: Hash) -> bool {
        let new = self.known_texts.insert(hash);
        if self.known_texts.len() > self.max_known_texts {
            self.known_texts.clear();
            self.known_texts.insert(hash);
            self.knows_all = false;
        }
        new
    }

    /// Number of buffered rows.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.rows.len()
    }

    /// Take everything buffered. That is quick, so that a lock around the log is held briefly; the batches are made afterwards.
    pub fn drain(&mut self) -> Rows {
        std::mem::take(&mut self.rows)
    }
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn hashes(rows: usize) -> FixedSizeBinaryBuilder {
    FixedSizeBinaryBuilder::with_capacity(rows, 32)
}

fn push(builder: &mut FixedSizeBinaryBuilder, hash: Hash) {
    builder.append_value(hash.0).expect("a hash has 32 bytes");
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn texts_batch(rows: &[(Hash, String)]) -> RecordBatch {
    let (mut hash, mut text) = (hashes(rows.len()), StringBuilder::new());
    for (address, content) in rows {
        push(&mut hash, *address);
        text.append_value(content);
    }
    batch(vec![("hash", Arc::new(hash.finish())), ("text", Arc::new(text.finish()))])
}

fn scenes_batch(rows: &[(SceneRow, Hash, Option<Hash>)]) -> RecordBatch {
    let (mut scene, mut instruction, mut response) = (hashes(rows.len()), hashes(rows.len()), hashes(rows.len()));
    let (mut position, mut row, mut occurrence) = (UInt64Builder::new(), UInt64Builder::new(), UInt64Builder::new());
    let (mut label, mut meta) = (StringBuilder::new(), StringBuilder::new());
    for (content, instruction_text, response_text) in rows {
        push(&mut scene, content.scene);
        position.append_value(content.position);
        label.append_value(&content.label);
        row.append_value(content.row);
        occurrence.append_value(content.occurrence);
        push(&mut instruction, *instruction_text);
        match response_text {
            Some(text) => push(&mut response, *text),
            None => response.append_null(),
        }
        meta.append_value(&content.meta);
    }
    batch(vec![
        ("scene", Arc::new(scene.finish())),
        ("position", Arc::new(position.finish())),
        ("label", Arc::new(label.finish())),
        ("row", Arc::new(row.finish())),
        ("occurrence", Arc::new(occurrence.finish())),
        ("instruction", Arc::new(instruction.finish())),
        ("response", Arc::new(response.finish())),
        ("meta", Arc::new(meta.finish())),
    ])
}

fn events_batch(rows: &[(Event, i64)]) -> RecordBatch {
    let (mut scene, mut seq, mut kind) = (hashes(rows.len()), UInt32Builder::new(), StringBuilder::new());
    let (mut payload, mut hash, mut at) = (StringBuilder::new(), hashes(rows.len()), TimestampMicrosecondBuilder::new());
    for (event, time_us) in rows {
        push(&mut scene, event.scene);
        seq.append_value(event.seq);
        kind.append_value(event.payload.kind());
        payload.append_value(event.payload.as_str());
        push(&mut hash, event.hash);
        at.append_value(*time_us);
    }
    batch(vec![
        ("scene", Arc::new(scene.finish())),
        ("seq", Arc::new(seq.finish())),
        ("kind", Arc::new(kind.finish())),
        ("payload", Arc::new(payload.finish())),
        ("hash", Arc::new(hash.finish())),
        ("recorded_at", Arc::new(at.finish())),
    ])
}

fn completions_batch(rows: &[(Recorded, i64)]) -> RecordBatch {
    let (mut scene, mut path, mut attempt) = (hashes(rows.len()), StringBuilder::new(), UInt32Builder::new());
    let (mut kind, mut request, mut sampling) = (StringBuilder::new(), hashes(rows.len()), hashes(rows.len()));
    let (mut outcome, mut finish, mut text) = (StringBuilder::new(), StringBuilder::new(), hashes(rows.len()));
    let mut source = StringBuilder::new();
    let mut segments = ListBuilder::new(hashes(rows.len() * 8));
    let mut trusted = ListBuilder::new(BooleanBuilder::new());
    let mut counts: [UInt32Builder; 4] = Default::default();
    let mut log_odds = Float32Builder::new();
    let mut times: [UInt64Builder; 3] = Default::default();
    let mut at = TimestampMicrosecondBuilder::new();
    for (row, time_us) in rows {
        let Completion { facts, .. } = row.completion;
        push(&mut scene, row.completion.scene);
        path.append_value(&row.completion.path);
        attempt.append_value(row.completion.attempt);
        kind.append_value(&row.kind);
        push(&mut request, row.completion.request);
        push(&mut sampling, row.sampling);
        outcome.append_value(row.completion.outcome.name());
        finish.append_value(row.completion.finish.name());
        push(&mut text, row.text);
        for (address, trust) in &row.segments {
            push(segments.values(), *address);
            trusted.values().append_value(*trust);
        }
        segments.append(true);
        trusted.append(true);
        source.append_value(row.completion.source.name());
        let tokens = [facts.prompt_tokens, facts.cached_tokens, facts.generated_tokens, facts.masked_tokens];
        counts.iter_mut().zip(tokens).for_each(|(builder, value)| builder.append_value(value));
        log_odds.append_option(facts.log_odds);
        let spans = [facts.queued, facts.prefill, facts.decode];
        times.iter_mut().zip(spans).for_each(|(builder, span)| builder.append_value(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)));
        at.append_value(*time_us);
    }
    let [mut prompt_tokens, mut cached_tokens, mut generated_tokens, mut masked_tokens] = counts;
    let [mut queued, mut prefill, mut decode] = times;
    batch(vec![
        ("scene", Arc::new(scene.finish())),
        ("path", Arc::new(path.finish())),
        ("attempt", Arc::new(attempt.finish())),
        ("kind", Arc::new(kind.finish())),
        ("request", Arc::new(request.finish())),
        ("outcome", Arc::new(outcome.finish())),
        ("finish", Arc::new(finish.finish())),
        ("text", Arc::new(text.finish())),
        ("segments", Arc::new(segments.finish())),
        ("trusted", Arc::new(trusted.finish())),
        ("prompt_tokens", Arc::new(prompt_tokens.finish())),
        ("cached_tokens", Arc::new(cached_tokens.finish())),
        ("generated_tokens", Arc::new(generated_tokens.finish())),
        ("masked_tokens", Arc::new(masked_tokens.finish())),
        ("log_odds", Arc::new(log_odds.finish())),
        ("queued_us", Arc::new(queued.finish())),
        ("prefill_us", Arc::new(prefill.finish())),
        ("decode_us", Arc::new(decode.finish())),
        ("recorded_at", Arc::new(at.finish())),
        ("sampling", Arc::new(sampling.finish())),
        ("source", Arc::new(source.finish())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::{Facts, Finish, Outcome, Segment, Source, tests::sampling};

    fn payload(text: &str) -> Payload {
        Payload::parse(format!(r#"{{"kind":"Tested","v":1,"text":"{text}"}}"#)).unwrap()
    }

    #[test]
    fn a_stored_prefix_is_derived_but_not_written_again() {
        let scene = Hash::of(b"scene");
        let (mut first, mut resumed) = (EventLog::default(), EventLog::default());
        first.open(scene, 0).unwrap();
        resumed.open(scene, 2).unwrap();
        for text in ["a", "b", "c"] {
            assert_eq!(first.append(scene, payload(text)).unwrap(), resumed.append(scene, payload(text)).unwrap());
        }
        assert_eq!(first.drain().into_batches().unwrap().events.num_rows(), 3);
        assert_eq!(resumed.drain().into_batches().unwrap().events.num_rows(), 1);
        assert_eq!(first.close(scene).unwrap(), resumed.close(scene).unwrap());
    }

    #[test]
    fn scenes_open_once_and_close_once() {
        let scene = Hash::of(b"scene");
        let mut log = EventLog::default();
        assert!(matches!(log.append(scene, payload("a")), Err(Error::SceneNotOpen { .. })));
        log.open(scene, 0).unwrap();
        log.append(scene, payload("a")).unwrap();
        assert!(matches!(log.open(scene, 0), Err(Error::SceneOpenTwice { .. })));
        assert_eq!(log.append(scene, payload("b")).unwrap().seq, 1, "the refusal reset the chain");
        log.close(scene).unwrap();
        assert!(matches!(log.close(scene), Err(Error::SceneNotOpen { .. })));
    }

    #[test]
    fn a_text_is_handed_over_once() {
        let mut log = EventLog::default();
        let segments = vec![Segment { text: "same".into(), trusted: true }, Segment { text: "same".into(), trusted: false }];
        let turn = Turn::new(0, Hash::of(b"s"), "p".into(), 1, "k".into(), segments, sampling()).unwrap();
        let completion = Completion {
            scene: turn.scene,
            path: turn.path.clone(),
            attempt: 1,
            request: turn.request,
            outcome: Outcome::Text,
            finish: Finish::Eos,
            text: "same".into(),
            source: Source::Model,
            facts: Facts::default(),
        };
        log.record(&turn, completion).unwrap();
        let batches = log.drain().into_batches().unwrap();
        assert_eq!((batches.texts.num_rows(), batches.completions.num_rows()), (1, 1));
        assert!(log.drain().into_batches().is_none());
    }

    #[test]
    fn texts_that_the_file_holds_are_not_handed_over() {
        let mut log = EventLog::new(3);
        assert!(!log.knows_all_texts(), "what the file holds is not known");
        log.know_texts([Hash::of(b"held")]);
        log.text("held");
        log.text("new");
        assert_eq!((log.pending(), log.knows_all_texts()), (1, true));
        log.text("third");
        assert!(log.knows_all_texts());
        log.text("one too many");
        assert!(!log.knows_all_texts());
        log.text("held");
        assert_eq!(log.pending(), 4, "what is forgotten is handed over again");
    }

    #[test]
    fn a_text_buffered_before_the_file_was_looked_at_may_be_in_it() {
        let mut log = EventLog::default();
        log.text("held");
        log.know_texts([Hash::of(b"held")]);
        assert!(!log.knows_all_texts());
    }
}
