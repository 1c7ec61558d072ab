//! Reuse of prompt tokens that are in KV already. Only prompt tokens are reused, never generated ones: those were decoded one by one,
//! and a prompt's tokens must not be (see [`crate::scheduler`]).

use crate::slots::Slots;
use crate::vocab::Token;

/// Copying a stream costs about as much as prefilling this many tokens (measured on a 135M model; more on a larger one, where reuse
/// pays sooner).
const MIN_COPY: usize = 16;

/// Where a prompt's beginning is in KV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub slot: usize,
    /// Tokens that both prompts begin with; at least two tokens of the new prompt are left to prefill.
    pub length: usize,
}

/// The longest usable beginning of `prompt` in any slot. A prompt bound for `target` can use what is left there without a copy.
#[must_use]
pub fn find(slots: &Slots, prompt: &[Token], target: usize) -> Option<Hit> {
    let usable = prompt.len().saturating_sub(2);
    let shared = |slot: usize| {
        let tokens = slots.prompt_tokens(slot);
        tokens.iter().zip(&prompt[..usable]).take_while(|(a, b)| a == b).count()
    };
    let here = Hit { slot: target, length: shared(target) };
    let best = (0..slots.len())
        .map(|slot| Hit { slot, length: shared(slot) })
        .fold(here, |best, hit| if hit.length > best.length { hit } else { best });
    let worth_a_copy = best.length >= here.length + MIN_COPY;
    Some(if worth_a_copy { best } else { here }).filter(|hit| hit.length > 0)
}
