//! Delays on their own: `exponential_backoff` and `Backoff`.

use std::sync::{Mutex, PoisonError};

use agent_memory_core::config::Decimal;
use agent_memory_core::guard::backoff::{self as core, DEFAULT_BASE_DELAY_S, DEFAULT_FACTOR, DEFAULT_MAX_DELAY_S};
use agent_memory_core::guard::random::Random;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::convert::Whole;
use crate::errors::refused;
use crate::guard::settings::{parse_jitter, parse_strategy};

/// `min(base_delay * 2**attempt, max_delay)` in seconds, for every attempt: it does not overflow.
#[pyfunction]
#[pyo3(signature = (attempt, base_delay=0.5, max_delay=30.0))]
#[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
pub(crate) fn exponential_backoff(attempt: Whole, base_delay: f64, max_delay: f64) -> f64 {
    core::exponential_backoff(attempt.0, base_delay, max_delay)
}

/// Delays between attempts, in seconds.
///
/// `strategy` is "exponential", "linear", "constant", "fibonacci" or a callable `strategy(attempt) -> seconds`; its
/// result is capped at `max_delay`, then spread by `jitter` ("none", "full", "equal" or "decorrelated"). `seed` makes
/// the spread repeatable.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct Backoff {
    core: core::Backoff,
    strategy: Option<Py<PyAny>>,
    random: Mutex<Random>,
}

#[pymethods]
impl Backoff {
    #[new]
    #[pyo3(signature = (
        base_delay=DEFAULT_BASE_DELAY_S, max_delay=DEFAULT_MAX_DELAY_S, *, strategy=None, factor=DEFAULT_FACTOR,
        jitter="full", seed=None,
    ))]
    fn new(
        base_delay: f64,
        max_delay: f64,
        strategy: Option<Bound<'_, PyAny>>,
        factor: f64,
        jitter: &str,
        seed: Option<u64>,
    ) -> PyResult<Self> {
        let (named, strategy) = match strategy {
            Some(strategy) => parse_strategy(&strategy, factor)?,
            None => (core::Strategy::Exponential { factor }, None),
        };
        let backoff = core::Backoff::new(base_delay, max_delay, named, parse_jitter(jitter)?);
        let seed = seed.unwrap_or_else(crate::clock::random_seed);
        Ok(Self { core: backoff.map_err(|error| refused(&error))?, strategy, random: Mutex::new(Random::new(seed)) })
    }

    /// The seconds to wait before attempt number `attempt` (from 0) is repeated. `previous` is the delay this call
    /// waited last; decorrelated jitter walks on from it, and draws the walk from its start where it is not given.
    #[pyo3(signature = (attempt, previous=None))]
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn delay(&self, py: Python<'_>, attempt: Whole, previous: Option<f64>) -> PyResult<f64> {
        let number = checked_attempt(&attempt)?;
        let wait_s = self.wait_s(py, number)?;
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.core.spread_s(wait_s, number, previous, &mut random))
    }

    /// The delay before jitter: the strategy's, capped.
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn ceiling(&self, py: Python<'_>, attempt: Whole) -> PyResult<f64> {
        Ok(self.wait_s(py, checked_attempt(&attempt)?)?.min(self.core.max_delay_s()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.strategy)
    }
}

impl Backoff {
    /// What the strategy says; the generator's lock is not held while the user's own is asked.
    fn wait_s(&self, py: Python<'_>, attempt: u64) -> PyResult<f64> {
        let Some(strategy) = &self.strategy else { return Ok(self.core.ceiling_s(attempt)) };
        let wait_s: f64 = strategy.call1(py, (attempt,))?.extract(py)?;
        if wait_s >= 0.0 {
            return Ok(wait_s);
        }
        Err(PyValueError::new_err(format!("strategy must return >= 0 seconds, got {}", Decimal(wait_s))))
    }
}

fn checked_attempt(attempt: &Whole) -> PyResult<u64> {
    u64::try_from(attempt.0).map_err(|_| PyValueError::new_err(format!("attempt must be >= 0, got {}", attempt.0)))
}
