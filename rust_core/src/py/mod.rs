//! Everything that Python sees. Docstrings are in `matrix_py/_core.pyi`.
//!
//! Long calls run detached from the interpreter, so that Python threads go on; the engine's and llama.cpp's threads never take the GIL.

// PyO3 hands arguments over by value, and a Python signature with names may be long.
#![allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]

mod engine;
mod ipc;
mod log;
mod turn;

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;
use crate::hash::Hash;
use crate::llama::{MAX_SEQUENCES, ffi};
use crate::sampler::uniform;
use crate::turn::{numbered_path, random_key};
use crate::{event, grammar, selftest};

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
#[pyo3(signature = (*, seed, scene, path, attempt, segments, trusted, sampling))]
fn request_hash(
    seed: u64,
    scene: Hash,
    path: &str,
    attempt: u32,
    segments: Vec<Hash>,
    trusted: Vec<bool>,
    sampling: Hash,
) -> PyResult<Hash> {
    if segments.len() != trusted.len() {
        let (segments, trusted) = (segments.len(), trusted.len());
        return Err(PyValueError::new_err(format!("{segments} segments, but {trusted} marks of trust: give one for each")));
    }
    let key = random_key(seed, scene, &numbered_path(path, attempt));
    Ok(crate::turn::request(segments.into_iter().zip(trusted), sampling, key))
}

#[pyfunction]
fn draw(seed: u64, scene: Hash, name: &str, index: u64) -> f64 {
    uniform(random_key(seed, scene, name), index)
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
    use super::engine::{PyEngine, PyTokenizer, self_test, simulate_schedule};
    #[pymodule_export]
    use super::ipc::{ArrowTable, IpcEncoder, ipc_decode, ipc_encode};
    #[pymodule_export]
    use super::log::{ArrowBatch, PyEventLog};
    #[pymodule_export]
    use super::turn::{Completion, Sampling, Turn};
    use super::{BTreeMap, Bound, Error, MAX_SEQUENCES, PyModule, PyModuleMethods, PyResult, ffi, selftest};
    #[pymodule_export]
    use super::{
        blake3, draw, form_accepts, hash_file, log_callback_address, request_hash, run_root, scene_id, sub_batch_callback_address,
        sub_batches, take_llama_log,
    };

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
