//! Where in a log the frames stand that are of use.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where a frame stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    at: u64,
    pub(super) length: u64,
}

impl Place {
    pub(super) fn behind(end: u64, (at, length): (usize, usize)) -> Self {
        Self { at: end + at as u64, length: length as u64 }
    }

    pub(super) fn read(&self, file: &File) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; usize::try_from(self.length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut frame, self.at).map(|()| frame)
    }
}

/// The places of what is in a log.
#[derive(Default)]
pub(super) struct Index {
    pub(super) records: BTreeMap<i64, Place>,
    pub(super) notes: BTreeMap<String, Place>,
    pub(super) live_bytes: u64,
}

impl Index {
    pub(super) fn put(&mut self, row: i64, place: Place) -> Option<Place> {
        self.live_bytes += place.length;
        self.records.insert(row, place).inspect(|before| self.live_bytes -= before.length)
    }

    pub(super) fn remove(&mut self, row: i64) -> Option<Place> {
        self.records.remove(&row).inspect(|before| self.live_bytes -= before.length)
    }

    pub(super) fn note(&mut self, name: &str, place: Place) -> Option<Place> {
        self.live_bytes += place.length;
        self.notes.insert(name.to_owned(), place).inspect(|before| self.live_bytes -= before.length)
    }

    pub(super) fn undo(&mut self, change: Changed) {
        match change {
            Changed::Record(row, Some(place)) => _ = self.put(row, place),
            Changed::Record(row, None) => _ = self.remove(row),
            Changed::Note(name, Some(place)) => _ = self.note(&name, place),
            Changed::Note(name, None) => {
                let place = self.notes.remove(&name);
                self.live_bytes -= place.map_or(0, |place| place.length);
            }
        }
    }
}

/// What a commit changed in the index, and where that was before.
pub(super) enum Changed {
    Record(i64, Option<Place>),
    Note(String, Option<Place>),
}
