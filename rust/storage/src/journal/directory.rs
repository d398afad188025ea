//! The directory of a journal: which segments there are, who owns them, and adopting those whose owner is dead.
//!
//! A segment's lock file is made, locked, and only then written to. Between being made and being locked it looks like a dead
//! process's; whoever locks it then finds it without an identity and removes it, and its maker, who checks after locking
//! whether the name still leads to the file he has locked, begins again with another name.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::records::{Damage, Note, Recovered};
use super::segment::{OpenedSegment, Segment, remove_if_there};
use super::{JournalError, Options};

/// The most segments that one journal owns: their numbers are 16 bits of a record's id.
const MAX_SEGMENTS: usize = 1 << 15;

/// What was found and taken.
pub(super) struct Opened {
    /// The one that is written to comes first.
    pub(super) segments: Vec<Segment>,
    pub(super) recovered: Vec<Recovered>,
    pub(super) notes: Vec<Note>,
    pub(super) damage: Damage,
    pub(super) foreign_segments: usize,
}

/// Distinguishes the segments that one process makes within one millisecond.
static MADE: AtomicU64 = AtomicU64::new(0);

pub(super) fn open(options: &Options) -> Result<Opened, JournalError> {
    let directory = &options.directory;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut opened = Opened {
        segments: Vec::new(),
        recovered: Vec::new(),
        notes: Vec::new(),
        damage: Damage::default(),
        foreign_segments: 0,
    };
    for lock_path in lock_paths(directory)? {
        if opened.segments.len() == MAX_SEGMENTS {
            break;
        }
        // Another's lock is not even tried: its heir may look at this very moment and would take it for owned.
        let Some(identity) = identity_of(&lock_path)? else { continue };
        if !identity.is_empty() && identity != options.identity.as_bytes() {
            opened.foreign_segments += 1;
            continue;
        }
        let Some(lock) = lock_dead(&lock_path)? else { continue };
        if identity.is_empty() {
            // Its maker died before there was anything in it; or has written his name meanwhile, and died since.
            if identity_of(&lock_path)?.is_some_and(|identity| identity.is_empty()) {
                remove_if_there(&lock_path)?;
            }
            continue;
        }
        let database = lock_path.with_extension("db");
        let number = opened.segments.len();
        match Segment::open(number, database, lock_path, lock, options.fsync) {
            Err(JournalError::Locked) => {} // our own parent's: see the rules in the module above
            segment => add(&mut opened, segment?),
        }
    }
    if opened.segments.is_empty() {
        let (lock_path, lock) = make(directory, &options.identity)?;
        let made = Segment::open(0, lock_path.with_extension("db"), lock_path, lock, options.fsync)?;
        File::open(directory)?.sync_all()?;
        add(&mut opened, made);
    }
    Ok(opened)
}

fn add(opened: &mut Opened, segment: OpenedSegment) {
    opened.recovered.extend(segment.recovered);
    opened.notes.extend(segment.notes);
    opened.damage.records += segment.damage.records;
    opened.damage.segments += segment.damage.segments;
    opened.segments.push(segment.segment);
}

/// The lock files, oldest segment first: the names begin with the time they were made.
fn lock_paths(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "lock") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whose a segment is; None if it has just been removed.
fn identity_of(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Locks a segment whose owner is dead; None when he is alive or has just removed it.
fn lock_dead(path: &Path) -> io::Result<Option<File>> {
    let lock = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Ok((try_lock(&lock)? && leads_to(path, &lock)?).then_some(lock))
}

fn make(directory: &Path, identity: &str) -> io::Result<(PathBuf, File)> {
    loop {
        let made_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let count = MADE.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{made_ms:012x}-{}-{count}.lock", std::process::id()));
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let mut lock = match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other?,
        };
        if try_lock(&lock)? && leads_to(&path, &lock)? {
            lock.write_all(identity.as_bytes())?;
            lock.sync_all()?;
            return Ok((path, lock));
        }
    }
}

fn try_lock(lock: &File) -> io::Result<bool> {
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Is the file of this name the one that is open?
fn leads_to(path: &Path, file: &File) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Closes a descriptor that this process inherited and whose owner, a thread, was not inherited with it.
pub(super) fn close_fd(fd: i32) {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: the File that owns it lives on the stack of the parent's writer thread, which does not exist here.
    #[allow(unsafe_code)]
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    drop(fd);
}
