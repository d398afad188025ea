//! Searching a state of the index.
//!
//! Vectors are ranked in passes over ever fewer rows: the coarse codes give an interval for every row, the fine codes a
//! narrower one for rows whose upper end reaches the k-th lower end (first with one plane of the query, then with both),
//! and `f64` sums of the `f32` elements decide among what is left. See [`super::codes`] for why no row can be lost.

use super::codes::QueryCode;
use super::segment::{Bits, NO_ROW, Slot, set_bits};
use super::text::Bm25;
use super::{Settings, State};
use crate::scoring::exact::{F64_SLACK, cosine};
use crate::scoring::kernels::{CoarseBound, Kernels, TILE_QUERIES, exact_square, prefetch};
use crate::scoring::parts::{Decay, Metric, Scale, Weights, access, closeness};
use crate::scoring::topk::{Interval, KthLargest, Ranked, best};

/// Rows per call of a kernel: their codes stay in the second-level cache while all queries of a batch pass over them.
const BLOCK_ROWS: usize = 256;

/// Rows whose low planes are on their way while another is looked at.
const PREFETCHED_ROWS: usize = 6;

/// What a memory lends of its words to the memories after it, nearest first.
const LENT_FORWARD: [f64; 3] = [0.7, 0.42, 0.25];
/// What it lends to the memories before it.
const LENT_BACKWARD: [f64; 3] = [0.5, 0.3, 0.18];
/// Words that stand in more than this share of the texts are not lent. Those are the names of who speaks and the topic of
/// the whole; lent, they say of every memory what they say of all, and hide the rare words that tell memories apart.
const MOST_LENT: f64 = 0.2;

// The places of the parts of a score.
const SIMILARITY: usize = 0;
const LEXICAL: usize = 1;
const RECENCY: usize = 2;
const IMPORTANCE: usize = 3;
const ACCESS: usize = 4;

/// The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009).
const RRF_CONSTANT: f64 = 60.0;

/// How parts are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fusion {
    /// Each part is scaled to 0..=1 over the rows that take part; a part alone is left as it is.
    MinMax,
    /// Parts are added as they are.
    Sum,
    /// Reciprocal ranks of the vector's and the text's rankings are added; other parts do not count.
    Rrf,
}

/// Which rows take part.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// From (included) and to (excluded), in seconds since the epoch; rows without a time never match.
    pub time_range_s: Option<(f64, f64)>,
    /// For every list, a row must have at least one of its encoded attributes.
    pub attributes: Vec<Vec<String>>,
}

/// Spreads an answer out: maximal marginal relevance (Carbonell and Goldstein, 1998).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diversity {
    /// 1 is relevance alone, 0 is novelty alone.
    pub relevance_share: f64,
    /// How many of the most relevant are chosen from.
    pub pool: usize,
}

/// What to search for.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// A finite vector.
    pub vector: Option<&'a [f64]>,
    /// Distinct terms; `None` for no text.
    pub terms: Option<&'a [String]>,
    /// How many to return; at least one.
    pub k: usize,
    /// The weights.
    pub weights: Weights,
    /// How parts are put together.
    pub fusion: Fusion,
    /// How recency falls.
    pub decay: Decay,
    /// The time that ages count from, in seconds since the epoch.
    pub now_s: f64,
    /// Which rows take part.
    pub filter: &'a Filter,
    /// Whether to spread the answer out.
    pub diversity: Option<Diversity>,
}

/// A memory that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Its row.
    pub row: u32,
    /// Its score.
    pub score: f64,
}

/// What was found, best first, and for how many rows `f64` sums were needed.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Best first. Of equal scores the one with the later time comes first, then the one with the greater id.
    pub hits: Vec<Hit>,
    /// Rows that were ranked again from their `f32` elements.
    pub candidates: usize,
    /// What a unit of each part adds to the score, in the order of [`Searcher::parts`].
    pub slopes: [f64; 5],
}

/// Rows that take part, for each slot; `None` is all of them.
type Eligible = Vec<Option<Bits>>;

/// A search under way.
#[derive(Debug)]
pub struct Searcher<'s> {
    /// The settings of the index.
    pub settings: &'s Settings,
    /// The state that is searched.
    pub state: &'s State,
    /// The kernels to use.
    pub kernels: Kernels,
}

/// A row that may be among the best.
#[derive(Clone, Copy, Debug)]
struct Survivor {
    slot: u32,
    local: u32,
    high: f64,
}

struct Prepared<'q> {
    exact: &'q [f64],
    square: f64,
    code: QueryCode,
    bound: CoarseBound,
    /// The factor that makes a dot product of codes a similarity.
    unit: f64,
    best: KthLargest,
    survivors: Vec<Survivor>,
}

impl Searcher<'_> {
    /// Searches.
    #[must_use]
    pub fn search(&self, query: &Query<'_>) -> Found {
        let Some(diversity) = query.diversity else { return self.search_relevant(query) };
        let pool = Query { k: diversity.pool.max(query.k), diversity: None, ..query.clone() };
        let mut found = self.search_relevant(&pool);
        self.spread(&mut found.hits, query.k, diversity.relevance_share);
        found
    }

    /// The parts of the scores of what was found, as they are, neither scaled nor weighted: similarity, words, recency,
    /// importance, access. Parts without a weight, and those that a memory has not, are not a number.
    ///
    /// # Panics
    ///
    /// If `hits` were found in another state.
    #[must_use]
    pub fn parts(&self, query: &Query<'_>, hits: &[Hit]) -> Vec<[f64; 5]> {
        let weights = &query.weights;
        let vector = query.vector.filter(|_| weights.similarity > 0.0).map(|vector| (vector, exact_square(vector)));
        let texts = query.terms.filter(|_| weights.lexical > 0.0).map(|terms| self.text_scores(terms));
        let of = |hit: &Hit| {
            let (slot, local) = self.state.locate(hit.row).expect("what was found is in the state it was found in");
            let data = &self.state.slots[slot].data;
            let weighted = |weight: f64, value: f64| if weight > 0.0 { value } else { f64::NAN };
            let time = data.timestamps_s[local];
            let recency = if time.is_nan() { 0.0 } else { query.decay.recency(query.now_s - time) };
            [
                vector.map_or(f64::NAN, |(vector, square)| self.exact(vector, square, slot, local)),
                texts.as_ref().map_or(f64::NAN, |scores| scores[slot].get(local).copied().unwrap_or(0.0)),
                weighted(weights.recency, recency),
                weighted(weights.importance, data.importance[local]),
                weighted(weights.access, access(data.access_count[local])),
            ]
        };
        hits.iter().map(of).collect()
    }

    /// How relevant memories with these parts are, 0..=1, comparable between searches: the mean of the parts, each as a
    /// share of the best that it can be, by what they weigh in the score. So it falls as the score does.
    ///
    /// The best similarity is 1, the best of the words a text of mean length in which every term of the query stands once.
    #[must_use]
    pub fn relevance(&self, query: &Query<'_>, found: &Found, parts: &[[f64; 5]]) -> Vec<f64> {
        let weights = &query.weights;
        let given = [weights.similarity, weights.lexical, weights.recency, weights.importance, weights.access];
        let terms = query.terms.unwrap_or(&[]);
        let has = [query.vector.is_some(), !terms.is_empty(), true, true, true];
        let lexical = self.best_lexical(terms);
        let most = parts.iter().map(|values| values[ACCESS]).fold(1.0, f64::max);
        let best = [1.0, lexical, 1.0, 1.0, most];
        // A part that is the same for all does not rank; its weight says what it counts.
        let slope = |part: usize| match found.slopes[part] {
            0.0 if has[part] => given[part] / best[part],
            slope => slope,
        };
        let whole: f64 = (0..5).map(|part| slope(part) * best[part]).sum();
        let of = |values: &[f64; 5]| {
            let known = (0..5).filter(|&part| !values[part].is_nan());
            let sum: f64 = known.map(|part| slope(part) * values[part]).sum();
            if whole > 0.0 { (sum / whole).clamp(0.0, 1.0) } else { 0.0 }
        };
        parts.iter().map(of).collect()
    }

    /// The score of a text of mean length in which every term stands once; 1 without terms.
    fn best_lexical(&self, terms: &[String]) -> f64 {
        if terms.is_empty() {
            return 1.0;
        }
        let idf = |term: &String| {
            #[allow(clippy::cast_precision_loss)] // far below 2^53
            Bm25::inverse_document_frequency(self.state.texts as f64, self.with_term(term) as f64)
        };
        terms.iter().map(idf).sum::<f64>()
    }

    /// Number of live rows that have a term.
    fn with_term(&self, term: &str) -> usize {
        let of = |slot: &Slot| slot.data.terms.get(term).map_or(0, |list| slot.count_live(list));
        self.state.slots.iter().map(of).sum()
    }

    /// Searches for each query; those that are by vector alone and filtered alike share one pass over the codes.
    ///
    /// # Panics
    ///
    /// If the queries differ in anything but what they look for.
    #[must_use]
    pub fn search_many(&self, queries: &[Query<'_>]) -> Vec<Found> {
        let Some(first) = queries.first() else { return Vec::new() };
        let vectors: Option<Vec<&[f64]>> = queries.iter().map(|query| query.vector).collect();
        match vectors {
            Some(vectors) if first.diversity.is_none() && first.terms.is_none() && self.is_by_vector_alone(first) => {
                let mut found = self.nearest(&vectors, first.k, &self.eligible(first.filter));
                let weight = self.alone(first, first.weights.similarity);
                for found in &mut found {
                    found.hits.iter_mut().for_each(|hit| hit.score *= weight);
                    found.slopes[SIMILARITY] = weight;
                }
                found
            }
            _ => queries.iter().map(|query| self.search(query)).collect(),
        }
    }

    fn is_by_vector_alone(&self, query: &Query<'_>) -> bool {
        let weights = &query.weights;
        let has_text = query.terms.is_some() && weights.lexical > 0.0;
        let has_others = weights.recency > 0.0 || weights.importance > 0.0 || weights.access > 0.0;
        let is_dot = self.settings.metric != Metric::Euclidean;
        query.vector.is_some() && weights.similarity > 0.0 && !has_text && !has_others && is_dot
    }

    fn search_relevant(&self, query: &Query<'_>) -> Found {
        let eligible = self.eligible(query.filter);
        let weights = &query.weights;
        let has_vector = query.vector.is_some() && weights.similarity > 0.0;
        let has_text = query.terms.is_some() && weights.lexical > 0.0;
        let has_others = weights.recency > 0.0 || weights.importance > 0.0 || weights.access > 0.0;
        match (query.vector, query.terms) {
            (Some(vector), _) if self.is_by_vector_alone(query) => {
                let mut found = self.nearest(&[vector], query.k, &eligible).pop().unwrap_or_default();
                let weight = self.alone(query, weights.similarity);
                for hit in &mut found.hits {
                    hit.score *= weight;
                }
                found.slopes[SIMILARITY] = weight;
                found
            }
            (_, Some(terms)) if has_text && !has_vector && !has_others => {
                let mut hits = self.best_texts(terms, query.k, &eligible);
                let weight = self.alone(query, weights.lexical);
                for hit in &mut hits {
                    hit.score *= weight;
                }
                let mut slopes = [0.0; 5];
                slopes[LEXICAL] = weight;
                Found { hits, candidates: 0, slopes }
            }
            _ if query.fusion == Fusion::Rrf => self.fuse_ranks(query, &eligible),
            _ => self.fuse(query, &eligible, has_vector, has_text),
        }
    }

    /// The weight of a part that stands alone: under min-max it is left as it is.
    #[allow(clippy::unused_self)]
    fn alone(&self, query: &Query<'_>, weight: f64) -> f64 {
        if query.fusion == Fusion::Sum { weight } else { 1.0 }
    }

    fn eligible(&self, filter: &Filter) -> Eligible {
        let of = |slot: &Slot| {
            let is_filtered = filter.time_range_s.is_some() || !filter.attributes.is_empty();
            if !is_filtered && slot.live_rows == slot.data.rows {
                return None;
            }
            let mut rows = Bits::clone(&slot.live);
            if let Some((from, to)) = filter.time_range_s {
                rows.keep_where(&slot.data.timestamps_s, |time| time >= from && time < to);
            }
            for any in &filter.attributes {
                let mut having = Bits::empty(slot.data.rows);
                for row in any.iter().filter_map(|one| slot.data.attributes.get(one.as_str())).flatten() {
                    having.set(*row as usize);
                }
                rows.keep(&having);
            }
            Some(rows)
        };
        self.state.slots.iter().map(of).collect()
    }

    fn prepare<'q>(&self, vector: &'q [f64], k: usize) -> Prepared<'q> {
        let square = exact_square(vector);
        let code = QueryCode::new(&self.settings.rotation, vector);
        let bound = code.coarse_bound();
        let is_cosine = self.settings.metric == Metric::Cosine;
        let unit = if is_cosine && square > 0.0 { 1.0 / square.sqrt() } else { 1.0 };
        Prepared { exact: vector, square, code, bound, unit, best: KthLargest::new(k), survivors: Vec::new() }
    }

    fn exact(&self, query: &[f64], square: f64, slot: usize, local: usize) -> f64 {
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

    fn nearest(&self, vectors: &[&[f64]], k: usize, eligible: &Eligible) -> Vec<Found> {
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

    /// Sorts by descending score, of equal scores the newer first, and keeps `k`.
    fn order(&self, hits: &mut Vec<Hit>, k: usize) {
        hits.retain(|hit| !hit.score.is_nan());
        let newer = |a: &Hit, b: &Hit| self.time(b.row).total_cmp(&self.time(a.row));
        let ids = |a: &Hit, b: &Hit| self.state.id(b.row).cmp(self.state.id(a.row));
        let compare = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then_with(|| newer(a, b)).then_with(|| ids(a, b));
        if hits.len() > k {
            hits.select_nth_unstable_by(k - 1, compare);
            hits.truncate(k);
        }
        hits.sort_unstable_by(compare);
    }

    /// The time of a row, before all times where it is unknown.
    fn time(&self, row: u32) -> f64 {
        let time =
            self.state.locate(row).map_or(f64::NAN, |(slot, local)| self.state.slots[slot].data.timestamps_s[local]);
        if time.is_nan() { f64::NEG_INFINITY } else { time }
    }

    /// Reciprocal rank fusion of the best of both rankings, each `max(100, 10 k)` deep.
    fn fuse_ranks(&self, query: &Query<'_>, eligible: &Eligible) -> Found {
        let depth = (query.k * 10).max(100);
        let only =
            |weights: Weights| Query { k: depth, weights, fusion: Fusion::MinMax, diversity: None, ..query.clone() };
        let mut scores: std::collections::HashMap<u32, f64> = std::collections::HashMap::new();
        let mut candidates = 0;
        if query.vector.is_some() && query.weights.similarity > 0.0 {
            let alone = only(Weights { similarity: 1.0, ..Weights::default() });
            let found = self.search_relevant(&alone);
            candidates = found.candidates;
            add_ranks(&mut scores, &found.hits, query.weights.similarity);
        }
        if let Some(terms) = query.terms
            && query.weights.lexical > 0.0
        {
            add_ranks(&mut scores, &self.best_texts(terms, depth, eligible), query.weights.lexical);
        }
        let mut hits: Vec<Hit> = scores.into_iter().map(|(row, score)| Hit { row, score }).collect();
        self.order(&mut hits, query.k);
        // A rank says nothing of how good a memory is: its parts count by their weights.
        let weights = query.weights;
        let lexical = weights.lexical / self.best_lexical(query.terms.unwrap_or(&[]));
        Found { hits, candidates, slopes: [weights.similarity, lexical, 0.0, 0.0, 0.0] }
    }

    /// The weighted sum of several parts, carried as intervals until exact values are needed.
    fn fuse(&self, query: &Query<'_>, eligible: &Eligible, has_vector: bool, has_text: bool) -> Found {
        let rows = self.rows(eligible);
        let weights = &query.weights;
        let mut parts: Vec<(usize, f64, Vec<f64>)> = Vec::new();
        let column = |value: &dyn Fn(&Slot, usize) -> f64| -> Vec<f64> {
            rows.iter().map(|&(slot, local)| value(&self.state.slots[slot as usize], local as usize)).collect()
        };
        if has_text {
            let scores = self.text_scores(query.terms.unwrap_or(&[]));
            let score = |&(slot, local): &(u32, u32)| scores[slot as usize].get(local as usize).copied().unwrap_or(0.0);
            parts.push((LEXICAL, weights.lexical, rows.iter().map(score).collect()));
        }
        if weights.recency > 0.0 {
            let recency = |slot: &Slot, local: usize| {
                let time = slot.data.timestamps_s[local];
                if time.is_nan() { 0.0 } else { query.decay.recency(query.now_s - time) }
            };
            parts.push((RECENCY, weights.recency, column(&recency)));
        }
        if weights.importance > 0.0 {
            parts.push((IMPORTANCE, weights.importance, column(&|slot, local| slot.data.importance[local])));
        }
        if weights.access > 0.0 {
            parts.push((ACCESS, weights.access, column(&|slot, local| access(slot.data.access_count[local]))));
        }
        let prepared = query.vector.filter(|_| has_vector).map(|vector| self.prepare(vector, 1));
        let scales = query.fusion == Fusion::MinMax && parts.len() + usize::from(has_vector) > 1;
        let mut extra = vec![0.0; rows.len()];
        let mut slopes = [0.0; 5];
        for (part, weight, values) in &parts {
            let scale = if scales { Scale::spanning(values.iter().copied()) } else { Scale::IDENTITY };
            let weight = if parts.len() == 1 && !has_vector { self.alone(query, *weight) } else { *weight };
            slopes[*part] = weight * scale.slope();
            for (sum, &value) in extra.iter_mut().zip(values) {
                *sum += weight * scale.apply(value);
            }
        }
        let (ranked, candidates) = if let Some(prepared) = prepared {
            let (ranked, candidates, scale) = self.fuse_similarity(&prepared, query, &rows, &extra, scales);
            slopes[SIMILARITY] = weights.similarity * scale.slope();
            (ranked, candidates)
        } else {
            let known: Vec<Interval> = extra.iter().map(|&value| Interval::exactly(value)).collect();
            self.best_with_ties(&known, query.k, &rows, |index| extra[index])
        };
        let hit = |r: Ranked| {
            let (slot, local) = rows[r.index as usize];
            Hit { row: self.state.slots[slot as usize].base + local, score: r.value }
        };
        let mut hits: Vec<Hit> = ranked.into_iter().map(hit).collect();
        self.order(&mut hits, query.k);
        Found { hits, candidates, slopes }
    }

    fn fuse_similarity(
        &self,
        prepared: &Prepared<'_>,
        query: &Query<'_>,
        rows: &[(u32, u32)],
        extra: &[f64],
        scales: bool,
    ) -> (Vec<Ranked>, usize, Scale) {
        let mut intervals = self.intervals(prepared, rows);
        let exact = |index: usize| {
            let (slot, local) = rows[index];
            self.exact(prepared.exact, prepared.square, slot as usize, local as usize)
        };
        let fine = |index: usize| self.fine_interval(prepared, rows[index]);
        let scale = if scales {
            refine(&mut intervals, 1, |i| i, &fine);
            refine(&mut intervals, 1, |i| Interval { low: -i.high, high: -i.low }, &fine);
            let (top, _) = best(&intervals, 1, f64::NEG_INFINITY, exact);
            let mirrored: Vec<Interval> = intervals.iter().map(|i| Interval { low: -i.high, high: -i.low }).collect();
            let (bottom, _) = best(&mirrored, 1, f64::NEG_INFINITY, |index| -exact(index));
            match (bottom.first(), top.first()) {
                (Some(low), Some(high)) => Scale::between(-low.value, high.value),
                _ => Scale::IDENTITY,
            }
        } else {
            Scale::IDENTITY
        };
        // A row without a vector has no similarity; it takes part with what else it has.
        let total = |similarity: f64, index: usize| {
            let similarity = if similarity.is_nan() { 0.0 } else { scale.apply(similarity) };
            query.weights.similarity * similarity + extra[index]
        };
        let of = |i: Interval, index: usize| Interval { low: total(i.low, index), high: total(i.high, index) };
        let mut totals: Vec<Interval> = intervals.iter().enumerate().map(|(index, &i)| of(i, index)).collect();
        // Ties are decided by id later, so every row that could tie with the k-th is kept: `best` may cut among them.
        refine(&mut totals, query.k, |i| i, &|index| of(fine(index), index));
        let (ranked, candidates) = self.best_with_ties(&totals, query.k, rows, |index| total(exact(index), index));
        (ranked, candidates, scale)
    }

    /// As [`best`], but with all the rows that tie with the last one.
    #[allow(clippy::unused_self)]
    fn best_with_ties(
        &self,
        totals: &[Interval],
        k: usize,
        rows: &[(u32, u32)],
        exact: impl Fn(usize) -> f64,
    ) -> (Vec<Ranked>, usize) {
        debug_assert_eq!(totals.len(), rows.len());
        let mut lowest = KthLargest::new(k);
        for interval in totals {
            lowest.push(interval.low);
        }
        let floor = lowest.settle();
        let reaching = totals.iter().enumerate().filter(|(_, interval)| interval.high >= floor);
        #[allow(clippy::cast_possible_truncation)] // rows are counted in 32 bits
        let ranked: Vec<Ranked> =
            reaching.map(|(index, _)| Ranked { index: index as u32, value: exact(index) }).collect();
        let candidates = ranked.len();
        (ranked, candidates)
    }

    #[allow(clippy::cast_possible_truncation)] // slots and rows of a slot are few
    fn rows(&self, eligible: &Eligible) -> Vec<(u32, u32)> {
        let mut rows = Vec::new();
        for (index, (slot, eligible)) in self.state.slots.iter().zip(eligible).enumerate() {
            match eligible {
                Some(bits) => rows.extend(bits.iter().map(|local| (index as u32, local as u32))),
                None => rows.extend((0..slot.data.rows).map(|local| (index as u32, local as u32))),
            }
        }
        rows
    }

    /// Intervals of the similarities of the listed rows, slot by slot, from both planes of their codes and the first plane
    /// of the query. Coarse codes alone would leave most rows to be looked at again: a fused score needs the least similar
    /// row as well as the most similar ones, and most rows are about as dissimilar.
    fn intervals(&self, prepared: &Prepared<'_>, rows: &[(u32, u32)]) -> Vec<Interval> {
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

    fn fine_interval(&self, prepared: &Prepared<'_>, (slot, local): (u32, u32)) -> Interval {
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

    // --- text ---

    /// BM25 scores for each slot, by row; an empty list where no row has a term.
    fn text_scores(&self, terms: &[String]) -> Vec<Vec<f64>> {
        let mut scores: Vec<Vec<f64>> = vec![Vec::new(); self.state.slots.len()];
        self.each_text(terms, |slot, local, share| {
            let list = &mut scores[slot];
            if list.is_empty() {
                list.resize(self.state.slots[slot].data.rows, 0.0);
            }
            list[local] += share;
        });
        scores
    }

    fn best_texts(&self, terms: &[String], k: usize, eligible: &Eligible) -> Vec<Hit> {
        let scores = self.text_scores(terms);
        let mut best = KthLargest::new(k);
        let mut hits = Vec::new();
        for (index, list) in scores.iter().enumerate() {
            let slot = &self.state.slots[index];
            let allowed = |local: usize| eligible[index].as_ref().is_none_or(|bits| bits.has(local));
            for (local, &score) in list.iter().enumerate() {
                if score > 0.0 && score >= best.floor() && allowed(local) {
                    best.push(score);
                    #[allow(clippy::cast_possible_truncation)] // rows of a slot are few
                    hits.push(Hit { row: slot.base + local as u32, score });
                }
            }
        }
        let floor = best.settle();
        hits.retain(|hit| hit.score >= floor);
        self.order(&mut hits, k);
        hits
    }

    /// Calls `each(slot, row, share)` for every term and every row that has it, terms in order.
    fn each_text(&self, terms: &[String], mut each: impl FnMut(usize, usize, f64)) {
        let bm25: Bm25 = self.settings.bm25;
        let state = self.state;
        #[allow(clippy::cast_precision_loss)] // far below 2^53
        let mean_length = state.words as f64 / (state.texts as f64).max(1.0);
        let has_context = self.settings.context && state.slots.iter().any(|slot| slot.links.is_some());
        let mut lent = Lent::new(if has_context { &state.slots } else { &[] });
        for term in terms {
            let lists: Vec<_> = state
                .slots
                .iter()
                .map(|slot| slot.data.terms.get(term.as_str()).map_or(&[][..], Vec::as_slice))
                .collect();
            let with_term: usize = state.slots.iter().zip(&lists).map(|(slot, list)| slot.count_live(list)).sum();
            let idf = Bm25::inverse_document_frequency(state.texts as f64, with_term as f64);
            if has_context {
                let is_lent = with_term as f64 <= MOST_LENT * state.texts as f64;
                lent.each(self, &lists, is_lent, |slot, local, frequency, length| {
                    each(slot, local, bm25.share(idf, frequency, length, mean_length));
                });
                continue;
            }
            let factor = idf * (bm25.k1 + 1.0);
            let (fixed, per_word) = (bm25.k1 * (1.0 - bm25.b), bm25.k1 * bm25.b / mean_length);
            for (index, (slot, list)) in state.slots.iter().zip(&lists).enumerate() {
                let is_whole = slot.live_rows == slot.data.rows;
                for &(row, count) in *list {
                    let row = row as usize;
                    if is_whole || slot.live.has(row) {
                        let count = f64::from(count);
                        let norm = fixed + per_word * f64::from(slot.data.words[row]);
                        each(index, row, factor * count / (count + norm));
                    }
                }
            }
        }
    }

    /// The neighbours of a row that it lends words to, with the share lent: those after it and those before it.
    fn each_neighbour(&self, slot: usize, local: usize, shares: [&[f64]; 2], mut each: impl FnMut(usize, usize, f64)) {
        for (side, shares) in [1, 0].into_iter().zip(shares) {
            let mut at = (slot, local);
            for &share in shares {
                let slot = &self.state.slots[at.0];
                let next = slot.links.as_ref().map_or(NO_ROW, |links| links[at.1][side]);
                if (slot.base..slot.end()).contains(&next) {
                    at.1 = (next - slot.base) as usize; // most neighbours are
                } else {
                    let Some(found) = self.state.locate(next) else { break };
                    at = found;
                }
                each(at.0, at.1, share);
            }
        }
    }

    /// The length that goes with the frequencies of [`Lent`]: what a row borrows is what its neighbours lend.
    fn lent_length(&self, slot: usize, local: usize) -> f64 {
        let words = |slot: usize, local: usize| f64::from(self.state.slots[slot].data.words[local]);
        let mut length = words(slot, local);
        self.each_neighbour(slot, local, [&LENT_BACKWARD, &LENT_FORWARD], |s, r, share| length += share * words(s, r));
        length
    }

    // --- diversity ---

    /// Greedy maximal marginal relevance: relevance is scaled to 0..=1 over the pool, likeness is the cosine.
    fn spread(&self, hits: &mut Vec<Hit>, k: usize, relevance_share: f64) {
        let scale = Scale::spanning(hits.iter().map(|hit| hit.score));
        let mut pool: Vec<(Hit, f64)> = std::mem::take(hits).into_iter().map(|hit| (hit, 0.0)).collect();
        let mut is_first = true;
        while hits.len() < k && !pool.is_empty() {
            let value = |(hit, likeness): &(Hit, f64)| {
                relevance_share * scale.apply(hit.score) - (1.0 - relevance_share) * likeness
            };
            let mut chosen = 0;
            for index in 1..pool.len() {
                if value(&pool[index]) > value(&pool[chosen]) {
                    chosen = index;
                }
            }
            let (hit, _) = pool.remove(chosen);
            let likeness = self.likeness_to(hit.row, &pool);
            for (entry, like) in pool.iter_mut().zip(likeness) {
                entry.1 = if is_first { like } else { entry.1.max(like) };
            }
            is_first = false;
            hits.push(hit);
        }
    }

    fn likeness_to(&self, row: u32, pool: &[(Hit, f64)]) -> Vec<f64> {
        let dimensions = self.settings.dimensions;
        let vector = |row: u32| {
            let (slot, local) = self.state.locate(row)?;
            let data = &self.state.slots[slot].data;
            let mut values = vec![0.0; dimensions];
            let (rows, place) = data.vector_at(local, dimensions)?;
            rows.copy_f32(place, &mut values);
            Some((slot, local, values))
        };
        let Some((_, _, chosen)) = vector(row) else { return vec![0.0; pool.len()] };
        let chosen: Vec<f64> = chosen.into_iter().map(f64::from).collect();
        let square = exact_square(&chosen);
        let likeness = |(hit, _): &(Hit, f64)| {
            let (slot, local) = self.state.locate(hit.row)?;
            let (rows, place) = self.state.slots[slot].data.vector_at(local, dimensions)?;
            let (dot, row_square) = rows.exact_dot(&chosen, place);
            Some(cosine(dot, square, row_square))
        };
        pool.iter().map(|entry| likeness(entry).unwrap_or(0.0)).collect()
    }
}

/// A term's frequencies in its own rows and, in part, in their neighbours. Frequencies are added up in the order of the
/// postings, so they do not depend on what the segments are; lengths are found once for all terms of a query.
struct Lent {
    /// By slot and row: the frequency of the present term, 0 where it is not, and the lent length, 0 until it is needed.
    rows: Vec<Vec<(f64, f64)>>,
    /// The rows of which the frequency is not 0.
    touched: Vec<(usize, usize)>,
}

impl Lent {
    fn new(slots: &[Slot]) -> Self {
        Self { rows: slots.iter().map(|slot| vec![(0.0, 0.0); slot.data.rows]).collect(), touched: Vec::new() }
    }

    /// Calls `each(slot, row, frequency, length)` for the rows that have the term of `lists` or, if it is lent, are lent it.
    fn each(
        &mut self,
        searcher: &Searcher<'_>,
        lists: &[&[(u16, u16)]],
        is_lent: bool,
        mut each: impl FnMut(usize, usize, f64, f64),
    ) {
        let (rows, touched) = (&mut self.rows, &mut self.touched);
        let mut add = |slot: usize, local: usize, share: f64| {
            let frequency = &mut rows[slot][local].0;
            if *frequency == 0.0 {
                touched.push((slot, local));
            }
            *frequency += share;
        };
        for (slot, list) in lists.iter().enumerate() {
            for &(row, count) in *list {
                let (row, count) = (row as usize, f64::from(count));
                if searcher.state.slots[slot].live.has(row) {
                    add(slot, row, count);
                    if is_lent {
                        let lend = |s, r, share: f64| add(s, r, share * count);
                        searcher.each_neighbour(slot, row, [&LENT_FORWARD, &LENT_BACKWARD], lend);
                    }
                }
            }
        }
        for (slot, local) in self.touched.drain(..) {
            let (frequency, length) = &mut self.rows[slot][local];
            if *length == 0.0 {
                *length = searcher.lent_length(slot, local);
            }
            each(slot, local, *frequency, *length);
            *frequency = 0.0;
        }
    }
}

fn add_ranks(scores: &mut std::collections::HashMap<u32, f64>, hits: &[Hit], weight: f64) {
    for (rank, hit) in hits.iter().enumerate() {
        *scores.entry(hit.row).or_insert(0.0) += weight / (RRF_CONSTANT + rank as f64 + 1.0);
    }
}

/// Puts the fine interval in the place of every coarse one that reaches the k-th lower end. `view` is what is ranked.
fn refine(intervals: &mut [Interval], k: usize, view: impl Fn(Interval) -> Interval, fine: &dyn Fn(usize) -> Interval) {
    let mut lowest = KthLargest::new(k);
    for &interval in intervals.iter() {
        lowest.push(view(interval).low);
    }
    let floor = lowest.settle();
    for (index, interval) in intervals.iter_mut().enumerate() {
        if view(*interval).high >= floor {
            *interval = fine(index);
        }
    }
}
