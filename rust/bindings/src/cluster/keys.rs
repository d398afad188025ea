//! From Python's keys to slots, as they are encoded when they are sent.

use agent_memory_core::cluster::slot::{slot_of, tag_of};
use agent_memory_core::protocol::commands::Word;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::protocol::commands::{plain_word, with_word};

/// The slot of a key: str (UTF-8), bytes, bytearray, memoryview, int or float.
#[pyfunction]
#[pyo3(signature = (key, /))]
pub(crate) fn key_slot(key: &Bound<'_, PyAny>) -> PyResult<u16> {
    slot_of_key(key)
}

/// A hash tag of at most four characters whose keys lie in the slot.
#[pyfunction]
#[pyo3(signature = (slot, /))]
pub(crate) fn slot_tag(slot: i64) -> PyResult<&'static str> {
    let tag = u16::try_from(slot).ok().and_then(tag_of);
    tag.ok_or_else(|| PyValueError::new_err(format!("slot must be >= 0 and <= 16383, got {slot}")))
}

#[inline]
pub(crate) fn slot_of_key(key: &Bound<'_, PyAny>) -> PyResult<u16> {
    if let Some(slot) = with_word(key, slot_of_word) {
        return Ok(slot);
    }
    let plain = plain_word(key)?.ok_or_else(|| {
        let kind = key.get_type().name().map_or_else(|_| "an object".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("key must be str, bytes, bytearray, memoryview, int or float, got {kind}"))
    })?;
    with_word(&plain, slot_of_word).ok_or_else(|| PyTypeError::new_err("key must be encodable"))
}

#[inline]
fn slot_of_word(word: Word<'_>) -> u16 {
    match word {
        Word::Bytes(bytes) => slot_of(bytes),
        Word::Int(value) => slot_of(value.to_string().as_bytes()),
    }
}
