//! The KV streams and the sequences on them.

use crate::prefix::{BLOCK, Hit, Index};
use crate::scheduler::Phase;
use crate::sequence::Sequence;
use crate::vocab::Token;

/// One KV stream.
#[derive(Default)]
struct Slot {
    /// The sequence that runs here.
    sequence: Option<Box<Sequence>>,
    /// Prompt tokens that a sequence left behind here; empty while one runs.
    left_behind: Vec<Token>,
    /// Hashes of the beginnings that the index has of this slot: of the running prompt, or of what is left behind.
    beginnings: Vec<u64>,
    /// When that was last of use, by the count of such times.
    used_at: u64,
}

/// Of how many slots with the same blocks the rest is compared.
const COMPARED: usize = 16;

/// All KV streams. Running sequences are kept on the lowest slots, because llama.cpp decodes only adjacent ones together.
pub struct Slots {
    all: Vec<Slot>,
    /// How often anything left behind was of use, its own sequence included.
    clock: u64,
    copy_cost: usize,
    index: Index,
}

impl Slots {
    /// `copy_cost` is that of [`crate::kv::Kv::copy_cost`].
    #[must_use]
    pub fn new(count: usize, copy_cost: usize) -> Self {
        Self { all: (0..count).map(|_| Slot::default()).collect(), clock: 0, copy_cost, index: Index::default() }
    }

    /// What a copy of a slot costs, in prompt tokens.
    #[must_use]
    pub fn copy_cost(&self) -> usize {
        self.copy_cost
    }

    /// Number of slots.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Number of running sequences.
    #[must_use]
    pub fn running(&self) -> usize {
        self.all.iter().filter(|slot| slot.sequence.is_some()).count()
    }

    /// The lowest slot on which nothing runs.
    #[must_use]
    pub fn lowest_free(&self) -> Option<usize> {
        self.all.iter().position(|slot| slot.sequence.is_none())
    }

    /// The highest slot on which a sequence runs.
    #[must_use]
    pub fn highest_running(&self) -> Option<usize> {
        self.all.iter().rposition(|slot| slot.sequence.is_some())
    }

    /// Put a sequence on a free slot.
    ///
    /// # Panics
    /// When a sequence runs there.
    pub fn occupy(&mut self, slot: usize, sequence: Box<Sequence>) {
        assert!(self.all[slot].sequence.is_none(), "a slot holds one sequence");
        self.clear(slot);
        self.index.insert(slot, sequence.beginnings());
        self.all[slot].beginnings.extend_from_slice(sequence.beginnings());
        self.all[slot].sequence = Some(sequence);
    }

    /// Take the sequence off a slot; its prompt tokens stay in KV, for reuse.
    pub fn vacate(&mut self, slot: usize) -> Option<Box<Sequence>> {
        let sequence = self.all[slot].sequence.take()?;
        self.clock += 1;
        let left = &mut self.all[slot];
        left.left_behind = sequence.prompt_in_kv().to_vec();
        left.used_at = self.clock;
        let never_came = left.beginnings.split_off(left.left_behind.len() / BLOCK);
        self.index.remove(slot, &never_came);
        Some(sequence)
    }

    /// What is left behind on a free slot will be overwritten: whoever else has most of it in KV is as much of use as that was.
    pub fn pass_on(&mut self, slot: usize) {
        if let Some(heir) = self.elsewhere(slot) {
            self.all[heir.slot].used_at = self.all[heir.slot].used_at.max(self.all[slot].used_at);
        }
    }

    /// A free slot other than `source`, above all running ones and above `slot`, to save what is left behind there: one that holds
    /// nothing else, else the one whose loss costs least: longer out of use, and cheaper to compute again, than what is to be saved. A token
    /// weighs as much as a turn that has ended since.
    #[must_use]
    pub fn spare(&self, slot: usize, source: usize) -> Option<usize> {
        let above = self.highest_running().map_or(slot, |running| running.max(slot)) + 1;
        let held = &self.all[slot].left_behind;
        let worth = self.worth();
        let loss = |place: usize| match &self.all[place] {
            other if place != slot && held.starts_with(&other.left_behind) => 0,
            other => other.used_at + worth[place],
        };
        (above..self.len()).filter(|&place| place != source).min_by_key(|&place| loss(place)).filter(|&place| loss(place) < loss(slot))
    }

    /// The free slot that holds something and whose loss costs least.
    #[must_use]
    pub fn least_worth(&self) -> Option<usize> {
        let worth = self.worth();
        let held = (0..self.len()).filter(|&slot| !self.all[slot].left_behind.is_empty());
        held.min_by_key(|&slot| self.all[slot].used_at + worth[slot])
    }

    /// The running sequence that came last, of those of the youngest scene.
    #[must_use]
    pub fn youngest(&self) -> Option<usize> {
        let running = self.iter().enumerate().filter_map(|(slot, sequence)| Some(((sequence?.turn.rank, sequence?.arrival), slot)));
        running.max().map(|(_, slot)| slot)
    }

    /// For each slot, how many of its prompt tokens no other one has in KV: what its loss would cost.
    fn worth(&self) -> Vec<u64> {
        let alone = |slot: usize| self.prompt_tokens(slot).len() - self.elsewhere(slot).map_or(0, |hit| hit.length);
        (0..self.len()).map(|slot| alone(slot) as u64).collect()
    }

    /// What is left behind on a free slot is now, by a copy of its stream, on another.
    pub fn move_left_behind(&mut self, from: usize, to: usize) {
        self.clear(to);
        self.all[to] = std::mem::take(&mut self.all[from]);
        let beginnings = &self.all[to].beginnings;
        self.index.remove(from, beginnings);
        self.index.insert(to, beginnings);
    }

    /// Forget what a free slot's KV holds.
    pub fn clear(&mut self, slot: usize) {
        let cleared = &mut self.all[slot];
        cleared.left_behind.clear();
        self.index.remove(slot, &cleared.beginnings);
        cleared.beginnings.clear();
    }

    /// The slot that has the longest usable beginning of a sequence's prompt in KV, of a block at least.
    #[must_use]
    pub fn there(&self, sequence: &Sequence) -> Option<Hit> {
        let usable = sequence.usable();
        self.longest(usable, &sequence.beginnings()[..usable.len() / BLOCK], None)
    }

    /// How many usable tokens of a sequence's prompt those in prefill will have in KV.
    #[must_use]
    pub fn coming(&self, sequence: &Sequence) -> usize {
        let in_prefill = |slot: usize| self.get(slot).filter(|sequence| sequence.phase() != Phase::Decode);
        let usable = sequence.usable();
        let beginnings = &sequence.beginnings()[..usable.len() / BLOCK];
        let (_, slots) = self.index.longest(beginnings, |slot, _| in_prefill(slot).is_some());
        slots.filter_map(in_prefill).map(|other| shared(other.prompt(), usable)).max().unwrap_or(0)
    }

    /// The other slot that has most of a slot's prompt tokens in KV too, of a block at least.
    #[must_use]
    pub fn elsewhere(&self, slot: usize) -> Option<Hit> {
        let held = self.prompt_tokens(slot);
        self.longest(held, &self.all[slot].beginnings[..held.len() / BLOCK], Some(slot))
    }

    fn longest(&self, tokens: &[Token], beginnings: &[u64], except: Option<usize>) -> Option<Hit> {
        let has = |slot: usize, tokens: usize| Some(slot) != except && self.prompt_tokens(slot).len() >= tokens;
        let (_, slots) = self.index.longest(beginnings, has);
        // All of them have whole blocks in common; within the next one they may differ.
        let hits = slots.take(COMPARED).map(|slot| Hit { slot, length: shared(self.prompt_tokens(slot), tokens) });
        hits.max_by_key(|hit| (hit.length, std::cmp::Reverse(hit.slot))).filter(|hit| hit.length > 0)
    }

    /// The prompt tokens that a slot's KV begins with, of a running sequence or left behind by one.
    #[must_use]
    pub fn prompt_tokens(&self, slot: usize) -> &[Token] {
        let slot = &self.all[slot];
        slot.sequence.as_ref().map_or(&slot.left_behind, |sequence| sequence.prompt_in_kv())
    }

    /// The sequence on a slot.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&Sequence> {
        self.all[slot].sequence.as_deref()
    }

    /// The running sequences with their slots, for change.
    pub fn running_mut(&mut self) -> impl Iterator<Item = (usize, &mut Sequence)> {
        self.all.iter_mut().enumerate().filter_map(|(place, slot)| Some((place, slot.sequence.as_deref_mut()?)))
    }

    /// Tokens that each slot's KV should hold.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.all.iter().map(|slot| slot.sequence.as_deref().map_or(slot.left_behind.len(), Sequence::in_kv))
    }

    /// What each slot needs next.
    #[must_use]
    pub fn phases(&self) -> Vec<Phase> {
        self.iter().map(|sequence| sequence.map_or(Phase::Free, Sequence::phase)).collect()
    }

    /// Every slot's sequence, in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = Option<&Sequence>> {
        self.all.iter().map(|slot| slot.sequence.as_deref())
    }
}

/// How many first tokens are the same.
#[must_use]
pub fn shared(a: &[Token], b: &[Token]) -> usize {
    // Whole stretches first: arrays are compared in a few instructions, where a loop over tokens looks at each.
    const STRETCH: usize = 16;
    let (whole_a, whole_b) = (a.as_chunks::<STRETCH>().0, b.as_chunks::<STRETCH>().0);
    let equal = whole_a.iter().zip(whole_b).take_while(|(a, b)| a == b).count() * STRETCH;
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}
