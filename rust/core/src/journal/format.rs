//! Headers and frames as bytes.

use crc32fast::Hasher;

use super::MAX_BODY_BYTES;

/// What one copy of the header takes.
pub const HEADER_BYTES: usize = 4_096;
/// Where the first frame begins.
pub const FRAMES_AT: usize = 2 * HEADER_BYTES;
/// What a frame takes beside its body.
pub const FRAME_BYTES: usize = 52;
/// The longest identity, in bytes.
pub const MAX_IDENTITY_BYTES: usize = 4_000;

const MAGIC: [u8; 8] = *b"AMjournl";
/// The version of the format that is written.
pub const VERSION: u32 = 1;
const FRAME_MAGIC: [u8; 4] = [0xA7, b'r', b'e', 0xC3];
const IDENTITY_AT: usize = 24;
/// The CRC of a frame's header covers what stands before it.
const COVERED_BYTES: usize = FRAME_BYTES - 4;

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose records these are.
    pub identity: Vec<u8>,
    /// What every CRC begins with.
    pub salt: u64,
    /// The version of the format; only [`VERSION`] can be read.
    pub version: u32,
}

impl Header {
    /// Both copies. The identity must not be longer than [`MAX_IDENTITY_BYTES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.identity.len()).unwrap_or(u32::MAX);
        let mut copy = MAGIC.to_vec();
        copy.extend_from_slice(&self.version.to_le_bytes());
        copy.extend_from_slice(&length.to_le_bytes());
        copy.extend_from_slice(&self.salt.to_le_bytes());
        copy.extend_from_slice(&self.identity);
        let crc = crc32fast::hash(&copy);
        copy.extend_from_slice(&crc.to_le_bytes());
        copy.resize(HEADER_BYTES, 0);
        copy.repeat(2)
    }

    /// The header, and whether nothing stands behind it.
    fn decode(copy: &[u8]) -> Option<(Self, bool)> {
        if copy.len() != HEADER_BYTES || copy[..8] != MAGIC {
            return None;
        }
        let end = IDENTITY_AT + (u32_at(copy, 12) as usize).min(HEADER_BYTES);
        if end > IDENTITY_AT + MAX_IDENTITY_BYTES || crc32fast::hash(&copy[..end]) != u32_at(copy, end) {
            return None;
        }
        let is_padded = copy[end + 4..].iter().all(|byte| *byte == 0);
        let (identity, version) = (copy[IDENTITY_AT..end].to_vec(), u32_at(copy, 8));
        Some((Self { identity, salt: u64_at(copy, 16), version }, is_padded))
    }
}

/// The header that a segment begins with, and whether both of its copies are whole; `None` when neither is.
#[must_use]
pub fn header_of(bytes: &[u8]) -> Option<(Header, bool)> {
    let copy = |at: usize| bytes.get(at..at + HEADER_BYTES).and_then(Header::decode);
    match (copy(0), copy(HEADER_BYTES)) {
        (Some(first), second) => {
            let is_whole = first.1 && second.as_ref() == Some(&first);
            Some((first.0, is_whole))
        }
        (None, second) => second.map(|(header, _)| (header, false)),
    }
}

/// What a frame does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A new record.
    Put = 1,
    /// The record of this row is about to be replaced.
    Replacing = 2,
    /// It is replaced.
    Replaced = 3,
    /// Records are removed.
    Removed = 4,
    RemovedAgain = 5,
    /// These records, and no others, are being sent.
    Sent = 6,
    SentAgain = 7,
    Note = 8,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Put,
        Kind::Replacing,
        Kind::Replaced,
        Kind::Removed,
        Kind::RemovedAgain,
        Kind::Sent,
        Kind::SentAgain,
        Kind::Note,
    ];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// Does it change what was there before?
    pub(super) const fn is_change(self) -> bool {
        !matches!(self, Kind::Put | Kind::Note)
    }

    /// Does it stand behind a frame that says the same, or that says that it comes?
    pub(super) const fn is_second(self) -> bool {
        matches!(self, Kind::RemovedAgain | Kind::SentAgain | Kind::Replaced)
    }

    /// Does such a frame follow?
    pub(super) const fn is_first(self) -> bool {
        matches!(self, Kind::Removed | Kind::Sent | Kind::Replacing)
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) length: usize,
    pub(super) changes: u32,
    pub(super) notes: u32,
    pub(super) sequence: u64,
    pub(super) row: i64,
    pub(super) kept: u64,
    body_crc: u32,
}

impl Frame {
    pub(super) fn is_body(&self, salt: u64, body: &[u8]) -> bool {
        body.len() == self.length && self.crc_of(salt, body) == self.body_crc
    }

    fn crc_of(&self, salt: u64, body: &[u8]) -> u32 {
        let mut hasher = Hasher::new();
        hasher.update(&salt.to_le_bytes());
        hasher.update(&self.sequence.to_le_bytes());
        hasher.update(body);
        hasher.finalize()
    }

    fn encode(&self, salt: u64) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..8].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.changes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.notes.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.row.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.kept.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = header_crc(salt, &bytes);
        bytes[48..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The frame whose header stands at the beginning of `bytes`.
    pub(super) fn decode(salt: u64, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; FRAME_BYTES] = bytes.first_chunk()?;
        if bytes[..4] != FRAME_MAGIC || header_crc(salt, bytes) != u32_at(bytes, COVERED_BYTES) {
            return None;
        }
        let length = u32_at(bytes, 8) as usize;
        let kind = Kind::of(u32_at(bytes, 4)).filter(|_| length <= MAX_BODY_BYTES)?;
        Some(Self {
            kind,
            length,
            changes: u32_at(bytes, 12),
            notes: u32_at(bytes, 16),
            sequence: u64_at(bytes, 20),
            row: u64_at(bytes, 28).cast_signed(),
            kept: u64_at(bytes, 36),
            body_crc: u32_at(bytes, 44),
        })
    }

    /// Could these bytes be the beginning of the header of the frame with this number?
    pub(super) fn may_begin(bytes: &[u8], sequence: u64) -> bool {
        let magic = bytes.iter().zip(FRAME_MAGIC).all(|(byte, expected)| *byte == expected);
        let number = bytes.get(20..).unwrap_or_default().iter().zip(sequence.to_le_bytes());
        magic && number.take(8).all(|(byte, expected)| *byte == expected)
    }

    /// The same where one bit of the header may be wrong.
    pub(super) fn decode_mended(salt: u64, bytes: &[u8]) -> Option<Self> {
        let mut bytes: [u8; FRAME_BYTES] = *bytes.first_chunk()?;
        for bit in 0..8 * FRAME_BYTES {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Some(frame) = Self::decode(salt, &bytes) {
                return Some(frame);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        None
    }
}

/// Where the magic number of a frame stands next, from `at` on.
pub(super) fn next_magic(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == FRAME_MAGIC[0])?;
        if bytes[at..].starts_with(&FRAME_MAGIC) {
            return Some(at);
        }
        at += 1;
    }
}

/// The frames of one commit, as bytes, and the numbers that the next one goes on with.
#[derive(Debug, Clone)]
pub struct Frames {
    salt: u64,
    sequence: u64,
    changes: u32,
    notes: u32,
    kept: u64,
    bytes: Vec<u8>,
}

impl Frames {
    /// For a log without frames.
    #[must_use]
    pub const fn new(salt: u64) -> Self {
        Self::after(salt, 0, 0, 0)
    }

    pub(super) const fn after(salt: u64, sequence: u64, changes: u32, notes: u32) -> Self {
        Self { salt, sequence, changes, notes, kept: sequence, bytes: Vec::new() }
    }

    /// The number of the last frame.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What is to be written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was encoded has been acknowledged: the next commit begins.
    pub fn acknowledged(&mut self) {
        self.kept = self.sequence;
        self.bytes.clear();
    }

    /// A new record. Returns where in [`Frames::bytes`] its frame begins and how long it is.
    pub fn put(&mut self, row: i64, body: &[u8]) -> (usize, usize) {
        self.frame(Kind::Put, row, body)
    }

    /// A record in the place of an older one. Returns the same of its frame.
    pub fn replace(&mut self, row: i64, body: &[u8]) -> (usize, usize) {
        self.frame(Kind::Replacing, row, &[]);
        self.frame(Kind::Replaced, row, body)
    }

    /// Records are removed.
    pub fn remove(&mut self, rows: &[i64]) {
        let body = encode_rows(rows);
        self.frame(Kind::Removed, 0, &body);
        self.frame(Kind::RemovedAgain, 0, &body);
    }

    /// These records, and no others, are being sent.
    pub fn send(&mut self, rows: &[i64], how: &[u8]) {
        let mut body = u32::try_from(how.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        body.extend_from_slice(how);
        body.extend(encode_rows(rows));
        self.frame(Kind::Sent, 0, &body);
        self.frame(Kind::SentAgain, 0, &body);
    }

    /// A note. Returns where in [`Frames::bytes`] its frame begins and how long it is.
    pub fn note(&mut self, name: &str, body: &[u8]) -> (usize, usize) {
        let mut named = u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        named.extend_from_slice(name.as_bytes());
        named.extend_from_slice(body);
        self.frame(Kind::Note, 0, &named)
    }

    fn frame(&mut self, kind: Kind, row: i64, body: &[u8]) -> (usize, usize) {
        self.sequence += 1;
        self.changes = self.changes.wrapping_add(u32::from(kind.is_change()));
        self.notes = self.notes.wrapping_add(u32::from(kind == Kind::Note));
        let Self { salt, sequence, changes, notes, kept, .. } = *self;
        let mut frame = Frame { kind, length: body.len(), changes, notes, sequence, row, kept, body_crc: 0 };
        frame.body_crc = frame.crc_of(salt, body);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&frame.encode(salt));
        self.bytes.extend_from_slice(body);
        (at, self.bytes.len() - at)
    }
}

/// The body of a whole frame that stands alone in `bytes`; `None` if it is damaged.
#[must_use]
pub fn body_of(salt: u64, bytes: &[u8]) -> Option<&[u8]> {
    let frame = Frame::decode(salt, bytes)?;
    let body = &bytes[FRAME_BYTES..];
    frame.is_body(salt, body).then_some(body)
}

/// The body of a note's frame, without the note's name.
#[must_use]
pub fn note_of(salt: u64, bytes: &[u8]) -> Option<&[u8]> {
    split_named(body_of(salt, bytes)?).map(|(_, body)| body)
}

/// Rows as runs: the first row and how many follow each other.
#[must_use]
pub fn encode_rows(rows: &[i64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let runs = rows.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    for run in runs {
        bytes.extend_from_slice(&run[0].to_le_bytes());
        bytes.extend_from_slice(&(run.len() as u64).to_le_bytes());
    }
    bytes
}

/// The runs of rows, as (first, how many).
pub fn decode_rows(bytes: &[u8]) -> impl Iterator<Item = (i64, i64)> {
    bytes.chunks_exact(16).map(|run| (u64_at(run, 0).cast_signed(), u64_at(run, 8).cast_signed()))
}

/// What begins with its length, and what follows.
pub(super) fn split_named(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(4)?;
    rest.split_at_checked(u32_at(length, 0) as usize)
}

fn header_crc(salt: u64, frame: &[u8; FRAME_BYTES]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&frame[..COVERED_BYTES]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}
