//! One guard per client: breaker, retries, budget and metrics behind one lock.
//!
//! A call goes `admit`, then exactly one of `success`, `answered_error`, `failure`, `abandon` with its permit. A
//! retry is a new admission.
//!
//! **Concurrency.** Everything mutable lies behind one mutex that is held for nanoseconds and never across a call to
//! the outside. Admission to a closed circuit does not take it: the gate, an atomic, holds the oldest valid permit
//! while the circuit is closed and [`GATE_SHUT`] otherwise. It is written under the lock at every change of state. A
//! caller who read the gate just before it shut is admitted late; his permit is older than the change, so his result
//! is ignored: the same as if he had been quicker.
//!
//! The parts: [`breaker`] over a [`window`] of calls, [`retry`] with [`backoff`] under a [`budget`], [`metrics`]; [`random`]
//! is the generator that jitter draws from.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod metrics;
pub mod random;
pub mod retry;
pub mod window;

use std::collections::HashMap;
use std::sync::PoisonError;

use crate::guard::breaker::{Breaker, BreakerConfig, Change, Rejection, State};
use crate::guard::budget::{Budget, BudgetConfig, Purse};
use crate::guard::metrics::OperationMetrics;
use crate::guard::random::Random;
use crate::guard::retry::{Category, FailureKind, HealthSignal, Outcome, RetryConfig, may_repeat};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// The most operation names that are told apart; later ones are counted under [`OTHER_OPERATIONS`].
pub const MAX_OPERATIONS: usize = 512;

/// The name that operations beyond [`MAX_OPERATIONS`] share.
pub const OTHER_OPERATIONS: &str = "other";

/// The gate's value while calls must ask the breaker itself.
const GATE_SHUT: u64 = u64::MAX;

/// The number of an operation in its guard.
pub type OperationIndex = usize;

/// How one attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedAttempt {
    /// What went wrong.
    pub kind: FailureKind,
    /// What is known of the effect.
    pub outcome: Outcome,
    /// What the command does.
    pub category: Category,
    /// The number of the attempt, from 0.
    pub attempt: u64,
    /// When the call began, its first attempt included.
    pub call_started_ns: u64,
    /// When the call must be over; 0 for no deadline.
    pub deadline_ns: u64,
}

/// The source of the wait before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wait {
    /// The policy of the operation.
    ByPolicy,
    /// The user's own strategy said these seconds: they are capped and spread by the policy.
    Strategy(f64),
    /// The user's own retry logic decided for these seconds, in place of the policy and its number of attempts.
    Decided(f64),
}

impl FailedAttempt {
    /// Would repeating the command be safe, and might it help?
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        may_repeat(self.category, self.kind, self.outcome)
    }
}

/// What opened a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenedBy {
    /// A failure of this kind, the last of those that the rules count.
    Failure(FailureKind),
    /// Calls that were answered too slowly.
    SlowCalls,
    /// [`Guard::force_open`].
    Force,
}

impl OpenedBy {
    /// The name users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OpenedBy::Failure(kind) => kind.name(),
            OpenedBy::SlowCalls => "slow_calls",
            OpenedBy::Force => "forced",
        }
    }
}

/// What a guard knows of itself, apart from its operations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuardSnapshot {
    /// Where the breaker stands.
    pub state: State,
    /// How often it changed its state.
    pub state_changes: u64,
    /// How often it opened.
    pub times_opened: u64,
    /// What opened it last; `None` before it has opened.
    pub opened_by: Option<OpenedBy>,
    /// The time until the next probe; `None` when forced open.
    pub retry_after_ns: Option<u64>,
    /// Tokens in the retry budget; `None` without a budget.
    pub budget_level: Option<f64>,
}

struct OperationState {
    name: String,
    retry: RetryConfig,
    metrics: OperationMetrics,
}

struct Inner {
    breaker: Breaker,
    budget: Option<Purse>,
    random: Random,
    retry: RetryConfig,
    overrides: HashMap<String, RetryConfig>,
    operations: Vec<OperationState>,
    by_name: HashMap<String, OperationIndex>,
    state_changes: u64,
    times_opened: u64,
    opened_by: Option<OpenedBy>,
}

/// The composition; see the module's text.
pub struct Guard {
    gate: AtomicU64,
    inner: Mutex<Inner>,
}

impl Guard {
    /// A guard with a closed breaker and a full budget. `budget: None` lets every retry pass.
    #[must_use]
    pub fn new(
        breaker: BreakerConfig,
        retry: RetryConfig,
        overrides: HashMap<String, RetryConfig>,
        budget: Option<BudgetConfig>,
        seed: u64,
        now_ns: u64,
    ) -> Self {
        let breaker = Breaker::new(breaker);
        Self {
            gate: AtomicU64::new(breaker.oldest_permit()),
            inner: Mutex::new(Inner {
                breaker,
                budget: budget.map(|config| Purse::Own(Budget::new(config, now_ns))),
                random: Random::new(seed),
                retry,
                overrides,
                operations: Vec::new(),
                by_name: HashMap::new(),
                state_changes: 0,
                times_opened: 0,
                opened_by: None,
            }),
        }
    }

    /// Retries are paid from the bucket of `other` from now on: the nodes of one cluster have one budget.
    pub fn share_budget_of(&self, other: &Self) {
        let shared = {
            let mut theirs = other.lock();
            let (kept, shared) = theirs.budget.take().map(Purse::share).unzip();
            theirs.budget = kept;
            shared
        };
        self.lock().budget = shared;
    }

    /// The number of the operation called `name`, made on first use.
    pub fn operation(&self, name: &str) -> OperationIndex {
        let mut inner = self.lock();
        if let Some(index) = inner.by_name.get(name) {
            return *index;
        }
        // The last place is kept for the name that all further operations share.
        if name != OTHER_OPERATIONS && inner.operations.len() >= MAX_OPERATIONS - 1 {
            drop(inner);
            return self.operation(OTHER_OPERATIONS);
        }
        let index = inner.operations.len();
        let retry = inner.overrides.get(name).copied().unwrap_or(inner.retry);
        inner.operations.push(OperationState { name: name.to_owned(), retry, metrics: OperationMetrics::default() });
        inner.by_name.insert(name.to_owned(), index);
        index
    }

    /// Has the operation called `name` a retry policy of its own?
    pub fn has_override(&self, name: &str) -> bool {
        self.lock().overrides.contains_key(name)
    }

    /// May a call start at `now_ns`? See [`Breaker::admit`].
    ///
    /// # Errors
    /// With a [`Rejection`] when not.
    #[inline]
    pub fn admit(&self, operation: OperationIndex, now_ns: u64) -> (Result<u64, Rejection>, Option<Change>) {
        // Acquire pairs with the release in `settle`: a thread that sees the gate open again sees the reset that opened it.
        let oldest_permit = self.gate.load(Ordering::Acquire);
        if oldest_permit != GATE_SHUT {
            return (Ok(now_ns.max(oldest_permit)), None);
        }
        self.admit_by_breaker(operation, now_ns)
    }

    /// The permit of a call that starts at `now_ns`, where the circuit is closed: without asking the breaker.
    #[inline]
    pub fn admit_if_closed(&self, now_ns: u64) -> Option<u64> {
        let oldest_permit = self.gate.load(Ordering::Acquire);
        (oldest_permit != GATE_SHUT).then(|| now_ns.max(oldest_permit))
    }

    #[cold]
    fn admit_by_breaker(&self, operation: OperationIndex, now_ns: u64) -> (Result<u64, Rejection>, Option<Change>) {
        let mut inner = self.lock();
        let (result, change) = inner.breaker.admit(now_ns);
        if result.is_err() {
            inner.operations[operation].metrics.rejections += 1;
        }
        (result, self.settle(&mut inner, change))
    }

    /// The attempt admitted with `permit` succeeded.
    pub fn success(&self, operation: OperationIndex, permit: u64, now_ns: u64) -> Option<Change> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let metrics = &mut inner.operations[operation].metrics;
        metrics.successes += 1;
        metrics.latency.record(now_ns.saturating_sub(permit));
        if let Some(budget) = &mut inner.budget {
            budget.refund();
        }
        let change = inner.breaker.success(permit, now_ns);
        self.settle_opened(inner, change, OpenedBy::SlowCalls)
    }

    /// The server answered the attempt with an ordinary command error: a success of the transport.
    pub fn answered_error(&self, operation: OperationIndex, permit: u64, now_ns: u64) -> Option<Change> {
        let mut inner = self.lock();
        let metrics = &mut inner.operations[operation].metrics;
        metrics.command_errors += 1;
        metrics.latency.record(now_ns.saturating_sub(permit));
        let change = inner.breaker.success(permit, now_ns);
        self.settle_opened(&mut inner, change, OpenedBy::SlowCalls)
    }

    /// The attempt ended with an error that says nothing about the server, and was answered or not.
    pub fn unrelated_error(&self, operation: OperationIndex, permit: u64) {
        let mut inner = self.lock();
        inner.operations[operation].metrics.command_errors += 1;
        inner.breaker.abandon(permit);
    }

    /// The attempt admitted with `permit` was cancelled.
    pub fn abandon(&self, operation: OperationIndex, permit: u64) {
        let mut inner = self.lock();
        inner.operations[operation].metrics.cancellations += 1;
        inner.breaker.abandon(permit);
    }

    /// The attempt admitted with `permit` failed. Whether to try again is asked of [`Guard::retry_delay_s`].
    pub fn failure(&self, operation: OperationIndex, permit: u64, kind: FailureKind, now_ns: u64) -> Option<Change> {
        let mut inner = self.lock();
        inner.operations[operation].metrics.count_failure(kind);
        let change = match kind.health_signal() {
            HealthSignal::Failure => inner.breaker.failure(permit, now_ns),
            HealthSignal::Success => inner.breaker.success(permit, now_ns),
            HealthSignal::Neutral => {
                inner.breaker.abandon(permit);
                None
            }
        };
        self.settle_opened(&mut inner, change, OpenedBy::Failure(kind))
    }

    /// Would another attempt be considered, if the delay and the budget allow it?
    pub fn may_retry(&self, operation: OperationIndex, failed: &FailedAttempt) -> bool {
        failed.may_repeat() && self.lock().operations[operation].retry.has_attempt_after(failed.attempt)
    }

    /// The seconds to wait before the next attempt; `None` for no further attempt.
    pub fn retry_delay_s(
        &self,
        operation: OperationIndex,
        failed: &FailedAttempt,
        wait: Wait,
        now_ns: u64,
    ) -> Option<f64> {
        if !failed.may_repeat() {
            return None;
        }
        let mut inner = self.lock();
        let inner = &mut *inner;
        let state = &mut inner.operations[operation];
        let (attempt, random) = (failed.attempt, &mut inner.random);
        let delay_s = match wait {
            Wait::Decided(delay_s) => delay_s,
            _ if !state.retry.has_attempt_after(attempt) => return None,
            Wait::Strategy(wait_s) => state.retry.backoff().spread_s(wait_s, attempt, None, random),
            Wait::ByPolicy => state.retry.backoff().delay_s(attempt, None, random),
        };
        let deadline_ns = state.retry.deadline_of(failed.call_started_ns, failed.deadline_ns);
        if now_ns.saturating_add(crate::config::seconds_to_ns(delay_s)) >= deadline_ns {
            return None;
        }
        if inner.budget.as_mut().is_some_and(|budget| !budget.pay(now_ns)) {
            state.metrics.retries_refused += 1;
            return None;
        }
        state.metrics.retries += 1;
        Some(delay_s)
    }

    /// Takes the price of one retry from the budget, for work that is repeated outside of a call (a replay).
    pub fn pay_retry(&self, now_ns: u64) -> bool {
        self.lock().budget.as_mut().is_none_or(|budget| budget.pay(now_ns))
    }

    /// See [`Breaker::expect_probes`].
    pub fn expect_probes(&self, id: u64, interval_ns: u64) {
        self.lock().breaker.expect_probes(id, interval_ns);
    }

    /// See [`Breaker::expect_no_probes`].
    pub fn expect_no_probes(&self, id: u64) {
        self.lock().breaker.expect_no_probes(id);
    }

    /// See [`Breaker::announce_probe`].
    pub fn announce_probe(&self, at_ns: u64) {
        self.lock().breaker.announce_probe(at_ns);
    }

    /// See [`Breaker::server_answered`].
    pub fn server_answered(&self, now_ns: u64) -> Option<Change> {
        let mut inner = self.lock();
        let change = inner.breaker.server_answered(now_ns);
        self.settle(&mut inner, change)
    }

    /// See [`Breaker::reset`].
    pub fn reset(&self, now_ns: u64) -> Option<Change> {
        let mut inner = self.lock();
        let change = inner.breaker.reset(now_ns);
        // A reset of a closed circuit is no change of state, but it begins a generation all the same.
        self.gate.store(inner.breaker.oldest_permit(), Ordering::Release);
        self.settle(&mut inner, change)
    }

    /// See [`Breaker::force_open`].
    pub fn force_open(&self, now_ns: u64) -> Option<Change> {
        let mut inner = self.lock();
        let change = inner.breaker.force_open(now_ns);
        self.settle_opened(&mut inner, change, OpenedBy::Force)
    }

    /// The state at `now_ns`; an open circuit whose time is over becomes half-open here too.
    pub fn state(&self, now_ns: u64) -> (State, Option<Change>) {
        let mut inner = self.lock();
        let change = inner.breaker.poll(now_ns);
        let state = inner.breaker.state();
        (state, self.settle(&mut inner, change))
    }

    /// The guard's own figures, all of one moment; an open circuit whose time is over becomes half-open here too.
    pub fn snapshot(&self, now_ns: u64) -> (GuardSnapshot, Option<Change>) {
        let mut inner = self.lock();
        let change = inner.breaker.poll(now_ns);
        let change = self.settle(&mut inner, change);
        let snapshot = GuardSnapshot {
            state: inner.breaker.state(),
            state_changes: inner.state_changes,
            times_opened: inner.times_opened,
            opened_by: inner.opened_by,
            retry_after_ns: inner.breaker.retry_after_ns(now_ns),
            budget_level: inner.budget.as_mut().map(|budget| budget.level(now_ns)),
        };
        (snapshot, change)
    }

    /// How many operations there are.
    pub fn operation_count(&self) -> usize {
        self.lock().operations.len()
    }

    /// The name and a copy of the counters of one operation. One at a time, so that a reader of statistics holds the
    /// lock for one copy of 5 kB only.
    pub fn operation_metrics(&self, operation: OperationIndex) -> (String, OperationMetrics) {
        let inner = self.lock();
        let state = &inner.operations[operation];
        (state.name.clone(), state.metrics.clone())
    }

    /// A panic under the lock is a bug, but the counters it may have left half-written are no reason to fail every
    /// later call.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a change of state and sets the gate; to be called before the lock is released.
    #[inline]
    fn settle(&self, inner: &mut Inner, change: Option<Change>) -> Option<Change> {
        let change = change?;
        inner.state_changes += 1;
        inner.times_opened += u64::from(change.new == State::Open);
        let gate = if change.new == State::Closed { inner.breaker.oldest_permit() } else { GATE_SHUT };
        self.gate.store(gate, Ordering::Release);
        Some(change)
    }

    /// The same for a change that may open the circuit, which is noted with its cause.
    #[inline]
    fn settle_opened(&self, inner: &mut Inner, change: Option<Change>, by: OpenedBy) -> Option<Change> {
        if change.is_some_and(|change| change.new == State::Open) {
            inner.opened_by = Some(by);
        }
        self.settle(inner, change)
    }
}
