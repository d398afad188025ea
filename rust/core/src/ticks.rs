//! Turns the ticks of a fast counter into nanoseconds of a slower, trusted clock.
//!
//! Reading the processor's time-stamp counter costs a third of what reading the system's monotonic clock costs, but
//! its rate is not known exactly, and it may jump (a suspended machine) or change its rate (a virtual machine that
//! moved). So the counter only interpolates: at least once in [`SPAN_NS`] the caller reads both clocks and hands the
//! pair to [`TickScale::anchor`].
//!
//! - **Learning.** Until two pairs lie [`LEARN_NS`] apart the rate is unknown, and the trusted clock's time is the
//!   answer.
//! - **Known.** [`TickScale::convert`] extrapolates from the last anchor, for at most a second's worth of ticks.
//! - A new anchor moves the rate so that the two clocks meet after the next span. If the counter's rate has changed
//!   by more than [`MAX_DRIFT`], the counter jumped: learning begins anew.
//!
//! The result never runs backwards in one thread, except by the microseconds the scale was ahead when the counter
//! itself jumps back; between threads it is as monotonic as the counters of their processors. Nothing is estimated by
//! waiting: an import is not slowed down.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError};

/// How long one anchor serves.
pub const SPAN_NS: u64 = 1_000_000_000;
/// The shortest time from which the rate is learnt: an error of 100 ns in either pair makes 20 ppm of it.
pub const LEARN_NS: u64 = 10_000_000;
/// The relative change of rate that is taken for a jump. Clock discipline moves a clock by at most 0.05 %.
pub const MAX_DRIFT: f64 = 0.001;

/// Ticks are multiplied by a 32.32 fixed-point number; a rate of four nanoseconds a tick (250 MHz) still leaves room.
const FRACTION_BITS: u32 = 32;
const ONE: f64 = 4_294_967_296.0;

/// The scale. All methods may be called from any thread; `convert` takes no lock.
#[derive(Debug, Default)]
pub struct TickScale {
    /// Odd while the three numbers below are being written (a sequence lock).
    version: AtomicU64,
    base_ticks: AtomicU64,
    base_ns: AtomicU64,
    /// Nanoseconds per tick in fixed point; 0 while learning.
    rate: AtomicU64,
    /// Ticks for which the anchor serves.
    span_ticks: AtomicU64,
    pair: Mutex<Pair>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Pair {
    known: bool,
    ticks: u64,
    reference_ns: u64,
    /// Nanoseconds per tick as last measured; 0 while learning.
    ns_per_tick: f64,
    /// The latest time given out while learning.
    floor_ns: u64,
}

impl TickScale {
    /// A scale that has learnt nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            base_ticks: AtomicU64::new(0),
            base_ns: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            span_ticks: AtomicU64::new(0),
            pair: Mutex::new(Pair { known: false, ticks: 0, reference_ns: 0, ns_per_tick: 0.0, floor_ns: 0 }),
        }
    }

    /// The time at `ticks`, or `None` when a new anchor is needed.
    #[inline]
    pub fn convert(&self, ticks: u64) -> Option<u64> {
        let version = self.version.load(Ordering::Acquire);
        let base_ticks = self.base_ticks.load(Ordering::Relaxed);
        let base_ns = self.base_ns.load(Ordering::Relaxed);
        let rate = self.rate.load(Ordering::Relaxed);
        let span_ticks = self.span_ticks.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if version & 1 == 1 || self.version.load(Ordering::Relaxed) != version {
            return None;
        }
        let passed = ticks.wrapping_sub(base_ticks);
        if passed < span_ticks {
            return Some(base_ns + scaled(passed, rate));
        }
        // Another processor may have set the anchor a moment ago and be a few ticks ahead.
        (base_ticks.wrapping_sub(ticks) < span_ticks).then_some(base_ns)
    }

    /// Takes a pair of readings of one moment, and returns its time.
    pub fn anchor(&self, ticks: u64, reference_ns: u64) -> u64 {
        let mut pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have set an anchor while this thread waited for the lock, with a newer pair.
        if pair.known && reference_ns <= pair.reference_ns {
            return self.convert(ticks).unwrap_or(reference_ns.max(pair.floor_ns));
        }
        let now_ns = reference_ns.max(self.latest_ns(&pair, ticks));
        let measured = measure(&pair, ticks, reference_ns);
        match measured {
            Measured::TooEarly => {}
            Measured::Jumped => {
                self.publish(ticks, now_ns, 0.0);
                pair.ns_per_tick = 0.0;
            }
            Measured::Rate(ns_per_tick) => {
                // What the scale is ahead of the reference is taken back over the next span, never by a step.
                let ahead = (now_ns - reference_ns) as f64 / SPAN_NS as f64;
                self.publish(ticks, now_ns, ns_per_tick * (1.0 - ahead).max(0.5));
                pair.ns_per_tick = ns_per_tick;
            }
        }
        if !matches!(measured, Measured::TooEarly) {
            (pair.known, pair.ticks, pair.reference_ns) = (true, ticks, reference_ns);
        }
        pair.floor_ns = now_ns;
        now_ns
    }

    /// The latest time that may have been given out when the counter stood at `ticks`.
    fn latest_ns(&self, pair: &Pair, ticks: u64) -> u64 {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return pair.floor_ns;
        }
        let Some(passed) = ticks.checked_sub(self.base_ticks.load(Ordering::Relaxed)) else {
            // The counter has jumped back. What it gave out before was as close to the reference as ever.
            return pair.floor_ns;
        };
        let span_ticks = self.span_ticks.load(Ordering::Relaxed);
        (self.base_ns.load(Ordering::Relaxed) + scaled(passed.min(span_ticks), rate)).max(pair.floor_ns)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float casts saturate, which is wanted"
    )]
    fn publish(&self, ticks: u64, now_ns: u64, ns_per_tick: f64) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let span_ticks = if ns_per_tick > 0.0 { (SPAN_NS as f64 / ns_per_tick) as u64 } else { 0 };
        self.base_ticks.store(ticks, Ordering::Relaxed);
        self.base_ns.store(now_ns, Ordering::Relaxed);
        self.rate.store((ns_per_tick * ONE) as u64, Ordering::Relaxed);
        self.span_ticks.store(span_ticks, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "ticks of one span times a rate is at most a second or so")]
fn scaled(ticks: u64, rate: u64) -> u64 {
    ((u128::from(ticks) * u128::from(rate)) >> FRACTION_BITS) as u64
}

#[derive(Debug, Clone, Copy)]
enum Measured {
    /// The pairs lie too close together to tell a rate; the older one is kept.
    TooEarly,
    /// The first pair, or the counter does not go on where it was: learning begins with this pair.
    Jumped,
    /// Nanoseconds per tick.
    Rate(f64),
}

fn measure(pair: &Pair, ticks: u64, reference_ns: u64) -> Measured {
    if !pair.known || ticks <= pair.ticks {
        return Measured::Jumped;
    }
    let passed_ns = reference_ns - pair.reference_ns;
    if passed_ns < LEARN_NS {
        return Measured::TooEarly;
    }
    let ns_per_tick = passed_ns as f64 / (ticks - pair.ticks) as f64;
    let drifted = pair.ns_per_tick > 0.0 && (ns_per_tick / pair.ns_per_tick - 1.0).abs() > MAX_DRIFT;
    // A counter slower than 1 kHz or faster than 1 THz is none.
    if drifted || !(0.001..1e6).contains(&ns_per_tick) { Measured::Jumped } else { Measured::Rate(ns_per_tick) }
}
