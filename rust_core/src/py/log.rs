//! The event log, and its rows as Arrow streams.

use std::sync::{Mutex, PoisonError};

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchIterator, RecordBatchReader};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::turn::{Completion, Turn};
use crate::error::Error;
use crate::event::Chain;
use crate::hash::Hash;
use crate::log::{EventLog, MAX_KNOWN_TEXTS, SceneRow};
use crate::payload::Payload;

fn panicked<T>(_: PoisonError<T>) -> PyErr {
    PyRuntimeError::new_err("an earlier call panicked while it held a lock")
}

/// Rows for the writer, as an Arrow stream of one batch.
#[pyclass(frozen, module = "matrix_py._core")]
pub(super) struct ArrowBatch(pub(super) RecordBatch);

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
pub(super) struct PyEventLog(pub(super) Mutex<EventLog>);

#[pymethods]
impl PyEventLog {
    #[new]
    #[pyo3(signature = (*, max_known_texts=MAX_KNOWN_TEXTS))]
    fn new(max_known_texts: usize) -> Self {
        Self(Mutex::new(EventLog::new(max_known_texts)))
    }

    fn know_texts(&self, hashes: &Bound<'_, PyAny>) -> PyResult<()> {
        let most = self.0.lock().map_err(panicked)?.max_known_texts();
        // Without the lock: who gives the hashes runs Python. One more than fit shows that they do not.
        let hashes: Vec<Hash> = hashes.try_iter()?.take(most + 1).map(|hash| hash?.extract()).collect::<PyResult<_>>()?;
        self.0.lock().map_err(panicked)?.know_texts(hashes);
        Ok(())
    }

    #[getter]
    fn knows_all_texts(&self) -> PyResult<bool> {
        Ok(self.0.lock().map_err(panicked)?.knows_all_texts())
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
