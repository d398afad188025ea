//! The row of an agent.

use super::{TIERS, next_version};

/// The row of an agent, as far as a plan reads or changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The place of its last change in its feed.
    pub seq: u64,
    /// The greatest version ever accepted.
    pub last_version: u64,
    /// Raised when the agent is erased.
    pub generation: u32,
    /// Rows up to here are erased, whether they are gone yet or not.
    pub erased_seq: u64,
    /// Copies up to here are refused.
    pub erased_version: u64,
    /// Memories in each tier that are neither deleted nor erased.
    pub counts: [u64; TIERS],
    /// When `seq` moved last, in microseconds since the epoch.
    pub touched_us: u64,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            seq: 0,
            last_version: 0,
            generation: 1,
            erased_seq: 0,
            erased_version: 0,
            counts: [0; TIERS],
            touched_us: 0,
        }
    }
}

impl Agent {
    /// Takes the next place in the feed.
    pub(super) fn advance(&mut self, now_us: u64) -> u64 {
        self.seq += 1;
        self.touched_us = self.touched_us.max(now_us);
        self.seq
    }

    pub(super) fn note_version(&mut self, version: u64) {
        self.last_version = self.last_version.max(version);
    }

    pub(super) fn count_in(&mut self, tier: u8) {
        if let Some(count) = self.counts.get_mut(usize::from(tier)) {
            *count += 1;
        }
    }

    pub(super) fn count_out(&mut self, tier: u8) {
        if let Some(count) = self.counts.get_mut(usize::from(tier)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Erases everything the agent has: its rows are not read any more, and what was accepted before is refused.
    pub fn erase(&mut self, now_us: u64) {
        self.erased_seq = self.seq;
        self.last_version = next_version(self.last_version, now_us);
        self.erased_version = self.last_version;
        self.generation += 1;
        self.counts = [0; TIERS];
        self.touched_us = self.touched_us.max(now_us);
    }
}
