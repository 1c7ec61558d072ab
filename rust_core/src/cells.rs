//! Which cells of a shared KV the slots hold: a beginning that several sequences have in common stands there once.

/// The books of a KV that all slots share. Every change of the model's KV is entered here as well.
pub struct Cells {
    /// For each slot, the cells of its tokens, in the order of positions.
    held: Vec<Vec<u32>>,
    /// For each cell, how many slots hold it.
    holders: Vec<u16>,
    free: Vec<u32>,
}

impl Cells {
    /// `count` free cells, a token each.
    ///
    /// # Panics
    /// When there are more cells or slots than their numbers can count: beyond llama.cpp's own limits.
    #[must_use]
    pub fn new(slots: usize, count: usize) -> Self {
        assert!(u16::try_from(slots).is_ok() && u32::try_from(count).is_ok(), "{slots} slots and {count} cells cannot be counted");
        #[allow(clippy::cast_possible_truncation)] // checked above
        Self { held: vec![Vec::new(); slots], holders: vec![0; count], free: (0..count as u32).collect() }
    }

    /// Number of cells that nobody holds.
    #[must_use]
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Number of all cells.
    #[must_use]
    pub fn count(&self) -> usize {
        self.holders.len()
    }

    /// Number of tokens that a slot holds.
    #[must_use]
    pub fn length(&self, slot: usize) -> usize {
        self.held[slot].len()
    }

    /// A slot takes so many cells more. False, and nothing taken, when there are not so many.
    #[must_use]
    pub fn extend(&mut self, slot: usize, tokens: usize) -> bool {
        let Some(rest) = self.free.len().checked_sub(tokens) else { return false };
        for cell in self.free.drain(rest..) {
            self.holders[cell as usize] = 1;
            self.held[slot].push(cell);
        }
        true
    }

    /// A slot lets go of all but its first tokens.
    pub fn truncate(&mut self, slot: usize, length: usize) {
        let length = length.min(self.held[slot].len());
        for cell in self.held[slot].drain(length..) {
            self.holders[cell as usize] -= 1;
            if self.holders[cell as usize] == 0 {
                self.free.push(cell);
            }
        }
    }

    /// Slot `to` holds what slot `from` holds, and nothing else.
    pub fn copy(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        self.truncate(to, 0);
        let mut cells = std::mem::take(&mut self.held[to]);
        cells.extend_from_slice(&self.held[from]);
        for &cell in &cells {
            self.holders[cell as usize] += 1;
        }
        self.held[to] = cells;
    }

    /// Number of cells that any of these beginnings, of so many tokens of a slot, stand in.
    #[must_use]
    pub fn distinct(&self, beginnings: impl Iterator<Item = (usize, usize)>) -> usize {
        let mut seen = vec![false; self.holders.len()];
        let mut distinct = 0;
        for (slot, length) in beginnings {
            for &cell in &self.held[slot][..length.min(self.held[slot].len())] {
                distinct += usize::from(!std::mem::replace(&mut seen[cell as usize], true));
            }
        }
        distinct
    }

    /// Count everything again. Returns what does not agree.
    #[must_use]
    pub fn check(&self) -> Option<String> {
        let mut holders = vec![0u16; self.holders.len()];
        self.held.iter().flatten().for_each(|&cell| holders[cell as usize] += 1);
        if holders != self.holders {
            return Some("a cell is held by another number of slots than was counted".into());
        }
        let held = holders.iter().filter(|&&holders| holders > 0).count();
        (held + self.free.len() != self.count()).then(|| format!("{held} cells are held and {} free, of {}", self.free.len(), self.count()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Change {
        Extend(usize, usize),
        Truncate(usize, usize),
        Copy(usize, usize),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0usize..4, 0usize..12).prop_map(|(slot, tokens)| Change::Extend(slot, tokens)),
            (0usize..4, 0usize..12).prop_map(|(slot, length)| Change::Truncate(slot, length)),
            (0usize..4, 0usize..4).prop_map(|(from, to)| Change::Copy(from, to)),
        ]
    }

    proptest! {
        #[test]
        fn no_cell_is_lost_or_held_by_strangers(changes in prop::collection::vec(change(), 0..60)) {
            let mut cells = Cells::new(4, 30);
            // Each token by a number of its own: what two slots share is what they share here.
            let mut texts: Vec<Vec<u32>> = vec![Vec::new(); 4];
            for (number, change) in (0..).zip(changes) {
                match change {
                    Change::Extend(slot, tokens) => {
                        let room = cells.num_free() >= tokens;
                        prop_assert_eq!(cells.extend(slot, tokens), room);
                        if room {
                            texts[slot].extend((0..).take(tokens).map(|token: u32| number * 100 + token));
                        }
                    }
                    Change::Truncate(slot, length) => {
                        cells.truncate(slot, length);
                        texts[slot].truncate(length);
                    }
                    Change::Copy(from, to) => {
                        cells.copy(from, to);
                        texts[to] = texts[from].clone();
                    }
                }
                prop_assert_eq!(cells.check(), None);
                let mut distinct: Vec<u32> = texts.iter().flatten().copied().collect();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(cells.num_free(), 30 - distinct.len());
                prop_assert_eq!(cells.distinct((0..4).map(|slot| (slot, usize::MAX))), distinct.len());
            }
        }
    }
}
