//! One segment: a log of records that one process owns. How it is written and read is decided in the core
//! (`agent_memory_core::journal`); here are the file and its lock.
//!
//! The file is locked (flock) for as long as it is open, so a lock can't be lost apart from its records. It is begun under the
//! ending `.new` and renamed when it is whole: at first, and when it is written anew because most of it is of no use any more
//! or because it was damaged. What was damaged is copied to `.damaged` before that.
//!
//! `index`: where the frames stand. `draft`: a log before it has its name. `marks`: what damage has to do with. `descriptors`: the
//! open files.

mod descriptors;
mod draft;
mod index;
mod marks;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_memory_core::journal::{
    Contents, FRAME_BYTES, Frames, Header, MAX_IDENTITY_BYTES, VERSION, body_of, encode_rows, header_of,
    is_worth_rewriting, note_of, scan,
};

pub(super) use descriptors::Descriptors;
use draft::Draft;
use index::{Changed, Index, Place};
use marks::Marks;

use super::directory::{remove_if_there, remove_set_aside, set_aside};
use super::records::{Damage, Note, RecordId, Recovered};
use super::{Fsync, JournalError};

/// A rewriting that failed is tried again when the log has grown by this much.
const RETRY_BYTES: u64 = 4 << 20;

/// One change of a segment.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(i64, Box<[u8]>),
    Remove(i64),
    Sent(Vec<i64>, Box<[u8]>),
    Note(String, Box<[u8]>),
    /// Nothing of what was removed is to be in the file any more, nor in copies of damaged ones.
    Rewrite,
}

/// A segment that is open for writing.
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    descriptors: Arc<Descriptors>,
    header: Header,
    fsync: Fsync,
    frames: Frames,
    /// Where the next frame is written.
    end: u64,
    /// Is there something behind `end`, left by a write that failed?
    is_dirty: bool,
    index: Index,
    /// What was announced last as being sent.
    announced: (Vec<i64>, Box<[u8]>),
    /// Records that damage has something to do with, and that have not been written anew since.
    marks: Marks,
    next_row: i64,
    /// The log is not rewritten before it is as long as this.
    rewritten_from: u64,
}

/// A segment, and what was in it.
pub(super) struct OpenedSegment {
    pub(super) segment: Segment,
    pub(super) recovered: Vec<Recovered>,
    pub(super) notes: Vec<Note>,
}

/// What a segment begins with.
#[derive(Default)]
pub(super) struct Seed {
    pub(super) records: Vec<(i64, Box<[u8]>)>,
    pub(super) notes: Vec<(String, Box<[u8]>)>,
    pub(super) announced: (Vec<i64>, Box<[u8]>),
}

impl Segment {
    /// Makes the segment at `path`; `None` if another process was faster.
    pub(super) fn make(path: &Path, identity: &[u8], seed: Seed, fsync: Fsync) -> Result<Option<Self>, JournalError> {
        if identity.len() > MAX_IDENTITY_BYTES {
            let length = identity.len();
            return Err(JournalError::Other(format!("identity must be <= {MAX_IDENTITY_BYTES} bytes, got {length}")));
        }
        let Some(mut draft) = Draft::begin(path, identity, None)? else { return Ok(None) };
        let written = (|| {
            for (row, body) in &seed.records {
                draft.put(*row, body)?;
            }
            for (name, body) in &seed.notes {
                draft.note(name, body)?;
            }
            draft.announce(&seed.announced);
            draft.publish(path, false)
        })();
        match written {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                let _ = remove_if_there(&draft.aside); // the error that is reported is the first one
                return Err(error);
            }
        }
        let used = seed.records.iter().map(|(row, _)| *row).chain(seed.announced.0.iter().copied()).max();
        Ok(Some(Self {
            path: path.to_owned(),
            descriptors: Descriptors::of(&draft.file),
            file: draft.file,
            header: draft.header,
            fsync,
            frames: draft.frames,
            end: draft.end,
            is_dirty: false,
            index: draft.index,
            announced: seed.announced,
            marks: Marks::default(),
            next_row: used.map_or(1, |row| row.saturating_add(1)),
            rewritten_from: 0,
        }))
    }

    /// Opens the segment at `path`, whose file is open and locked; `number` is what it is called in the ids of its records.
    /// `None` if nothing of it can be read, not even whose it is: then it has been set aside.
    pub(super) fn open(
        number: usize,
        path: &Path,
        mut file: File,
        fsync: Fsync,
    ) -> Result<(Option<OpenedSegment>, Damage), JournalError> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let Some((header, is_header_whole)) = header_of(&bytes) else {
            let removed_files = set_aside(path, &bytes)?;
            remove_if_there(path)?;
            let (bytes, files) = (bytes.len() as u64, vec![path.to_owned()]);
            let damage = Damage { segments: 1, bytes, files, removed_files, ..Damage::default() };
            return Ok((None, damage));
        };
        if header.version != VERSION {
            let (path, version) = (path.display(), header.version);
            return Err(JournalError::Other(format!("{path} was written by a later version, in format {version}")));
        }
        let contents = scan(&bytes, &header, is_header_whole);
        let loss = contents.loss;
        let body = |place: &std::ops::Range<usize>| Box::<[u8]>::from(&bytes[place.clone()]);
        let marks = Marks::of(&contents, &bytes);
        let recovered = contents.records.iter().map(|record| Recovered {
            id: RecordId::new(number, record.row),
            sent: record.sent.clone().or_else(|| marks.stale.contains(&record.row).then(Box::default)),
            is_certain: !marks.uncertain.contains(&record.row),
            body: body(&record.body),
        });
        let recovered: Vec<Recovered> = recovered.collect();
        let others = contents.notes.iter().filter(|(name, _)| !Marks::is_one(name));
        let notes: Vec<Note> =
            others.map(|(name, place)| Note { segment: number, name: name.clone(), body: body(place) }).collect();
        let mut segment = Self::with(path, file, header, contents, marks, fsync);
        let mut damage = Damage { torn_bytes: loss.torn_bytes, ..Damage::default() };
        damage.uncertain = recovered.iter().filter(|record| !record.is_certain).count() as u64;
        if loss.is_damaged {
            damage.segments = 1;
            (damage.records, damage.bytes) = (loss.records, loss.bytes);
            damage.files.push(path.to_owned());
            damage.removed_files = set_aside(path, &bytes)?;
            segment.replace_file(Some((&recovered, &notes)))?;
        } else if loss.torn_bytes > 0 {
            segment.file.set_len(segment.end)?;
            segment.file.sync_all()?;
        }
        Ok((Some(OpenedSegment { segment, recovered, notes }), damage))
    }

    fn with(path: &Path, file: File, header: Header, contents: Contents, marks: Marks, fsync: Fsync) -> Self {
        let mut index = Index::default();
        for record in &contents.records {
            let place = (record.body.start - FRAME_BYTES, FRAME_BYTES + record.body.len());
            index.put(record.row, Place::behind(0, place));
        }
        for (name, body) in &contents.notes {
            let named = FRAME_BYTES + 4 + name.len();
            index.note(name, Place::behind(0, (body.start - named, named + body.len())));
        }
        Self {
            path: path.to_owned(),
            descriptors: Descriptors::of(&file),
            file,
            header,
            fsync,
            frames: contents.frames,
            end: contents.end as u64,
            is_dirty: false,
            index,
            announced: contents.announced,
            marks,
            next_row: contents.next_row,
            rewritten_from: 0,
        }
    }

    pub(super) fn descriptors(&self) -> Arc<Descriptors> {
        Arc::clone(&self.descriptors)
    }

    pub(super) fn records(&self) -> u64 {
        self.index.records.len() as u64
    }

    pub(super) fn next_row(&self) -> i64 {
        self.next_row
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.end
    }

    /// Applies changes as one commit; none of them if it fails.
    pub(super) fn apply(&mut self, changes: &[&Change]) -> Result<(), JournalError> {
        let before = self.frames.clone();
        let mut undo = Vec::new();
        self.encode(changes, &mut undo);
        let marks = self.unmark(changes, &mut undo);
        if let Err(error) = self.write() {
            for change in undo.into_iter().rev() {
                self.index.undo(change);
            }
            self.marks = marks.unwrap_or(std::mem::take(&mut self.marks));
            self.frames = before;
            return Err(error);
        }
        self.end += self.frames.bytes().len() as u64;
        self.frames.acknowledged();
        for change in changes {
            if let Change::Sent(rows, how) = change {
                self.announced = (rows.clone(), how.clone());
            }
        }
        if changes.iter().any(|change| matches!(change, Change::Rewrite)) {
            return self.rewrite();
        }
        self.rewrite_if_due();
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), JournalError> {
        self.replace_file(None)?;
        remove_set_aside(&self.path)
    }

    /// Encodes changes; `undo` gets what they change in the index.
    fn encode(&mut self, changes: &[&Change], undo: &mut Vec<Changed>) {
        let mut removed = Vec::new();
        for change in changes {
            if !matches!(change, Change::Remove(_)) && !removed.is_empty() {
                self.frames.remove(&std::mem::take(&mut removed));
            }
            match change {
                Change::Put(row, body) => {
                    let is_known = self.index.records.contains_key(row);
                    let frame = if is_known { self.frames.replace(*row, body) } else { self.frames.put(*row, body) };
                    undo.push(Changed::Record(*row, self.index.put(*row, Place::behind(self.end, frame))));
                }
                Change::Remove(row) => {
                    if let Some(place) = self.index.remove(*row) {
                        removed.push(*row);
                        undo.push(Changed::Record(*row, Some(place)));
                    }
                }
                Change::Sent(rows, how) => self.frames.send(rows, how),
                Change::Rewrite => {}
                Change::Note(name, body) => {
                    let frame = self.frames.note(name, body);
                    let before = self.index.note(name, Place::behind(self.end, frame));
                    undo.push(Changed::Note(name.clone(), before));
                }
            }
        }
        if !removed.is_empty() {
            self.frames.remove(&removed);
        }
    }

    /// Records that are written anew, or removed, have been looked at: their marks go. Returns what the marks were, if any went.
    fn unmark(&mut self, changes: &[&Change], undo: &mut Vec<Changed>) -> Option<Marks> {
        if self.marks.is_empty() {
            return None;
        }
        let before = self.marks.clone();
        for change in changes {
            if let Change::Put(row, _) | Change::Remove(row) = change {
                self.marks.uncertain.remove(row);
                self.marks.stale.remove(row);
            }
        }
        for ((name, rows), (_, marked)) in self.marks.each().into_iter().zip(before.each()) {
            if rows.len() < marked.len() {
                let frame = self.frames.note(name, &encode_rows(&rows));
                let place = self.index.note(name, Place::behind(self.end, frame));
                undo.push(Changed::Note(name.to_owned(), place));
            }
        }
        Some(before)
    }

    fn write(&mut self) -> Result<(), JournalError> {
        if self.frames.bytes().is_empty() {
            return Ok(());
        }
        if self.is_dirty {
            self.file.set_len(self.end)?;
            self.is_dirty = false;
        }
        let mut written = self.file.write_all_at(self.frames.bytes(), self.end).map_err(JournalError::from);
        if written.is_ok() && self.fsync == Fsync::Always {
            written = self.sync_data();
        }
        if written.is_err() {
            // A later reader must not find what was said to have failed.
            self.is_dirty = self.file.set_len(self.end).is_err();
        }
        written
    }

    fn sync_data(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|error| JournalError::SyncFailed(error.to_string()))
    }

    /// What follows a committed batch: rows up to here are known to have been used.
    pub(super) fn used(&mut self, row: i64) {
        self.next_row = self.next_row.max(row + 1);
    }

    /// Forces what was written to the disk, where commits do not.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        match self.fsync {
            Fsync::Interval(_) => self.sync_data(),
            Fsync::Always | Fsync::Never => Ok(()),
        }
    }

    fn rewrite_if_due(&mut self) {
        if self.end < self.rewritten_from || !is_worth_rewriting(self.end, self.index.live_bytes) {
            return;
        }
        if self.replace_file(None).is_err() {
            // Only upkeep: the log that is there goes on.
            self.rewritten_from = self.end + RETRY_BYTES;
        }
    }

    /// Writes what the segment holds to a new file, which takes its place; `read` is that where it has been read already.
    fn replace_file(&mut self, read: Option<(&[Recovered], &[Note])>) -> Result<(), JournalError> {
        let aside = self.path.with_extension("new");
        remove_if_there(&aside)?; // this segment is ours, so that is a leftover
        let begun = Draft::begin(&self.path, &self.header.identity, Some(&self.descriptors));
        let replaced = begun.and_then(|draft| {
            let Some(mut draft) = draft else {
                return Err(JournalError::Other(format!("{} is in the way", aside.display())));
            };
            match read {
                Some((records, notes)) => {
                    records.iter().try_for_each(|record| draft.put(record.id.row(), &record.body))?;
                    notes.iter().try_for_each(|note| draft.note(&note.name, &note.body))?;
                }
                None => self.copy_to(&mut draft)?,
            }
            self.finish(&mut draft)?;
            if !draft.publish(&self.path, true)? {
                return Err(JournalError::Other(format!("{} is gone", aside.display())));
            }
            Ok(draft)
        });
        match replaced {
            Ok(draft) => {
                self.descriptors.replace_by_draft(&draft.file);
                (self.file, self.header, self.frames) = (draft.file, draft.header, draft.frames);
                (self.end, self.index, self.is_dirty) = (draft.end, draft.index, false);
                Ok(())
            }
            Err(error) => {
                self.descriptors.forget_draft();
                let _ = remove_if_there(&aside);
                Err(error)
            }
        }
    }

    fn copy_to(&self, draft: &mut Draft) -> Result<(), JournalError> {
        let (salt, path) = (self.header.salt, &self.path);
        let damaged = || JournalError::Other(format!("{} is damaged", path.display()));
        for (row, place) in &self.index.records {
            let frame = place.read(&self.file)?;
            draft.put(*row, body_of(salt, &frame).ok_or_else(damaged)?)?;
        }
        for (name, place) in self.index.notes.iter().filter(|(name, _)| !Marks::is_one(name)) {
            let frame = place.read(&self.file)?;
            draft.note(name, note_of(salt, &frame).ok_or_else(damaged)?)?;
        }
        Ok(())
    }

    fn finish(&self, draft: &mut Draft) -> Result<(), JournalError> {
        for (name, rows) in self.marks.each().into_iter().filter(|(_, rows)| !rows.is_empty()) {
            draft.note(name, &encode_rows(&rows))?;
        }
        draft.announce(&self.announced);
        Ok(())
    }

    /// Closes it; an empty segment is removed.
    pub(super) fn close(self) {
        if self.index.records.is_empty() {
            let _ = remove_if_there(&self.path);
        } else {
            let _ = self.file.sync_all();
        }
    }
}
