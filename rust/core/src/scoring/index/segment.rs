//! Segments: rows that never change once made. What changes about a row (whether it lives, its neighbours in its
//! sequence) is kept apart and copied on write, so that a reader's snapshot stays what it was.

use super::codes::{Encoder, Rotation, RowCode};
use super::planes::Planes;
use crate::scoring::kernels::Rows;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows of a full segment.
pub const CHUNK_ROWS: usize = 8192;

/// No row.
pub const NO_ROW: u32 = u32::MAX;

/// Occurrences of a term: the row within its segment and how often.
pub type Posting = (u16, u16);

/// One row as it comes in.
#[derive(Clone, Debug, Default)]
pub struct NewRow {
    /// Its name; unique in the index.
    pub id: String,
    /// Terms of its text with their counts, and the number of words.
    pub text: Option<(HashMap<String, u16>, u32)>,
    /// Importance.
    pub importance: f64,
    /// Accesses so far.
    pub access_count: f64,
    /// Seconds since the epoch; `NaN` if unknown.
    pub timestamp_s: f64,
    /// Encoded attributes.
    pub attributes: Vec<String>,
    /// The sequence it is part of, by number, and its step.
    pub sequence: Option<(u32, i64)>,
}

/// Immutable rows.
#[derive(Debug, Default)]
pub struct Segment {
    pub(crate) rows: usize,
    pub(crate) id_bytes: String,
    pub(crate) id_ends: Vec<u32>,
    /// The `f32` elements, in ascending order of rows; rows without a vector may lie between.
    pub(crate) parts: Vec<Part>,
    pub(crate) planes: Planes,
    pub(crate) codes: Codes,
    /// Squared norms in `f64`; `NaN` for a row without a vector.
    pub(crate) squares: Vec<f64>,
    pub(crate) importance: Vec<f64>,
    pub(crate) access_count: Vec<f64>,
    pub(crate) timestamps_s: Vec<f64>,
    pub(crate) words: Vec<u32>,
    pub(crate) has_text: Vec<bool>,
    pub(crate) terms: HashMap<Box<str>, Vec<Posting>>,
    pub(crate) attributes: HashMap<Box<str>, Vec<u16>>,
    pub(crate) sequence: Vec<Option<(u32, i64)>>,
}

/// The numbers of [`RowCode`] as columns.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    pub(crate) steps: Vec<f32>,
    pub(crate) coarse_residuals: Vec<f32>,
    pub(crate) fine_residuals: Vec<f32>,
    pub(crate) norms: Vec<f32>,
}

impl Codes {
    pub(crate) fn push(&mut self, code: &RowCode) {
        self.steps.push(code.step);
        self.coarse_residuals.push(code.coarse_residual);
        self.fine_residuals.push(code.fine_residual);
        self.norms.push(code.norm);
    }

    fn extend(&mut self, others: &Self) {
        self.steps.extend_from_slice(&others.steps);
        self.coarse_residuals.extend_from_slice(&others.coarse_residuals);
        self.fine_residuals.extend_from_slice(&others.fine_residuals);
        self.norms.extend_from_slice(&others.norms);
    }

    pub(crate) fn get(&self, row: usize) -> RowCode {
        RowCode {
            step: self.steps[row],
            coarse_residual: self.coarse_residuals[row],
            fine_residual: self.fine_residuals[row],
            norm: self.norms[row],
        }
    }
}

/// The `f32` elements of consecutive rows. Segments that are joined share them, so no join copies many vectors.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// The first row within the segment.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) elements: Elements,
}

/// Where elements are: in memory, or in the bytes of a snapshot.
#[derive(Clone)]
pub(crate) enum Elements {
    /// In memory.
    Owned(Arc<Vec<f32>>),
    /// In borrowed bytes, most likely a mapped file: little-endian, from an offset.
    Mapped(Arc<dyn AsRef<[u8]> + Send + Sync>, usize),
}

impl std::fmt::Debug for Elements {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Owned(_) => "Owned",
            Self::Mapped(..) => "Mapped",
        })
    }
}

impl Part {
    fn matrix(&self, dimensions: usize) -> Option<Rows<'_>> {
        match &self.elements {
            Elements::Owned(values) => Some(Rows::from_slice(values, dimensions)),
            Elements::Mapped(bytes, offset) => {
                let end = offset + self.rows * dimensions * 4;
                Some(Rows::from_bytes((**bytes).as_ref().get(*offset..end)?, dimensions))
            }
        }
    }
}

/// Parts in memory with fewer rows in sum are copied into one, so that a segment has few of them.
const SMALL_PART_ROWS: usize = 512;

fn push_part(parts: &mut Vec<Part>, part: Part) {
    if let Some(last) = parts.last_mut()
        && last.first + last.rows == part.first
        && last.rows + part.rows <= SMALL_PART_ROWS
        && let (Elements::Owned(old), Elements::Owned(new)) = (&mut last.elements, &part.elements)
    {
        // A part that a reader's state shares is copied, one that is not grows in place.
        Arc::make_mut(old).extend_from_slice(new);
        last.rows += part.rows;
    } else {
        parts.push(part);
    }
}

impl Segment {
    /// Makes a segment of at most [`CHUNK_ROWS`] rows. `vectors` holds the finite elements of all of them, or is empty.
    pub(crate) fn build(
        rows: Vec<NewRow>,
        vectors: Vec<f32>,
        dimensions: usize,
        rotation: &Rotation,
        normalize: bool,
    ) -> Self {
        let mut segment = Self::default();
        if !vectors.is_empty() {
            segment.encode(&vectors, dimensions, rotation, normalize);
            let elements = Elements::Owned(Arc::new(vectors));
            segment.parts.push(Part { first: 0, rows: rows.len(), elements });
        }
        for row in rows {
            let local = u16::try_from(segment.rows).expect("a segment has at most 8,192 rows");
            segment.id_bytes.push_str(&row.id);
            segment.id_ends.push(u32::try_from(segment.id_bytes.len()).expect("ids of a segment fit 4 GB"));
            segment.importance.push(row.importance);
            segment.access_count.push(row.access_count);
            segment.timestamps_s.push(row.timestamp_s);
            segment.has_text.push(row.text.is_some());
            let (terms, words) = row.text.unwrap_or_default();
            segment.words.push(words);
            for (term, count) in terms {
                segment.terms.entry(term.into()).or_default().push((local, count));
            }
            for attribute in row.attributes {
                segment.attributes.entry(attribute.into()).or_default().push(local);
            }
            segment.sequence.push(row.sequence);
            segment.rows += 1;
        }
        segment
    }

    fn encode(&mut self, vectors: &[f32], dimensions: usize, rotation: &Rotation, normalize: bool) {
        let plane = rotation.plane_bytes();
        let matrix = Rows::from_slice(vectors, dimensions);
        let mut encoder = Encoder::new(rotation);
        let zero_query = vec![0.0_f64; dimensions];
        self.planes = Planes::zeroed(matrix.len() * plane);
        let (high, low) = self.planes.split_mut();
        let planes = high.chunks_exact_mut(plane).zip(low.chunks_exact_mut(plane));
        for (row, (vector, (high, low))) in vectors.chunks_exact(dimensions).zip(planes).enumerate() {
            // The operations of a search's `exact_dot`, so that norms agree with it to the last bit.
            let square = matrix.exact_dot(&zero_query, row).1;
            let (factor, norm) =
                if normalize && square > 0.0 { (1.0 / square.sqrt(), 1.0) } else { (1.0, square.sqrt()) };
            self.codes.push(&encoder.encode(vector, factor, norm, high, low));
            self.squares.push(square);
        }
    }

    pub(crate) fn id(&self, row: usize) -> &str {
        let start = if row == 0 { 0 } else { self.id_ends[row - 1] as usize };
        &self.id_bytes[start..self.id_ends[row] as usize]
    }

    pub(crate) fn has_vectors(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The `f32` elements of a row, wherever they are: a matrix and the row's place in it.
    pub(crate) fn vector_at(&self, row: usize, dimensions: usize) -> Option<(Rows<'_>, usize)> {
        let after = self.parts.partition_point(|part| part.first <= row);
        let part = self.parts.get(after.checked_sub(1)?)?;
        let place = row - part.first;
        (place < part.rows).then(|| part.matrix(dimensions)).flatten().map(|matrix| (matrix, place))
    }

    /// A row as it came in, without its vector, words and attributes.
    pub(crate) fn row(&self, row: usize) -> NewRow {
        NewRow {
            id: self.id(row).to_owned(),
            text: self.has_text[row].then(|| (HashMap::new(), self.words[row])),
            importance: self.importance[row],
            access_count: self.access_count[row],
            timestamp_s: self.timestamps_s[row],
            attributes: Vec::new(),
            sequence: self.sequence[row],
        }
    }

    /// Gives rows of this segment back their words and attributes: `places` says which of `rows` each is.
    pub(crate) fn invert(&self, places: &HashMap<u16, usize>, rows: &mut [Option<NewRow>]) {
        for (term, postings) in &self.terms {
            for (local, count) in postings {
                let row = places.get(local).and_then(|&position| rows[position].as_mut());
                if let Some((terms, _)) = row.and_then(|row| row.text.as_mut()) {
                    terms.insert(term.to_string(), *count);
                }
            }
        }
        for (attribute, having) in &self.attributes {
            for local in having {
                if let Some(row) = places.get(local).and_then(|&position| rows[position].as_mut()) {
                    row.attributes.push(attribute.to_string());
                }
            }
        }
    }

    /// This segment with its elements in borrowed bytes, all rows of them from `at` on.
    pub(crate) fn mapped(&self, bytes: &Arc<dyn AsRef<[u8]> + Send + Sync>, at: usize, plane_bytes: usize) -> Self {
        let all = (0..self.rows).filter_map(|row| u16::try_from(row).ok()).collect();
        let mut out = Self::gather(&[(self, all)], 0, plane_bytes);
        out.parts = vec![Part { first: 0, rows: self.rows, elements: Elements::Mapped(Arc::clone(bytes), at) }];
        out
    }

    /// A new segment of the listed rows of others, in order.
    pub(crate) fn gather(sources: &[(&Self, Vec<u16>)], dimensions: usize, plane_bytes: usize) -> Self {
        let mut out = Self::default();
        let has_vectors = sources.iter().any(|(segment, rows)| segment.has_vectors() && !rows.is_empty());
        let total: usize = sources.iter().map(|(_, rows)| rows.len()).sum();
        if has_vectors {
            out.planes = Planes::zeroed(total * plane_bytes);
        }
        for (source, rows) in sources {
            let start = out.rows;
            let mut place = vec![u16::MAX; source.rows];
            for (offset, &row) in rows.iter().enumerate() {
                place[row as usize] = u16::try_from(start + offset).expect("a segment has at most 8,192 rows");
            }
            if has_vectors {
                out.gather_vectors(source, rows, dimensions, plane_bytes);
            }
            for row in rows.iter().map(|&row| row as usize) {
                out.id_bytes.push_str(source.id(row));
                out.id_ends.push(u32::try_from(out.id_bytes.len()).expect("ids of a segment fit 4 GB"));
                out.importance.push(source.importance[row]);
                out.access_count.push(source.access_count[row]);
                out.timestamps_s.push(source.timestamps_s[row]);
                out.words.push(source.words[row]);
                out.has_text.push(source.has_text[row]);
                out.sequence.push(source.sequence[row]);
            }
            for (term, postings) in &source.terms {
                let kept = postings.iter().map(|&(row, count)| (place[row as usize], count));
                append(&mut out.terms, term, kept.filter(|(row, _)| *row != u16::MAX));
            }
            for (attribute, postings) in &source.attributes {
                let kept = postings.iter().map(|&row| place[row as usize]);
                append(&mut out.attributes, attribute, kept.filter(|row| *row != u16::MAX));
            }
            out.rows += rows.len();
        }
        out
    }

    /// Takes over the vectors of listed rows of `source` as the next rows of this segment.
    fn gather_vectors(&mut self, source: &Self, rows: &[u16], dimensions: usize, plane: usize) {
        let start = self.rows;
        if !source.has_vectors() {
            let nothing = RowCode { step: 0.0, coarse_residual: 0.0, fine_residual: 0.0, norm: 0.0 };
            for _ in rows {
                self.codes.push(&nothing);
            }
            self.squares.resize(start + rows.len(), f64::NAN);
            return;
        }
        let (high, low) = self.planes.split_mut();
        if rows.len() == source.rows {
            let bytes = start * plane..(start + rows.len()) * plane;
            high[bytes.clone()].copy_from_slice(source.planes.high());
            low[bytes].copy_from_slice(source.planes.low());
            self.codes.extend(&source.codes);
            self.squares.extend_from_slice(&source.squares);
            for part in &source.parts {
                push_part(&mut self.parts, Part { first: start + part.first, ..part.clone() });
            }
            return;
        }
        let mut vectors = Vec::with_capacity(rows.len() * dimensions);
        for (offset, row) in rows.iter().map(|&row| row as usize).enumerate() {
            let (from, to) = (row * plane, (start + offset) * plane);
            high[to..to + plane].copy_from_slice(&source.planes.high()[from..from + plane]);
            low[to..to + plane].copy_from_slice(&source.planes.low()[from..from + plane]);
            self.codes.push(&source.codes.get(row));
            self.squares.push(source.squares[row]);
            let at = vectors.len();
            vectors.resize(at + dimensions, 0.0);
            if let Some((matrix, place)) = source.vector_at(row, dimensions) {
                matrix.copy_f32(place, &mut vectors[at..]);
            }
        }
        let elements = Elements::Owned(Arc::new(vectors));
        push_part(&mut self.parts, Part { first: start, rows: rows.len(), elements });
    }
}

fn append<T>(map: &mut HashMap<Box<str>, Vec<T>>, key: &str, values: impl Iterator<Item = T>) {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return;
    }
    if let Some(list) = map.get_mut(key) {
        list.extend(values);
    } else {
        map.insert(key.into(), values.collect());
    }
}

/// A set of rows of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn filled(rows: usize) -> Self {
        let mut words = vec![u64::MAX; rows.div_ceil(64)];
        if let Some(last) = words.last_mut()
            && !rows.is_multiple_of(64)
        {
            *last = (1 << (rows % 64)) - 1;
        }
        Self(words)
    }

    pub(crate) fn empty(rows: usize) -> Self {
        Self(vec![0; rows.div_ceil(64)])
    }

    pub(crate) fn has(&self, row: usize) -> bool {
        self.0[row / 64] >> (row % 64) & 1 == 1
    }

    pub(crate) fn set(&mut self, row: usize) {
        self.0[row / 64] |= 1 << (row % 64);
    }

    pub(crate) fn clear(&mut self, row: usize) {
        self.0[row / 64] &= !(1 << (row % 64));
    }

    pub(crate) fn keep(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= other;
        }
    }

    /// Takes out the rows whose value does not pass; without a branch for each, which random times would mispredict.
    pub(crate) fn keep_where(&mut self, values: &[f64], passes: impl Fn(f64) -> bool) {
        for (word, values) in self.0.iter_mut().zip(values.chunks(64)) {
            let bit = |(place, &value): (usize, &f64)| u64::from(passes(value)) << place;
            *word &= values.iter().enumerate().map(bit).fold(0, |bits, bit| bits | bit);
        }
    }

    /// Clears the bits of `words` that are not set here from row `start`, a multiple of 64, on.
    pub(crate) fn keep_within(&self, start: usize, words: &mut [u64]) {
        debug_assert!(start.is_multiple_of(64), "whole words");
        for (word, own) in words.iter_mut().zip(&self.0[start / 64..]) {
            *word &= own;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        set_bits(&self.0)
    }
}

/// The positions of the bits that are set, ascending.
pub(crate) fn set_bits(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(index, &word)| {
        std::iter::successors((word != 0).then_some(word), |word| {
            let rest = word & (word - 1);
            (rest != 0).then_some(rest)
        })
        .map(move |word| index * 64 + word.trailing_zeros() as usize)
    })
}

/// A segment in a snapshot, with what changes about its rows.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Number of its first row.
    pub(crate) base: u32,
    pub(crate) data: Arc<Segment>,
    pub(crate) live: Arc<Bits>,
    pub(crate) live_rows: usize,
    /// The rows before and after each row in its sequence; `None` if no row has a sequence.
    pub(crate) links: Option<Arc<Vec<[u32; 2]>>>,
}

impl Slot {
    /// How many of the listed rows are live.
    pub(crate) fn count_live(&self, list: &[Posting]) -> usize {
        if self.live_rows == self.data.rows {
            return list.len();
        }
        list.iter().filter(|(row, _)| self.live.has(*row as usize)).count()
    }

    pub(crate) fn end(&self) -> u32 {
        self.base + u32::try_from(self.data.rows).expect("a segment has at most 8,192 rows")
    }
}
