//! What Python classes inherit whose attributes are read on the fast path of a command.

use pyo3::exceptions::PyAttributeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use super::exchange::Exchange;
use super::face::{self, ClassWatch};
use super::{blocking, call};
use crate::cache::CacheView;
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
/// - `_execute_patched(args, options)`: something was put in the place of redis-py's own `execute_command`, and has to be called.
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
    #[pyo3(get, set, name = "_takes_slow_path")]
    pub(super) takes_slow_path: bool,
    /// The connection that is this client's alone: commands go its way.
    pub(super) connection: Option<Py<PyAny>>,
    #[pyo3(get, set, name = "_asked_protocol")]
    pub(super) asked_protocol: i64,
    pub(super) response_callbacks: Option<Py<PyAny>>,
    /// The transport of a sync client; None where commands travel redis-py's own way.
    #[pyo3(get, set, name = "_transport")]
    pub(super) blocking: Option<Py<PyAny>>,
    /// Whether `parse_response` is redis-py's: another one has to see every reply, which only redis-py's own way leads to.
    #[pyo3(get, set, name = "_stock_reading")]
    pub(super) reading: Option<Py<ClassWatch>>,
    /// Whether redis-py's `execute_command` is its own: another one has to see every call.
    #[pyo3(get, set, name = "_stock_calling")]
    pub(super) calling: Option<Py<ClassWatch>>,
    /// What is read from the cache; None without one.
    #[pyo3(get, set, name = "_cache_view")]
    pub(super) cache: Option<Py<CacheView>>,
    /// How long a call may take, in seconds.
    #[pyo3(get, set, name = "_deadline_s")]
    pub(super) deadline: Option<Py<PyAny>>,
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
            takes_slow_path: false,
            connection: None,
            asked_protocol: 0,
            response_callbacks: None,
            blocking: None,
            cache: None,
            deadline: None,
            reading: None,
            calling: None,
            deleted: Deleted::default(),
        }
    }

    /// As in redis-py: the client's own connection with `single_connection_client=True`, else None.
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

    /// The same, whatever a class makes of `connection`.
    #[getter(_pinned)]
    fn pinned(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.connection.as_ref().map(|connection| connection.clone_ref(py))
    }

    /// As in redis-py: what makes a command's result of its reply, by the command's name.
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

    /// Send the command of `args`, guarded; awaited, it gives the reply as redis-py would show it. `keys` and `options` are
    /// redis-py's.
    #[pyo3(signature = (*args, keys=None, **options))]
    fn execute_command<'py>(
        slf: &Bound<'py, Self>,
        args: Bound<'py, PyTuple>,
        keys: Option<Bound<'py, PyAny>>,
        options: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let reads_itself = reads_itself(slf)?;
        if !reads_itself && is_patched(slf)? {
            let options = options.unwrap_or_else(|| PyDict::new(slf.py()));
            if let Some(keys) = keys {
                options.set_item(intern!(slf.py(), "keys"), keys)?;
            }
            return slf.call_method1(intern!(slf.py(), "_execute_patched"), (args, options));
        }
        let made = call::new(slf, args, keys, options)?;
        if reads_itself {
            call::leave_straight(&made);
        }
        Ok(made)
    }

    /// The same within what was put in the place of redis-py's own.
    fn _execute_within<'py>(
        slf: &Bound<'py, Self>,
        args: Bound<'py, PyTuple>,
        options: Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        call::new(slf, args, None, Some(options))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.commands)?;
        visit.call(&self.transports)?;
        visit.call(&self.connection)?;
        visit.call(&self.response_callbacks)?;
        visit.call(&self.cache)?;
        visit.call(&self.blocking)
    }

    fn __clear__(&mut self) {
        self.commands = None;
        self.transports = None;
        self.connection = None;
        self.response_callbacks = None;
        self.blocking = None;
        self.cache = None;
    }
}

/// Whether a client has a `parse_response` that is not redis-py's.
fn reads_itself(client: &Bound<'_, DirectCalls>) -> PyResult<bool> {
    let py = client.py();
    let Some(watch) = client.try_borrow()?.reading.as_ref().map(|watch| watch.bind(py).clone()) else {
        return Ok(false);
    };
    Ok(!watch.get().stock.is_met_by(client) || face::has_own(client.as_any(), [intern!(py, "parse_response")]))
}

/// Whether a call has to be led through what stands in the place of redis-py's `execute_command`; redis-py's own way does so by
/// itself.
fn is_patched(client: &Bound<'_, DirectCalls>) -> PyResult<bool> {
    let watch = {
        let client = client.try_borrow()?;
        if client.foreign || client.connection.is_some() {
            return Ok(false);
        }
        let Some(watch) = &client.calling else { return Ok(false) };
        watch.clone_ref(client.py())
    };
    Ok(!watch.get().stock.is_met_by(client))
}

/// The same for a sync client, whose commands give their replies.
///
/// - `_execute_ordinarily(args, options)`: the whole command.
/// - `_recover_direct(transport, command, args, options, permit, error)`, `_shape_direct(transport, command, reply, options)`,
///   `_call_back(callback, reply, options)`: as above.
#[pyclass(subclass, extends = DirectCalls, module = "agent_memory._core")]
pub(crate) struct BlockingCalls;

#[pymethods]
impl BlockingCalls {
    #[new]
    #[pyo3(signature = (*arguments, **named))]
    fn new(arguments: &Bound<'_, PyTuple>, named: Option<&Bound<'_, PyAny>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(DirectCalls::new(arguments, named)).add_subclass(Self)
    }

    /// Send one command, guarded, and return its reply as redis-py would show it.
    #[pyo3(signature = (*args, **options))]
    fn execute_command<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        options: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let reads_itself = reads_itself(slf.as_super())?;
        if !reads_itself && is_patched(slf.as_super())? {
            let options = options.unwrap_or_else(|| PyDict::new(slf.py()));
            return slf.call_method1(intern!(slf.py(), "_execute_patched"), (args, options));
        }
        if !reads_itself && let Some(reply) = blocking::call(slf.as_super(), args, options.as_ref())? {
            return Ok(reply);
        }
        let options = options.unwrap_or_else(|| PyDict::new(slf.py()));
        slf.call_method1(intern!(slf.py(), "_execute_ordinarily"), (args, options))
    }

    /// The same within what was put in the place of redis-py's own.
    fn _execute_within<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        options: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match blocking::call(slf.as_super(), args, Some(options))? {
            Some(reply) => Ok(reply),
            None => slf.call_method1(intern!(slf.py(), "_execute_ordinarily"), (args, options)),
        }
    }
}

/// A resilient client, so far as its listed commands ask for it where they go to the drop-in behind it.
#[pyclass(subclass, module = "agent_memory._core")]
pub(crate) struct DirectListed {
    /// The drop-in with the same guard; None where commands go another way.
    #[pyo3(get, set, name = "_direct_client")]
    pub(super) commands: Option<Py<PyAny>>,
    /// `note(name, error)` gets each error.
    #[pyo3(get, set, name = "_direct_note")]
    pub(super) note: Option<Py<PyAny>>,
    #[pyo3(get, set, name = "_double_await")]
    pub(super) double_await: bool,
}

#[pymethods]
impl DirectListed {
    #[new]
    #[pyo3(signature = (*_arguments, **_named))]
    fn new(_arguments: &Bound<'_, PyTuple>, _named: Option<&Bound<'_, PyAny>>) -> Self {
        Self { commands: None, note: None, double_await: false }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.commands)?;
        visit.call(&self.note)
    }

    fn __clear__(&mut self) {
        self.commands = None;
        self.note = None;
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
