//! Several parts put together: weighted sums carried as intervals, and reciprocal ranks.

use std::collections::HashMap;

use super::nearest::Prepared;
use super::{ACCESS, Eligible, Found, Fusion, Hit, IMPORTANCE, LEXICAL, Query, RECENCY, SIMILARITY, Searcher};
use crate::scoring::index::segment::Slot;
use crate::scoring::parts::{Scale, Weights, access};
use crate::scoring::topk::{Interval, KthLargest, Ranked, best};

/// The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009).
const RRF_CONSTANT: f64 = 60.0;

impl Searcher<'_> {
    /// Reciprocal rank fusion of the best of both rankings, each `max(100, 10 k)` deep.
    pub(super) fn fuse_ranks(&self, query: &Query<'_>, eligible: &Eligible) -> Found {
        let depth = (query.k * 10).max(100);
        let only =
            |weights: Weights| Query { k: depth, weights, fusion: Fusion::MinMax, diversity: None, ..query.clone() };
        let mut scores: HashMap<u32, f64> = HashMap::new();
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
    pub(super) fn fuse(&self, query: &Query<'_>, eligible: &Eligible, has_vector: bool, has_text: bool) -> Found {
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
}

fn add_ranks(scores: &mut HashMap<u32, f64>, hits: &[Hit], weight: f64) {
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
