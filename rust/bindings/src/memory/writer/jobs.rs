//! What `MemoryWriter` takes in, read from Python's operations so that another thread can write it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_memory_storage::memories::{Compressible, Write};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use super::locked;
use super::results::Ending;
use crate::memory::copy::CONTENT;
use crate::memory::operations::{Classes, Given, Packed};

/// A job that waited for longer is of the time at which it is written, not of that at which it was put in: readers of the
/// agents' rows look back by a second.
const LONG_WAIT: Duration = Duration::from_millis(100);

/// What one caller wants.
pub(super) struct DirectJob {
    pub(super) given: Vec<DirectWrite>,
    pub(super) compressible: Compressible,
    now_us: u64,
    since: Instant,
    pub(super) ending: Mutex<Option<Ending>>,
}

pub(super) struct DirectWrite {
    pub(super) given: Given,
    tags: Vec<String>,
    packing: Packing,
}

/// The content of a put as long-term memory has it.
enum Packing {
    /// It does not go there.
    Unknown,
    /// It is too short to be compressed.
    AsItIs,
    Packed(Packed),
}

/// How contents are kept in long-term memory.
pub(super) struct LongTerm<'a, 'py> {
    /// Gives a content as long-term memory has it, and its dictionary's number. None: what goes there is not taken.
    pub(super) pack: Option<&'a Bound<'py, PyAny>>,
    /// For contents of at least so many bytes.
    pub(super) least_bytes: usize,
    /// The dictionary that it uses.
    pub(super) newest: i64,
}

/// What operations are to do; None where one of them is left to Python, as far as can be seen.
pub(super) fn read(
    operations: &Bound<'_, PyList>,
    classes: &Classes,
    long_term: &LongTerm<'_, '_>,
) -> PyResult<Option<Vec<DirectWrite>>> {
    let mut taken = Vec::with_capacity(operations.len());
    for operation in operations.iter() {
        // What is wrong with it is said by the plan of Python's way.
        let Ok(given) = Given::read(&operation, classes) else { return Ok(None) };
        let is_for_long_term = given.is_for_long_term();
        if is_for_long_term && long_term.pack.is_none() {
            return Ok(None);
        }
        let (mut packing, mut tags) = (Packing::Unknown, Vec::new());
        if let (Given::Put(put), Some(copy)) = (&given, given.copy()) {
            if is_for_long_term {
                packing = match long_term.pack {
                    Some(pack) if copy.content.len() >= long_term.least_bytes => {
                        Packing::Packed(pack.call1((put.original.bind(operation.py()).get_item(CONTENT)?,))?.extract()?)
                    }
                    _ => Packing::AsItIs,
                };
            }
            if !copy.tags().is_empty() {
                tags = tags_of(operation.py(), copy.tags())?;
            }
        }
        taken.push(DirectWrite { given, tags, packing });
    }
    Ok(Some(taken))
}

/// The tags of a JSON list.
fn tags_of(py: Python<'_>, text: &str) -> PyResult<Vec<String>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "json", "loads")?.call1((text,))?.extract()
}

impl DirectJob {
    pub(super) fn new(given: Vec<DirectWrite>, long_term: &LongTerm<'_, '_>, now_us: u64) -> Arc<Self> {
        let compressible = Compressible {
            least_bytes: i64::try_from(long_term.least_bytes).unwrap_or(i64::MAX),
            newest_dictionary: long_term.newest,
        };
        Arc::new(Self { given, compressible, now_us, since: Instant::now(), ending: Mutex::new(None) })
    }

    pub(super) fn writes(&self) -> impl Iterator<Item = Write<'_>> {
        self.given.iter().map(DirectWrite::write)
    }

    pub(super) fn len(&self) -> usize {
        self.given.len()
    }

    /// Whether both can be done in one call of the writer.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        self.compressible == other.compressible
    }

    pub(super) fn time_us(&self) -> u64 {
        let waited = self.since.elapsed();
        let late = if waited < LONG_WAIT { Duration::ZERO } else { waited };
        self.now_us.saturating_add(u64::try_from(late.as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn end(&self, ending: Ending) {
        *locked(&self.ending) = Some(ending);
    }
}

impl DirectWrite {
    fn write(&self) -> Write<'_> {
        /// In the place of a dictionary's number.
        const UNCOMPRESSED: i64 = -1;
        let packed = match &self.packing {
            Packing::Unknown => None,
            Packing::AsItIs => self.given.copy().map(|copy| (copy.content, UNCOMPRESSED)),
            Packing::Packed((content, dictionary)) => Some((&**content, *dictionary)),
        };
        self.given.write(packed, &self.tags)
    }
}
