//! Delays on their own: `exponential_backoff` and `Backoff`.

use std::sync::{Mutex, PoisonError};

use agent_memory_core::config::{ConfigError, Decimal};
use agent_memory_core::guard::backoff::{self as core, DEFAULT_BASE_DELAY_S, DEFAULT_FACTOR, DEFAULT_MAX_DELAY_S};
use agent_memory_core::guard::random::Random;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::arguments;
use crate::convert::Whole;
use crate::guard::settings::{parse_jitter, parse_strategy};

/// The delay after `attempt` (from 0): `min(base_delay * 2**attempt, max_delay)`, in seconds.
///
/// `base_delay` (0.5) and `max_delay` (30.0) are seconds. It does not overflow for any attempt. Raises `TypeError` for what is
/// no number, `ValueError` for a delay below 0.
#[pyfunction]
#[pyo3(signature = (attempt, base_delay=0.5, max_delay=30.0))]
#[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
pub(crate) fn exponential_backoff(
    #[pyo3(from_py_with = arguments::attempt)] attempt: Whole,
    #[pyo3(from_py_with = arguments::base_delay)] base_delay: f64,
    #[pyo3(from_py_with = arguments::max_delay)] max_delay: f64,
) -> PyResult<f64> {
    for (name, value) in [("base_delay", base_delay), ("max_delay", max_delay)] {
        if value.is_nan() || value < 0.0 {
            return Err(PyValueError::new_err(format!(
                "{name} must be a number of seconds >= 0, got {}",
                Decimal(value)
            )));
        }
    }
    Ok(core::exponential_backoff(attempt.0, base_delay, max_delay))
}

/// Delays between attempts, in seconds.
///
/// - `base_delay` (0.5), `max_delay` (30.0): the first and the longest delay, in seconds.
/// - `strategy` ("exponential"): also "linear", "constant", "fibonacci", or a callable `strategy(attempt) -> seconds`.
/// - `factor` (2.0): what an exponential delay is multiplied by.
/// - `jitter` ("full"): also "none", "equal" or "decorrelated"; spreads the delay after it is capped.
/// - `seed` (None): makes the spread repeatable.
///
/// Raises `TypeError` or `ValueError` for an argument outside its rule. Thread-safe; waits for nothing.
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
        jitter=String::from("full"), seed=None,
    ))]
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn new(
        #[pyo3(from_py_with = arguments::base_delay)] base_delay: f64,
        #[pyo3(from_py_with = arguments::max_delay)] max_delay: f64,
        strategy: Option<Bound<'_, PyAny>>,
        #[pyo3(from_py_with = arguments::factor)] factor: f64,
        #[pyo3(from_py_with = arguments::jitter)] jitter: String,
        #[pyo3(from_py_with = arguments::seed)] seed: Option<u64>,
    ) -> PyResult<Self> {
        let (named, strategy) = match strategy {
            Some(strategy) => parse_strategy(&strategy, factor)?,
            None => (core::Strategy::Exponential { factor }, None),
        };
        let backoff = core::Backoff::new(base_delay, max_delay, named, parse_jitter(&jitter)?);
        let seed = seed.unwrap_or_else(crate::clock::random_seed);
        Ok(Self {
            core: backoff.map_err(|error| refused_factor(&error))?,
            strategy,
            random: Mutex::new(Random::new(seed)),
        })
    }

    /// The seconds to wait before attempt number `attempt` (from 0) is repeated. `previous` is the delay this call
    /// waited last; decorrelated jitter walks on from it, and draws the walk from its start where it is not given.
    #[pyo3(signature = (attempt, previous=None))]
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn delay(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::attempt)] attempt: Whole,
        #[pyo3(from_py_with = arguments::previous)] previous: Option<f64>,
    ) -> PyResult<f64> {
        let number = checked_attempt(&attempt)?;
        if previous.is_some_and(f64::is_nan) {
            return Err(PyValueError::new_err("previous must be a number of seconds or None, got nan"));
        }
        let wait_s = self.wait_s(py, number)?;
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.core.spread_s(wait_s, number, previous, &mut random))
    }

    /// The delay after attempt number `attempt` before jitter: the strategy's, capped, in seconds.
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn ceiling(&self, py: Python<'_>, #[pyo3(from_py_with = arguments::attempt)] attempt: Whole) -> PyResult<f64> {
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

/// What a policy calls `backoff_factor` is `factor` here.
fn refused_factor(error: &ConfigError) -> PyErr {
    PyValueError::new_err(error.to_string().replace("backoff_factor", "factor"))
}

fn checked_attempt(attempt: &Whole) -> PyResult<u64> {
    u64::try_from(attempt.0).map_err(|_| PyValueError::new_err(format!("attempt must be >= 0, got {}", attempt.0)))
}
