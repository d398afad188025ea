//! Ranks rows of a matrix that belongs to the caller, by an `f32` pass with proven error bounds and an `f64` re-rank of
//! the rows that the bounds cannot decide.

use super::index::segment::set_bits;
use super::kernels::{
    Chosen, Element, F32_SAFE_SQUARES, Kernels, Line, MAX_ROWS_AHEAD, Rows, exact_square, f32_error_factor, packed,
};
use super::parts::{Metric, Scale, closeness};
use super::topk::{Interval, KthLargest, Ranked, best};
use std::ops::Range;

/// Rows per call of a kernel: the results, and half-precision rows while they are widened, stay in the cache.
const BLOCK_ROWS: usize = 256;

/// Rows of the first block; each of the next is as large as those before it together.
const FIRST_BLOCK_ROWS: usize = 32;

/// Covers the rounding of a few `f32` operations, relative to the size of their terms.
const F32_SLACK: f64 = 2e-6;

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

/// A bit for each row of a block; those beyond the last row may be anything.
type BlockBits = [u64; BLOCK_ROWS / 64];

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

impl Query<'_> {
    /// The bits of the rows of a block whose score may reach `floor`: a quick look, of which [`Self::interval`] is the
    /// careful one. A score reaches it where the similarity reaches `s = (floor - extra) / weight`;
    /// with `c` for the error of the `f32` pass per unit of `|x|`,
    ///
    /// - of the inner product that is where `q.x + c|x| - s >= 0`,
    /// - of the cosine where `q.x + (c - s|q|)|x| >= 0`.
    ///
    /// Both are `dot + slope * sqrt(square) - rise >= 0` in `f32`, with slope and rise leaning to the side of reaching.
    fn reaching(&self, pass: &Pass<'_>, totals: &Totals<'_>, first: usize, floor: f64, sums: Sums<'_>) -> BlockBits {
        let mut words = [u64::MAX; BLOCK_ROWS / 64];
        let norm = self.square.sqrt();
        let is_dot = self.metric != Metric::Euclidean;
        if floor == f64::NEG_INFINITY || !is_dot || totals.weight <= 0.0 {
            return words;
        }
        #[allow(clippy::cast_possible_truncation)] // the rounding is in the slack
        let line = |extra: f64| {
            let needed = (floor - extra - F64_SLACK * (floor.abs() + extra.abs())) / totals.weight;
            let (across, rise) = if self.metric == Metric::Cosine { (needed * norm, 0.0) } else { (0.0, needed) };
            let slope = self.error_per_norm - across + F32_SLACK * norm + (F32_SLACK + self.slack) * across.abs();
            Line { slope: slope as f32, rise: (rise - F32_SLACK * rise.abs()) as f32 }
        };
        if totals.parts.is_empty() {
            let words = &mut words[..sums.dots.len().div_ceil(64)];
            pass.kernels.above(line(0.0), sums.dots, sums.squares, words);
        } else {
            let mut is_above = [0_u8; BLOCK_ROWS];
            for (offset, (&dot, &square)) in sums.dots.iter().zip(sums.squares).enumerate() {
                is_above[offset] = u8::from(line(totals.extra(first + offset)).is_above(dot, square));
            }
            words = std::array::from_fn(|word| packed(&is_above.as_chunks::<64>().0[word]));
        }
        words
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

/// A row that may be among the best: which of those that take part, and where its score lies.
#[derive(Clone, Copy)]
struct Candidate {
    index: usize,
    score: Interval,
}

/// The scores of rows: the similarity and the other parts, scaled and weighted.
struct Totals<'a> {
    weight: f64,
    similarity_scale: Scale,
    parts: Vec<(&'a Part, Scale)>,
}

impl Totals<'_> {
    fn extra(&self, index: usize) -> f64 {
        // Begins with +0.0, so that no total is -0.0, which would rank below an equal one.
        self.parts.iter().fold(0.0, |sum, (part, scale)| sum + part.weight * scale.apply(part.values[index]))
    }

    fn of(&self, similarity: f64, index: usize) -> f64 {
        self.weight * self.similarity_scale.apply(similarity) + self.extra(index)
    }

    fn interval(&self, similarity: Interval, index: usize) -> Interval {
        let extra = self.extra(index);
        let of = |similarity| self.weight * self.similarity_scale.apply(similarity) + extra;
        Interval { low: of(similarity.low), high: of(similarity.high) }
    }
}

/// Ranks `rows`.
///
/// # Panics
///
/// If lengths disagree or an eligible row is out of range.
#[must_use]
pub fn rank(kernels: Kernels, rows: &Rows<'_>, request: &Request<'_>) -> Answer {
    let count = request.eligible.map_or(rows.len(), <[u32]>::len);
    for part in request.parts {
        assert_eq!(part.values.len(), count, "one value per row that takes part");
    }
    let pass = Pass { kernels, rows, query: Query::new(request.query, request.metric), eligible: request.eligible };
    let scale_of = |part: &Part| {
        if request.min_max { Scale::spanning(part.values.iter().copied()) } else { Scale::IDENTITY }
    };
    let mut totals = Totals {
        weight: request.similarity_weight,
        similarity_scale: Scale::IDENTITY,
        parts: request.parts.iter().map(|part| (part, scale_of(part))).collect(),
    };
    let candidates: Vec<Candidate> = if request.min_max {
        let similarities = in_threads(request.threads, count, &|piece| pass.intervals(piece));
        totals.similarity_scale = extremes(&similarities, |index| pass.exact(index));
        let scored = |(index, &interval)| Candidate { index, score: totals.interval(interval, index) };
        similarities.iter().enumerate().map(scored).collect()
    } else {
        in_threads(request.threads, count, &|piece| pass.sift(piece, &totals, request.k, request.threshold))
    };
    let scores: Vec<Interval> = candidates.iter().map(|candidate| candidate.score).collect();
    let exact = |place: usize| {
        let index = candidates[place].index;
        totals.of(pass.exact(index), index)
    };
    let (mut ranked, decided) = best(&scores, request.k, request.threshold, exact);
    for ranked in &mut ranked {
        ranked.index = u32::try_from(candidates[ranked.index as usize].index).expect("rows are counted in 32 bits");
    }
    answer(&pass, &totals, ranked, decided, request.components)
}

fn answer(pass: &Pass<'_>, totals: &Totals<'_>, ranked: Vec<Ranked>, candidates: usize, components: bool) -> Answer {
    let rows = ranked.iter().map(|r| pass.row_of(r.index as usize)).collect();
    let shown = if components { &ranked[..] } else { &[] };
    let similarity = |r: &Ranked| totals.similarity_scale.apply(pass.exact(r.index as usize));
    let value = |(part, scale): &(&Part, Scale)| -> Vec<f64> {
        shown.iter().map(|r| scale.apply(part.values[r.index as usize])).collect()
    };
    let similarity = shown.iter().map(similarity).collect();
    let parts = totals.parts.iter().map(value).collect();
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

/// Splits `0..count` between threads and puts together, in order, what `work` makes of each piece.
fn in_threads<T: Send>(threads: usize, count: usize, work: &(dyn Fn(Range<usize>) -> Vec<T> + Sync)) -> Vec<T> {
    let share = count.div_ceil(threads.max(1)).max(BLOCK_ROWS);
    if count <= share {
        return work(0..count);
    }
    std::thread::scope(|scope| {
        let piece = |start: usize| scope.spawn(move || work(start..count.min(start + share)));
        let handles: Vec<_> = (0..count).step_by(share).map(piece).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("a pass does not panic")).collect()
    })
}

/// One query and the rows that it passes over.
struct Pass<'a> {
    kernels: Kernels,
    rows: &'a Rows<'a>,
    query: Query<'a>,
    /// The rows that take part; `None` is all of them. An *index* counts these.
    eligible: Option<&'a [u32]>,
}

impl Pass<'_> {
    fn row_of(&self, index: usize) -> u32 {
        self.eligible
            .map_or_else(|| u32::try_from(index).expect("rows are counted in 32 bits"), |eligible| eligible[index])
    }

    fn exact(&self, index: usize) -> f64 {
        self.query.exact(self.rows, self.row_of(index))
    }

    /// The intervals of the similarities of a piece.
    fn intervals(&self, piece: Range<usize>) -> Vec<Interval> {
        let mut found = Vec::with_capacity(piece.len());
        self.each_block(piece, |block, sums| {
            found.extend(block.clone().map(|index| self.interval(index, sums.map(|s| s.of(index - block.start)))));
        });
        found
    }

    /// The rows of a piece whose scores reach the `k`-th lower end that was found before them. A row that is left out is
    /// below `k` others, or below the threshold.
    fn sift(&self, piece: Range<usize>, totals: &Totals<'_>, k: usize, threshold: f64) -> Vec<Candidate> {
        let mut lowest = KthLargest::new(k);
        let mut found = Vec::new();
        self.each_block(piece, |block, sums| {
            let floor = lowest.floor().max(threshold);
            let reaching = sums.map_or([u64::MAX; BLOCK_ROWS / 64], |sums| {
                self.query.reaching(self, totals, block.start, floor, sums)
            });
            for index in set_bits(&reaching).map(|bit| block.start + bit).take_while(|&index| index < block.end) {
                let similarity = self.interval(index, sums.map(|s| s.of(index - block.start)));
                let score = totals.interval(similarity, index);
                if score.high >= lowest.floor().max(threshold) {
                    lowest.push(score.low);
                    found.push(Candidate { index, score });
                }
            }
        });
        found
    }

    fn interval(&self, index: usize, sums: Option<(f32, f32)>) -> Interval {
        match sums {
            Some((dot, square)) if F32_SAFE_SQUARES.contains(&square) && dot.is_finite() => {
                self.query.interval(dot, square)
            }
            _ => Interval::exactly(self.exact(index)),
        }
    }

    /// Calls `each` with blocks of at most [`BLOCK_ROWS`] of a piece, and the sums of their rows if `f32` will do.
    fn each_block(&self, piece: Range<usize>, mut each: impl FnMut(Range<usize>, Option<Sums<'_>>)) {
        let is_wide = self.rows.element() == Element::F64 || !self.query.is_moderate();
        let mut scratch = Scratch::new(self.rows);
        let mut end = piece.start;
        while end < piece.end {
            // The first blocks are small: until there is a floor, every row of a block is looked at carefully.
            let start = end;
            end = piece.end.min(start + (start - piece.start).clamp(FIRST_BLOCK_ROWS, BLOCK_ROWS));
            let block = start..end;
            if is_wide {
                each(block, None);
                continue;
            }
            let chosen = match self.eligible {
                Some(eligible) => Chosen::Listed(&eligible[start..piece.end.min(end + MAX_ROWS_AHEAD)]),
                None => Chosen::From(start),
            };
            each(block.clone(), Some(scratch.dot_squares(self.kernels, &self.query, self.rows, chosen, block.len())));
        }
    }
}

/// `q.x` and `x.x` of the rows of a block, in `f32`.
#[derive(Clone, Copy)]
struct Sums<'s> {
    dots: &'s [f32],
    squares: &'s [f32],
}

impl Sums<'_> {
    fn of(self, offset: usize) -> (f32, f32) {
        (self.dots[offset], self.squares[offset])
    }
}

/// Buffers of one thread.
struct Scratch {
    dots: Vec<f32>,
    squares: Vec<f32>,
    widened: Vec<f32>,
}

impl Scratch {
    fn new(rows: &Rows<'_>) -> Self {
        let halves = if rows.element() == Element::F16 { BLOCK_ROWS } else { 0 };
        let widened = vec![0.0; halves * rows.dimensions()];
        Self { dots: vec![0.0; BLOCK_ROWS], squares: vec![0.0; BLOCK_ROWS], widened }
    }

    /// The sums of `count` rows.
    fn dot_squares(
        &mut self,
        kernels: Kernels,
        query: &Query<'_>,
        rows: &Rows<'_>,
        chosen: Chosen<'_>,
        count: usize,
    ) -> Sums<'_> {
        let (dots, squares) = (&mut self.dots[..count], &mut self.squares[..count]);
        if rows.element() == Element::F16 {
            let widened = &mut self.widened[..count * rows.dimensions()];
            for (offset, slots) in widened.chunks_exact_mut(rows.dimensions()).enumerate() {
                let row = match chosen {
                    Chosen::From(first) => first + offset,
                    Chosen::Listed(listed) => listed[offset] as usize,
                };
                rows.copy_f32(row, slots);
            }
            let widened = Rows::from_slice(widened, rows.dimensions());
            kernels.dot_squares(&query.narrow, &widened, Chosen::From(0), dots, squares);
        } else {
            kernels.dot_squares(&query.narrow, rows, chosen, dots, squares);
        }
        Sums { dots, squares }
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 300 }))]

        #[test]
        fn the_quick_look_loses_no_row(
            (seed, n, d) in (any::<u64>(), 0_usize..700, 1_usize..70),
            metric in prop::sample::select(Metric::NAMES.map(|(_, metric)| metric).to_vec()),
            noise in prop::sample::select(vec![0.0_f32, 1e-7, 1e-3, 1.0]),
            size in prop::sample::select(vec![1e-13_f32, 1e-3, 1.0, 1e4]),
            (similarity_weight, weight) in prop::sample::select(vec![(1.0, 0.0), (0.3, 1.0), (1e-9, 1.0), (1.0, 1e9)]),
            (k, threads, has_threshold) in (1_usize..20, 1_usize..3, any::<bool>()),
        ) {
            // Rows near four directions, many of them so near that only exact sums tell them apart; a few are zero.
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / 8_388_608.0 - 1.0
            };
            let centres: Vec<f32> = (0..4 * d).map(|_| next()).collect();
            let values: Vec<f32> = (0..n * d).map(|at| {
                let row = at / d;
                let scale = if row % 50 == 49 { 0.0 } else { size };
                (centres[row % 4 * d + at % d] + noise * next()) * scale
            }).collect();
            let query: Vec<f64> = centres[..d].iter().map(|&x| f64::from(x)).collect();
            let parts = [Part { weight, values: (0..n).map(|_| f64::from(next())).collect() }];
            let parts = if weight > 0.0 { &parts[..] } else { &[] };
            let request = |k, threshold| Request {
                query: &query, metric, similarity_weight, parts, min_max: false,
                eligible: None, threshold, k, threads, components: false,
            };
            let matrix = Rows::from_slice(&values, d);
            // All rows asked for: there is never a floor, so nothing is left out before it was computed exactly.
            let all = rank(Kernels::detect(), &matrix, &request(n.max(1), f64::NEG_INFINITY)).ranked;
            let threshold = match all.get(k / 2) {
                Some(ranked) if has_threshold => ranked.value,
                _ => f64::NEG_INFINITY,
            };
            let expected: Vec<_> = all.into_iter().filter(|ranked| ranked.value >= threshold).take(k).collect();
            for kernels in Tier::ALL.into_iter().filter_map(Kernels::forced) {
                let answer = rank(kernels, &matrix, &request(k, threshold));
                prop_assert_eq!(&answer.ranked, &expected, "{:?}", kernels.tier());
            }
        }
    }
}
