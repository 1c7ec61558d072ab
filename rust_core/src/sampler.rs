//! What is read off a row of logits: the next token, and the odds of a decision. A token is a function of logits, settings, mask, history
//! and one random number, and of nothing else: no state is carried from token to token.
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
/// `generated` are the turn's tokens so far; `scratch` is reused between calls. `random` is asked for where chance has a say.
#[must_use]
#[allow(clippy::float_cmp)] // settings that switch something off are exact
pub fn choose(
    logits: &[f32],
    settings: &Sampling,
    generated: &[Token],
    mask: Option<&SimpleVob>,
    random: impl FnOnce() -> f64,
    scratch: &mut Vec<(f32, Token)>,
) -> Option<Token> {
    if settings.temperature == 0.0 && settings.repetition_penalty == 1.0 {
        return greatest(logits, mask);
    }
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
    let mut left = random() * total;
    for &(logit, token) in kept {
        left -= weight(logit);
        if left < 0.0 {
            return Some(token);
        }
    }
    // Rounding may leave a hair's breadth: it belongs to the last candidate.
    kept.last().map(|&(_, token)| token)
}

/// The likeliest token, without a list of all.
#[allow(clippy::float_cmp)] // one of the numbers is the greatest, to the bit
fn greatest(logits: &[f32], mask: Option<&SimpleVob>) -> Option<Token> {
    if let Some(mask) = mask {
        let allowed = mask.iter().take_while(|&token| (token as usize) < logits.len());
        let candidates = allowed.map(|token| (logits[token as usize], token.cast_signed()));
        return candidates.filter(|&(logit, _)| logit > f32::NEG_INFINITY).min_by(by_rank).map(|(_, token)| token);
    }
    // In lanes, which the compiler makes one instruction of; a comparison with what is no number is false.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let take = |lanes: &mut [f32], logits: &[f32]| {
        for (greatest, &logit) in lanes.iter_mut().zip(logits) {
            *greatest = if logit > *greatest { logit } else { *greatest };
        }
    };
    let chunks = logits.chunks_exact(lanes.len());
    take(&mut lanes, chunks.remainder());
    chunks.for_each(|chunk| take(&mut lanes, chunk));
    let greatest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if greatest == f32::NEG_INFINITY {
        return None;
    }
    let first = |matches: &dyn Fn(f32) -> bool| logits.iter().position(|&logit| matches(logit));
    // Zeros of both signs are equal, and yet not of one rank.
    let place = if greatest == 0.0 {
        first(&|logit| logit.to_bits() == 0).or_else(|| first(&|logit| logit == 0.0))
    } else {
        first(&|logit| logit == greatest)
    };
    place.map(|token| token as Token)
}

/// More likely first; among equals, the lower token id.
#[allow(clippy::trivially_copy_pass_by_ref)] // the form that sorting wants
fn by_rank(a: &(f32, Token), b: &(f32, Token)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// ln P(first) - ln P(second) of two texts, where a form decides between them, and `None` anywhere else.
///
/// It decides where every token that the mask allows, spaces before it aside, is a beginning of just one of the texts or begins with it.
/// Tokens of nothing but spaces may be allowed too, but none of them may be the one chosen. `logits` are the model's own; `spelling` gives
/// the bytes of a token, and `None` of one that ends the turn.
#[must_use]
pub fn log_odds<'a>(
    logits: &[f32],
    choices: &[String],
    mask: &SimpleVob,
    chosen: Token,
    spelling: impl Fn(Token) -> Option<&'a [u8]>,
) -> Option<f32> {
    let [first, second] = choices else { return None };
    let texts = [first.as_bytes(), second.as_bytes()];
    let mut sides = [Vec::new(), Vec::new()];
    let mut decided = false;
    // Free text allows thousands of tokens; one of the first few belongs to neither side, and ends the search.
    for token in mask.iter().take_while(|&token| (token as usize) < logits.len()) {
        let spelt = without_spaces(spelling(token.cast_signed())?);
        if spelt.is_empty() {
            continue;
        }
        let side = match texts.map(|text| spelt.starts_with(text) || text.starts_with(spelt)) {
            [true, false] => 0,
            [false, true] => 1,
            _ => return None,
        };
        sides[side].push(f64::from(logits[token as usize]));
        decided |= token.cast_signed() == chosen;
    }
    let odds = (log_sum_exp(&sides[0]) - log_sum_exp(&sides[1])) as f32;
    (decided && odds.is_finite()).then_some(odds)
}

fn without_spaces(spelt: &[u8]) -> &[u8] {
    let spaces = spelt.iter().take_while(|&&byte| byte == b' ').count();
    &spelt[spaces..]
}

/// ln of the sum of e^x, without overflow; minus infinity of nothing.
fn log_sum_exp(values: &[f64]) -> f64 {
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    greatest + values.iter().map(|value| (value - greatest).exp()).sum::<f64>().ln()
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
        choose(logits, settings, &[], None, || random, &mut Vec::new())
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

    proptest! {
        #[test]
        fn the_greatest_is_the_first_in_rank(
            logits in prop::collection::vec(prop_oneof![-3i8..3, Just(100i8)], 0..80), allowed in prop::collection::vec(any::<bool>(), 80)
        ) {
            let odd = |code: i8| match code { 100 => f32::NAN, -3 => f32::NEG_INFINITY, -2 => -0.0, code => f32::from(code.max(-1)) };
            let logits: Vec<f32> = logits.into_iter().map(odd).collect();
            let mut mask = SimpleVob::alloc(80);
            (0..80u32).filter(|&token| allowed[token as usize]).for_each(|token| mask.allow_token(token));
            let slow = |mask: Option<&SimpleVob>| {
                let all = (0..).zip(&logits).map(|(token, &logit)| (logit, token)).filter(|candidate: &(f32, Token)| {
                    candidate.0 > f32::NEG_INFINITY && mask.is_none_or(|mask| mask.is_allowed(candidate.1.cast_unsigned()))
                });
                all.min_by(by_rank).map(|(_, token)| token)
            };
            prop_assert_eq!(greatest(&logits, None), slow(None));
            prop_assert_eq!(greatest(&logits, Some(&mask)), slow(Some(&mask)));
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
            assert_eq!(choose(&[9.0, 9.0, 9.0, 0.0], &hot, &[], Some(&mask), || random, &mut vec![]), Some(3));
        }
        assert_eq!(choose(&[9.0; 4], &hot, &[], Some(&SimpleVob::alloc(4)), || 0.5, &mut vec![]), None);
        assert_eq!(pick(&[f32::NAN; 4], &hot, 0.5), None);
    }

    #[test]
    fn the_penalty_weighs_on_recent_tokens_only() {
        let settings = Sampling { repetition_penalty: 2.0, ..sampling() };
        let logits = [4.0, 3.0, -1.0];
        let greedy = |generated: &[Token]| choose(&logits, &settings, generated, None, || 0.0, &mut vec![]);
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

    /// A vocabulary of a few tokens; the last one ends the turn.
    const TOKENS: [&str; 11] = ["y", "yes", " yes", "n", "no", "  n", "no.", " ", "   ", "a", "</s>"];

    /// The log-odds of "yes" over "no" where these tokens are allowed, and the first of them is chosen.
    fn odds_among(allowed: &[(&str, f32)]) -> Option<f32> {
        let id = |name: &str| TOKENS.iter().position(|&token| token == name).unwrap();
        let mut mask = SimpleVob::alloc(TOKENS.len());
        // What the mask forbids is likelier than all it allows.
        let mut logits = [99.0; TOKENS.len()];
        for &(name, logit) in allowed {
            mask.allow_token(id(name) as u32);
            logits[id(name)] = logit;
        }
        let spelling = |token: Token| (token != 10).then_some(TOKENS[token as usize].as_bytes());
        log_odds(&logits, &["yes".to_owned(), "no".to_owned()], &mask, id(allowed[0].0) as Token, spelling)
    }

    fn assert_odds(allowed: &[(&str, f32)], expected: f32) {
        let odds = odds_among(allowed).unwrap_or_else(|| panic!("none among {allowed:?}"));
        assert!((odds - expected).abs() < 1e-6, "{odds} among {allowed:?}, not {expected}");
    }

    #[test]
    fn odds_are_those_of_all_the_tokens_of_a_text() {
        assert_odds(&[("yes", 3.0), ("no", 1.0)], 2.0);
        assert_odds(&[("no", 1.0), ("yes", 3.0)], 2.0);
        // ln(e^1 + e^1 + e^1) - ln(e^1)
        assert_odds(&[("y", 1.0), ("yes", 1.0), (" yes", 1.0), ("n", 1.0)], 3.0f32.ln());
        // The greatest logit need not win: ln(e^2) - ln(e^1.5 + e^1.5) < 0
        assert_odds(&[("y", 2.0), ("n", 1.5), ("no", 1.5)], 0.5 - 2.0f32.ln());
        // Logits that e^x would overflow, and differences that f32 would lose.
        assert_odds(&[("yes", 1000.0), ("y", 1000.0), ("no", 999.0)], 1.0 + 2.0f32.ln());
        assert_odds(&[("yes", -1000.0), ("no", 1000.0)], -2000.0);
    }

    #[test]
    fn spaces_before_a_text_and_what_follows_it_leave_a_token_its_side() {
        assert_odds(&[(" yes", 2.0), ("  n", 0.0)], 2.0);
        assert_odds(&[("yes", 0.0), ("no.", 2.0)], -2.0);
        // Spaces alone are on no side, however likely they are.
        assert_odds(&[("yes", 2.0), ("no", 1.0), (" ", 50.0), ("   ", 50.0)], 1.0);
        assert_eq!(odds_among(&[(" ", 50.0), ("yes", 2.0), ("no", 1.0)]), None, "nothing is decided by a space");
    }

    #[test]
    fn where_more_is_allowed_than_two_texts_nothing_is_decided() {
        let verdict = [("yes", 2.0), ("no", 1.0)];
        assert_eq!(odds_among(&[verdict[0], verdict[1], ("a", 0.0)]), None, "another text");
        assert_eq!(odds_among(&[verdict[0], verdict[1], ("</s>", 0.0)]), None, "the end");
        assert_eq!(odds_among(&[("yes", 2.0), ("y", 1.0), (" ", 0.0)]), None, "one side only");
        assert_eq!(odds_among(&[("no", 2.0)]), None, "no choice at all");
        assert_eq!(odds_among(&TOKENS.map(|token| (token, 0.0))), None, "free text");
        assert_eq!(odds_among(&[("yes", 2.0), ("no", f32::NEG_INFINITY)]), None, "infinite odds");
        assert_eq!(odds_among(&[("yes", 2.0), ("no", 1.0), ("n", f32::NAN)]), None, "odds that are no number");
    }

    #[test]
    fn a_common_beginning_belongs_to_neither_text() {
        let spelt = ["n", "nod", "not"];
        let choices = ["nod".to_owned(), "not".to_owned()];
        let odds = |allowed: &[bool]| {
            log_odds(&[0.0, 2.0, 1.0], &choices, &SimpleVob::from_slice(allowed), 1, |token| Some(spelt[token as usize].as_bytes()))
        };
        assert_eq!(odds(&[false, true, true]), Some(1.0));
        assert_eq!(odds(&[true, true, true]), None);
        let without = log_odds(&[0.0, 2.0, 1.0], &[], &SimpleVob::from_slice(&[false, true, true]), 1, |_| Some(b"nod"));
        assert_eq!(without, None, "no choices");
    }
}
