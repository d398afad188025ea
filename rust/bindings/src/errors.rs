//! The exceptions that the extension raises.

use agent_memory_core::breaker::Rejection;
use agent_memory_core::config::{ConfigError, ns_to_seconds};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// A refused configuration is a `ValueError` with the core's message.
pub(crate) fn refused(error: &ConfigError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// `CircuitOpenError` and its `__new__`, looked up at the first rejection: `agent_memory.errors` imports redis-py,
/// which this module must not do while it is being imported itself.
static CIRCUIT_OPEN_ERROR: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();

/// Who was rejected.
pub(crate) struct Rejected<'a> {
    pub(crate) client: &'a Py<PyString>,
    pub(crate) endpoint: Option<&'a Py<PyString>>,
    pub(crate) operation: Option<&'a Py<PyString>>,
}

/// The exception of a rejection. It is made by `__new__` and told its facts as attributes: the classes' `__init__`
/// costs more than the rest of a rejection.
pub(crate) fn circuit_open(py: Python<'_>, who: &Rejected<'_>, rejection: Rejection) -> PyErr {
    try_circuit_open(py, who, rejection).unwrap_or_else(|error| error)
}

fn try_circuit_open(py: Python<'_>, who: &Rejected<'_>, rejection: Rejection) -> PyResult<PyErr> {
    let (class, make) = CIRCUIT_OPEN_ERROR.get_or_try_init(py, || {
        let class = py.import("agent_memory.errors")?.getattr("CircuitOpenError")?;
        let make = class.getattr("__new__")?;
        Ok::<_, PyErr>((class.unbind(), make.unbind()))
    })?;
    let error = make.bind(py).call1((class,))?;
    error.setattr(intern!(py, "client"), who.client)?;
    if let Some(endpoint) = who.endpoint {
        error.setattr(intern!(py, "endpoint"), endpoint)?;
    }
    if let Some(operation) = who.operation {
        error.setattr(intern!(py, "operation"), operation)?;
    }
    error.setattr(intern!(py, "state"), rejection.state.name())?;
    if let Some(retry_after_ns) = rejection.retry_after_ns {
        error.setattr(intern!(py, "retry_after_s"), ns_to_seconds(retry_after_ns))?;
    }
    Ok(PyErr::from_value(error))
}
