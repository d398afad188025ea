//! The recovery queue against a model that keeps everything in one list and searches it.

use agent_memory_core::recovery::{
    DEFAULT_MAX_BYTES, DEFAULT_MAX_DEAD_LETTERS, DEFAULT_MAX_ENTRIES, NewEntry, NotRevived, Priority, QueueFull,
    RecoveryConfig, RecoveryQueue, RecoveryStats, WrongId,
};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const MAX_BYTES: u64 = 300;
const WORKERS: u16 = 3;
const CALLS: u32 = 3;
const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
const PRIORITIES: [Priority; 4] = [Priority::Critical, Priority::High, Priority::Normal, Priority::Low];

fn queue(max_entries: i64) -> RecoveryQueue<u64> {
    RecoveryQueue::new(RecoveryConfig::new(max_entries, 1_000_000, None, 10).expect("valid"))
}

fn entry<'a>(keys: &'a [&'a [u8]], payload: u64) -> NewEntry<'a, u64> {
    NewEntry { keys, payload, priority: Priority::Normal, due_ns: 0, size_bytes: 1, coalesce: false }
}

fn pop(queue: &mut RecoveryQueue<u64>, now_ns: u64) -> Option<(u64, u64)> {
    queue.pop_due(0, now_ns).map(|lease| (lease.id, *lease.payload))
}

#[test]
fn a_key_is_served_in_order_whatever_the_priorities() {
    let mut queue = queue(10);
    queue.push(NewEntry { priority: Priority::Low, ..entry(&[b"k"], 1) }, 0).unwrap();
    queue.push(NewEntry { priority: Priority::Critical, ..entry(&[b"k"], 2) }, 0).unwrap();
    queue.push(NewEntry { priority: Priority::High, ..entry(&[b"other"], 3) }, 0).unwrap();
    assert_eq!(pop(&mut queue, 0).unwrap().1, 3);
    let (first, payload) = pop(&mut queue, 0).unwrap();
    assert_eq!(payload, 1);
    assert_eq!(pop(&mut queue, 0), None, "a lease blocks its key");
    assert_eq!(queue.next_due_ns(), None);
    queue.retry(first, None, 5).unwrap();
    assert_eq!((pop(&mut queue, 4), queue.next_due_ns()), (None, Some(5)));
    let (first, payload) = pop(&mut queue, 5).unwrap();
    assert_eq!(payload, 1, "a retried entry keeps its place");
    queue.complete(first, None).unwrap();
    assert_eq!(pop(&mut queue, 5).unwrap().1, 2);
}

#[test]
fn an_entry_of_several_keys_waits_for_all_of_them_and_holds_all_of_them() {
    let mut queue = queue(10);
    let ids: Vec<u64> = [&[b"a" as &[u8]] as &[&[u8]], &[b"b"], &[b"a", b"b", b"a"], &[b"b"]]
        .into_iter()
        .zip(1..)
        .map(|(keys, payload)| queue.push(entry(keys, payload), 0).unwrap())
        .collect();
    assert_eq!((pop(&mut queue, 0).unwrap().1, pop(&mut queue, 0).unwrap().1), (1, 2));
    queue.complete(ids[0], None).unwrap();
    assert_eq!(pop(&mut queue, 0), None, "b is still leased");
    queue.complete(ids[1], None).unwrap();
    let lease = queue.pop_due(0, 0).unwrap();
    assert_eq!((lease.keys.clone(), *lease.payload), (vec![b"a" as &[u8], b"b"], 3));
    assert_eq!(pop(&mut queue, 0), None);
    queue.complete(ids[2], None).unwrap();
    assert_eq!(pop(&mut queue, 0).unwrap().1, 4);
}

#[test]
fn an_absolute_write_takes_the_place_of_an_older_one() {
    let mut queue = queue(1);
    let set = |payload, priority, due_ns| NewEntry { priority, due_ns, coalesce: true, ..entry(&[b"k"], payload) };
    let first = queue.push(set(1, Priority::Low, 9), 0).unwrap();
    assert_eq!(queue.push(set(2, Priority::High, 20), 1), Ok(first), "it needs no room of its own");
    assert_eq!(queue.take_dropped(), [1]);
    let lease = queue.pop_due(0, 9).unwrap();
    assert_eq!((lease.id, *lease.payload, lease.priority, lease.age_ns), (first, 2, Priority::High, 8));
    assert_eq!(
        queue.push(set(3, Priority::Low, 0), 9),
        Err(QueueFull::Entries(1)),
        "a leased entry may be on its way and cannot be replaced"
    );
}

#[test]
fn relative_writes_never_coalesce_and_stand_in_the_way() {
    let mut queue = queue(10);
    let set = |payload| NewEntry { coalesce: true, ..entry(&[b"k"], payload) };
    queue.push(set(1), 0).unwrap();
    queue.push(entry(&[b"k"], 2), 0).unwrap();
    queue.push(set(3), 0).unwrap();
    queue.push(set(4), 0).unwrap();
    let mut served = Vec::new();
    while let Some((id, payload)) = pop(&mut queue, 0) {
        served.push(payload);
        queue.complete(id, None).unwrap();
    }
    assert_eq!(served, [1, 2, 4]);
}

#[test]
fn a_newer_successful_write_cancels_the_queued_absolute_ones() {
    let mut queue = queue(10);
    let set = |payload| NewEntry { coalesce: true, ..entry(&[b"k"], payload) };
    queue.push(set(1), 0).unwrap();
    let leased = queue.pop_due(0, 0).unwrap().id;
    queue.push(entry(&[b"k"], 2), 0).unwrap();
    queue.push(set(3), 0).unwrap();
    queue.push(NewEntry { coalesce: true, ..entry(&[b"k", b"l"], 4) }, 0).unwrap();
    assert_eq!(queue.cancel_superseded(b"k"), 1);
    assert_eq!(queue.take_dropped(), [3]);
    queue.complete(leased, None).unwrap();
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.cancel_superseded(b"unknown"), 0);
}

#[test]
fn bounds_refuse_by_name_and_leave_the_queue_as_it_was() {
    let mut queue = RecoveryQueue::new(RecoveryConfig::new(2, 100, None, 10).expect("valid"));
    queue.push(NewEntry { size_bytes: 60, ..entry(&[b"a"], 1) }, 0).unwrap();
    let full = queue.push(NewEntry { size_bytes: 41, ..entry(&[b"b"], 2) }, 0).unwrap_err();
    assert_eq!(full.to_string(), "the entry would exceed max_bytes (100) of the recovery queue");
    queue.push(NewEntry { size_bytes: 40, ..entry(&[b"b"], 3) }, 0).unwrap();
    let full = queue.push(NewEntry { size_bytes: 0, ..entry(&[b"c"], 4) }, 0).unwrap_err();
    assert_eq!(full.to_string(), "the recovery queue holds max_entries (2) entries");
    assert_eq!((queue.len(), queue.size_bytes(), queue.stats(0).refused), (2, 100, 2));
    assert_eq!(queue.take_dropped(), [2, 4]);
    assert!(!queue.is_key_queued(b"c"));
}

#[test]
fn what_is_too_old_becomes_a_dead_letter_unless_it_is_leased() {
    let config = RecoveryConfig::new(10, 1_000, Some(10.0), 10).expect("valid");
    let mut queue = RecoveryQueue::new(config);
    queue.push(entry(&[b"a"], 1), 0).unwrap();
    let leased = pop(&mut queue, 0).unwrap().0;
    queue.push(entry(&[b"a"], 2), SECOND).unwrap();
    queue.push(entry(&[b"b"], 3), 5 * SECOND).unwrap();
    assert_eq!(pop(&mut queue, 11 * SECOND).unwrap().1, 3);
    let dead: Vec<(u64, &str)> = queue.dead_letters().map(|letter| (letter.payload, letter.reason.as_str())).collect();
    assert_eq!(dead, [(2, "expired")]);
    queue.retry(leased, None, 0).unwrap();
    assert_eq!(pop(&mut queue, 11 * SECOND), None);
    assert_eq!((queue.dead_letters().count(), queue.stats(0).expired), (2, 2));
}

#[test]
fn dead_letters_are_bounded_in_number_and_bytes_and_can_be_retried() {
    let mut queue = RecoveryQueue::new(RecoveryConfig::new(2, 100, None, 3).expect("valid"));
    for payload in 0..5 {
        let id = queue.push(entry(&[b"k"], payload), 0).unwrap();
        queue.discard(id, format!("reason {payload}"), 7).unwrap();
    }
    assert_eq!(queue.dead_letters().map(|letter| letter.payload).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(queue.take_dropped(), [0, 1]);
    let id = queue.push(NewEntry { size_bytes: 99, ..entry(&[b"k"], 9) }, 0).unwrap();
    queue.discard(id, String::new(), 7).unwrap();
    assert_eq!(queue.dead_letters().map(|letter| letter.payload).collect::<Vec<_>>(), [4, 9]);
    let dead = queue.dead_letters().next().unwrap().id;
    let live = queue.push(entry(&[b"k"], 5), 0).unwrap();
    let revived = queue.retry_dead(dead, 0).unwrap();
    assert_ne!(revived, dead);
    assert_eq!(queue.retry_dead(dead, 0), Err(NotRevived::Unknown(WrongId::Unknown(dead))));
    let other = queue.dead_letters().next().unwrap().id;
    assert_eq!(queue.retry_dead(other, 0), Err(NotRevived::Full(QueueFull::Entries(2))));
    assert_eq!(queue.dead_letters().count(), 1, "it stays where it is");
    assert_eq!(pop(&mut queue, 0), Some((live, 5)), "a revived entry is the newest of its keys");
}

#[test]
fn ids_that_do_not_fit_are_refused() {
    let mut queue = queue(10);
    let id = queue.push(entry(&[b"k"], 1), 0).unwrap();
    assert_eq!(queue.complete(id, None), Err(WrongId::NotLeased(id)));
    assert_eq!(queue.retry(id, None, 0), Err(WrongId::NotLeased(id)));
    pop(&mut queue, 0).unwrap();
    assert_eq!(queue.complete(id, None), Ok(1));
    let reused = queue.push(entry(&[b"k"], 2), 0).unwrap();
    assert_ne!(reused, id, "the place is used again, the id is not");
    assert_eq!(queue.complete(id, None), Err(WrongId::Unknown(id)));
    assert_eq!(queue.discard(id, String::new(), 0), Err(WrongId::Unknown(id)));
}

#[test]
fn a_worker_that_starts_leaves_the_lease_of_a_plain_write_and_of_another_worker_alone() {
    let mut queue = queue(10);
    let set = |payload| NewEntry { coalesce: true, ..entry(&[b"k"], payload) };
    let superseded = queue.push(set(1), 0).unwrap();
    let call = queue.lease_superseded(b"k", 0, 0).and_then(|lease| lease.lease);
    queue.push(entry(&[b"l"], 2), 0).unwrap();
    queue.push(entry(&[b"m"], 3), 0).unwrap();
    let first = queue.pop_due(1, 0).map(|lease| (lease.id, lease.lease)).unwrap();
    let second = queue.pop_due(2, 0).map(|lease| (lease.id, lease.lease)).unwrap();
    assert_eq!(queue.release_leases(1), 1);
    assert_eq!(pop(&mut queue, 0), Some((first.0, 2)), "the old value of k is not sent behind the newer one");
    assert_eq!(queue.complete(first.0, first.1), Err(WrongId::NotLeased(first.0)), "that lease has ended");
    assert_eq!(queue.complete(superseded, call), Ok(1));
    assert_eq!(queue.complete(second.0, second.1), Ok(3));
}

#[test]
fn a_superseding_write_starts_with_its_own_attempts() {
    let mut queue = queue(10);
    let set = |payload| NewEntry { coalesce: true, ..entry(&[b"k"], payload) };
    let id = queue.push(set(1), 0).unwrap();
    queue.pop_due(0, 0).unwrap();
    queue.retry(id, None, 9).unwrap();
    assert_eq!(queue.entries(0).next().map(|entry| entry.attempts), Some(1));
    assert_eq!(queue.push(set(2), 0), Ok(id));
    assert_eq!(queue.pop_due(0, 0).map(|lease| lease.attempts), Some(0));
}

#[test]
fn configurations_that_make_no_sense_are_refused_by_name() {
    let refused = |entries, bytes, age, dead| RecoveryConfig::new(entries, bytes, age, dead).unwrap_err().to_string();
    assert_eq!(refused(0, 1, None, 1), "max_entries must be >= 1, got 0");
    assert_eq!(refused(1 << 31, 1, None, 1), "max_entries must be <= 1073741824, got 2147483648");
    assert_eq!(refused(1, 0, None, 1), "max_bytes must be >= 1, got 0");
    assert_eq!(refused(1, 1, Some(0.0), 1), "max_age_s must be > 0 seconds, got 0.0");
    assert_eq!(refused(1, 1, None, -1), "max_dead_letters must be >= 0, got -1");
}

#[test]
fn the_default_bounds_are_those_of_the_documentation() {
    assert_eq!((DEFAULT_MAX_ENTRIES, DEFAULT_MAX_DEAD_LETTERS), (100_000, 1_000));
    assert_eq!(DEFAULT_MAX_BYTES, 268_435_456, "256 MiB");
}

#[test]
fn ids_that_do_not_fit_are_named() {
    assert_eq!(WrongId::Unknown(7).to_string(), "no entry 7 in the recovery queue");
    assert_eq!(WrongId::NotLeased(7).to_string(), "entry 7 of the recovery queue is not leased");
}

#[test]
fn what_takes_no_bytes_finds_room_in_a_queue_that_was_restored_beyond_its_bytes() {
    let mut queue = RecoveryQueue::new(RecoveryConfig::new(10, 100, None, 10).expect("valid"));
    let set = |payload, size_bytes| NewEntry { size_bytes, coalesce: true, ..entry(&[b"k"], payload) };
    let id = queue.restore(set(1, 150), 0);
    assert_eq!(queue.push(set(2, 150), 0), Ok(id));
    assert_eq!(queue.push(set(3, 151), 0), Err(QueueFull::Bytes(100)));
    assert!(queue.push(NewEntry { size_bytes: 0, ..entry(&[b"l"], 4) }, 0).is_ok());
}

#[test]
fn every_payload_is_reachable_until_it_is_handed_back() {
    let mut queue = RecoveryQueue::new(RecoveryConfig::new(10, 100, None, 1).expect("valid"));
    assert!(queue.is_empty());
    let set = |payload| NewEntry { coalesce: true, ..entry(&[b"k"], payload) };
    let oldest = queue.push(set(1), 0).unwrap();
    queue.push(set(2), 0).unwrap();
    let given_up = queue.push(entry(&[b"l"], 3), 0).unwrap();
    queue.discard(given_up, String::new(), 0).unwrap();
    let newest = queue.push(entry(&[], 4), 0).unwrap();
    assert!(!queue.is_empty());
    let sorted = |payloads: Vec<u64>| {
        let mut payloads = payloads;
        payloads.sort_unstable();
        payloads
    };
    assert_eq!(sorted(queue.payloads().copied().collect()), [1, 2, 3, 4]);
    assert_eq!(sorted(queue.drain()), [1, 2, 3, 4]);
    assert!(queue.is_empty() && queue.payloads().next().is_none() && queue.stats(0) == RecoveryStats::default());
    let next = queue.push(entry(&[b"k"], 5), 0).unwrap();
    assert!(![oldest, given_up, newest].contains(&next), "ids are not used again");
    assert_eq!(pop(&mut queue, 0), Some((next, 5)));
}

/// One list, searched from the front.
#[derive(Default)]
struct Model {
    entries: Vec<ModelEntry>,
    dead: Vec<ModelEntry>,
    counted: RecoveryStats,
    ages: u64,
    max_entries: usize,
    max_age_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Owner {
    Worker(u16),
    Call(u32),
}

#[derive(Clone, Debug)]
struct ModelEntry {
    payload: u64,
    keys: Vec<usize>,
    priority: Priority,
    due_ns: u64,
    enqueued_ns: u64,
    /// Rises with each entry and each superseding: the order of age when the clock stands still.
    age: u64,
    size_bytes: u64,
    coalesce: bool,
    /// The number of its lease and the owner.
    lease: Option<(u64, Owner)>,
    attempts: u32,
    id: u64,
}

impl Model {
    /// What the holder of a lease finds: the entry, or why there is no such lease.
    fn leased(&self, (id, lease): (u64, u64)) -> Result<usize, WrongId> {
        let index = self.entries.iter().position(|entry| entry.id == id).ok_or(WrongId::Unknown(id))?;
        let fits = self.entries[index].lease.is_some_and(|(number, _)| number == lease);
        if fits { Ok(index) } else { Err(WrongId::NotLeased(id)) }
    }

    fn expire(&mut self, now_ns: u64) {
        // Oldest first, which after superseding is not the order of the list.
        let mut old: Vec<ModelEntry> = self.entries.clone();
        old.retain(|entry| entry.lease.is_none() && now_ns.saturating_sub(entry.enqueued_ns) >= self.max_age_ns);
        old.sort_by_key(|entry| entry.age);
        for entry in old {
            self.entries.retain(|kept| kept.id != entry.id);
            self.counted.expired += 1;
            self.bury(entry);
        }
    }

    fn bury(&mut self, entry: ModelEntry) {
        self.dead.push(entry);
        while self.dead.iter().map(|letter| letter.size_bytes).sum::<u64>() > MAX_BYTES {
            self.dead.remove(0);
            self.counted.dead_letters_dropped += 1;
        }
    }

    fn next_age(&mut self) -> u64 {
        self.ages += 1;
        self.ages
    }

    fn eligible(&self) -> impl Iterator<Item = usize> + '_ {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let overtakes =
                self.entries[..index].iter().any(|before| before.keys.iter().any(|key| entry.keys.contains(key)));
            (entry.lease.is_none() && !overtakes).then_some(index)
        })
    }

    fn next(&self, now_ns: u64) -> Option<usize> {
        self.eligible()
            .filter(|index| self.entries[*index].due_ns <= now_ns)
            .min_by_key(|index| (self.entries[*index].priority, self.entries[*index].due_ns, *index))
    }

    fn superseded_by(&self, keys: &[usize], coalesce: bool) -> Option<usize> {
        let last = self.entries.iter().rposition(|entry| keys.len() == 1 && entry.keys.contains(&keys[0]))?;
        let entry = &self.entries[last];
        (coalesce && entry.coalesce && entry.keys.len() == 1 && entry.lease.is_none()).then_some(last)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Advance(u64),
    Push { keys: Vec<usize>, priority: usize, due_in: u64, size_bytes: u64, coalesce: bool, restored: bool },
    Pop(u16),
    LeaseSuperseded(usize, u32),
    ReleaseCall(u32),
    ReleaseOne(prop::sample::Index),
    Complete(prop::sample::Index),
    Retry(prop::sample::Index, u64),
    Discard(prop::sample::Index),
    Cancel(usize),
    RetryDead(prop::sample::Index),
    Release(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = prop_oneof![
        6 => (0..KEYS.len()).prop_map(|key| vec![key]),
        3 => prop::collection::vec(0..KEYS.len(), 0..4),
    ];
    let push = (keys, 0usize..4, prop_oneof![Just(0u64), 0u64..20], 0u64..30, any::<bool>(), prop::bool::weighted(0.1))
        .prop_map(|(keys, priority, due_in, size_bytes, coalesce, restored)| Step::Push {
            keys,
            priority,
            due_in,
            size_bytes,
            coalesce,
            restored,
        });
    let index = || any::<prop::sample::Index>();
    let step = prop_oneof![
        3 => (0u64..12).prop_map(Step::Advance),
        10 => push,
        8 => (0..WORKERS).prop_map(Step::Pop),
        3 => (0..KEYS.len(), 0..CALLS).prop_map(|(key, call)| Step::LeaseSuperseded(key, call)),
        1 => (0..CALLS).prop_map(Step::ReleaseCall),
        2 => index().prop_map(Step::ReleaseOne),
        5 => index().prop_map(Step::Complete),
        3 => (index(), 0u64..20).prop_map(|(lease, delay)| Step::Retry(lease, delay)),
        2 => index().prop_map(Step::Discard),
        1 => (0..KEYS.len()).prop_map(Step::Cancel),
        1 => index().prop_map(Step::RetryDead),
        2 => (0..WORKERS).prop_map(Step::Release),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn it_behaves_like_the_model(steps in steps(), max_entries in 1usize..25, max_age_s in 5u64..200) {
        let config = RecoveryConfig::new(i64::try_from(max_entries).unwrap(), 300, Some(max_age_s as f64), 1_000);
        let mut queue = RecoveryQueue::new(config.expect("valid"));
        let mut model = Model { max_entries, max_age_ns: max_age_s * SECOND, ..Model::default() };
        let (mut now_ns, mut payload) = (0, 0);
        // Every lease that was ever taken, also those that have ended: their holders do not know.
        let mut held: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Advance(seconds) => now_ns += seconds * SECOND,
                Step::Push { mut keys, priority, due_in, size_bytes, coalesce, restored } => {
                    payload += 1;
                    let names: Vec<&[u8]> = keys.iter().map(|key| KEYS[*key].as_bytes()).collect();
                    let (priority, due_ns) = (PRIORITIES[priority], now_ns + due_in * SECOND);
                    let new = NewEntry { keys: &names, payload, priority, due_ns, size_bytes, coalesce };
                    if !restored {
                        model.expire(now_ns);
                    }
                    let superseded = model.superseded_by(&keys, coalesce);
                    let replaced = superseded.map_or(0, |index| model.entries[index].size_bytes);
                    let bytes = model.entries.iter().map(|entry| entry.size_bytes).sum::<u64>();
                    let grows = size_bytes.saturating_sub(replaced);
                    let room = (superseded.is_some() || model.entries.len() < model.max_entries)
                        && (grows == 0 || bytes + grows <= MAX_BYTES);
                    let pushed = if restored { Ok(queue.restore(new, now_ns)) } else { queue.push(new, now_ns) };
                    prop_assert_eq!(pushed.is_ok(), room || restored);
                    let Ok(id) = pushed else {
                        model.counted.refused += 1;
                        continue;
                    };
                    model.counted.pushed += 1;
                    model.counted.superseded += u64::from(superseded.is_some());
                    let age = model.next_age();
                    if let Some(index) = superseded {
                        let entry = &mut model.entries[index];
                        prop_assert_eq!(id, entry.id);
                        (entry.payload, entry.size_bytes) = (payload, size_bytes);
                        (entry.enqueued_ns, entry.age, entry.attempts) = (now_ns, age, 0);
                        (entry.priority, entry.due_ns) = (entry.priority.min(priority), entry.due_ns.min(due_ns));
                    } else {
                        keys.dedup();
                        keys.sort_unstable();
                        keys.dedup();
                        let enqueued_ns = now_ns;
                        let (lease, attempts) = (None, 0);
                        model.entries.push(ModelEntry {
                            payload, keys, priority, due_ns, enqueued_ns, age, size_bytes, coalesce, lease, attempts, id,
                        });
                    }
                }
                Step::Pop(worker) => {
                    model.expire(now_ns);
                    let expected = model.next(now_ns);
                    let popped = queue.pop_due(worker, now_ns);
                    let seen = popped.as_ref().map(|lease| (lease.id, *lease.payload, lease.attempts));
                    let number = popped.and_then(|lease| lease.lease);
                    let wanted = expected.map(|index| &model.entries[index]);
                    prop_assert_eq!(seen, wanted.map(|entry| (entry.id, entry.payload, entry.attempts)));
                    if let Some(index) = expected {
                        take(&mut model.entries[index], number, Owner::Worker(worker), &mut held)?;
                    }
                }
                Step::LeaseSuperseded(key, call) => {
                    let mine = || model.entries.iter().enumerate().filter(|(_, entry)| entry.keys.contains(&key));
                    let alone = mine().next().filter(|(_, entry)| {
                        mine().count() == 1 && entry.keys.len() == 1 && entry.coalesce && entry.lease.is_none()
                    });
                    let expected = alone.map(|(index, entry)| (index, entry.id));
                    let leased = queue.lease_superseded(KEYS[key].as_bytes(), call, now_ns).map(|lease| (lease.id, lease.lease));
                    prop_assert_eq!(leased.map(|(id, _)| id), expected.map(|(_, id)| id));
                    if let Some((index, _)) = expected {
                        let number = leased.and_then(|(_, number)| number);
                        take(&mut model.entries[index], number, Owner::Call(call), &mut held)?;
                    }
                }
                Step::ReleaseOne(index) => {
                    if held.is_empty() {
                        continue;
                    }
                    let (id, lease) = *index.get(&held);
                    let expected = model.leased((id, lease));
                    prop_assert_eq!(queue.release(id, Some(lease)), expected.map(|_| ()));
                    if let Ok(index) = expected {
                        model.entries[index].lease = None;
                        prop_assert_eq!(queue.release(id, None), Err(WrongId::NotLeased(id)));
                    }
                }
                Step::Complete(index) => {
                    if held.is_empty() {
                        continue;
                    }
                    let (id, lease) = *index.get(&held);
                    let expected = model.leased((id, lease));
                    prop_assert_eq!(queue.complete(id, Some(lease)), expected.map(|index| model.entries[index].payload));
                    if let Ok(index) = expected {
                        model.entries.remove(index);
                        model.counted.completed += 1;
                    }
                }
                Step::Retry(index, delay) => {
                    if held.is_empty() {
                        continue;
                    }
                    let (id, lease) = *index.get(&held);
                    let (expected, due_ns) = (model.leased((id, lease)), now_ns + delay * SECOND);
                    prop_assert_eq!(queue.retry(id, Some(lease), due_ns), expected.map(|_| ()));
                    if let Ok(index) = expected {
                        let entry = &mut model.entries[index];
                        (entry.lease, entry.due_ns, entry.attempts) = (None, due_ns, entry.attempts + 1);
                        model.counted.retried += 1;
                    }
                }
                Step::Discard(index) => {
                    if model.entries.is_empty() {
                        continue;
                    }
                    let entry = model.entries.remove(index.index(model.entries.len()));
                    prop_assert_eq!(queue.discard(entry.id, "poison".to_owned(), now_ns), Ok(()));
                    model.counted.discarded += 1;
                    model.bury(entry);
                }
                Step::Cancel(key) => {
                    let before = model.entries.len();
                    model.entries.retain(|entry| !(entry.coalesce && entry.lease.is_none() && entry.keys == [key]));
                    let cancelled = queue.cancel_superseded(KEYS[key].as_bytes());
                    prop_assert_eq!(cancelled, before - model.entries.len());
                    model.counted.superseded += cancelled as u64;
                }
                Step::RetryDead(index) => {
                    if model.dead.is_empty() {
                        continue;
                    }
                    let id = model.dead[index.index(model.dead.len())].id;
                    model.expire(now_ns);
                    let Some(place) = model.dead.iter().position(|letter| letter.id == id) else {
                        prop_assert_eq!(queue.retry_dead(id, now_ns), Err(NotRevived::Unknown(WrongId::Unknown(id))));
                        continue;
                    };
                    let letter = model.dead[place].clone();
                    let bytes = model.entries.iter().map(|entry| entry.size_bytes).sum::<u64>();
                    let room = model.entries.len() < model.max_entries
                        && (letter.size_bytes == 0 || bytes + letter.size_bytes <= MAX_BYTES);
                    let revived = queue.retry_dead(letter.id, now_ns);
                    prop_assert_eq!(revived.is_ok(), room);
                    if let Ok(id) = revived {
                        model.counted.pushed += 1;
                        model.dead.remove(place);
                        let (age, lease, attempts) = (model.next_age(), None, 0);
                        let revived = ModelEntry { id, due_ns: now_ns, enqueued_ns: now_ns, age, lease, attempts, ..letter };
                        model.entries.push(revived);
                    }
                }
                Step::ReleaseCall(call) => {
                    let mine = |entry: &&mut ModelEntry| entry.lease.is_some_and(|(_, owner)| owner == Owner::Call(call));
                    let released = model.entries.iter_mut().filter(mine).map(|entry| entry.lease = None).count();
                    prop_assert_eq!(queue.release_call(call), released > 0);
                }
                Step::Release(worker) => {
                    let mine = |entry: &&mut ModelEntry| entry.lease.is_some_and(|(_, owner)| owner == Owner::Worker(worker));
                    let released = model.entries.iter_mut().filter(mine).map(|entry| entry.lease = None).count();
                    prop_assert_eq!(queue.release_leases(worker), released);
                }
            }
            check(&mut queue, &model, now_ns)?;
        }
    }
}

/// The queue has leased an entry: by a number that was never given before.
fn take(
    entry: &mut ModelEntry,
    number: Option<u64>,
    owner: Owner,
    held: &mut Vec<(u64, u64)>,
) -> Result<(), TestCaseError> {
    prop_assert!(number.is_some_and(|number| held.iter().all(|(_, known)| *known < number)));
    entry.lease = number.map(|number| (number, owner));
    held.extend(number.map(|number| (entry.id, number)));
    Ok(())
}

fn check(queue: &mut RecoveryQueue<u64>, model: &Model, now_ns: u64) -> Result<(), TestCaseError> {
    prop_assert_eq!(queue.len(), model.entries.len());
    prop_assert_eq!(queue.size_bytes(), model.entries.iter().map(|entry| entry.size_bytes).sum::<u64>());
    prop_assert_eq!(queue.next_due_ns(), model.eligible().map(|index| model.entries[index].due_ns).min());
    for (key, name) in KEYS.iter().enumerate() {
        let expected = model.entries.iter().any(|entry| entry.keys.contains(&key));
        prop_assert_eq!(queue.is_key_queued(name.as_bytes()), expected, "key {}", name);
    }
    let dead: Vec<u64> = queue.dead_letters().map(|letter| letter.payload).collect();
    prop_assert_eq!(dead, model.dead.iter().map(|entry| entry.payload).collect::<Vec<_>>());
    let mut by_age: Vec<&ModelEntry> = model.entries.iter().collect();
    by_age.sort_by_key(|entry| entry.age);
    let to_calls = model.entries.iter().any(|entry| matches!(entry.lease, Some((_, Owner::Call(_)))));
    prop_assert_eq!(queue.is_leased_to_calls(), to_calls);
    let listed: Vec<_> = queue.entries(now_ns).map(|entry| (entry.id, *entry.payload, entry.lease)).collect();
    let lease_of = |entry: &ModelEntry| entry.lease.map(|(number, _)| number);
    let expected: Vec<_> = by_age.iter().map(|entry| (entry.id, entry.payload, lease_of(entry))).collect();
    prop_assert_eq!(listed, expected);
    let oldest_ns = model.entries.iter().map(|entry| entry.enqueued_ns).min();
    let expected = RecoveryStats {
        entries: model.entries.len(),
        leased: model.entries.iter().filter(|entry| entry.lease.is_some()).count(),
        keys: (0..KEYS.len()).filter(|key| model.entries.iter().any(|entry| entry.keys.contains(key))).count(),
        size_bytes: model.entries.iter().map(|entry| entry.size_bytes).sum(),
        dead_letters: model.dead.len(),
        oldest_age_ns: oldest_ns.map_or(0, |enqueued_ns| now_ns - enqueued_ns),
        ..model.counted
    };
    prop_assert_eq!(queue.stats(now_ns), expected);
    let _ = queue.take_dropped();
    Ok(())
}

/// `PROPTEST_CASES` searches longer.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000)
}
