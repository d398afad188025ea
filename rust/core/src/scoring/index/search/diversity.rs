//! Answers spread out by maximal marginal relevance.

use super::{Hit, Searcher};
use crate::scoring::exact::cosine;
use crate::scoring::kernels::exact_square;
use crate::scoring::parts::Scale;

impl Searcher<'_> {
    /// Greedy maximal marginal relevance: relevance is scaled to 0..=1 over the pool, likeness is the cosine.
    pub(super) fn spread(&self, hits: &mut Vec<Hit>, k: usize, relevance_share: f64) {
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
