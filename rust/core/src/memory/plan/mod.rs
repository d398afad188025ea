//! The decision of a write to the SQL store: one plan for every database and every path to it.
//!
//! A store begins a transaction, locks the rows of the agents, reads what is [`Wanted`], gives it to a [`Plan`], lets it decide
//! the operations one after the other, and writes what [`Plan::finish`] returns: each row once, however often it was
//! written. The plan sees no SQL and no clock. Constraints of the database only catch mistakes.
//!
//! A batch is decided as its operations would be, one transaction each.
//!
//! Order of the questions that a put is asked
//! 1. Is it of a time before its agent or user was erased? [`Status::Erased`]
//! 2. Is its id unknown, and its user's idempotency key known, or, without a key and a version of its own, equal content
//!    of the same user, session, namespace and expiry? [`Status::Existing`]
//! 3. Is its id unknown, and its user's key in use? Without a version of its own it goes over that memory. Of two with
//!    versions the greater stamp keeps the key, and the other becomes a tombstone. An expired holder becomes one in any
//!    case.
//! 4. Is a tombstone there, or, without a version of its own, an expired memory? [`Status::Deleted`]
//! 5. Does `if_version` hold? [`Status::Conflict`], [`Status::Absent`]
//! 6. Does it beat what is held (R1)? Without a version of its own it always does. [`Status::Stale`]

mod agent;
mod decide;
mod operation;
mod rows;
mod wanted;

pub use agent::Agent;
pub use decide::{Plan, PlanError};
pub use operation::{Answer, Delete, Held, Identity, KeyName, Move, Operation, Put, RequestName, Stamp, Status, Twin};
pub use rows::{Change, ChangeKind, Label, Request, Writes};
pub use wanted::Wanted;

/// Versions stay below 2^52, so that a floor in Redis (twice the version, and one for a tombstone) is exact as a double.
pub const MAX_VERSION: u64 = (1 << 52) - 1;
/// How many tiers there are.
pub const TIERS: usize = 3;
/// The tier in which contents are compressed.
pub const LONG_TERM: u8 = 2;

/// The version of a new copy over `last` (0: none): microseconds since the epoch, but always at least `last` + 1.
#[must_use]
pub fn next_version(last: u64, clock_us: u64) -> u64 {
    clock_us.max(last.saturating_add(1))
}
