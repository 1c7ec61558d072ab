//! Turns and completions.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::error::Error;
use crate::hash::Hash;
use crate::turn::{self, Facts, Finish, Outcome, Source};

/// How the tokens of a turn are chosen.
#[pyclass(frozen, module = "matrix_py._core", from_py_object)]
#[derive(Clone)]
pub(super) struct Sampling(pub(super) turn::Sampling);

#[pymethods]
impl Sampling {
    #[new]
    #[pyo3(signature = (
        max_tokens, *, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, stop=vec![], form=None, choices=vec![]
    ))]
    fn new(
        max_tokens: u32,
        temperature: f32,
        top_k: u32,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        stop: Vec<String>,
        form: Option<String>,
        choices: Vec<String>,
    ) -> PyResult<Self> {
        let sampling = turn::Sampling { max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, form, choices };
        sampling.check()?;
        Ok(Self(sampling))
    }

    #[getter]
    fn max_tokens(&self) -> u32 {
        self.0.max_tokens
    }

    #[getter]
    fn temperature(&self) -> f32 {
        self.0.temperature
    }

    #[getter]
    fn form(&self) -> Option<&str> {
        self.0.form.as_deref()
    }

    #[getter]
    fn choices(&self) -> Vec<&str> {
        self.0.choices.iter().map(String::as_str).collect()
    }
}

/// One request to the model.
#[pyclass(frozen, module = "matrix_py._core", from_py_object)]
#[derive(Clone)]
pub(super) struct Turn(pub(super) Arc<turn::Turn>);

impl From<Turn> for Arc<turn::Turn> {
    fn from(turn: Turn) -> Self {
        turn.0
    }
}

#[pymethods]
impl Turn {
    #[new]
    #[pyo3(signature = (*, seed, scene, path, attempt, kind, segments, sampling, rank=0))]
    fn new(
        seed: u64,
        scene: Hash,
        path: String,
        attempt: u32,
        kind: String,
        segments: Vec<(String, bool)>,
        sampling: &Sampling,
        rank: u64,
    ) -> PyResult<Self> {
        let segments = segments.into_iter().map(|(text, trusted)| turn::Segment { text, trusted }).collect();
        let turn = turn::Turn::new(seed, scene, path, attempt, kind, segments, sampling.0.clone())?;
        Ok(Self(Arc::new(turn::Turn { rank, ..turn })))
    }

    #[getter]
    fn scene(&self) -> Hash {
        self.0.scene
    }

    #[getter]
    fn path(&self) -> &str {
        &self.0.path
    }

    #[getter]
    fn attempt(&self) -> u32 {
        self.0.attempt
    }

    #[getter]
    fn name(&self) -> String {
        turn::numbered_path(&self.0.path, self.0.attempt)
    }

    #[getter]
    fn kind(&self) -> &str {
        &self.0.kind
    }

    #[getter]
    fn segments(&self) -> Vec<(&str, bool)> {
        self.0.segments.iter().map(|segment| (segment.text.as_str(), segment.trusted)).collect()
    }

    #[getter]
    fn sampling(&self) -> Sampling {
        Sampling(self.0.sampling.clone())
    }

    #[getter]
    fn request(&self) -> Hash {
        self.0.request
    }

    #[getter]
    fn key(&self) -> Hash {
        self.0.key
    }

    fn __repr__(&self) -> String {
        format!("Turn({} of scene {})", turn::numbered_path(&self.0.path, self.0.attempt), self.0.scene)
    }
}

/// The model's answer to a turn.
#[pyclass(frozen, module = "matrix_py._core", from_py_object)]
#[derive(Clone)]
pub(super) struct Completion(pub(super) turn::Completion);

#[pymethods]
impl Completion {
    #[new]
    #[pyo3(signature = (
        turn, *, text, outcome="text", finish="eos", prompt_tokens=0, cached_tokens=0, generated_tokens=0, masked_tokens=0, log_odds=None,
        source="model"
    ))]
    fn new(
        turn: &Turn,
        text: String,
        outcome: &str,
        finish: &str,
        prompt_tokens: u32,
        cached_tokens: u32,
        generated_tokens: u32,
        masked_tokens: u32,
        log_odds: Option<f32>,
        source: &str,
    ) -> PyResult<Self> {
        let unknown = |name, value: &str, expected| Error::Setting { name, value: value.to_owned(), expected };
        let outcome = Outcome::from_name(outcome).ok_or_else(|| unknown("outcome", outcome, "text, form_failed or too_long"))?;
        let finish = Finish::from_name(finish).ok_or_else(|| unknown("finish", finish, "eos, stop, form, length or none"))?;
        let source = Source::from_name(source).ok_or_else(|| unknown("source", source, "model, reused or edited"))?;
        let facts = Facts { prompt_tokens, cached_tokens, generated_tokens, masked_tokens, log_odds, ..Facts::default() };
        let turn = &turn.0;
        Ok(Self(turn::Completion {
            scene: turn.scene,
            path: turn.path.clone(),
            attempt: turn.attempt,
            request: turn.request,
            outcome,
            finish,
            text,
            source,
            facts,
        }))
    }

    #[getter]
    fn request(&self) -> Hash {
        self.0.request
    }

    #[getter]
    fn outcome(&self) -> &'static str {
        self.0.outcome.name()
    }

    #[getter]
    fn finish(&self) -> &'static str {
        self.0.finish.name()
    }

    #[getter]
    fn text(&self) -> &str {
        &self.0.text
    }

    #[getter]
    fn source(&self) -> &'static str {
        self.0.source.name()
    }

    #[getter]
    fn prompt_tokens(&self) -> u32 {
        self.0.facts.prompt_tokens
    }

    #[getter]
    fn cached_tokens(&self) -> u32 {
        self.0.facts.cached_tokens
    }

    #[getter]
    fn generated_tokens(&self) -> u32 {
        self.0.facts.generated_tokens
    }

    #[getter]
    fn masked_tokens(&self) -> u32 {
        self.0.facts.masked_tokens
    }

    #[getter]
    fn log_odds(&self) -> Option<f32> {
        self.0.facts.log_odds
    }

    fn __repr__(&self) -> String {
        let name = turn::numbered_path(&self.0.path, self.0.attempt);
        format!("Completion({name}: {}, {}, {:?})", self.outcome(), self.finish(), self.0.text)
    }
}
