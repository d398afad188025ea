//! Segments: rows that never change once made. What changes about a row (whether it lives, who stands beside it in its
//! sequence) is kept apart and copied on write, so that a reader's snapshot stays what it was.

use super::codes::{Encoder, Rotation, RowCode};
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
    /// Finite elements; empty for a row without a vector.
    pub vector: Vec<f32>,
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
    /// `rows * dimensions`, or empty if no row has a vector.
    pub(crate) vectors: Vectors,
    pub(crate) high: Vec<u8>,
    pub(crate) low: Vec<u8>,
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

    pub(crate) fn get(&self, row: usize) -> RowCode {
        RowCode {
            step: self.steps[row],
            coarse_residual: self.coarse_residuals[row],
            fine_residual: self.fine_residuals[row],
            norm: self.norms[row],
        }
    }
}

/// Where the `f32` elements are: in memory, or in the bytes of a snapshot.
#[derive(Clone, Default)]
pub enum Vectors {
    /// There are none.
    #[default]
    None,
    /// In memory.
    Owned(Vec<f32>),
    /// In somebody's bytes, most likely a mapped file: little-endian, from an offset.
    Mapped(Arc<dyn AsRef<[u8]> + Send + Sync>, usize),
}

impl std::fmt::Debug for Vectors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::None => "None",
            Self::Owned(_) => "Owned",
            Self::Mapped(..) => "Mapped",
        })
    }
}

impl Segment {
    /// Makes a segment of at most [`CHUNK_ROWS`] rows.
    pub(crate) fn build(rows: Vec<NewRow>, dimensions: usize, rotation: &Rotation, normalize: bool) -> Self {
        let mut segment = Self::default();
        let has_vectors = rows.iter().any(|row| !row.vector.is_empty());
        let mut encoder = Encoder::new(rotation);
        let mut vectors = Vec::with_capacity(if has_vectors { rows.len() * dimensions } else { 0 });
        if has_vectors {
            segment.high.reserve_exact(rows.len() * rotation.plane_bytes());
            segment.low.reserve_exact(rows.len() * rotation.plane_bytes());
        }
        let zeros = vec![0.0_f32; dimensions];
        let zero_query = vec![0.0_f64; dimensions];
        for row in rows {
            let local = u16::try_from(segment.rows).expect("a segment has at most 8,192 rows");
            if has_vectors {
                let vector: &[f32] = if row.vector.is_empty() { &zeros } else { &row.vector };
                // The operations of a search's `exact_dot`, so that norms agree with it to the last bit.
                let square = Rows::from_slice(vector, dimensions).exact_dot(&zero_query, 0).1;
                let (factor, norm) =
                    if normalize && square > 0.0 { (1.0 / square.sqrt(), 1.0) } else { (1.0, square.sqrt()) };
                let code = encoder.encode(vector, factor, norm, &mut segment.high, &mut segment.low);
                segment.codes.push(&code);
                segment.squares.push(if row.vector.is_empty() { f64::NAN } else { square });
                vectors.extend_from_slice(vector);
            }
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
        if has_vectors {
            segment.vectors = Vectors::Owned(vectors);
        }
        segment
    }

    pub(crate) fn id(&self, row: usize) -> &str {
        let start = if row == 0 { 0 } else { self.id_ends[row - 1] as usize };
        &self.id_bytes[start..self.id_ends[row] as usize]
    }

    pub(crate) fn has_vectors(&self) -> bool {
        !matches!(self.vectors, Vectors::None)
    }

    /// The rows' `f32` elements, wherever they are.
    pub(crate) fn vector_rows(&self, dimensions: usize) -> Option<Rows<'_>> {
        match &self.vectors {
            Vectors::None => None,
            Vectors::Owned(values) => Some(Rows::from_slice(values, dimensions)),
            Vectors::Mapped(bytes, offset) => {
                let end = offset + self.rows * dimensions * 4;
                Some(Rows::from_bytes((**bytes).as_ref().get(*offset..end)?, dimensions))
            }
        }
    }

    /// A new segment of the listed rows of others, in order.
    pub(crate) fn gather(sources: &[(&Self, Vec<u16>)], dimensions: usize, plane_bytes: usize) -> Self {
        let mut out = Self::default();
        let has_vectors = sources.iter().any(|(segment, rows)| segment.has_vectors() && !rows.is_empty());
        let total: usize = sources.iter().map(|(_, rows)| rows.len()).sum();
        let mut vectors: Vec<f32> = Vec::new();
        if has_vectors {
            vectors.reserve_exact(total * dimensions);
            out.high.reserve_exact(total * plane_bytes);
            out.low.reserve_exact(total * plane_bytes);
        }
        for (source, rows) in sources {
            let start = out.rows;
            let mut place = vec![u16::MAX; source.rows];
            for (offset, &row) in rows.iter().enumerate() {
                place[row as usize] = u16::try_from(start + offset).expect("a segment has at most 8,192 rows");
            }
            if has_vectors {
                out.gather_vectors(source, rows, dimensions, plane_bytes, &mut vectors);
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
        if has_vectors {
            out.vectors = Vectors::Owned(vectors);
        }
        out
    }

    fn gather_vectors(&mut self, source: &Self, rows: &[u16], dimensions: usize, plane: usize, vectors: &mut Vec<f32>) {
        let foreign = source.vector_rows(dimensions);
        for row in rows.iter().map(|&row| row as usize) {
            let start = vectors.len();
            vectors.resize(start + dimensions, 0.0);
            if let Some(foreign) = &foreign {
                foreign.copy_f32(row, &mut vectors[start..]);
                self.high.extend_from_slice(&source.high[row * plane..][..plane]);
                self.low.extend_from_slice(&source.low[row * plane..][..plane]);
                self.codes.push(&source.codes.get(row));
                self.squares.push(source.squares[row]);
            } else {
                self.high.resize(self.high.len() + plane, 0);
                self.low.resize(self.low.len() + plane, 0);
                self.codes.push(&RowCode { step: 0.0, coarse_residual: 0.0, fine_residual: 0.0, norm: 0.0 });
                self.squares.push(f64::NAN);
            }
        }
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

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(index, &word)| {
            std::iter::successors((word != 0).then_some(word), |word| {
                let rest = word & (word - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |word| index * 64 + word.trailing_zeros() as usize)
        })
    }
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
    pub(crate) fn end(&self) -> u32 {
        self.base + u32::try_from(self.data.rows).expect("a segment has at most 8,192 rows")
    }
}
