//! Configurations, checked when they are made. The frozen dataclasses of `agent_memory.policy` are their public faces.

use agent_memory_core::guard::backoff::{Backoff, Jitter, Strategy};
use agent_memory_core::guard::breaker::{BreakerConfig, BreakerOptions, DEFAULT_PROBE_TIMEOUT_S};
use agent_memory_core::guard::budget::{
    BudgetConfig, DEFAULT_CAPACITY, DEFAULT_REFILL_PER_S, DEFAULT_RETRY_COST, DEFAULT_SUCCESS_REFUND,
};
use agent_memory_core::guard::retry::RetryConfig;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::convert::Whole;
use crate::errors::refused;

/// The rules of a circuit breaker.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct BreakerRules {
    pub(crate) config: BreakerConfig,
}

#[pymethods]
impl BreakerRules {
    #[new]
    #[pyo3(signature = (
        failure_threshold=Some(Whole(3)), reset_timeout_s=300.0, *, failure_rate=None, slow_call_rate=None,
        slow_call_duration_s=None, window_calls=None, window_s=None, minimum_calls=None,
        half_open_max_calls=Whole(1), probe_timeout_s=DEFAULT_PROBE_TIMEOUT_S, max_reset_timeout_s=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn new(
        failure_threshold: Option<Whole>,
        reset_timeout_s: f64,
        failure_rate: Option<f64>,
        slow_call_rate: Option<f64>,
        slow_call_duration_s: Option<f64>,
        window_calls: Option<Whole>,
        window_s: Option<f64>,
        minimum_calls: Option<Whole>,
        half_open_max_calls: Whole,
        probe_timeout_s: f64,
        max_reset_timeout_s: Option<f64>,
    ) -> PyResult<Self> {
        let options = BreakerOptions {
            failure_threshold: failure_threshold.map(|value| value.0),
            reset_timeout_s,
            failure_rate,
            slow_call_rate,
            slow_call_duration_s,
            window_calls: window_calls.map(|value| value.0),
            window_s,
            minimum_calls: minimum_calls.map(|value| value.0),
            half_open_max_calls: half_open_max_calls.0,
            probe_timeout_s,
            max_reset_timeout_s,
        };
        Ok(Self { config: BreakerConfig::new(&options).map_err(|error| refused(&error))? })
    }
}

/// The rules of a retry policy. `strategy` is a name or a callable `strategy(attempt) -> seconds`.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct RetryRules {
    pub(crate) config: RetryConfig,
    /// The user's own strategy, which replaces the configured delay.
    pub(crate) strategy: Option<Py<PyAny>>,
}

#[pymethods]
impl RetryRules {
    #[new]
    #[pyo3(signature = (
        max_retries, base_delay, backoff_factor, *, max_delay, strategy, jitter, deadline_s=None,
    ))]
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn new(
        max_retries: Whole,
        base_delay: f64,
        backoff_factor: f64,
        max_delay: f64,
        strategy: Bound<'_, PyAny>,
        jitter: &str,
        deadline_s: Option<f64>,
    ) -> PyResult<Self> {
        let (named, own) = parse_strategy(&strategy, backoff_factor)?;
        let backoff = Backoff::new(base_delay, max_delay, named, parse_jitter(jitter)?).map_err(|e| refused(&e))?;
        let config = RetryConfig::new(max_retries.0, backoff, deadline_s).map_err(|error| refused(&error))?;
        Ok(Self { config, strategy: own })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.strategy)
    }
}

/// A strategy by its name, or the user's callable.
pub(crate) fn parse_strategy(strategy: &Bound<'_, PyAny>, factor: f64) -> PyResult<(Strategy, Option<Py<PyAny>>)> {
    // The factor is checked even where it is not used: a wrong one is a mistake all the same.
    let exponential = Strategy::Exponential { factor };
    let Ok(name) = strategy.extract::<&str>() else {
        if strategy.is_callable() {
            return Ok((exponential, Some(strategy.clone().unbind())));
        }
        return Err(PyTypeError::new_err(format!(
            "strategy must be a name or a callable, got {}",
            strategy.get_type().name()?
        )));
    };
    match name {
        "exponential" => Ok((exponential, None)),
        "linear" => Ok((Strategy::Linear, None)),
        "constant" => Ok((Strategy::Constant, None)),
        "fibonacci" => Ok((Strategy::Fibonacci, None)),
        _ => Err(PyValueError::new_err(format!(
            "strategy must be 'exponential', 'linear', 'constant', 'fibonacci' or a callable, got '{name}'"
        ))),
    }
}

/// A jitter by its name.
pub(crate) fn parse_jitter(name: &str) -> PyResult<Jitter> {
    match name {
        "none" => Ok(Jitter::None),
        "full" => Ok(Jitter::Full),
        "equal" => Ok(Jitter::Equal),
        "decorrelated" => Ok(Jitter::Decorrelated),
        _ => Err(PyValueError::new_err(format!(
            "jitter must be 'none', 'full', 'equal' or 'decorrelated', got '{name}'"
        ))),
    }
}

/// The rules of a retry budget.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct BudgetRules {
    pub(crate) config: BudgetConfig,
}

#[pymethods]
impl BudgetRules {
    #[new]
    #[pyo3(signature = (
        capacity=DEFAULT_CAPACITY, *, retry_cost=DEFAULT_RETRY_COST, success_refund=DEFAULT_SUCCESS_REFUND,
        refill_per_s=DEFAULT_REFILL_PER_S,
    ))]
    fn new(capacity: f64, retry_cost: f64, success_refund: f64, refill_per_s: f64) -> PyResult<Self> {
        let config = BudgetConfig::new(capacity, retry_cost, success_refund, refill_per_s);
        Ok(Self { config: config.map_err(|error| refused(&error))? })
    }
}
