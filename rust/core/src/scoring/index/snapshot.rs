//! The bytes of a snapshot, and back. No file is touched here.
//!
//! ```text
//! magic, version            16 bytes
//! blocks                    for each segment: its vectors (at a multiple of 4,096), then its other columns
//! footer                    settings, names of sequences, and for each block its place, length and CRC-32
//! trailer                   place, length and CRC-32 of the footer, version, magic: 32 bytes
//! ```
//!
//! Numbers are little-endian. Everything is covered by a checksum, and what the checksums let through is checked again
//! where a bad value could lead out of bounds: a foreign file is an error, never a panic.

use super::codes::{CODE_VERSION, Rotation};
use super::planes::Planes;
use super::segment::{CHUNK_ROWS, Elements, NO_ROW, Part, Segment};
use super::text::{ANALYZER_VERSION, Analyzer, Bm25, OLDEST_ANALYZER_VERSION};
use super::{Edits, Index, Settings, State};
use crate::scoring::kernels::MAX_DIMENSIONS;
use crate::scoring::parts::Metric;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

const MAGIC: &[u8; 8] = b"AGMEMIDX";
/// Version of this format.
pub const FORMAT_VERSION: u32 = 1;
const TRAILER_BYTES: usize = 32;
const PAGE_BYTES: u64 = 4096;

/// Bytes with another owner: a file in memory or mapped.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Why bytes are not a snapshot that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotError(String);

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for SnapshotError {}

type Parsed<T> = Result<T, SnapshotError>;

fn damaged(what: &str) -> SnapshotError {
    SnapshotError(format!("the snapshot is damaged: {what}"))
}

// --- writing ---

struct Counted<'w> {
    out: &'w mut dyn Write,
    at: u64,
}

impl Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let rest = self.at.next_multiple_of(PAGE_BYTES) - self.at;
        let zeros = vec![0_u8; usize::try_from(rest).unwrap_or(0)];
        self.write(&zeros)
    }
}

#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn count(&mut self, count: usize) {
        self.0.extend((count as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend(text.as_bytes());
    }

    fn all<const N: usize>(&mut self, values: impl Iterator<Item = [u8; N]>) {
        for value in values {
            self.0.extend(value);
        }
    }
}

/// Place, length and checksum of a block.
#[derive(Clone, Copy)]
struct Block {
    at: u64,
    len: u64,
    crc: u32,
}

/// Where a snapshot has the vectors of segments that it holds as they are: for [`map_vectors`].
#[derive(Debug, Default)]
pub struct Written(Vec<(Arc<Segment>, u64)>);

/// Leaves the `f32` elements of everything that was written to the bytes that were written, and gives the memory back.
/// Segments with dead rows, and what was written to the index since, stay in memory. The bytes must not change as long
/// as the index lives, or rankings go wrong (memory safety does not depend on it).
pub fn map_vectors(index: &Index, bytes: &SharedBytes, written: Written) {
    let writer = index.writer.lock().unwrap_or_else(PoisonError::into_inner);
    let plane_bytes = index.settings.rotation.plane_bytes();
    for (segment, at) in written.0 {
        let mut state = State::clone(&index.state());
        let slot = state.slots.iter_mut().find(|slot| Arc::ptr_eq(&slot.data, &segment));
        // Elements in bytes are little-endian; elsewhere they stay where they are.
        if let (Some(slot), Ok(at), true) = (slot, usize::try_from(at), cfg!(target_endian = "little")) {
            slot.data = Arc::new(segment.mapped(bytes, at, plane_bytes));
            index.state.publish(Arc::new(state)); // one by one: no more than one segment is there twice
        }
    }
    drop(writer);
}

/// Writes what `index` holds now, dead rows left out. Writers wait meanwhile; searches do not.
///
/// # Errors
///
/// Those of `out`.
pub fn write_snapshot(index: &Index, out: &mut dyn Write) -> io::Result<Written> {
    let writer = index.writer.lock().unwrap_or_else(PoisonError::into_inner);
    let state = index.state();
    let settings = index.settings();
    let mut out = Counted { out, at: 0 };
    out.write(MAGIC)?;
    out.write(&FORMAT_VERSION.to_le_bytes())?;
    out.write(&[0; 4])?;
    let (mut blocks, mut written) = (Vec::new(), Written::default());
    for slot in &state.slots {
        let gathered;
        let segment = if slot.live_rows == slot.data.rows {
            &*slot.data
        } else {
            let live = slot.live.iter().filter_map(|row| u16::try_from(row).ok()).collect();
            gathered = Segment::gather(&[(&slot.data, live)], settings.dimensions, settings.rotation.plane_bytes());
            &gathered
        };
        let vectors = write_vectors(segment, settings.dimensions, &mut out)?;
        if vectors.len > 0 && slot.live_rows == slot.data.rows {
            written.0.push((Arc::clone(&slot.data), vectors.at));
        }
        blocks.push([vectors, write_columns(segment, &mut out)?]);
    }
    let footer = footer(settings, &writer.sequence_names, &blocks);
    let at = out.at;
    out.write(&footer.0)?;
    out.write(&at.to_le_bytes())?;
    out.write(&(footer.0.len() as u64).to_le_bytes())?;
    out.write(&crc32fast::hash(&footer.0).to_le_bytes())?;
    out.write(&FORMAT_VERSION.to_le_bytes())?;
    out.write(MAGIC)?;
    Ok(written)
}

fn write_vectors(segment: &Segment, dimensions: usize, out: &mut Counted<'_>) -> io::Result<Block> {
    out.align()?;
    let (at, mut hasher) = (out.at, crc32fast::Hasher::new());
    if segment.has_vectors() {
        let mut row = vec![0.0; dimensions];
        let mut bytes = Bytes::default();
        for index in 0..segment.rows {
            match segment.vector_at(index, dimensions) {
                Some((matrix, place)) => matrix.copy_f32(place, &mut row),
                None => row.fill(0.0),
            }
            bytes.0.clear();
            bytes.all(row.iter().map(|x| x.to_le_bytes()));
            hasher.update(&bytes.0);
            out.write(&bytes.0)?;
        }
    }
    Ok(Block { at, len: out.at - at, crc: hasher.finalize() })
}

fn write_columns(segment: &Segment, out: &mut Counted<'_>) -> io::Result<Block> {
    let mut bytes = Bytes::default();
    bytes.count(segment.rows);
    bytes.text(&segment.id_bytes);
    bytes.all(segment.id_ends.iter().map(|v| v.to_le_bytes()));
    for column in [&segment.importance, &segment.access_count, &segment.timestamps_s] {
        bytes.all(column.iter().map(|v| v.to_le_bytes()));
    }
    bytes.all(segment.words.iter().map(|v| v.to_le_bytes()));
    bytes.all(segment.has_text.iter().map(|&v| [u8::from(v)]));
    for sequence in &segment.sequence {
        let (number, step) = sequence.unwrap_or((NO_ROW, 0));
        bytes.0.extend(number.to_le_bytes());
        bytes.0.extend(step.to_le_bytes());
    }
    if segment.has_vectors() {
        bytes.all(segment.squares.iter().map(|v| v.to_le_bytes()));
        let codes = &segment.codes;
        for column in [&codes.steps, &codes.coarse_residuals, &codes.fine_residuals, &codes.norms] {
            bytes.all(column.iter().map(|v| v.to_le_bytes()));
        }
        bytes.0.extend(segment.planes.high());
        bytes.0.extend(segment.planes.low());
    }
    let mut terms: Vec<_> = segment.terms.iter().collect();
    terms.sort_unstable_by_key(|(term, _)| *term);
    bytes.count(terms.len());
    for (term, postings) in terms {
        bytes.text(term);
        bytes.count(postings.len());
        bytes.all(postings.iter().map(|(row, _)| row.to_le_bytes()));
        bytes.all(postings.iter().map(|(_, count)| count.to_le_bytes()));
    }
    let mut attributes: Vec<_> = segment.attributes.iter().collect();
    attributes.sort_unstable_by_key(|(attribute, _)| *attribute);
    bytes.count(attributes.len());
    for (attribute, rows) in attributes {
        bytes.text(attribute);
        bytes.count(rows.len());
        bytes.all(rows.iter().map(|row| row.to_le_bytes()));
    }
    let at = out.at;
    out.write(&bytes.0)?;
    Ok(Block { at, len: bytes.0.len() as u64, crc: crc32fast::hash(&bytes.0) })
}

fn footer(settings: &Settings, sequences: &[String], blocks: &[[Block; 2]]) -> Bytes {
    let mut bytes = Bytes::default();
    bytes.0.extend(CODE_VERSION.to_le_bytes());
    bytes.0.extend(settings.analyzer.version().to_le_bytes());
    bytes.count(settings.dimensions);
    bytes.text(settings.metric.name());
    bytes.text(settings.analyzer.language());
    bytes.text(&settings.model);
    bytes.all([settings.bm25.k1, settings.bm25.b].iter().map(|v| v.to_le_bytes()));
    bytes.0.push(u8::from(settings.context));
    bytes.count(sequences.len());
    for name in sequences {
        bytes.text(name);
    }
    bytes.count(blocks.len());
    for block in blocks.iter().flatten() {
        bytes.0.extend(block.at.to_le_bytes());
        bytes.0.extend(block.len.to_le_bytes());
        bytes.0.extend(block.crc.to_le_bytes());
    }
    bytes
}

// --- reading ---

struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Parsed<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| damaged("a block ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| damaged("a block ends too early"))
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Parsed<usize> {
        let count = self.u64()?;
        usize::try_from(count).map_err(|_| damaged("a count does not fit this machine"))
    }

    fn text(&mut self) -> Parsed<&'b str> {
        let len = self.count()?;
        std::str::from_utf8(self.take(len)?).map_err(|_| damaged("a text is not UTF-8"))
    }

    /// `count` values of `N` bytes; nothing is allocated before the bytes are known to be there.
    fn all<T, const N: usize>(&mut self, count: usize, parse: impl Fn([u8; N]) -> T) -> Parsed<Vec<T>> {
        let len = count.checked_mul(N).ok_or_else(|| damaged("a count is too large"))?;
        let (chunks, _) = self.take(len)?.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| parse(chunk)).collect())
    }
}

fn block_of(bytes: &[u8], block: Block) -> Parsed<&[u8]> {
    let start = usize::try_from(block.at).map_err(|_| damaged("a block lies outside the file"))?;
    let len = usize::try_from(block.len).map_err(|_| damaged("a block lies outside the file"))?;
    let end = start.checked_add(len).ok_or_else(|| damaged("a block lies outside the file"))?;
    let found = bytes.get(start..end).ok_or_else(|| damaged("a block lies outside the file"))?;
    if crc32fast::hash(found) != block.crc {
        return Err(damaged("a checksum does not match"));
    }
    Ok(found)
}

fn footer_of(bytes: &[u8]) -> Parsed<&[u8]> {
    let foreign = || SnapshotError("this is not a snapshot of a memory index".to_owned());
    if bytes.len() < 16 + TRAILER_BYTES || &bytes[..8] != MAGIC {
        return Err(foreign());
    }
    let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if version != FORMAT_VERSION {
        return Err(SnapshotError(format!(
            "the snapshot has format version {version}, this version reads {FORMAT_VERSION}"
        )));
    }
    let mut trailer = Reader { rest: &bytes[bytes.len() - TRAILER_BYTES..] };
    let block = Block { at: trailer.u64()?, len: trailer.u64()?, crc: trailer.u32()? };
    if trailer.u32()? != FORMAT_VERSION || trailer.rest != MAGIC {
        return Err(damaged("it was cut off"));
    }
    block_of(bytes, block)
}

/// Makes an index from the bytes of a snapshot, its segments read by `threads` threads. With `mapped` the `f32` elements
/// stay in the bytes, and everything else is copied; the bytes must then not change as long as the index lives, or
/// rankings go wrong (memory safety does not depend on it).
///
/// # Errors
///
/// If the bytes are foreign, damaged, or of another version.
pub fn read_snapshot(bytes: &SharedBytes, mapped: bool, threads: usize) -> Parsed<Index> {
    let all: &[u8] = (**bytes).as_ref();
    let mut footer = Reader { rest: footer_of(all)? };
    let settings = read_settings(&mut footer)?;
    let sequences = footer.count()?;
    let names: Vec<String> = (0..sequences).map(|_| footer.text().map(str::to_owned)).collect::<Parsed<_>>()?;
    let segments = footer.count()?;
    let mut block = || Ok(Block { at: footer.u64()?, len: footer.u64()?, crc: footer.u32()? });
    let blocks: Vec<[Block; 2]> = (0..segments).map(|_| Ok([block()?, block()?])).collect::<Parsed<_>>()?;
    let index = Index::new(settings);
    {
        let mut writer = index.writer.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &names {
            writer.sequence_number(name);
        }
        if writer.sequence_names.len() != names.len() {
            return Err(damaged("two sequences have one name"));
        }
        let (mut state, mut edits) = (State::default(), Edits::default());
        let read = |[vectors, columns]: [Block; 2]| {
            let segment = read_segment(&index.settings, bytes, mapped, vectors, columns, names.len())?;
            let hashes = writer.hashes(&segment);
            Ok((segment, hashes))
        };
        let segments = each_in_threads(&blocks, threads, &read)?;
        writer.reserve(segments.iter().map(|(segment, _)| segment.rows).sum());
        for (segment, hashes) in segments {
            let at = writer.next_row as usize % CHUNK_ROWS;
            if at + segment.rows > CHUNK_ROWS {
                writer.next_row += u32::try_from(CHUNK_ROWS - at).unwrap_or(0);
            }
            if u32::try_from(writer.next_row as usize + 2 * CHUNK_ROWS).is_err() {
                return Err(damaged("it has too many rows"));
            }
            if !writer.enter_new(&state, &segment, &hashes) {
                return Err(damaged("an id occurs twice"));
            }
            writer.attach(&mut state, segment, &mut edits);
        }
        edits.link(&mut state);
        index.state.publish(Arc::new(state));
    }
    Ok(index)
}

/// What `read` makes of every segment, in order; the first error in that order, if there is one.
fn each_in_threads<T: Send>(
    blocks: &[[Block; 2]],
    threads: usize,
    read: &(dyn Fn([Block; 2]) -> Parsed<T> + Sync),
) -> Parsed<Vec<T>> {
    let threads = threads.min(blocks.len());
    if threads <= 1 {
        return blocks.iter().map(|&block| read(block)).collect();
    }
    // Each thread takes the next segment, so that they go through the bytes side by side.
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(&block) = blocks.get(index)
        {
            let result = read(block);
            if result.is_err() {
                next.store(blocks.len(), Ordering::Relaxed);
            }
            done.push((index, result));
        }
        done
    };
    let mut all: Vec<(usize, Parsed<T>)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        all.extend(others.into_iter().flat_map(|other| other.join().expect("reading does not panic")));
        all
    });
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

fn read_settings(footer: &mut Reader<'_>) -> Parsed<Settings> {
    let (codes, version) = (footer.u32()?, footer.u32()?);
    if codes != CODE_VERSION || !(OLDEST_ANALYZER_VERSION..=ANALYZER_VERSION).contains(&version) {
        return Err(SnapshotError(format!(
            "the snapshot has codes of version {codes} and words of version {version}, this version reads codes of \
             {CODE_VERSION} and words of {OLDEST_ANALYZER_VERSION} to {ANALYZER_VERSION}; build the index again"
        )));
    }
    let dimensions = footer.count()?;
    if dimensions == 0 || dimensions > MAX_DIMENSIONS {
        return Err(damaged("the number of dimensions is out of range"));
    }
    let metric = Metric::named(footer.text()?).ok_or_else(|| damaged("the similarity is unknown"))?;
    let analyzer = Analyzer::of_version(version, footer.text()?).ok_or_else(|| damaged("the language is unknown"))?;
    let model = footer.text()?.to_owned();
    let (k1, b) = (f64::from_le_bytes(footer.array()?), f64::from_le_bytes(footer.array()?));
    if !(k1.is_finite() && k1 >= 0.0 && (0.0..=1.0).contains(&b)) {
        return Err(damaged("a constant of BM25 is out of range"));
    }
    let [context] = footer.array()?;
    let rotation = Rotation::new(dimensions);
    Ok(Settings { dimensions, metric, analyzer, bm25: Bm25 { k1, b }, context: context == 1, model, rotation })
}

fn read_segment(
    settings: &Settings,
    bytes: &SharedBytes,
    mapped: bool,
    vectors: Block,
    columns: Block,
    sequences: usize,
) -> Parsed<Segment> {
    let all: &[u8] = (**bytes).as_ref();
    let elements = block_of(all, vectors)?;
    let mut reader = Reader { rest: block_of(all, columns)? };
    let rows = reader.count()?;
    if rows == 0 || rows > CHUNK_ROWS {
        return Err(damaged("a segment has an impossible number of rows"));
    }
    let mut segment = Segment { rows, id_bytes: reader.text()?.to_owned(), ..Segment::default() };
    segment.id_ends = reader.all(rows, u32::from_le_bytes)?;
    check_ids(&segment)?;
    segment.importance = reader.all(rows, f64::from_le_bytes)?;
    segment.access_count = reader.all(rows, f64::from_le_bytes)?;
    segment.timestamps_s = reader.all(rows, f64::from_le_bytes)?;
    segment.words = reader.all(rows, u32::from_le_bytes)?;
    segment.has_text = reader.all(rows, |[v]: [u8; 1]| v == 1)?;
    for _ in 0..rows {
        let (number, step) = (reader.u32()?, i64::from_le_bytes(reader.array()?));
        if number != NO_ROW && number as usize >= sequences {
            return Err(damaged("a sequence has no name"));
        }
        segment.sequence.push((number != NO_ROW).then_some((number, step)));
    }
    if !elements.is_empty() {
        if elements.len() != rows * settings.dimensions * 4 {
            return Err(damaged("a segment has too few vectors"));
        }
        segment.squares = reader.all(rows, f64::from_le_bytes)?;
        segment.codes.steps = reader.all(rows, f32::from_le_bytes)?;
        segment.codes.coarse_residuals = reader.all(rows, f32::from_le_bytes)?;
        segment.codes.fine_residuals = reader.all(rows, f32::from_le_bytes)?;
        segment.codes.norms = reader.all(rows, f32::from_le_bytes)?;
        let plane = rows * settings.rotation.plane_bytes();
        let (given_high, given_low) = (reader.take(plane)?, reader.take(plane)?);
        segment.planes = Planes::zeroed(plane);
        let (high, low) = segment.planes.split_mut();
        high.copy_from_slice(given_high);
        low.copy_from_slice(given_low);
        let elements = if mapped && cfg!(target_endian = "little") {
            let at = usize::try_from(vectors.at).map_err(|_| damaged("a block lies outside"))?;
            Elements::Mapped(Arc::clone(bytes), at)
        } else {
            let (chunks, _) = elements.as_chunks::<4>();
            Elements::Owned(Arc::new(chunks.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()))
        };
        segment.parts.push(Part { first: 0, rows, elements });
    }
    read_postings(&mut segment, &mut reader)?;
    if reader.rest.is_empty() { Ok(segment) } else { Err(damaged("a block is too long")) }
}

fn check_ids(segment: &Segment) -> Parsed<()> {
    let mut start = 0;
    for &end in &segment.id_ends {
        if end < start || !segment.id_bytes.is_char_boundary(end as usize) {
            return Err(damaged("an id is cut"));
        }
        start = end;
    }
    // Whether one occurs twice is found out where they are entered in the table.
    if start as usize == segment.id_bytes.len() { Ok(()) } else { Err(damaged("ids are missing")) }
}

fn read_postings(segment: &mut Segment, reader: &mut Reader<'_>) -> Parsed<()> {
    let check = |rows: &[u16], limit: usize| {
        let is_ascending = rows.windows(2).all(|pair| pair[0] < pair[1]);
        let is_inside = rows.last().is_none_or(|&row| usize::from(row) < limit);
        if is_ascending && is_inside { Ok(()) } else { Err(damaged("a word is in an impossible row")) }
    };
    let terms = reader.count()?;
    // A term takes at least 16 bytes: a count that is not true reserves no more than there are bytes.
    segment.terms.reserve(terms.min(reader.rest.len() / 16));
    for _ in 0..terms {
        let term = reader.text()?.into();
        let count = reader.count()?;
        let rows = reader.all(count, u16::from_le_bytes)?;
        check(&rows, segment.rows)?;
        let counts = reader.all(count, u16::from_le_bytes)?;
        segment.terms.insert(term, rows.into_iter().zip(counts).collect());
    }
    for _ in 0..reader.count()? {
        let attribute = reader.text()?.into();
        let count = reader.count()?;
        let rows = reader.all(count, u16::from_le_bytes)?;
        check(&rows, segment.rows)?;
        segment.attributes.insert(attribute, rows);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::segment::NewRow;
    use super::super::text::{Analyzer, Bm25};
    use super::super::{Index, Settings};
    use super::{Metric, Rotation, SharedBytes, read_snapshot, write_snapshot};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn snapshot() -> Vec<u8> {
        let analyzer = Analyzer::new("english").unwrap();
        let row = |n: u8| NewRow {
            id: format!("m{n:02}"),
            text: n.is_multiple_of(2).then(|| analyzer.count("Rivers and stones")),
            timestamp_s: f64::NAN,
            attributes: vec!["kind".to_owned()],
            sequence: n.is_multiple_of(3).then_some((0, i64::from(n))),
            ..NewRow::default()
        };
        let bare: Vec<NewRow> = (0..10).map(row).collect();
        let rows: Vec<NewRow> = (10..70).map(row).collect();
        let vectors = (10..70_u8).flat_map(|n| [f32::from(n), 1.0, -2.0]).collect();
        let index = Index::new(Settings {
            dimensions: 3,
            metric: Metric::Cosine,
            analyzer,
            bm25: Bm25::default(),
            context: true,
            model: "m".to_owned(),
            rotation: Rotation::new(3),
        });
        index.upsert(bare, Vec::new(), &["s".to_owned()]).unwrap();
        index.upsert(rows, vectors, &["s".to_owned()]).unwrap();
        index.delete(["m03", "m69"]);
        let mut bytes = Vec::new();
        write_snapshot(&index, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_is_read_and_written_the_same() {
        let bytes = snapshot();
        for mapped in [false, true] {
            let index = read_snapshot(&(Arc::new(bytes.clone()) as SharedBytes), mapped, 2).unwrap();
            assert_eq!(index.state().len(), 68);
            let mut again = Vec::new();
            write_snapshot(&index, &mut again).unwrap();
            assert_eq!(again, bytes);
        }
    }

    /// Puts right every checksum, so that damage gets past them to the checks behind.
    fn mend(bytes: &mut [u8]) {
        let end = bytes.len();
        let Ok(trailer) = <[u8; 16]>::try_from(&bytes[end - 32..end - 16]) else { return };
        let at = u64::from_le_bytes(trailer[..8].try_into().unwrap());
        let len = u64::from_le_bytes(trailer[8..].try_into().unwrap());
        let (Ok(at), Ok(len)) = (usize::try_from(at), usize::try_from(len)) else { return };
        let Some(stop) = at.checked_add(len).filter(|&stop| stop <= end - 32 && len >= 40) else { return };
        for entry in [stop - 40, stop - 20] {
            let place = u64::from_le_bytes(bytes[entry..entry + 8].try_into().unwrap());
            let size = u64::from_le_bytes(bytes[entry + 8..entry + 16].try_into().unwrap());
            let (Ok(place), Ok(size)) = (usize::try_from(place), usize::try_from(size)) else { return };
            let Some(block) = place.checked_add(size).and_then(|stop| bytes.get(place..stop)) else { return };
            let crc = crc32fast::hash(block);
            bytes[entry + 16..entry + 20].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[at..stop]);
        bytes[end - 16..end - 12].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn an_id_that_occurs_twice_is_found_in_its_segment_and_in_another() {
        for twice in [*b"m12", *b"m00"] {
            let mut bytes = snapshot();
            let place = bytes.windows(3).position(|bytes| bytes == b"m11").unwrap();
            bytes[place..place + 3].copy_from_slice(&twice);
            mend(&mut bytes);
            for threads in [1, 2, 9] {
                let error = read_snapshot(&(Arc::new(bytes.clone()) as SharedBytes), true, threads).unwrap_err();
                assert_eq!(error.to_string(), "the snapshot is damaged: an id occurs twice");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { ProptestConfig::default().cases.max(2000) }))]

        #[test]
        fn damage_is_an_error_and_never_a_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
            is_mended in any::<bool>(),
            threads in 1_usize..3,
        ) {
            let original = snapshot();
            let mut bytes = original.clone();
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if is_mended && bytes.len() > 64 {
                mend(&mut bytes);
            }
            let result = read_snapshot(&(Arc::new(bytes.clone()) as SharedBytes), true, threads);
            if let Ok(index) = result {
                // Only padding changed, or the mending hid the damage: then it must still be usable.
                write_snapshot(&index, &mut Vec::new()).unwrap();
            } else {
                prop_assert!(bytes != original);
            }
        }
    }
}
