//! The clock that permits are made of: the system's monotonic clock, interpolated by the time-stamp counter where the
//! kernel itself keeps time by that counter.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pyo3::prelude::*;

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds of the system's clock since this process first asked. Fits `u64` for 584 years.
#[expect(clippy::cast_possible_truncation, reason = "584 years")]
fn system_ns() -> u64 {
    ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod counter {
    use std::sync::LazyLock;

    use agent_memory_core::ticks::TickScale;

    use super::system_ns;
    use crate::raw::time_stamp_counter;

    const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

    /// The kernel checks that the counters of all processors agree and tick evenly, and takes another source when
    /// they do not; its choice is the test of ours.
    static TRUSTED: LazyLock<bool> =
        LazyLock::new(|| std::fs::read_to_string(CLOCK_SOURCE).is_ok_and(|source| source.trim() == "tsc"));

    static SCALE: TickScale = TickScale::new();

    #[inline]
    pub(super) fn now_ns() -> u64 {
        SCALE.convert(time_stamp_counter()).unwrap_or_else(anchor)
    }

    #[cold]
    fn anchor() -> u64 {
        if !*TRUSTED {
            return system_ns();
        }
        let (ticks, reference_ns) = read_both();
        SCALE.anchor(ticks, reference_ns)
    }

    /// Both clocks at one moment. An interrupt between the readings would spoil the pair, so the closest of a few is
    /// taken.
    fn read_both() -> (u64, u64) {
        const TRIES: usize = 3;
        let readings = [(); TRIES].map(|()| {
            let before = time_stamp_counter();
            let reference_ns = system_ns();
            let gap = time_stamp_counter().wrapping_sub(before);
            (gap, before.wrapping_add(gap / 2), reference_ns)
        });
        let (_, ticks, reference_ns) = readings.into_iter().min_by_key(|(gap, ..)| *gap).unwrap_or_default();
        (ticks, reference_ns)
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod counter {
    pub(super) use super::system_ns as now_ns;
}

/// Not a time: no simulation runs.
const REAL: u64 = u64::MAX;

static VIRTUAL_NS: AtomicU64 = AtomicU64::new(REAL);
/// How many seeds have been drawn in this simulation.
static SIMULATED_SEEDS: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds since an origin that this process shares; the simulated time while one is set.
#[inline]
pub(crate) fn now_ns() -> u64 {
    match VIRTUAL_NS.load(Ordering::Relaxed) {
        REAL => counter::now_ns(),
        simulated => simulated,
    }
}

/// Nanoseconds of a clock that also counts while the machine is suspended, where the system has one; the simulated time while one
/// is set.
#[inline]
pub(crate) fn waking_and_sleeping_ns() -> u64 {
    match VIRTUAL_NS.load(Ordering::Relaxed) {
        REAL => boot_ns(),
        simulated => simulated,
    }
}

#[cfg(target_os = "linux")]
#[inline]
fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(not(target_os = "linux"))]
use counter::now_ns as boot_ns;

/// Makes `monotonic_ns()`, and every guard without a clock of its own, stand still at `now_ns`; None lets time pass again.
///
/// For simulations: it holds for the whole process. Guards that are made meanwhile draw repeatable jitter.
#[pyfunction]
#[pyo3(signature = (now_ns, /))]
pub(crate) fn set_virtual_time(now_ns: Option<u64>) {
    if now_ns.is_none() {
        SIMULATED_SEEDS.store(0, Ordering::Relaxed);
    }
    VIRTUAL_NS.store(now_ns.unwrap_or(REAL), Ordering::Relaxed);
}

/// Nanoseconds of the clock that permits and deadlines are measured with, since an origin that this process shares.
#[pyfunction]
pub(crate) fn monotonic_ns() -> u64 {
    now_ns()
}

/// Where a guard reads the time: the clock of the process, or a callable that a test turns by hand.
pub(crate) enum Clock {
    System,
    Manual(Py<PyAny>),
}

impl Clock {
    pub(crate) fn new(callable: Option<Bound<'_, PyAny>>) -> Self {
        callable.map_or(Clock::System, |callable| Clock::Manual(callable.unbind()))
    }

    /// The time, where no Python has to run for it.
    #[inline]
    pub(crate) fn straight_ns(&self) -> Option<u64> {
        match self {
            Clock::System => Some(now_ns()),
            Clock::Manual(_) => None,
        }
    }

    /// Never called while a lock is held: a manual clock runs Python.
    #[inline]
    pub(crate) fn now_ns(&self, py: Python<'_>) -> PyResult<u64> {
        match self {
            Clock::System => Ok(now_ns()),
            Clock::Manual(callable) => callable.call0(py)?.extract(py),
        }
    }
}

/// A seed from the operating system, by way of the keys that `std` draws for its hash maps; in a simulation one that
/// follows from the simulated time, so that a run can be repeated.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    match VIRTUAL_NS.load(Ordering::Relaxed) {
        REAL => RandomState::new().hash_one(now_ns()),
        simulated => simulated.wrapping_add(SIMULATED_SEEDS.fetch_add(1, Ordering::Relaxed)),
    }
}
