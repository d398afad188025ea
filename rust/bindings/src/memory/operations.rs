//! The operations of Python's stores, read so that another thread can work on them, and their results.

use agent_memory_core::memory::copy::Copy;
use agent_memory_core::memory::plan::{Delete, LONG_TERM, Move, Operation, Put, Status};
use agent_memory_storage::memories::{Outcome, Payload, Write};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use super::copy::{SharedCopy, Words, held_words};

/// Of Python's side of the stores.
#[derive(FromPyObject)]
pub(crate) struct Classes {
    put: Py<PyType>,
    delete: Py<PyType>,
    relabel: Py<PyType>,
    copy: Py<PyType>,
    result: Py<PyType>,
    /// The members of the enumeration of what becomes of a write.
    applied: Py<PyAny>,
    stale: Py<PyAny>,
    deleted: Py<PyAny>,
    conflict: Py<PyAny>,
    existing: Py<PyAny>,
    erased: Py<PyAny>,
    absent: Py<PyAny>,
    foreign: Py<PyAny>,
}

/// One operation, held by references to Python's immutable texts and bytes.
#[expect(clippy::large_enum_variant, reason = "puts are the most frequent ones")]
pub(crate) enum Given {
    Put(GivenPut),
    Delete(GivenDelete),
    Move(GivenMove),
}

pub(crate) struct GivenPut {
    shared: SharedCopy,
    if_version: Option<u64>,
    creates: bool,
    pub(crate) original: Py<PyTuple>,
}

pub(crate) struct GivenDelete {
    id: PyBackedStr,
    agent_id: PyBackedStr,
    version: u64,
    writer: u64,
    if_version: Option<u64>,
    generation: u32,
    is_held_only: bool,
    erases: bool,
}

pub(crate) struct GivenMove {
    id: PyBackedStr,
    agent_id: PyBackedStr,
    version: u64,
    tier: u8,
}

impl Given {
    /// Raises `TypeError` or `OverflowError` for what is no operation.
    pub(crate) fn read(operation: &Bound<'_, PyAny>, classes: &Classes) -> PyResult<Self> {
        let py = operation.py();
        let class = operation.get_type();
        if class.is(classes.put.bind(py)) {
            let words = operation.cast::<PyTuple>()?;
            let original = words.get_item(0)?.cast_into::<PyTuple>()?;
            let copy = Words::new(&original)?;
            if copy.is_deleted()? {
                return Err(PyTypeError::new_err("a Put must have a living copy, got a tombstone"));
            }
            let (if_version, creates) = (words.get_item(1)?.extract()?, words.get_item(2)?.extract()?);
            let shared = copy.shared()?;
            Ok(Self::Put(GivenPut { shared, if_version, creates, original: original.unbind() }))
        } else if class.is(classes.relabel.bind(py)) {
            let (id, agent_id, version, tier) = operation.extract::<(_, _, _, u8)>()?;
            Ok(Self::Move(GivenMove { id, agent_id, version, tier }))
        } else if class.is(classes.delete.bind(py)) {
            let (id, agent_id, version, writer, if_version, generation, is_held_only, erases) = operation.extract()?;
            let delete = GivenDelete { id, agent_id, version, writer, if_version, generation, is_held_only, erases };
            Ok(Self::Delete(delete))
        } else {
            Err(PyTypeError::new_err(format!("an operation must be a Put, Delete or Move, got {class}")))
        }
    }

    pub(crate) fn operation(&self) -> Operation<'_> {
        match self {
            Self::Put(put) => {
                let copy = put.shared.copy();
                Operation::Put(Put::of(&copy, &put.shared.content_hash, put.if_version, put.creates))
            }
            Self::Delete(one) => Operation::Delete(Delete {
                id: &one.id,
                agent_id: &one.agent_id,
                version: one.version,
                writer: one.writer,
                if_version: one.if_version,
                generation: one.generation,
                is_held_only: one.is_held_only,
                erases: one.erases,
            }),
            Self::Move(one) => {
                Operation::Move(Move { id: &one.id, agent_id: &one.agent_id, version: one.version, tier: one.tier })
            }
        }
    }

    /// The copy of a put.
    pub(crate) fn copy(&self) -> Option<Copy<'_>> {
        if let Self::Put(put) = self { Some(put.shared.copy()) } else { None }
    }

    /// Whether something goes to long-term memory.
    pub(crate) fn is_for_long_term(&self) -> bool {
        match self {
            Self::Put(put) => put.shared.numbers.tier == LONG_TERM,
            Self::Delete(_) => false,
            Self::Move(one) => one.tier == LONG_TERM,
        }
    }

    pub(crate) fn write<'a>(&'a self, packed: Option<(&'a [u8], i64)>, tags: &'a [String]) -> Write<'a> {
        let payload = if let Self::Put(put) = self {
            Some(Payload { copy: put.shared.copy(), content_hash: &put.shared.content_hash, packed, tags })
        } else {
            None
        };
        Write { operation: self.operation(), payload }
    }

    fn id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Put(put) => put.original.bind(py).get_item(0),
            Self::Delete(GivenDelete { id, .. }) | Self::Move(GivenMove { id, .. }) => {
                Ok(id.into_pyobject(py)?.into_any())
            }
        }
    }
}

/// A content as long-term memory has it.
pub(crate) type Packed = (PyBackedBytes, i64);

impl Classes {
    fn status(&self, status: Status) -> &Py<PyAny> {
        match status {
            Status::Applied => &self.applied,
            Status::Stale => &self.stale,
            Status::Deleted => &self.deleted,
            Status::Conflict => &self.conflict,
            Status::Existing => &self.existing,
            Status::Erased => &self.erased,
            Status::Absent => &self.absent,
            Status::Foreign => &self.foreign,
        }
    }

    /// The result of an operation, and the copy in it, if there is one.
    pub(crate) fn result<'py>(
        &self,
        py: Python<'py>,
        given: &Given,
        outcome: &Outcome,
    ) -> PyResult<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
        let id = match &outcome.other_id {
            Some(id) => id.into_pyobject(py)?.into_any(),
            None => given.id(py)?,
        };
        let mut copy = None;
        let mut created_us = 0;
        if let (Given::Put(put), Some(stored)) = (given, &outcome.stored) {
            let words = held_words(put.original.bind(py), &id, stored)?;
            copy = Some(self.copy(words)?);
            created_us = stored.numbers.created_us;
        }
        let Outcome { version, seq, existed, .. } = *outcome;
        let status = self.status(outcome.status).bind(py);
        let words = (status, id, version, seq, existed, created_us, copy.as_ref()).into_pyobject(py)?;
        Ok((new_tuple(self.result.bind(py), words)?, copy))
    }

    /// A copy of these words.
    pub(crate) fn copy<'py>(&self, words: Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        new_tuple(self.copy.bind(words.py()), words)
    }
}

/// A named tuple of these words, made as its `_make` does.
fn new_tuple<'py>(class: &Bound<'py, PyType>, words: Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    static NEW: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = class.py();
    let new = NEW.get_or_try_init(py, || py.get_type::<PyTuple>().getattr("__new__").map(Bound::unbind))?;
    new.bind(py).call1((class, words))
}
