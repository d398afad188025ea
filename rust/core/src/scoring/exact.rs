//! Ranks rows of a matrix that belongs to the caller, by an `f32` pass with proven error bounds and an `f64` re-rank of
//! the rows that the bounds cannot decide.

use super::kernels::{Element, F32_SAFE_SQUARES, Kernels, Rows, exact_square, f32_error_factor};
use super::parts::{Metric, Scale, closeness};
use super::topk::{Interval, Ranked, best};
use std::ops::Range;

/// Rows per call of a kernel: the results stay in the first-level cache.
const BLOCK_ROWS: usize = 256;

/// Slack for what is computed in `f64`: far above its rounding for [`super::kernels::MAX_DIMENSIONS`] dimensions.
pub(crate) const F64_SLACK: f64 = 1e-11;

/// A weighted part other than the similarity: one value for each row that takes part, already finite.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its weight; not negative.
    pub weight: f64,
    /// Its values, in the order of the rows that take part.
    pub values: Vec<f64>,
}

/// What to rank.
#[derive(Debug)]
pub struct Request<'a> {
    /// The query.
    pub query: &'a [f64],
    /// How vectors are compared.
    pub metric: Metric,
    /// Weight of the similarity; not negative.
    pub similarity_weight: f64,
    /// The other parts.
    pub parts: &'a [Part],
    /// Whether each part is put on 0..=1 by min-max over the rows that take part.
    pub min_max: bool,
    /// The rows that take part, ascending; `None` is all of them.
    pub eligible: Option<&'a [u32]>,
    /// Scores below it are left out.
    pub threshold: f64,
    /// How many to return; at least one.
    pub k: usize,
    /// Threads to use; at least one.
    pub threads: usize,
    /// Whether the values of each part are wanted.
    pub components: bool,
}

/// The answer.
#[derive(Debug)]
pub struct Answer {
    /// The best rows. `index` counts the rows that take part; `row` of it is in [`Answer::rows`].
    pub ranked: Vec<Ranked>,
    /// Rows of the matrix, in the order of `ranked`.
    pub rows: Vec<u32>,
    /// The scaled similarity of each of them, if components were asked for.
    pub similarity: Vec<f64>,
    /// The scaled values of each part for each of them, if components were asked for.
    pub parts: Vec<Vec<f64>>,
    /// Rows whose `f64` value was needed to decide.
    pub candidates: usize,
}

/// A query with its forms and norms.
struct Query<'a> {
    wide: &'a [f64],
    narrow: Vec<f32>,
    square: f64,
    /// Error of `q.x` in the `f32` pass, per unit of `|x|`: rounding of the sums and of the query itself.
    error_per_norm: f64,
    /// Relative error of the squared norms of rows.
    slack: f64,
    metric: Metric,
}

impl<'a> Query<'a> {
    #[allow(clippy::cast_possible_truncation)] // the rounding is measured and is part of the bound
    fn new(wide: &'a [f64], metric: Metric) -> Self {
        let narrow: Vec<f32> = wide.iter().map(|&q| q as f32).collect();
        let square = exact_square(wide);
        let rounding: Vec<f64> = wide.iter().zip(&narrow).map(|(&w, &n)| w - f64::from(n)).collect();
        let rounding = exact_square(&rounding);
        let factor = f32_error_factor(wide.len());
        let error_per_norm = (factor * square.sqrt() + rounding.sqrt()) * (1.0 + 2.0 * factor);
        let slack = 2.0 * factor + F64_SLACK;
        Self { wide, narrow, square, error_per_norm, slack, metric }
    }

    /// Whether the `f32` pass is safe from overflow and underflow for this query.
    fn is_moderate(&self) -> bool {
        self.square == 0.0
            || (f64::from(F32_SAFE_SQUARES.start)..f64::from(F32_SAFE_SQUARES.end)).contains(&self.square)
    }

    fn exact(&self, rows: &Rows<'_>, row: u32) -> f64 {
        let row = row as usize;
        let value = match self.metric {
            Metric::Euclidean => closeness(rows.exact_distance_square(self.wide, row)),
            Metric::InnerProduct => rows.exact_dot(self.wide, row).0,
            Metric::Cosine => {
                let (dot, square) = rows.exact_dot(self.wide, row);
                cosine(dot, self.square, square)
            }
        };
        if value.is_finite() { value } else { f64::NAN }
    }

    fn interval(&self, dot: f32, square: f32) -> Interval {
        let square = f64::from(square);
        let dot = f64::from(dot);
        let error = self.error_per_norm * square.sqrt();
        self.metric.interval(Interval { low: dot - error, high: dot + error }, self.square, square, self.slack)
    }
}

/// The cosine from `f64` sums: 0 if either vector is zero, `NaN` if a sum is not finite.
#[must_use]
pub fn cosine(dot: f64, query_square: f64, row_square: f64) -> f64 {
    if query_square == 0.0 || row_square == 0.0 {
        return if row_square.is_finite() { 0.0 } else { f64::NAN };
    }
    let value = dot / (query_square.sqrt() * row_square.sqrt());
    if row_square.is_finite() { value.clamp(-1.0, 1.0) } else { f64::NAN }
}

/// Ranks `rows`.
///
/// # Panics
///
/// If lengths disagree or an eligible row is out of range.
#[must_use]
pub fn rank(kernels: Kernels, rows: &Rows<'_>, request: &Request<'_>) -> Answer {
    let count = request.eligible.map_or(rows.len(), <[u32]>::len);
    let row_of = |index: usize| match request.eligible {
        Some(eligible) => eligible[index],
        None => u32::try_from(index).expect("rows are counted in 32 bits"),
    };
    for part in request.parts {
        assert_eq!(part.values.len(), count, "one value per row that takes part");
    }
    let query = Query::new(request.query, request.metric);
    let exact = |index: usize| query.exact(rows, row_of(index));

    let mut intervals = vec![Interval::NONE; count];
    fill_in_threads(request.threads, &mut intervals, &|start, piece| {
        fill(kernels, rows, &query, &row_of, start, piece);
    });

    let similarity_scale = if request.min_max { extremes(&intervals, exact) } else { Scale::IDENTITY };
    let scale_of = |p: &Part| {
        if request.min_max { Scale::spanning(p.values.iter().copied()) } else { Scale::IDENTITY }
    };
    let scales: Vec<Scale> = request.parts.iter().map(scale_of).collect();
    let weighted = request.parts.iter().zip(&scales);
    let extra = |index: usize| -> f64 {
        // Begins with +0.0, so that no total is -0.0, which would rank below an equal one.
        weighted.clone().fold(0.0, |sum, (part, scale)| sum + part.weight * scale.apply(part.values[index]))
    };
    let total = |similarity: f64, extra: f64| request.similarity_weight * similarity_scale.apply(similarity) + extra;
    #[allow(clippy::float_cmp)] // exactly one leaves values as they are
    let is_plain = request.similarity_weight == 1.0 && request.parts.is_empty() && !request.min_max;
    if !is_plain {
        for (index, interval) in intervals.iter_mut().enumerate() {
            let extra = extra(index);
            *interval = Interval { low: total(interval.low, extra), high: total(interval.high, extra) };
        }
    }
    let (ranked, candidates) =
        best(&intervals, request.k, request.threshold, |index| total(exact(index), extra(index)));
    let similarity = ranked.iter().map(|r| similarity_scale.apply(exact(r.index as usize))).collect();
    let value = |(part, scale): (&Part, &Scale)| -> Vec<f64> {
        ranked.iter().map(|r| scale.apply(part.values[r.index as usize])).collect()
    };
    let parts = request.parts.iter().zip(&scales).map(value).collect();
    let rows = ranked.iter().map(|r| row_of(r.index as usize)).collect();
    Answer { ranked, rows, similarity, parts, candidates }
}

/// The scale between the exact smallest and largest similarity: only rows whose intervals reach the extremes are
/// computed exactly.
fn extremes(intervals: &[Interval], exact: impl Fn(usize) -> f64) -> Scale {
    let (top, _) = best(intervals, 1, f64::NEG_INFINITY, &exact);
    let mirrored: Vec<Interval> = intervals.iter().map(|i| Interval { low: -i.high, high: -i.low }).collect();
    let (bottom, _) = best(&mirrored, 1, f64::NEG_INFINITY, |index| -exact(index));
    match (bottom.first(), top.first()) {
        (Some(low), Some(high)) => Scale::between(-low.value, high.value),
        _ => Scale::IDENTITY,
    }
}

/// Splits `out` between threads; `fill(start, piece)` fills the piece that begins at `start`.
fn fill_in_threads(threads: usize, out: &mut [Interval], fill: &(dyn Fn(usize, &mut [Interval]) + Sync)) {
    let piece_len = out.len().div_ceil(threads.max(1)).max(BLOCK_ROWS);
    if out.len() <= piece_len {
        fill(0, out);
        return;
    }
    std::thread::scope(|scope| {
        for (piece, slots) in out.chunks_mut(piece_len).enumerate() {
            let start = piece * piece_len;
            scope.spawn(move || fill(start, slots));
        }
    });
}

fn fill(
    kernels: Kernels,
    rows: &Rows<'_>,
    query: &Query<'_>,
    row_of: &dyn Fn(usize) -> u32,
    start: usize,
    out: &mut [Interval],
) {
    let mut listed = Vec::with_capacity(BLOCK_ROWS);
    let mut scratch = Scratch::new(rows);
    for block_start in (0..out.len()).step_by(BLOCK_ROWS) {
        let block: Range<usize> = block_start..out.len().min(block_start + BLOCK_ROWS);
        listed.clear();
        listed.extend(block.clone().map(|index| row_of(start + index)));
        let slots = &mut out[block];
        if rows.element() == Element::F64 || !query.is_moderate() {
            for (slot, &row) in slots.iter_mut().zip(&listed) {
                *slot = Interval::exactly(query.exact(rows, row));
            }
            continue;
        }
        let (dots, squares) = scratch.dot_squares(kernels, query, rows, &listed);
        for (slot, ((&dot, &square), &row)) in slots.iter_mut().zip(dots.iter().zip(squares).zip(&listed)) {
            let is_safe = F32_SAFE_SQUARES.contains(&square) && dot.is_finite();
            *slot = if is_safe { query.interval(dot, square) } else { Interval::exactly(query.exact(rows, row)) };
        }
    }
}

/// Buffers of one thread.
struct Scratch {
    dots: Vec<f32>,
    squares: Vec<f32>,
    widened: Vec<f32>,
    all: Vec<u32>,
}

impl Scratch {
    fn new(rows: &Rows<'_>) -> Self {
        let halves = if rows.element() == Element::F16 { BLOCK_ROWS } else { 0 };
        let all = (0..u32::try_from(halves).unwrap_or(0)).collect();
        let widened = vec![0.0; halves * rows.dimensions()];
        Self { dots: vec![0.0; BLOCK_ROWS], squares: vec![0.0; BLOCK_ROWS], widened, all }
    }

    fn dot_squares(
        &mut self,
        kernels: Kernels,
        query: &Query<'_>,
        rows: &Rows<'_>,
        listed: &[u32],
    ) -> (&[f32], &[f32]) {
        let (dots, squares) = (&mut self.dots[..listed.len()], &mut self.squares[..listed.len()]);
        if rows.element() == Element::F16 {
            let widened = &mut self.widened[..listed.len() * rows.dimensions()];
            for (&row, slots) in listed.iter().zip(widened.chunks_exact_mut(rows.dimensions())) {
                rows.copy_f32(row as usize, slots);
            }
            let widened = Rows::from_slice(widened, rows.dimensions());
            kernels.dot_squares(&query.narrow, &widened, &self.all[..listed.len()], dots, squares);
        } else {
            kernels.dot_squares(&query.narrow, rows, listed, dots, squares);
        }
        (dots, squares)
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, Request, cosine, rank};
    use crate::scoring::kernels::{Kernels, Rows, Tier};
    use crate::scoring::parts::{Metric, closeness};
    use proptest::prelude::*;

    fn naive_similarity(metric: Metric, query: &[f64], row: &[f32]) -> f64 {
        let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
        let dot: f64 = query.iter().zip(&row).map(|(q, x)| q * x).sum();
        let square = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
        match metric {
            Metric::InnerProduct => dot,
            Metric::Cosine => cosine(dot, square(query), square(&row)),
            Metric::Euclidean => closeness(query.iter().zip(&row).map(|(q, x)| (q - x).powi(2)).sum()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 300 }))]

        #[test]
        fn every_tier_ranks_like_the_naive_model(
            (query, values) in (1_usize..40, 0_usize..60).prop_flat_map(|(d, n)| (
                prop::collection::vec(-4_i8..4, d),
                prop::collection::vec(-3_i8..3, d * n),
            )),
            metric in prop::sample::select(Metric::NAMES.map(|(_, metric)| metric).to_vec()),
            min_max in any::<bool>(),
            k in 1_usize..20,
            threads in 1_usize..3,
            keep in 1_usize..4,
        ) {
            // Small integers make many exact ties: those must come out by index.
            let d = query.len();
            let query: Vec<f64> = query.into_iter().map(f64::from).collect();
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let matrix = Rows::from_slice(&values, d);
            let eligible: Vec<u32> = (0..u32::try_from(matrix.len()).unwrap()).step_by(keep).collect();
            let importance: Vec<f64> = eligible.iter().map(|row| f64::from(row % 3)).collect();
            let parts = [Part { weight: 0.5, values: importance.clone() }];
            let request = Request {
                query: &query, metric, similarity_weight: 1.0, parts: &parts, min_max,
                eligible: Some(&eligible), threshold: f64::NEG_INFINITY, k, threads, components: true,
            };
            let scale = |v: &[f64]| -> Vec<f64> {
                let low = v.iter().copied().fold(f64::INFINITY, f64::min);
                let high = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                if !min_max { return v.to_vec(); }
                v.iter().map(|x| if high > low { (x - low) / (high - low) } else { 0.0 }).collect()
            };
            let row = |r: u32| &values[r as usize * d..][..d];
            let similarity: Vec<f64> = eligible.iter().map(|&r| naive_similarity(metric, &query, row(r))).collect();
            let similarity = scale(&similarity);
            let importance = scale(&importance);
            let naive: Vec<f64> = similarity.iter().zip(&importance).map(|(s, i)| s + 0.5 * i).collect();
            let mut sorted = naive.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let mut first = None;
            for kernels in Tier::ALL.into_iter().filter_map(Kernels::forced) {
                let answer = rank(kernels, &matrix, &request);
                prop_assert_eq!(answer.ranked.len(), k.min(eligible.len()));
                for (place, ranked) in answer.ranked.iter().enumerate() {
                    prop_assert!((ranked.value - naive[ranked.index as usize]).abs() < 1e-9);
                    prop_assert!((ranked.value - sorted[place]).abs() < 1e-9);
                    if place > 0 {
                        let before = answer.ranked[place - 1];
                        let in_order = before.value > ranked.value
                            || (before.value.total_cmp(&ranked.value).is_eq() && before.index < ranked.index);
                        prop_assert!(in_order);
                    }
                }
                let first = first.get_or_insert_with(|| answer.ranked.clone());
                prop_assert_eq!(&*first, &answer.ranked, "tiers agree to the last bit");
            }
        }
    }

    #[test]
    fn rows_that_are_not_finite_are_not_ranked() {
        let values = [1.0, 0.0, f32::NAN, 0.0, f32::INFINITY, 1.0, 0.5, f32::MAX, 0.0, 0.0];
        let request = Request {
            query: &[1.0, 0.0],
            metric: Metric::Cosine,
            similarity_weight: 1.0,
            parts: &[],
            min_max: false,
            eligible: None,
            threshold: f64::NEG_INFINITY,
            k: 9,
            threads: 1,
            components: true,
        };
        let answer = rank(Kernels::detect(), &Rows::from_slice(&values, 2), &request);
        assert_eq!(answer.rows, [0, 3, 4], "MAX overflows f32 but not f64; the zero vector scores 0");
        assert_eq!(answer.ranked[2].value.to_bits(), 0.0_f64.to_bits());
    }
}
