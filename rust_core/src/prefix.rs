//! Reuse of prompt tokens that are in KV already. Only prompt tokens are reused, never generated ones: those were decoded one by one,
//! and a prompt's tokens must not be (see [`crate::scheduler`]).

use crate::slots::{Slots, shared};
use crate::vocab::Token;

/// What would save fewer tokens than so many copies cost is not kept for turns that may never come.
const COPIES_KEPT: usize = 3;

/// Where a prompt's beginning is in KV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub slot: usize,
    /// Tokens that both prompts begin with; at least two tokens of the new prompt are left to prefill.
    pub length: usize,
}

/// Which of the prompts can use most of what `slot` holds, by what stands with it; the first of equals.
pub fn best<'a, P>(slots: &Slots, prompts: impl Iterator<Item = (P, &'a [Token])>, slot: usize) -> Option<P> {
    let held = slots.prompt_tokens(slot);
    let used = prompts.map(|(place, prompt)| (place, shared(held, prompt)));
    used.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(place, _)| place)
}

/// Whether a sequence in prefill will soon have more of a prompt in KV than any slot has now, by so much that it is worth a copy.
#[must_use]
pub fn is_coming(slots: &Slots, prompt: &[Token]) -> bool {
    let usable = &prompt[..prompt.len().saturating_sub(2)];
    let coming = slots.in_prefill().map(|sequence| shared(sequence.prompt(), usable)).max().unwrap_or(0);
    coming >= slots.copy_cost() && {
        let there = (0..slots.len()).map(|slot| shared(slots.prompt_tokens(slot), usable)).max().unwrap_or(0);
        coming >= there + slots.copy_cost()
    }
}

/// Whether what is left behind on a free slot is worth a copy, before all but its first `kept` tokens are overwritten: no other slot holds
/// nearly all of it. What only one prompt ended with is seldom asked for again.
#[must_use]
pub fn worth_keeping(slots: &Slots, slot: usize, kept: usize) -> bool {
    let held = slots.prompt_tokens(slot);
    held.len() >= kept.max(slots.elsewhere(slot, held)) + COPIES_KEPT * slots.copy_cost()
}

/// The longest usable beginning of `prompt` in any slot. A prompt bound for `target` can use what is left there without a copy.
#[must_use]
pub fn find(slots: &Slots, prompt: &[Token], target: usize) -> Option<Hit> {
    let usable = prompt.len().saturating_sub(2);
    let shared_with = |slot: usize| shared(slots.prompt_tokens(slot), &prompt[..usable]);
    let here = Hit { slot: target, length: shared_with(target) };
    let best = (0..slots.len())
        .map(|slot| Hit { slot, length: shared_with(slot) })
        .fold(here, |best, hit| if hit.length > best.length { hit } else { best });
    let worth_a_copy = best.length >= here.length + slots.copy_cost();
    Some(if worth_a_copy { best } else { here }).filter(|hit| hit.length > 0)
}
