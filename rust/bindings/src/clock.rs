//! The clock that permits are made of.

use std::sync::OnceLock;
use std::time::Instant;

use pyo3::prelude::*;

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since this process first asked. Fits `u64` for 584 years.
#[expect(clippy::cast_possible_truncation, reason = "584 years")]
pub(crate) fn now_ns() -> u64 {
    ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
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

    /// Never called while a lock is held: a manual clock runs Python.
    #[inline]
    pub(crate) fn now_ns(&self, py: Python<'_>) -> PyResult<u64> {
        match self {
            Clock::System => Ok(now_ns()),
            Clock::Manual(callable) => callable.call0(py)?.extract(py),
        }
    }
}

/// A seed from the operating system, by way of the keys that `std` draws for its hash maps.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(now_ns())
}
