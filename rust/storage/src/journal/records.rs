//! What the journal holds: records, notes, and the account of what was damaged.

/// Names a record: the segment's number in the high 16 bits, the number within the segment in the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(pub u64);

impl RecordId {
    const ROW_BITS: u32 = 48;

    /// The record `row` of the segment number `segment`.
    #[must_use]
    pub(super) fn new(segment: usize, row: i64) -> Self {
        Self((segment as u64) << Self::ROW_BITS | row.unsigned_abs())
    }

    pub(super) fn segment(self) -> usize {
        usize::try_from(self.0 >> Self::ROW_BITS).unwrap_or(usize::MAX)
    }

    pub(super) fn row(self) -> i64 {
        (self.0 & ((1 << Self::ROW_BITS) - 1)).cast_signed()
    }
}

/// A record that was in the journal when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// By which it is replaced and removed.
    pub id: RecordId,
    /// Was it marked as being sent? Then what was said of how.
    pub sent: Option<Box<[u8]>>,
    /// What was appended.
    pub body: Box<[u8]>,
}

/// A note that was in an adopted segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The number of its segment, as in the high 16 bits of the ids of its records.
    pub segment: usize,
    /// Its name.
    pub name: String,
    /// What was noted.
    pub body: Box<[u8]>,
}

/// What was found damaged when the journal was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damage {
    /// Records that were there and whose checksum was wrong, or that could not be read.
    pub records: u64,
    /// Segments of which a part, or all, could not be read; each was kept under the ending `.damaged`.
    pub segments: u64,
}

/// The checksum of a record: over its number and its body, so that a body under another number is found out.
pub(super) fn checksum(row: i64, body: &[u8]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&row.to_le_bytes());
    hasher.update(body);
    i64::from(hasher.finalize())
}

/// The checksum of a note.
pub(super) fn note_checksum(name: &str, body: &[u8]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(&[0]);
    hasher.update(body);
    i64::from(hasher.finalize())
}
