//! `Window`: the slot of a window of a pipeline, where several replies are put together for one caller.

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

/// Stands in the queue of an exchange once for each command of a window. `future` gets the list of all replies.
#[pyclass(module = "agent_memory._core")]
pub(super) struct Window {
    #[pyo3(get)]
    future: Py<PyAny>,
    #[pyo3(get)]
    replies: Py<PyList>,
    missing: usize,
    /// Whether it failed its future: the replies that the error holds do not change any more.
    failed: bool,
}

#[pymethods]
impl Window {
    #[new]
    #[pyo3(signature = (future, count, /))]
    fn new(future: Py<PyAny>, count: usize, py: Python<'_>) -> Self {
        Self { future, replies: PyList::empty(py).unbind(), missing: count, failed: false }
    }

    /// Whether its replies are here, or its caller has gone.
    fn done<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.future.bind(py).call_method0(intern!(py, "done"))
    }

    /// One more of its replies has arrived.
    #[pyo3(name = "set_result")]
    fn put(slf: &Bound<'_, Self>, reply: &Bound<'_, PyAny>) -> PyResult<()> {
        take(slf, reply.clone())
    }

    /// Its other replies will not arrive; `error` gets those that have, as `replies`.
    fn set_exception(&mut self, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = error.py();
        self.failed = true;
        error.setattr(intern!(py, "replies"), self.replies.bind(py))?; // a replay knows the outcome of these
        self.future.bind(py).call_method1(intern!(py, "set_exception"), (error,)).map(drop)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.future)?;
        visit.call(&self.replies)
    }
}

/// Takes one reply. The future is asked only when all are there: nothing is done for a caller that has gone.
pub(super) fn take(window: &Bound<'_, Window>, reply: Bound<'_, PyAny>) -> PyResult<()> {
    let py = window.py();
    let (replies, is_whole) = {
        let mut this = window.try_borrow_mut()?;
        if this.failed {
            return Ok(());
        }
        let Some(missing) = this.missing.checked_sub(1) else {
            return Err(PyRuntimeError::new_err("the window has all its replies"));
        };
        this.missing = missing;
        (this.replies.bind(py).clone(), missing == 0)
    };
    replies.append(reply)?;
    if !is_whole {
        return Ok(());
    }
    let future = window.try_borrow()?.future.bind(py).clone();
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    future.call_method1(intern!(py, "set_result"), (replies,)).map(drop)
}
