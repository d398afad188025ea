//! What `MemoryWriter` takes in, read from Python's operations so that another thread can write it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_memory_core::memory::plan::LONG_TERM;
use agent_memory_storage::memories::{Compressible, Move, NewMemory};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple};

use super::locked;
use super::results::{Classes, Outcome};
use crate::memory::copy::{SharedCopy, Words};

/// In the place of a dictionary's number: the content as it is.
const UNCOMPRESSED: i64 = -1;
/// A job that waited for longer is of the time at which it is written, not of that at which it was put in: readers of the
/// agents' rows look back by a second.
const LONG_WAIT: Duration = Duration::from_millis(100);

/// What one caller wants.
pub(super) struct DirectJob {
    work: Work,
    now_us: u64,
    since: Instant,
    pub(super) outcome: Mutex<Option<Outcome>>,
}

pub(super) enum Work {
    New(Vec<Given>),
    Moves(Vec<GivenMove>, Compressible),
}

pub(super) struct Given {
    copy: SharedCopy,
    tags: Vec<String>,
    packed: Option<(PyBackedBytes, i64)>,
    pub(super) original: Py<PyTuple>,
}

pub(super) struct GivenMove {
    id: PyBackedStr,
    agent_id: PyBackedStr,
    pub(super) version: u64,
    tier: u8,
    pub(super) original: Py<PyTuple>,
}

/// How contents are kept in long-term memory.
pub(super) struct Packing<'a, 'py> {
    /// Gives a content as long-term memory has it, and its dictionary's number. None: what goes there is not taken.
    pub(super) pack: Option<&'a Bound<'py, PyAny>>,
    /// For contents of at least so many bytes.
    pub(super) least_bytes: usize,
    /// The dictionary that it uses.
    pub(super) newest: i64,
}

/// What operations are to do; None where it cannot be done without the plan, as far as can be seen.
pub(super) fn read(
    operations: &Bound<'_, PyList>,
    classes: &Classes,
    packing: &Packing<'_, '_>,
) -> PyResult<Option<Work>> {
    let relabel = classes.relabel.bind(operations.py());
    if !operations.get_item(0).is_ok_and(|first| first.get_type().is(relabel)) {
        let given = operations.iter().map(|operation| read_new(&operation, classes, packing));
        return Ok(given.collect::<PyResult<Option<_>>>()?.map(Work::New));
    }
    let compressible = Compressible {
        least_bytes: i64::try_from(packing.least_bytes).unwrap_or(i64::MAX),
        newest_dictionary: packing.newest,
    };
    let moves = operations.iter().map(|operation| read_move(operation, classes, packing));
    Ok(moves.collect::<PyResult<Option<_>>>()?.map(|moves| Work::Moves(moves, compressible)))
}

fn read_new(operation: &Bound<'_, PyAny>, classes: &Classes, packing: &Packing<'_, '_>) -> PyResult<Option<Given>> {
    let py = operation.py();
    if !operation.get_type().is(classes.put.bind(py)) {
        return Ok(None);
    }
    let put = operation.cast::<PyTuple>()?;
    let original = put.get_item(0)?.cast_into::<PyTuple>()?;
    let words = Words::new(&original)?;
    if !put.get_borrowed_item(1)?.is_none() || words.is_deleted()? {
        return Ok(None);
    }
    let Ok(copy) = words.shared() else { return Ok(None) }; // what is wrong with it is the plan's to say
    if copy.numbers.version != 0 {
        return Ok(None);
    }
    let mut packed = None;
    if copy.numbers.tier == LONG_TERM {
        let Some(pack) = packing.pack else { return Ok(None) };
        if copy.copy().content.len() >= packing.least_bytes {
            packed = Some(pack.call1((words.content()?,))?.extract()?);
        }
    }
    let tags = copy.copy().tags();
    let tags = if tags.is_empty() { Vec::new() } else { tags_of(py, tags)? };
    Ok(Some(Given { copy, tags, packed, original: original.unbind() }))
}

fn read_move(operation: Bound<'_, PyAny>, classes: &Classes, packing: &Packing<'_, '_>) -> PyResult<Option<GivenMove>> {
    if !operation.get_type().is(classes.relabel.bind(operation.py())) {
        return Ok(None);
    }
    let original = operation.cast_into::<PyTuple>()?;
    let Ok((id, agent_id, version, tier)) = original.extract::<(_, _, _, u8)>() else { return Ok(None) };
    if tier == LONG_TERM && packing.pack.is_none() {
        return Ok(None);
    }
    Ok(Some(GivenMove { id, agent_id, version, tier, original: original.unbind() }))
}

/// The tags of a JSON list.
fn tags_of(py: Python<'_>, text: &str) -> PyResult<Vec<String>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "json", "loads")?.call1((text,))?.extract()
}

impl DirectJob {
    pub(super) fn new(work: Work, now_us: u64) -> Arc<Self> {
        Arc::new(Self { work, now_us, since: Instant::now(), outcome: Mutex::new(None) })
    }

    pub(super) fn memories(&self) -> &[Given] {
        if let Work::New(memories) = &self.work { memories } else { &[] }
    }

    pub(super) fn moves(&self) -> &[GivenMove] {
        if let Work::Moves(moves, _) = &self.work { moves } else { &[] }
    }

    pub(super) fn compressible(&self) -> Option<Compressible> {
        if let Work::Moves(_, compressible) = &self.work { Some(*compressible) } else { None }
    }

    pub(super) fn len(&self) -> usize {
        self.memories().len() + self.moves().len()
    }

    /// Whether both can be done in one call of the writer.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        self.compressible() == other.compressible()
    }

    pub(super) fn time_us(&self) -> u64 {
        let waited = self.since.elapsed();
        let late = if waited < LONG_WAIT { Duration::ZERO } else { waited };
        self.now_us.saturating_add(u64::try_from(late.as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn end(&self, outcome: Outcome) {
        *locked(&self.outcome) = Some(outcome);
    }
}

impl Given {
    pub(super) fn memory(&self) -> NewMemory<'_> {
        let copy = self.copy.copy();
        let (stored_content, dictionary) = match &self.packed {
            Some((content, dictionary)) => (&**content, *dictionary),
            None => (copy.content, UNCOMPRESSED),
        };
        NewMemory { copy, content_hash: &self.copy.content_hash, stored_content, dictionary, tags: &self.tags }
    }
}

impl GivenMove {
    pub(super) fn relabel(&self) -> Move<'_> {
        Move { id: &self.id, agent_id: &self.agent_id, version: self.version, tier: self.tier }
    }
}
