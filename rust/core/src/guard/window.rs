//! The results of recent calls, counted in constant time whatever the size of the window.
//!
//! - [`CountWindow`] remembers the last *n* calls: a ring of bits, one for "failed" and one for "slow". A new result
//!   overwrites the oldest, whose bits are taken out of the sums.
//! - [`TimeWindow`] remembers the last *t* nanoseconds in [`TIME_BUCKETS`] buckets; a bucket leaves as a whole, so the
//!   window reaches back between (1 − 1/[`TIME_BUCKETS`])·*t* and *t*.

/// The most calls a count window may remember (a quarter of a megabyte of bits).
pub const MAX_WINDOW_CALLS: u32 = 1_000_000;

/// The buckets of a time window: a step of 1/32 is finer than the rates it feeds need.
pub const TIME_BUCKETS: usize = 32;

/// The sums over a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls in the window.
    pub calls: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that took longer than the configured duration, failed or not.
    pub slow: u64,
}

impl Tally {
    fn add(&mut self, failed: bool, slow: bool) {
        self.calls += 1;
        self.failures += u64::from(failed);
        self.slow += u64::from(slow);
    }

    fn remove(&mut self, other: Tally) {
        self.calls -= other.calls;
        self.failures -= other.failures;
        self.slow -= other.slow;
    }
}

/// The last *n* calls.
#[derive(Debug, Clone)]
pub struct CountWindow {
    failed: Vec<u64>,
    slow: Vec<u64>,
    capacity: usize,
    next: usize,
    tally: Tally,
}

impl CountWindow {
    /// An empty window over `capacity` calls.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let capacity = capacity as usize;
        let words = capacity.div_ceil(64);
        Self { failed: vec![0; words], slow: vec![0; words], capacity, next: 0, tally: Tally::default() }
    }

    /// Enters one result; the oldest leaves when the window is full.
    pub fn record(&mut self, failed: bool, slow: bool) {
        let (word, bit) = (self.next / 64, 1u64 << (self.next % 64));
        if self.tally.calls == self.capacity as u64 {
            self.tally.remove(Tally {
                calls: 1,
                failures: u64::from(self.failed[word] & bit != 0),
                slow: u64::from(self.slow[word] & bit != 0),
            });
        }
        set_bit(&mut self.failed[word], bit, failed);
        set_bit(&mut self.slow[word], bit, slow);
        self.tally.add(failed, slow);
        self.next += 1;
        if self.next == self.capacity {
            self.next = 0;
        }
    }

    /// The sums over the window.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Forgets everything, in constant time: a slot is read again only after it was written again.
    pub fn clear(&mut self) {
        self.next = 0;
        self.tally = Tally::default();
    }
}

fn set_bit(word: &mut u64, bit: u64, value: bool) {
    if value {
        *word |= bit;
    } else {
        *word &= !bit;
    }
}

/// The calls of the last *t* nanoseconds, by the time of their result.
#[derive(Debug, Clone)]
pub struct TimeWindow {
    buckets: [Tally; TIME_BUCKETS],
    bucket_ns: u64,
    /// The newest bucket, counted from the clock's origin.
    current: u64,
    tally: Tally,
}

impl TimeWindow {
    /// An empty window over `window_ns`.
    #[must_use]
    pub fn new(window_ns: u64) -> Self {
        Self {
            buckets: [Tally::default(); TIME_BUCKETS],
            bucket_ns: window_ns.div_ceil(TIME_BUCKETS as u64).max(1),
            current: 0,
            tally: Tally::default(),
        }
    }

    /// Enters one result that became known at `now_ns`.
    pub fn record(&mut self, now_ns: u64, failed: bool, slow: bool) {
        self.advance(now_ns);
        self.buckets[slot(self.current)].add(failed, slow);
        self.tally.add(failed, slow);
    }

    /// The sums over the window that ends at `now_ns`.
    pub fn tally(&mut self, now_ns: u64) -> Tally {
        self.advance(now_ns);
        self.tally
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets = [Tally::default(); TIME_BUCKETS];
        self.tally = Tally::default();
    }

    fn advance(&mut self, now_ns: u64) {
        let target = now_ns / self.bucket_ns;
        // Threads read the clock before they queue for the lock, so a slightly older time may arrive: it is counted in
        // the newest bucket.
        if target <= self.current {
            return;
        }
        if target - self.current >= TIME_BUCKETS as u64 {
            self.clear();
        } else {
            for bucket in self.current + 1..=target {
                let left = std::mem::take(&mut self.buckets[slot(bucket)]);
                self.tally.remove(left);
            }
        }
        self.current = target;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below TIME_BUCKETS")]
fn slot(bucket: u64) -> usize {
    (bucket % TIME_BUCKETS as u64) as usize
}
