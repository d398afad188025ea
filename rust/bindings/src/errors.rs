//! The exceptions that the extension raises.

use agent_memory_core::config::{ConfigError, ns_to_seconds};
use agent_memory_core::guard::breaker::{Rejection, State};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

use crate::raw::new_instance;

/// A refused configuration is a `ValueError` with the core's message.
pub(crate) fn refused(error: &ConfigError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// `CircuitOpenError`, looked up at the first rejection: `agent_memory.errors` imports redis-py,
/// which this module must not do while it is being imported itself.
static CIRCUIT_OPEN_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// What every rejection of one operation says alike, as the `__dict__` of its exceptions; made at the first rejection.
pub(crate) struct RejectionFacts {
    template: PyOnceLock<Py<PyDict>>,
}

impl RejectionFacts {
    pub(crate) fn new() -> Self {
        Self { template: PyOnceLock::new() }
    }
}

/// The exception of a rejection. It is made by `__new__` and given its attributes as one copied dict: the classes'
/// `__init__`, or setting them one by one, costs more than the rest of a rejection.
pub(crate) fn circuit_open(
    py: Python<'_>,
    facts: &RejectionFacts,
    rejection: Rejection,
    describe: impl FnOnce(&Bound<'_, PyDict>) -> PyResult<()>,
) -> PyErr {
    let made = (|| {
        let class = CIRCUIT_OPEN_ERROR.get_or_try_init(py, || find_circuit_open_error(py))?;
        let template = facts.template.get_or_try_init(py, || {
            let template = PyDict::new(py);
            describe(&template)?;
            template.set_item(intern!(py, "state"), intern!(py, "open"))?;
            template.set_item(intern!(py, "retry_after_s"), py.None())?;
            Ok::<_, PyErr>(template.unbind())
        })?;
        let attributes = template.bind(py).copy()?;
        if rejection.state == State::HalfOpen {
            attributes.set_item(intern!(py, "state"), intern!(py, "half_open"))?;
        }
        if let Some(retry_after_ns) = rejection.retry_after_ns {
            attributes.set_item(intern!(py, "retry_after_s"), ns_to_seconds(retry_after_ns))?;
        }
        let error = new_instance(class.bind(py))?;
        error.setattr(intern!(py, "__dict__"), attributes)?;
        Ok(PyErr::from_value(error))
    })();
    made.unwrap_or_else(|error: PyErr| error)
}

fn find_circuit_open_error(py: Python<'_>) -> PyResult<Py<PyType>> {
    let class = py.import("agent_memory.errors")?.getattr("CircuitOpenError")?;
    Ok(class.cast_into::<PyType>()?.unbind())
}
