//! What `MemoryWriter` gives back.

use std::sync::Arc;

use agent_memory_storage::memories::{Outcome, SqliteError};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyType};

use super::jobs::DirectJob;
use super::locked;
use crate::memory::operations::Classes;

/// How a job ended.
pub(super) enum Ending {
    /// It is committed.
    Written(Vec<Outcome>),
    /// Nothing is written: it is left to Python.
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

    /// The results of the operations, once the ticket is done; None, with nothing written, where they are left to Python: a
    /// content would have to be compressed. Raises `sqlite3.OperationalError` where the database is away, busy or full, with
    /// its `sqlite_errorcode`.
    fn results<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        match &*locked(&self.job.ending) {
            None => Err(PyRuntimeError::new_err("results must be asked for when the ticket is done")),
            Some(Ending::Undecided) => Ok(None),
            Some(Ending::Failed(error)) => Err(operational_error(py, error)),
            Some(Ending::Written(outcomes)) => {
                let pairs = self.job.given.iter().zip(outcomes);
                let results = pairs.map(|(one, outcome)| Ok(self.classes.result(py, &one.given, outcome)?.0));
                PyList::new(py, results.collect::<PyResult<Vec<_>>>()?).map(Some)
            }
        }
    }
}

fn operational_error(py: Python<'_>, error: &SqliteError) -> PyErr {
    static ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    match ERROR.import(py, "sqlite3", "OperationalError") {
        Ok(class) => {
            let failure = PyErr::from_type(class.clone(), (error.to_string(),));
            // As `sqlite3` sets it: the code says what the error means.
            match failure.value(py).setattr("sqlite_errorcode", error.code()) {
                Ok(()) => failure,
                Err(error) => error,
            }
        }
        Err(error) => error,
    }
}
