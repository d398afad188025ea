//! The recovery queue: writes that failed, waiting to be tried again.
//!
//! **States of an entry.**
//!
//! ```text
//!             push                 its turn on every key, and due            complete
//!   caller ─────────▶ QUEUED ───────────────────────────────▶ LEASED ─────────────────▶ gone
//!             ▲         ▲                                      │   │
//!   retry_dead│         └──────────────────────────────────────┘   │ discard
//!             │                          retry                     ▼
//!             └──────────────────────────────────────────── DEAD LETTER ◀── too old
//! ```
//!
//! **Order.** Entries that share a key are served in the order they came, whatever their priorities and due times: an
//! entry is eligible when it is the first of each of its keys. A leased entry keeps its place, so the keys of a lease
//! are blocked until it is completed, retried or discarded. Among the eligible entries that are due, the most urgent
//! priority comes first, then the earliest due time, then the oldest.
//!
//! **Leases.** A lease has a number of its own and an owner: a worker, by its number, or a call that is about to make the
//! entry needless. Releasing a worker's leases leaves those of calls and of other workers alone. A lease that was released
//! and taken again is another lease, so what its former holder does by the old number is refused.
//!
//! **Superseding.** An absolute write of one key (`coalesce`) that comes when the last entry of its key is one too,
//! and not leased, takes its place: same id, same turn, the more urgent of the two priorities, the earlier of the two
//! due times, the new payload, no attempts. The older write would have been overwritten anyway. Relative writes never supersede
//! nor are superseded.
//!
//! **Bounds.** Entries, bytes (as the callers state them) and age are bounded. A full queue refuses new entries; an
//! entry that is too old becomes a dead letter when the queue is next used, unless it is leased. Dead letters are
//! bounded in number and, by the same figure as the queue, in bytes; the oldest are dropped.
//!
//! **Cost.** Every operation is O(log n) at worst, and an entry with one key of its own takes about 200 bytes beside
//! its payload.
//!
//! Payloads that leave the queue are handed back (see [`RecoveryQueue::take_dropped`]) rather than dropped, since
//! dropping a Python object may run code that uses the queue.
//!
//! | module | holds |
//! |---|---|
//! | `queue` | [`RecoveryQueue`], which uses all the others |
//! | `bounds` | bounds, and what a full queue answers |
//! | `entry` | an entry: queued, kept, leased |
//! | `keys` | order per key |
//! | `schedules` | priorities and due times |
//! | `ages` | the entries by age |
//! | `dead_letters` | entries that were given up |
//! | `stats` | figures |
//! | `places` | numbered places, which all of these refer to |

mod ages;
mod bounds;
mod dead_letters;
mod entry;
mod keys;
mod places;
mod queue;
mod schedules;
mod stats;

pub use bounds::{
    DEFAULT_MAX_BYTES, DEFAULT_MAX_DEAD_LETTERS, DEFAULT_MAX_ENTRIES, LARGEST_MAX_ENTRIES, QueueFull, RecoveryConfig,
};
pub use dead_letters::{DeadLetter, NotRevived};
pub use entry::{Lease, NewEntry, Priority, WrongId};
pub use queue::RecoveryQueue;
pub use stats::RecoveryStats;
