//! One segment: a log of records that one process owns. How it is written and read is decided in the core
//! (`agent_memory_core::journal`); here are the file and its lock.
//!
//! The file is locked (flock) for as long as it is open, so a lock can't be lost apart from its records. It is begun under the
//! ending `.new` and renamed when it is whole: at first, and when it is written anew because most of it is of no use any more
//! or because it was damaged. What was damaged is copied to `.damaged` before that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use agent_memory_core::journal::{
    Contents, FRAME_BYTES, Frames, Header, MAX_IDENTITY_BYTES, Record, VERSION, body_of, decode_rows, encode_rows,
    header_of, is_worth_rewriting, note_of, scan,
};

use super::directory::{leads_to, remove_if_there, remove_set_aside, set_aside, try_lock};
use super::records::{Damage, Note, RecordId, Recovered};
use super::{Fsync, JournalError};
use crate::own_files;

/// A rewriting that failed is tried again when the log has grown by this much.
const RETRY_BYTES: u64 = 4 << 20;
/// What is written of a new file at once.
const WRITTEN_AT_ONCE_BYTES: usize = 1 << 20;
/// The note of the rows that a damaged segment may have removed or undo.
const UNCERTAIN: &str = ".uncertain";
/// The note of the rows of which only an older state was found.
const STALE: &str = ".stale";

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

/// The descriptors of a segment: of its file and, while that is written anew, of the new one; -1 for none. A child of `fork()`
/// closes them.
#[derive(Debug)]
pub(super) struct Descriptors([AtomicI32; 2]);

impl Descriptors {
    fn of(file: &File) -> Arc<Self> {
        Arc::new(Self([AtomicI32::new(file.as_raw_fd()), AtomicI32::new(-1)]))
    }

    /// Takes them: they are there once.
    pub(super) fn take(&self) -> impl Iterator<Item = i32> {
        self.0.iter().map(|descriptor| descriptor.swap(-1, Ordering::Relaxed)).filter(|descriptor| *descriptor >= 0)
    }

    pub(super) fn are_taken(&self) -> bool {
        self.0[0].load(Ordering::Relaxed) < 0
    }
}

/// Where a frame stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    length: u64,
}

impl Place {
    fn behind(end: u64, (at, length): (usize, usize)) -> Self {
        Self { at: end + at as u64, length: length as u64 }
    }

    fn read(&self, file: &File) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; usize::try_from(self.length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut frame, self.at).map(|()| frame)
    }
}

/// The places of what is in a log.
#[derive(Default)]
struct Index {
    records: BTreeMap<i64, Place>,
    notes: BTreeMap<String, Place>,
    live_bytes: u64,
}

impl Index {
    fn put(&mut self, row: i64, place: Place) -> Option<Place> {
        self.live_bytes += place.length;
        self.records.insert(row, place).inspect(|before| self.live_bytes -= before.length)
    }

    fn remove(&mut self, row: i64) -> Option<Place> {
        self.records.remove(&row).inspect(|before| self.live_bytes -= before.length)
    }

    fn note(&mut self, name: &str, place: Place) -> Option<Place> {
        self.live_bytes += place.length;
        self.notes.insert(name.to_owned(), place).inspect(|before| self.live_bytes -= before.length)
    }

    fn undo(&mut self, change: Changed) {
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
enum Changed {
    Record(i64, Option<Place>),
    Note(String, Option<Place>),
}

/// A log that is being written beside the place it is meant for.
struct Draft {
    aside: PathBuf,
    file: File,
    header: Header,
    frames: Frames,
    end: u64,
    index: Index,
}

impl Draft {
    /// `None` if another process has begun one there, or took this one for a leftover.
    fn begin(path: &Path, identity: &[u8], seen: Option<&Descriptors>) -> Result<Option<Self>, JournalError> {
        let aside = path.with_extension("new");
        let file = match own_files::create(&aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            other => other?,
        };
        if let Some(seen) = seen {
            seen.0[1].store(file.as_raw_fd(), Ordering::Relaxed);
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

    fn put(&mut self, row: i64, body: &[u8]) -> Result<(), JournalError> {
        let frame = self.frames.put(row, body);
        self.index.put(row, Place::behind(self.end, frame));
        if self.frames.bytes().len() < WRITTEN_AT_ONCE_BYTES { Ok(()) } else { self.flush() }
    }

    fn note(&mut self, name: &str, body: &[u8]) -> Result<(), JournalError> {
        let frame = self.frames.note(name, body);
        self.index.note(name, Place::behind(self.end, frame));
        self.flush()
    }

    fn announce(&mut self, (rows, how): &(Vec<i64>, Box<[u8]>)) {
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
    fn publish(&mut self, path: &Path, replaces: bool) -> Result<bool, JournalError> {
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

/// Records that damage has something to do with. They are in notes of the log until they are written anew.
#[derive(Clone, Default)]
struct Marks {
    uncertain: BTreeSet<i64>,
    stale: BTreeSet<i64>,
}

impl Marks {
    fn is_one(name: &str) -> bool {
        name == UNCERTAIN || name == STALE
    }

    /// What the notes of a log say, and what was found just now.
    fn of(contents: &Contents, bytes: &[u8]) -> Self {
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

    fn is_empty(&self) -> bool {
        self.uncertain.is_empty() && self.stale.is_empty()
    }

    fn each(&self) -> [(&'static str, Vec<i64>); 2] {
        let rows = |rows: &BTreeSet<i64>| rows.iter().copied().collect();
        [(UNCERTAIN, rows(&self.uncertain)), (STALE, rows(&self.stale))]
    }
}

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
                self.descriptors.0[0].store(draft.file.as_raw_fd(), Ordering::Relaxed);
                self.descriptors.0[1].store(-1, Ordering::Relaxed);
                (self.file, self.header, self.frames) = (draft.file, draft.header, draft.frames);
                (self.end, self.index, self.is_dirty) = (draft.end, draft.index, false);
                Ok(())
            }
            Err(error) => {
                self.descriptors.0[1].store(-1, Ordering::Relaxed);
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
