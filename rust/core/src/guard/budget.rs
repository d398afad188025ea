//! A bucket of tokens that retries pay from, so that a server in trouble is not drowned in retries.
//!
//! - It starts full, with `capacity` tokens.
//! - A retry takes `retry_cost` tokens; with fewer in the bucket, it is refused.
//! - A success puts `success_refund` tokens back, and time puts `refill_per_s` tokens back each second, never above
//!   `capacity`. The refill lets a client retry that is too quiet to earn by successes.
//!
//! The defaults are those AWS settled on for its SDKs in 2026 (500 tokens, 14 a retry, 1 back for each success: a
//! burst of 35 retries, then one retry in 14 successes, 7 %), plus one retry a second from the refill.

use std::sync::{Arc, PoisonError};

use crate::config::{ConfigError, Decimal, ns_to_seconds};
use crate::sync::Mutex;

/// Default size of the bucket, in tokens.
pub const DEFAULT_CAPACITY: f64 = 500.0;
/// Default price of a retry, in tokens.
pub const DEFAULT_RETRY_COST: f64 = 14.0;
/// Default reward of a success, in tokens.
pub const DEFAULT_SUCCESS_REFUND: f64 = 1.0;
/// Default refill, in tokens a second.
pub const DEFAULT_REFILL_PER_S: f64 = 14.0;

/// A checked configuration of a [`Budget`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetConfig {
    capacity: f64,
    retry_cost: f64,
    success_refund: f64,
    refill_per_s: f64,
}

impl BudgetConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// When a number is negative or not finite, or when not even a full bucket pays for one retry.
    pub fn new(capacity: f64, retry_cost: f64, success_refund: f64, refill_per_s: f64) -> Result<Self, ConfigError> {
        for (parameter, value) in [
            ("capacity", capacity),
            ("retry_cost", retry_cost),
            ("success_refund", success_refund),
            ("refill_per_s", refill_per_s),
        ] {
            crate::config::not_negative(parameter, value)?;
        }
        if capacity < retry_cost {
            let rule = format!(">= retry_cost ({})", Decimal(retry_cost));
            return Err(ConfigError::new("capacity", rule, Decimal(capacity)));
        }
        Ok(Self { capacity, retry_cost, success_refund, refill_per_s })
    }
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            capacity: DEFAULT_CAPACITY,
            retry_cost: DEFAULT_RETRY_COST,
            success_refund: DEFAULT_SUCCESS_REFUND,
            refill_per_s: DEFAULT_REFILL_PER_S,
        }
    }
}

/// The bucket.
#[derive(Debug, Clone)]
pub struct Budget {
    config: BudgetConfig,
    tokens: f64,
    refilled_ns: u64,
}

impl Budget {
    /// A full bucket at `now_ns`.
    #[must_use]
    pub fn new(config: BudgetConfig, now_ns: u64) -> Self {
        Self { config, tokens: config.capacity, refilled_ns: now_ns }
    }

    /// Takes the price of one retry, if there is enough.
    pub fn pay(&mut self, now_ns: u64) -> bool {
        self.refill(now_ns);
        if self.tokens < self.config.retry_cost {
            return false;
        }
        self.tokens -= self.config.retry_cost;
        true
    }

    /// A call succeeded.
    pub fn refund(&mut self) {
        self.tokens = (self.tokens + self.config.success_refund).min(self.config.capacity);
    }

    /// The tokens in the bucket at `now_ns`.
    pub fn level(&mut self, now_ns: u64) -> f64 {
        self.refill(now_ns);
        self.tokens
    }

    /// The size of the bucket.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        self.config.capacity
    }

    fn refill(&mut self, now_ns: u64) {
        let elapsed_s = ns_to_seconds(now_ns.saturating_sub(self.refilled_ns));
        self.tokens = (self.tokens + elapsed_s * self.config.refill_per_s).min(self.config.capacity);
        self.refilled_ns = self.refilled_ns.max(now_ns);
    }
}

/// What the retries of a guard are paid from: a bucket of its own, or one that the guards of a cluster's nodes share.
///
/// The shared bucket has a lock of its own, taken under the guard's and held for nothing else.
#[derive(Debug)]
pub enum Purse {
    /// One guard's.
    Own(Budget),
    /// Several guards'.
    Shared(Arc<Mutex<Budget>>),
}

impl Purse {
    /// The same bucket for another guard.
    #[must_use]
    pub fn share(self) -> (Self, Self) {
        let shared = match self {
            Self::Own(budget) => Arc::new(Mutex::new(budget)),
            Self::Shared(shared) => shared,
        };
        (Self::Shared(Arc::clone(&shared)), Self::Shared(shared))
    }

    /// See [`Budget::pay`].
    pub fn pay(&mut self, now_ns: u64) -> bool {
        self.with(|budget| budget.pay(now_ns))
    }

    /// See [`Budget::refund`].
    pub fn refund(&mut self) {
        self.with(Budget::refund);
    }

    /// See [`Budget::level`].
    pub fn level(&mut self, now_ns: u64) -> f64 {
        self.with(|budget| budget.level(now_ns))
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Budget) -> T) -> T {
        match self {
            Self::Own(budget) => act(budget),
            Self::Shared(shared) => act(&mut shared.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}
