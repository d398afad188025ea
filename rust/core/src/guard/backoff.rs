//! How long to wait before attempt number *n* is repeated (n counts from 0).
//!
//! The wait without jitter, `x`, is capped before jitter is applied: capped afterwards, most late delays would be
//! equal to the cap and the herd would march in step again.
//!
//! | strategy    | `x`                                    |
//! |-------------|----------------------------------------|
//! | exponential | `min(base · factor^n, max)`            |
//! | linear      | `min(base · (n + 1), max)`             |
//! | constant    | `min(base, max)`                       |
//! | Fibonacci   | `min(base · F(n + 1), max)`, 1 1 2 3 5 |
//!
//! | jitter       | delay                                                                    |
//! |--------------|--------------------------------------------------------------------------|
//! | none         | `x`                                                                      |
//! | full         | `U(0, x)`                                                                |
//! | equal        | `x/2 + U(0, x/2)`                                                        |
//! | decorrelated | `min(max, U(base, 3 · previous))`, previous being `base` at first; the strategy is not used |
//!
//! Decorrelated jitter is a random walk with a memory of one delay per call. Where the caller keeps that delay, he
//! passes it as `previous_s`; where he does not (the guard keeps nothing per call), the walk is drawn anew from its
//! start, which gives the n-th delay exactly the distribution it has in a remembered walk.
//!
//! Where the strategy is the user's own function, its result takes the place of the formula: it is capped, then
//! jitter is applied.
//!
//! Nothing here overflows: a delay beyond every float is the cap.

use crate::config::{ConfigError, Decimal, not_negative};
use crate::guard::random::Random;

/// Default wait before the first retry.
pub const DEFAULT_BASE_DELAY_S: f64 = 1.0;
/// Default cap of a wait.
pub const DEFAULT_MAX_DELAY_S: f64 = 30.0;
/// Default factor of the exponential strategy.
pub const DEFAULT_FACTOR: f64 = 2.0;

/// After this many steps the walk of decorrelated jitter has forgotten its start; more steps would only cost time.
pub const MAX_WALK_STEPS: u64 = 64;

/// From here on every Fibonacci number is beyond `f64`, and the sum of two of them is the same infinity.
const FIBONACCI_LIMIT: u64 = 1_500;

/// How the wait grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// `base · factor^n`
    Exponential {
        /// What each attempt multiplies the wait by.
        factor: f64,
    },
    /// `base · (n + 1)`
    Linear,
    /// `base`
    Constant,
    /// `base · F(n + 1)`
    Fibonacci,
}

/// How the wait is spread, so that many clients do not return at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Not at all.
    None,
    /// Anywhere between nothing and the whole wait.
    Full,
    /// Half the wait, and up to another half.
    Equal,
    /// A random walk between the base and the cap.
    Decorrelated,
}

/// A checked configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    base_delay_s: f64,
    max_delay_s: f64,
    strategy: Strategy,
    jitter: Jitter,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base_delay_s: DEFAULT_BASE_DELAY_S,
            max_delay_s: DEFAULT_MAX_DELAY_S,
            strategy: Strategy::Exponential { factor: DEFAULT_FACTOR },
            jitter: Jitter::Full,
        }
    }
}

impl Backoff {
    /// Checks the numbers.
    ///
    /// # Errors
    /// When a delay is negative or not finite, the cap lies below the base, or the factor is below 1.
    pub fn new(base_delay_s: f64, max_delay_s: f64, strategy: Strategy, jitter: Jitter) -> Result<Self, ConfigError> {
        not_negative("base_delay", base_delay_s)?;
        not_negative("max_delay", max_delay_s)?;
        if max_delay_s < base_delay_s {
            let rule = format!(">= base_delay ({})", Decimal(base_delay_s));
            return Err(ConfigError::new("max_delay", rule, Decimal(max_delay_s)));
        }
        if let Strategy::Exponential { factor } = strategy
            && !(factor >= 1.0 && factor.is_finite())
        {
            return Err(ConfigError::new("backoff_factor", "finite and >= 1", Decimal(factor)));
        }
        Ok(Self { base_delay_s, max_delay_s, strategy, jitter })
    }

    /// The cap.
    #[must_use]
    pub fn max_delay_s(&self) -> f64 {
        self.max_delay_s
    }

    /// The wait before jitter: capped, never negative, never NaN.
    #[must_use]
    pub fn ceiling_s(&self, attempt: u64) -> f64 {
        // Nothing times an infinite factor would be NaN; it is still nothing.
        if self.base_delay_s == 0.0 {
            return 0.0;
        }
        let multiple = match self.strategy {
            Strategy::Exponential { factor } => factor.powf(attempt as f64),
            Strategy::Linear => attempt as f64 + 1.0,
            Strategy::Constant => 1.0,
            Strategy::Fibonacci => fibonacci(attempt.saturating_add(1)),
        };
        (self.base_delay_s * multiple).min(self.max_delay_s)
    }

    /// The delay before `attempt` is repeated. `previous_s` is the delay this call waited last, where the caller
    /// knows it; only decorrelated jitter looks at it.
    pub fn delay_s(&self, attempt: u64, previous_s: Option<f64>, random: &mut Random) -> f64 {
        self.spread_s(self.ceiling_s(attempt), attempt, previous_s, random)
    }

    /// The same for a wait that a caller's strategy gives: it is capped, then jitter is applied.
    pub fn spread_s(&self, wait_s: f64, attempt: u64, previous_s: Option<f64>, random: &mut Random) -> f64 {
        let ceiling_s = wait_s.min(self.max_delay_s);
        match self.jitter {
            Jitter::None => ceiling_s,
            Jitter::Full => random.uniform(0.0, ceiling_s),
            Jitter::Equal => ceiling_s / 2.0 + random.uniform(0.0, ceiling_s / 2.0),
            Jitter::Decorrelated => match previous_s {
                Some(previous_s) => self.walk_s(previous_s, random),
                None => (0..=attempt.min(MAX_WALK_STEPS))
                    .fold(self.base_delay_s, |previous_s, _| self.walk_s(previous_s, random)),
            },
        }
    }

    fn walk_s(&self, previous_s: f64, random: &mut Random) -> f64 {
        let high_s = (previous_s * 3.0).max(self.base_delay_s);
        random.uniform(self.base_delay_s, high_s).min(self.max_delay_s)
    }
}

/// `min(base_delay · 2^attempt, max_delay)` for every attempt: the result a float of unlimited range would give.
#[must_use]
pub fn exponential_backoff(attempt: i64, base_delay_s: f64, max_delay_s: f64) -> f64 {
    let delay_s = times_power_of_two(base_delay_s, attempt);
    // Python's min returns its first argument unless the second is smaller, so a NaN delay stays visible.
    if max_delay_s < delay_s { max_delay_s } else { delay_s }
}

/// `value · 2^exponent` without an overflow on the way, where the result itself fits.
fn times_power_of_two(value: f64, exponent: i64) -> f64 {
    /// The largest power of two that a float holds exactly, and whose inverse it holds too.
    const LARGEST: i64 = 1_022;
    let (mut result, mut left) = (value, exponent);
    // Three steps take the smallest float beyond the largest, and the largest below the smallest: a fourth would change nothing.
    for _ in 0..3 {
        let step = left.clamp(-LARGEST, LARGEST);
        result *= power_of_two(step);
        left -= step;
    }
    result
}

/// `2^exponent` for a normal float, by writing its exponent bits.
fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(u64::try_from(exponent + 1_023).unwrap_or(0) << 52)
}

fn fibonacci(index: u64) -> f64 {
    let (mut current, mut next) = (0.0, 1.0);
    for _ in 0..index.min(FIBONACCI_LIMIT) {
        (current, next) = (next, current + next);
    }
    current
}
