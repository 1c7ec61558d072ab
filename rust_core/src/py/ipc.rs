//! Arrow streams as IPC bytes, and back: how the answer to a query travels from the process that writes a log to one that reads it.

use std::io::Cursor;
use std::sync::{Mutex, PoisonError};

use arrow_array::ffi_stream::{FFI_ArrowArrayStream, RecordBatchStreamReader};
use arrow_array::{RecordBatch, RecordBatchIterator, RecordBatchReader};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, SchemaRef};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule};

use crate::error::Error;

const STREAM: &std::ffi::CStr = c"arrow_array_stream";

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        let reason = match error {
            // What the stream's maker said, without a word on how it came here.
            ArrowError::CDataInterface(reason) => reason,
            error => error.to_string(),
        };
        // DuckDB shows the statement below what is wrong with it.
        Self::Arrow { reason: reason.lines().next().unwrap_or("no reason given").to_owned() }
    }
}

/// Takes the stream out of a capsule of the Arrow `PyCapsule` interface.
#[allow(unsafe_code)]
fn take_stream(capsule: &Bound<'_, PyCapsule>) -> PyResult<FFI_ArrowArrayStream> {
    let pointer = capsule.pointer_checked(Some(STREAM))?.cast::<FFI_ArrowArrayStream>();
    // SAFETY: by the interface, a capsule of this name holds a stream, and who takes it leaves an empty one behind. The capsule is
    // alive, and with the GIL held nobody else takes it.
    Ok(unsafe { FFI_ArrowArrayStream::from_raw(pointer.as_ptr()) })
}

/// A stream, and what of its bytes is not fetched yet.
struct Encoding {
    /// Dropped at its end, for whoever gives it may be waiting for that.
    reader: Option<RecordBatchStreamReader>,
    writer: StreamWriter<Vec<u8>>,
    rows: usize,
}

impl Encoding {
    fn new(stream: FFI_ArrowArrayStream) -> Result<Self, Error> {
        let reader = RecordBatchStreamReader::try_new(stream)?;
        let writer = StreamWriter::try_new(Vec::new(), &reader.schema())?;
        Ok(Self { reader: Some(reader), writer, rows: 0 })
    }

    /// The bytes that were written since the last call, after one batch more, or the end; `None` after that.
    fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if let Some(reader) = &mut self.reader {
            if let Some(batch) = reader.next() {
                let batch = batch?;
                self.rows += batch.num_rows();
                self.writer.write(&batch)?;
            } else {
                self.reader = None;
                self.writer.finish()?;
            }
        }
        let bytes = std::mem::take(self.writer.get_mut());
        Ok((!bytes.is_empty()).then_some(bytes))
    }
}

/// The IPC bytes of an Arrow stream, a batch at a time.
#[pyclass(frozen, module = "matrix_py._core")]
pub(super) struct IpcEncoder(Mutex<Encoding>);

#[pymethods]
impl IpcEncoder {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let bytes = py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).next())?;
        Ok(bytes.map(|bytes| PyBytes::new(py, &bytes)))
    }

    #[getter]
    fn rows(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).rows)
    }
}

#[pyfunction]
pub(super) fn ipc_encode(py: Python<'_>, stream: &Bound<'_, PyAny>) -> PyResult<IpcEncoder> {
    let capsule = stream.call_method0("__arrow_c_stream__")?;
    let stream = take_stream(capsule.cast()?)?;
    Ok(IpcEncoder(Mutex::new(py.detach(|| Encoding::new(stream))?)))
}

/// An Arrow stream that was decoded.
#[pyclass(frozen, module = "matrix_py._core")]
pub(super) struct ArrowTable {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

#[pymethods]
impl ArrowTable {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(&self, py: Python<'py>, requested_schema: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyCapsule>> {
        // The protocol allows a producer to ignore the wish for another schema.
        drop(requested_schema);
        let batches = self.batches.clone().into_iter().map(Ok);
        let reader: Box<dyn RecordBatchReader + Send> = Box::new(RecordBatchIterator::new(batches, self.schema.clone()));
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(reader), STREAM)
    }

    fn __len__(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

#[pyfunction]
pub(super) fn ipc_decode(py: Python<'_>, data: &[u8]) -> PyResult<ArrowTable> {
    let table = py.detach(|| {
        let reader = StreamReader::try_new(Cursor::new(data), None)?;
        let schema = reader.schema();
        Ok::<_, Error>(ArrowTable { schema, batches: reader.collect::<Result<_, _>>()? })
    })?;
    Ok(table)
}
