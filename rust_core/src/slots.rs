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
    slots: Vec<Slot>,
    /// How often anything left behind was of use, its own sequence included.
    clock: u64,
}

impl Slots {
    /// # Panics
    /// Never.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { slots: (0..count).map(|_| Slot::default()).collect(), clock: 0 }
    }

    /// Number of slots.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Number of running sequences.
    #[must_use]
    pub fn running(&self) -> usize {
        self.slots.iter().filter(|slot| slot.sequence.is_some()).count()
    }

    /// The lowest slot on which nothing runs.
    #[must_use]
    pub fn lowest_free(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.sequence.is_none())
    }

    /// The highest slot on which a sequence runs.
    #[must_use]
    pub fn highest_running(&self) -> Option<usize> {
        self.slots.iter().rposition(|slot| slot.sequence.is_some())
    }

    /// Put a sequence on a free slot.
    ///
    /// # Panics
    /// When a sequence runs there.
    pub fn occupy(&mut self, slot: usize, sequence: Sequence) {
        let slot = &mut self.slots[slot];
        assert!(slot.sequence.is_none(), "a slot holds one sequence");
        slot.left_behind.clear();
        slot.sequence = Some(sequence);
    }

    /// Take the sequence off a slot; its prompt tokens stay in KV, for reuse.
    pub fn vacate(&mut self, slot: usize) -> Option<Sequence> {
        let sequence = self.slots[slot].sequence.take()?;
        self.clock += 1;
        let slot = &mut self.slots[slot];
        slot.left_behind = sequence.prompt_in_kv().to_vec();
        slot.used_at = self.clock;
        Some(sequence)
    }

    /// What is left behind on a slot is of use just now.
    pub fn touch(&mut self, slot: usize) {
        self.clock += 1;
        self.slots[slot].used_at = self.clock;
    }

    /// A free slot other than `source`, above all running ones and above `slot`, to save what is left behind there: one that holds
    /// nothing else, else the one that is longest out of use, if it is longer so than what is to be saved.
    #[must_use]
    pub fn spare(&self, slot: usize, source: usize) -> Option<usize> {
        let above = self.highest_running().map_or(slot, |running| running.max(slot)) + 1;
        let held = &self.slots[slot].left_behind;
        let age = |place: usize| if held.starts_with(&self.slots[place].left_behind) { 0 } else { self.slots[place].used_at };
        (above..self.len())
            .filter(|&place| place != source)
            .min_by_key(|&place| age(place))
            .filter(|&place| age(place) < self.slots[slot].used_at)
    }

    /// What is left behind on a free slot is now, by a copy of its stream, on another.
    pub fn move_left_behind(&mut self, from: usize, to: usize) {
        self.slots[to].left_behind = std::mem::take(&mut self.slots[from].left_behind);
        self.slots[to].used_at = self.slots[from].used_at;
    }

    /// Forget what a free slot's KV holds.
    pub fn clear(&mut self, slot: usize) {
        self.slots[slot].left_behind.clear();
    }

    /// The prompt tokens that a slot's KV begins with, of a running sequence or left behind by one.
    #[must_use]
    pub fn prompt_tokens(&self, slot: usize) -> &[Token] {
        let slot = &self.slots[slot];
        slot.sequence.as_ref().map_or(&slot.left_behind, Sequence::prompt_in_kv)
    }

    /// The sequence on a slot.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&Sequence> {
        self.slots[slot].sequence.as_ref()
    }

    /// The sequences that have prompt tokens left to prefill.
    pub fn in_prefill(&self) -> impl Iterator<Item = &Sequence> {
        self.iter().flatten().filter(|sequence| sequence.phase() != Phase::Decode)
    }

    /// The sequences on `rows` slots from `first` on, for change.
    pub fn range_mut(&mut self, first: usize, rows: usize) -> impl Iterator<Item = &mut Sequence> {
        self.slots[first..first + rows].iter_mut().filter_map(|slot| slot.sequence.as_mut())
    }

    /// Every slot's sequence, in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = Option<&Sequence>> {
        self.slots.iter().map(|slot| slot.sequence.as_ref())
    }
}
