//! The next token from a row of logits. A choice is a function of logits, settings, mask, history and one random number, and of nothing
//! else: no state is carried from token to token.
//!
//! Order: mask, repetition penalty, temperature, top-k, top-p, min-p; then one number in [0, 1) picks from what is left. Ties go to the
//! lowest token id everywhere.

use std::cmp::Ordering;

use toktrie::SimpleVob;

use crate::hash::{Hash, Hasher};
use crate::turn::Sampling;
use crate::vocab::Token;

/// Generated tokens that the repetition penalty looks back on. Prompt tokens are not penalised: a role's name has to be repeated.
pub const PENALTY_WINDOW: usize = 64;

/// The random number of a turn at a token: uniform in [0, 1), a function of the turn's key and the token's index alone.
#[must_use]
pub fn uniform(key: Hash, index: u64) -> f64 {
    let bytes = Hasher::new("matrix.uniform.1").hash(key).int(index).finish().0;
    let word = u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]);
    // 53 bits: what an f64 in [0, 1) holds.
    #[allow(clippy::cast_precision_loss)]
    let fraction = (word >> 11) as f64 / (1u64 << 53) as f64;
    fraction
}

/// Choose a token, or `None` when there is nothing to choose from: an empty mask, or no logit that is a number.
///
/// `generated` are the turn's tokens so far; `scratch` is reused between calls.
#[must_use]
pub fn choose(
    logits: &[f32],
    settings: &Sampling,
    generated: &[Token],
    mask: Option<&SimpleVob>,
    random: f64,
    scratch: &mut Vec<(f32, Token)>,
) -> Option<Token> {
    scratch.clear();
    scratch.extend((0..).zip(logits).map(|(token, &logit)| (logit, token)).filter(|&(logit, token): &(f32, Token)| {
        logit > f32::NEG_INFINITY && mask.is_none_or(|mask| mask.is_allowed(token.cast_unsigned()))
    }));
    penalise(scratch, settings.repetition_penalty, generated);
    let greatest = scratch.iter().copied().min_by(by_rank)?;
    if settings.temperature == 0.0 {
        return Some(greatest.1);
    }
    let temperature = f64::from(settings.temperature);
    let weight = |logit: f32| (f64::from(logit - greatest.0) / temperature).exp();
    let kept = truncate(scratch, settings, weight);
    let total: f64 = kept.iter().map(|&(logit, _)| weight(logit)).sum();
    let mut left = random * total;
    for &(logit, token) in kept {
        left -= weight(logit);
        if left < 0.0 {
            return Some(token);
        }
    }
    // Rounding may leave a hair's breadth: it belongs to the last candidate.
    kept.last().map(|&(_, token)| token)
}

/// More likely first; among equals, the lower token id.
#[allow(clippy::trivially_copy_pass_by_ref)] // the form that sorting wants
fn by_rank(a: &(f32, Token), b: &(f32, Token)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn penalise(candidates: &mut [(f32, Token)], penalty: f32, generated: &[Token]) {
    #[allow(clippy::float_cmp)]
    if penalty == 1.0 {
        return;
    }
    let mut recent = generated[generated.len().saturating_sub(PENALTY_WINDOW)..].to_vec();
    recent.sort_unstable();
    recent.dedup();
    for token in recent {
        // Candidates are in the order of their ids.
        if let Ok(at) = candidates.binary_search_by_key(&token, |&(_, id)| id) {
            let logit = &mut candidates[at].0;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// The candidates that top-k, top-p and min-p leave; all of them, in the order of their ids, when none is set.
fn truncate<'a>(candidates: &'a mut [(f32, Token)], settings: &Sampling, weight: impl Fn(f32) -> f64) -> &'a [(f32, Token)] {
    if settings.top_k == 0 && settings.top_p >= 1.0 && settings.min_p == 0.0 {
        return candidates;
    }
    let all = candidates.len();
    let limit = if settings.top_k == 0 { all } else { all.min(settings.top_k as usize) };
    // Sorting a whole vocabulary costs milliseconds, and the few likeliest candidates nearly always suffice: sort a growing head.
    let mut sorted = 0;
    let mut sort_to = |candidates: &mut [(f32, Token)], upto: usize| {
        if upto > sorted {
            if upto < all {
                candidates.select_nth_unstable_by(upto - 1, by_rank);
            }
            candidates[..upto].sort_unstable_by(by_rank);
            sorted = upto;
        }
    };
    let total: f64 = if limit < all {
        sort_to(candidates, limit);
        candidates[..limit].iter().map(|&(logit, _)| weight(logit)).sum()
    } else {
        candidates.iter().map(|&(logit, _)| weight(logit)).sum()
    };
    let (top_p, min_p) = (f64::from(settings.top_p), f64::from(settings.min_p));
    let (mut kept, mut reached, mut head) = (0, 0.0, limit.min(64));
    loop {
        sort_to(candidates, head);
        while kept < head {
            let probability = weight(candidates[kept].0);
            // The likeliest candidate has weight 1 and always stays.
            if kept > 0 && (reached >= top_p * total || probability < min_p) {
                return &candidates[..kept];
            }
            reached += probability;
            kept += 1;
        }
        if head == limit {
            return &candidates[..limit];
        }
        head = limit.min(head * 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::tests::sampling;
    use proptest::prelude::*;

    fn pick(logits: &[f32], settings: &Sampling, random: f64) -> Option<Token> {
        choose(logits, settings, &[], None, random, &mut Vec::new())
    }

    /// What the documentation says, written the slow and plain way.
    fn reference(logits: &[f32], settings: &Sampling, random: f64) -> Token {
        let mut order: Vec<(f32, Token)> = (0..).zip(logits).map(|(token, &logit)| (logit, token)).collect();
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| (f64::from(logit - greatest) / f64::from(settings.temperature)).exp();
        if settings.top_k > 0 || settings.top_p < 1.0 || settings.min_p > 0.0 {
            order.sort_by(by_rank);
            if settings.top_k > 0 {
                order.truncate(settings.top_k as usize);
            }
            let total: f64 =
                if settings.top_k > 0 { order.iter().map(|c| weight(c.0)).sum() } else { logits.iter().map(|&l| weight(l)).sum() };
            let mut reached = 0.0;
            let mut kept = vec![];
            for &candidate in &order {
                if !kept.is_empty() && (reached >= f64::from(settings.top_p) * total || weight(candidate.0) < f64::from(settings.min_p)) {
                    break;
                }
                reached += weight(candidate.0);
                kept.push(candidate);
            }
            order = kept;
        }
        let total: f64 = order.iter().map(|c| weight(c.0)).sum();
        let mut left = random * total;
        for &(logit, token) in &order {
            left -= weight(logit);
            if left < 0.0 {
                return token;
            }
        }
        order.last().unwrap().1
    }

    proptest! {
        #[test]
        fn choices_are_those_of_the_plain_description(
            // Few distinct logits, so that there are many ties; sizes past the first sorted heads.
            logits in prop::collection::vec((-12i8..12).prop_map(|x| f32::from(x) / 2.0), 1..1500),
            temperature in 0.1f32..3.0, top_k in 0u32..200, top_p in 0.01f32..=1.0, min_p in 0.0f32..0.9, random in 0.0f64..1.0,
            use_k: bool, use_p: bool, use_min: bool,
        ) {
            let settings = Sampling {
                temperature,
                top_k: if use_k { top_k } else { 0 },
                top_p: if use_p { top_p } else { 1.0 },
                min_p: if use_min { min_p } else { 0.0 },
                ..sampling()
            };
            prop_assert_eq!(pick(&logits, &settings, random), Some(reference(&logits, &settings, random)));
        }
    }

    #[test]
    fn ties_go_to_the_lowest_id() {
        assert_eq!(pick(&[1.0, 3.0, 3.0, 2.0], &sampling(), 0.9), Some(1));
        let one = Sampling { temperature: 1.0, top_k: 1, ..sampling() };
        assert_eq!(pick(&[1.0, 3.0, 3.0, 2.0], &one, 0.9), Some(1));
    }

    #[test]
    fn a_mask_leaves_only_what_it_allows() {
        let mut mask = SimpleVob::alloc(4);
        mask.allow_token(3);
        let hot = Sampling { temperature: 5.0, ..sampling() };
        for random in [0.0, 0.5, 0.999] {
            assert_eq!(choose(&[9.0, 9.0, 9.0, 0.0], &hot, &[], Some(&mask), random, &mut vec![]), Some(3));
        }
        assert_eq!(choose(&[9.0; 4], &hot, &[], Some(&SimpleVob::alloc(4)), 0.5, &mut vec![]), None);
        assert_eq!(pick(&[f32::NAN; 4], &hot, 0.5), None);
    }

    #[test]
    fn the_penalty_weighs_on_recent_tokens_only() {
        let settings = Sampling { repetition_penalty: 2.0, ..sampling() };
        let logits = [4.0, 3.0, -1.0];
        let greedy = |generated: &[Token]| choose(&logits, &settings, generated, None, 0.0, &mut vec![]);
        assert_eq!(greedy(&[]), Some(0));
        assert_eq!(greedy(&[0]), Some(1));
        assert_eq!(greedy(&[0, 1]), Some(0));
        let mut long = vec![0];
        long.extend([2; PENALTY_WINDOW]);
        assert_eq!(greedy(&long), Some(0));
    }

    #[test]
    fn random_numbers_are_uniform_and_depend_on_key_and_index() {
        let key = Hash::of(b"key");
        let numbers: Vec<f64> = (0..4000).map(|i| uniform(key, i)).collect();
        assert!(numbers.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = numbers.iter().sum::<f64>() / 4000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert!((uniform(key, 0) - uniform(Hash::of(b"other"), 0)).abs() > 1e-9);
    }

    #[test]
    fn frequencies_follow_the_weights() {
        let hot = Sampling { temperature: 1.0, ..sampling() };
        let logits = [0.0, 2.0f32.ln(), 5.0f32.ln()];
        let mut counts = [0.0_f64; 3];
        for i in 0..8000 {
            let token = pick(&logits, &hot, uniform(Hash::of(b"k"), i)).unwrap();
            counts[usize::try_from(token).unwrap()] += 1.0 / 8000.0;
        }
        for (share, expected) in counts.into_iter().zip([0.125_f64, 0.25, 0.625]) {
            assert!((share - expected).abs() < 0.02, "{share} instead of {expected}");
        }
    }
}
