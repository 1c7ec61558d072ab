//! Everything that Python sees. Docstrings are in `matrix_py/_core.pyi`.
//!
//! Long calls run detached from the interpreter, so that Python threads go on; the engine's and llama.cpp's threads never take the GIL.

// PyO3 hands arguments over by value, and a Python signature with names may be long.
#![allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchIterator, RecordBatchReader};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule};

use crate::engine::{Engine, Options};
use crate::error::Error;
use crate::event::{self, Chain};
use crate::hash::Hash;
use crate::llama::{LlamaModel, LlamaVocab, MAX_SEQUENCES, ffi};
use crate::log::{EventLog, SceneRow};
use crate::model::{Limits, Model};
use crate::payload::Payload;
use crate::sampler::uniform;
use crate::turn::{self, Facts, Finish, Outcome};
use crate::vocab::{Token, Tokenizer};
use crate::{engine, grammar, selftest, simulation};

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        Python::attach(|py| {
            let class = py.import("matrix_py.errors").and_then(|module| module.getattr(error.python_class()));
            match class {
                Ok(class) => class.call1((error.to_string(),)).map_or_else(|error| error, PyErr::from_value),
                Err(error) => error,
            }
        })
    }
}

impl<'py> IntoPyObject<'py> for Hash {
    type Target = PyBytes;
    type Output = Bound<'py, PyBytes>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(PyBytes::new(py, &self.0))
    }
}

impl FromPyObject<'_, '_> for Hash {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        Ok(Self(object.extract::<[u8; 32]>()?))
    }
}

/// Compute on a thread that then ends. OpenMP keeps a team of threads for each thread that has ever computed, and once there are more of
/// them than CPUs, its barriers sleep where they spun before: with a team left over from a probe, decoding was 25 to 40 % slower.
fn apart<T: Send>(work: impl FnOnce() -> PyResult<T> + Send) -> PyResult<T> {
    let done = std::thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|_| Err(PyRuntimeError::new_err("the core panicked: please report it")))
}

fn panicked<T>(_: PoisonError<T>) -> PyErr {
    PyRuntimeError::new_err("an earlier call panicked while it held a lock")
}

/// How the tokens of a turn are chosen.
#[pyclass(frozen, module = "matrix_py._core", from_py_object)]
#[derive(Clone)]
struct Sampling(turn::Sampling);

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
struct Turn(Arc<turn::Turn>);

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
struct Completion(turn::Completion);

#[pymethods]
impl Completion {
    #[new]
    #[pyo3(signature = (
        turn, *, text, outcome="text", finish="eos", prompt_tokens=0, cached_tokens=0, generated_tokens=0, masked_tokens=0, log_odds=None
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
    ) -> PyResult<Self> {
        let unknown = |name, value: &str, expected| Error::Setting { name, value: value.to_owned(), expected };
        let outcome = Outcome::from_name(outcome).ok_or_else(|| unknown("outcome", outcome, "text, form_failed or too_long"))?;
        let finish = Finish::from_name(finish).ok_or_else(|| unknown("finish", finish, "eos, stop, form, length or none"))?;
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

/// Rows for the writer, as an Arrow stream of one batch.
#[pyclass(frozen, module = "matrix_py._core")]
struct ArrowBatch(RecordBatch);

#[pymethods]
impl ArrowBatch {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(&self, py: Python<'py>, requested_schema: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyCapsule>> {
        // The protocol allows a producer to ignore the wish for another schema.
        drop(requested_schema);
        let reader: Box<dyn RecordBatchReader + Send> = Box::new(RecordBatchIterator::new([Ok(self.0.clone())], self.0.schema()));
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(reader), c"arrow_array_stream")
    }

    fn __len__(&self) -> usize {
        self.0.num_rows()
    }
}

type PyBatches = (ArrowBatch, ArrowBatch, ArrowBatch, ArrowBatch);

/// Sequences, hashes and buffers the rows of a run.
#[pyclass(name = "EventLog", frozen, module = "matrix_py._core")]
struct PyEventLog(Mutex<EventLog>);

#[pymethods]
impl PyEventLog {
    #[new]
    fn new() -> Self {
        Self(Mutex::default())
    }

    #[pyo3(signature = (scene, stored=0))]
    fn open(&self, scene: Hash, stored: u32) -> PyResult<()> {
        Ok(self.0.lock().map_err(panicked)?.open(scene, stored)?)
    }

    fn append(&self, scene: Hash, payload: &[u8]) -> PyResult<(u32, Hash)> {
        let text = std::str::from_utf8(payload).map_err(|error| Error::Payload { offset: error.valid_up_to(), reason: "not UTF-8" })?;
        let event = self.0.lock().map_err(panicked)?.append(scene, Payload::parse(text.to_owned())?)?;
        Ok((event.seq, event.hash))
    }

    fn close(&self, scene: Hash) -> PyResult<(u32, Hash)> {
        let chain: Chain = self.0.lock().map_err(panicked)?.close(scene)?;
        Ok((chain.count(), chain.last()))
    }

    fn record(&self, turn: &Turn, completion: &Completion) -> PyResult<()> {
        Ok(self.0.lock().map_err(panicked)?.record(&turn.0, completion.0.clone())?)
    }

    #[pyo3(signature = (scene, *, position, label, row, occurrence, instruction, response, meta))]
    fn add_scene(
        &self,
        scene: Hash,
        position: u64,
        label: String,
        row: u64,
        occurrence: u64,
        instruction: String,
        response: Option<String>,
        meta: String,
    ) -> PyResult<()> {
        let row = SceneRow { scene, position, label, row, occurrence, instruction, response, meta };
        self.0.lock().map_err(panicked)?.add_scene(row);
        Ok(())
    }

    fn text(&self, text: &str) -> PyResult<Hash> {
        Ok(self.0.lock().map_err(panicked)?.text(text))
    }

    #[getter]
    fn pending(&self) -> PyResult<usize> {
        Ok(self.0.lock().map_err(panicked)?.pending())
    }

    fn drain(&self, py: Python<'_>) -> PyResult<Option<PyBatches>> {
        let batches = py.detach(|| {
            let rows = self.0.lock().map_err(panicked)?.drain();
            Ok::<_, PyErr>(rows.into_batches())
        })?;
        Ok(batches.map(|b| (ArrowBatch(b.texts), ArrowBatch(b.scenes), ArrowBatch(b.completions), ArrowBatch(b.events))))
    }
}

/// A vocabulary's tokenizer.
#[pyclass(name = "Tokenizer", frozen, module = "matrix_py._core", from_py_object)]
#[derive(Clone)]
struct PyTokenizer {
    tokenizer: Arc<Tokenizer>,
    library: Arc<ffi::Library>,
    lease: Arc<RwLock<bool>>,
}

fn segments(list: Vec<(String, bool)>) -> Vec<turn::Segment> {
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
struct PyEngine(Engine);

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
fn self_test(
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
fn simulate_schedule(
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

#[pyfunction]
fn blake3(data: &[u8]) -> Hash {
    Hash::of(data)
}

#[pyfunction]
fn hash_file(py: Python<'_>, path: PathBuf) -> PyResult<Hash> {
    Ok(py.detach(|| Hash::of_file(&path))?)
}

#[pyfunction]
#[pyo3(signature = (scene, instruction, response, occurrence))]
fn scene_id(scene: &str, instruction: &str, response: Option<&str>, occurrence: u64) -> Hash {
    event::scene_id(scene, instruction, response, occurrence)
}

#[pyfunction]
fn run_root(config: Hash, scenes: &Bound<'_, PyAny>) -> PyResult<Hash> {
    let mut root = event::Root::new(config);
    for pair in scenes.try_iter()? {
        let (scene, last) = pair?.extract()?;
        root.scene(scene, last);
    }
    Ok(root.finish())
}

#[pyfunction]
fn draw(seed: u64, scene: Hash, name: &str, index: u64) -> f64 {
    uniform(turn::random_key(seed, scene, name), index)
}

#[pyfunction]
fn form_accepts(form: &str, text: &str) -> PyResult<bool> {
    Ok(grammar::accepts(form, text)?)
}

#[pyfunction]
fn log_callback_address() -> usize {
    ffi::log_callback as *const () as usize
}

#[pyfunction]
fn take_llama_log() -> Vec<String> {
    ffi::take_log()
}

#[pyfunction]
fn sub_batch_callback_address(get_name_address: usize) -> usize {
    ffi::set_name_function(get_name_address);
    ffi::count_sub_batches as *const () as usize
}

#[pyfunction]
fn sub_batches() -> u64 {
    ffi::sub_batches()
}

/// The Rust half of matrix.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::{
        ArrowBatch, Completion, PyEngine, PyEventLog, PyTokenizer, Sampling, Turn, blake3, draw, form_accepts, hash_file,
        log_callback_address, run_root, scene_id, self_test, simulate_schedule, sub_batch_callback_address, sub_batches, take_llama_log,
    };
    use super::{BTreeMap, Bound, Error, MAX_SEQUENCES, PyModule, PyModuleMethods, PyResult, ffi, selftest};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("MAX_SEQUENCES", MAX_SEQUENCES)?;
        module.add("LLAMA_SYMBOLS", ffi::Library::SYMBOLS.to_vec())?;
        module.add("BATCH_LAYOUT", BTreeMap::from(ffi::BATCH_LAYOUT))?;
        module.add("ERROR_CLASSES", Error::PYTHON_CLASSES.to_vec())?;
        module.add("MIN_SELF_TEST_PROMPT", selftest::MIN_PROMPT)?;
        module.add("SELF_TEST_SLOTS", selftest::SLOTS)
    }
}
