//! Priorities and due times: a heap for each priority, of the entries that are eligible.
//!
//! An entry that is scheduled anew leaves its old schedule in the heap. The stamp tells the valid one; stale ones are skipped,
//! and swept out when there are too many.

use std::collections::BinaryHeap;

use super::entry::Entry;
use super::places::Places;

/// Stale schedules are swept out when a heap holds more than two for each entry and this many.
pub(super) const STALE_SCHEDULES: usize = 1_024;
const PRIORITIES: usize = 4;

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

/// The heaps.
pub(super) struct Schedules {
    heaps: [BinaryHeap<Schedule>; PRIORITIES],
    next_stamp: u32,
}

impl Schedules {
    pub(super) fn new() -> Self {
        Self { heaps: Self::heaps(), next_stamp: 0 }
    }

    /// Enters an eligible entry into the heap of its priority; an earlier schedule of it becomes stale.
    pub(super) fn insert<T>(&mut self, entries: &mut Places<Entry<T>>, place: u32, count: usize) {
        self.next_stamp = self.next_stamp.wrapping_add(1);
        let entry = &mut entries[place];
        entry.stamp = self.next_stamp;
        let schedule = Schedule { due_ns: entry.due_ns, sequence: entry.sequence, entry: place, stamp: entry.stamp };
        let heap = &mut self.heaps[entry.priority as usize];
        heap.push(schedule);
        if heap.len() > 2 * count + STALE_SCHEDULES {
            heap.retain(|schedule| is_valid(entries, schedule));
        }
    }

    /// Takes the most urgent entry that is due out of its heap.
    pub(super) fn pop_due<T>(&mut self, entries: &Places<Entry<T>>, now_ns: u64) -> Option<u32> {
        for heap in &mut self.heaps {
            forget_stale(heap, entries);
            if heap.peek().is_some_and(|schedule| schedule.due_ns <= now_ns) {
                return Some(heap.pop()?.entry);
            }
        }
        None
    }

    /// When the next entry is due.
    pub(super) fn next_due_ns<T>(&mut self, entries: &Places<Entry<T>>) -> Option<u64> {
        let next_of = |heap: &mut BinaryHeap<Schedule>| {
            forget_stale(heap, entries);
            heap.peek().map(|schedule| schedule.due_ns)
        };
        self.heaps.iter_mut().filter_map(next_of).min()
    }

    /// Forgets all; there are no entries.
    pub(super) fn clear(&mut self) {
        self.heaps.iter_mut().for_each(BinaryHeap::clear);
    }

    /// Gives the memory back; there are no entries.
    pub(super) fn shrink(&mut self) {
        self.heaps = Self::heaps();
    }

    fn heaps() -> [BinaryHeap<Schedule>; PRIORITIES] {
        std::array::from_fn(|_| BinaryHeap::new())
    }

    /// Schedules of a priority, the stale ones included.
    #[cfg(test)]
    pub(super) fn len(&self, priority: super::entry::Priority) -> usize {
        self.heaps[priority as usize].len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.heaps.iter().map(BinaryHeap::capacity).sum()
    }
}

fn forget_stale<T>(heap: &mut BinaryHeap<Schedule>, entries: &Places<Entry<T>>) {
    while heap.peek().is_some_and(|schedule| !is_valid(entries, schedule)) {
        heap.pop();
    }
}

/// Is this the latest schedule of an entry that waits for its turn?
fn is_valid<T>(entries: &Places<Entry<T>>, schedule: &Schedule) -> bool {
    entries.get(schedule.entry).is_some_and(|entry| entry.stamp == schedule.stamp && !entry.is_leased())
}
