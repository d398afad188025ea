//! What is counted per operation, cheaply enough to be counted on every call.
//!
//! [`Histogram`] is log-linear: each power of two of nanoseconds is cut into [`SUB_BUCKETS`] equal buckets, so a
//! bucket is at most 1/16 as wide as the values in it, and a quantile, reported as the middle of its bucket, is off
//! by at most 1/32 (3.2 %). Values below 16 ns are exact, the largest value is kept exactly. It takes 5 kB, whatever
//! is recorded.

use crate::guard::retry::{FAILURE_KINDS, FailureKind};

const SUB_BUCKET_BITS: u32 = 4;
/// The buckets in each power of two.
pub const SUB_BUCKETS: usize = 1 << SUB_BUCKET_BITS;
/// Values from here on (73 minutes) share the last bucket.
pub const LARGEST_NS: u64 = (1 << 42) - 1;
const BUCKETS: usize = (42 - SUB_BUCKET_BITS as usize + 1) * SUB_BUCKETS;

/// Durations, counted by size.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, value_ns: u64) {
        self.counts[bucket_of(value_ns.min(LARGEST_NS))] += 1;
        self.total += 1;
        self.sum_ns = self.sum_ns.saturating_add(value_ns);
        self.max_ns = self.max_ns.max(value_ns);
    }

    /// How many were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The sum of all.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The largest; 0 when nothing was counted.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The duration that a share `quantile` (0 to 1) of the calls did not exceed, within 1/32; 0 when nothing was
    /// counted.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank lies between 0 and total")]
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let rank = ((self.total as f64 * quantile).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let (low, width) = bounds_of(index);
                return (low + width / 2).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// The buckets that hold something: (first value beyond the bucket, count), ascending.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(index, count)| {
            let (low, width) = bounds_of(index);
            (low + width, *count)
        })
    }
}

fn bucket_of(value_ns: u64) -> usize {
    if value_ns < SUB_BUCKETS as u64 {
        return usize::try_from(value_ns).unwrap_or(0);
    }
    let exponent = value_ns.ilog2();
    let within = (value_ns >> (exponent - SUB_BUCKET_BITS)) & (SUB_BUCKETS as u64 - 1);
    (((exponent - SUB_BUCKET_BITS + 1) as usize) << SUB_BUCKET_BITS) + usize::try_from(within).unwrap_or(0)
}

/// The first value of a bucket, and how many values it covers.
fn bounds_of(index: usize) -> (u64, u64) {
    let (row, within) = (index >> SUB_BUCKET_BITS, (index & (SUB_BUCKETS - 1)) as u64);
    if row == 0 {
        return (within, 1);
    }
    let width = 1u64 << (row - 1);
    ((SUB_BUCKETS as u64 + within) * width, width)
}

/// The counters of one operation.
#[derive(Debug, Clone, Default)]
pub struct OperationMetrics {
    /// Calls that ended well.
    pub successes: u64,
    /// Calls the server answered with an ordinary error, such as WRONGTYPE.
    pub command_errors: u64,
    /// Failed attempts by kind, in the order of [`FailureKind::ALL`].
    pub failures: [u64; FAILURE_KINDS],
    /// Attempts that were followed by another.
    pub retries: u64,
    /// Retries that the budget refused.
    pub retries_refused: u64,
    /// Calls the breaker did not admit.
    pub rejections: u64,
    /// Admitted calls that were cancelled.
    pub cancellations: u64,
    /// How long answered attempts took, command errors included.
    pub latency: Histogram,
}

impl OperationMetrics {
    /// Attempts that were admitted and have ended.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.successes + self.command_errors + self.cancellations + self.failures.iter().sum::<u64>()
    }

    /// Counts a failed attempt.
    pub fn count_failure(&mut self, kind: FailureKind) {
        self.failures[kind as usize] += 1;
    }
}
