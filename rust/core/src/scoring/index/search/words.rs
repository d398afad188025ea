//! The words' part of a search: BM25 over live rows, with what neighbours in a sequence lend.

use super::{Eligible, Hit, Searcher};
use crate::scoring::index::segment::{NO_ROW, Slot};
use crate::scoring::index::text::Bm25;
use crate::scoring::topk::KthLargest;

/// What a memory lends of its words to the memories after it, nearest first.
const LENT_FORWARD: [f64; 3] = [0.7, 0.42, 0.25];
/// What it lends to the memories before it.
const LENT_BACKWARD: [f64; 3] = [0.5, 0.3, 0.18];
/// Words that stand in more than this share of the texts are not lent. Those are the names of the speakers and the topic of
/// the whole; lent, they say of every memory what they say of all, and hide the rare words that tell memories apart.
const MOST_LENT: f64 = 0.2;

impl Searcher<'_> {
    /// The score of a text of mean length in which every term stands once; 1 without terms.
    pub(super) fn best_lexical(&self, terms: &[String]) -> f64 {
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

    /// BM25 scores for each slot, by row; an empty list where no row has a term.
    pub(super) fn text_scores(&self, terms: &[String]) -> Vec<Vec<f64>> {
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

    pub(super) fn best_texts(&self, terms: &[String], k: usize, eligible: &Eligible) -> Vec<Hit> {
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
