//! What to decode next: a pure function of the slots' phases.
//!
//! The rules that make a completion independent of its company (measured; see docs/architecture.md):
//! - each call to the model is a rectangle on adjacent slots that fits one sub-batch;
//! - no prompt token is prefilled alone, so a chunk is at least two tokens wide and never leaves one behind;
//! - generated tokens are decoded one by one.

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

/// The rectangles of one step: at most one chunk of prefill, so that decoding sequences are not starved, then one rectangle for each run
/// of adjacent decoding slots. The oldest sequence in prefill is always served.
///
/// `batch` is the number of tokens that one rectangle may hold, at least [`MIN_BATCH`].
#[must_use]
pub fn plan(phases: &[Phase], batch: usize) -> Vec<Span> {
    prefill_span(phases, batch).into_iter().chain(decode_spans(phases, batch)).collect()
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

fn decode_spans(phases: &[Phase], batch: usize) -> Vec<Span> {
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
            let spans = plan(&phases, batch);
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

    fn prefill(remaining: usize, order: u64) -> Phase {
        Phase::Prefill { remaining, order }
    }

    #[test]
    fn adjacent_decoding_slots_are_one_rectangle() {
        let phases = [Phase::Decode, Phase::Decode, Phase::Free, Phase::Decode];
        assert_eq!(plan(&phases, 512), [Span { first: 0, rows: 2, width: 1 }, Span { first: 3, rows: 1, width: 1 }]);
    }

    #[test]
    fn turns_that_start_together_prefill_together() {
        let phases = [Phase::Decode, prefill(60, 3), prefill(60, 2), prefill(61, 4)];
        // 60 would leave one token of the last, 59 one of the others.
        assert_eq!(plan(&phases, 512)[0], Span { first: 1, rows: 3, width: 58 });
    }

    #[test]
    fn a_short_neighbour_does_not_narrow_a_long_prompt() {
        assert_eq!(plan(&[prefill(400, 1), prefill(5, 2)], 512)[0], Span { first: 0, rows: 1, width: 400 });
    }

    #[test]
    fn a_chunk_never_leaves_one_token() {
        assert_eq!(plan(&[prefill(513, 1)], 512)[0].width, 511);
        assert_eq!(plan(&[prefill(5, 1)], 4)[0].width, 3);
    }
}
