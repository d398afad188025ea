//! `pack_command`: the bytes of a command from Python's words.

use agent_memory_core::protocol::commands::{Word, Writer, header_len};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyFloat, PyInt, PyMemoryView, PyString, PyTuple};

/// Calls `use_word` with what the word is on the wire; None for what has to be made plain first.
#[inline]
pub(crate) fn with_word<T>(word: &Bound<'_, PyAny>, use_word: impl FnOnce(Word<'_>) -> T) -> Option<T> {
    if let Ok(text) = word.cast_exact::<PyString>() {
        return text.to_str().ok().map(|text| use_word(Word::Bytes(text.as_bytes())));
    }
    if let Ok(bytes) = word.cast_exact::<PyBytes>() {
        return Some(use_word(Word::Bytes(bytes.as_bytes())));
    }
    let number = word.cast_exact::<PyInt>().ok()?;
    number.extract().ok().map(|value| use_word(Word::Int(value)))
}

/// The bytes of a command of RESP.
///
/// A word is str (UTF-8), bytes, bytearray, memoryview of any layout, int or float (as `repr` writes it), or of a class derived
/// from str, bytes or float. Anything else raises `TypeError` with the command, the position and the type: what it would be on the
/// wire is for the caller to say.
#[pyfunction]
#[pyo3(signature = (words, /))]
pub(crate) fn pack_command<'py>(words: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyBytes>> {
    match pack_plain(words)? {
        Some(packed) => Ok(packed),
        None => pack_command(&made_plain(words)?),
    }
}

/// The same where all words are exact str, bytes or int; `None` where one is not.
#[inline]
pub(crate) fn pack_plain<'py>(words: &Bound<'py, PyTuple>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let count = words.len();
    let mut len = header_len(count);
    for word in words.iter_borrowed() {
        match with_word(&word, |word| word.packed_len()) {
            Some(word_len) => len += word_len,
            None => return Ok(None),
        }
    }
    PyBytes::new_with(words.py(), len, |buffer| {
        let mut writer = Writer::new(buffer, count);
        for word in words.iter_borrowed() {
            with_word(&word, |word| writer.word(word));
        }
        Ok(())
    })
    .map(Some)
}

/// The words as str, bytes and int. Code of the words' classes may run here, and may raise: nothing has been written yet, and
/// what is written afterwards cannot change.
fn made_plain<'py>(words: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyTuple>> {
    let py = words.py();
    let plain = |(position, word): (usize, Bound<'py, PyAny>)| {
        plain_word(&word)?.ok_or_else(|| refused(words, position, &word))
    };
    let plain: Vec<Bound<'py, PyAny>> = words.iter().enumerate().map(plain).collect::<PyResult<_>>()?;
    PyTuple::new(py, plain)
}

/// One word as str, bytes or int; None for what cannot be sent.
pub(crate) fn plain_word<'py>(word: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = word.py();
    if with_word(word, |_| ()).is_some() {
        return Ok(Some(word.clone()));
    }
    if let Ok(text) = word.cast::<PyString>() {
        return Ok(Some(PyBytes::new(py, text.to_str()?.as_bytes()).into_any()));
    }
    if let Ok(bytes) = word.cast::<PyBytes>() {
        return Ok(Some(PyBytes::new(py, bytes.as_bytes()).into_any()));
    }
    if word.is_instance_of::<PyByteArray>() || word.is_instance_of::<PyMemoryView>() {
        // bytes() walks the strides of a view, and holds the buffer while it does.
        return Ok(Some(py.get_type::<PyBytes>().call1((word,))?));
    }
    let is_number = word.is_instance_of::<PyFloat>() || word.is_exact_instance_of::<PyInt>();
    if is_number && !word.is_instance_of::<PyBool>() {
        let text = word.repr()?;
        return Ok(Some(PyBytes::new(py, text.to_str()?.as_bytes()).into_any()));
    }
    Ok(None)
}

fn refused(words: &Bound<'_, PyTuple>, position: usize, word: &Bound<'_, PyAny>) -> PyErr {
    // The first word is the name; the others may be secrets.
    let name = words.get_item(0).ok().and_then(|first| first.extract::<String>().ok()).filter(|_| position > 0);
    let of = name.map_or_else(|| "a command".to_owned(), |name| name.to_uppercase());
    let kind = word.get_type().name().map_or_else(|_| "an object".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "argument {position} of {of} must be str, bytes, bytearray, memoryview, int or float, got {kind}: convert it first"
    ))
}
