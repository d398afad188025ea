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

use std::sync::PoisonError;

use crate::sync::{AtomicU64, Mutex, Ordering, fence};

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
#[derive(Debug)]
pub struct TickScale {
    /// Odd while the numbers below are being written (a sequence lock).
    version: AtomicU64,
    base_ticks: AtomicU64,
    base_ns: AtomicU64,
    rate: AtomicU64,
    span_ticks: AtomicU64,
    learnt: Mutex<Learnt>,
}

/// A point from which time is extrapolated.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    ticks: u64,
    ns: u64,
    /// Nanoseconds per tick in fixed point; 0 while learning.
    rate: u64,
    /// Ticks for which the anchor serves; 0 while learning.
    span_ticks: u64,
}

/// What only the setters of anchors need. They keep their own copy of what they published.
#[derive(Debug, Clone, Copy)]
struct Learnt {
    version: u64,
    anchor: Anchor,
    /// The pair of readings that the next one is measured against.
    pair: Option<(u64, u64)>,
    /// Nanoseconds per tick as last measured; 0 while learning.
    ns_per_tick: f64,
    /// The latest time given out by `anchor`.
    floor_ns: u64,
}

const NOTHING_LEARNT: Learnt = Learnt {
    version: 0,
    anchor: Anchor { ticks: 0, ns: 0, rate: 0, span_ticks: 0 },
    pair: None,
    ns_per_tick: 0.0,
    floor_ns: 0,
};

impl Anchor {
    #[inline]
    fn convert(&self, ticks: u64) -> Option<u64> {
        let passed = ticks.wrapping_sub(self.ticks);
        if passed < self.span_ticks {
            return Some(self.ns + scaled(passed, self.rate));
        }
        // Another processor may have set the anchor a moment ago and be a few ticks ahead.
        (self.ticks.wrapping_sub(ticks) < self.span_ticks).then_some(self.ns)
    }

    /// The latest time that may have been given out by this anchor when the counter stands at `ticks`.
    fn latest_ns(&self, ticks: u64) -> u64 {
        // A counter that stands before the anchor has jumped back; what it gave out before was as close to the
        // reference as ever.
        let passed = ticks.saturating_sub(self.ticks).min(self.span_ticks);
        self.ns + scaled(passed, self.rate)
    }
}

impl TickScale {
    /// A scale that has learnt nothing yet.
    #[cfg(not(loom))]
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it is made once, as a constant")]
    pub const fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            base_ticks: AtomicU64::new(0),
            base_ns: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            span_ticks: AtomicU64::new(0),
            learnt: Mutex::new(NOTHING_LEARNT),
        }
    }

    /// The same with loom's primitives, which cannot be made in a constant.
    #[cfg(loom)]
    #[expect(clippy::new_without_default, reason = "as above")]
    pub fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            base_ticks: AtomicU64::new(0),
            base_ns: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            span_ticks: AtomicU64::new(0),
            learnt: Mutex::new(NOTHING_LEARNT),
        }
    }

    /// The time at `ticks`, or `None` when a new anchor is needed.
    #[inline]
    pub fn convert(&self, ticks: u64) -> Option<u64> {
        let version = self.version.load(Ordering::Acquire);
        let anchor = Anchor {
            ticks: self.base_ticks.load(Ordering::Relaxed),
            ns: self.base_ns.load(Ordering::Relaxed),
            rate: self.rate.load(Ordering::Relaxed),
            span_ticks: self.span_ticks.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        if version & 1 == 1 || self.version.load(Ordering::Relaxed) != version {
            return None;
        }
        anchor.convert(ticks)
    }

    /// Sets the anchor to readings of both clocks at one moment, and returns that moment in nanoseconds.
    pub fn anchor(&self, ticks: u64, reference_ns: u64) -> u64 {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have set an anchor while this thread waited for the lock.
        if let Some(now_ns) = learnt.anchor.convert(ticks) {
            return now_ns;
        }
        let now_ns = reference_ns.max(learnt.anchor.latest_ns(ticks)).max(learnt.floor_ns);
        learnt.floor_ns = now_ns;
        let (rate, ns_per_tick) = match measure(&learnt, ticks, reference_ns) {
            Measured::TooEarly => return now_ns,
            Measured::Jumped => (0.0, 0.0),
            Measured::Rate(ns_per_tick) => {
                // What the scale is ahead of the reference is taken back over the next span, never by a step.
                let ahead = (now_ns - reference_ns) as f64 / SPAN_NS as f64;
                (ns_per_tick * (1.0 - ahead).max(0.5), ns_per_tick)
            }
        };
        learnt.pair = Some((ticks, reference_ns));
        learnt.ns_per_tick = ns_per_tick;
        self.publish(&mut learnt, anchor_at(ticks, now_ns, rate));
        now_ns
    }

    fn publish(&self, learnt: &mut Learnt, anchor: Anchor) {
        self.version.store(learnt.version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.base_ticks.store(anchor.ticks, Ordering::Relaxed);
        self.base_ns.store(anchor.ns, Ordering::Relaxed);
        self.rate.store(anchor.rate, Ordering::Relaxed);
        self.span_ticks.store(anchor.span_ticks, Ordering::Relaxed);
        learnt.version += 2;
        learnt.anchor = anchor;
        self.version.store(learnt.version, Ordering::Release);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float casts saturate, which is wanted")]
fn anchor_at(ticks: u64, ns: u64, ns_per_tick: f64) -> Anchor {
    let span_ticks = if ns_per_tick > 0.0 { (SPAN_NS as f64 / ns_per_tick) as u64 } else { 0 };
    Anchor { ticks, ns, rate: (ns_per_tick * ONE) as u64, span_ticks }
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

fn measure(learnt: &Learnt, ticks: u64, reference_ns: u64) -> Measured {
    let Some((old_ticks, old_ns)) = learnt.pair else { return Measured::Jumped };
    if ticks <= old_ticks {
        return Measured::Jumped;
    }
    let passed_ns = reference_ns.saturating_sub(old_ns);
    if passed_ns < LEARN_NS {
        return Measured::TooEarly;
    }
    let ns_per_tick = passed_ns as f64 / (ticks - old_ticks) as f64;
    let drifted = learnt.ns_per_tick > 0.0 && (ns_per_tick / learnt.ns_per_tick - 1.0).abs() > MAX_DRIFT;
    // A counter slower than 1 kHz or faster than 1 THz is none.
    if drifted || !(0.001..1e6).contains(&ns_per_tick) { Measured::Jumped } else { Measured::Rate(ns_per_tick) }
}
