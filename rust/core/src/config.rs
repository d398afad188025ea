//! The errors of an invalid configuration, and the conversions every policy shares.
//!
//! A configuration is checked when it is made, never when it is used: each constructor returns a [`ConfigError`] that
//! names the parameter, the rule it breaks and the value that was given.

use std::fmt;

/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: f64 = 1e9;

/// The longest duration a policy accepts, a hundred years: far above any use, far below an overflow of `u64`.
pub const MAX_DURATION_S: f64 = 100.0 * 365.25 * 86_400.0;

/// A refused parameter, printed as `failure_threshold must be >= 1, got 0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The parameter as the user spells it.
    pub parameter: &'static str,
    /// The rule, as it follows "must be".
    pub rule: String,
    /// The value as the user would write it.
    pub value: String,
}

impl ConfigError {
    /// An error for `parameter`, which must be `rule` but is `value`.
    pub fn new(parameter: &'static str, rule: impl Into<String>, value: impl fmt::Display) -> Self {
        Self { parameter, rule: rule.into(), value: value.to_string() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} must be {}, got {}", self.parameter, self.rule, self.value)
    }
}

impl std::error::Error for ConfigError {}

/// A whole number between `low` and `high`.
///
/// # Errors
/// When `value` lies outside.
pub fn integer_between(parameter: &'static str, value: i64, low: i64, high: i64) -> Result<i64, ConfigError> {
    if value < low {
        return Err(ConfigError::new(parameter, format!(">= {low}"), value));
    }
    if value > high {
        return Err(ConfigError::new(parameter, format!("<= {high}"), value));
    }
    Ok(value)
}

/// A count of at least one, at most `high`.
///
/// # Errors
/// When `value` lies outside.
pub fn count(parameter: &'static str, value: i64, high: u32) -> Result<u32, ConfigError> {
    let checked = integer_between(parameter, value, 1, i64::from(high))?;
    Ok(u32::try_from(checked).unwrap_or(high))
}

/// A share in (0, 1].
///
/// # Errors
/// When `value` lies outside or is not a number.
pub fn rate(parameter: &'static str, value: f64) -> Result<f64, ConfigError> {
    if value > 0.0 && value <= 1.0 {
        return Ok(value);
    }
    Err(ConfigError::new(parameter, "> 0 and <= 1", Decimal(value)))
}

/// A finite number that is not negative.
///
/// # Errors
/// When `value` is negative, infinite or not a number.
pub fn not_negative(parameter: &'static str, value: f64) -> Result<f64, ConfigError> {
    if value >= 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(ConfigError::new(parameter, "finite and >= 0", Decimal(value)))
}

/// A duration above zero, in nanoseconds.
///
/// # Errors
/// When `seconds` is not above zero, or beyond [`MAX_DURATION_S`].
pub fn duration_ns(parameter: &'static str, seconds: f64) -> Result<u64, ConfigError> {
    if seconds.is_nan() || seconds <= 0.0 {
        return Err(ConfigError::new(parameter, "> 0 seconds", Decimal(seconds)));
    }
    if seconds > MAX_DURATION_S {
        return Err(ConfigError::new(parameter, format!("<= {MAX_DURATION_S} seconds"), Decimal(seconds)));
    }
    // A duration below one nanosecond would otherwise become none at all.
    Ok(seconds_to_ns(seconds).max(1))
}

/// Seconds as nanoseconds; what lies outside `u64` saturates.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float casts saturate, which is wanted")]
pub fn seconds_to_ns(seconds: f64) -> u64 {
    (seconds * NANOS_PER_SECOND).round() as u64
}

/// Nanoseconds as seconds.
#[must_use]
pub fn ns_to_seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / NANOS_PER_SECOND
}

/// A float as Python writes it: `1.0`, not `1`; `inf`, `nan`.
pub struct Decimal(pub f64);

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nan() {
            return formatter.write_str("nan");
        }
        write!(formatter, "{:?}", self.0)
    }
}
