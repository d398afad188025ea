//! Searching a state of the index.
//!
//! Vectors are ranked in passes over ever fewer rows: the coarse codes give an interval for every row, the fine codes a
//! narrower one for rows whose upper end reaches the k-th lower end (first with one plane of the query, then with both),
//! and `f64` sums of the `f32` elements decide among what is left. See [`super::codes`] for why no row can be lost.
//!
//! `nearest` ranks by vector, `words` by text, `fusion` puts parts together, `diversity` spreads an answer out. The methods
//! of [`Searcher`] here choose among them.

mod diversity;
mod fusion;
mod nearest;
mod words;

use super::segment::{Bits, Slot};
use super::{Settings, State};
use crate::scoring::kernels::{Kernels, exact_square};
use crate::scoring::parts::{Decay, Metric, Weights, access};

// The places of the parts of a score.
const SIMILARITY: usize = 0;
const LEXICAL: usize = 1;
const RECENCY: usize = 2;
const IMPORTANCE: usize = 3;
const ACCESS: usize = 4;

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
}
