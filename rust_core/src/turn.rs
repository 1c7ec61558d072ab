//! A turn: one request to the model, what identifies it, and its completion.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::hash::{Hash, Hasher};

/// A piece of a prompt. Trusted text comes from the chat template and the prompt files and may name special tokens; untrusted text
/// (instructions, completions) never makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub text: String,
    pub trusted: bool,
}

/// How the tokens of a turn are chosen, and where they end.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Most tokens to generate; the context limit may allow fewer.
    pub max_tokens: u32,
    /// 0 is greedy: the greatest logit, ties to the lowest token id.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most likely tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divide the positive and multiply the negative logits of the last generated tokens by this; 1 leaves them.
    pub repetition_penalty: f32,
    /// Texts that end the turn; the completion stops before the first of them.
    pub stop: Vec<String>,
    /// A Lark grammar that binds the completion; see [`crate::grammar`].
    pub form: Option<String>,
    /// The two texts between which the form decides; their log-odds are recorded. Empty: none. Not part of the request's hash: it changes
    /// nothing of what is said.
    pub choices: Vec<String>,
}

impl Sampling {
    /// # Errors
    /// [`Error::Setting`] for the first setting that is out of range.
    pub fn check(&self) -> Result<()> {
        let within = |name, value: f32, ok: bool, expected| {
            if ok { Ok(()) } else { Err(Error::Setting { name, value: value.to_string(), expected }) }
        };
        if self.max_tokens == 0 {
            return Err(Error::Setting { name: "max_tokens", value: "0".into(), expected: "at least 1" });
        }
        within("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "between 0 and 100")?;
        within("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        within("min_p", self.min_p, (0.0..1.0).contains(&self.min_p), "at least 0 and below 1")?;
        let penalty = self.repetition_penalty;
        within("repetition_penalty", penalty, (1.0..=10.0).contains(&penalty), "between 1 and 10")?;
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::Setting { name: "stop", value: "''".into(), expected: "a list of texts, none of them empty" });
        }
        self.check_choices()
    }

    fn check_choices(&self) -> Result<()> {
        let apart = match self.choices.as_slice() {
            [] => true,
            // Every text begins with an empty one.
            [first, second] => !first.starts_with(second.as_str()) && !second.starts_with(first.as_str()),
            _ => false,
        };
        let expected = "no texts, or two that are not empty and neither the beginning of the other";
        if apart { Ok(()) } else { Err(Error::Setting { name: "choices", value: format!("{:?}", self.choices), expected }) }
    }

    fn hash(&self) -> Hash {
        let floats = [self.temperature, self.top_p, self.min_p, self.repetition_penalty];
        let mut hasher = Hasher::new("matrix.sampling.1");
        hasher.int(u64::from(self.max_tokens)).int(u64::from(self.top_k));
        for value in floats {
            // + 0.0 makes -0 equal to 0, as it is for sampling.
            hasher.int(u64::from((value + 0.0).to_bits()));
        }
        hasher.int(self.stop.len() as u64);
        for stop in &self.stop {
            hasher.text(stop);
        }
        hasher.int(u64::from(self.form.is_some())).text(self.form.as_deref().unwrap_or_default()).finish()
    }
}

/// One request to the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    pub scene: Hash,
    /// Name of the turn in its scene, for example `step/2/react/doctor`.
    pub path: String,
    /// 1 for the first try; a form that failed is tried again as 2 and 3.
    pub attempt: u32,
    /// What the turn is for, for example `react`; settings are chosen by it. The engine does not read it.
    pub kind: String,
    pub segments: Vec<Segment>,
    /// The addresses of the segments' texts, in their order.
    pub texts: Vec<Hash>,
    pub sampling: Sampling,
    pub sampling_hash: Hash,
    /// The source of the turn's random numbers: a function of run seed, scene and path (with attempt), and of nothing else.
    pub key: Hash,
    /// Identity of the whole request: segments, sampling and random key. The same request has the same completion on the same model.
    pub request: Hash,
    /// Of the turns that wait, those of the lowest rank go first. It is no part of the request: it changes nothing of what is said.
    pub rank: u64,
}

impl Turn {
    /// # Errors
    /// [`Error::Setting`] when a setting is out of range.
    pub fn new(
        seed: u64,
        scene: Hash,
        path: String,
        attempt: u32,
        kind: String,
        segments: Vec<Segment>,
        sampling: Sampling,
    ) -> Result<Self> {
        sampling.check()?;
        if path.contains('#') {
            return Err(Error::Setting { name: "path", value: path, expected: "without '#', which numbers attempts" });
        }
        if attempt == 0 {
            return Err(Error::Setting { name: "attempt", value: "0".into(), expected: "at least 1" });
        }
        let key = random_key(seed, scene, &numbered_path(&path, attempt));
        let texts: Vec<Hash> = segments.iter().map(|segment| Hash::of(segment.text.as_bytes())).collect();
        let sampling_hash = sampling.hash();
        let request = request(texts.iter().copied().zip(segments.iter().map(|segment| segment.trusted)), sampling_hash, key);
        Ok(Self { scene, path, attempt, kind, segments, texts, sampling, sampling_hash, key, request, rank: 0 })
    }
}

/// Identity of a request: the addresses of its segments, each with whether it is trusted, then the hash of its settings and its key.
#[must_use]
pub fn request(segments: impl ExactSizeIterator<Item = (Hash, bool)>, sampling: Hash, key: Hash) -> Hash {
    let mut hasher = Hasher::new("matrix.request.1");
    hasher.int(segments.len() as u64);
    for (text, trusted) in segments {
        hasher.int(u64::from(trusted)).hash(text);
    }
    hasher.hash(sampling).hash(key).finish()
}

/// The path with its attempt: `cast/ego`, then `cast/ego#2`.
#[must_use]
pub fn numbered_path(path: &str, attempt: u32) -> String {
    if attempt == 1 { path.to_owned() } else { format!("{path}#{attempt}") }
}

/// The key that a turn's random numbers come from.
#[must_use]
pub fn random_key(seed: u64, scene: Hash, numbered_path: &str) -> Hash {
    Hasher::new("matrix.random.1").int(seed).hash(scene).text(numbered_path).finish()
}

/// What became of a turn, as far as it is a function of the request and the model. Anything else is an [`Error`], not a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The text is what was asked for.
    Text,
    /// The turn ended before its form was complete.
    FormFailed,
    /// The prompt leaves no room in the context.
    TooLong,
}

/// What ended a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so, with an end-of-generation or another control token.
    Eos,
    /// A stop text came up.
    Stop,
    /// The form is complete.
    Form,
    /// The budget or the context was used up.
    Length,
    /// Nothing more could be generated: the prompt is too long, or the form allows no token.
    None,
}

/// Who said a completion. It stands beside the events, unhashed: replay takes every recorded completion alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The run's own model.
    #[default]
    Model,
    /// An older log, in which the same request was answered.
    Reused,
    /// Whoever forked the run.
    Edited,
}

macro_rules! names {
    ($type:ty, $($variant:ident = $name:literal),+) => {
        impl $type {
            /// The name in the log.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The variant of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

names!(Outcome, Text = "text", FormFailed = "form_failed", TooLong = "too_long");
names!(Finish, Eos = "eos", Stop = "stop", Form = "form", Length = "length", None = "none");
names!(Source, Model = "model", Reused = "reused", Edited = "edited");

/// What the engine measured of a turn. Facts stand beside the events, unhashed: batching may change them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facts {
    pub prompt_tokens: u32,
    /// Prompt tokens whose KV was reused.
    pub cached_tokens: u32,
    pub generated_tokens: u32,
    /// Generated tokens at which the token chosen without the form's mask would have broken the form.
    pub masked_tokens: u32,
    /// ln P(first) - ln P(second) of the turn's two choices, by the model's own logits where the form decided between them, in nats.
    pub log_odds: Option<f32>,
    /// From submission to a slot; from there to the first token; from there to the last.
    pub queued: Duration,
    pub prefill: Duration,
    pub decode: Duration,
}

/// The model's answer to a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub scene: Hash,
    pub path: String,
    pub attempt: u32,
    pub request: Hash,
    pub outcome: Outcome,
    pub finish: Finish,
    pub text: String,
    pub source: Source,
    pub facts: Facts,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn sampling() -> Sampling {
        Sampling {
            max_tokens: 8,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            stop: vec![],
            form: None,
            choices: vec![],
        }
    }

    fn turn(seed: u64, path: &str, attempt: u32, text: &str, trusted: bool, sampling: Sampling) -> Turn {
        let segments = vec![Segment { text: text.to_owned(), trusted }];
        Turn::new(seed, Hash::of(b"scene"), path.to_owned(), attempt, "react".to_owned(), segments, sampling).unwrap()
    }

    #[test]
    fn every_part_of_a_request_is_in_its_hash() {
        let base = turn(7, "a", 1, "hello", false, sampling());
        assert_eq!(base.request, turn(7, "a", 1, "hello", false, sampling()).request);
        let others = [
            turn(8, "a", 1, "hello", false, sampling()),
            turn(7, "b", 1, "hello", false, sampling()),
            turn(7, "a", 2, "hello", false, sampling()),
            turn(7, "a", 1, "hullo", false, sampling()),
            turn(7, "a", 1, "hello", true, sampling()),
            turn(7, "a", 1, "hello", false, Sampling { max_tokens: 9, ..sampling() }),
            turn(7, "a", 1, "hello", false, Sampling { temperature: 0.5, ..sampling() }),
            turn(7, "a", 1, "hello", false, Sampling { top_k: 3, ..sampling() }),
            turn(7, "a", 1, "hello", false, Sampling { top_p: 0.5, ..sampling() }),
            turn(7, "a", 1, "hello", false, Sampling { min_p: 0.5, ..sampling() }),
            turn(7, "a", 1, "hello", false, Sampling { repetition_penalty: 1.5, ..sampling() }),
            turn(7, "a", 1, "hello", false, Sampling { stop: vec!["x".into()], ..sampling() }),
            turn(7, "a", 1, "hello", false, Sampling { form: Some(String::new()), ..sampling() }),
        ];
        for (i, other) in others.iter().enumerate() {
            assert_ne!(base.request, other.request, "variant {i}");
        }
    }

    #[test]
    fn what_is_only_measured_is_not_in_the_request() {
        let measured = Sampling { choices: vec!["yes".into(), "no".into()], ..sampling() };
        assert_eq!(turn(7, "a", 1, "hello", false, sampling()).request, turn(7, "a", 1, "hello", false, measured).request);
    }

    #[test]
    fn choices_are_none_or_two_that_part() {
        let check = |choices: &[&str]| Sampling { choices: choices.iter().map(ToString::to_string).collect(), ..sampling() }.check();
        for good in [&[][..], &["yes", "no"], &["not", "nor"], &["a", "b a"]] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for bad in [&["yes"][..], &["yes", "no", "maybe"], &["", "no"], &["yes", ""], &["no", "no"], &["no", "none"], &["none", "no"]] {
            assert!(matches!(check(bad), Err(Error::Setting { name: "choices", .. })), "{bad:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (name, bad) in [
            ("max_tokens", Sampling { max_tokens: 0, ..sampling() }),
            ("temperature", Sampling { temperature: -0.1, ..sampling() }),
            ("temperature", Sampling { temperature: f32::NAN, ..sampling() }),
            ("top_p", Sampling { top_p: 0.0, ..sampling() }),
            ("min_p", Sampling { min_p: 1.0, ..sampling() }),
            ("repetition_penalty", Sampling { repetition_penalty: 0.5, ..sampling() }),
            ("stop", Sampling { stop: vec![String::new()], ..sampling() }),
        ] {
            assert!(matches!(bad.check(), Err(Error::Setting { name: actual, .. }) if actual == name), "{name}");
        }
    }
}
