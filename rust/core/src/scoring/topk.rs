//! The best k of n values that are known only as intervals at first.
//!
//! Every value lies in its interval. The k-th largest lower end `L` is a floor: at least k values reach it, so a value
//! whose upper end is below `L` cannot be among the best k. The others are *candidates*; their exact values decide.
//! Nothing is assumed of the data: bad intervals mean more candidates, never a wrong answer.

/// The closed interval in which a value is known to lie. `NaN` ends mean: not ranked at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Of a value that is not ranked.
    pub const NONE: Self = Self { low: f64::NAN, high: f64::NAN };

    /// Of a value that is known.
    #[must_use]
    pub const fn exactly(value: f64) -> Self {
        Self { low: value, high: value }
    }
}

/// Tracks the k-th largest of the values pushed so far, in amortised constant time.
#[derive(Clone, Debug)]
pub struct KthLargest {
    k: usize,
    kept: Vec<f64>,
    floor: f64,
}

impl KthLargest {
    /// For the `k`-th largest, `k >= 1`.
    ///
    /// # Panics
    ///
    /// If `k` is zero.
    #[must_use]
    pub fn new(k: usize) -> Self {
        assert!(k > 0, "there is no 0-th largest");
        Self { k, kept: Vec::new(), floor: f64::NEG_INFINITY }
    }

    /// Takes a value; `NaN` is ignored.
    #[inline]
    pub fn push(&mut self, value: f64) {
        if value > self.floor {
            self.kept.push(value);
            // Small sets are trimmed at once: a tight floor early saves more work later than the trimming costs.
            if self.kept.len() >= self.k + self.k.clamp(1, 1024) {
                self.trim();
            }
        }
    }

    /// The `k` it was made for.
    #[must_use]
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Tells it a lower bound of the k-th largest value that was found elsewhere, of the same values or others.
    pub fn raise(&mut self, floor: f64) {
        self.floor = self.floor.max(floor);
    }

    /// A lower bound of the k-th largest value seen; exact after [`Self::settle`]. Minus infinity below k values.
    #[inline]
    #[must_use]
    pub const fn floor(&self) -> f64 {
        self.floor
    }

    /// The k-th largest value seen, or minus infinity if there were fewer.
    pub fn settle(&mut self) -> f64 {
        if self.kept.len() >= self.k {
            self.trim();
        }
        self.floor
    }

    fn trim(&mut self) {
        let last = self.k - 1;
        let (_, floor, _) = self.kept.select_nth_unstable_by(last, |a, b| b.total_cmp(a));
        self.floor = self.floor.max(*floor);
        self.kept.truncate(self.k);
    }
}

/// An index with its exact value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Position among the values that were ranked.
    pub index: u32,
    /// Its exact value.
    pub value: f64,
}

/// The best `k` in descending order of `exact`, ties by ascending index, and how many exact values were needed.
///
/// `exact` must return a value inside the interval of its index, or `NaN` for a value that is not to be ranked after
/// all (the caller's data changed meanwhile). Values below `threshold` are left out.
///
/// # Panics
///
/// If `k` is zero or there are more than 2^32 intervals.
pub fn best(
    intervals: &[Interval],
    k: usize,
    threshold: f64,
    mut exact: impl FnMut(usize) -> f64,
) -> (Vec<Ranked>, usize) {
    let mut lowest = KthLargest::new(k);
    for interval in intervals {
        lowest.push(interval.low);
    }
    let floor = lowest.settle().max(threshold);
    let mut found: Vec<Ranked> = Vec::new();
    for (index, interval) in intervals.iter().enumerate() {
        if interval.high >= floor {
            let index_u32 = u32::try_from(index).expect("rows are counted in 32 bits");
            found.push(Ranked { index: index_u32, value: exact(index) });
        }
    }
    let candidates = found.len();
    found.retain(|ranked| ranked.value >= threshold);
    keep_best(&mut found, k);
    (found, candidates)
}

/// Sorts by descending value, ties by ascending index, and keeps the first `k`.
pub fn keep_best(found: &mut Vec<Ranked>, k: usize) {
    let order = |a: &Ranked, b: &Ranked| b.value.total_cmp(&a.value).then(a.index.cmp(&b.index));
    if found.len() > k && k > 0 {
        found.select_nth_unstable_by(k - 1, order);
        found.truncate(k);
    }
    found.sort_unstable_by(order);
}

#[cfg(test)]
mod tests {
    use super::{Interval, KthLargest, Ranked, best};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn kth_largest_agrees_with_sorting(values in prop::collection::vec(-9_i8..9, 0..300), k in 1_usize..40) {
            let mut tracker = KthLargest::new(k);
            for &value in &values {
                tracker.push(f64::from(value));
            }
            tracker.push(f64::NAN);
            let mut sorted = values;
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let expected = sorted.get(k - 1).map_or(f64::NEG_INFINITY, |&v| f64::from(v));
            prop_assert_eq!(tracker.settle().total_cmp(&expected), std::cmp::Ordering::Equal);
        }

        #[test]
        fn best_is_the_sorted_prefix_whatever_the_intervals(
            rows in prop::collection::vec((-20_i8..20, 0_u8..30, 0_u8..30, prop::bool::weighted(0.1)), 0..200),
            k in 1_usize..30,
            threshold in prop::option::of(-20_i8..20),
        ) {
            let threshold = threshold.map_or(f64::NEG_INFINITY, f64::from);
            let value = |i: usize| if rows[i].3 { f64::NAN } else { f64::from(rows[i].0) };
            let intervals: Vec<Interval> = (0..rows.len())
                .map(|i| Interval { low: value(i) - f64::from(rows[i].1), high: value(i) + f64::from(rows[i].2) })
                .collect();
            let (found, candidates) = best(&intervals, k, threshold, value);
            let mut naive: Vec<Ranked> = (0..rows.len())
                .map(|i| Ranked { index: u32::try_from(i).unwrap(), value: value(i) })
                .filter(|r| r.value >= threshold)
                .collect();
            naive.sort_by(|a, b| b.value.total_cmp(&a.value));
            naive.truncate(k);
            prop_assert!(candidates >= found.len());
            prop_assert_eq!(found, naive);
        }
    }
}
