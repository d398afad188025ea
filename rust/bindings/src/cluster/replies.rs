//! From Python's replies to the core's: the topology, and the refusals among errors.

use agent_memory_core::cluster::reply::Reply;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyFrozenSet, PyList, PySet, PyString, PyTuple};

/// Deeper than any reply of CLUSTER SLOTS or CLUSTER SHARDS.
const MAX_DEPTH: u32 = 8;

/// A reply as the parser made it.
pub(super) fn reply_of(object: &Bound<'_, PyAny>) -> Reply {
    read(object, MAX_DEPTH)
}

fn read(object: &Bound<'_, PyAny>, depth: u32) -> Reply {
    if object.is_none() {
        return Reply::Nil;
    }
    if let Some(text) = text_of(object) {
        return Reply::Text(text);
    }
    if let Ok(value) = object.extract::<i64>() {
        return Reply::Int(value);
    }
    let Some(depth) = depth.checked_sub(1) else { return Reply::Other };
    if let Ok(list) = object.cast::<PyList>() {
        return Reply::Array(list.iter().map(|item| read(&item, depth)).collect());
    }
    if let Ok(tuple) = object.cast::<PyTuple>() {
        return Reply::Array(tuple.iter().map(|item| read(&item, depth)).collect());
    }
    if let Ok(map) = object.cast::<PyDict>() {
        return Reply::Map(map.iter().map(|(key, value)| (read(&key, depth), read(&value, depth))).collect());
    }
    let is_set = object.is_instance_of::<PySet>() || object.is_instance_of::<PyFrozenSet>();
    if let Some(items) = is_set.then(|| object.try_iter().ok()).flatten() {
        return Reply::Array(items.flatten().map(|item| read(&item, depth)).collect());
    }
    Reply::Other
}

/// A str or bytes as text; bytes that are no UTF-8 are marked as such.
pub(super) fn text_of(object: &Bound<'_, PyAny>) -> Option<String> {
    if let Ok(text) = object.cast::<PyString>() {
        return text.to_str().ok().map(str::to_owned);
    }
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Some(String::from_utf8_lossy(bytes.as_bytes()).into_owned());
    }
    object.cast::<PyByteArray>().ok().map(|bytes| String::from_utf8_lossy(&bytes.to_vec()).into_owned())
}

/// The text of an error reply with its code, which redis-py's exceptions keep apart.
pub(super) fn error_text(error: &Bound<'_, PyAny>) -> Option<String> {
    let py = error.py();
    let message = error.str().ok()?;
    let message = message.to_str().ok()?;
    let code =
        error.getattr(intern!(py, "status_code")).ok().and_then(|code| text_of(&code)).or_else(|| class_code(error));
    match code {
        Some(code) if !code.is_empty() && !message.starts_with(&format!("{code} ")) => {
            Some(format!("{code} {message}"))
        }
        _ => Some(message.to_owned()),
    }
}

/// The code of an exception of redis-py's that was made without one.
fn class_code(error: &Bound<'_, PyAny>) -> Option<String> {
    let name = error.get_type().name().ok()?;
    let code = match name.to_str().ok()? {
        "MovedError" => "MOVED",
        "AskError" => "ASK",
        "TryAgainError" => "TRYAGAIN",
        "ClusterDownError" => "CLUSTERDOWN",
        "MasterDownError" => "MASTERDOWN",
        "ReadOnlyError" => "READONLY",
        "BusyLoadingError" => "LOADING",
        _ => return None,
    };
    Some(code.to_owned())
}
