//! Figures of the queue.

/// What has happened so far, and what is there now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoveryStats {
    /// Entries accepted, the superseding ones included.
    pub pushed: u64,
    /// Entries whose payload a newer one replaced, or that were cancelled by a newer write.
    pub superseded: u64,
    /// Entries refused because the queue was full.
    pub refused: u64,
    /// Leases completed.
    pub completed: u64,
    /// Leases given back to be tried again.
    pub retried: u64,
    /// Entries discarded by the worker.
    pub discarded: u64,
    /// Entries that grew too old.
    pub expired: u64,
    /// Dead letters that made room for newer ones.
    pub dead_letters_dropped: u64,
    /// Entries in the queue, the leased ones included.
    pub entries: usize,
    /// Entries leased.
    pub leased: usize,
    /// Distinct keys of the entries in the queue.
    pub keys: usize,
    /// The sum of the entries' sizes.
    pub size_bytes: u64,
    /// Dead letters kept.
    pub dead_letters: usize,
    /// The age of the oldest entry.
    pub oldest_age_ns: u64,
}
