//! What Python classes inherit whose attributes are read on the fast path of a command.

use pyo3::exceptions::PyAttributeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use super::call;
use super::exchange::Exchange;
use crate::guard::Operation;

/// A client whose commands are awaitables of the extension.
///
/// `execute_command` returns one at once; nothing is admitted or sent before it is first stepped. It goes the fast path where
/// that is free, and hands over to a coroutine of the client's elsewhere:
///
/// - `_execute_ordinarily(args, options)`: the whole command.
/// - `_recover_direct(transport, command, args, options, permit, error)`: it was admitted and sent, and ended with `error`.
/// - `_shape_direct(transport, command, reply, options)`: the reply is there, and is not shown as it is.
/// - `_call_back(callback, reply, options)`, no coroutine: what the callback makes of it; `_await(shaped)` where that is awaitable.
#[pyclass(subclass, module = "agent_memory._core")]
pub(crate) struct DirectCalls {
    /// Commands by the first argument of a command.
    #[pyo3(get, set, name = "_direct_commands")]
    pub(super) commands: Option<Py<PyDict>>,
    #[pyo3(get, set, name = "_transports")]
    pub(super) transports: Option<Py<PyDict>>,
    /// Whether commands travel redis-py's own way.
    #[pyo3(get, set, name = "_foreign")]
    pub(super) foreign: bool,
    /// Whether commands leave the fast path.
    #[pyo3(get, set, name = "_detour")]
    pub(super) detour: bool,
    /// The connection that is this client's alone, as redis-py calls it: commands go its way.
    pub(super) connection: Option<Py<PyAny>>,
    #[pyo3(get, set, name = "_asked_protocol")]
    pub(super) asked_protocol: i64,
    pub(super) response_callbacks: Option<Py<PyAny>>,
    /// `del client.connection`, and of the callbacks: `mock.patch.object` deletes what it has replaced, and sets what was there
    /// before only where the attribute is missing then.
    deleted: Deleted,
}

#[derive(Default)]
struct Deleted {
    connection: bool,
    response_callbacks: bool,
}

#[pymethods]
impl DirectCalls {
    #[new]
    #[pyo3(signature = (*_arguments, **_named))]
    fn new(_arguments: &Bound<'_, PyTuple>, _named: Option<&Bound<'_, PyAny>>) -> Self {
        Self {
            commands: None,
            transports: None,
            foreign: true,
            detour: false,
            connection: None,
            asked_protocol: 0,
            response_callbacks: None,
            deleted: Deleted::default(),
        }
    }

    #[getter]
    fn connection(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        attribute(py, self.connection.as_ref(), self.deleted.connection, "connection")
    }

    #[setter]
    fn set_connection(&mut self, connection: Option<Py<PyAny>>) {
        (self.connection, self.deleted.connection) = (connection, false);
    }

    #[deleter]
    fn delete_connection(&mut self) {
        (self.connection, self.deleted.connection) = (None, true);
    }

    #[getter]
    fn response_callbacks(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        attribute(py, self.response_callbacks.as_ref(), self.deleted.response_callbacks, "response_callbacks")
    }

    #[setter]
    fn set_response_callbacks(&mut self, callbacks: Option<Py<PyAny>>) {
        (self.response_callbacks, self.deleted.response_callbacks) = (callbacks, false);
    }

    #[deleter]
    fn delete_response_callbacks(&mut self) {
        (self.response_callbacks, self.deleted.response_callbacks) = (None, true);
    }

    /// Send one command, guarded; awaited, it gives the reply as redis-py would show it.
    #[pyo3(signature = (*args, keys=None, **options))]
    fn execute_command<'py>(
        slf: &Bound<'py, Self>,
        args: Bound<'py, PyTuple>,
        keys: Option<Bound<'py, PyAny>>,
        options: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        call::new(slf, args, keys, options)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.commands)?;
        visit.call(&self.transports)?;
        visit.call(&self.connection)?;
        visit.call(&self.response_callbacks)
    }

    fn __clear__(&mut self) {
        self.commands = None;
        self.transports = None;
        self.connection = None;
        self.response_callbacks = None;
    }
}

fn attribute(
    py: Python<'_>,
    value: Option<&Py<PyAny>>,
    is_deleted: bool,
    name: &'static str,
) -> PyResult<Option<Py<PyAny>>> {
    if is_deleted { Err(PyAttributeError::new_err(name)) } else { Ok(value.map(|value| value.clone_ref(py))) }
}

/// The facts about a command name that the fast path needs.
///
/// `operation` is the guard's handle, None without a guard. `head` are the words that replace the first argument if the name has
/// several. Commands of up to `shared_upto` words use the shared connection. `bound` is the same command as the client knows it.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct DirectCommand {
    pub(super) name: Py<PyString>,
    pub(super) operation: Option<Py<Operation>>,
    pub(super) head: Vec<Vec<u8>>,
    pub(super) shared_upto: usize,
    pub(super) bound: Py<PyAny>,
}

#[pymethods]
impl DirectCommand {
    #[new]
    #[expect(clippy::needless_pass_by_value, reason = "what PyO3 can extract")]
    fn new(
        name: Bound<'_, PyString>,
        operation: Option<Py<Operation>>,
        head: Vec<Bound<'_, PyBytes>>,
        shared_upto: usize,
        bound: Bound<'_, PyAny>,
    ) -> Self {
        let head = head.iter().map(|word| word.as_bytes().to_vec()).collect();
        Self { name: name.unbind(), operation, head, shared_upto, bound: bound.unbind() }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.operation)?;
        visit.call(&self.bound)
    }
}

/// The way in of a transport: the connection that takes commands now, if any does.
#[pyclass(subclass, module = "agent_memory._core")]
pub(crate) struct Entrance {
    /// The shared connection; None while there is none.
    #[pyo3(get, set)]
    pub(super) current: Option<Py<Exchange>>,
    /// The protocol that was negotiated last.
    #[pyo3(get, set)]
    pub(super) protocol: i64,
}

#[pymethods]
impl Entrance {
    #[new]
    #[pyo3(signature = (*_arguments, **_named))]
    fn new(_arguments: &Bound<'_, PyTuple>, _named: Option<&Bound<'_, PyAny>>) -> Self {
        Self { current: None, protocol: 3 }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.current)
    }

    fn __clear__(&mut self) {
        self.current = None;
    }
}
