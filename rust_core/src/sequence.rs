//! A turn in flight.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::grammar::Form;
use crate::prefix::beginnings;
use crate::sampler::{choose, log_odds, uniform};
use crate::scheduler::Phase;
use crate::turn::{Completion, Facts, Finish, Outcome, Source, Turn, numbered_path};
use crate::vocab::{Token, Tokenizer};

/// A turn, its tokens, and how far it is.
pub struct Sequence {
    pub turn: Arc<Turn>,
    prompt: Vec<Token>,
    /// Hashes of the prompt's beginnings.
    beginnings: Vec<u64>,
    /// Tokens in KV, of the prompt and then of those generated.
    in_kv: usize,
    generated: Vec<Token>,
    max_tokens: usize,
    form: Option<Form>,
    /// Whether a token that ends a turn does.
    may_end: bool,
    text: Vec<u8>,
    finish: Option<Finish>,
    /// Order of arrival, which a sequence keeps that has to wait again.
    pub arrival: u64,
    /// Order of admission, for the scheduler.
    order: u64,
    facts: Facts,
    times: Times,
    scratch: Vec<(f32, Token)>,
}

struct Times {
    submitted: Instant,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
}

impl Sequence {
    /// A turn with its prompt's tokens, before it has a slot. `max_tokens` is the turn's budget within the context.
    #[must_use]
    pub fn new(turn: impl Into<Arc<Turn>>, prompt: Vec<Token>, max_tokens: usize, form: Option<Form>) -> Self {
        let facts = Facts { prompt_tokens: count(prompt.len()), ..Facts::default() };
        let times = Times { submitted: Instant::now(), admitted: None, first_token: None };
        Self {
            turn: turn.into(),
            beginnings: beginnings(&prompt),
            prompt,
            in_kv: 0,
            generated: Vec::new(),
            max_tokens,
            form,
            may_end: true,
            text: Vec::new(),
            finish: None,
            arrival: 0,
            order: 0,
            facts,
            times,
            scratch: Vec::new(),
        }
    }

    /// Whether a form binds what is generated.
    #[must_use]
    pub fn has_form(&self) -> bool {
        self.form.is_some()
    }

    /// Go on to the end of the budget, whatever the model says.
    #[must_use]
    pub fn without_end(self) -> Self {
        Self { may_end: false, ..self }
    }

    /// The prompt's tokens.
    #[must_use]
    pub fn prompt(&self) -> &[Token] {
        &self.prompt
    }

    /// The prompt's tokens of which KV may be taken over: at least two are left to prefill.
    #[must_use]
    pub fn usable(&self) -> &[Token] {
        &self.prompt[..self.prompt.len().saturating_sub(2)]
    }

    /// Hashes of the prompt's beginnings of whole blocks (see [`crate::prefix`]).
    #[must_use]
    pub fn beginnings(&self) -> &[u64] {
        &self.beginnings
    }

    /// The prompt tokens that are in KV.
    #[must_use]
    pub fn prompt_in_kv(&self) -> &[Token] {
        &self.prompt[..self.in_kv.min(self.prompt.len())]
    }

    /// Number of tokens in KV.
    #[must_use]
    pub fn in_kv(&self) -> usize {
        self.in_kv
    }

    /// Number of tokens known so far, of the prompt and generated.
    #[must_use]
    pub fn length(&self) -> usize {
        self.prompt.len() + self.generated.len()
    }

    /// The sequence gets a slot whose KV holds its first `cached` tokens.
    pub fn admit(&mut self, order: u64, cached: usize) {
        self.order = order;
        self.in_kv = cached;
        if self.times.admitted.is_none() {
            self.facts.cached_tokens = count(cached);
            self.times.admitted = Some(Instant::now());
        }
    }

    /// The sequence loses its slot and has to wait for another. What it has generated stands: those tokens will be decoded again, one by
    /// one as they were the first time, so that the same bits come out.
    pub fn preempt(&mut self) {
        self.in_kv = 0;
    }

    /// What the sequence needs next.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.prompt.len().saturating_sub(self.in_kv) {
            0 => Phase::Decode,
            remaining => Phase::Prefill { remaining, order: self.order },
        }
    }

    /// The next `width` tokens for the model, the position of the first, and whether logits are wanted after the last.
    ///
    /// # Panics
    /// When a decoding sequence is asked for more than its one token: an error of the scheduler.
    #[must_use]
    pub fn next_tokens(&self, width: usize) -> (&[Token], usize, bool) {
        let end = self.in_kv + width;
        // No logits are wanted where the next token is known already.
        let output = end == self.length();
        if let Some(tokens) = self.prompt.get(self.in_kv..end) {
            return (tokens, self.in_kv, output);
        }
        assert_eq!(width, 1, "generated tokens are decoded one by one");
        let at = self.in_kv - self.prompt.len();
        (&self.generated[at..=at], self.in_kv, output)
    }

    /// The model has taken the tokens of [`Sequence::next_tokens`].
    pub fn advance(&mut self, width: usize) {
        self.in_kv += width;
    }

    /// Choose the next token from the logits after the last one.
    ///
    /// # Errors
    /// [`Error::Sampling`] when there is nothing to choose from.
    pub fn sample(&mut self, logits: &[f32], tokenizer: &Tokenizer) -> Result<()> {
        self.times.first_token.get_or_insert_with(Instant::now);
        let settings = &self.turn.sampling;
        let random = || uniform(self.turn.key, self.generated.len() as u64);
        let path = || numbered_path(&self.turn.path, self.turn.attempt);
        let free = choose(logits, settings, &self.generated, None, random, &mut self.scratch)
            .ok_or_else(|| Error::Sampling { path: path(), reason: "the model gave no usable logits".into() })?;
        let token = match self.form.as_mut().map(Form::mask) {
            None => free,
            Some(mask) => {
                let bound = mask.ok().and_then(|mask| {
                    let token = choose(logits, settings, &self.generated, Some(&mask), random, &mut self.scratch)?;
                    Some((token, mask))
                });
                let Some((bound, mask)) = bound else {
                    // The form allows nothing, or llguidance gave up on it: that follows from the request, so it is an outcome.
                    self.finish = Some(Finish::None);
                    return Ok(());
                };
                self.facts.masked_tokens += u32::from(!mask.is_allowed(free.cast_unsigned()));
                let spelling = |token| (!tokenizer.ends_turn(token)).then(|| tokenizer.bytes(token));
                // Only the first place counts, where a form decides more than once.
                self.facts.log_odds = self.facts.log_odds.or_else(|| log_odds(logits, &settings.choices, &mask, bound, spelling));
                bound
            }
        };
        if self.may_end && tokenizer.ends_turn(token) {
            self.finish = Some(if self.form.is_some() { Finish::Form } else { Finish::Eos });
            return Ok(());
        }
        self.generated.push(token);
        let before = self.text.len();
        self.text.extend_from_slice(tokenizer.bytes(token));
        let complete = match &mut self.form {
            Some(form) => form.accept(token),
            None => Ok(false),
        };
        let Ok(complete) = complete else {
            self.finish = Some(Finish::None);
            return Ok(());
        };
        self.finish = if complete {
            Some(Finish::Form)
        } else if self.cut_at_stop(before) {
            Some(Finish::Stop)
        } else if self.generated.len() >= self.max_tokens {
            Some(Finish::Length)
        } else {
            None
        };
        Ok(())
    }

    /// Whether the sequence is complete.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    /// The completion of a finished sequence.
    #[must_use]
    pub fn complete(self) -> (Arc<Turn>, Completion) {
        let finish = self.finish.unwrap_or(Finish::None);
        // A form that a stop text or the budget cut is not complete, even where the grammar could have ended there.
        let outcome = if self.form.is_some() && finish != Finish::Form { Outcome::FormFailed } else { Outcome::Text };
        let now = Instant::now();
        let admitted = self.times.admitted.unwrap_or(now);
        let first_token = self.times.first_token.unwrap_or(now);
        let facts = Facts {
            generated_tokens: count(self.generated.len()),
            queued: admitted - self.times.submitted,
            prefill: first_token.saturating_duration_since(admitted),
            decode: now - first_token,
            ..self.facts
        };
        let completion = Completion {
            scene: self.turn.scene,
            path: self.turn.path.clone(),
            attempt: self.turn.attempt,
            request: self.turn.request,
            outcome,
            finish,
            text: String::from_utf8_lossy(&self.text).into_owned(),
            source: Source::Model,
            facts,
        };
        (self.turn, completion)
    }

    /// Cut the text before the first stop text that the bytes from `before` on complete.
    fn cut_at_stop(&mut self, before: usize) -> bool {
        let first = self.turn.sampling.stop.iter().filter_map(|stop| {
            let from = before.saturating_sub(stop.len() - 1);
            self.text[from..].windows(stop.len()).position(|window| window == stop.as_bytes()).map(|at| from + at)
        });
        let Some(at) = first.min() else { return false };
        self.text.truncate(at);
        true
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
