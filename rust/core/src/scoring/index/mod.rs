//! An index of memories in memory: vectors with an int8 shadow, words, attributes, times, sequences.
//!
//! Rows are numbered in the order in which they were written and live in segments of at most 8,192. A write appends new
//! rows and takes old ones out of a set of live rows; neighbouring small segments are joined when the older is less
//! than twice the newer, so a row is copied about log2(8,192) times at worst. A segment of which more than a quarter is
//! dead is emptied by writing its live rows again, at most one segment a write.
//!
//! One writer at a time works on a state of its own; readers take the state that was current when they began and never
//! wait for a writer: see [`Published`].

pub mod codes;
mod planes;
mod published;
pub mod search;
pub mod segment;
pub mod snapshot;
pub mod text;

use super::parts::Metric;
use codes::Rotation;
use hashbrown::{HashTable, hash_table};
use published::Published;
use segment::{Bits, CHUNK_ROWS, NO_ROW, NewRow, Segment, Slot};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use text::{Analyzer, Bm25};

/// What an index is made for.
#[derive(Debug)]
pub struct Settings {
    /// Elements of a vector; 1 to [`super::kernels::MAX_DIMENSIONS`].
    pub dimensions: usize,
    /// How vectors are compared.
    pub metric: Metric,
    /// How texts become terms.
    pub analyzer: Analyzer,
    /// The constants of BM25.
    pub bm25: Bm25,
    /// Whether memories lend words to their neighbours in a sequence.
    pub context: bool,
    /// The embedding model that vectors come from, as the caller names it.
    pub model: String,
    /// The rotation for `dimensions`.
    pub rotation: Rotation,
}

/// What a reader sees: it never changes.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) slots: Vec<Slot>,
    pub(crate) live_rows: usize,
    /// Live rows with a text, and the words in them.
    pub(crate) texts: usize,
    pub(crate) words: u64,
}

impl State {
    pub(crate) fn locate(&self, row: u32) -> Option<(usize, usize)> {
        let slot = self.slots.partition_point(|slot| slot.end() <= row);
        let found = self.slots.get(slot)?;
        (found.base <= row).then(|| (slot, (row - found.base) as usize))
    }

    pub(crate) fn id(&self, row: u32) -> &str {
        let (slot, local) = self.locate(row).expect("a live row has a segment");
        self.slots[slot].data.id(local)
    }

    /// The id of a row that was found in this state.
    ///
    /// # Panics
    ///
    /// If the state does not hold the row.
    #[must_use]
    pub fn id_of(&self, row: u32) -> &str {
        self.id(row)
    }

    /// The ids of all memories, by the time of their last write.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let of = |slot: &Slot| slot.live.iter().map(|row| slot.data.id(row).to_owned()).collect::<Vec<_>>();
        self.slots.iter().flat_map(of).collect()
    }

    /// Number of memories.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live_rows
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live_rows == 0
    }

    /// Number of segments and of rows that are dead but still held.
    #[must_use]
    pub fn fragmentation(&self) -> (usize, usize) {
        let rows: usize = self.slots.iter().map(|slot| slot.data.rows).sum();
        (self.slots.len(), rows - self.live_rows)
    }
}

const SHARDS: usize = 256;

/// What only the writer needs.
#[derive(Debug)]
struct Writer {
    hasher: RandomState,
    /// From the hash of an id to its row, in shards so that no growth takes long. The shard is chosen by bits that the
    /// table itself does not use.
    rows: Vec<HashTable<(u64, u32)>>,
    next_row: u32,
    sequence_numbers: HashMap<String, u32>,
    sequence_names: Vec<String>,
    sequences: Vec<BTreeSet<(i64, u32)>>,
}

/// The index.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    state: Published<State>,
    writer: Mutex<Writer>,
}

/// All row numbers are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl Index {
    /// An empty index.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let writer = Writer {
            hasher: RandomState::new(),
            rows: (0..SHARDS).map(|_| HashTable::new()).collect(),
            next_row: 0,
            sequence_numbers: HashMap::new(),
            sequence_names: Vec::new(),
            sequences: Vec::new(),
        };
        Self { settings, state: Published::default(), writer: Mutex::new(writer) }
    }

    /// What it was made for.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The current state; it stays as it is for as long as it is held.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.state.current()
    }

    /// Whether the index holds an id.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.find(&self.state(), id).is_some()
    }

    /// Writes rows, replacing those with the same ids as a whole. `vectors` holds the finite elements of all of them, row
    /// by row, or is empty for rows without vectors. `sequences` are the names that the rows' sequence numbers stand for.
    /// All of it becomes visible at once.
    ///
    /// # Errors
    ///
    /// If 2^32 rows have been written since the index was made or loaded.
    ///
    /// # Panics
    ///
    /// If `vectors` is neither empty nor has `dimensions` elements for every row.
    pub fn upsert(&self, mut rows: Vec<NewRow>, mut vectors: Vec<f32>, sequences: &[String]) -> Result<(), Exhausted> {
        let dimensions = self.settings.dimensions;
        assert!(vectors.is_empty() || vectors.len() == rows.len() * dimensions, "whole rows are needed");
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = &mut *writer;
        let mut state = State::clone(&self.state());
        if u32::try_from(writer.next_row as usize + rows.len() + CHUNK_ROWS).is_err() {
            return Err(Exhausted);
        }
        let numbers: Vec<u32> = sequences.iter().map(|name| writer.sequence_number(name)).collect();
        let mut edits = Edits::default();
        for row in &mut rows {
            if let Some(old) = writer.forget(&state, &row.id) {
                writer.bury(&mut state, old, &mut edits);
            }
            row.sequence = row.sequence.map(|(number, step)| (numbers[number as usize], step));
        }
        while !rows.is_empty() {
            let room = CHUNK_ROWS - writer.next_row as usize % CHUNK_ROWS;
            let later = if rows.len() > room { rows.split_off(room) } else { Vec::new() };
            let later_vectors =
                if vectors.len() > room * dimensions { vectors.split_off(room * dimensions) } else { Vec::new() };
            let normalize = self.settings.metric == Metric::Cosine;
            let segment = Segment::build(rows, vectors, dimensions, &self.settings.rotation, normalize);
            writer.append(&mut state, segment, &mut edits);
            (rows, vectors) = (later, later_vectors);
            self.join_tail(&mut state);
        }
        self.finish(writer, state, edits);
        Ok(())
    }

    /// What the index holds of each listed id, vectors apart, as another index of the same analyzer takes it by
    /// [`Self::upsert`]: `None` for an id it does not hold, and the names of all sequences.
    ///
    /// # Panics
    ///
    /// Never: a segment has fewer than 2^16 rows.
    #[must_use]
    pub fn rows_of(&self, ids: &[String]) -> (Vec<Option<NewRow>>, Vec<String>) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        let mut places: BTreeMap<usize, HashMap<u16, usize>> = BTreeMap::new();
        let mut rows = Vec::with_capacity(ids.len());
        for (position, id) in ids.iter().enumerate() {
            let place = writer.find(&state, id).and_then(|row| state.locate(row));
            rows.push(place.map(|(slot, local)| {
                let local_u16 = u16::try_from(local).expect("a segment has at most 8,192 rows");
                places.entry(slot).or_default().insert(local_u16, position);
                state.slots[slot].data.row(local)
            }));
        }
        for (slot, places) in places {
            state.slots[slot].data.invert(&places, &mut rows);
        }
        (rows, writer.sequence_names.clone())
    }

    /// Takes ids out; returns how many there were.
    pub fn delete<'i>(&self, ids: impl IntoIterator<Item = &'i str>) -> usize {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = &mut *writer;
        let mut state = State::clone(&self.state());
        let mut edits = Edits::default();
        let mut found = 0;
        for id in ids {
            if let Some(row) = writer.forget(&state, id) {
                writer.bury(&mut state, row, &mut edits);
                found += 1;
            }
        }
        self.finish(writer, state, edits);
        found
    }

    fn finish(&self, writer: &mut Writer, mut state: State, mut edits: Edits) {
        edits.bury(&mut state);
        state.slots.retain(|slot| slot.live_rows > 0);
        let worst = state.slots.iter().position(|slot| (slot.data.rows - slot.live_rows) * 4 > slot.data.rows);
        if let Some(worst) = worst
            && state.slots[worst].data.rows > 64
        {
            self.rewrite(writer, &mut state, worst, &mut edits);
        }
        edits.link(&mut state);
        self.state.publish(Arc::new(state));
    }

    /// Appends the live rows of a slot again and drops the slot.
    fn rewrite(&self, writer: &mut Writer, state: &mut State, worst: usize, edits: &mut Edits) {
        if u32::try_from(writer.next_row as usize + 2 * CHUNK_ROWS).is_err() {
            return; // no numbers to spare: the dead rows stay
        }
        let slot = state.slots.remove(worst);
        state.live_rows -= slot.live_rows;
        let mut live: Vec<u16> = slot.live.iter().filter_map(|row| u16::try_from(row).ok()).collect();
        for &row in &live {
            let row = row as usize;
            state.texts -= usize::from(slot.data.has_text[row]);
            state.words -= u64::from(slot.data.words[row]);
            let removed = writer.take(slot.data.id(row), slot.base + u32::try_from(row).unwrap_or(0));
            debug_assert!(removed, "a live row is in the table");
            if let Some(sequence) = slot.data.sequence[row] {
                writer.leave(sequence, slot.base + u32::try_from(row).unwrap_or(0), edits);
            }
        }
        while !live.is_empty() {
            let room = CHUNK_ROWS - writer.next_row as usize % CHUNK_ROWS;
            let later = if live.len() > room { live.split_off(room) } else { Vec::new() };
            let plane_bytes = self.settings.rotation.plane_bytes();
            let segment = Segment::gather(&[(&slot.data, live)], self.settings.dimensions, plane_bytes);
            writer.append(state, segment, edits);
            live = later;
            self.join_tail(state);
        }
    }

    /// Joins the last segments of a chunk while the older is less than twice the newer, or they fill the chunk.
    fn join_tail(&self, state: &mut State) {
        while let [.., older, newer] = state.slots.as_slice() {
            let is_same_chunk = older.base as usize / CHUNK_ROWS == newer.base as usize / CHUNK_ROWS;
            let is_full = (newer.end() as usize).is_multiple_of(CHUNK_ROWS);
            let is_due = older.data.rows < 2 * newer.data.rows || is_full;
            if !is_same_chunk || older.end() != newer.base || !is_due {
                return;
            }
            let all = |slot: &Slot| (0..slot.data.rows).filter_map(|row| u16::try_from(row).ok()).collect();
            let parts = [(&*older.data, all(older)), (&*newer.data, all(newer))];
            let data = Segment::gather(&parts, self.settings.dimensions, self.settings.rotation.plane_bytes());
            let mut live = Bits::empty(data.rows);
            for (slot, start) in [(older, 0), (newer, older.data.rows)] {
                slot.live.iter().for_each(|row| live.set(start + row));
            }
            let links = (older.links.is_some() || newer.links.is_some()).then(|| {
                let of =
                    |slot: &Slot| slot.links.as_ref().map_or_else(|| vec![[NO_ROW; 2]; slot.data.rows], |l| l.to_vec());
                Arc::new([of(older), of(newer)].concat())
            });
            let joined = Slot {
                base: older.base,
                data: Arc::new(data),
                live: Arc::new(live),
                live_rows: older.live_rows + newer.live_rows,
                links,
            };
            state.slots.truncate(state.slots.len() - 2);
            state.slots.push(joined);
        }
    }
}

impl Writer {
    fn hash(&self, id: &str) -> u64 {
        self.hasher.hash_one(id)
    }

    fn find(&self, state: &State, id: &str) -> Option<u32> {
        let hash = self.hash(id);
        let shard = &self.rows[(hash >> 32) as usize % SHARDS];
        shard.find(hash, |&(h, row)| h == hash && state.id(row) == id).map(|&(_, row)| row)
    }

    fn forget(&mut self, state: &State, id: &str) -> Option<u32> {
        let hash = self.hash(id);
        let shard = &mut self.rows[(hash >> 32) as usize % SHARDS];
        let entry = shard.find_entry(hash, |&(h, row)| h == hash && state.id(row) == id).ok()?;
        Some(entry.remove().0.1)
    }

    fn take(&mut self, id: &str, row: u32) -> bool {
        let hash = self.hash(id);
        let shard = &mut self.rows[(hash >> 32) as usize % SHARDS];
        shard.find_entry(hash, |&(_, r)| r == row).map(hashbrown::hash_table::OccupiedEntry::remove).is_ok()
    }

    fn sequence_number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.sequence_numbers.get(name) {
            return number;
        }
        let number = u32::try_from(self.sequence_names.len()).expect("fewer sequences than rows");
        self.sequence_numbers.insert(name.to_owned(), number);
        self.sequence_names.push(name.to_owned());
        self.sequences.push(BTreeSet::new());
        number
    }

    /// Notes that a row is dead.
    fn bury(&mut self, state: &mut State, row: u32, edits: &mut Edits) {
        let (slot, local) = state.locate(row).expect("a row in the table has a segment");
        let data = Arc::clone(&state.slots[slot].data);
        state.live_rows -= 1;
        state.texts -= usize::from(data.has_text[local]);
        state.words -= u64::from(data.words[local]);
        edits.dead.push(row);
        if let Some(sequence) = data.sequence[local] {
            self.leave(sequence, row, edits);
        }
    }

    fn leave(&mut self, (number, step): (u32, i64), row: u32, edits: &mut Edits) {
        let members = &mut self.sequences[number as usize];
        members.remove(&(step, row));
        let before = members.range(..(step, row)).next_back().map(|key| key.1);
        let after = members.range((step, row)..).next().map(|key| key.1);
        edits.joined(before, after);
    }

    /// The hashes of a segment's ids.
    fn hashes(&self, segment: &Segment) -> Vec<u64> {
        (0..segment.rows).map(|row| self.hash(segment.id(row))).collect()
    }

    /// Makes room in the table for so many more ids.
    fn reserve(&mut self, rows: usize) {
        // Ids do not fall into the shards evenly; a shard that gets more of them than this grows.
        let share = rows / SHARDS + rows / SHARDS / 8;
        self.rows.iter_mut().for_each(|shard| shard.reserve(share, |&(hash, _)| hash));
    }

    /// Enters the ids of a segment that comes next, with their hashes; false if one of them is there already.
    fn enter_new(&mut self, state: &State, segment: &Segment, hashes: &[u64]) -> bool {
        let base = self.next_row;
        for (row, (local, &hash)) in (base..).zip(hashes.iter().enumerate()) {
            let shard = &mut self.rows[(hash >> 32) as usize % SHARDS];
            let id = segment.id(local);
            let of = |row: u32| if row < base { state.id(row) } else { segment.id((row - base) as usize) };
            let entry = shard.entry(hash, |&(h, row)| h == hash && of(row) == id, |&(hash, _)| hash);
            let hash_table::Entry::Vacant(vacant) = entry else { return false };
            vacant.insert((hash, row));
        }
        true
    }

    fn append(&mut self, state: &mut State, segment: Segment, edits: &mut Edits) {
        for (row, local) in (self.next_row..).zip(0..segment.rows) {
            let hash = self.hash(segment.id(local));
            let shard = &mut self.rows[(hash >> 32) as usize % SHARDS];
            shard.insert_unique(hash, (hash, row), |&(hash, _)| hash);
        }
        self.attach(state, segment, edits);
    }

    /// Appends a segment whose ids have been entered in the table.
    fn attach(&mut self, state: &mut State, segment: Segment, edits: &mut Edits) {
        let base = self.next_row;
        let mut has_sequence = false;
        for (row, sequence) in (base..).zip(&segment.sequence) {
            if let &Some((number, step)) = sequence {
                has_sequence = true;
                let members = &mut self.sequences[number as usize];
                let before = members.range(..(step, row)).next_back().map(|key| key.1);
                let after = members.range((step, row)..).next().map(|key| key.1);
                members.insert((step, row));
                edits.joined(before, Some(row));
                edits.joined(Some(row), after);
            }
        }
        state.live_rows += segment.rows;
        state.texts += segment.has_text.iter().filter(|&&has| has).count();
        state.words += segment.words.iter().map(|&words| u64::from(words)).sum::<u64>();
        let rows = segment.rows;
        self.next_row += u32::try_from(rows).expect("a segment has at most 8,192 rows");
        state.slots.push(Slot {
            base,
            data: Arc::new(segment),
            live: Arc::new(Bits::filled(rows)),
            live_rows: rows,
            links: has_sequence.then(|| Arc::new(vec![[NO_ROW; 2]; rows])),
        });
    }
}

/// Changes to rows of existing segments, made together so that each set is copied once.
#[derive(Debug, Default)]
struct Edits {
    dead: Vec<u32>,
    /// (row, side, neighbour): the last entry for a row and side counts.
    links: Vec<(u32, usize, u32)>,
}

impl Edits {
    fn joined(&mut self, before: Option<u32>, after: Option<u32>) {
        if let Some(before) = before {
            self.links.push((before, 1, after.unwrap_or(NO_ROW)));
        }
        if let Some(after) = after {
            self.links.push((after, 0, before.unwrap_or(NO_ROW)));
        }
    }

    fn bury(&mut self, state: &mut State) {
        for row in self.dead.drain(..) {
            let (slot, local) = state.locate(row).expect("a row that dies has a segment");
            let slot = &mut state.slots[slot];
            Arc::make_mut(&mut slot.live).clear(local);
            slot.live_rows -= 1;
        }
    }

    fn link(&mut self, state: &mut State) {
        for (row, side, neighbour) in self.links.drain(..) {
            let Some((slot, local)) = state.locate(row) else { continue };
            let slot = &mut state.slots[slot];
            let rows = slot.data.rows;
            let links = slot.links.get_or_insert_with(|| Arc::new(vec![[NO_ROW; 2]; rows]));
            Arc::make_mut(links)[local][side] = neighbour;
        }
    }
}
