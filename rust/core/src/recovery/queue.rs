//! The queue: what its parts are asked for, and in which order.

use super::ages::Ages;
use super::bounds::{QueueFull, RecoveryConfig};
use super::dead_letters::{DeadLetter, DeadLetters, NotRevived};
use super::entry::{Entry, Lease, Links, NOT_LEASED, NewEntry, Priority, WrongId};
use super::keys::KeyOrder;
use super::places::{NO_PLACE, Places};
use super::schedules::Schedules;
use super::stats::RecoveryStats;

/// An empty queue gives its memory back if it had grown beyond this many entries.
const KEPT_CAPACITY: usize = 4_096;
/// Owners from here on are calls; below are workers.
const FIRST_CALL: u32 = 1 << 16;

/// The queue; see the module's text.
pub struct RecoveryQueue<T> {
    config: RecoveryConfig,
    entries: Places<Entry<T>>,
    keys: KeyOrder,
    schedules: Schedules,
    ages: Ages,
    dead_letters: DeadLetters<T>,
    next_sequence: u64,
    last_lease: u64,
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
            keys: KeyOrder::new(),
            schedules: Schedules::new(),
            ages: Ages::new(),
            dead_letters: DeadLetters::new(),
            next_sequence: 0,
            last_lease: NOT_LEASED,
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
        let place = self.schedules.pop_due(&self.entries, now_ns)?;
        Some(self.lease(place, u32::from(worker), now_ns))
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
        let mut link = self.keys.first_link(key);
        while link != NO_PLACE {
            let place;
            (place, link) = self.keys.follow(link);
            if self.entries[place].may_be_superseded() {
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
        let place = self.keys.only(key)?;
        self.entries[place].may_be_superseded().then(|| self.lease(place, owner_of_call(call), now_ns))
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
        self.stats.leased > 0 && self.entries.iter().any(|(_, entry)| entry.is_leased() && entry.owner >= FIRST_CALL)
    }

    fn release_leases_of(&mut self, owner: u32) -> usize {
        if self.stats.leased == 0 {
            return 0;
        }
        let leased: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_leased() && entry.owner == owner)
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
        self.schedules.next_due_ns(&self.entries)
    }

    /// Does an entry, queued or leased, write `key`?
    #[must_use]
    pub fn is_key_queued(&self, key: &[u8]) -> bool {
        self.keys.contains(key)
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
        let oldest_age_ns =
            self.entries.get(self.ages.oldest()).map_or(0, |entry| now_ns.saturating_sub(entry.enqueued_ns));
        let keys = self.keys.len();
        RecoveryStats { keys, dead_letters: self.dead_letters.len(), oldest_age_ns, ..self.stats }
    }

    /// The entries, oldest first.
    pub fn entries(&self, now_ns: u64) -> impl Iterator<Item = Lease<'_, T>> {
        let mut place = self.ages.oldest();
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
        let (index, letter) = self.dead_letters.find(id).ok_or(unknown)?;
        let size_bytes = letter.size_bytes;
        self.check_bounds(1, size_bytes).map_err(NotRevived::Full)?;
        let letter = self.dead_letters.remove(index).ok_or(unknown)?;
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
        let queued = self.entries.iter().map(|(_, entry)| &entry.payload);
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
        let queued = old.entries.into_values().map(|entry| entry.payload);
        queued.chain(old.dead_letters.into_payloads()).chain(old.dropped).collect()
    }

    fn check_room(&self, new: &NewEntry<'_, T>, superseded: Option<u32>) -> Result<(), QueueFull> {
        let (entries, replaced_bytes) = superseded.map_or((1, 0), |place| (0, self.entries[place].size_bytes));
        self.check_bounds(entries, new.size_bytes.saturating_sub(replaced_bytes))
    }

    fn check_bounds(&self, entries: usize, size_bytes: u64) -> Result<(), QueueFull> {
        self.config.check((self.stats.entries, entries), (self.stats.size_bytes, size_bytes))
    }

    /// The entry that an absolute write of `keys` makes needless.
    fn superseded_by(&self, keys: &[&[u8]]) -> Option<u32> {
        let [key] = keys else { return None };
        let place = self.keys.last(key)?;
        self.entries[place].may_be_superseded().then_some(place)
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
        self.ages.leave(&mut self.entries, place);
        self.ages.join(&mut self.entries, place, now_ns);
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
            older: NO_PLACE,
            newer: NO_PLACE,
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
        self.ages.join(&mut self.entries, place, now_ns);
        if self.entries[place].behind == 0 {
            self.schedule(place);
        }
        id
    }

    /// Puts an entry at the end of a key's queue; `None` when it is there already.
    fn join_key(&mut self, name: &[u8], entry: u32) -> Option<u32> {
        let joined = self.keys.join(name, entry)?;
        self.entries[entry].behind += u32::from(joined.is_behind);
        Some(joined.link)
    }

    /// Takes a link out of its key's queue; the entry after it may become eligible by that.
    fn leave_key(&mut self, link: u32) {
        if let Some(successor) = self.keys.leave(link) {
            self.entries[successor].behind -= 1;
            if self.entries[successor].behind == 0 {
                self.schedule(successor);
            }
        }
    }

    fn schedule(&mut self, place: u32) {
        self.schedules.insert(&mut self.entries, place, self.stats.entries);
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
        entry.links.as_slice().iter().map(|link| self.keys.name(*link))
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
        self.ages.leave(&mut self.entries, place);
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
        self.dead_letters.push(letter, &self.config, |dropped| {
            self.dropped.push(dropped);
            self.stats.dead_letters_dropped += 1;
        });
    }

    /// Buries the entries that have grown too old, oldest first; leased ones are passed over.
    fn expire(&mut self, now_ns: u64) {
        let Some(max_age_ns) = self.config.max_age_ns else { return };
        let mut place = self.ages.oldest();
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

    /// Gives the memory of a long outage back once the queue is empty.
    fn shrink(&mut self) {
        self.schedules.clear();
        if self.entries.len() > KEPT_CAPACITY {
            self.entries = Places::new();
            self.keys.shrink();
            self.schedules.shrink();
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

#[cfg(test)]
mod tests {
    use super::super::schedules::STALE_SCHEDULES;
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
            assert_eq!(queue.schedules.len(Priority::Normal), ENTRIES + stale);
        }
        push(&mut queue, 0, due_ns - 1);
        assert_eq!(queue.schedules.len(Priority::Normal), ENTRIES);
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
        assert_eq!(kept.entries.len(), KEPT_CAPACITY);
        assert!(kept.keys.capacities().2 >= KEPT_CAPACITY);
        let grown = fill_and_empty(KEPT_CAPACITY + 1);
        assert_eq!((grown.entries.capacity(), grown.keys.capacities()), (0, (0, 0, 0)));
        assert_eq!(grown.schedules.capacity(), 0);
    }

    #[test]
    fn an_empty_queue_keeps_no_schedules() {
        let mut queue = queue();
        push(&mut queue, 1, 9);
        push(&mut queue, 1, 8);
        queue.cancel_superseded(&1_u64.to_be_bytes());
        assert_eq!(queue.schedules.len(Priority::Normal), 0);
    }
}
