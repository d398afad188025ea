//! The directory of a journal: which segments there are, their owners, and adopting those whose owner is dead.
//!
//! Nothing in it is opened before it is known to be a regular file of this user that no other user may write: a journal's
//! commands run with this process's credentials.
//!
//! A segment is begun under the ending `.new`, locked, and renamed when it is whole. Between being made and being locked it
//! looks like a leftover; a process that locks it then removes it, and its maker, which then finds that the name
//! does not lead to the file it has locked, begins again with another name.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use agent_memory_core::journal::{FRAMES_AT, header_of};

use super::records::{Damage, Note, Recovered};
use super::segment::{OpenedSegment, Seed, Segment};
use super::{JournalError, MAX_KEPT_DAMAGED, Options, sqlite};
use crate::own_files::{self, NotOwn};

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
    let identity = options.identity.as_bytes();
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    own_files::check_directory(directory)?;
    let mut opened = Opened {
        segments: Vec::new(),
        recovered: Vec::new(),
        notes: Vec::new(),
        damage: Damage::default(),
        foreign_segments: 0,
    };
    for leftover in paths(directory, "new")? {
        if let Some(file) = if_there(own_files::open(&leftover, true))?
            && try_lock(&file)?
            && leads_to(&leftover, &file)?
        {
            remove_if_there(&leftover)?;
        }
    }
    take_over_earlier(options, &mut opened)?;
    for path in paths(directory, "journal")? {
        if opened.segments.len() == MAX_SEGMENTS {
            break;
        }
        adopt(options, path.as_path(), &mut opened)?;
    }
    while opened.segments.is_empty() {
        let made_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let count = MADE.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{made_ms:012x}-{}-{count}.journal", std::process::id()));
        opened.segments.extend(Segment::make(&path, identity, Seed::default(), options.fsync)?);
    }
    Ok(opened)
}

/// Adopts a segment, if it is this client's and its owner is dead.
fn adopt(options: &Options, path: &Path, opened: &mut Opened) -> Result<(), JournalError> {
    let Some(mut file) = if_there(own_files::open(path, true))? else { return Ok(()) };
    let mut head = Vec::new();
    (&mut file).take(FRAMES_AT as u64).read_to_end(&mut head)?;
    let header = header_of(&head);
    if header.is_some_and(|(header, _)| header.identity != options.identity.as_bytes()) {
        opened.foreign_segments += 1;
        return Ok(());
    }
    if !try_lock(&file)? || !leads_to(path, &file)? {
        return Ok(()); // its owner is alive, or has just removed it
    }
    io::Seek::rewind(&mut file)?;
    let (segment, damage) = Segment::open(opened.segments.len(), path, file, options.fsync)?;
    opened.damage.add(damage);
    if let Some(OpenedSegment { segment, recovered, notes }) = segment {
        opened.recovered.extend(recovered);
        opened.notes.extend(notes);
        opened.segments.push(segment);
    }
    Ok(())
}

/// Turns segments of earlier versions into logs, which are adopted like others. A log is whole before the database goes, and the
/// database goes before the log is adopted: so nothing is there twice.
fn take_over_earlier(options: &Options, opened: &mut Opened) -> Result<(), JournalError> {
    let directory = &options.directory;
    let mut unlocked = Vec::new();
    for path in paths(directory, "lock")? {
        let Some(mut file) = if_there(own_files::open(&path, true))? else { continue };
        let mut identity = Vec::new();
        file.read_to_end(&mut identity)?;
        if !identity.is_empty() && identity != options.identity.as_bytes() {
            opened.foreign_segments += 1;
        } else if try_lock(&file)? && leads_to(&path, &file)? {
            take_over(options, &path.with_extension("db"), opened)?;
            if !path.with_extension("db").exists() {
                remove_if_there(&path)?;
            }
        }
    }
    for path in paths(directory, "db")? {
        if !path.with_extension("lock").exists() {
            unlocked.push(path);
        }
    }
    for path in unlocked {
        // Its lock file, which said whose it is, is lost. It is this client's unless others use the directory.
        let is_shared = opened.foreign_segments > 0 || has_foreign(options)?;
        let Some(file) = if_there(own_files::open(&path, true))? else { continue };
        if is_shared {
            opened.foreign_segments += 1;
        } else if try_lock(&file)? && leads_to(&path, &file)? {
            take_over(options, &path, opened)?;
        }
    }
    Ok(())
}

fn has_foreign(options: &Options) -> Result<bool, JournalError> {
    for path in paths(&options.directory, "journal")? {
        let Some(file) = if_there(own_files::open(&path, false))? else { continue };
        let mut head = Vec::new();
        file.take(FRAMES_AT as u64).read_to_end(&mut head)?;
        if header_of(&head).is_some_and(|(header, _)| header.identity != options.identity.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn take_over(options: &Options, database: &Path, opened: &mut Opened) -> Result<(), JournalError> {
    let log = database.with_extension("journal");
    if own_files::check_if_there(&log)? {
        return remove_database(database); // this was done before, and interrupted
    }
    let salvaged = database.with_extension("salvage");
    if !own_files::check_if_there(database)? && own_files::check_if_there(&salvaged)? {
        fs::rename(&salvaged, database)?;
    }
    if !own_files::check_if_there(database)? {
        return remove_database(database);
    }
    for file in database_files(database) {
        own_files::check_if_there(&file)?;
    }
    let before = (fs::read(database)?, fs::read(sqlite::log_path(database)).unwrap_or_default());
    let Some(found) = sqlite::read_segment(database)? else { return Ok(()) };
    if found.is_damaged {
        let mut damage =
            Damage { records: found.lost, segments: 1, files: vec![database.to_owned()], ..Damage::default() };
        damage.removed_files = set_aside(database, &before.0)?;
        if !before.1.is_empty() {
            damage.removed_files += set_aside(&sqlite::log_path(database), &before.1)?;
        }
        opened.damage.add(damage);
    }
    if Segment::make(&log, options.identity.as_bytes(), found.seed, options.fsync)?.is_some() {
        remove_database(database)?;
    }
    Ok(())
}

fn database_files(database: &Path) -> impl Iterator<Item = PathBuf> {
    ["", "-wal", "-shm", "-journal"].into_iter().map(|ending| {
        let mut name = database.as_os_str().to_owned();
        name.push(ending);
        name.into()
    })
}

fn remove_database(database: &Path) -> Result<(), JournalError> {
    for file in database_files(database) {
        remove_if_there(&file)?;
    }
    Ok(())
}

/// Copies what was damaged to a file with the ending `.damaged` beside it. Returns how many older copies had to go.
pub(super) fn set_aside(path: &Path, bytes: &[u8]) -> Result<u64, JournalError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut copy = path.with_extension("damaged");
    let mut file = loop {
        match own_files::create(&copy) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let count = MADE.fetch_add(1, Ordering::Relaxed);
                copy = path.with_extension(format!("{}-{count}.damaged", std::process::id()));
            }
            other => break other?,
        }
    };
    file.write_all(bytes)?;
    file.sync_all()?;
    let mut kept = paths(directory, "damaged")?;
    let mut removed = 0;
    while kept.len() > MAX_KEPT_DAMAGED {
        let oldest = kept.remove(usize::from(kept[0] == copy));
        remove_if_there(&oldest)?;
        removed += 1;
    }
    Ok(removed)
}

/// Removes the copies of damaged files.
pub(super) fn remove_set_aside(path: &Path) -> Result<(), JournalError> {
    for copy in paths(path.parent().unwrap_or(Path::new(".")), "damaged")? {
        remove_if_there(&copy)?;
    }
    Ok(())
}

/// The files with this ending, oldest segment first: the names begin with the time they were made.
fn paths(directory: &Path, ending: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(ending)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// None for what has just been removed.
fn if_there(opened: Result<File, NotOwn>) -> Result<Option<File>, JournalError> {
    match opened {
        Err(NotOwn::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => Ok(Some(other?)),
    }
}

pub(super) fn try_lock(lock: &File) -> io::Result<bool> {
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Is the file of this name the one that is open?
pub(super) fn leads_to(path: &Path, file: &File) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
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
