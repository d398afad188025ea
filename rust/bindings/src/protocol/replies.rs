//! `ReplyScanner`: what of a server's bytes is for the parser. `take_replies`: what the parser has made of it.

use agent_memory_core::protocol::replies::Scanner;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyException, PyUnicodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::raw;

/// Follows the bytes of one connection from its first reply on.
///
/// Attributes of RESP3 are cut out. What is no reply, or is one that announces more than the bounds, ends the stream: `violation`
/// says why, and what comes afterwards is dropped.
#[pyclass(module = "agent_memory._core")]
pub(crate) struct ReplyScanner {
    scanner: Scanner,
}

#[pymethods]
impl ReplyScanner {
    #[new]
    fn new() -> Self {
        Self { scanner: Scanner::new() }
    }

    /// None where all of `count` bytes from `offset` on are for the parser; else the parts that are, as (offset, count).
    #[pyo3(signature = (buffer, offset, count, /))]
    fn scan(
        &mut self,
        buffer: &Bound<'_, PyAny>,
        offset: usize,
        count: usize,
    ) -> PyResult<Option<Vec<(usize, usize)>>> {
        let held = PyBuffer::<u8>::get(buffer)?;
        let mut parts = Vec::new();
        let scanner = &mut self.scanner;
        let is_all = raw::with_bytes(&held, offset..offset.saturating_add(count), |bytes| {
            scanner.scan(bytes, |part| parts.push((offset + part.start, part.len())))
        })
        .ok_or_else(|| {
            PyValueError::new_err(format!("offset and count must lie within the buffer, got {offset} and {count}"))
        })?;
        Ok(if is_all { None } else { Some(parts) })
    }

    /// Why the stream ended; None while it goes on.
    #[getter]
    fn violation(&self) -> Option<String> {
        self.scanner.violation().map(|violation| violation.to_string())
    }

    /// Whether the stream stands between two replies.
    #[getter]
    fn is_between_replies(&self) -> bool {
        self.scanner.is_between_replies()
    }
}

/// Appends what `gets()` gives to `replies` until there are `upto`, pushes left out; false where it gives `incomplete` before.
///
/// `push` is the class of pushes, `undecodable(error)` makes a reply of a `UnicodeError`.
#[pyfunction]
#[pyo3(signature = (gets, replies, upto, incomplete, push, undecodable, /))]
pub(crate) fn take_replies(
    gets: &Bound<'_, PyAny>,
    replies: &Bound<'_, PyList>,
    upto: usize,
    incomplete: &Bound<'_, PyAny>,
    push: &Bound<'_, PyAny>,
    undecodable: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let py = gets.py();
    while replies.len() < upto {
        let reply = match gets.call0() {
            Err(error) if error.is_instance_of::<PyUnicodeError>(py) => undecodable.call1((error.value(py),))?,
            reply => reply?,
        };
        if reply.is(incomplete) {
            return Ok(false);
        }
        if reply.get_type_ptr().cast() != push.as_ptr() {
            replies.append(reply)?;
        }
    }
    Ok(true)
}

/// Where the first exception stands among the replies; None without one.
#[pyfunction]
#[pyo3(signature = (replies, /))]
pub(crate) fn first_error(replies: &Bound<'_, PyList>) -> Option<usize> {
    replies.iter().position(|reply| reply.is_instance_of::<PyException>())
}
