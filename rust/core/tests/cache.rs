//! The cache's store against a model, and what its eviction is worth.

use std::collections::{BTreeMap, HashMap};

use agent_memory_core::cache::machine::{Begun, Expiry, Lookup, Machine, Settings};
use agent_memory_core::cache::store::{Found, LARGEST_PART, MAX_VARIANTS, Store};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, variant: u8, bytes: usize },
    Get { key: u8, variant: u8 },
    Remove { key: u8 },
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40_u8, 0..4_u8, 0..300_usize).prop_map(|(key, variant, bytes)| Step::Put { key, variant, bytes }),
        6 => (0..40_u8, 0..4_u8).prop_map(|(key, variant)| Step::Get { key, variant }),
        3 => (0..40_u8).prop_map(|key| Step::Remove { key }),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    /// What is found is what was put last; what was removed is not found; the bytes are those of the entries, within the bound.
    #[test]
    fn the_store_is_a_bounded_map(steps in prop::collection::vec(step(), 1..400), max_bytes in 2_000_usize..60_000) {
        let mut store = Store::new(max_bytes, 7);
        let mut model: BTreeMap<(u8, u8), (usize, usize)> = BTreeMap::new();
        let mut dropped = 0;
        let mut put = 0;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put { key, variant, bytes } => {
                    put += 1;
                    let is_kept = store.put(&[key], &[variant], number, bytes, 0, u32::MAX);
                    let cost = Store::<usize>::cost(&[key], &[variant], bytes);
                    prop_assert_eq!(is_kept, cost <= max_bytes / LARGEST_PART);
                    model.remove(&(key, variant));
                    if is_kept {
                        model.insert((key, variant), (number, cost));
                    }
                }
                Step::Get { key, variant } => match store.get(&[key], &[variant], 1, u64::MAX) {
                    Found::Entry(id, value) => {
                        prop_assert_eq!(Some(*value), model.get(&(key, variant)).map(|known| known.0));
                        prop_assert!(store.is_same(id));
                    }
                    Found::Nothing => { model.remove(&(key, variant)); }
                    Found::Expired => prop_assert!(false, "nothing expires here"),
                },
                Step::Remove { key } => {
                    store.remove_key(&[key]);
                    model.retain(|known, _| known.0 != key);
                }
                Step::Clear => { store.clear(); model.clear(); }
            }
            dropped += store.take_grave().len();
            // What was evicted is not known to the model.
            model.retain(|(key, variant), _| !matches!(store.get(&[*key], &[*variant], 1, u64::MAX), Found::Nothing));
            prop_assert_eq!(store.len(), model.len());
            prop_assert_eq!(store.bytes(), model.values().map(|known| known.1).sum::<usize>());
            prop_assert!(store.bytes() <= max_bytes);
            prop_assert_eq!(put, dropped + store.len());
        }
    }
}

#[test]
fn a_key_has_a_bounded_number_of_variants() {
    let mut store = Store::new(1 << 20, 7);
    for variant in 0..=MAX_VARIANTS {
        let is_kept = store.put(b"k", &variant.to_le_bytes(), variant, 1, 0, 1_000);
        assert_eq!(is_kept, variant < MAX_VARIANTS);
    }
    assert_eq!(store.remove_key(b"k"), MAX_VARIANTS);
    assert!(store.is_empty());
}

#[test]
fn an_entry_is_not_the_same_when_it_was_replaced() {
    let mut store = Store::new(1 << 20, 7);
    store.put(b"k", b"", 1, 1, 0, 1_000);
    let Found::Entry(id, _) = store.get(b"k", b"", 1, S) else { panic!("it is there") };
    assert!(store.is_same(id));
    store.put(b"k", b"", 2, 1, 0, 1_000);
    assert!(!store.is_same(id));
}

fn machine() -> Machine<u32, ()> {
    let mut machine = Machine::new(Settings { max_bytes: 1 << 20, max_staleness_ns: S, ttl_ns: 60 * S, seed: 7 });
    machine.connected();
    machine
}

fn fetch(machine: &mut Machine<u32, ()>, value: u32, now_ns: u64, expiry: Expiry) -> bool {
    let Some(Begun::Leads(id)) = machine.begin(b"k", b"", now_ns, 60 * S, None) else { return false };
    let is_kept = machine.land(id, value, 8, value == 0, expiry);
    machine.proved(now_ns);
    is_kept
}

fn hit(machine: &mut Machine<u32, ()>, now_ns: u64, max_age_ns: u64) -> Option<u32> {
    match machine.lookup(b"k", b"", now_ns, max_age_ns) {
        Lookup::Hit(_, value) => Some(*value),
        Lookup::Miss => None,
    }
}

#[test]
fn an_entry_ends_with_the_lease_and_comes_back_with_it() {
    let mut machine = machine();
    fetch(&mut machine, 5, 10 * S, Expiry::Never);
    assert_eq!(hit(&mut machine, 11 * S, 60 * S), Some(5));
    assert_eq!(hit(&mut machine, 11 * S + 1, 60 * S), None);
    machine.proved(11 * S);
    assert_eq!(hit(&mut machine, 12 * S, 60 * S), Some(5));
    assert_eq!(machine.counts().lease_refusals, 1);
}

#[test]
fn an_entry_ends_with_its_key_and_with_the_age_that_is_asked_for() {
    let mut machine = machine();
    assert!(fetch(&mut machine, 5, 10 * S, Expiry::InMs(500)));
    assert_eq!(hit(&mut machine, 10 * S + 499 * MS, 60 * S), Some(5));
    assert_eq!(hit(&mut machine, 10 * S + 400 * MS, 300 * MS), None);
    assert_eq!(hit(&mut machine, 10 * S + 500 * MS, 60 * S), None);
}

#[test]
fn a_value_of_a_key_that_has_gone_is_not_kept_but_its_absence_is() {
    let mut machine = machine();
    assert!(!fetch(&mut machine, 5, 10 * S, Expiry::Gone));
    assert!(fetch(&mut machine, 0, 10 * S, Expiry::Gone));
    assert_eq!(hit(&mut machine, 10 * S, 60 * S), Some(0));
}

#[test]
fn nothing_is_served_or_begun_without_a_connection() {
    let mut machine = machine();
    fetch(&mut machine, 5, 10 * S, Expiry::Never);
    machine.disconnected();
    assert_eq!(hit(&mut machine, 10 * S, 60 * S), None);
    assert_eq!(machine.begin(b"k", b"", 10 * S, S, Some(())), None);
    assert_eq!(machine.peek(b"k", b"", 10 * S, true), Some(&5));
    machine.connected();
    assert_eq!(machine.peek(b"k", b"", 10 * S, true), None);
}

#[test]
fn others_join_a_flight_until_it_is_killed() {
    let mut machine = machine();
    let Some(Begun::Leads(first)) = machine.begin(b"k", b"", S, S, Some(())) else { panic!("it leads") };
    assert_eq!(machine.begin(b"k", b"", S, S, Some(())), Some(Begun::Joins(())));
    machine.invalidated(b"k");
    let Some(Begun::Leads(second)) = machine.begin(b"k", b"", S, S, Some(())) else { panic!("it leads") };
    assert!(!machine.land(first, 1, 8, false, Expiry::Never));
    assert!(machine.land(second, 2, 8, false, Expiry::Never));
    machine.proved(S);
    assert_eq!(hit(&mut machine, S, S), Some(2));
}

// --- eviction -------------------------------------------------------------------------------------------------------

struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Requests of a Zipf distribution over so many keys.
fn zipf(keys: usize, exponent: f64, count: usize) -> Vec<u32> {
    let mut sums = Vec::with_capacity(keys);
    let mut sum = 0.0;
    for rank in 1..=keys {
        sum += (rank as f64).powf(-exponent);
        sums.push(sum);
    }
    let mut random = Random(0x5EED_5EED_5EED);
    let draw = |random: &mut Random| sums.partition_point(|upto| *upto < random.next() * sum).min(keys - 1);
    (0..count).map(|_| u32::try_from(draw(&mut random)).unwrap()).collect()
}

fn ratio_of_store(requests: &[u32], entries: usize) -> f64 {
    let cost = Store::<u32>::cost(&[0; 4], b"", 64);
    let mut store = Store::new(cost * entries, 7);
    let mut hits = 0;
    for request in requests {
        match store.get(&request.to_le_bytes(), b"", 1, u64::MAX) {
            Found::Entry(..) => hits += 1,
            _ => drop(store.put(&request.to_le_bytes(), b"", 0, 64, 0, u32::MAX)),
        }
        drop(store.take_grave());
    }
    f64::from(hits) / requests.len() as f64
}

fn ratio_of_lru(requests: &[u32], entries: usize) -> f64 {
    let (mut used, mut order, mut hits) = (HashMap::new(), BTreeMap::new(), 0);
    for (now, request) in requests.iter().enumerate() {
        if let Some(before) = used.insert(*request, now) {
            hits += 1;
            order.remove(&before);
        }
        order.insert(now, *request);
        if used.len() > entries {
            let (_, oldest) = order.pop_first().unwrap();
            used.remove(&oldest);
        }
    }
    f64::from(hits) / requests.len() as f64
}

#[test]
fn eviction_keeps_what_is_asked_for_often() {
    let keys = 50_000;
    let requests = zipf(keys, 0.9, 1_000_000);
    for (percent, points) in [(1, 8.0), (5, 7.0)] {
        let entries = keys * percent / 100;
        let (ours, lru) = (100.0 * ratio_of_store(&requests, entries), 100.0 * ratio_of_lru(&requests, entries));
        println!("zipf 0.9, {percent} % of the keys: {ours:.1} % hits, LRU {lru:.1} %");
        assert!(ours >= lru + points, "{percent} %: {ours:.1} against {lru:.1}");
    }
}

#[test]
fn a_working_set_that_drifts_costs_little() {
    // A window of the keys moves on all the time: the best case for LRU.
    let (keys, window) = (40_000_u32, 4_000.0);
    let mut random = Random(0xD81F_7D81);
    let requests: Vec<u32> = (0..300_000_u32)
        .map(|number| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the window")]
            let within = (random.next() * random.next() * window) as u32;
            (number / 50 + within) % keys
        })
        .collect();
    for entries in [800, 2_000] {
        let (ours, lru) = (100.0 * ratio_of_store(&requests, entries), 100.0 * ratio_of_lru(&requests, entries));
        println!("drift, {entries} entries: {ours:.1} % hits, LRU {lru:.1} %");
        assert!(ours >= lru - 3.5, "{entries}: {ours:.1} against {lru:.1}");
    }
}
