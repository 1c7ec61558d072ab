//! Tokenizer and engine over what llama-cpp-python opened, the self-test, and the scheduler without a model.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::turn::{Completion, Turn};
use crate::engine::{Engine, Options};
use crate::error::Error;
use crate::hash::Hash;
use crate::llama::{LlamaModel, LlamaVocab, ffi};
use crate::model::{Limits, Model};
use crate::vocab::{Token, Tokenizer};
use crate::{engine, selftest, simulation, turn};

/// Compute on a thread that then ends. OpenMP keeps a team of threads for each thread that has ever computed, and once there are more of
/// them than CPUs, its barriers sleep where they spun before: with a team left over from a probe, decoding was 25 to 40 % slower.
fn apart<T: Send>(work: impl FnOnce() -> PyResult<T> + Send) -> PyResult<T> {
    let done = std::thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|_| Err(PyRuntimeError::new_err("the core panicked: please report it")))
}

/// A vocabulary's tokenizer.
#[pyclass(name = "Tokenizer", frozen, module = "matrix_py._core", from_py_object)]
#[derive(Clone)]
pub(super) struct PyTokenizer {
    tokenizer: Arc<Tokenizer>,
    library: Arc<ffi::Library>,
    lease: Arc<RwLock<bool>>,
}

pub(super) fn segments(list: Vec<(String, bool)>) -> Vec<turn::Segment> {
    list.into_iter().map(|(text, trusted)| turn::Segment { text, trusted }).collect()
}

#[pymethods]
impl PyTokenizer {
    #[new]
    #[pyo3(signature = (*, addresses, layout, vocab))]
    fn new(py: Python<'_>, addresses: BTreeMap<String, usize>, layout: BTreeMap<String, usize>, vocab: usize) -> PyResult<Self> {
        let library = Arc::new(ffi::Library::new(&addresses, &layout)?);
        let vocab = LlamaVocab::new(Arc::clone(&library), ffi::VocabPtr::new(vocab)?)?;
        let lease = vocab.lease();
        let tokenizer = py.detach(|| Tokenizer::new(Box::new(vocab)))?;
        Ok(Self { tokenizer: Arc::new(tokenizer), library, lease })
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| *self.lease.write().unwrap_or_else(PoisonError::into_inner) = false);
    }

    #[pyo3(name = "encode")]
    fn encode_segments(&self, py: Python<'_>, segments: Vec<(String, bool)>) -> PyResult<Vec<Token>> {
        Ok(py.detach(|| self.tokenizer.encode(&self::segments(segments)))?)
    }

    fn decode(&self, tokens: Vec<Token>) -> PyResult<String> {
        let size = self.tokenizer.size();
        if tokens.iter().any(|&token| usize::try_from(token).map_or(true, |token| token >= size)) {
            return Err(Error::Setting { name: "tokens", value: format!("{tokens:?}"), expected: "ids of the vocabulary" }.into());
        }
        Ok(self.tokenizer.decode(&tokens))
    }

    fn is_special(&self, token: Token) -> bool {
        usize::try_from(token).is_ok_and(|index| index < self.tokenizer.size()) && self.tokenizer.is_special(token)
    }

    fn __len__(&self) -> usize {
        self.tokenizer.size()
    }
}

impl PyTokenizer {
    /// Two ordinary tokens for the probe, and the ordinary tokens for the self-test.
    fn ordinary_tokens(&self) -> PyResult<Vec<Token>> {
        let text = turn::Segment { text: "a quick brown fox jumps over the lazy dog; then it waits, and wonders.".into(), trusted: false };
        let mut tokens = self.tokenizer.encode(&[text])?;
        tokens.retain(|&token| !self.tokenizer.is_special(token));
        if tokens.len() < 2 {
            return Err(Error::Vocabulary { reason: "plain text gives no two tokens".into() }.into());
        }
        Ok(tokens)
    }

    fn model(&self, context: usize, limits: Limits) -> PyResult<LlamaModel> {
        let tokens = self.ordinary_tokens()?;
        let probe = [tokens[0], tokens[1]];
        Ok(LlamaModel::new(Arc::clone(&self.library), ffi::ContextPtr::new(context)?, limits, probe)?)
    }
}

/// The batching engine over an open context.
#[pyclass(name = "Engine", frozen, module = "matrix_py._core")]
pub(super) struct PyEngine(pub(super) Engine);

#[pymethods]
impl PyEngine {
    #[new]
    #[pyo3(signature = (
        *, tokenizer, context, slots, parallel, slot_context, batch, turn_context, cells=None, prefix_reuse=true, preempt_every=None
    ))]
    fn new(
        py: Python<'_>,
        tokenizer: &PyTokenizer,
        context: usize,
        slots: usize,
        parallel: usize,
        slot_context: usize,
        batch: usize,
        turn_context: usize,
        cells: Option<usize>,
        prefix_reuse: bool,
        preempt_every: Option<u64>,
    ) -> PyResult<Self> {
        let limits = Limits { slots, context: slot_context, batch, vocab: tokenizer.tokenizer.size(), cells };
        let options = Options { parallel, prefix_reuse, context: turn_context, preempt_every: preempt_every.filter(|&every| every > 0) };
        py.detach(|| {
            let model = apart(|| tokenizer.model(context, limits))?;
            Ok(Self(Engine::open(Box::new(model), Arc::clone(&tokenizer.tokenizer), options)?))
        })
    }

    fn submit(&self, py: Python<'_>, turns: Vec<Turn>) -> PyResult<()> {
        Ok(py.detach(|| self.0.submit(turns))?)
    }

    fn submit_tokens(&self, py: Python<'_>, work: Vec<(Turn, Vec<Token>)>) -> PyResult<()> {
        Ok(py.detach(|| self.0.submit_tokens(work))?)
    }

    fn collect(&self, py: Python<'_>, timeout_s: f64) -> PyResult<Vec<(Turn, Py<PyAny>)>> {
        let timeout = Duration::try_from_secs_f64(timeout_s).map_err(|_| Error::Option {
            name: "timeout_s",
            value: timeout_s.to_string(),
            expected: "a number of seconds from 0 on".into(),
        })?;
        let answers = py.detach(|| self.0.collect(timeout))?;
        let answer = |engine::Answer { turn, result }| {
            let result = match result {
                Ok(completion) => Completion(completion).into_pyobject(py)?.into_any().unbind(),
                Err(error) => PyErr::from(error).into_value(py).into_any(),
            };
            Ok((Turn(turn), result))
        };
        answers.into_iter().map(answer).collect()
    }

    fn cancel(&self, scene: Hash) -> PyResult<()> {
        Ok(self.0.cancel(scene)?)
    }

    fn stats(&self) -> BTreeMap<&'static str, u64> {
        let stats = self.0.stats();
        BTreeMap::from([
            ("steps", stats.steps),
            ("prefill_calls", stats.prefill_calls),
            ("decode_calls", stats.decode_calls),
            ("prefilled_tokens", stats.prefilled_tokens),
            ("cached_tokens", stats.cached_tokens),
            ("generated_tokens", stats.generated_tokens),
            ("prefill_us", stats.prefill_us),
            ("decode_us", stats.decode_us),
            ("copies", stats.copies),
            ("preemptions", stats.preemptions),
            ("turns", stats.turns),
            ("failed_turns", stats.failed_turns),
            ("running", stats.running),
            ("waiting", stats.waiting),
        ])
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

/// Run the determinism self-test on a fresh context: number of compositions and the names of those that differ.
#[pyfunction]
#[pyo3(signature = (*, tokenizer, context, slots, slot_context, batch, prompt_tokens, threads))]
pub(super) fn self_test(
    py: Python<'_>,
    tokenizer: &PyTokenizer,
    context: usize,
    slots: usize,
    slot_context: usize,
    batch: usize,
    prompt_tokens: usize,
    threads: usize,
) -> PyResult<(usize, Vec<&'static str>)> {
    let limits = Limits { slots, context: slot_context, batch, vocab: tokenizer.tokenizer.size(), cells: None };
    let test = || {
        let mut model = tokenizer.model(context, limits)?;
        let tokens = tokenizer.ordinary_tokens()?;
        Ok::<_, PyErr>(selftest::run(&mut model as &mut dyn Model, &tokens, prompt_tokens, threads)?)
    };
    let report = py.detach(|| apart(test))?;
    Ok((report.compositions, report.differing))
}

/// Run scenes on the engine's loop over a model that only counts; see `simulation`. Ctrl-C and what `on_progress` raises end it.
#[pyfunction]
#[pyo3(signature = (*, policy, scenes, roles, steps, window, parallel, cached, batch, seed, on_progress))]
pub(super) fn simulate_schedule(
    py: Python<'_>,
    policy: &str,
    scenes: usize,
    roles: usize,
    steps: usize,
    window: usize,
    parallel: usize,
    cached: usize,
    batch: usize,
    seed: u64,
    on_progress: Py<PyAny>,
) -> PyResult<BTreeMap<&'static str, f64>> {
    let policy = match policy {
        "oldest-scene" => simulation::Policy::OldestScene,
        "fifo" => simulation::Policy::Fifo,
        "lock-step" => simulation::Policy::LockStep,
        _ => {
            let expected = "oldest-scene, fifo or lock-step".into();
            return Err(Error::Option { name: "policy", value: policy.to_owned(), expected }.into());
        }
    };
    let load = simulation::Load { scenes, roles, steps, window, parallel, cached, batch, seed };
    let mut raised = None;
    let report = py.detach(|| {
        simulation::run(&load, simulation::Cost::default(), policy, |ended| {
            let told = Python::attach(|py| py.check_signals().and_then(|()| on_progress.call1(py, (ended,)).map(drop)));
            raised = told.err();
            raised.is_none()
        })
    });
    if let Some(error) = raised {
        return Err(error);
    }
    let report = report?;
    Ok(BTreeMap::from([
        ("seconds", report.seconds),
        ("work", report.work),
        ("critical_path", report.critical_path),
        ("efficiency", report.efficiency()),
        ("distinct_tokens", report.distinct_tokens as f64),
        ("prefilled_tokens", report.stats.prefilled_tokens as f64),
        ("generated_tokens", report.stats.generated_tokens as f64),
        ("turns", report.stats.turns as f64),
        ("steps", report.stats.steps as f64),
        ("calls", (report.stats.prefill_calls + report.stats.decode_calls) as f64),
        ("copies", report.stats.copies as f64),
    ]))
}
