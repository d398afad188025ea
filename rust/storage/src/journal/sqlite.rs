//! Segments as earlier versions wrote them: `SQLite` databases. They are read, and written again as logs.
//!
//! `SQLite` ends at the first frame of its write-ahead log whose checksum is wrong, and says nothing. So the log is looked at
//! first: where whole frames follow a damaged one, the checksums are made anew, `SQLite` reads on, and the checksums of the
//! records find which of them are damaged.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::JournalError;
use super::segment::Seed;

/// The note that numbers the records being sent, behind what was said of how they are sent.
const SENT: &str = ".sending";
const LOG_HEADER_BYTES: usize = 32;
const LOG_FRAME_BYTES: usize = 24;

/// What could be read of a database.
#[derive(Default)]
struct Contents {
    records: Vec<(i64, Box<[u8]>)>,
    notes: Vec<(String, Box<[u8]>)>,
    lost: u64,
    broken: bool,
}

/// A segment of an earlier version.
pub(super) struct Found {
    pub(super) seed: Seed,
    /// Records that are lost, as far as that is known.
    pub(super) lost: u64,
    pub(super) is_damaged: bool,
}

/// Reads the database at `path`; `None` if another process has it open.
///
/// Its files must have been checked. `SQLite` may change them (it checkpoints its WAL); what is damaged is to be copied before.
pub(super) fn read_segment(path: &Path) -> Result<Option<Found>, JournalError> {
    let is_mended = mend_log(&log_path(path))?;
    let contents = match connect(path).and_then(|connection| read(&connection)) {
        Ok(contents) => contents,
        Err(error) if is_locked(&error) => return Ok(None),
        Err(error) if is_damage(&error) => Contents { broken: fs::metadata(path)?.len() > 0, ..Contents::default() },
        Err(error) => return Err(failed(&error)),
    };
    let announced = contents.notes.iter().find(|(name, _)| name == SENT);
    let (rows, how) = announced.map_or_else(Default::default, |(_, body)| read_sent(body));
    let seed = Seed {
        records: contents.records,
        notes: contents.notes.into_iter().filter(|(name, _)| name != SENT).collect(),
        announced: (rows.into_iter().collect(), how),
    };
    let is_damaged = is_mended || contents.broken || contents.lost > 0;
    Ok(Some(Found { seed, lost: contents.lost, is_damaged }))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA cell_size_check = ON;")?;
    Ok(connection)
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
    // How many there were between the two ends is not known: at least one.
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

fn read_sent(body: &[u8]) -> (HashSet<i64>, Box<[u8]>) {
    let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap_or_default());
    let Some((length, rest)) = body.split_at_checked(8) else { return Default::default() };
    let length = usize::try_from(number(length)).unwrap_or(usize::MAX);
    let Some((how, rows)) = rest.split_at_checked(length) else { return Default::default() };
    (rows.chunks_exact(8).map(number).collect(), how.into())
}

/// Makes the checksums of a damaged log anew; returns whether it was damaged.
fn mend_log(path: &Path) -> Result<bool, JournalError> {
    let log = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        log => log?,
    };
    let Some(mended) = mended_log(&log) else { return Ok(false) };
    fs::write(path, mended)?;
    Ok(true)
}

/// The log with right checksums, if whole frames of it follow a damaged one.
fn mended_log(log: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap_or_default());
    if log.len() < LOG_HEADER_BYTES {
        return None;
    }
    let is_big_endian = number(0) & 1 == 1;
    let page = number(8) as usize;
    if !(512..=65_536).contains(&page) || !page.is_power_of_two() {
        return None;
    }
    let sum = |sums: (u32, u32), bytes: &[u8]| log_checksum(is_big_endian, sums, bytes);
    let frame = LOG_FRAME_BYTES + page;
    let frames = log[LOG_HEADER_BYTES..].chunks_exact(frame);
    let mine = |frame: &&[u8]| frame[8..16] == log[16..24]; // the salts: the others are of an older log
    let frames: Vec<&[u8]> = frames.take_while(mine).collect();
    let said = |frame: &[u8]| {
        let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap_or_default());
        (number(16), number(20))
    };
    // A frame is whole if its checksum goes on from the one that stands before it.
    let mut before = sum((0, 0), &log[..24]);
    let is_whole = |frame: &[u8], before: (u32, u32)| sum(sum(before, &frame[..8]), &frame[24..]) == said(frame);
    let whole: Vec<bool> =
        frames.iter().map(|frame| is_whole(frame, std::mem::replace(&mut before, said(frame)))).collect();
    let first_damaged = whole.iter().position(|whole| !whole)?;
    let is_commit = |frame: &[u8]| frame[4..8] != [0; 4];
    let last = (first_damaged..frames.len()).rev().find(|at| whole[*at] && is_commit(frames[*at]))?;
    let mut mended = log[..LOG_HEADER_BYTES].to_vec();
    let mut sums = sum((0, 0), &log[..24]);
    mended[24..28].copy_from_slice(&sums.0.to_be_bytes());
    mended[28..32].copy_from_slice(&sums.1.to_be_bytes());
    for frame in &frames[..=last] {
        sums = sum(sum(sums, &frame[..8]), &frame[24..]);
        mended.extend_from_slice(&frame[..16]);
        mended.extend_from_slice(&sums.0.to_be_bytes());
        mended.extend_from_slice(&sums.1.to_be_bytes());
        mended.extend_from_slice(&frame[24..]);
    }
    Some(mended)
}

fn log_checksum(is_big_endian: bool, sums: (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().unwrap_or_default();
        if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    bytes.chunks_exact(8).fold(sums, |(one, two), pair| {
        let one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        (one, two.wrapping_add(word(&pair[4..])).wrapping_add(one))
    })
}

pub(super) fn log_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// The checksum of a record: over its number and its body, so that a body under another number is found out.
fn checksum(row: i64, body: &[u8]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&row.to_le_bytes());
    hasher.update(body);
    i64::from(hasher.finalize())
}

/// The checksum of a note.
fn note_checksum(name: &str, body: &[u8]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(&[0]);
    hasher.update(body);
    i64::from(hasher.finalize())
}

fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
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
        (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_WRITE) => JournalError::Full(reason),
        _ => JournalError::Other(reason),
    }
}
