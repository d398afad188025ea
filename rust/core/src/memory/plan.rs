//! What becomes of the two most frequent writes of a SQL store: of memories that are new in every respect, and of moves
//! between tiers. Everything else is decided in Python, by the plan that both SQL stores share; the two agree where both can
//! decide.
//!
//! - A memory is new if nothing has its id, its user's key or idempotency key, or its content, and nothing of its user was
//!   erased. It takes the next place in its agent's change feed, and a version above all that the agent ever had.
//! - A move puts another label on a memory that still has the version that was looked at, which takes the next place in
//!   the feed and keeps its version (R6).

use crate::memory::copy::Numbers;

/// Versions stay below 2^52.
pub const MAX_VERSION: u64 = (1 << 52) - 1;
/// How many tiers there are.
pub const TIERS: usize = 3;
/// The tier in which contents are compressed.
pub const LONG_TERM: u8 = 2;

/// The row of an agent, as far as these writes read or change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The place of its last change.
    pub seq: u64,
    /// The greatest version ever accepted.
    pub last_version: u64,
    /// Raised when the agent is erased.
    pub generation: u32,
    /// Rows up to here are erased, whether they are gone yet or not.
    pub erased_seq: u64,
    /// Copies up to here are refused.
    pub erased_version: u64,
    /// Memories in each tier.
    pub counts: [u64; TIERS],
    /// When `seq` moved last, in microseconds since the epoch.
    pub touched_us: u64,
}

/// Why a memory is not one that can be decided about here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotNewError;

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
    /// Accepts a memory without a version of its own: gives it what the store has to give, and moves on.
    ///
    /// # Errors
    /// [`NotNewError`], having changed nothing, for a copy with a version, of an older generation or of no tier, and where
    /// no version is left.
    pub fn accept(&mut self, numbers: &mut Numbers, now_us: u64) -> Result<(), NotNewError> {
        let version = now_us.max(self.last_version.max(self.erased_version) + 1);
        let is_of_before = numbers.generation != 0 && numbers.generation < self.generation;
        let count = self.counts.get_mut(usize::from(numbers.tier)).ok_or(NotNewError)?;
        if numbers.version != 0 || is_of_before || version > MAX_VERSION {
            return Err(NotNewError);
        }
        *count += 1;
        self.last_version = version;
        numbers.version = version;
        numbers.seq = self.next_seq(now_us);
        numbers.generation = self.generation;
        if numbers.created_us == 0 {
            numbers.created_us = version;
        }
        Ok(())
    }

    /// Moves a memory of this agent, which is held as it says, to a tier, if it still has this version.
    pub fn relabel(&mut self, held: Option<&Held>, version: u64, tier: u8, now_us: u64) -> Relabelled {
        let Some(held) = held else { return Relabelled::Absent(0) };
        if held.is_deleted || held.seq <= self.erased_seq {
            return Relabelled::Absent(held.version);
        }
        if held.version != version {
            return Relabelled::Stale(held.version);
        }
        let (Some(from), true) = (self.counts.get(usize::from(held.tier)), held.tier != tier) else {
            return Relabelled::There;
        };
        let Some(to) = self.counts.get(usize::from(tier)) else { return Relabelled::There };
        let (from, to) = (from.saturating_sub(1), to + 1);
        self.counts[usize::from(held.tier)] = from;
        self.counts[usize::from(tier)] = to;
        Relabelled::Moved(self.next_seq(now_us))
    }

    fn next_seq(&mut self, now_us: u64) -> u64 {
        self.seq += 1;
        self.touched_us = self.touched_us.max(now_us);
        self.seq
    }
}

/// What a move has to know of a row of its agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Of the copy.
    pub version: u64,
    /// Whether it is a tombstone.
    pub is_deleted: bool,
    /// Where it is.
    pub tier: u8,
    /// Its place in the feed.
    pub seq: u64,
}

/// What became of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relabelled {
    /// There is no such memory; the version of what is left of it, 0: nothing.
    Absent(u64),
    /// It has another version, this one.
    Stale(u64),
    /// It is there already.
    There,
    /// It has moved, and has this place in the feed.
    Moved(u64),
}

#[cfg(test)]
mod tests {
    use super::{Agent, Held, MAX_VERSION, NotNewError, Relabelled};
    use crate::memory::copy::Numbers;

    #[test]
    fn each_takes_the_next_place_and_a_greater_version() {
        let mut agent = Agent { erased_version: 500, generation: 3, ..Agent::default() };
        let mut first = Numbers { tier: 1, ..Numbers::default() };
        agent.accept(&mut first, 100).expect("new");
        assert_eq!(
            (first.version, first.seq, first.generation, first.created_us),
            (501, 1, 3, 501),
            "above what was erased"
        );
        let mut second = Numbers { tier: 2, created_us: 7, generation: 3, ..Numbers::default() };
        agent.accept(&mut second, 501).expect("new");
        assert_eq!((second.version, second.seq, second.created_us), (502, 2, 7), "above the first, at the same time");
        let mut third = Numbers::default();
        agent.accept(&mut third, 900).expect("new");
        assert_eq!(third.version, 900, "the clock's");
        let after = Agent { seq: 3, last_version: 900, counts: [1, 1, 1], touched_us: 900, ..agent.clone() };
        assert_eq!(agent, after);
    }

    #[test]
    fn what_is_not_new_changes_nothing() {
        let mut agent = Agent { generation: 2, touched_us: 900, ..Agent::default() };
        let before = agent.clone();
        let strange = [
            Numbers { version: 1, ..Numbers::default() },
            Numbers { generation: 1, ..Numbers::default() },
            Numbers { tier: 3, ..Numbers::default() },
        ];
        for mut numbers in strange {
            assert_eq!(agent.accept(&mut numbers, 100), Err(NotNewError), "{numbers:?}");
        }
        assert_eq!(agent.accept(&mut Numbers::default(), MAX_VERSION + 1), Err(NotNewError), "no version is left");
        assert_eq!(agent, before);
        assert_eq!(MAX_VERSION, 4_503_599_627_370_495, "2^52 - 1");
        agent.accept(&mut Numbers::default(), MAX_VERSION).expect("the last one");
        assert_eq!(agent.accept(&mut Numbers::default(), 100), Err(NotNewError), "no version is left");
        assert_eq!(agent.touched_us, MAX_VERSION, "a clock that goes back does not take it back");
    }

    #[test]
    fn a_move_changes_the_label_of_an_unchanged_version_and_nothing_else() {
        let mut agent = Agent { seq: 9, erased_seq: 4, counts: [2, 0, 0], touched_us: 900, ..Agent::default() };
        let held = Held { version: 70, is_deleted: false, tier: 0, seq: 5 };
        let before = agent.clone();
        for (held, version, tier, expected) in [
            (None, 70, 1, Relabelled::Absent(0)),
            (Some(Held { is_deleted: true, ..held }), 70, 1, Relabelled::Absent(70)),
            (Some(Held { seq: 4, ..held }), 70, 1, Relabelled::Absent(70)),
            (Some(held), 71, 1, Relabelled::Stale(70)),
            (Some(held), 69, 1, Relabelled::Stale(70)),
            (Some(held), 70, 0, Relabelled::There),
        ] {
            assert_eq!(agent.relabel(held.as_ref(), version, tier, 1_000), expected);
            assert_eq!(agent, before, "nothing has changed");
        }
        assert_eq!(agent.relabel(Some(&held), 70, 2, 1_000), Relabelled::Moved(10));
        assert_eq!(agent, Agent { seq: 10, counts: [1, 0, 1], touched_us: 1_000, ..before });
    }
}
