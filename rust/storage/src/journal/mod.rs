//! The journal of the recovery queue: writes that wait, kept so that they survive the process.
//!
//! **Layout.** A journal is a directory that any number of processes share. Each open [`Journal`] owns *segments* in it, and
//! a segment has one owner at a time:
//!
//! ```text
//! 0198f2c1a2b3-4711-0.journal    a log, flock()ed by its owner for as long as that lives (`agent_memory_core::journal`)
//! 0198f2c1a2b3-4711-0.new        one that is being made, or written anew
//! 0198f2c1a2b3-4711-0.damaged    what a damaged segment was before its readable part was saved
//! 0198f2c1a2b3-4711-0.lock, .db, .db-wal    a segment of an earlier version, in `SQLite`: it is turned into a log
//! ```
//!
//! **Rules.**
//!
//! - A segment whose lock is free has no owner: its process is dead. A process that opens the directory with the same identity
//!   (client name, server, database) adopts it, and goes on in the oldest one instead of making a new one. Segments of
//!   another identity are left alone and counted.
//! - A directory or file of another user, or that another user may write, or that is no regular file, is refused before it is
//!   opened.
//! - A segment is removed when its owner closes it empty. A process that gets a lock checks that the name still leads to that
//!   file.
//! - A record is never handed out if its checksum is wrong. What can be read of a damaged segment is written to a new file, the
//!   old one is copied to `.damaged` ([`MAX_KEPT_DAMAGED`] are kept), and the loss is counted.
//! - One thread writes. It takes everything that was asked for meanwhile, writes it in one transaction per segment, commits,
//!   and wakes all waiters at once (group commit). Requests are numbered by *tickets* and done in their order.
//! - A batch that fails (disk full) is repeated request by request, so that each gets its own verdict. A removal that fails
//!   is owed: it is done again with the next batch, so that a full disk stops nothing from being drained.
//! - An fdatasync that fails fails its batch and closes the journal: what the kernel has dropped can't be asked for again.
//! - After `fork()` a child calls [`Journal::abandon`] and never touches the parent's segments again.

mod directory;
mod records;
mod segment;
mod sqlite;
mod writer;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use segment::{Descriptors, Segment};

pub use records::{Damage, Note, RecordId, Recovered};
use writer::Shared;

use crate::own_files::NotOwn;

/// The most requests that may wait for the writer; more are refused.
pub const MAX_PENDING_REQUESTS: usize = 1 << 20;
/// The most bytes of records that may wait for the writer; more are refused.
pub const MAX_PENDING_BYTES: usize = 256 << 20;
/// The largest record, in bytes.
pub const MAX_RECORD_BYTES: usize = agent_memory_core::journal::MAX_BODY_BYTES;

/// The most copies of damaged files in a directory. Beyond it the oldest is removed and counted.
pub const MAX_KEPT_DAMAGED: usize = 16;

/// When what was written is forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before a ticket is done.
    Always,
    /// So long after a ticket is done, at most.
    Interval(Duration),
    /// When the journal is closed, and when the operating system likes.
    Never,
}

/// How a journal is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory; made, for its owner only, where it is missing.
    pub directory: PathBuf,
    /// Whose records these are: only segments of the same identity are adopted.
    pub identity: String,
    /// When what was written is forced to the disk.
    pub fsync: Fsync,
}

/// Why something could not be written, or the journal not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalError {
    /// No room on the disk, or a quota or limit of size is reached. The journal stays open.
    Full(String),
    /// fdatasync failed, or the journal was closed because of that.
    SyncFailed(String),
    /// The writer is too far behind.
    Behind,
    /// A file or directory is not this user's alone; it names which and why.
    Refused(String),
    /// The journal is closed.
    Closed,
    /// The record is too large.
    TooLarge(usize),
    /// Something else of the file system or of the engine.
    Other(String),
}

impl std::fmt::Display for JournalError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JournalError::Full(reason) => write!(formatter, "the journal has no room on its disk ({reason})"),
            JournalError::SyncFailed(reason) => {
                write!(formatter, "the journal is closed because its disk failed to sync ({reason})")
            }
            JournalError::Behind => write!(
                formatter,
                "the journal is behind: {MAX_PENDING_REQUESTS} requests or {MAX_PENDING_BYTES} bytes wait to be written"
            ),
            JournalError::Refused(reason) => {
                write!(formatter, "the journal's files must be this user's alone, but {reason}")
            }
            JournalError::Closed => write!(formatter, "the journal is closed"),
            JournalError::TooLarge(size) => {
                write!(formatter, "a record must be <= {MAX_RECORD_BYTES} bytes, got {size}")
            }
            JournalError::Other(reason) => write!(formatter, "the journal failed ({reason})"),
        }
    }
}

impl std::error::Error for JournalError {}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                JournalError::Full(error.to_string())
            }
            _ => JournalError::Other(error.to_string()),
        }
    }
}

impl From<NotOwn> for JournalError {
    fn from(error: NotOwn) -> Self {
        match error {
            NotOwn::Io(error) => error.into(),
            NotOwn::Refused(reason) => JournalError::Refused(reason),
        }
    }
}

/// What has happened, and what is there now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Records written.
    pub appended: u64,
    /// Records removed.
    pub removed: u64,
    /// Transactions committed; each is one fdatasync with [`Fsync::Always`].
    pub commits: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that wait for the writer.
    pub pending: usize,
    /// Removals that failed and will be repeated.
    pub owed_removals: usize,
    /// Records in the segments of this journal.
    pub records: u64,
    /// Bytes of these segments on the disk.
    pub disk_bytes: u64,
    /// Segments that this journal owns.
    pub segments: usize,
    /// Segments in the directory whose identity is another one, be their owners alive or dead.
    pub foreign_segments: usize,
    /// What was found damaged when the journal was opened.
    pub damage: Damage,
    /// Why the journal does not accept records any more, if it does not.
    pub closed: Option<JournalError>,
}

/// An open journal; see the module's text. Safe to use from any thread.
pub struct Journal {
    shared: Arc<Shared>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
    recovered: std::sync::Mutex<Vec<Recovered>>,
    uncertain: Vec<RecordId>,
    notes: Vec<Note>,
    descriptors: Vec<Arc<Descriptors>>,
}

impl Journal {
    /// Opens the directory: adopts what dead processes of this identity left, and starts the writer.
    ///
    /// # Errors
    /// Those of the file system, and [`JournalError::Refused`]. A damaged segment is no error: see [`Journal::stats`].
    pub fn open(options: &Options) -> Result<Self, JournalError> {
        let mut opened = directory::open(options)?;
        let recovered = std::mem::take(&mut opened.recovered);
        let uncertain = recovered.iter().filter(|record| !record.is_certain).map(|record| record.id).collect();
        let notes = std::mem::take(&mut opened.notes);
        let descriptors = opened.segments.iter().map(Segment::descriptors).collect();
        let (shared, thread) = writer::start(opened, options.fsync)?;
        Ok(Self {
            shared,
            thread: std::sync::Mutex::new(Some(thread)),
            recovered: std::sync::Mutex::new(recovered),
            uncertain,
            notes,
            descriptors,
        })
    }

    /// What was in the journal when it was opened, oldest first within each segment; once.
    #[must_use]
    pub fn take_recovered(&self) -> Vec<Recovered> {
        std::mem::take(&mut *writer::locked(&self.recovered))
    }

    /// Those of what was in the journal that damage may have hidden the removal or a change of.
    #[must_use]
    pub fn uncertain(&self) -> &[RecordId] {
        &self.uncertain
    }

    /// The notes of the segments that were adopted.
    #[must_use]
    pub fn recovered_notes(&self) -> &[Note] {
        &self.notes
    }

    /// Asks for a record to be written; returns its id and the ticket of the request.
    ///
    /// The writer is not woken for it before a thread waits, asks for anything else, or calls `wake`: many records that are
    /// asked for one after the other make one batch.
    ///
    /// # Errors
    /// When the journal is closed or behind, or the record too large.
    pub fn append(&self, body: Box<[u8]>) -> Result<(RecordId, u64), JournalError> {
        self.shared.append(body)
    }

    /// Asks for a record to be replaced.
    ///
    /// # Errors
    /// As of [`Journal::append`].
    pub fn replace(&self, id: RecordId, body: Box<[u8]>) -> Result<u64, JournalError> {
        self.shared.replace(id, body)
    }

    /// Asks for records to be removed; those that are not there are passed over.
    ///
    /// # Errors
    /// As of [`Journal::append`].
    pub fn remove(&self, ids: &[RecordId]) -> Result<u64, JournalError> {
        self.shared.remove(ids)
    }

    /// Asks to remember that these records, and no others, are being sent, and `how`: found again, their outcome is unknown, and
    /// `how` comes with them.
    ///
    /// # Errors
    /// As of [`Journal::append`].
    pub fn mark_sent(&self, ids: &[RecordId], how: &[u8]) -> Result<u64, JournalError> {
        self.shared.mark_sent(ids, how)
    }

    /// Asks for a note to be kept beside the records; it replaces an older one of the same name.
    ///
    /// # Errors
    /// As of [`Journal::append`].
    pub fn note(&self, name: &str, body: Box<[u8]>) -> Result<u64, JournalError> {
        self.shared.note(name, body)
    }

    /// Asks for the segments to be written anew, so that nothing of what was removed before is in a file any more, nor in
    /// the copies of damaged files, which are removed.
    ///
    /// # Errors
    /// As of [`Journal::append`].
    pub fn rewrite(&self) -> Result<u64, JournalError> {
        self.shared.rewrite()
    }

    /// The last ticket that is done, with success or without.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.shared.done()
    }

    /// Why a ticket that is done failed; None if it did not. Asked once per ticket.
    #[must_use]
    pub fn failure(&self, ticket: u64) -> Option<JournalError> {
        self.shared.failure(ticket)
    }

    /// Has the writer begin with what is asked for, if it sleeps.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// Blocks until a ticket is done, at most until `deadline`; returns whether it is.
    #[must_use]
    pub fn wait(&self, ticket: u64, deadline: Option<Instant>) -> bool {
        self.shared.wait(ticket, deadline)
    }

    /// Adds to the counter of an eventfd (or writes eight bytes to a pipe) whenever tickets are done; returns by what to
    /// remove it.
    #[must_use]
    pub fn add_signal(&self, file: File) -> u64 {
        self.shared.add_signal(file)
    }

    /// Ends that.
    pub fn remove_signal(&self, signal: u64) {
        self.shared.remove_signal(signal);
    }

    /// What has happened, and what is there now.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        self.shared.stats()
    }

    /// Writes what is asked for, ends the writer and gives the segments free; those without records are removed.
    pub fn close(&self) {
        self.shared.close();
        let thread = writer::locked(&self.thread).take();
        if let Some(thread) = thread {
            // A writer that panicked has left its segments to the next process.
            let _ = thread.join();
        }
    }

    /// In a child of `fork()`: gives up the parent's segments without touching them. The locks are shared with the parent
    /// through the descriptors, which is why these have to be closed here: else the segments would seem owned for as long as
    /// the child lives.
    ///
    /// The writer's thread did not come along. Its handle is forgotten: dropped, it would detach whatever thread of the child has
    /// got the same address meanwhile, and that one could not be joined.
    pub fn abandon(&self) {
        if let Ok(mut thread) = self.thread.try_lock() {
            std::mem::forget(thread.take());
        }
        self.descriptors.iter().flat_map(|descriptors| descriptors.take()).for_each(directory::close_fd);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let abandoned = self.descriptors.iter().any(|descriptors| descriptors.are_taken());
        if !abandoned {
            self.close();
        }
    }
}
