//! Reuse of prompt tokens that are in KV already. Only prompt tokens are reused, never generated ones: those were decoded one by one,
//! and a prompt's tokens must not be (see [`crate::scheduler`]).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::sequence::Sequence;
use crate::slots::{Slots, shared};
use crate::vocab::Token;

/// What prompts have in common is looked up by whole blocks of so many tokens, and then compared.
pub const BLOCK: usize = 16;

/// What would save fewer tokens than so many copies cost is not kept for turns that may never come.
const COPIES_KEPT: usize = 3;

/// Hashes of a prompt's beginnings: of its first block, its first two blocks, and so on.
#[must_use]
pub fn beginnings(tokens: &[Token]) -> Vec<u64> {
    // Found by hash, everything is compared before it is used: no more is asked of the hash than to be quick.
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut hash = FACTOR;
    let block = |block: &[Token]| {
        for &token in block {
            hash = (hash ^ u64::from(token.cast_unsigned())).wrapping_mul(FACTOR).rotate_left(29);
        }
        hash
    };
    tokens.chunks_exact(BLOCK).map(block).collect()
}

/// Which slots hold, or are about to hold, which beginnings.
#[derive(Default)]
pub struct Index {
    holders: HashMap<u64, Vec<usize>, BuildHasherDefault<AsIs>>,
}

/// The hash of what is a hash already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    /// The trait asks for it; the index's keys come through `write_u64`.
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Index {
    /// A slot holds these beginnings, or will.
    pub fn insert(&mut self, slot: usize, beginnings: &[u64]) {
        for &beginning in beginnings {
            self.holders.entry(beginning).or_default().push(slot);
        }
    }

    /// A slot does not hold these beginnings any more.
    pub fn remove(&mut self, slot: usize, beginnings: &[u64]) {
        for beginning in beginnings {
            if let Some(holders) = self.holders.get_mut(beginning) {
                holders.retain(|&holder| holder != slot);
                if holders.is_empty() {
                    self.holders.remove(beginning);
                }
            }
        }
    }

    /// The longest of a prompt's beginnings that a slot has, as `has` says of a slot and a number of tokens: how many tokens it is long, and
    /// the slots that have it. Whoever has a beginning has all shorter ones.
    pub fn longest(&self, beginnings: &[u64], has: impl Fn(usize, usize) -> bool) -> (usize, impl Iterator<Item = usize>) {
        let of = |blocks: usize| blocks.checked_sub(1).and_then(|at| self.holders.get(&beginnings[at])).map_or(&[][..], Vec::as_slice);
        let (mut least, mut most) = (0, beginnings.len());
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            if of(middle).iter().any(|&slot| has(slot, middle * BLOCK)) {
                least = middle;
            } else {
                most = middle - 1;
            }
        }
        let length = least * BLOCK;
        (length, of(least).iter().copied().filter(move |&slot| has(slot, length)))
    }
}

/// Where a prompt's beginning is in KV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub slot: usize,
    /// Tokens that both prompts begin with; at least two tokens of the new prompt are left to prefill.
    pub length: usize,
}

/// The waiting sequence, with what stands beside it, that can go and can use most of what `slot` holds, of the first `choice`; the first of
/// equals. A sequence cannot go while more of its prompt is coming. Whether it is, is only asked of those that would be chosen: it costs most.
pub fn best<'a, P>(slots: &Slots, waiting: impl Iterator<Item = (P, &'a Sequence)>, choice: usize, slot: usize) -> Option<P> {
    let held = slots.prompt_tokens(slot);
    let mut best: Option<(P, usize)> = None;
    let mut seen = 0;
    for (place, sequence) in waiting {
        let used = shared(held, sequence.prompt());
        if best.as_ref().is_none_or(|&(_, most)| used > most) {
            if is_coming(slots, sequence) {
                continue;
            }
            best = Some((place, used));
        }
        seen += 1;
        if seen == choice {
            break;
        }
    }
    best.map(|(place, _)| place)
}

/// Whether a sequence in prefill will soon have more of a prompt in KV than any slot has now, by so much that it is worth a copy.
#[must_use]
pub fn is_coming(slots: &Slots, sequence: &Sequence) -> bool {
    let coming = slots.coming(sequence);
    coming >= slots.copy_cost() && coming >= slots.there(sequence).map_or(0, |hit| hit.length) + slots.copy_cost()
}

/// Whether what is left behind on a free slot is worth a copy, before all but its first `kept` tokens are overwritten: no other slot holds
/// nearly all of it. What only one prompt ended with is seldom asked for again.
#[must_use]
pub fn worth_keeping(slots: &Slots, slot: usize, kept: usize) -> bool {
    let elsewhere = slots.elsewhere(slot).map_or(0, |hit| hit.length);
    slots.prompt_tokens(slot).len() >= kept.max(elsewhere) + COPIES_KEPT * slots.copy_cost()
}

/// The longest usable beginning of a sequence's prompt in any slot. One bound for `target` can use what is left there without a copy.
#[must_use]
pub fn find(slots: &Slots, sequence: &Sequence, target: usize) -> Option<Hit> {
    let here = Hit { slot: target, length: shared(slots.prompt_tokens(target), sequence.usable()) };
    let best = slots.there(sequence).unwrap_or(here);
    let worth_a_copy = best.length >= here.length + slots.copy_cost();
    Some(if worth_a_copy { best } else { here }).filter(|hit| hit.length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_longest_beginning_is_found_and_none_that_was_removed(
            prompts in prop::collection::vec(prop::collection::vec(0i32..2, 0..90), 1..12), asked in prop::collection::vec(0i32..2, 0..90),
            removed in 0usize..12, filled in prop::collection::vec(0usize..90, 12)
        ) {
            let mut index = Index::default();
            for (slot, prompt) in prompts.iter().enumerate() {
                index.insert(slot, &beginnings(prompt));
            }
            if let Some(prompt) = prompts.get(removed) {
                index.remove(removed, &beginnings(prompt));
            }
            let blocks = |slot: usize| shared(&prompts[slot], &asked).min(filled[slot]) / BLOCK * BLOCK;
            let expected = (0..prompts.len()).filter(|&slot| slot != removed).map(blocks).max().unwrap_or(0);
            let asked = beginnings(&asked);
            let (length, holders) = index.longest(&asked, |slot, tokens| filled[slot] >= tokens);
            let mut holders: Vec<usize> = holders.collect();
            holders.sort_unstable();
            prop_assert_eq!(length, expected);
            if length > 0 {
                let whoever: Vec<usize> = (0..prompts.len()).filter(|&slot| slot != removed && blocks(slot) == length).collect();
                prop_assert_eq!(holders, whoever);
            }
        }
    }
}
