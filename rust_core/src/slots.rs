//! The KV streams and the sequences on them.

use crate::scheduler::Phase;
use crate::sequence::Sequence;
use crate::vocab::Token;

/// One KV stream.
#[derive(Default)]
struct Slot {
    /// The sequence that runs here.
    sequence: Option<Sequence>,
    /// Prompt tokens that a sequence left behind here; empty while one runs.
    left_behind: Vec<Token>,
    /// When that was last of use, by the count of such times.
    used_at: u64,
}

/// All KV streams. Running sequences are kept on the lowest slots, because llama.cpp decodes only adjacent ones together.
pub struct Slots {
    all: Vec<Slot>,
    /// How often anything left behind was of use, its own sequence included.
    clock: u64,
    copy_cost: usize,
}

impl Slots {
    /// `copy_cost` is that of [`crate::kv::Kv::copy_cost`].
    #[must_use]
    pub fn new(count: usize, copy_cost: usize) -> Self {
        Self { all: (0..count).map(|_| Slot::default()).collect(), clock: 0, copy_cost }
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
    pub fn occupy(&mut self, slot: usize, sequence: Sequence) {
        let slot = &mut self.all[slot];
        assert!(slot.sequence.is_none(), "a slot holds one sequence");
        slot.left_behind.clear();
        slot.sequence = Some(sequence);
    }

    /// Take the sequence off a slot; its prompt tokens stay in KV, for reuse.
    pub fn vacate(&mut self, slot: usize) -> Option<Sequence> {
        let sequence = self.all[slot].sequence.take()?;
        self.clock += 1;
        let slot = &mut self.all[slot];
        slot.left_behind = sequence.prompt_in_kv().to_vec();
        slot.used_at = self.clock;
        Some(sequence)
    }

    /// What is left behind on a free slot will be overwritten: whoever else has most of it in KV is as much of use as that was.
    pub fn pass_on(&mut self, slot: usize) {
        let held = self.prompt_tokens(slot);
        let heirs = (0..self.len()).filter(|&other| other != slot).map(|other| (shared(self.prompt_tokens(other), held), other));
        if let Some((_, heir)) = heirs.max() {
            self.all[heir].used_at = self.all[heir].used_at.max(self.all[slot].used_at);
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
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_unstable_by_key(|&slot| self.prompt_tokens(slot));
        // In this order, nobody shares a longer beginning than a neighbour.
        let mut worth: Vec<u64> = (0..self.len()).map(|slot| self.prompt_tokens(slot).len() as u64).collect();
        for pair in order.windows(2) {
            let (one, other) = (self.prompt_tokens(pair[0]), self.prompt_tokens(pair[1]));
            let shared = shared(one, other);
            for (slot, tokens) in [(pair[0], one), (pair[1], other)] {
                worth[slot] = worth[slot].min((tokens.len() - shared) as u64);
            }
        }
        worth
    }

    /// What is left behind on a free slot is now, by a copy of its stream, on another.
    pub fn move_left_behind(&mut self, from: usize, to: usize) {
        self.all[to] = Slot { sequence: None, ..std::mem::take(&mut self.all[from]) };
    }

    /// How many of these first tokens another slot has in KV.
    #[must_use]
    pub fn elsewhere(&self, slot: usize, tokens: &[Token]) -> usize {
        (0..self.len()).filter(|&other| other != slot).map(|other| shared(self.prompt_tokens(other), tokens)).max().unwrap_or(0)
    }

    /// Forget what a free slot's KV holds.
    pub fn clear(&mut self, slot: usize) {
        self.all[slot].left_behind.clear();
    }

    /// The prompt tokens that a slot's KV begins with, of a running sequence or left behind by one.
    #[must_use]
    pub fn prompt_tokens(&self, slot: usize) -> &[Token] {
        let slot = &self.all[slot];
        slot.sequence.as_ref().map_or(&slot.left_behind, Sequence::prompt_in_kv)
    }

    /// The sequence on a slot.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&Sequence> {
        self.all[slot].sequence.as_ref()
    }

    /// The sequences that have prompt tokens left to prefill.
    pub fn in_prefill(&self) -> impl Iterator<Item = &Sequence> {
        self.iter().flatten().filter(|sequence| sequence.phase() != Phase::Decode)
    }

    /// The running sequences with their slots, for change.
    pub fn running_mut(&mut self) -> impl Iterator<Item = (usize, &mut Sequence)> {
        self.all.iter_mut().enumerate().filter_map(|(place, slot)| Some((place, slot.sequence.as_mut()?)))
    }

    /// Tokens that each slot's KV should hold.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.all.iter().map(|slot| slot.sequence.as_ref().map_or(slot.left_behind.len(), Sequence::in_kv))
    }

    /// What each slot needs next.
    #[must_use]
    pub fn phases(&self) -> Vec<Phase> {
        self.iter().map(|sequence| sequence.map_or(Phase::Free, Sequence::phase)).collect()
    }

    /// Every slot's sequence, in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = Option<&Sequence>> {
        self.all.iter().map(|slot| slot.sequence.as_ref())
    }
}

/// How many first tokens are the same.
#[must_use]
pub fn shared(a: &[Token], b: &[Token]) -> usize {
    // Whole stretches first: equality of slices is far faster than a loop over tokens.
    const STRETCH: usize = 64;
    let equal = a.chunks_exact(STRETCH).zip(b.chunks_exact(STRETCH)).take_while(|(a, b)| a == b).count() * STRETCH;
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}
