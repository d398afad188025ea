//! The records of a damaged log that damage has something to do with.

use std::collections::BTreeSet;

use agent_memory_core::journal::{Contents, Record, decode_rows};

/// The note of the rows that a damaged segment may have removed or undo.
const UNCERTAIN: &str = ".uncertain";
/// The note of the rows of which only an older state was found.
const STALE: &str = ".stale";

/// Records that damage has something to do with. They are in notes of the log until they are written anew.
#[derive(Clone, Default)]
pub(super) struct Marks {
    pub(super) uncertain: BTreeSet<i64>,
    pub(super) stale: BTreeSet<i64>,
}

impl Marks {
    pub(super) fn is_one(name: &str) -> bool {
        name == UNCERTAIN || name == STALE
    }

    /// What the notes of a log say, and what was found just now.
    pub(super) fn of(contents: &Contents, bytes: &[u8]) -> Self {
        let noted = |name: &str| {
            let note = contents.notes.iter().find(|(known, _)| known == name).map(|(_, place)| &bytes[place.clone()]);
            let runs = note.into_iter().flat_map(decode_rows);
            runs.flat_map(|(first, count)| first..first.saturating_add(count)).take(bytes.len())
        };
        let found = |is_one: fn(&Record) -> bool| {
            contents.records.iter().filter(move |record| is_one(record)).map(|record| record.row)
        };
        Self {
            uncertain: noted(UNCERTAIN).chain(found(|record| !record.is_certain)).collect(),
            stale: noted(STALE).chain(found(|record| record.is_stale)).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.uncertain.is_empty() && self.stale.is_empty()
    }

    pub(super) fn each(&self) -> [(&'static str, Vec<i64>); 2] {
        let rows = |rows: &BTreeSet<i64>| rows.iter().copied().collect();
        [(UNCERTAIN, rows(&self.uncertain)), (STALE, rows(&self.stale))]
    }
}
