//! The batching loop. Each step lets in what can begin, gives the model one call or a few with tokens of all sequences in flight, and lets
//! each choose its next token. The GIL is never held here.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use rayon::prelude::*;

use crate::batch::Batch;
use crate::engine::{Answer, Options, Stats, lock};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::kv::Kv;
use crate::model::Model;
use crate::prefix;
use crate::scheduler::{Phase, Span, decode, mixed, prefill};
use crate::sequence::Sequence;
use crate::slots::Slots;
use crate::turn::numbered_path;
use crate::vocab::Tokenizer;

/// How many turns that wait for a prompt's beginning others may overtake in one step.
const LOOKAHEAD: usize = 256;

/// From how many turns that can go one is chosen for a slot.
const CHOICE: usize = 8;

/// Logits to choose from that are worth waking other threads for (measured: about 50 microseconds of work).
const WORTH_THREADS: usize = 1 << 15;

/// What a form's mask costs, in logits to choose from.
const MASK: usize = 1 << 14;

/// Cells of a shared KV that each running sequence should find free for what it will generate, when another is let in.
const HEADROOM: usize = 32;

/// What the engine is told.
pub(crate) enum Command {
    Run(Vec<Work>),
    CancelScene(Hash),
}

pub(crate) enum Work {
    Sequence(Box<Sequence>),
    /// There was nothing to compute.
    Answer(Box<Answer>),
}

/// State of the engine's thread.
pub(crate) struct Loop {
    kv: Kv,
    tokenizer: Arc<Tokenizer>,
    slots: Slots,
    options: Options,
    /// Tokens that a batch may hold.
    most: usize,
    /// The batch under way, kept for its memory.
    batch: Batch,
    /// By rank, and among equals by the order in which they came.
    waiting: BTreeMap<(u64, u64), Box<Sequence>>,
    /// Sequences queued and admitted so far: the order of the next.
    queued: u64,
    admitted: u64,
    /// What makes the KV unfit for use.
    broken: Option<Error>,
    /// Answers that have not been sent.
    done: Vec<Answer>,
    outbox: Sender<Vec<Answer>>,
    stats: Stats,
    shared_stats: Arc<Mutex<Stats>>,
}

impl Loop {
    pub(crate) fn new(
        model: Box<dyn Model>,
        tokenizer: Arc<Tokenizer>,
        options: Options,
        outbox: Sender<Vec<Answer>>,
        shared_stats: Arc<Mutex<Stats>>,
    ) -> Self {
        let kv = Kv::new(model);
        Self {
            slots: Slots::new(kv.limits().slots, kv.copy_cost()),
            most: kv.limits().batch,
            batch: Batch::default(),
            kv,
            tokenizer,
            options,
            waiting: BTreeMap::new(),
            queued: 0,
            admitted: 0,
            broken: None,
            done: Vec::new(),
            outbox,
            stats: Stats::default(),
            shared_stats,
        }
    }

    pub(crate) fn run(mut self, inbox: &Receiver<Command>) {
        // A bug must not leave anybody waiting for an answer that never comes.
        if catch_unwind(AssertUnwindSafe(|| {
            while self.receive(inbox) {
                self.step();
            }
        }))
        .is_err()
        {
            let reason = "the engine's loop panicked: please report it".to_owned();
            for slot in 0..self.slots.len() {
                if let Some(sequence) = self.slots.vacate(slot) {
                    self.fail(sequence, Error::Decode { tokens: 0, reason: reason.clone() });
                }
            }
            while let Some((_, sequence)) = self.waiting.pop_first() {
                self.fail(sequence, Error::Decode { tokens: 0, reason: reason.clone() });
            }
            self.publish();
        }
    }

    /// Take all commands that are there; wait for one when there is nothing to do. False when the engine closes.
    fn receive(&mut self, inbox: &Receiver<Command>) -> bool {
        loop {
            let idle = self.waiting.is_empty() && self.slots.running() == 0;
            if idle && self.broken.is_none() {
                self.broken = self.kv.check(self.slots.lengths()).err();
            }
            let command = if idle { inbox.recv().map_err(|_| TryRecvError::Disconnected) } else { inbox.try_recv() };
            match command {
                Ok(Command::Run(work)) => work.into_iter().for_each(|work| match work {
                    Work::Sequence(sequence) => self.queue(sequence),
                    Work::Answer(answer) => self.answer(*answer),
                }),
                Ok(Command::CancelScene(scene)) => self.cancel(scene),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
            self.publish();
        }
    }

    /// Let a turn wait for a slot.
    pub(crate) fn queue(&mut self, mut sequence: Box<Sequence>) {
        if let Some(error) = self.broken.clone() {
            return self.fail(sequence, error);
        }
        sequence.arrival = self.queued;
        self.queued += 1;
        self.waiting.insert((sequence.turn.rank, sequence.arrival), sequence);
    }

    /// Begin what can begin, and take every sequence in flight one step further.
    pub(crate) fn step(&mut self) {
        self.stats.steps += 1;
        if self.options.preempt_every.is_some_and(|every| self.stats.steps.is_multiple_of(every)) {
            self.preempt();
        }
        self.admit();
        if self.kv.cells().is_some() {
            self.step_shared();
        } else {
            self.step_isolated();
        }
    }

    /// Slots with a stream each are decoded in rectangles.
    fn step_isolated(&mut self) {
        self.close_gaps();
        for span in prefill(&self.slots.phases(), self.most) {
            self.run_spans(&[span]);
        }
        // Among them those whose prompt is in KV just now: a slot left out would cut the rectangle in two.
        for span in decode(&self.slots.phases(), self.most) {
            self.run_spans(&[span]);
        }
    }

    /// Slots that share one KV are decoded in one batch, for which there has to be room.
    fn step_shared(&mut self) {
        let mut spans = mixed(&self.slots.phases(), self.most);
        while !self.make_room(spans.iter().map(|span| span.rows * span.width).sum()) {
            spans = mixed(&self.slots.phases(), self.most);
        }
        self.run_spans(&spans);
    }

    /// See that a shared KV has so many free cells: what is longest out of use goes first, then the youngest sequence has to wait again. False
    /// when one had to.
    fn make_room(&mut self, tokens: usize) -> bool {
        while self.kv.cells().is_some_and(|cells| cells.num_free() < tokens) {
            let Some(slot) = self.slots.least_worth() else {
                self.preempt();
                return false;
            };
            self.slots.pass_on(slot);
            self.forget(slot);
        }
        true
    }

    /// Let the youngest running sequence wait again. The only one goes on: alone, any fits.
    fn preempt(&mut self) {
        if self.slots.running() < 2 {
            return;
        }
        if let Some(mut sequence) = self.slots.youngest().and_then(|slot| self.release(slot)) {
            sequence.preempt();
            self.stats.preemptions += 1;
            self.waiting.insert((sequence.turn.rank, sequence.arrival), sequence);
        }
    }

    /// Take a sequence off its slot. The beginning of its prompt stays in KV.
    fn release(&mut self, slot: usize) -> Option<Box<Sequence>> {
        let sequence = self.slots.vacate(slot)?;
        let kept = if self.options.prefix_reuse { self.slots.prompt_tokens(slot).len() } else { 0 };
        if kept == 0 || !self.kv.truncate(slot, kept) {
            self.forget(slot);
        }
        Some(sequence)
    }

    /// Empty a free slot.
    fn forget(&mut self, slot: usize) {
        self.slots.clear(slot);
        self.kv.truncate(slot, 0);
    }

    /// What the loop has done so far.
    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    /// Let others see what is done.
    fn publish(&mut self) {
        self.stats.running = self.slots.running() as u64;
        self.stats.waiting = self.waiting.len() as u64;
        // Before the answers, so that whoever has one sees it counted.
        *lock(&self.shared_stats) = self.stats;
        if !self.done.is_empty() {
            // Nobody collects any more when the engine is being closed.
            let _ = self.outbox.send(std::mem::take(&mut self.done));
        }
    }

    /// Give the first turns that wait the lowest free slots, with what is in KV of their prompts. Which of them gets which of these
    /// slots is decided by what the slots hold.
    fn admit(&mut self) {
        while let Some(free) = self.options.parallel.checked_sub(self.slots.running()).filter(|&free| free > 0) {
            let Some(slot) = self.slots.lowest_free() else { return };
            let Some(place) = self.next_turn(slot, free) else { return };
            let Some(sequence) = self.waiting.get(&place) else { return };
            let hit = if self.options.prefix_reuse { prefix::find(&self.slots, sequence, slot) } else { None };
            let (source, mut cached) = hit.map_or((slot, 0), |hit| (hit.slot, hit.length));
            if !self.has_room(source, cached, sequence.length()) {
                return;
            }
            let Some(mut sequence) = self.waiting.remove(&place) else { return };
            self.keep(slot, source, if source == slot { cached } else { 0 });
            if source != slot {
                self.copy(source, slot);
            }
            if !self.kv.truncate(slot, cached) {
                cached = 0;
            }
            sequence.admit(self.admitted, cached);
            self.admitted += 1;
            self.stats.cached_tokens += cached as u64;
            self.slots.occupy(slot, sequence);
        }
    }

    /// Whether a shared KV has room for one more sequence of so many tokens, of which `cached` are on a slot, beside what the running ones
    /// are about to need: that they do not have to preempt one another at once.
    fn has_room(&self, source: usize, cached: usize, length: usize) -> bool {
        let Some(cells) = self.kv.cells() else { return true };
        let running = || self.slots.iter().enumerate().filter_map(|(slot, sequence)| Some((slot, sequence?)));
        if running().next().is_none() {
            return true;
        }
        let held = cells.distinct(running().map(|(slot, sequence)| (slot, sequence.in_kv())).chain([(source, cached)]));
        let to_come: usize = running().map(|(_, sequence)| sequence.length() - sequence.in_kv() + HEADROOM).sum();
        held + to_come + length - cached + HEADROOM <= cells.count()
    }

    /// The place in the queue of the turn for a free slot: of the first few that can go, the one that can use most of what the slot
    /// holds. A turn cannot go while another is about to have more of its prompt in KV than anybody has now: what two prompts begin with
    /// is computed once.
    fn next_turn(&self, slot: usize, free: usize) -> Option<(u64, u64)> {
        if !self.options.prefix_reuse {
            return self.waiting.first_key_value().map(|(&place, _)| place);
        }
        let choice = free.min(CHOICE);
        let in_reach = self.waiting.iter().take(choice + LOOKAHEAD);
        prefix::best(&self.slots, in_reach.map(|(&place, sequence)| (place, &**sequence)), choice, slot)
    }

    /// With nobody waiting, move the highest sequences into the gaps that finished ones left, so that decoding stays one rectangle.
    fn close_gaps(&mut self) {
        while let (Some(to), Some(from)) = (self.slots.lowest_free(), self.slots.highest_running()) {
            if to > from {
                return;
            }
            self.keep(to, from, 0);
            self.copy(from, to);
            if let Some(sequence) = self.release(from) {
                self.slots.occupy(to, sequence);
            }
        }
    }

    /// Before all but the first `kept` tokens of a free slot are overwritten from `source`, save what a sequence left behind there, in the
    /// place of what is longest out of use above the running ones: the next turns about the same thing may begin with it.
    fn keep(&mut self, slot: usize, source: usize, kept: usize) {
        if !self.options.prefix_reuse {
            return;
        }
        if !prefix::worth_keeping(&self.slots, slot, kept) {
            self.slots.pass_on(slot);
            return;
        }
        if let Some(spare) = self.slots.spare(slot, source) {
            self.copy(slot, spare);
            self.slots.move_left_behind(slot, spare);
        }
    }

    fn copy(&mut self, from: usize, to: usize) {
        self.kv.copy(from, to);
        self.stats.copies += 1;
    }

    /// Give the model the next tokens of the sequences on these slots, as one batch.
    fn run_spans(&mut self, spans: &[Span]) {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        for span in spans {
            for slot in span.first..span.first + span.rows {
                if let Some(sequence) = self.slots.get(slot) {
                    let prompt = sequence.phase() != Phase::Decode;
                    let (tokens, position, output) = sequence.next_tokens(span.width);
                    self.stats.prefilled_tokens += if prompt { tokens.len() as u64 } else { 0 };
                    batch.push_row(slot, tokens, position, output);
                }
            }
        }
        let prefill = batch.rows().iter().any(|row| row.width > 1);
        *(if prefill { &mut self.stats.prefill_calls } else { &mut self.stats.decode_calls }) += 1;
        match self.decode_and_sample(&batch, prefill) {
            Ok(results) => {
                for (slot, result) in results {
                    self.settle(slot, result);
                }
            }
            Err(error) => {
                for row in batch.rows() {
                    self.settle(row.slot, Err(error.clone()));
                }
            }
        }
        self.batch = batch;
        self.publish();
    }

    /// Decode a batch and let each sequence that wanted logits choose its token, in parallel. Returns the slots of those.
    fn decode_and_sample(&mut self, batch: &Batch, prefill: bool) -> Result<Vec<(usize, Result<()>)>> {
        let began = Instant::now();
        self.kv.decode(batch)?;
        let outputs = batch.outputs();
        let logits = if outputs > 0 { self.kv.logits()? } else { Vec::new() };
        let taken = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        *(if prefill { &mut self.stats.prefill_us } else { &mut self.stats.decode_us }) += taken;
        if logits.len() != outputs {
            let reason = format!("{} rows of logits instead of {outputs}", logits.len());
            return Err(Error::Decode { tokens: batch.tokens().len(), reason });
        }
        self.stats.generated_tokens += outputs as u64;
        // Rows and sequences are both in the order of slots.
        let (mut rows, mut logits) = (batch.rows().iter().peekable(), logits.into_iter());
        let mut wanting = Vec::with_capacity(outputs);
        for (slot, sequence) in self.slots.running_mut() {
            let Some(row) = rows.next_if(|row| row.slot == slot) else { continue };
            sequence.advance(row.width);
            if row.output {
                wanting.extend(logits.next().map(|logits| (slot, sequence, logits)));
            }
        }
        let tokenizer = &*self.tokenizer;
        let sample = |(slot, sequence, logits): (usize, &mut Sequence, &[f32])| (slot, sequence.sample(logits, tokenizer));
        let work: usize = wanting.iter().map(|(_, sequence, logits)| logits.len() + if sequence.has_form() { MASK } else { 0 }).sum();
        Ok(if outputs == 1 || work < WORTH_THREADS {
            wanting.into_iter().map(sample).collect()
        } else {
            wanting.into_par_iter().map(sample).collect()
        })
    }

    /// Answer a sequence that is finished or failed, and free its slot.
    fn settle(&mut self, slot: usize, result: Result<()>) {
        match result {
            Ok(()) if self.slots.get(slot).is_some_and(Sequence::is_finished) => {
                if let Some(sequence) = self.release(slot) {
                    let (turn, completion) = sequence.complete();
                    self.answer(Answer { turn, result: Ok(completion) });
                }
            }
            Ok(()) => {}
            Err(error) => {
                if let Some(sequence) = self.slots.vacate(slot) {
                    self.fail(sequence, error);
                }
                // What the failed call left in KV is not known.
                self.forget(slot);
            }
        }
    }

    fn cancel(&mut self, scene: Hash) {
        let places: Vec<_> = self.waiting.iter().filter(|(_, s)| s.turn.scene == scene).map(|(&place, _)| place).collect();
        let cancelled: Vec<Box<Sequence>> = places.iter().filter_map(|place| self.waiting.remove(place)).collect();
        let running: Vec<usize> =
            self.slots.iter().enumerate().filter(|(_, s)| s.is_some_and(|s| s.turn.scene == scene)).map(|(slot, _)| slot).collect();
        let running: Vec<Box<Sequence>> = running.into_iter().filter_map(|slot| self.release(slot)).collect();
        for sequence in cancelled.into_iter().chain(running) {
            let path = numbered_path(&sequence.turn.path, sequence.turn.attempt);
            self.fail(sequence, Error::Cancelled { path });
        }
    }

    fn fail(&mut self, sequence: Box<Sequence>, error: Error) {
        let (turn, _) = sequence.complete();
        self.answer(Answer { turn, result: Err(error) });
    }

    fn answer(&mut self, answer: Answer) {
        self.stats.turns += 1;
        self.stats.failed_turns += u64::from(answer.result.is_err());
        self.done.push(answer);
    }
}
