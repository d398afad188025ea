//! Small conversions between Python's types and the core's.

use agent_memory_core::config::{Decimal, seconds_to_ns};
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

/// An `int` of any size; beyond `i64` it saturates, so that a rule can refuse it by name instead of an `OverflowError`.
pub(crate) struct Whole(pub(crate) i64);

impl<'py> FromPyObject<'_, 'py> for Whole {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<i64>() {
            Ok(value) => Ok(Self(value)),
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                Ok(Self(if object.lt(0)? { i64::MIN } else { i64::MAX }))
            }
            Err(error) => Err(error),
        }
    }
}

/// Seconds of an argument as nanoseconds. Raises `ValueError` below 0 and for nan.
pub(crate) fn delay_ns(parameter: &str, seconds: f64) -> PyResult<u64> {
    if seconds >= 0.0 {
        return Ok(seconds_to_ns(seconds));
    }
    Err(PyValueError::new_err(format!("{parameter} must be >= 0, got {}", Decimal(seconds))))
}

/// A member of one of the core's numbered enums.
pub(crate) fn numbered<T: TryFrom<u8>>(parameter: &str, number: i64) -> PyResult<T> {
    u8::try_from(number)
        .ok()
        .and_then(|small| T::try_from(small).ok())
        .ok_or_else(|| PyValueError::new_err(format!("{parameter} must be one of its enum's members, got {number}")))
}
