//! An entry: as a caller queues it, as the queue keeps it, and as a worker leases it.

use std::fmt;

/// The number of no lease.
pub(super) const NOT_LEASED: u64 = 0;

/// How urgent an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Priority {
    /// Served first.
    Critical = 0,
    /// Before the ordinary.
    High = 1,
    /// The ordinary.
    Normal = 2,
    /// Served last.
    Low = 3,
}

impl TryFrom<u8> for Priority {
    type Error = ();

    fn try_from(number: u8) -> Result<Self, ()> {
        [Priority::Critical, Priority::High, Priority::Normal, Priority::Low]
            .get(usize::from(number))
            .copied()
            .ok_or(())
    }
}

/// An entry to be queued.
#[derive(Debug, Clone)]
pub struct NewEntry<'a, T> {
    /// The keys it writes. A key given twice counts once; an entry without keys has no order.
    pub keys: &'a [&'a [u8]],
    /// What the worker needs to repeat the write.
    pub payload: T,
    /// How urgent it is.
    pub priority: Priority,
    /// When it may be tried at the earliest.
    pub due_ns: u64,
    /// What it counts for in the bound of bytes.
    pub size_bytes: u64,
    /// An absolute write: it may supersede, and be superseded by, another of the same single key.
    pub coalesce: bool,
}

/// An entry as the worker sees it.
#[derive(Debug)]
pub struct Lease<'a, T> {
    /// By which it is completed, retried or discarded.
    pub id: u64,
    /// The number of its lease, which no other lease has; `None` while it is queued.
    pub lease: Option<u64>,
    /// The keys it writes.
    pub keys: Vec<&'a [u8]>,
    /// What is needed to repeat the write.
    pub payload: &'a T,
    /// How urgent it is.
    pub priority: Priority,
    /// How often it was retried before.
    pub attempts: u32,
    /// How long it has been queued.
    pub age_ns: u64,
    /// What it counts for in the bound of bytes.
    pub size_bytes: u64,
}

/// An id that does not fit the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongId {
    /// There is no such entry (any more).
    Unknown(u64),
    /// The entry is there, but not leased, or by another lease than the one named.
    NotLeased(u64),
}

impl fmt::Display for WrongId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WrongId::Unknown(id) => write!(formatter, "no entry {id} in the recovery queue"),
            WrongId::NotLeased(id) => write!(formatter, "entry {id} of the recovery queue is not leased"),
        }
    }
}

impl std::error::Error for WrongId {}

/// An entry as the queue keeps it.
pub(super) struct Entry<T> {
    pub(super) payload: T,
    pub(super) links: Links,
    pub(super) id: u64,
    pub(super) sequence: u64,
    pub(super) due_ns: u64,
    pub(super) enqueued_ns: u64,
    pub(super) size_bytes: u64,
    pub(super) attempts: u32,
    /// Tells the entry's valid schedule from those it has left behind in the heaps.
    pub(super) stamp: u32,
    /// In how many of its keys other entries come first.
    pub(super) behind: u32,
    pub(super) older: u32,
    pub(super) newer: u32,
    pub(super) priority: Priority,
    /// The number of its lease; `NOT_LEASED` while it is queued.
    pub(super) lease: u64,
    /// The worker or the call that holds the lease.
    pub(super) owner: u32,
    pub(super) coalesce: bool,
}

impl<T> Entry<T> {
    pub(super) const fn is_leased(&self) -> bool {
        self.lease != NOT_LEASED
    }

    /// An absolute write of one key that no lease holds: a newer one may take its place.
    pub(super) fn may_be_superseded(&self) -> bool {
        self.coalesce && !self.is_leased() && self.links.as_slice().len() == 1
    }
}

/// The places of an entry in the queues of its keys.
pub(super) enum Links {
    None,
    One(u32),
    Many(Box<[u32]>),
}

impl Links {
    pub(super) fn as_slice(&self) -> &[u32] {
        match self {
            Links::None => &[],
            Links::One(link) => std::slice::from_ref(link),
            Links::Many(links) => links,
        }
    }
}
