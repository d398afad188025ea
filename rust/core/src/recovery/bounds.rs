//! Bounds of the queue: their defaults, their checks, and what a full queue answers.

use std::fmt;

use crate::config::{ConfigError, count, duration_ns, integer_between};

/// Default bound of the entries.
pub const DEFAULT_MAX_ENTRIES: u32 = 100_000;
/// Default bound of the bytes.
pub const DEFAULT_MAX_BYTES: i64 = 256 * 1024 * 1024;
/// Default bound of the dead letters.
pub const DEFAULT_MAX_DEAD_LETTERS: u32 = 1_000;
/// The most entries a queue may be configured for: places are numbered in 32 bits.
pub const LARGEST_MAX_ENTRIES: u32 = 1 << 30;

/// A checked configuration of a [`RecoveryQueue`](super::RecoveryQueue).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "they are all bounds")]
pub struct RecoveryConfig {
    pub(super) max_entries: u32,
    pub(super) max_bytes: u64,
    pub(super) max_age_ns: Option<u64>,
    pub(super) max_dead_letters: u32,
}

impl RecoveryConfig {
    /// Checks the bounds; `max_age_s: None` lets entries grow as old as they like.
    ///
    /// # Errors
    /// When a bound is out of range.
    pub fn new(
        max_entries: i64,
        max_bytes: i64,
        max_age_s: Option<f64>,
        max_dead_letters: i64,
    ) -> Result<Self, ConfigError> {
        let max_bytes = integer_between("max_bytes", max_bytes, 1, i64::MAX)?;
        let max_dead_letters = integer_between("max_dead_letters", max_dead_letters, 0, 1_000_000)?;
        Ok(Self {
            max_entries: count("max_entries", max_entries, LARGEST_MAX_ENTRIES)?,
            max_bytes: max_bytes.unsigned_abs(),
            max_age_ns: max_age_s.map(|seconds| duration_ns("max_age_s", seconds)).transpose()?,
            max_dead_letters: u32::try_from(max_dead_letters).unwrap_or(u32::MAX),
        })
    }

    /// Checks that so many more entries and bytes fit.
    pub(super) fn check(
        &self,
        (entries, more_entries): (usize, usize),
        (size_bytes, more_bytes): (u64, u64),
    ) -> Result<(), QueueFull> {
        if more_entries > 0 && entries + more_entries > self.max_entries as usize {
            return Err(QueueFull::Entries(self.max_entries));
        }
        if more_bytes > 0 && size_bytes.saturating_add(more_bytes) > self.max_bytes {
            return Err(QueueFull::Bytes(self.max_bytes));
        }
        Ok(())
    }
}

/// The queue is at one of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFull {
    /// The number of entries that it holds, and may hold.
    Entries(u32),
    /// The number of bytes that it may hold.
    Bytes(u64),
}

impl fmt::Display for QueueFull {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueFull::Entries(bound) => write!(formatter, "the recovery queue holds max_entries ({bound}) entries"),
            QueueFull::Bytes(bound) => {
                write!(formatter, "the entry would exceed max_bytes ({bound}) of the recovery queue")
            }
        }
    }
}

impl std::error::Error for QueueFull {}
