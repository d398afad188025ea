//! A log that is written beside its place and renamed when it is whole.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use agent_memory_core::journal::{Frames, Header, VERSION};

use super::descriptors::Descriptors;
use super::index::{Index, Place};
use crate::journal::JournalError;
use crate::journal::directory::{leads_to, try_lock};
use crate::own_files;

/// What is written of a new file at once.
const WRITTEN_AT_ONCE_BYTES: usize = 1 << 20;

/// A log that is being written beside the place it is meant for.
pub(super) struct Draft {
    pub(super) aside: PathBuf,
    pub(super) file: File,
    pub(super) header: Header,
    pub(super) frames: Frames,
    pub(super) end: u64,
    pub(super) index: Index,
}

impl Draft {
    /// `None` if another process has begun one there, or took this one for a leftover.
    pub(super) fn begin(
        path: &Path,
        identity: &[u8],
        seen: Option<&Descriptors>,
    ) -> Result<Option<Self>, JournalError> {
        let aside = path.with_extension("new");
        let file = match own_files::create(&aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            other => other?,
        };
        if let Some(seen) = seen {
            seen.note_draft(&file);
        }
        if !try_lock(&file)? {
            return Ok(None);
        }
        // Random, so that no value can be written that is taken for a frame.
        let salt = RandomState::new().hash_one(path);
        let header = Header { identity: identity.to_vec(), salt, version: VERSION };
        let head = header.encode();
        let mut draft = Self { aside, file, header, frames: Frames::new(salt), end: 0, index: Index::default() };
        draft.write(&head)?;
        Ok(Some(draft))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn put(&mut self, row: i64, body: &[u8]) -> Result<(), JournalError> {
        let frame = self.frames.put(row, body);
        self.index.put(row, Place::behind(self.end, frame));
        if self.frames.bytes().len() < WRITTEN_AT_ONCE_BYTES { Ok(()) } else { self.flush() }
    }

    pub(super) fn note(&mut self, name: &str, body: &[u8]) -> Result<(), JournalError> {
        let frame = self.frames.note(name, body);
        self.index.note(name, Place::behind(self.end, frame));
        self.flush()
    }

    pub(super) fn announce(&mut self, (rows, how): &(Vec<i64>, Box<[u8]>)) {
        if !rows.is_empty() {
            self.frames.send(rows, how);
        }
    }

    fn flush(&mut self) -> Result<(), JournalError> {
        let bytes = self.frames.bytes().to_vec();
        self.write(&bytes)?;
        self.frames.acknowledged();
        Ok(())
    }

    /// Forces it to the disk and gives it its name; false if it is not there any more, or must not replace what has the name.
    pub(super) fn publish(&mut self, path: &Path, replaces: bool) -> Result<bool, JournalError> {
        self.flush()?;
        self.file.sync_all()?;
        if !leads_to(&self.aside, &self.file)? || (!replaces && path.exists()) {
            return Ok(false);
        }
        fs::rename(&self.aside, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(true)
    }
}
