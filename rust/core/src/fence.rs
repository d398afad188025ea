//! Exactly once: what may be concluded about a write whose answer was lost, and what to do with it.
//!
//! A server executes a *prefix* of a connection's byte stream. After an answer was lost two questions decide everything:
//! can the old connection still execute something (is it a *zombie*), and did this write get in?
//!
//! States of an old connection with unanswered commands
//! - *unfenced*: the server may still read from it. Nothing may be written to the keys it wrote to.
//! - *fenced*: nothing of it will be executed any more. It is fenced by `CLIENT KILL` on another connection to the same
//!   server process (told by its `run_id`); by the end of that process; or, at the level of the gate, by the server's
//!   clock having passed the last "not after" that was sent on it.
//! - *away*: the process that we are connected to now is another one. Nothing of the old connection can reach it, but the
//!   old process may come back under the same address (a failover and its reversal): then it is unfenced again. So it is
//!   remembered, in a bounded list.
//!
//! Rules
//! - Only a fenced connection is asked about its writes: before that every answer may be outdated when it arrives.
//! - An absolute write is sent again once its connection is fenced; whether it was executed does not matter.
//! - Any other write is sent again only when it is proven that it was not executed, and is done when it is proven that it
//!   was. Where nothing proves either it is a dead letter.
//! - A marker proves something only while it is the one that was made before the write: its first bit says so. A marker
//!   that expired, was evicted or flushed and was made anew by a later write has no first bit.
//! - The byte offset of a connection proves nothing while the server has blocked it (a paused server, a blocking
//!   command): commands that have been read ahead are counted though they were not executed.

use crate::guard::retry::Category;

/// How the fate of a lost write is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// Nothing can be done: every lost write stays unknown.
    Nothing = 0,
    /// Old connections can be killed, so absolute writes are safe to repeat; the others cannot be resolved.
    Fence = 1,
    /// The server tells how many bytes of a living connection it has processed.
    Offset = 2,
    /// Killing is not permitted: each write carries a bit and the latest time at which it may run.
    Gate = 3,
    /// Each write that is not absolute sets a bit beside it, in one transaction.
    Marker = 4,
}

/// What the server lets us do, learnt when a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "four independent permissions")]
pub struct Abilities {
    /// `CLIENT KILL` is permitted.
    pub kill: bool,
    /// The key of a marker could be written.
    pub marker: bool,
    /// `CLIENT LIST` counts the bytes that came in.
    pub offset: bool,
    /// The gate's script ran.
    pub gate: bool,
}

/// The level in force: the one that was asked for where the server offers it, else the best of what it offers.
///
/// The marker is the best: the offset is lost with the connection, so it resolves stalls but neither resets nor restarts.
#[must_use]
pub fn choose_level(asked: Option<Level>, abilities: Abilities) -> Level {
    let offered = |level: Level| match level {
        Level::Nothing => true,
        Level::Fence => abilities.kill,
        Level::Offset => abilities.kill && abilities.offset,
        Level::Gate => abilities.gate && abilities.marker,
        Level::Marker => abilities.kill && abilities.marker,
    };
    let best = [Level::Marker, Level::Offset, Level::Gate, Level::Fence];
    asked.into_iter().chain(best).find(|level| offered(*level)).unwrap_or(Level::Nothing)
}

/// What has to happen before anything is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceStep {
    /// The old connection belongs to another process: it cannot reach this one.
    Away,
    /// Kill it by its id.
    Kill,
    /// Wait until the server's clock has passed the last time at which one of its writes may run.
    WaitForClock,
    /// There is no way to fence it.
    Impossible,
}

/// How to fence an old connection, whose writes were made for `old_level`, from a new one at `level`.
///
/// `old_id` is the server's number of the old connection, 0 where it is unknown. It must never be killed by that number:
/// Redis 6.2 takes it for "any", and ends the connections of all clients.
#[must_use]
pub fn fence_step(same_process: bool, old_level: Level, level: Level, old_id: u64) -> FenceStep {
    match (same_process, old_level, level) {
        (false, ..) => FenceStep::Away,
        (true, _, Level::Fence | Level::Offset | Level::Marker) if old_id > 0 => FenceStep::Kill,
        (true, Level::Gate, Level::Gate) => FenceStep::WaitForClock,
        (true, ..) => FenceStep::Impossible,
    }
}

/// What `CLIENT LIST ID x` says of a connection, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLine {
    /// The server's number of the connection.
    pub id: u64,
    /// The peer as the server sees it.
    pub address: String,
    /// Bytes that came in since the connection was made; None where the server does not count them.
    pub received_bytes: Option<u64>,
    /// Of those, bytes that were not parsed yet.
    pub unparsed_bytes: u64,
    /// Whether the connection waits: its last commands have been parsed but not executed.
    pub blocked: bool,
}

impl ClientLine {
    /// Reads one line of `CLIENT LIST` or `CLIENT INFO`; None if it is not one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let field =
            |name: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            id: field("id")?.parse().ok()?,
            address: field("addr")?.to_owned(),
            received_bytes: field("tot-net-in").and_then(|text| text.parse().ok()),
            unparsed_bytes: field("qbuf").and_then(|text| text.parse().ok())?,
            blocked: field("flags").is_some_and(|flags| flags.contains('b')),
        })
    }

    /// How many bytes of the stream have been executed; None where the line does not prove it.
    #[must_use]
    pub fn executed_bytes(&self) -> Option<u64> {
        if self.blocked {
            return None;
        }
        self.received_bytes?.checked_sub(self.unparsed_bytes)
    }
}

/// What is known of a write of a fenced connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// It was not executed and never will be.
    NotApplied = 0,
    /// It was executed.
    Applied = 1,
    /// Nothing tells.
    Unresolvable = 2,
}

/// The verdict of an offset on a write that ends at `end_bytes` of its connection's stream.
#[must_use]
pub fn verdict_of_offset(executed_bytes: Option<u64>, end_bytes: u64) -> Verdict {
    match executed_bytes {
        None => Verdict::Unresolvable,
        Some(executed) if executed >= end_bytes => Verdict::Applied,
        Some(_) => Verdict::NotApplied,
    }
}

/// The verdict of a marker: its first bit, set when it was made, and the bit of the write.
#[must_use]
pub fn verdict_of_marker(is_the_same: bool, is_set: bool) -> Verdict {
    match (is_the_same, is_set) {
        (true, true) => Verdict::Applied,
        (true, false) => Verdict::NotApplied,
        (false, _) => Verdict::Unresolvable,
    }
}

/// What becomes of a command whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum NextStep {
    /// Send it again.
    Resend = 0,
    /// It is done; only its answer is lost.
    Done = 1,
    /// The outcome cannot be resolved: a dead letter, for the operator.
    DeadLetter = 2,
    /// Not yet known: its connection is not fenced.
    Wait = 3,
}

/// What becomes of a command of `category` whose answer was lost, given what is known of it.
#[must_use]
pub fn next_step(category: Category, fenced: bool, verdict: Option<Verdict>) -> NextStep {
    match (category, fenced, verdict) {
        (Category::Read, ..) | (Category::AbsoluteWrite, true, _) | (_, true, Some(Verdict::NotApplied)) => {
            NextStep::Resend
        }
        (_, true, Some(Verdict::Applied)) => NextStep::Done,
        (_, true, Some(Verdict::Unresolvable)) => NextStep::DeadLetter,
        (_, false, _) | (_, true, None) => NextStep::Wait,
    }
}

macro_rules! from_number {
    ($name:ident, $($variant:ident),+) => {
        impl TryFrom<u8> for $name {
            type Error = ();

            fn try_from(number: u8) -> Result<Self, ()> {
                $(if number == $name::$variant as u8 { return Ok($name::$variant); })+
                Err(())
            }
        }
    };
}

from_number!(Level, Nothing, Fence, Offset, Gate, Marker);
from_number!(Verdict, NotApplied, Applied, Unresolvable);
