//! What the journal holds: records, notes, and the account of what was damaged.

use std::path::PathBuf;

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
    /// False where damage may have hidden that it was removed or changed.
    pub is_certain: bool,
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// Records that are lost, or of which only an older state was found; as far as that is known.
    pub records: u64,
    /// Segments of which a part, or all, could not be read; each was copied to a file with the ending `.damaged`.
    pub segments: u64,
    /// Bytes that could not be read.
    pub bytes: u64,
    /// Bytes at the ends of logs that a crash left unfinished; that is no damage.
    pub torn_bytes: u64,
    /// Records that were found, but that lost ones may have removed or changed.
    pub uncertain: u64,
    /// The files that were damaged.
    pub files: Vec<PathBuf>,
    /// Older copies of damaged files that were removed, because no more are kept.
    pub removed_files: u64,
}

impl Damage {
    pub(super) fn add(&mut self, other: Damage) {
        self.records += other.records;
        self.segments += other.segments;
        self.bytes += other.bytes;
        self.torn_bytes += other.torn_bytes;
        self.uncertain += other.uncertain;
        self.files.extend(other.files);
        self.removed_files += other.removed_files;
    }
}
