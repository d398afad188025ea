//! The entries, by key and variant, bounded in bytes and evicted by S3-FIFO.
//!
//! An entry is the reply to one *request*: a key and a variant (the command and its other words). All entries of a key form a
//! chain, so that an invalidation finds them.
//!
//! S3-FIFO: new entries go to a small queue (a tenth of the bytes). Those that are hit there go on to the main queue, the others
//! leave and are remembered as ghosts; a request that comes back while it is a ghost goes to the main queue at once. An entry
//! that was hit and is invalidated is remembered, too.

use std::collections::VecDeque;
use std::mem::size_of;

use hashbrown::HashTable;

/// Bound of the variants of one key.
pub const MAX_VARIANTS: usize = 64;
/// The share of the bytes that the small queue may have: one of so many parts.
pub const SMALL_PART: usize = 10;
/// A value may have one of so many parts of the bytes.
pub const LARGEST_PART: usize = 64;
/// An entry of the small queue that was hit so often goes on to the main queue.
const PROMOTED_HITS: u8 = 1;
/// Hits are counted up to here.
const MAX_HITS: u8 = 3;
const NONE: u32 = u32::MAX;

/// What an entry takes beside its request and its value: the slot, and its share of table, queue and ghosts.
pub const OVERHEAD_BYTES: usize = size_of::<Entry<usize>>() + 8 + 12 + 14;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

#[derive(Debug)]
struct Entry<V> {
    /// The key, then the variant.
    request: Box<[u8]>,
    /// `None` in a free slot.
    value: Option<V>,
    sent_ns: u64,
    life_ms: u32,
    bytes: u32,
    key_len: u32,
    /// The next entry of the same key, or the next free slot.
    next: u32,
    /// How often the slot was used.
    stamp: u32,
    hits: u8,
    queue: Queue,
}

impl<V> Entry<V> {
    fn key(&self) -> &[u8] {
        &self.request[..self.key_len as usize]
    }

    fn variant(&self) -> &[u8] {
        &self.request[self.key_len as usize..]
    }
}

/// An entry, as long as it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId {
    slot: u32,
    stamp: u32,
}

/// What became of a lookup.
#[derive(Debug)]
pub enum Found<'a, V> {
    /// A live entry.
    Entry(EntryId, &'a V),
    /// There is an entry, and its time is over.
    Expired,
    /// There is none.
    Nothing,
}

/// The entries. Values that leave are kept in a grave until [`Store::take_grave`], so that they are dropped outside of locks.
#[derive(Debug)]
pub struct Store<V> {
    seed: u64,
    max_bytes: usize,
    slots: Vec<Entry<V>>,
    free: u32,
    /// The first entry of each key.
    keys: HashTable<u32>,
    small: VecDeque<(u32, u32)>,
    main: VecDeque<(u32, u32)>,
    ghosts: VecDeque<u32>,
    ghost_marks: HashTable<u32>,
    entries: usize,
    bytes: usize,
    small_bytes: usize,
    evictions: u64,
    grave: Vec<V>,
}

/// A hash of bytes; without the seed, collisions cannot be prepared.
#[inline]
#[must_use]
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    const FIRST: u64 = 0x9E37_79B9_7F4A_7C15;
    const SECOND: u64 = 0xD6E8_FEB8_6659_FD93;
    #[inline]
    fn fold(left: u64, right: u64) -> u64 {
        let wide = u128::from(left) * u128::from(right);
        #[expect(clippy::cast_possible_truncation, reason = "the halves")]
        let (low, high) = (wide as u64, (wide >> 64) as u64);
        low ^ high
    }
    #[inline]
    fn word(bytes: &[u8]) -> u64 {
        bytes.first_chunk().map_or_else(
            || bytes.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)),
            |chunk| u64::from_le_bytes(*chunk),
        )
    }
    let mut state = seed ^ (bytes.len() as u64).wrapping_mul(FIRST);
    let mut rest = bytes;
    while rest.len() > 16 {
        state = fold(word(rest) ^ FIRST, word(&rest[8..]) ^ state);
        rest = &rest[16..];
    }
    let (left, right) = rest.split_at(rest.len().min(8));
    state = fold(word(left) ^ FIRST ^ state, word(right) ^ SECOND ^ seed.rotate_left(32));
    fold(state ^ SECOND, seed ^ FIRST)
}

impl<V> Store<V> {
    /// No entries, and at most so many bytes of them.
    #[must_use]
    pub fn new(max_bytes: usize, seed: u64) -> Self {
        Self {
            seed,
            max_bytes,
            slots: Vec::new(),
            free: NONE,
            keys: HashTable::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_marks: HashTable::new(),
            entries: 0,
            bytes: 0,
            small_bytes: 0,
            evictions: 0,
            grave: Vec::new(),
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// What the entries take, as it was counted when they came.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries that left for want of room.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// The values that have left.
    #[must_use]
    pub fn take_grave(&mut self) -> Vec<V> {
        std::mem::take(&mut self.grave)
    }

    /// Whether values wait to be dropped.
    #[inline]
    #[must_use]
    pub fn has_grave(&self) -> bool {
        !self.grave.is_empty()
    }

    /// Where the entry of a request stands.
    #[inline]
    fn find(&self, key: &[u8], variant: &[u8]) -> Option<u32> {
        let mut slot = self.first_of(key)?;
        loop {
            let entry = &self.slots[slot as usize];
            if entry.variant() == variant {
                return Some(slot);
            }
            slot = entry.next;
            if slot == NONE {
                return None;
            }
        }
    }

    #[inline]
    fn first_of(&self, key: &[u8]) -> Option<u32> {
        let slots = &self.slots;
        self.keys.find(hash(self.seed, key), |slot| slots[*slot as usize].key() == key).copied()
    }

    /// The reply to a request, if it was asked for less than `max_age_ns` ago and lives. Counts as a use.
    #[inline]
    pub fn get(&mut self, key: &[u8], variant: &[u8], now_ns: u64, max_age_ns: u64) -> Found<'_, V> {
        let Some(slot) = self.find(key, variant) else { return Found::Nothing };
        let entry = &mut self.slots[slot as usize];
        let age_ns = now_ns.saturating_sub(entry.sent_ns);
        let Some(value) = &entry.value else { return Found::Nothing };
        if age_ns >= max_age_ns || age_ns >= u64::from(entry.life_ms) * 1_000_000 {
            return Found::Expired;
        }
        if entry.hits < MAX_HITS {
            entry.hits += 1;
        }
        Found::Entry(EntryId { slot, stamp: entry.stamp }, value)
    }

    /// Whether the entry is still there, and the same.
    #[must_use]
    pub fn is_same(&self, id: EntryId) -> bool {
        self.slots.get(id.slot as usize).is_some_and(|entry| entry.stamp == id.stamp && entry.value.is_some())
    }

    /// What a value of `value_bytes` would take.
    #[must_use]
    pub fn cost(key: &[u8], variant: &[u8], value_bytes: usize) -> usize {
        // An allocation has a header, and is a multiple of 16.
        let request = (key.len() + variant.len() + 8).next_multiple_of(16).max(32);
        OVERHEAD_BYTES + request + value_bytes
    }

    /// Keeps a reply, for `life_ms` from `sent_ns` on. Returns false where it is too large, or the key has too many variants.
    pub fn put(
        &mut self,
        key: &[u8],
        variant: &[u8],
        value: V,
        value_bytes: usize,
        sent_ns: u64,
        life_ms: u32,
    ) -> bool {
        let bytes = Self::cost(key, variant, value_bytes);
        let (Ok(bytes_kept), Ok(key_len)) = (u32::try_from(bytes), u32::try_from(key.len())) else {
            self.grave.push(value);
            return false;
        };
        let (mut hits, mut known_queue) = (0, None);
        if let Some(slot) = self.find(key, variant) {
            let entry = &self.slots[slot as usize];
            (hits, known_queue) = (entry.hits, Some(entry.queue));
            self.remove(slot);
        }
        let first = self.first_of(key);
        if bytes > self.max_bytes / LARGEST_PART || self.count_variants(first) >= MAX_VARIANTS {
            self.grave.push(value);
            return false;
        }
        let mark = self.mark_of(key, variant);
        let was_ghost = self.forget_ghost(mark);
        let queue = known_queue.unwrap_or(if was_ghost { Queue::Main } else { Queue::Small });
        let request = [key, variant].concat().into_boxed_slice();
        let slot = self.fill(Entry {
            request,
            value: Some(value),
            sent_ns,
            life_ms,
            bytes: bytes_kept,
            key_len,
            next: NONE,
            stamp: 0,
            hits,
            queue,
        });
        self.link(slot, first);
        self.entries += 1;
        self.bytes += bytes;
        let place = (slot, self.slots[slot as usize].stamp);
        if queue == Queue::Small {
            self.small_bytes += bytes;
            self.small.push_back(place);
        } else {
            self.main.push_back(place);
        }
        while self.bytes > self.max_bytes {
            self.evict();
        }
        self.sweep_queues();
        true
    }

    /// Removes the entries of a key; returns how many there were.
    pub fn remove_key(&mut self, key: &[u8]) -> usize {
        let Some(first) = self.first_of(key) else { return 0 };
        let mut slot = first;
        let mut removed = 0;
        while slot != NONE {
            let entry = &self.slots[slot as usize];
            let next = entry.next;
            if entry.hits > 0 {
                let mark = self.mark_of(entry.key(), entry.variant());
                self.remember_ghost(mark);
            }
            self.remove(slot);
            removed += 1;
            slot = next;
        }
        self.sweep_queues();
        removed
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        self.grave.extend(slots.into_iter().filter_map(|entry| entry.value));
        self.free = NONE;
        self.keys = HashTable::new();
        self.small = VecDeque::new();
        self.main = VecDeque::new();
        self.ghosts = VecDeque::new();
        self.ghost_marks = HashTable::new();
        (self.entries, self.bytes, self.small_bytes) = (0, 0, 0);
    }

    /// The values, for a collector.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter_map(|entry| entry.value.as_ref()).chain(&self.grave)
    }

    fn count_variants(&self, first: Option<u32>) -> usize {
        let mut slot = first.unwrap_or(NONE);
        let mut count = 0;
        while slot != NONE {
            count += 1;
            slot = self.slots[slot as usize].next;
        }
        count
    }

    /// Puts an entry into a free slot, or a new one.
    fn fill(&mut self, entry: Entry<V>) -> u32 {
        if self.free == NONE {
            self.slots.push(entry);
            return u32::try_from(self.slots.len() - 1).expect("bounded by the bytes of its entries");
        }
        let slot = self.free;
        let place = &mut self.slots[slot as usize];
        self.free = place.next;
        *place = Entry { stamp: place.stamp.wrapping_add(1), ..entry };
        slot
    }

    fn link(&mut self, slot: u32, first: Option<u32>) {
        if let Some(first) = first {
            let behind = std::mem::replace(&mut self.slots[first as usize].next, slot);
            self.slots[slot as usize].next = behind;
            return;
        }
        let (seed, slots) = (self.seed, &self.slots);
        let hashed = hash(seed, slots[slot as usize].key());
        self.keys.insert_unique(hashed, slot, |slot| hash(seed, slots[*slot as usize].key()));
    }

    /// Takes an entry out of its chain and frees its slot.
    fn remove(&mut self, slot: u32) {
        let slots = &mut self.slots;
        let hashed = hash(self.seed, slots[slot as usize].key());
        let next = slots[slot as usize].next;
        let first = self.keys.find_entry(hashed, |first| {
            slots[*first as usize].key_len == slots[slot as usize].key_len
                && slots[*first as usize].key() == slots[slot as usize].key()
        });
        if let Ok(mut first) = first {
            if *first.get() != slot {
                let mut before = *first.get();
                while slots[before as usize].next != slot {
                    before = slots[before as usize].next;
                }
                slots[before as usize].next = next;
            } else if next == NONE {
                first.remove();
            } else {
                *first.get_mut() = next;
            }
        }
        let entry = &mut slots[slot as usize];
        self.entries -= 1;
        self.bytes -= entry.bytes as usize;
        if entry.queue == Queue::Small {
            self.small_bytes -= entry.bytes as usize;
        }
        self.grave.extend(entry.value.take());
        entry.request = Box::default();
        entry.key_len = 0;
        entry.next = self.free;
        self.free = slot;
    }

    // --- S3-FIFO ----------------------------------------------------------------------------------------------------

    fn evict(&mut self) {
        if self.small_bytes > self.max_bytes / SMALL_PART || self.main.is_empty() {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn is_live(&self, (slot, stamp): (u32, u32), queue: Queue) -> bool {
        let entry = &self.slots[slot as usize];
        entry.stamp == stamp && entry.value.is_some() && entry.queue == queue
    }

    fn evict_small(&mut self) {
        while let Some(place) = self.small.pop_front() {
            if !self.is_live(place, Queue::Small) {
                continue;
            }
            let entry = &mut self.slots[place.0 as usize];
            if entry.hits > PROMOTED_HITS {
                entry.queue = Queue::Main;
                entry.hits = 0;
                self.small_bytes -= entry.bytes as usize;
                self.main.push_back(place);
                continue;
            }
            let mark = self.mark_of(self.slots[place.0 as usize].key(), self.slots[place.0 as usize].variant());
            self.remember_ghost(mark);
            self.remove(place.0);
            self.evictions += 1;
            return;
        }
        self.evict_main();
    }

    fn evict_main(&mut self) {
        while let Some(place) = self.main.pop_front() {
            if !self.is_live(place, Queue::Main) {
                continue;
            }
            let entry = &mut self.slots[place.0 as usize];
            if entry.hits > 0 {
                entry.hits -= 1;
                self.main.push_back(place);
                continue;
            }
            self.remove(place.0);
            self.evictions += 1;
            return;
        }
    }

    /// Places of entries that have left stay in the queues until they come to the front; so many do not.
    fn sweep_queues(&mut self) {
        if self.small.len() + self.main.len() > 2 * self.entries + 64 {
            let (mut small, mut main) = (std::mem::take(&mut self.small), std::mem::take(&mut self.main));
            small.retain(|place| self.is_live(*place, Queue::Small));
            main.retain(|place| self.is_live(*place, Queue::Main));
            (self.small, self.main) = (small, main);
        }
    }

    /// A request as a ghost remembers it.
    fn mark_of(&self, key: &[u8], variant: &[u8]) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "a mark")]
        let mark = (hash(self.seed, key) ^ hash(!self.seed, variant)) as u32;
        mark
    }

    fn remember_ghost(&mut self, mark: u32) {
        let spread = |mark: &u32| u64::from(*mark).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        if self.ghost_marks.find(spread(&mark), |known| *known == mark).is_none() {
            self.ghost_marks.insert_unique(spread(&mark), mark, spread);
            self.ghosts.push_back(mark);
        }
        while self.ghosts.len() > self.entries.max(16) {
            let Some(oldest) = self.ghosts.pop_front() else { break };
            if let Ok(known) = self.ghost_marks.find_entry(spread(&oldest), |known| *known == oldest) {
                known.remove();
            }
        }
    }

    fn forget_ghost(&mut self, mark: u32) -> bool {
        let hashed = u64::from(mark).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.ghost_marks.find_entry(hashed, |known| *known == mark).is_ok_and(|known| {
            known.remove();
            true
        })
    }
}
