//! Arguments of what is public: a value of the wrong type is refused by parameter, rule and value, as Python's settings do it.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::convert::Whole;
use crate::guard::settings::{BreakerRules, BudgetRules, RetryRules};

/// One function for each parameter, for `#[pyo3(from_py_with = arguments::NAME)]`: its name, its type, its rule in words.
macro_rules! arguments {
    ($($name:ident: $kind:ty, $rule:literal;)*) => { $(
        #[allow(clippy::elidable_lifetime_names, reason = "some of the types name it")]
        pub(crate) fn $name<'py>(value: &Bound<'py, PyAny>) -> PyResult<$kind> {
            value.extract::<$kind>().map_err(|error| {
                let error: PyErr = error.into();
                wrong(value, stringify!($name), $rule, &error)
            })
        }
    )* };
}

arguments! {
    attempt: Whole, "a whole number >= 0";
    base_delay: f64, "a number of seconds >= 0";
    breaker: Option<Bound<'py, BreakerRules>>, "BreakerRules or None";
    budget: Option<Bound<'py, BudgetRules>>, "BudgetRules or None";
    call: u32, "a whole number >= 0";
    category: i64, "a CommandCategory";
    coalesce: bool, "True or False";
    count: usize, "a whole number >= 0";
    delay_s: f64, "a number of seconds >= 0";
    due_in_s: f64, "a number of seconds >= 0";
    endpoint: Option<Bound<'py, PyString>>, "a str or None";
    factor: f64, "a number >= 1";
    id: u64, "a whole number >= 0";
    interval_s: f64, "a number of seconds >= 0";
    jitter: String, "one of none, full, equal, decorrelated";
    lease: Option<u64>, "a whole number >= 0 or None";
    leases: Vec<(u64, Option<u64>)>, "a list of (id, lease)";
    max_age_s: Option<f64>, "a number of seconds > 0 or None";
    max_bytes: Whole, "a whole number >= 1";
    max_dead_letters: Whole, "a whole number >= 0";
    max_delay: f64, "a number of seconds >= 0";
    max_entries: Whole, "a whole number >= 1";
    name: Bound<'py, PyString>, "a str";
    overrides: Option<Bound<'py, PyDict>>, "a dict or None";
    permit: u64, "a permit of admit()";
    previous: Option<f64>, "a number of seconds or None";
    priority: i64, "a Priority";
    reason: String, "a str";
    restored: bool, "True or False";
    retry: Option<Bound<'py, RetryRules>>, "RetryRules or None";
    seed: Option<u64>, "a whole number >= 0 or None";
    size_bytes: u64, "a whole number >= 0";
    worker: u16, "a whole number from 0 to 65535";
}

/// The clock of a test.
pub(crate) fn clock<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    callable(value, "clock", "a callable that returns nanoseconds, or None")
}

/// What is called under a breaker.
pub(crate) fn operation<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    required(value, "operation", "callable")
}

/// What a call under a breaker raised.
pub(crate) fn error<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if value.is_instance_of::<pyo3::exceptions::PyBaseException>() {
        return Ok(value.clone());
    }
    Err(refused(value, "error", "an exception"))
}

fn callable<'py>(value: &Bound<'py, PyAny>, name: &str, rule: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    if value.is_none() {
        return Ok(None);
    }
    required(value, name, rule).map(Some)
}

fn required<'py>(value: &Bound<'py, PyAny>, name: &str, rule: &str) -> PyResult<Bound<'py, PyAny>> {
    if value.is_callable() { Ok(value.clone()) } else { Err(refused(value, name, rule)) }
}

/// `name` is not what its `rule` says.
pub(crate) fn refused(value: &Bound<'_, PyAny>, name: &str, rule: &str) -> PyErr {
    value.repr().map_or_else(|error| error, |given| PyTypeError::new_err(format!("{name} must be {rule}, got {given}")))
}

/// A number out of range is a `ValueError`, everything else a `TypeError`.
fn wrong(value: &Bound<'_, PyAny>, name: &str, rule: &str, error: &PyErr) -> PyErr {
    let refusal = refused(value, name, rule);
    if error.is_instance_of::<PyOverflowError>(value.py()) {
        return PyValueError::new_err(refusal.value(value.py()).to_string());
    }
    refusal
}
