//! What a full recovery queue takes, measured by counting allocations.
#![expect(unsafe_code, reason = "an allocator is unsafe by its interface")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use agent_memory_core::recovery::{NewEntry, Priority, RecoveryConfig, RecoveryQueue};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ENTRIES: usize = 1_000_000;
/// Beside the payload, which for a client is a reference of eight bytes here.
const MAX_BYTES_AN_ENTRY: usize = 300;

#[test]
fn a_million_entries_with_keys_of_their_own_take_less_than_300_mb_and_give_it_back() {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let config = RecoveryConfig::new(i64::try_from(ENTRIES).unwrap(), 1 << 40, None, 10).expect("valid");
    let mut queue = RecoveryQueue::new(config);
    for payload in 0..ENTRIES as u64 {
        let key = format!("agent:{payload:014}");
        let priority = Priority::try_from(u8::try_from(payload % 4).unwrap()).unwrap();
        let new =
            NewEntry { keys: &[key.as_bytes()], payload, priority, due_ns: payload, size_bytes: 100, coalesce: true };
        queue.push(new, 0).expect("room");
    }
    let full = ALLOCATED.load(Ordering::Relaxed) - before;
    assert!(full < ENTRIES * MAX_BYTES_AN_ENTRY, "{full} bytes");
    let peak = PEAK.load(Ordering::Relaxed) - before;
    assert!(peak < 2 * ENTRIES * MAX_BYTES_AN_ENTRY, "{peak} bytes at the peak");
    let mut served = 0;
    while let Some(lease) = queue.pop_due(0, u64::MAX) {
        let id = lease.id;
        queue.complete(id, None).expect("leased");
        served += 1;
    }
    assert_eq!(served, ENTRIES);
    let empty = ALLOCATED.load(Ordering::Relaxed) - before;
    assert!(empty < 1_000_000, "{empty} bytes are kept by an empty queue");
    println!("{} bytes an entry, {} at the peak", full / ENTRIES, peak / ENTRIES);
}
