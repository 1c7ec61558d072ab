//! What to decode next: a pure function of the slots' phases.
//!
//! Where each slot has a KV stream of its own, the rules that make a completion independent of its company (measured; see docs/architecture.md):
//! - each call to the model is a rectangle on adjacent slots that fits one sub-batch;
//! - no prompt token is prefilled alone, so a chunk is at least two tokens wide and never leaves one behind;
//! - generated tokens are decoded one by one.
//!
//! Where all slots share one KV no such thing can be promised, and a step is one batch of whatever there is.

/// What the sequence on a slot needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No sequence.
    Free,
    /// `remaining` prompt tokens, two or more; lower `order` was admitted earlier.
    Prefill { remaining: usize, order: u64 },
    /// One generated token.
    Decode,
}

/// A rectangle to build: `rows` slots from `first` on, `width` tokens each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: usize,
    pub rows: usize,
    pub width: usize,
}

/// The rectangles of prompt tokens of one step: together as many tokens as one rectangle may hold, `batch`, so that decoding sequences are
/// not starved. The oldest sequence in prefill is always served.
///
/// `batch` is at least [`MIN_BATCH`].
#[must_use]
pub fn prefill(phases: &[Phase], batch: usize) -> Vec<Span> {
    let mut left = phases.to_vec();
    let mut budget = batch;
    let mut spans = Vec::new();
    while let Some(span) = prefill_span(&left, budget) {
        left[span.first..span.first + span.rows].fill(Phase::Free);
        budget -= span.rows * span.width;
        spans.push(span);
    }
    spans
}

/// The least batch with which any prompt can be cut into chunks that are two or more wide and leave none behind of width one.
pub const MIN_BATCH: usize = 4;

fn remaining(phases: &[Phase], slot: usize) -> Option<usize> {
    match phases.get(slot) {
        Some(&Phase::Prefill { remaining, .. }) => Some(remaining),
        _ => None,
    }
}

/// Begin with the oldest sequence and take in neighbours for as long as that makes the rectangle larger.
fn prefill_span(phases: &[Phase], batch: usize) -> Option<Span> {
    let oldest = phases.iter().enumerate().filter_map(|(slot, phase)| match phase {
        Phase::Prefill { order, .. } => Some((*order, slot)),
        _ => None,
    });
    let (_, slot) = oldest.min()?;
    let mut best = Span { first: slot, rows: 1, width: chunk_width(phases, slot, 1, batch)? };
    loop {
        let up = Span { rows: best.rows + 1, ..best };
        let down = best.first.checked_sub(1).map(|first| Span { first, ..up });
        let grown = [Some(up), down].into_iter().flatten().filter_map(|span| {
            let width = chunk_width(phases, span.first, span.rows, batch)?;
            (span.rows * width > best.rows * best.width).then_some(Span { width, ..span })
        });
        match grown.max_by_key(|span| span.rows * span.width) {
            Some(span) => best = span,
            None => return Some(best),
        }
    }
}

/// The greatest width that all rows can take; `None` when a row is not in prefill or no width suits all.
fn chunk_width(phases: &[Phase], first: usize, rows: usize, batch: usize) -> Option<usize> {
    let mut shortest = usize::MAX;
    for slot in first..first + rows {
        shortest = shortest.min(remaining(phases, slot)?);
    }
    let greatest = shortest.min(batch / rows);
    let leaves_one = |width: usize| (first..first + rows).any(|slot| remaining(phases, slot) == Some(width + 1));
    (2..=greatest).rev().take(rows + 1).find(|&width| !leaves_one(width))
}

/// The rectangles of generated tokens of one step: one for each run of adjacent decoding slots.
#[must_use]
pub fn decode(phases: &[Phase], batch: usize) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (slot, phase) in phases.iter().enumerate() {
        if *phase != Phase::Decode {
            continue;
        }
        match spans.last_mut() {
            Some(span) if span.first + span.rows == slot && span.rows < batch => span.rows += 1,
            _ => spans.push(Span { first: slot, rows: 1, width: 1 }),
        }
    }
    spans
}

/// The rows of one step where all slots share one KV, as one batch in the order of slots: a token of each sequence that decodes, and with the rest of `batch` the
/// prompts, oldest first. There each row may be of any length, and nothing is promised of bits.
///
/// `batch` is greater than the number of decoding sequences, so that prompts get on as well.
#[must_use]
pub fn mixed(phases: &[Phase], batch: usize) -> Vec<Span> {
    let mut spans = decode(phases, batch);
    let mut budget = batch.saturating_sub(spans.iter().map(|span| span.rows).sum());
    let mut prompts: Vec<(u64, usize, usize)> = (0..)
        .zip(phases)
        .filter_map(|(slot, phase)| match *phase {
            Phase::Prefill { remaining, order } => Some((order, slot, remaining)),
            _ => None,
        })
        .collect();
    prompts.sort_unstable();
    for (_, first, remaining) in prompts {
        let width = remaining.min(budget);
        if width == 0 {
            break;
        }
        budget -= width;
        spans.push(Span { first, rows: 1, width });
    }
    spans.sort_unstable_by_key(|span| span.first);
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn phases() -> impl Strategy<Value = Vec<Phase>> {
        let phase = prop_oneof![
            Just(Phase::Free),
            Just(Phase::Decode),
            (2usize..40, 0u64..1000).prop_map(|(remaining, order)| Phase::Prefill { remaining, order }),
        ];
        prop::collection::vec(phase, 0..24)
    }

    proptest! {
        #[test]
        fn rectangles_keep_the_rules(phases in phases(), batch in MIN_BATCH..64) {
            let prompts = prefill(&phases, batch);
            prop_assert!(prompts.iter().map(|span| span.rows * span.width).sum::<usize>() <= batch);
            let spans = [prompts, decode(&phases, batch)].concat();
            let mut served = vec![0; phases.len()];
            for span in &spans {
                prop_assert!(span.rows * span.width <= batch);
                for slot in span.first..span.first + span.rows {
                    served[slot] += 1;
                    match phases[slot] {
                        Phase::Free => prop_assert!(false, "a free slot is decoded"),
                        Phase::Decode => prop_assert_eq!(span.width, 1),
                        Phase::Prefill { remaining, .. } => {
                            prop_assert!(span.width >= 2 && span.width <= remaining && remaining - span.width != 1);
                        }
                    }
                }
            }
            let oldest = phases.iter().filter_map(|phase| match phase { Phase::Prefill { order, .. } => Some(*order), _ => None }).min();
            for (phase, served) in phases.iter().zip(&served) {
                match phase {
                    Phase::Decode => prop_assert_eq!(*served, 1),
                    Phase::Prefill { .. } | Phase::Free => prop_assert!(*served <= 1),
                }
            }
            if let Some(oldest) = oldest {
                let progress = phases.iter().zip(&served).any(|(phase, served)| {
                    matches!(phase, Phase::Prefill { order, .. } if *order == oldest) && *served == 1
                });
                prop_assert!(progress, "the oldest prefill is not served");
            }
        }
    }

    proptest! {
        #[test]
        fn a_mixed_batch_serves_all_that_decode_and_the_oldest_prompts(phases in phases(), batch in 25usize..80) {
            let spans = mixed(&phases, batch);
            let mut served = vec![0; phases.len()];
            for span in &spans {
                for width in &mut served[span.first..span.first + span.rows] {
                    *width += span.width;
                }
            }
            let filled: usize = served.iter().sum();
            prop_assert!(filled <= batch);
            let mut cut = None;
            for (phase, &width) in phases.iter().zip(&served) {
                match *phase {
                    Phase::Free => prop_assert_eq!(width, 0),
                    Phase::Decode => prop_assert_eq!(width, 1),
                    Phase::Prefill { remaining, order } => {
                        prop_assert!(width <= remaining);
                        if width < remaining {
                            cut = cut.max(Some(std::cmp::Reverse(order)));
                        }
                    }
                }
            }
            if let Some(std::cmp::Reverse(first_cut)) = cut {
                prop_assert_eq!(filled, batch, "tokens were left out of a batch with room");
                for (phase, &width) in phases.iter().zip(&served) {
                    if let Phase::Prefill { order, .. } = *phase {
                        prop_assert!(width == 0 || order <= first_cut, "a younger prompt went before an older one");
                    }
                }
            }
        }
    }

    fn prompt(remaining: usize, order: u64) -> Phase {
        Phase::Prefill { remaining, order }
    }

    #[test]
    fn adjacent_decoding_slots_are_one_rectangle() {
        let phases = [Phase::Decode, Phase::Decode, Phase::Free, Phase::Decode];
        assert_eq!(decode(&phases, 512), [Span { first: 0, rows: 2, width: 1 }, Span { first: 3, rows: 1, width: 1 }]);
    }

    #[test]
    fn turns_that_start_together_prefill_together() {
        let phases = [Phase::Decode, prompt(60, 3), prompt(60, 2), prompt(61, 4)];
        // 60 would leave one token of the last, 59 one of the others.
        assert_eq!(prefill(&phases, 512), [Span { first: 1, rows: 3, width: 58 }]);
    }

    #[test]
    fn a_short_neighbour_does_not_narrow_a_long_prompt() {
        let spans = [Span { first: 0, rows: 1, width: 400 }, Span { first: 1, rows: 1, width: 5 }];
        assert_eq!(prefill(&[prompt(400, 1), prompt(5, 2)], 512), spans);
    }

    #[test]
    fn a_chunk_never_leaves_one_token() {
        assert_eq!(prefill(&[prompt(513, 1)], 512)[0].width, 511);
        assert_eq!(prefill(&[prompt(5, 1)], 4)[0].width, 3);
    }
}
