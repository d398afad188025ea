//! A command of the sync client: what stands around the transport's round trip.

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::bases::{DirectCalls, DirectCommand};
use super::objects::{self, is_exception};
use crate::clock;
use crate::protocol::commands::pack_plain;

/// The reply as redis-py would show it; `None` where nothing was done, and the ordinary way has to be taken.
///
/// What it holds of the guard it gives back exactly once: with the reply, with an error to the client's `_recover_direct`, or
/// with an interruption.
#[inline]
pub(super) fn call<'py>(
    client: &Bound<'py, DirectCalls>,
    words: &Bound<'py, PyTuple>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    call_or_recover(client, words, options, intern!(client.py(), "_recover_direct"))
}

/// The same with another method in the place of `_recover_direct`.
pub(super) fn call_or_recover<'py>(
    client: &Bound<'py, DirectCalls>,
    words: &Bound<'py, PyTuple>,
    options: Option<&Bound<'py, PyDict>>,
    recovery: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = client.py();
    let options = options.filter(|options| !options.is_empty());
    if let Some(options) = options
        && (options.contains(intern!(py, "NEVER_DECODE"))? || options.contains(intern!(py, "EMPTY_RESPONSE"))?)
    {
        return Ok(None);
    }
    let (commands, transport, deadline, callbacks, asked) = {
        let client = client.try_borrow()?;
        if client.foreign || client.takes_slow_path || client.connection.is_some() {
            return Ok(None);
        }
        let (Some(commands), Some(transport), Some(deadline), Some(callbacks)) =
            (&client.commands, &client.blocking, &client.deadline, &client.response_callbacks)
        else {
            return Ok(None);
        };
        let facts = (commands.bind(py).clone(), transport.bind(py).clone(), deadline.bind(py).clone());
        (facts.0, facts.1, facts.2, callbacks.bind(py).clone(), client.asked_protocol)
    };
    let Some(command) = commands.get_item(words.get_item(0)?)? else { return Ok(None) };
    let Ok(command) = command.cast_into::<DirectCommand>() else { return Ok(None) };
    let facts = command.get();
    if words.len() > facts.shared_upto || !facts.head.is_empty() {
        return Ok(None); // words in the place of the first one
    }
    let Some(packed) = pack_plain(words)? else { return Ok(None) };
    let permit = match &facts.operation {
        None => clock::now_ns(),
        Some(operation) => match operation.get().admit_straight() {
            Some(permit) => permit,
            None => return Ok(None),
        },
    };
    let give_up = || {
        if let Some(operation) = &facts.operation {
            operation.get().give_up(permit);
        }
    };
    let recover = |error: Bound<'py, PyAny>| {
        let options = options.map_or_else(|| PyDict::new(py), Clone::clone);
        let given = (&transport, &facts.bound, words, options, permit, error);
        client.call_method1(recovery, given).map(Some)
    };
    let started = permit.into_pyobject(py)?;
    let raw = pyo3::types::PyBool::new(py, false);
    let arguments = [transport.as_ptr(), packed.as_ptr(), started.as_ptr(), raw.as_ptr(), deadline.as_ptr()];
    let reply = match objects::call_method(py, intern!(py, "call"), arguments) {
        Ok(reply) if is_exception(reply.as_ptr()) => return recover(reply),
        Ok(reply) => reply,
        Err(error) if error.is_instance_of::<PyException>(py) => {
            return recover(error.into_value(py).into_bound(py).into_any());
        }
        Err(error) => {
            give_up();
            return Err(error);
        }
    };
    if let Some(operation) = &facts.operation {
        operation.get().succeed(py, permit);
    }
    let protocol: i64 = transport.getattr(intern!(py, "protocol"))?.extract()?;
    let (true, Ok(callbacks)) = (protocol == asked, callbacks.cast_into::<PyDict>()) else {
        let options = options.map_or_else(|| PyDict::new(py), Clone::clone);
        return client.call_method1(intern!(py, "_shape_direct"), (&transport, &facts.bound, reply, options)).map(Some);
    };
    let Some(callback) = callbacks.get_item(facts.name.bind(py))? else { return Ok(Some(reply)) };
    if let Some(options) = options {
        return client.call_method1(intern!(py, "_call_back"), (callback, reply, options)).map(Some);
    }
    match objects::call(&callback, [reply.as_ptr()]) {
        Ok(shaped) => Ok(Some(shaped)),
        Err(error) => {
            if error.is_instance_of::<PyException>(py) {
                client.call_method1(intern!(py, "_note_applied"), (error.value(py),))?;
            }
            Err(error)
        }
    }
}

/// An error on its way to the caller; `note(name, error)` gets it, too.
pub(super) fn note(note: &Bound<'_, PyAny>, name: &Py<PyString>, error: PyErr) -> PyErr {
    let py = note.py();
    if error.is_instance_of::<PyException>(py)
        && let Err(another) = note.call1((name, error.value(py)))
    {
        return another;
    }
    error
}
