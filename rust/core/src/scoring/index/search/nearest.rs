//! The vector's part of a search: passes over ever fewer rows, each with narrower intervals than the one before.

use super::{Eligible, Found, Hit, Searcher};
use crate::scoring::exact::{F64_SLACK, cosine};
use crate::scoring::index::codes::QueryCode;
use crate::scoring::index::segment::{Bits, Slot, set_bits};
use crate::scoring::kernels::{CoarseBound, TILE_QUERIES, exact_square, prefetch};
use crate::scoring::parts::{Metric, closeness};
use crate::scoring::topk::{Interval, KthLargest};

/// Rows per call of a kernel: their codes stay in the second-level cache while all queries of a batch pass over them.
const BLOCK_ROWS: usize = 256;

/// Rows whose low planes are on their way while another is looked at.
const PREFETCHED_ROWS: usize = 6;

/// A row that may be among the best.
#[derive(Clone, Copy, Debug)]
struct Survivor {
    slot: u32,
    local: u32,
    high: f64,
}

/// A query vector with its codes, and the best that were found so far.
pub(super) struct Prepared<'q> {
    pub(super) exact: &'q [f64],
    pub(super) square: f64,
    code: QueryCode,
    bound: CoarseBound,
    /// The factor that makes a dot product of codes a similarity.
    unit: f64,
    best: KthLargest,
    survivors: Vec<Survivor>,
}

impl Searcher<'_> {
    pub(super) fn prepare<'q>(&self, vector: &'q [f64], k: usize) -> Prepared<'q> {
        let square = exact_square(vector);
        let code = QueryCode::new(&self.settings.rotation, vector);
        let bound = code.coarse_bound();
        let is_cosine = self.settings.metric == Metric::Cosine;
        let unit = if is_cosine && square > 0.0 { 1.0 / square.sqrt() } else { 1.0 };
        Prepared { exact: vector, square, code, bound, unit, best: KthLargest::new(k), survivors: Vec::new() }
    }

    pub(super) fn exact(&self, query: &[f64], square: f64, slot: usize, local: usize) -> f64 {
        let data = &self.state.slots[slot].data;
        let Some((rows, place)) = data.vector_at(local, self.settings.dimensions) else { return f64::NAN };
        if data.squares[local].is_nan() {
            return f64::NAN;
        }
        let value = match self.settings.metric {
            Metric::Euclidean => closeness(rows.exact_distance_square(query, place)),
            Metric::InnerProduct => rows.exact_dot(query, place).0,
            Metric::Cosine => {
                let (dot, row_square) = rows.exact_dot(query, place);
                cosine(dot, square, row_square)
            }
        };
        value + 0.0 // a quotient may underflow to -0.0, which would rank below an equal 0.0
    }

    pub(super) fn nearest(&self, vectors: &[&[f64]], k: usize, eligible: &Eligible) -> Vec<Found> {
        let mut queries: Vec<Prepared<'_>> = vectors.iter().map(|vector| self.prepare(vector, k)).collect();
        for (index, (slot, eligible)) in self.state.slots.iter().zip(eligible).enumerate() {
            if slot.data.has_vectors() {
                self.scan(index, slot, eligible.as_ref(), &mut queries);
            }
        }
        queries.into_iter().map(|query| self.decide(query, k)).collect()
    }

    fn scan(&self, index: usize, slot: &Slot, eligible: Option<&Bits>, queries: &mut [Prepared<'_>]) {
        let plane = self.settings.rotation.plane_bytes();
        let mut raw = vec![[0_i32; BLOCK_ROWS]; TILE_QUERIES];
        for start in (0..slot.data.rows).step_by(BLOCK_ROWS) {
            let end = slot.data.rows.min(start + BLOCK_ROWS);
            let codes = &slot.data.planes.high()[start * plane..end * plane];
            for tile in queries.chunks_mut(TILE_QUERIES) {
                if let [a, b, c, d] = &*tile {
                    let planes = [a, b, c, d].map(|query| query.code.coarse());
                    let [w, x, y, z] = raw.as_mut_slice() else { unreachable!("four lanes") };
                    let out = [w, x, y, z].map(|lane| &mut lane[..end - start]);
                    self.kernels.nibble_dots_tile(planes, codes, out);
                } else {
                    for (query, lane) in tile.iter().zip(&mut raw) {
                        self.kernels.nibble_dots(query.code.coarse(), codes, &mut lane[..end - start]);
                    }
                }
                for (query, lane) in tile.iter_mut().zip(&raw) {
                    self.sift(index, slot, eligible, query, start, &lane[..end - start]);
                }
            }
        }
    }

    /// Keeps the rows of a block whose coarse and then fine upper end reaches the floor.
    #[allow(clippy::cast_possible_truncation)] // the floor is rounded down by the comparison's slack
    fn sift(
        &self,
        index: usize,
        slot: &Slot,
        eligible: Option<&Bits>,
        query: &mut Prepared<'_>,
        start: usize,
        raw: &[i32],
    ) {
        let codes = &slot.data.codes;
        let rows = start..start + raw.len();
        let columns = [&codes.steps[rows.clone()], &codes.coarse_residuals[rows.clone()], &codes.norms[rows.clone()]];
        if query.best.floor() == f64::NEG_INFINITY {
            self.seed(slot, eligible, query, start, raw);
        }
        // Below `floor` in f32 is below it in f64, because the floor is taken a little lower.
        let floor = query.best.floor() / query.unit;
        let floor = (floor - floor.abs() * 1e-6 - 1e-37) as f32;
        let mut reaching = [0_u64; BLOCK_ROWS / 64];
        let reaching = &mut reaching[..raw.len().div_ceil(64)];
        self.kernels.reaching(&query.bound, floor, raw, columns, reaching);
        if let Some(eligible) = eligible {
            eligible.keep_within(start, reaching);
        }
        let plane = self.settings.rotation.plane_bytes();
        // The low planes lie anywhere in memory: they are asked for some rows ahead.
        let mut ahead = set_bits(reaching);
        let mut ask = || {
            if let Some(offset) = ahead.next() {
                prefetch(&slot.data.planes.low()[(start + offset) * plane..][..plane]);
            }
        };
        (0..PREFETCHED_ROWS).for_each(|_| ask());
        for offset in set_bits(reaching) {
            ask();
            let local = start + offset;
            let planes = local * plane..(local + 1) * plane;
            let (high, low) = (&slot.data.planes.high()[planes.clone()], &slot.data.planes.low()[planes]);
            let code = codes.get(local);
            let first = query.code.first_after(self.kernels, raw[offset], low);
            let (value, error) = query.code.medium(first, &code);
            let slack = F64_SLACK * (1.0 + value.abs() * query.unit);
            if (value + error) * query.unit + slack < query.best.floor() {
                continue; // so is its lower end
            }
            if slot.data.squares[local].is_nan() {
                continue;
            }
            let (value, error) = query.code.fine(self.kernels, first, high, low, &code);
            let slack = F64_SLACK * (1.0 + value.abs() * query.unit);
            let upper = (value + error) * query.unit + slack;
            query.best.push((value - error) * query.unit - slack);
            if upper >= query.best.floor() {
                let (slot, local) = (index as u32, local as u32);
                query.survivors.push(Survivor { slot, local, high: upper });
            }
        }
    }

    /// Finds a first floor from the fine lower ends of the rows of the first block that look best, so that few others
    /// need be looked at. It is kept apart from the lower ends found later: no row may be counted twice.
    fn seed(&self, slot: &Slot, eligible: Option<&Bits>, query: &mut Prepared<'_>, start: usize, raw: &[i32]) {
        let (bound, k) = (query.bound, query.best.k());
        let takes_part = |&offset: &usize| {
            let local = start + offset;
            eligible.is_none_or(|rows| rows.has(local)) && !slot.data.squares[local].is_nan()
        };
        let likely =
            |offset: usize| slot.data.codes.steps[start + offset] * (bound.scale * raw[offset] as f32 - bound.offset);
        let mut rows: Vec<(f32, usize)> =
            (0..raw.len()).filter(takes_part).map(|offset| (likely(offset), start + offset)).collect();
        if rows.len() < k {
            return;
        }
        rows.select_nth_unstable_by(k - 1, |a, b| b.0.total_cmp(&a.0));
        let lower = |&(_, local): &(f32, usize)| {
            let plane = self.settings.rotation.plane_bytes();
            let planes = local * plane..(local + 1) * plane;
            let (high, low) = (&slot.data.planes.high()[planes.clone()], &slot.data.planes.low()[planes]);
            let first = query.code.first_after(self.kernels, raw[local - start], low);
            let (value, error) = query.code.fine(self.kernels, first, high, low, &slot.data.codes.get(local));
            (value - error) * query.unit - F64_SLACK * (1.0 + value.abs() * query.unit)
        };
        // Any k rows will do: all of them reach the smallest of their lower ends.
        let mut floor = f64::INFINITY;
        for low in rows[..k].iter().map(lower) {
            if !low.is_finite() {
                return;
            }
            floor = floor.min(low);
        }
        query.best.raise(floor);
    }

    /// Ranks the survivors by their exact values, most promising first, until no other can come in.
    fn decide(&self, mut query: Prepared<'_>, k: usize) -> Found {
        let floor = query.best.settle();
        let mut survivors = std::mem::take(&mut query.survivors);
        survivors.retain(|survivor| survivor.high >= floor);
        if survivors.len() * 8 <= self.state.live_rows {
            survivors.sort_unstable_by(|a, b| b.high.total_cmp(&a.high));
        }
        let mut hits = Vec::new();
        let mut exact_best = KthLargest::new(k);
        for survivor in survivors {
            if survivor.high < exact_best.floor() {
                continue;
            }
            let (slot, local) = (survivor.slot as usize, survivor.local as usize);
            let score = self.exact(query.exact, query.square, slot, local);
            exact_best.push(score);
            hits.push(Hit { row: self.state.slots[slot].base + survivor.local, score });
        }
        let candidates = hits.len();
        self.order(&mut hits, k);
        Found { hits, candidates, ..Found::default() }
    }

    /// Intervals of the similarities of the listed rows, slot by slot, from both planes of their codes and the first plane
    /// of the query. Coarse codes alone would leave most rows to be looked at again: a fused score needs the least similar
    /// row as well as the most similar ones, and most rows are about as dissimilar.
    pub(super) fn intervals(&self, prepared: &Prepared<'_>, rows: &[(u32, u32)]) -> Vec<Interval> {
        let mut intervals = Vec::with_capacity(rows.len());
        for of_slot in rows.chunk_by(|a, b| a.0 == b.0) {
            let data = &self.state.slots[of_slot[0].0 as usize].data;
            if !data.has_vectors() {
                intervals.extend(of_slot.iter().map(|_| Interval::NONE));
                continue;
            }
            let high = self.dots(prepared, data.planes.high(), data.rows, of_slot);
            let low = self.dots(prepared, data.planes.low(), data.rows, of_slot);
            let dots = high.into_iter().zip(low);
            intervals.extend(of_slot.iter().zip(dots).map(|(&(_, local), (high, low))| {
                let local = local as usize;
                if data.squares[local].is_nan() {
                    return Interval::NONE;
                }
                let (value, error) = prepared.code.medium(prepared.code.first(high, low), &data.codes.get(local));
                self.similarity_interval(prepared, value, error, data.squares[local])
            }));
        }
        intervals
    }

    /// The dot products of the listed rows of one plane with the first plane of the query: many of them in one pass over
    /// the plane, few of them one by one.
    fn dots(&self, prepared: &Prepared<'_>, plane: &[u8], rows: usize, listed: &[(u32, u32)]) -> Vec<i32> {
        let query = prepared.code.coarse();
        if listed.len() * 4 < rows {
            let bytes = self.settings.rotation.plane_bytes();
            let one = |&(_, local): &(u32, u32)| {
                let mut out = [0];
                self.kernels.nibble_dots(query, &plane[local as usize * bytes..][..bytes], &mut out);
                out[0]
            };
            return listed.iter().map(one).collect();
        }
        let mut all = vec![0; rows];
        self.kernels.nibble_dots(query, plane, &mut all);
        if listed.len() == rows {
            return all;
        }
        listed.iter().map(|&(_, local)| all[local as usize]).collect()
    }

    pub(super) fn fine_interval(&self, prepared: &Prepared<'_>, (slot, local): (u32, u32)) -> Interval {
        let data = &self.state.slots[slot as usize].data;
        let local = local as usize;
        if !data.has_vectors() || data.squares[local].is_nan() {
            return Interval::NONE;
        }
        let plane = self.settings.rotation.plane_bytes();
        let planes = local * plane..(local + 1) * plane;
        let (high, low) = (&data.planes.high()[planes.clone()], &data.planes.low()[planes]);
        let first = prepared.code.first_of(self.kernels, high, low);
        let (value, error) = prepared.code.fine(self.kernels, first, high, low, &data.codes.get(local));
        self.similarity_interval(prepared, value, error, data.squares[local])
    }

    fn similarity_interval(&self, prepared: &Prepared<'_>, value: f64, error: f64, square: f64) -> Interval {
        let dot = Interval { low: value - error, high: value + error };
        let scaled = match self.settings.metric {
            Metric::Euclidean => self.settings.metric.interval(dot, prepared.square, square, F64_SLACK),
            _ => Interval { low: dot.low * prepared.unit, high: dot.high * prepared.unit },
        };
        let slack = F64_SLACK * (1.0 + value.abs() * prepared.unit);
        Interval { low: scaled.low - slack, high: scaled.high + slack }
    }
}
