//! Reading a segment, damaged or not.
//!
//! First the frames are found, in the order of the file; then they are replayed in the order of their numbers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use super::format::{FRAME_BYTES, FRAMES_AT, Frame, Frames, Header, Kind, decode_rows, next_magic, split_named};

/// The unit in which a disk loses what was not synced.
const SECTOR_BYTES: usize = 512;
/// Fewer zeros say nothing: frames have some themselves.
const LEAST_ZEROS: usize = 48;
/// Headers that are tried with one bit changed, at most; each attempt costs some microseconds.
const MAX_MENDED: usize = 10_000;
/// Rows that one removal names are looked up one by one up to this many; more than there can be in a log are damage.
const MAX_ROW: i64 = 1 << 48;

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub row: i64,
    /// Where its body stands.
    pub body: Range<usize>,
    /// Was it being sent? Then what was said of how. Empty where it was to be replaced and what replaced it is lost.
    pub sent: Option<Box<[u8]>>,
    /// Is it an older state, because what replaced it is lost?
    pub is_stale: bool,
    /// False where a lost frame may have removed or changed it.
    pub is_certain: bool,
}

/// What was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loss {
    /// Is there damage, as opposed to a torn tail?
    pub is_damaged: bool,
    /// Records that are lost, or of which only an older state was found.
    pub records: u64,
    /// Bytes that could not be read.
    pub bytes: u64,
    /// Bytes at the end that a crash left unfinished: they had not been acknowledged, or were cut off.
    pub torn_bytes: u64,
}

/// What was found in a segment.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The records, in the order of their rows.
    pub records: Vec<Record>,
    /// The notes: where their names and their bodies stand.
    pub notes: Vec<(String, Range<usize>)>,
    /// The rows that are announced as being sent, and how; records that are gone included.
    pub announced: (Vec<i64>, Box<[u8]>),
    /// No row from here on was used.
    pub next_row: i64,
    /// Where the next frame is written, if nothing is damaged.
    pub end: usize,
    /// What the next frame goes on with.
    pub frames: Frames,
    /// What was lost.
    pub loss: Loss,
}

/// Reads a segment whose header is `header`; `is_header_whole` says whether both of its copies are.
#[must_use]
pub fn scan(bytes: &[u8], header: &Header, is_header_whole: bool) -> Contents {
    let mut found = find(bytes, header.salt);
    found.loss.is_damaged |= !is_header_whole;
    found.loss.bytes += if is_header_whole { 0 } else { super::HEADER_BYTES as u64 };
    let frames = in_order(&mut found);
    let mut replay = Replay::new(bytes, found.loss, &frames);
    for place in &frames {
        replay.step(place);
    }
    replay.finish(header.salt, found.end, &found.tail)
}

/// A frame and where it stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    frame: Frame,
    at: usize,
    is_whole: bool,
    /// Bytes that could not be read: before it, and of its body.
    unread: usize,
    /// Is there a sector among them that was never written?
    is_torn: bool,
}

impl Place {
    fn body(&self) -> Range<usize> {
        self.at + FRAME_BYTES..self.at + FRAME_BYTES + self.frame.length
    }
}

struct Found {
    places: Vec<Place>,
    /// The greatest number of a frame.
    newest: u64,
    loss: Loss,
    end: usize,
    tail: Tail,
}

/// What stands behind the last frame that was found.
enum Tail {
    Nothing,
    Torn,
    Damaged,
}

fn find(bytes: &[u8], salt: u64) -> Found {
    let mut found = Found { places: Vec::new(), newest: 0, loss: Loss::default(), end: FRAMES_AT, tail: Tail::Nothing };
    let (mut at, mut mended, mut unread) = (FRAMES_AT, 0, FRAMES_AT..FRAMES_AT);
    while at < bytes.len() {
        let whole = Frame::decode(salt, &bytes[at..]);
        let frame = whole.or_else(|| {
            mended += 1;
            let expected = found.newest + 1;
            let mend = || Frame::decode_mended(salt, &bytes[at..]).filter(|frame| frame.sequence == expected);
            if mended <= MAX_MENDED { mend() } else { None }
        });
        let next = match frame {
            Some(frame) => {
                found.loss.is_damaged |= whole.is_none();
                found.loss.bytes += u64::from(whole.is_none());
                let before = std::mem::take(&mut unread);
                let is_torn = is_torn(bytes, before.clone());
                found.take(bytes, salt, Place { frame, at, is_whole: false, unread: before.len(), is_torn })
            }
            None => next_frame(bytes, salt, at + 1).inspect(|next| unread = at..*next),
        };
        let Some(next) = next else {
            found.end_at(bytes, at, frame);
            break;
        };
        at = next;
        found.end = at;
    }
    let older = |place: &Place, count: usize| {
        found.places[..count].iter().rev().any(|before| before.frame.sequence >= place.frame.sequence)
    };
    let count = found.places.len();
    let is_copied = found.places.iter().enumerate().skip(count.saturating_sub(2)).any(|(at, place)| older(place, at));
    if is_copied {
        // Older frames stand where the last ones may have been.
        found.loss.is_damaged = true;
        found.tail = Tail::Damaged;
    }
    found
}

impl Found {
    /// Keeps a frame; returns where the next one begins, `None` if the frame is torn and nothing follows.
    fn take(&mut self, bytes: &[u8], salt: u64, mut place: Place) -> Option<usize> {
        let body = place.body();
        place.is_whole = bytes.get(body.clone()).is_some_and(|body| place.frame.is_body(salt, body));
        let next = if place.is_whole {
            body.end
        } else if body.end > bytes.len() {
            next_frame(bytes, salt, body.start)?
        } else if body.end == bytes.len() {
            (!is_torn(bytes, place.at..bytes.len())).then_some(body.end)?
        } else if Frame::decode(salt, &bytes[body.end..]).is_some() {
            body.end
        } else {
            // Its length does not lead to a frame: bytes are missing, or were added.
            next_frame(bytes, salt, body.start).unwrap_or(body.end)
        };
        if !place.is_whole {
            place.unread += next - body.start;
            place.is_torn |= is_torn(bytes, body.start..next);
        }
        self.newest = self.newest.max(place.frame.sequence);
        self.places.push(place);
        Some(next)
    }

    /// From here on nothing can be read; `frame` is the header that stands here, if one does.
    fn end_at(&mut self, bytes: &[u8], at: usize, frame: Option<Frame>) {
        let length = bytes.len() - at;
        self.end = at;
        let is_cut = match frame {
            Some(frame) => frame.sequence == self.newest + 1,
            None => length < FRAME_BYTES && Frame::may_begin(&bytes[at..], self.newest + 1),
        };
        if is_cut || is_torn(bytes, at..bytes.len()) {
            self.loss.torn_bytes += length as u64;
            self.tail = Tail::Torn;
        } else {
            self.loss.is_damaged = true;
            self.loss.bytes += length as u64;
            self.tail = Tail::Damaged;
        }
    }
}

fn next_frame(bytes: &[u8], salt: u64, at: usize) -> Option<usize> {
    let mut at = next_magic(bytes, at)?;
    while Frame::decode(salt, &bytes[at..]).is_none() {
        at = next_magic(bytes, at + 1)?;
    }
    Some(at)
}

/// Is there a sector, or a part of one at either end, that was never written? That is what a loss of power leaves of an append.
fn is_torn(bytes: &[u8], place: Range<usize>) -> bool {
    let mut from = place.start;
    while from < place.end {
        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(place.end);
        if to - from >= LEAST_ZEROS && bytes[from..to].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

/// The frames in the order of their numbers, each once.
fn in_order(found: &mut Found) -> Vec<Place> {
    let mut places = std::mem::take(&mut found.places);
    if places.is_sorted_by(|one, next| one.frame.sequence < next.frame.sequence) {
        return places;
    }
    found.loss.is_damaged = true;
    if matches!(found.tail, Tail::Torn) {
        // A copy of older frames may stand where the last ones were, and be cut off itself.
        found.tail = Tail::Damaged;
    }
    places.sort_by_key(|place| (place.frame.sequence, !place.is_whole));
    let mut last = None;
    places.retain(|place| {
        let is_new = last.replace(place.frame.sequence) != Some(place.frame.sequence);
        found.loss.bytes += if is_new { 0 } else { (FRAME_BYTES + place.frame.length) as u64 };
        is_new
    });
    places
}

struct Live {
    body: Range<usize>,
    sequence: u64,
    is_stale: bool,
}

/// The state of a segment up to a frame.
struct Replay<'a> {
    bytes: &'a [u8],
    live: BTreeMap<i64, Live>,
    /// Rows whose bodies are damaged.
    lost: BTreeSet<i64>,
    /// Records that were lost with their frames, so that their rows are not known.
    unknown: u64,
    notes: BTreeMap<String, Range<usize>>,
    announced: (Vec<i64>, Box<[u8]>),
    next_row: i64,
    /// Records that were put before this frame may have been removed or changed by a frame that is lost.
    uncertain_before: u64,
    /// The last sequence that had been acknowledged.
    kept: u64,
    /// The last frame, unless it was torn.
    previous: Option<Place>,
    /// The numbers of the last frame, torn or not: sequence, changes, notes.
    last: (u64, u32, u32),
    loss: Loss,
}

impl<'a> Replay<'a> {
    fn new(bytes: &'a [u8], loss: Loss, places: &[Place]) -> Self {
        Self {
            bytes,
            live: BTreeMap::new(),
            lost: BTreeSet::new(),
            unknown: 0,
            notes: BTreeMap::new(),
            announced: Default::default(),
            next_row: 1,
            uncertain_before: 0,
            kept: places.iter().map(|place| place.frame.kept).max().unwrap_or(0),
            previous: None,
            last: (0, 0, 0),
            loss,
        }
    }

    fn step(&mut self, place: &Place) {
        let frame = &place.frame;
        // What had not been acknowledged may be missing after a loss of power.
        let is_torn = place.is_torn && self.last.0 >= self.kept;
        if place.unread > 0 {
            self.loss.is_damaged |= !is_torn;
            *(if is_torn { &mut self.loss.torn_bytes } else { &mut self.loss.bytes }) += place.unread as u64;
        }
        if is_torn {
            self.previous = None;
        } else if frame.sequence > self.last.0 + 1 {
            self.miss(place);
        } else if self.previous.is_some_and(|previous| previous.frame.kind.is_first() && !previous.is_whole)
            && !(frame.kind.is_second() && place.is_whole)
        {
            // Neither the frame nor the one that says the same can be read.
            self.mark_all_uncertain(frame.sequence);
        }
        self.last = (frame.sequence, frame.changes, frame.notes);
        if place.is_whole || !is_torn {
            self.apply(place);
            self.previous = Some(*place);
        }
    }

    /// Frames are missing between the last one and this one: what they may have done.
    fn miss(&mut self, place: &Place) {
        let frame = &place.frame;
        let (before, changes, notes) = self.last;
        let missing = frame.sequence - before - 1;
        let own = (u32::from(frame.kind.is_change()), u32::from(frame.kind == Kind::Note));
        let changes = u64::from(frame.changes.wrapping_sub(changes).wrapping_sub(own.0)).min(missing);
        let notes = u64::from(frame.notes.wrapping_sub(notes).wrapping_sub(own.1)).min(missing - changes);
        self.loss.is_damaged = true;
        self.unknown += missing - changes - notes;
        let mut explained = 0;
        if let Some(previous) = self.previous.filter(|previous| previous.frame.kind.is_first() && previous.is_whole) {
            explained += 1;
            if previous.frame.kind == Kind::Replacing {
                self.stale(previous.frame.row);
            }
        }
        explained += u64::from(frame.kind.is_second() && place.is_whole);
        if changes > explained {
            self.mark_all_uncertain(frame.sequence);
        }
    }

    fn apply(&mut self, place: &Place) {
        let frame = &place.frame;
        let body = place.body();
        self.next_row = self.next_row.max(frame.row.saturating_add(1));
        match frame.kind {
            Kind::Put | Kind::Replaced if place.is_whole => {
                let is_known = self.live.contains_key(&frame.row) || self.lost.remove(&frame.row);
                if frame.kind == Kind::Replaced && !is_known {
                    self.unknown = self.unknown.saturating_sub(1);
                }
                self.live.insert(frame.row, Live { body, sequence: frame.sequence, is_stale: false });
            }
            Kind::Put => _ = self.lost.insert(frame.row),
            Kind::Replaced => self.stale(frame.row),
            Kind::Removed if place.is_whole => self.remove(&self.bytes[body]),
            Kind::RemovedAgain if place.is_whole && !self.is_repeated(place) => self.remove(&self.bytes[body]),
            Kind::Sent | Kind::SentAgain if place.is_whole => {
                if let Some((how, rows)) = split_named(&self.bytes[body]) {
                    let rows = decode_rows(rows).flat_map(|(first, count)| first..first.saturating_add(count));
                    self.announced = (rows.take(self.bytes.len()).collect(), how.into());
                }
            }
            Kind::Note => self.note(place),
            Kind::Replacing | Kind::Removed | Kind::RemovedAgain | Kind::Sent | Kind::SentAgain => {}
        }
    }

    /// Has the frame before this one said the same?
    fn is_repeated(&self, place: &Place) -> bool {
        self.previous.is_some_and(|previous| previous.is_whole && previous.frame.sequence + 1 == place.frame.sequence)
    }

    fn remove(&mut self, rows: &[u8]) {
        for (first, count) in decode_rows(rows) {
            if first <= 0 || count <= 0 || first >= MAX_ROW {
                continue;
            }
            let end = first.saturating_add(count);
            let gone: Vec<i64> = self.live.range(first..end).map(|(row, _)| *row).collect();
            let lost: Vec<i64> = self.lost.range(first..end).copied().collect();
            for row in &gone {
                self.live.remove(row);
            }
            for row in &lost {
                self.lost.remove(row);
            }
            // The others were lost with their frames, and would be gone now anyway.
            let others = count.unsigned_abs().saturating_sub((gone.len() + lost.len()) as u64);
            self.unknown = self.unknown.saturating_sub(others);
            self.next_row = self.next_row.max(end.min(MAX_ROW));
        }
    }

    fn note(&mut self, place: &Place) {
        let body = place.body();
        let named = split_named(self.bytes.get(body.clone()).unwrap_or_default());
        let name = named.and_then(|(name, _)| std::str::from_utf8(name).ok());
        match (place.is_whole, named, name) {
            (true, Some((_, rest)), Some(name)) => {
                self.notes.insert(name.to_owned(), body.end - rest.len()..body.end);
            }
            _ => self.loss.is_damaged = true,
        }
    }

    /// What replaced this record is lost; it may be executed already as it was.
    fn stale(&mut self, row: i64) {
        self.loss.records += 1;
        match self.live.get_mut(&row) {
            Some(live) => live.is_stale = true,
            None => _ = self.lost.insert(row),
        }
    }

    fn mark_all_uncertain(&mut self, sequence: u64) {
        self.uncertain_before = sequence;
        self.loss.is_damaged = true;
    }

    fn finish(mut self, salt: u64, end: usize, tail: &Tail) -> Contents {
        let last = self.previous;
        if matches!(tail, Tail::Damaged) {
            // Nothing tells what stood there.
            self.unknown += 1;
            self.mark_all_uncertain(u64::MAX);
        }
        if let Some(last) = last.filter(|last| last.frame.kind.is_first() && !last.is_whole) {
            self.mark_all_uncertain(last.frame.sequence + 1);
        }
        let announced: HashSet<i64> = self.announced.0.iter().copied().collect();
        let used = announced.iter().max().map_or(0, |row| row.saturating_add(1));
        let damaged = self.lost.iter().filter(|row| !self.live.contains_key(row)).count() as u64;
        self.loss.records += damaged + self.unknown;
        let next_row = self.next_row.max(used).saturating_add(self.unknown.min(1 << 32).cast_signed());
        let records = self.live.iter().map(|(row, live)| {
            let how = announced.contains(row).then(|| self.announced.1.clone());
            Record {
                row: *row,
                body: live.body.clone(),
                is_stale: live.is_stale,
                sent: if live.is_stale { Some(Box::default()) } else { how },
                is_certain: live.sequence >= self.uncertain_before,
            }
        });
        let records = records.collect();
        let frames = Frames::after(salt, self.last.0, self.last.1, self.last.2);
        let notes = self.notes.into_iter().collect();
        Contents { records, notes, announced: self.announced, next_row, end, frames, loss: self.loss }
    }
}
