//! What `MemoryWriter` gives back.

use std::sync::Arc;

use agent_memory_core::memory::copy::Numbers;
use agent_memory_core::memory::plan::Relabelled;
use agent_memory_storage::memories::SqliteError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple, PyType};

use super::jobs::{DirectJob, GivenMove};
use super::locked;
use crate::memory::copy::accepted_words;

/// Of Python's side of the store.
#[derive(FromPyObject)]
pub(super) struct Classes {
    pub(super) put: Py<PyType>,
    pub(super) relabel: Py<PyType>,
    copy: Py<PyType>,
    result: Py<PyType>,
    /// Of the enumeration of what becomes of a write.
    applied: Py<PyAny>,
    stale: Py<PyAny>,
    absent: Py<PyAny>,
}

/// What became of a job.
pub(super) enum Outcome {
    Written(Vec<Numbers>),
    Moved(Vec<Relabelled>),
    Undecided,
    Failed(SqliteError),
}

/// What a writer has taken in.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct PendingWrites {
    job: Arc<DirectJob>,
    ticket: u64,
    classes: Arc<Classes>,
}

impl PendingWrites {
    pub(super) fn new(job: Arc<DirectJob>, ticket: u64, classes: Arc<Classes>) -> Self {
        Self { job, ticket, classes }
    }
}

#[pymethods]
impl PendingWrites {
    /// When it is done, so are they.
    #[getter]
    fn ticket(&self) -> u64 {
        self.ticket
    }

    /// The results of the operations, once the ticket is done; None, with nothing written, where the plan has to decide: a
    /// memory was not new in every respect, or would have to be compressed. Raises `sqlite3.OperationalError` where the database
    /// is away, busy or full, with its `sqlite_errorcode`.
    fn results<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        match &*locked(&self.job.outcome) {
            None => Err(PyRuntimeError::new_err("results must be asked for when the ticket is done")),
            Some(Outcome::Undecided) => Ok(None),
            Some(Outcome::Failed(error)) => Err(operational_error(py, error)),
            Some(Outcome::Written(numbers)) => {
                let memories = self.job.memories().iter().zip(numbers);
                let results = memories.map(|(one, numbers)| self.classes.written(one.original.bind(py), numbers));
                PyList::new(py, results.collect::<PyResult<Vec<_>>>()?).map(Some)
            }
            Some(Outcome::Moved(moved)) => {
                let results =
                    self.job.moves().iter().zip(moved).map(|(one, moved)| self.classes.moved(py, one, *moved));
                PyList::new(py, results.collect::<PyResult<Vec<_>>>()?).map(Some)
            }
        }
    }
}

impl Classes {
    fn moved<'py>(&self, py: Python<'py>, one: &GivenMove, moved: Relabelled) -> PyResult<Bound<'py, PyAny>> {
        let (status, version, seq, existed) = match moved {
            Relabelled::Absent(version) => (&self.absent, version, 0, false),
            Relabelled::Stale(version) => (&self.stale, version, 0, true),
            Relabelled::There => (&self.applied, one.version, 0, true),
            Relabelled::Moved(seq) => (&self.applied, one.version, seq, true),
        };
        let id = one.original.bind(py).get_item(0)?;
        let words = (status.bind(py), id, version, seq, existed, 0, py.None()).into_pyobject(py)?;
        new_tuple(self.result.bind(py), words)
    }

    fn written<'py>(&self, copy: &Bound<'py, PyTuple>, numbers: &Numbers) -> PyResult<Bound<'py, PyAny>> {
        let py = copy.py();
        let id = copy.get_item(0)?;
        let held = new_tuple(self.copy.bind(py), accepted_words(copy, numbers)?)?;
        let applied = self.applied.bind(py);
        let words = (applied, id, numbers.version, numbers.seq, false, numbers.created_us, held).into_pyobject(py)?;
        new_tuple(self.result.bind(py), words)
    }
}

/// A named tuple of these words, made as its `_make` does.
fn new_tuple<'py>(class: &Bound<'py, PyType>, words: Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    static NEW: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = class.py();
    let new = NEW.get_or_try_init(py, || py.get_type::<PyTuple>().getattr("__new__").map(Bound::unbind))?;
    new.bind(py).call1((class, words))
}

fn operational_error(py: Python<'_>, error: &SqliteError) -> PyErr {
    static ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    match ERROR.import(py, "sqlite3", "OperationalError") {
        Ok(class) => {
            let failure = PyErr::from_type(class.clone(), (error.to_string(),));
            // As `sqlite3` sets it: what the error means is told by the code.
            match failure.value(py).setattr("sqlite_errorcode", error.code()) {
                Ok(()) => failure,
                Err(error) => error,
            }
        }
        Err(error) => error,
    }
}
