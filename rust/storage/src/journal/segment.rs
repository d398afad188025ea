//! One segment: a `SQLite` database of records that one process owns.
//!
//! WAL, exclusive locking (so there is no shared-memory file), and, with [`Fsync::Always`], `synchronous=FULL`: a commit is
//! one fdatasync of the log. `SQLite` finds a torn log by its own checksums and goes back to the last whole commit; what it
//! can't find (a flipped bit in a body) the records' checksums find, and a page that can't be read costs the records on it.
//! Either way the readable records are copied to a new file, and the old one is kept under the ending `.damaged`.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::records::{Damage, Note, RecordId, Recovered, checksum, note_checksum};
use super::{Fsync, JournalError};

/// The note that numbers the records being sent, behind what was said of how they are sent.
const SENT: &str = ".sending";
/// An empty segment with more pages than this gives them back.
const KEPT_PAGES: i64 = 4_096;
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, body BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, checksum INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
";

/// One change of a segment.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(i64, Box<[u8]>),
    Remove(i64),
    Sent(Vec<i64>, Box<[u8]>),
    Note(String, Box<[u8]>),
}

pub(super) struct Segment {
    connection: Connection,
    path: PathBuf,
    lock_path: PathBuf,
    lock: File,
    log: Option<File>,
    records: u64,
    next_row: i64,
}

/// A segment, and what was in it.
pub(super) struct OpenedSegment {
    pub(super) segment: Segment,
    pub(super) recovered: Vec<Recovered>,
    pub(super) notes: Vec<Note>,
    pub(super) damage: Damage,
}

/// What could be read of a database.
#[derive(Default)]
struct Contents {
    records: Vec<(i64, Box<[u8]>)>,
    notes: Vec<(String, Box<[u8]>)>,
    lost: u64,
    broken: bool,
}

impl Segment {
    /// Opens the database at `path`, whose lock is held; it is made where it is missing.
    pub(super) fn open(
        number: usize,
        path: PathBuf,
        lock_path: PathBuf,
        lock: File,
        fsync: Fsync,
    ) -> Result<OpenedSegment, JournalError> {
        let salvaged = path.with_extension("salvage");
        if !path.exists() && salvaged.exists() {
            fs::rename(&salvaged, &path)?;
        }
        let mut damage = Damage::default();
        let mut contents = Contents::default();
        let connection = match connect(&path, fsync).and_then(|connection| {
            contents = read(&connection)?;
            Ok(connection)
        }) {
            Ok(connection) if contents.lost == 0 && !contents.broken => connection,
            Ok(connection) => {
                drop(connection);
                set_aside(&path, &contents)?;
                connect(&path, fsync).map_err(|error| failed(&error))?
            }
            Err(error) if is_damage(&error) => {
                contents = Contents { broken: true, ..Contents::default() };
                set_aside(&path, &contents)?;
                connect(&path, fsync).map_err(|error| failed(&error))?
            }
            Err(error) => return Err(failed(&error)),
        };
        damage.records = contents.lost;
        damage.segments = u64::from(contents.broken || contents.lost > 0);
        let log = match fsync {
            Fsync::Interval(_) => Some(File::open(log_path(&path))?),
            Fsync::Always | Fsync::Never => None,
        };
        let announced = contents.notes.iter().find(|(name, _)| name == SENT);
        let (sent, how) = announced.map_or_else(Default::default, |(_, body)| read_sent(body));
        let notes = contents.notes.into_iter().filter(|(name, _)| name != SENT);
        let notes = notes.map(|(name, body)| Note { segment: number, name, body }).collect();
        // A number that is still announced is not given to another record: it would be found in doubt for what it is not.
        let used = contents.records.last().map(|(row, _)| *row).into_iter().chain(sent.iter().copied()).max();
        let next_row = used.map_or(1, |row| row + 1);
        let records = contents.records.len() as u64;
        let recovered = contents.records.into_iter().map(|(row, body)| {
            let id = RecordId::new(number, row);
            Recovered { id, sent: sent.contains(&row).then(|| how.clone()), body }
        });
        let recovered = recovered.collect();
        let segment = Self { connection, path, lock_path, lock, log, records, next_row };
        Ok(OpenedSegment { segment, recovered, notes, damage })
    }

    pub(super) fn lock_fd(&self) -> i32 {
        self.lock.as_raw_fd()
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn next_row(&self) -> i64 {
        self.next_row
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        size(&self.path) + size(&log_path(&self.path))
    }

    /// Applies changes in one transaction; none of them if one fails.
    pub(super) fn apply(&mut self, changes: &[&Change]) -> Result<(), JournalError> {
        let applied = self.try_apply(changes);
        match applied {
            Ok(records) => {
                self.records = records;
                if self.records == 0 {
                    self.give_back_pages();
                }
                Ok(())
            }
            Err(error) => {
                // Where the transaction was rolled back already, this fails, which does no harm.
                let _ = self.connection.execute_batch("ROLLBACK");
                Err(failed(&error))
            }
        }
    }

    fn try_apply(&self, changes: &[&Change]) -> rusqlite::Result<u64> {
        let connection = &self.connection;
        let mut records = self.records;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        {
            let mut put = connection.prepare_cached(
                "INSERT INTO records VALUES (?1, ?2, ?3) \
                 ON CONFLICT (id) DO UPDATE SET checksum = excluded.checksum, body = excluded.body",
            )?;
            let mut exists = connection.prepare_cached("SELECT 1 FROM records WHERE id = ?1")?;
            let mut remove = connection.prepare_cached("DELETE FROM records WHERE id = ?1")?;
            let mut note = connection.prepare_cached("INSERT OR REPLACE INTO notes VALUES (?1, ?2, ?3)")?;
            for change in changes {
                match change {
                    Change::Put(row, body) => {
                        let known = *row < self.next_row && exists.exists([row])?;
                        put.execute((row, checksum(*row, body), &**body))?;
                        records += u64::from(!known);
                    }
                    Change::Remove(row) => records -= remove.execute([row])? as u64,
                    Change::Sent(rows, how) => {
                        let body = write_sent(rows, how);
                        note.execute((SENT, note_checksum(SENT, &body), body))?;
                    }
                    Change::Note(name, body) => {
                        note.execute((name, note_checksum(name, body), &**body))?;
                    }
                }
            }
        }
        connection.execute_batch("COMMIT")?;
        Ok(records)
    }

    /// What follows a committed batch: rows up to here are known to have been used.
    pub(super) fn used(&mut self, row: i64) {
        self.next_row = self.next_row.max(row + 1);
    }

    /// Forces what was written to the disk, where commits do not.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        match &self.log {
            Some(log) => log.sync_data().map_err(|error| JournalError::SyncFailed(error.to_string())),
            None => Ok(()),
        }
    }

    /// Carries the log over and closes; an empty segment is removed, its lock file last.
    pub(super) fn close(self) {
        let empty = self.records == 0;
        // SQLite carries the log over and removes it; should that fail, the next owner reads the log.
        let _ = self.connection.close();
        if empty {
            let removed = remove_if_there(&self.path).and_then(|()| remove_if_there(&log_path(&self.path)));
            if removed.is_ok() {
                let _ = remove_if_there(&self.lock_path);
            }
        }
        drop(self.lock);
    }

    fn give_back_pages(&self) {
        let pages: rusqlite::Result<i64> = self.connection.query_row("PRAGMA page_count", [], |row| row.get(0));
        if pages.is_ok_and(|pages| pages > KEPT_PAGES) {
            // Only upkeep: a full disk may refuse it.
            let _ = self.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }
}

fn connect(path: &Path, fsync: Fsync) -> rusqlite::Result<Connection> {
    // SQLite gives the log the permissions of the database.
    let made = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    made.map_err(|error| rusqlite::Error::SqliteFailure(cannot_open(&error), Some(error.to_string())))?;
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA cell_size_check = ON;")?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch(match fsync {
        Fsync::Always => "PRAGMA synchronous = FULL",
        Fsync::Interval(_) | Fsync::Never => "PRAGMA synchronous = NORMAL",
    })?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

fn cannot_open(error: &io::Error) -> ffi::Error {
    let full = error.kind() == io::ErrorKind::StorageFull;
    ffi::Error::new(if full { ffi::SQLITE_FULL } else { ffi::SQLITE_CANTOPEN })
}

fn read(connection: &Connection) -> rusqlite::Result<Contents> {
    let mut contents = Contents::default();
    let upwards = read_records(connection, "SELECT id, checksum, body FROM records ORDER BY id", &mut contents);
    if let Err(error) = upwards {
        if !is_damage(&error) {
            return Err(error);
        }
        read_behind_the_damage(connection, &mut contents)?;
    }
    match read_notes(connection, &mut contents) {
        Err(error) if is_damage(&error) => contents.broken = true,
        other => other?,
    }
    Ok(contents)
}

/// Reads until the end or an error; what it has read so far stays in `contents`.
fn read_records(connection: &Connection, query: &str, contents: &mut Contents) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let fields = (row.get_ref(1)?, row.get_ref(2)?);
        match (fields.0.as_i64(), fields.1.as_blob()) {
            (Ok(expected), Ok(body)) if id > 0 && checksum(id, body) == expected => {
                contents.records.push((id, body.into()));
            }
            _ => contents.lost += 1,
        }
    }
    Ok(())
}

/// The scan upwards met a page that cannot be read: reads downwards from the other end, as far as that goes.
fn read_behind_the_damage(connection: &Connection, contents: &mut Contents) -> rusqlite::Result<()> {
    contents.broken = true;
    let last = contents.records.last().map_or(0, |(row, _)| *row);
    let mut behind = Contents::default();
    let query = format!("SELECT id, checksum, body FROM records WHERE id > {last} ORDER BY id DESC");
    if let Err(error) = read_records(connection, &query, &mut behind)
        && !is_damage(&error)
    {
        return Err(error);
    }
    behind.records.reverse();
    // How many there were between the two ends nobody knows; their numbers say how many at most, so at least one.
    contents.lost += behind.lost + 1;
    contents.records.append(&mut behind.records);
    contents.records.dedup_by_key(|(row, _)| *row);
    Ok(())
}

fn read_notes(connection: &Connection, contents: &mut Contents) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT name, checksum, body FROM notes")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, body): (String, Vec<u8>) = (row.get(0)?, row.get(2)?);
        if row.get::<_, i64>(1).ok() == Some(note_checksum(&name, &body)) {
            contents.notes.push((name, body.into()));
        } else {
            contents.broken = true;
        }
    }
    Ok(())
}

/// Writes what could be read to a file of its own and puts it into the place of the damaged one, which is kept.
fn set_aside(path: &Path, contents: &Contents) -> Result<(), JournalError> {
    let salvaged = path.with_extension("salvage");
    remove_if_there(&salvaged)?;
    remove_if_there(&log_path(&salvaged))?;
    let mut connection = connect(&salvaged, Fsync::Always).map_err(|error| failed(&error))?;
    let copied = (|| {
        let transaction = connection.transaction()?;
        for (row, body) in &contents.records {
            transaction.execute("INSERT INTO records VALUES (?1, ?2, ?3)", (row, checksum(*row, body), &**body))?;
        }
        for (name, body) in &contents.notes {
            transaction.execute("INSERT INTO notes VALUES (?1, ?2, ?3)", (name, note_checksum(name, body), &**body))?;
        }
        transaction.commit()
    })();
    copied.map_err(|error| failed(&error))?;
    connection.close().map_err(|(_, error)| failed(&error))?;
    // Should the process end between the two renames, the salvaged file is found and takes its place then.
    let damaged = path.with_extension("damaged");
    remove_if_there(&log_path(path))?;
    fs::rename(path, &damaged)?;
    fs::rename(&salvaged, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// The body of the note of what is being sent: the length of `how`, `how`, the rows.
fn write_sent(rows: &[i64], how: &[u8]) -> Vec<u8> {
    let mut body = (how.len() as u64).to_le_bytes().to_vec();
    body.extend_from_slice(how);
    body.extend(rows.iter().flat_map(|row| row.to_le_bytes()));
    body
}

fn read_sent(body: &[u8]) -> (HashSet<i64>, Box<[u8]>) {
    let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap_or_default());
    let Some((length, rest)) = body.split_at_checked(8) else { return Default::default() };
    let length = usize::try_from(number(length)).unwrap_or(usize::MAX);
    let Some((how, rows)) = rest.split_at_checked(length) else { return Default::default() };
    (rows.chunks_exact(8).map(number).collect(), how.into())
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn log_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Is it the file's contents that are wrong? Damage shows in many ways (a table's name misspelt in the schema is an error in
/// the query), so it is whatever the system around the file did not do.
fn is_damage(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::OutOfMemory
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
        )
    )
}

fn failed(error: &rusqlite::Error) -> JournalError {
    let reason = error.to_string();
    let Some(failure) = error.sqlite_error() else { return JournalError::Other(reason) };
    match (failure.code, failure.extended_code) {
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => JournalError::Locked,
        (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_WRITE) => JournalError::Full(reason),
        (_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => JournalError::SyncFailed(reason),
        _ => JournalError::Other(reason),
    }
}
