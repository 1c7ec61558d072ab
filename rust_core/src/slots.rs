//! The KV streams and the sequences on them.

use crate::sequence::Sequence;
use crate::vocab::Token;

/// One KV stream.
#[derive(Default)]
struct Slot {
    /// The sequence that runs here.
    sequence: Option<Sequence>,
    /// Prompt tokens that a sequence left behind here; empty while one runs.
    left_behind: Vec<Token>,
}

/// All KV streams. Running sequences are kept on the lowest slots, because llama.cpp decodes only adjacent ones together.
pub struct Slots(Vec<Slot>);

impl Slots {
    /// # Panics
    /// Never.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| Slot::default()).collect())
    }

    /// Number of slots.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Number of running sequences.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.iter().filter(|slot| slot.sequence.is_some()).count()
    }

    /// The lowest slot on which nothing runs.
    #[must_use]
    pub fn lowest_free(&self) -> Option<usize> {
        self.0.iter().position(|slot| slot.sequence.is_none())
    }

    /// The highest slot on which a sequence runs.
    #[must_use]
    pub fn highest_running(&self) -> Option<usize> {
        self.0.iter().rposition(|slot| slot.sequence.is_some())
    }

    /// Put a sequence on a free slot.
    ///
    /// # Panics
    /// When a sequence runs there.
    pub fn occupy(&mut self, slot: usize, sequence: Sequence) {
        let slot = &mut self.0[slot];
        assert!(slot.sequence.is_none(), "a slot holds one sequence");
        slot.left_behind.clear();
        slot.sequence = Some(sequence);
    }

    /// Take the sequence off a slot; its prompt tokens stay in KV, for reuse.
    pub fn vacate(&mut self, slot: usize) -> Option<Sequence> {
        let slot = &mut self.0[slot];
        let sequence = slot.sequence.take()?;
        slot.left_behind = sequence.prompt_in_kv().to_vec();
        Some(sequence)
    }

    /// Forget what a free slot's KV holds.
    pub fn clear(&mut self, slot: usize) {
        self.0[slot].left_behind.clear();
    }

    /// The prompt tokens that a slot's KV begins with, of a running sequence or left behind by one.
    #[must_use]
    pub fn prompt_tokens(&self, slot: usize) -> &[Token] {
        let slot = &self.0[slot];
        slot.sequence.as_ref().map_or(&slot.left_behind, Sequence::prompt_in_kv)
    }

    /// The sequence on a slot.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&Sequence> {
        self.0[slot].sequence.as_ref()
    }

    /// The sequences on `rows` slots from `first` on, for change.
    pub fn range_mut(&mut self, first: usize, rows: usize) -> impl Iterator<Item = &mut Sequence> {
        self.0[first..first + rows].iter_mut().filter_map(|slot| slot.sequence.as_mut())
    }

    /// Every slot's sequence, in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = Option<&Sequence>> {
        self.0.iter().map(|slot| slot.sequence.as_ref())
    }
}
