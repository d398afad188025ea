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

use std::collections::hash_map::RandomState;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::hash::BuildHasher;

use hashbrown::HashTable;

use crate::config::{ConfigError, count, duration_ns, integer_between};

/// Default bound of the entries.
pub const DEFAULT_MAX_ENTRIES: u32 = 100_000;
/// Default bound of the bytes.
pub const DEFAULT_MAX_BYTES: i64 = 256 * 1024 * 1024;
/// Default bound of the dead letters.
pub const DEFAULT_MAX_DEAD_LETTERS: u32 = 1_000;
/// The most entries a queue may be configured for: places are numbered in 32 bits.
pub const LARGEST_MAX_ENTRIES: u32 = 1 << 30;

/// Superseded schedules are swept out when they outnumber the entries by more than this.
const STALE_SCHEDULES: usize = 1_024;
/// An empty queue gives its memory back if it had grown beyond this many entries.
const KEPT_CAPACITY: usize = 4_096;
const NOBODY: u32 = u32::MAX;
const NOT_LEASED: u64 = 0;
/// Owners from here on are calls; below are workers.
const FIRST_CALL: u32 = 1 << 16;
const PRIORITIES: usize = 4;

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

/// A checked configuration of a [`RecoveryQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "they are all bounds")]
pub struct RecoveryConfig {
    max_entries: u32,
    max_bytes: u64,
    max_age_ns: Option<u64>,
    max_dead_letters: u32,
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
            max_age_ns: max_age_s.map(|seconds| duration_ns("max_age", seconds)).transpose()?,
            max_dead_letters: u32::try_from(max_dead_letters).unwrap_or(u32::MAX),
        })
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

/// Why [`RecoveryQueue::retry_dead`] did not queue a dead letter again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRevived {
    /// No dead letter has this id.
    Unknown(WrongId),
    /// The queue has no room.
    Full(QueueFull),
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

/// An entry that was given up.
#[derive(Debug)]
pub struct DeadLetter<T> {
    /// The id it had in the queue.
    pub id: u64,
    /// The keys it writes.
    pub keys: Vec<Box<[u8]>>,
    /// What is needed to repeat the write.
    pub payload: T,
    /// How urgent it was.
    pub priority: Priority,
    /// How often it was retried.
    pub attempts: u32,
    /// What it counts for in the bound of bytes.
    pub size_bytes: u64,
    /// When it was given up.
    pub died_ns: u64,
    /// Why.
    pub reason: String,
    coalesce: bool,
}

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

struct Entry<T> {
    payload: T,
    links: Links,
    id: u64,
    sequence: u64,
    due_ns: u64,
    enqueued_ns: u64,
    size_bytes: u64,
    attempts: u32,
    /// Tells the entry's valid schedule from those it has left behind in the heaps.
    stamp: u32,
    /// In how many of its keys other entries come first.
    behind: u32,
    older: u32,
    newer: u32,
    priority: Priority,
    /// The number of its lease; `NOT_LEASED` while it is queued.
    lease: u64,
    /// The worker or the call that holds the lease.
    owner: u32,
    coalesce: bool,
}

impl<T> Entry<T> {
    const fn is_leased(&self) -> bool {
        self.lease != NOT_LEASED
    }
}

/// The places of an entry in the queues of its keys.
enum Links {
    None,
    One(u32),
    Many(Box<[u32]>),
}

impl Links {
    fn as_slice(&self) -> &[u32] {
        match self {
            Links::None => &[],
            Links::One(link) => std::slice::from_ref(link),
            Links::Many(links) => links,
        }
    }
}

/// One entry's place in the queue of one key.
struct Link {
    entry: u32,
    key: u32,
    previous: u32,
    next: u32,
}

/// The queue of one key, by its first and last link.
struct Key {
    name: Box<[u8]>,
    first: u32,
    last: u32,
}

/// An eligible entry in the heap of its priority. The heap is a max-heap, so the order is reversed.
#[derive(PartialEq, Eq)]
struct Schedule {
    due_ns: u64,
    sequence: u64,
    entry: u32,
    stamp: u32,
}

impl Ord for Schedule {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due_ns, other.sequence, other.stamp).cmp(&(self.due_ns, self.sequence, self.stamp))
    }
}

impl PartialOrd for Schedule {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Numbered places that are used again.
struct Places<V> {
    places: Vec<Option<V>>,
    free: Vec<u32>,
}

impl<V> Places<V> {
    const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    fn insert(&mut self, value: V) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(value);
            return place;
        }
        self.places.push(Some(value));
        u32::try_from(self.places.len() - 1).expect("the bounds of the queue keep places below 2^32")
    }

    fn remove(&mut self, place: u32) -> V {
        self.free.push(place);
        self.places[place as usize].take().expect("a place is removed once")
    }

    fn get(&self, place: u32) -> Option<&V> {
        self.places.get(place as usize)?.as_ref()
    }
}

impl<V> std::ops::Index<u32> for Places<V> {
    type Output = V;

    fn index(&self, place: u32) -> &V {
        self.places[place as usize].as_ref().expect("a place in use")
    }
}

impl<V> std::ops::IndexMut<u32> for Places<V> {
    fn index_mut(&mut self, place: u32) -> &mut V {
        self.places[place as usize].as_mut().expect("a place in use")
    }
}

/// The queue; see the module's text.
pub struct RecoveryQueue<T> {
    config: RecoveryConfig,
    entries: Places<Entry<T>>,
    links: Places<Link>,
    keys: Places<Key>,
    keys_by_name: HashTable<u32>,
    hasher: RandomState,
    schedules: [BinaryHeap<Schedule>; PRIORITIES],
    oldest: u32,
    newest: u32,
    next_sequence: u64,
    next_stamp: u32,
    last_lease: u64,
    dead_letters: VecDeque<DeadLetter<T>>,
    dead_bytes: u64,
    dropped: Vec<T>,
    stats: RecoveryStats,
}

impl<T> RecoveryQueue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new(config: RecoveryConfig) -> Self {
        Self {
            config,
            entries: Places::new(),
            links: Places::new(),
            keys: Places::new(),
            keys_by_name: HashTable::new(),
            hasher: RandomState::new(),
            schedules: std::array::from_fn(|_| BinaryHeap::new()),
            oldest: NOBODY,
            newest: NOBODY,
            next_sequence: 0,
            next_stamp: 0,
            last_lease: NOT_LEASED,
            dead_letters: VecDeque::new(),
            dead_bytes: 0,
            dropped: Vec::new(),
            stats: RecoveryStats::default(),
        }
    }

    /// Queues an entry, or lets it supersede the one it makes needless, and returns the id of the entry that now
    /// stands for it.
    ///
    /// # Errors
    /// When the queue is full; the payload can then be had from [`RecoveryQueue::take_dropped`].
    pub fn push(&mut self, new: NewEntry<'_, T>, now_ns: u64) -> Result<u64, QueueFull> {
        self.expire(now_ns);
        let superseded = if new.coalesce { self.superseded_by(new.keys) } else { None };
        if let Err(full) = self.check_room(&new, superseded) {
            self.stats.refused += 1;
            self.dropped.push(new.payload);
            return Err(full);
        }
        self.stats.pushed += 1;
        Ok(match superseded {
            Some(entry) => self.supersede(entry, new, now_ns),
            None => self.append(new, now_ns),
        })
    }

    /// Queues an entry that was accepted before, by a process that has died: bounds have been kept then, and refusing it
    /// now would lose it. Otherwise as [`RecoveryQueue::push`].
    pub fn restore(&mut self, new: NewEntry<'_, T>, now_ns: u64) -> u64 {
        self.stats.pushed += 1;
        match if new.coalesce { self.superseded_by(new.keys) } else { None } {
            Some(entry) => self.supersede(entry, new, now_ns),
            None => self.append(new, now_ns),
        }
    }

    /// Leases the next entry that is due to a worker, if there is one.
    pub fn pop_due(&mut self, worker: u16, now_ns: u64) -> Option<Lease<'_, T>> {
        self.expire(now_ns);
        for priority in 0..PRIORITIES {
            self.forget_stale(priority);
            if self.schedules[priority].peek().is_some_and(|schedule| schedule.due_ns <= now_ns) {
                let place = self.schedules[priority].pop()?.entry;
                return Some(self.lease(place, u32::from(worker), now_ns));
            }
        }
        None
    }

    /// The write of a leased entry succeeded. `lease` is the number of the lease; `None` stands for whichever it is.
    ///
    /// # Errors
    /// When there is no such lease.
    pub fn complete(&mut self, id: u64, lease: Option<u64>) -> Result<T, WrongId> {
        let place = self.leased_place(id, lease)?;
        self.stats.completed += 1;
        Ok(self.remove(place).0)
    }

    /// The write of a leased entry failed: it is tried again at `due_ns`, before every later entry of its keys.
    ///
    /// # Errors
    /// When there is no such lease.
    pub fn retry(&mut self, id: u64, lease: Option<u64>, due_ns: u64) -> Result<(), WrongId> {
        let place = self.leased_place(id, lease)?;
        let entry = &mut self.entries[place];
        entry.lease = NOT_LEASED;
        entry.attempts = entry.attempts.saturating_add(1);
        entry.due_ns = due_ns;
        self.stats.leased -= 1;
        self.stats.retried += 1;
        self.schedule(place);
        Ok(())
    }

    /// Gives an entry up, leased or not: it becomes a dead letter.
    ///
    /// # Errors
    /// When there is no such entry.
    pub fn discard(&mut self, id: u64, reason: String, now_ns: u64) -> Result<(), WrongId> {
        let place = self.place_of(id)?;
        self.stats.discarded += 1;
        self.bury(place, reason, now_ns);
        Ok(())
    }

    /// Removes the absolute writes queued for `key` alone, because a newer absolute write of it has succeeded. Leased
    /// ones stay. Returns how many there were.
    pub fn cancel_superseded(&mut self, key: &[u8]) -> usize {
        let mut cancelled = 0;
        let mut link = self.find_key(key).map_or(NOBODY, |key| self.keys[key].first);
        while link != NOBODY {
            let place = self.links[link].entry;
            link = self.links[link].next;
            let entry = &self.entries[place];
            if entry.coalesce && !entry.is_leased() && entry.links.as_slice().len() == 1 {
                let (payload, ..) = self.remove(place);
                self.dropped.push(payload);
                cancelled += 1;
            }
        }
        self.stats.superseded += cancelled as u64;
        cancelled
    }

    /// Leases the one entry of `key`, if an absolute write of that key that is about to be tried would make it needless:
    /// it is to be completed when that write succeeds, and given back ([`RecoveryQueue::release`]) when it fails. `call` is a
    /// number by which the caller can give it back even if it was interrupted before it learnt the lease.
    pub fn lease_superseded(&mut self, key: &[u8], call: u32, now_ns: u64) -> Option<Lease<'_, T>> {
        let key = &self.keys[self.find_key(key)?];
        if key.first != key.last {
            return None;
        }
        let place = self.links[key.first].entry;
        let entry = &self.entries[place];
        if !entry.coalesce || entry.is_leased() || entry.links.as_slice().len() != 1 {
            return None;
        }
        Some(self.lease(place, owner_of_call(call), now_ns))
    }

    /// Gives one lease back as it was.
    ///
    /// # Errors
    /// When there is no such lease.
    pub fn release(&mut self, id: u64, lease: Option<u64>) -> Result<(), WrongId> {
        let place = self.leased_place(id, lease)?;
        self.end_lease(place);
        Ok(())
    }

    /// Gives the leases of a worker back as they were, for another that takes over from it. Returns how many there were.
    pub fn release_leases(&mut self, worker: u16) -> usize {
        self.release_leases_of(u32::from(worker))
    }

    /// Gives the lease of a call back as it was, if there is one.
    pub fn release_call(&mut self, call: u32) -> bool {
        self.release_leases_of(owner_of_call(call)) > 0
    }

    /// Are entries leased to calls?
    #[must_use]
    pub fn is_leased_to_calls(&self) -> bool {
        let mut entries = self.entries.places.iter().flatten();
        self.stats.leased > 0 && entries.any(|entry| entry.is_leased() && entry.owner >= FIRST_CALL)
    }

    fn release_leases_of(&mut self, owner: u32) -> usize {
        if self.stats.leased == 0 {
            return 0;
        }
        let leased: Vec<u32> = (0u32..)
            .zip(&self.entries.places)
            .filter(|(_, entry)| entry.as_ref().is_some_and(|entry| entry.is_leased() && entry.owner == owner))
            .map(|(place, _)| place)
            .collect();
        for place in &leased {
            self.end_lease(*place);
        }
        leased.len()
    }

    fn end_lease(&mut self, place: u32) {
        self.entries[place].lease = NOT_LEASED;
        self.stats.leased -= 1;
        self.schedule(place);
    }

    /// When the next entry is due that could be leased; `None` when all are leased or blocked by leases, or there are
    /// none.
    pub fn next_due_ns(&mut self) -> Option<u64> {
        (0..PRIORITIES)
            .filter_map(|priority| {
                self.forget_stale(priority);
                self.schedules[priority].peek().map(|schedule| schedule.due_ns)
            })
            .min()
    }

    /// Does an entry, queued or leased, write `key`?
    #[must_use]
    pub fn is_key_queued(&self, key: &[u8]) -> bool {
        self.find_key(key).is_some()
    }

    /// The number of entries, the leased ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stats.entries
    }

    /// Is there no entry?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stats.entries == 0
    }

    /// The sum of the entries' sizes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.stats.size_bytes
    }

    /// What has happened so far, and what is there now.
    #[must_use]
    pub fn stats(&self, now_ns: u64) -> RecoveryStats {
        let oldest_age_ns = self.entries.get(self.oldest).map_or(0, |entry| now_ns.saturating_sub(entry.enqueued_ns));
        let keys = self.keys_by_name.len();
        RecoveryStats { keys, dead_letters: self.dead_letters.len(), oldest_age_ns, ..self.stats }
    }

    /// The entries, oldest first.
    pub fn entries(&self, now_ns: u64) -> impl Iterator<Item = Lease<'_, T>> {
        let mut place = self.oldest;
        std::iter::from_fn(move || {
            let entry = self.entries.get(place)?;
            place = entry.newer;
            Some(self.describe(entry, now_ns))
        })
    }

    /// The dead letters, oldest first.
    pub fn dead_letters(&self) -> impl Iterator<Item = &DeadLetter<T>> {
        self.dead_letters.iter()
    }

    /// Queues a dead letter again, as the newest entry of its keys, due at once. Returns its new id.
    ///
    /// # Errors
    /// When there is no such dead letter, or no room; then it stays where it is.
    pub fn retry_dead(&mut self, id: u64, now_ns: u64) -> Result<u64, NotRevived> {
        // First of all, since entries that die of age now may push letters out.
        self.expire(now_ns);
        let unknown = NotRevived::Unknown(WrongId::Unknown(id));
        let index = self.dead_letters.iter().position(|letter| letter.id == id).ok_or(unknown)?;
        let size_bytes = self.dead_letters[index].size_bytes;
        self.check_bounds(1, size_bytes).map_err(NotRevived::Full)?;
        let letter = self.dead_letters.remove(index).ok_or(unknown)?;
        self.dead_bytes -= size_bytes;
        let keys: Vec<&[u8]> = letter.keys.iter().map(AsRef::as_ref).collect();
        self.stats.pushed += 1;
        let revived = NewEntry {
            keys: &keys,
            payload: letter.payload,
            priority: letter.priority,
            due_ns: now_ns,
            size_bytes,
            coalesce: letter.coalesce,
        };
        Ok(self.append(revived, now_ns))
    }

    /// The payloads that have left the queue other than by [`RecoveryQueue::complete`], to be dropped where that can
    /// do no harm.
    #[must_use]
    pub fn take_dropped(&mut self) -> Vec<T> {
        std::mem::take(&mut self.dropped)
    }

    /// Every payload in the queue and among the dead letters.
    pub fn payloads(&self) -> impl Iterator<Item = &T> {
        let queued = self.entries.places.iter().flatten().map(|entry| &entry.payload);
        queued.chain(self.dead_letters.iter().map(|letter| &letter.payload)).chain(&self.dropped)
    }

    /// Empties queue and dead letters and returns the payloads.
    pub fn drain(&mut self) -> Vec<T> {
        let fresh = RecoveryQueue {
            next_sequence: self.next_sequence,
            last_lease: self.last_lease,
            ..RecoveryQueue::new(self.config)
        };
        let old = std::mem::replace(self, fresh);
        let queued = old.entries.places.into_iter().flatten().map(|entry| entry.payload);
        queued.chain(old.dead_letters.into_iter().map(|letter| letter.payload)).chain(old.dropped).collect()
    }

    fn check_room(&self, new: &NewEntry<'_, T>, superseded: Option<u32>) -> Result<(), QueueFull> {
        let (entries, replaced_bytes) = superseded.map_or((1, 0), |place| (0, self.entries[place].size_bytes));
        self.check_bounds(entries, new.size_bytes.saturating_sub(replaced_bytes))
    }

    fn check_bounds(&self, entries: usize, size_bytes: u64) -> Result<(), QueueFull> {
        if entries > 0 && self.stats.entries + entries > self.config.max_entries as usize {
            return Err(QueueFull::Entries(self.config.max_entries));
        }
        if size_bytes > 0 && self.stats.size_bytes.saturating_add(size_bytes) > self.config.max_bytes {
            return Err(QueueFull::Bytes(self.config.max_bytes));
        }
        Ok(())
    }

    /// The entry that an absolute write of `keys` makes needless.
    fn superseded_by(&self, keys: &[&[u8]]) -> Option<u32> {
        let [key] = keys else { return None };
        let last = self.keys[self.find_key(key)?].last;
        let place = self.links[last].entry;
        let entry = &self.entries[place];
        (entry.coalesce && !entry.is_leased() && entry.links.as_slice().len() == 1).then_some(place)
    }

    fn supersede(&mut self, place: u32, new: NewEntry<'_, T>, now_ns: u64) -> u64 {
        let entry = &mut self.entries[place];
        self.dropped.push(std::mem::replace(&mut entry.payload, new.payload));
        self.stats.size_bytes = self.stats.size_bytes - entry.size_bytes + new.size_bytes;
        entry.size_bytes = new.size_bytes;
        entry.attempts = 0;
        let urgency = (entry.priority.min(new.priority), entry.due_ns.min(new.due_ns));
        let rescheduled = urgency != (entry.priority, entry.due_ns);
        (entry.priority, entry.due_ns) = urgency;
        let id = entry.id;
        self.stats.superseded += 1;
        // The payload is as young as its write, so it also starts to age anew.
        self.leave_ages(place);
        self.join_ages(place, now_ns);
        if rescheduled && self.entries[place].behind == 0 {
            self.schedule(place);
        }
        id
    }

    #[expect(clippy::cast_possible_truncation, reason = "the id holds the low half of the sequence")]
    fn append(&mut self, new: NewEntry<'_, T>, now_ns: u64) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let place = self.entries.insert(Entry {
            payload: new.payload,
            links: Links::None,
            id: 0,
            sequence,
            due_ns: new.due_ns,
            enqueued_ns: now_ns,
            size_bytes: new.size_bytes,
            attempts: 0,
            stamp: 0,
            behind: 0,
            older: NOBODY,
            newer: NOBODY,
            priority: new.priority,
            lease: NOT_LEASED,
            owner: 0,
            coalesce: new.coalesce,
        });
        // A place is used again, but with another sequence: an id that was completed stays unknown.
        let id = (u64::from(sequence as u32) << 32) + u64::from(place);
        self.stats.entries += 1;
        self.stats.size_bytes += new.size_bytes;
        let links = match new.keys {
            [] => Links::None,
            [key] => self.join_key(key, place).map_or(Links::None, Links::One),
            keys => Links::Many(keys.iter().filter_map(|key| self.join_key(key, place)).collect()),
        };
        let entry = &mut self.entries[place];
        entry.id = id;
        entry.links = links;
        self.join_ages(place, now_ns);
        if self.entries[place].behind == 0 {
            self.schedule(place);
        }
        id
    }

    /// Puts an entry at the end of a key's queue; `None` when it is there already, by the same key given twice.
    fn join_key(&mut self, name: &[u8], entry: u32) -> Option<u32> {
        let key = self.find_key(name).unwrap_or_else(|| self.add_key(name));
        let previous = self.keys[key].last;
        if previous == NOBODY {
            let link = self.links.insert(Link { entry, key, previous, next: NOBODY });
            (self.keys[key].first, self.keys[key].last) = (link, link);
            return Some(link);
        }
        if self.links[previous].entry == entry {
            return None;
        }
        let link = self.links.insert(Link { entry, key, previous, next: NOBODY });
        self.links[previous].next = link;
        self.keys[key].last = link;
        self.entries[entry].behind += 1;
        Some(link)
    }

    /// Takes a link out of its key's queue; the entry after it may become eligible by that.
    fn leave_key(&mut self, link: u32) {
        let Link { key, previous, next, .. } = self.links.remove(link);
        if next == NOBODY {
            self.keys[key].last = previous;
        } else {
            self.links[next].previous = previous;
        }
        if previous != NOBODY {
            self.links[previous].next = next;
        } else if next != NOBODY {
            self.keys[key].first = next;
            let successor = self.links[next].entry;
            self.entries[successor].behind -= 1;
            if self.entries[successor].behind == 0 {
                self.schedule(successor);
            }
        } else {
            self.remove_key(key);
        }
    }

    fn find_key(&self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.keys_by_name.find(hash, |key| *self.keys[*key].name == *name).copied()
    }

    fn add_key(&mut self, name: &[u8]) -> u32 {
        let key = self.keys.insert(Key { name: name.into(), first: NOBODY, last: NOBODY });
        let (keys, hasher) = (&self.keys, &self.hasher);
        self.keys_by_name.insert_unique(hasher.hash_one(name), key, |key| hasher.hash_one(&*keys[*key].name));
        key
    }

    fn remove_key(&mut self, key: u32) {
        let name = self.keys.remove(key).name;
        let hash = self.hasher.hash_one(&*name);
        if let Ok(found) = self.keys_by_name.find_entry(hash, |candidate| *candidate == key) {
            found.remove();
        }
    }

    /// Enters an eligible entry into the heap of its priority; an earlier schedule of it becomes stale.
    fn schedule(&mut self, place: u32) {
        self.next_stamp = self.next_stamp.wrapping_add(1);
        let entry = &mut self.entries[place];
        entry.stamp = self.next_stamp;
        let schedule = Schedule { due_ns: entry.due_ns, sequence: entry.sequence, entry: place, stamp: entry.stamp };
        let entries = &self.entries;
        let heap = &mut self.schedules[entry_priority(entries, place)];
        heap.push(schedule);
        if heap.len() > 2 * self.stats.entries + STALE_SCHEDULES {
            heap.retain(|schedule| is_valid(entries, schedule));
        }
    }

    fn forget_stale(&mut self, priority: usize) {
        let heap = &mut self.schedules[priority];
        while heap.peek().is_some_and(|schedule| !is_valid(&self.entries, schedule)) {
            heap.pop();
        }
    }

    fn lease(&mut self, place: u32, owner: u32, now_ns: u64) -> Lease<'_, T> {
        self.stats.leased += 1;
        self.last_lease += 1;
        let entry = &mut self.entries[place];
        (entry.lease, entry.owner) = (self.last_lease, owner);
        self.describe(&self.entries[place], now_ns)
    }

    fn describe<'a>(&'a self, entry: &'a Entry<T>, now_ns: u64) -> Lease<'a, T> {
        Lease {
            id: entry.id,
            lease: entry.is_leased().then_some(entry.lease),
            keys: self.key_names(entry).collect(),
            payload: &entry.payload,
            priority: entry.priority,
            attempts: entry.attempts,
            age_ns: now_ns.saturating_sub(entry.enqueued_ns),
            size_bytes: entry.size_bytes,
        }
    }

    fn key_names<'a>(&'a self, entry: &'a Entry<T>) -> impl Iterator<Item = &'a [u8]> {
        entry.links.as_slice().iter().map(|link| &*self.keys[self.links[*link].key].name)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the id's low half is the place")]
    fn place_of(&self, id: u64) -> Result<u32, WrongId> {
        let place = id as u32;
        let known = self.entries.get(place).is_some_and(|entry| entry.id == id);
        if known { Ok(place) } else { Err(WrongId::Unknown(id)) }
    }

    fn leased_place(&self, id: u64, lease: Option<u64>) -> Result<u32, WrongId> {
        let place = self.place_of(id)?;
        let entry = &self.entries[place];
        let fits = entry.is_leased() && lease.is_none_or(|lease| lease == entry.lease);
        if fits { Ok(place) } else { Err(WrongId::NotLeased(id)) }
    }

    /// Takes an entry out of the queue; returns its payload and what a dead letter needs beside it.
    fn remove(&mut self, place: u32) -> (T, Remains) {
        self.leave_ages(place);
        let entry = self.entries.remove(place);
        let remains = Remains {
            id: entry.id,
            priority: entry.priority,
            attempts: entry.attempts,
            size_bytes: entry.size_bytes,
            coalesce: entry.coalesce,
        };
        self.stats.entries -= 1;
        self.stats.leased -= usize::from(entry.is_leased());
        self.stats.size_bytes -= entry.size_bytes;
        for link in entry.links.as_slice() {
            self.leave_key(*link);
        }
        if self.stats.entries == 0 {
            self.shrink();
        }
        (entry.payload, remains)
    }

    fn bury(&mut self, place: u32, reason: String, now_ns: u64) {
        let keys = self.key_names(&self.entries[place]).map(Box::from).collect();
        let (payload, Remains { id, priority, attempts, size_bytes, coalesce }) = self.remove(place);
        let died_ns = now_ns;
        let letter = DeadLetter { id, keys, payload, priority, attempts, size_bytes, died_ns, reason, coalesce };
        self.dead_letters.push_back(letter);
        self.dead_bytes += size_bytes;
        while self.dead_letters.len() > self.config.max_dead_letters as usize || self.dead_bytes > self.config.max_bytes
        {
            let Some(oldest) = self.dead_letters.pop_front() else { break };
            self.dead_bytes -= oldest.size_bytes;
            self.dropped.push(oldest.payload);
            self.stats.dead_letters_dropped += 1;
        }
    }

    /// Buries the entries that have grown too old, oldest first; leased ones are passed over.
    fn expire(&mut self, now_ns: u64) {
        let Some(max_age_ns) = self.config.max_age_ns else { return };
        let mut place = self.oldest;
        while let Some(entry) = self.entries.get(place) {
            if now_ns.saturating_sub(entry.enqueued_ns) < max_age_ns {
                return;
            }
            let newer = entry.newer;
            if !entry.is_leased() {
                self.stats.expired += 1;
                self.bury(place, "expired".to_owned(), now_ns);
            }
            place = newer;
        }
    }

    fn join_ages(&mut self, place: u32, now_ns: u64) {
        let older = std::mem::replace(&mut self.newest, place);
        if older == NOBODY {
            self.oldest = place;
        } else {
            self.entries[older].newer = place;
        }
        let entry = &mut self.entries[place];
        (entry.older, entry.newer, entry.enqueued_ns) = (older, NOBODY, now_ns);
    }

    fn leave_ages(&mut self, place: u32) {
        let Entry { older, newer, .. } = self.entries[place];
        if older == NOBODY {
            self.oldest = newer;
        } else {
            self.entries[older].newer = newer;
        }
        if newer == NOBODY {
            self.newest = older;
        } else {
            self.entries[newer].older = older;
        }
    }

    /// Gives the memory of a long outage back once the queue is empty.
    fn shrink(&mut self) {
        self.schedules.iter_mut().for_each(BinaryHeap::clear);
        if self.entries.places.len() > KEPT_CAPACITY {
            (self.entries, self.links, self.keys) = (Places::new(), Places::new(), Places::new());
            self.keys_by_name = HashTable::new();
            self.schedules = std::array::from_fn(|_| BinaryHeap::new());
        }
    }
}

struct Remains {
    id: u64,
    priority: Priority,
    attempts: u32,
    size_bytes: u64,
    coalesce: bool,
}

/// Calls are numbered without end; two that are as far apart as there are owners are not under way at once.
fn owner_of_call(call: u32) -> u32 {
    FIRST_CALL + call % (u32::MAX - FIRST_CALL)
}

fn entry_priority<T>(entries: &Places<Entry<T>>, place: u32) -> usize {
    entries[place].priority as usize
}

/// Is this the latest schedule of an entry that waits for its turn?
fn is_valid<T>(entries: &Places<Entry<T>>, schedule: &Schedule) -> bool {
    entries.get(schedule.entry).is_some_and(|entry| entry.stamp == schedule.stamp && !entry.is_leased())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> RecoveryQueue<u64> {
        RecoveryQueue::new(RecoveryConfig::new(1_000_000, 1, None, 0).expect("valid"))
    }

    /// An absolute write of a key of its own, which supersedes the one before and can do so with an earlier due time only.
    fn push(queue: &mut RecoveryQueue<u64>, key: u64, due_ns: u64) {
        let name = key.to_be_bytes();
        let new = NewEntry {
            keys: &[&name],
            payload: key,
            priority: Priority::Normal,
            due_ns,
            size_bytes: 0,
            coalesce: true,
        };
        queue.push(new, 0).expect("room");
        queue.take_dropped().clear();
    }

    #[test]
    fn stale_schedules_are_swept_out_when_they_outnumber_the_entries_by_more_than_the_bound() {
        const ENTRIES: usize = 10;
        let mut queue = queue();
        let mut due_ns = 1_000_000;
        (0..ENTRIES as u64).for_each(|key| push(&mut queue, key, due_ns));
        for stale in 1..=ENTRIES + STALE_SCHEDULES {
            due_ns -= 1;
            push(&mut queue, 0, due_ns);
            assert_eq!(queue.schedules[Priority::Normal as usize].len(), ENTRIES + stale);
        }
        push(&mut queue, 0, due_ns - 1);
        assert_eq!(queue.schedules[Priority::Normal as usize].len(), ENTRIES);
        assert_eq!(
            queue.pop_due(0, due_ns - 1).map(|lease| *lease.payload),
            Some(0),
            "the schedule that is valid was kept"
        );
        assert!(queue.pop_due(0, due_ns).is_none());
    }

    fn fill_and_empty(entries: usize) -> RecoveryQueue<u64> {
        let mut queue = queue();
        (0..entries as u64).for_each(|key| push(&mut queue, key, 0));
        push(&mut queue, 0, 0);
        while let Some(id) = queue.pop_due(0, 0).map(|lease| lease.id) {
            queue.complete(id, None).expect("leased");
        }
        queue
    }

    #[test]
    fn an_empty_queue_gives_its_memory_back_if_it_had_grown_beyond_what_it_keeps() {
        let kept = fill_and_empty(KEPT_CAPACITY);
        assert_eq!(kept.entries.places.len(), KEPT_CAPACITY);
        assert!(kept.keys_by_name.capacity() >= KEPT_CAPACITY);
        let grown = fill_and_empty(KEPT_CAPACITY + 1);
        assert_eq!((grown.entries.places.capacity(), grown.links.places.capacity()), (0, 0));
        assert_eq!((grown.keys.places.capacity(), grown.keys_by_name.capacity()), (0, 0));
        assert!(grown.schedules.iter().all(|heap| heap.capacity() == 0));
    }

    #[test]
    fn an_empty_queue_keeps_no_schedules() {
        let mut queue = queue();
        push(&mut queue, 1, 9);
        push(&mut queue, 1, 8);
        queue.cancel_superseded(&1_u64.to_be_bytes());
        assert!(queue.schedules.iter().all(BinaryHeap::is_empty));
    }
}
