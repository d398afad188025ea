//! Copies of memories as bytes. A copy is Python's `Copy`, a named tuple whose places stand here once more.

use agent_memory_core::memory::copy::{
    self as core, Copy, NoCopyError, NoValueError, Numbers, Prefix, Read, State, VALUE_TEXTS, place,
};
use agent_memory_core::memory::plan::Held;
use agent_memory_core::memory::{expiry, export_line};
use agent_memory_storage::memories::Stored;
use numpy::{PyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::raw;

const ID: usize = 0;
const AGENT_ID: usize = 1;
const VERSION: usize = 2;
const WRITER: usize = 3;
const DELETED: usize = 4;
const TIER: usize = 5;
const CREATED_US: usize = 6;
const TIMESTAMP: usize = 7;
const STEP: usize = 8;
const IMPORTANCE: usize = 9;
/// Type, namespace, user, session, key, idempotency key, tags, metadata.
const TEXTS: [usize; VALUE_TEXTS] = [10, 11, 12, 13, 14, 15, 17, 18];
const EXPIRES_AT: usize = 16;
const CONTENT_KIND: usize = 19;
pub(crate) const CONTENT: usize = 20;
const CHECKSUM: usize = 21;
const CONTENT_HASH: usize = 22;
const VECTOR: usize = 23;
const SEQ: usize = 24;
const GENERATION: usize = 25;
const WIDTH: usize = 26;

/// The words of one copy, by their places.
pub(crate) struct Words<'a, 'py>(&'a Bound<'py, PyTuple>);

impl<'a, 'py> Words<'a, 'py> {
    pub(crate) fn new(copy: &'a Bound<'py, PyTuple>) -> PyResult<Self> {
        if copy.len() != WIDTH {
            return Err(PyTypeError::new_err(format!("copy must be a Copy, got a tuple of {}", copy.len())));
        }
        Ok(Self(copy))
    }

    fn number<T: for<'b> FromPyObject<'b, 'py, Error = PyErr>>(&self, at: usize) -> PyResult<T> {
        self.0.get_borrowed_item(at)?.extract()
    }

    fn text(&self, at: usize) -> PyResult<&'a str> {
        <&'a str>::extract(self.0.get_borrowed_item(at)?)
    }

    fn bytes(&self, at: usize) -> PyResult<&'a [u8]> {
        Ok(<&'a [u8]>::extract(self.0.get_borrowed_item(at)?)?)
    }

    fn numbers(&self) -> PyResult<Numbers> {
        Ok(Numbers {
            version: self.number(VERSION)?,
            writer: self.number(WRITER)?,
            tier: self.number(TIER)?,
            created_us: self.number(CREATED_US)?,
            timestamp: self.number(TIMESTAMP)?,
            step: self.number(STEP)?,
            importance: self.number(IMPORTANCE)?,
            expires_at: self.number(EXPIRES_AT)?,
            content_kind: self.number(CONTENT_KIND)?,
            checksum: self.number(CHECKSUM)?,
            has_hash: !self.bytes(CONTENT_HASH)?.is_empty(),
            seq: self.number(SEQ)?,
            generation: self.number(GENERATION)?,
        })
    }

    pub(crate) fn is_deleted(&self) -> PyResult<bool> {
        Ok(self.number::<u8>(DELETED)? != 0)
    }

    /// What another thread may read while this one does other things.
    pub(crate) fn shared(&self) -> PyResult<SharedCopy> {
        let text = |at: usize| self.0.get_borrowed_item(at)?.extract::<PyBackedStr>();
        let bytes = |at: usize| -> PyResult<PyBackedBytes> { Ok(self.0.get_borrowed_item(at)?.extract()?) };
        let [memory_type, namespace, user, session, key, idempotency_key, tags, metadata] = TEXTS;
        Ok(SharedCopy {
            numbers: self.numbers()?,
            id: text(ID)?,
            agent_id: text(AGENT_ID)?,
            texts: [
                text(memory_type)?,
                text(namespace)?,
                text(user)?,
                text(session)?,
                text(key)?,
                text(idempotency_key)?,
                text(tags)?,
                text(metadata)?,
            ],
            vector: bytes(VECTOR)?,
            content: bytes(CONTENT)?,
            content_hash: bytes(CONTENT_HASH)?,
        })
    }

    fn copy(&self) -> PyResult<Copy<'a>> {
        let mut texts = [""; VALUE_TEXTS];
        for (text, at) in texts.iter_mut().zip(TEXTS) {
            *text = self.text(at)?;
        }
        Ok(Copy {
            numbers: self.numbers()?,
            id: self.text(ID)?,
            agent_id: self.text(AGENT_ID)?,
            texts,
            vector: self.bytes(VECTOR)?,
            content: self.bytes(CONTENT)?,
        })
    }
}

/// A living copy, held by references to Python's immutable texts and bytes.
pub(crate) struct SharedCopy {
    pub(crate) numbers: Numbers,
    id: PyBackedStr,
    agent_id: PyBackedStr,
    texts: [PyBackedStr; VALUE_TEXTS],
    vector: PyBackedBytes,
    content: PyBackedBytes,
    pub(crate) content_hash: PyBackedBytes,
}

impl SharedCopy {
    pub(crate) fn copy(&self) -> Copy<'_> {
        Copy {
            numbers: self.numbers,
            id: &self.id,
            agent_id: &self.agent_id,
            texts: self.texts.each_ref().map(|text| &**text),
            vector: &self.vector,
            content: &self.content,
        }
    }
}

/// The checksum that a living copy should have.
#[pyfunction]
#[pyo3(signature = (copy, /))]
pub(crate) fn copy_checksum(copy: &Bound<'_, PyTuple>) -> PyResult<u32> {
    Ok(Words::new(copy)?.copy()?.checksum())
}

/// Whether a memory is gone at a time, both in seconds since the epoch.
#[pyfunction]
#[pyo3(signature = (expires_at, now, /))]
pub(crate) fn is_expired(expires_at: Option<f64>, now: f64) -> bool {
    expiry::is_expired(expires_at, now)
}

/// The words of a living copy with what the store that accepts it gives it, and the checksum that belongs to that.
#[pyfunction]
#[pyo3(signature = (copy, version, writer, created_us, seq, generation, /))]
pub(crate) fn accept_copy<'py>(
    copy: &Bound<'py, PyTuple>,
    version: u64,
    writer: u64,
    created_us: u64,
    seq: u64,
    generation: u32,
) -> PyResult<Bound<'py, PyTuple>> {
    let mut living = Words::new(copy)?.copy()?;
    living.numbers = Numbers { version, writer, created_us, ..living.numbers };
    let numbers = Numbers { checksum: living.checksum(), seq, generation, ..living.numbers };
    held_words(copy, &copy.get_item(ID)?, &Stored { numbers, other_idempotency_key: None })
}

/// The words of a copy that was given as it is held now, under an id that may be another one.
pub(crate) fn held_words<'py>(
    copy: &Bound<'py, PyTuple>,
    id: &Bound<'py, PyAny>,
    stored: &Stored,
) -> PyResult<Bound<'py, PyTuple>> {
    let py = copy.py();
    let Numbers { version, writer, tier, created_us, checksum, seq, generation, .. } = stored.numbers;
    let mut words: Vec<Bound<'py, PyAny>> = copy.iter().collect();
    words[ID] = id.clone();
    words[VERSION] = version.into_pyobject(py)?.into_any();
    words[WRITER] = writer.into_pyobject(py)?.into_any();
    words[TIER] = tier.into_pyobject(py)?.into_any();
    words[CREATED_US] = created_us.into_pyobject(py)?.into_any();
    if let Some(key) = &stored.other_idempotency_key {
        words[TEXTS[place::IDEMPOTENCY_KEY]] = key.into_pyobject(py)?.into_any();
    }
    words[CHECKSUM] = checksum.into_pyobject(py)?.into_any();
    words[SEQ] = seq.into_pyobject(py)?.into_any();
    words[GENERATION] = generation.into_pyobject(py)?.into_any();
    PyTuple::new(py, words)
}

/// The words of a row that is a tombstone.
pub(crate) fn tombstone_words<'py>(py: Python<'py>, held: &Held<'_>) -> PyResult<Bound<'py, PyTuple>> {
    let no_bytes = PyBytes::new(py, b"");
    let (user_id, idempotency_key) = (held.identity.user_id, held.identity.idempotency_key);
    let parts = [
        (held.id, held.agent_id, held.version, held.writer).into_pyobject(py)?,
        (1_u8, 0_u8, 0_u8, 0.0, None::<i64>, 0.0).into_pyobject(py)?,
        ("", "", user_id, "", "", idempotency_key, None::<f64>, "", "").into_pyobject(py)?,
        (0_u8, &no_bytes, 0_u8, &no_bytes, &no_bytes, held.seq, 0_u8).into_pyobject(py)?,
    ];
    PyTuple::new(py, parts.iter().flat_map(|part| part.iter_borrowed()).collect::<Vec<_>>())
}

/// The value of a copy's key in Redis.
#[pyfunction]
#[pyo3(signature = (copy, epoch, is_dirty, /))]
pub(crate) fn encode_copy<'py>(
    copy: &Bound<'py, PyTuple>,
    epoch: &str,
    is_dirty: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = copy.py();
    let words = Words::new(copy)?;
    let refused = |NoValueError| {
        let (found, len) = (words.number::<u64>(VERSION), epoch.len());
        let version = found.map_or_else(|_| "?".to_owned(), |version| version.to_string());
        PyValueError::new_err(format!(
            "epoch must have {} characters, tier be 0..2 and version below 10**16, got {len} characters, version {version}",
            core::EPOCH_LEN
        ))
    };
    if words.is_deleted()? {
        let value = core::tombstone_value(&words.numbers()?, epoch).map_err(refused)?;
        return Ok(PyBytes::new(py, &value));
    }
    let copy = words.copy()?;
    let state = if is_dirty { State::Dirty } else { State::Clean };
    PyBytes::new_with(py, copy.value_len(), |buffer| copy.write_value(state, epoch, buffer).map_err(refused))
}

/// What a prefix says, for Python: state, tier, version, writer, epoch.
fn prefix_words<'py>(py: Python<'py>, prefix: &Prefix<'_>) -> PyResult<Bound<'py, PyTuple>> {
    let state = char::from(prefix.state.letter());
    (state, prefix.tier, prefix.version, prefix.writer, prefix.epoch).into_pyobject(py)
}

fn no_copy(_: NoCopyError) -> PyErr {
    PyValueError::new_err("value must be that of a memory's key in Redis, got something else or a damaged one")
}

/// The words of the copy in a value, without its content hash; whether it has one; and what its prefix says.
#[pyfunction]
#[pyo3(signature = (value, memory_id, agent_id, /))]
pub(crate) fn decode_copy<'py>(
    value: &Bound<'py, PyBytes>,
    memory_id: &Bound<'py, PyString>,
    agent_id: &Bound<'py, PyString>,
) -> PyResult<(Bound<'py, PyTuple>, bool, Bound<'py, PyTuple>)> {
    let (prefix, read) =
        core::read_value(value.as_bytes(), memory_id.to_str()?, agent_id.to_str()?).map_err(no_copy)?;
    let (words, has_hash) = read_words(memory_id, agent_id, &read)?;
    Ok((words, has_hash, prefix_words(value.py(), &prefix)?))
}

/// The words of what a value holds, without its content hash, and whether it has one.
fn read_words<'py>(
    memory_id: &Bound<'py, PyString>,
    agent_id: &Bound<'py, PyString>,
    read: &Read<'_>,
) -> PyResult<(Bound<'py, PyTuple>, bool)> {
    let py = memory_id.py();
    let (numbers, is_deleted, texts, vector, content) = match read {
        Read::Tombstone(numbers) => (numbers, 1_u8, [""; VALUE_TEXTS], &[][..], &[][..]),
        Read::Living(copy) => (&copy.numbers, 0_u8, copy.texts, copy.vector, copy.content),
    };
    let [memory_type, namespace, user, session, key, idempotency_key, tags, metadata] = texts;
    let no_hash = PyBytes::new(py, b"");
    let parts = [
        (memory_id, agent_id, numbers.version, numbers.writer).into_pyobject(py)?,
        (is_deleted, numbers.tier, numbers.created_us).into_pyobject(py)?,
        (numbers.timestamp, numbers.step, numbers.importance).into_pyobject(py)?,
        (memory_type, namespace, user, session, key, idempotency_key).into_pyobject(py)?,
        (numbers.expires_at, tags, metadata).into_pyobject(py)?,
        (numbers.content_kind, PyBytes::new(py, content), numbers.checksum, no_hash).into_pyobject(py)?,
        (PyBytes::new(py, vector), numbers.seq, numbers.generation).into_pyobject(py)?,
    ];
    let words: Vec<_> = parts.iter().flat_map(|part| part.iter_borrowed()).collect();
    Ok((PyTuple::new(py, words)?, numbers.has_hash))
}

/// Of the dirty copies among values: the words of each without its content hash, their orders as the scripts compare them,
/// one after the other, and which of them have a hash; then the places of the values that are no copies.
#[pyfunction]
#[pyo3(signature = (values, ids, agent_id, /))]
#[expect(clippy::type_complexity, reason = "what Python takes apart at once")]
pub(crate) fn decode_dirty_copies<'py>(
    values: &Bound<'py, PyList>,
    ids: &Bound<'py, PyList>,
    agent_id: &Bound<'py, PyString>,
) -> PyResult<(Vec<Bound<'py, PyTuple>>, Bound<'py, PyString>, Vec<usize>, Vec<usize>)> {
    if values.len() != ids.len() {
        return Err(PyValueError::new_err(format!(
            "values must be as many as ids, got {} and {}",
            values.len(),
            ids.len()
        )));
    }
    let (mut copies, mut orders) =
        (Vec::with_capacity(values.len()), String::with_capacity(core::ORDER_LEN * values.len()));
    let (mut hashed, mut damaged) = (Vec::new(), Vec::new());
    let agent = agent_id.to_str()?;
    for (at, (value, id)) in values.iter().zip(ids.iter()).enumerate() {
        if value.is_none() {
            continue;
        }
        let (value, id) = (value.cast::<PyBytes>()?, id.cast::<PyString>()?);
        match core::read_value(value.as_bytes(), id.to_str()?, agent) {
            Ok((Prefix { state: State::Clean, .. }, _)) => {}
            Ok((prefix, read)) => {
                let (words, has_hash) = read_words(id, agent_id, &read)?;
                if has_hash && prefix.state == State::Dirty {
                    hashed.push(copies.len());
                }
                copies.push(words);
                prefix.write_order(&mut orders);
            }
            Err(NoCopyError) => damaged.push(at),
        }
    }
    Ok((copies, PyString::new(agent_id.py(), &orders), hashed, damaged))
}

/// The bytes of a vector (float32, little endian) that is a contiguous numpy array of float32 with one dimension and
/// 1 to `max_dimensions` elements; None for anything else. Raises `ValueError` unless all elements are finite.
///
/// The interpreter is kept: to get it back from a busy thread would take longer than the call.
#[pyfunction]
#[pyo3(signature = (vector, max_dimensions, /))]
pub(crate) fn encode_vector<'py>(
    vector: &Bound<'py, PyAny>,
    max_dimensions: usize,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let Ok(array) = vector.cast::<PyArray1<f32>>() else { return Ok(None) };
    if !array.is_c_contiguous() || !(1..=max_dimensions).contains(&array.len()) {
        return Ok(None);
    }
    let bytes = raw::bytes_of_floats(array)?;
    if !core::is_finite_vector(bytes.as_bytes()) {
        return Err(PyValueError::new_err("embedding must be finite, got nan or infinity"));
    }
    Ok(Some(bytes))
}

/// A line of an export without its vector, and the vector's bytes; None where it has to be read as any other JSON.
#[pyfunction]
#[pyo3(signature = (line, /))]
pub(crate) fn split_export_line<'py>(line: &Bound<'py, PyAny>) -> Option<(String, Bound<'py, PyBytes>)> {
    let (rest, vector) = export_line::split(line.cast::<PyString>().ok()?.to_str().ok()?)?;
    Some((rest, PyBytes::new(line.py(), &vector)))
}
