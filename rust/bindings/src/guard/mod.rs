//! `Guard` and `Operation`: the questions a client asks per command.

pub(crate) mod backoff;
pub(crate) mod breaker;
pub(crate) mod circuit;
pub(crate) mod settings;
pub(crate) mod stats;

use std::collections::HashMap;

use agent_memory_core::guard::breaker::{BreakerConfig, BreakerOptions};
use agent_memory_core::guard::retry::{Category, FailureKind, RetryConfig};
use agent_memory_core::guard::{self as core, FailedAttempt, OperationIndex, Wait};
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::arguments;
use crate::clock::Clock;
use crate::convert::{delay_ns, numbered};
use crate::errors::{RejectionFacts, circuit_open, refused};
use crate::guard::circuit::Circuit;
use crate::guard::settings::{BreakerRules, BudgetRules, RetryRules};

/// What `Operation.failure` answers when the command must not be tried again.
const NO_RETRY: f64 = -1.0;

/// Python's part of a retry policy.
enum OwnLogic {
    /// `strategy(attempt) -> seconds`: the delay, within the policy's other rules.
    Strategy(Py<PyAny>),
    /// `override(attempt, kind, outcome) -> seconds | None`: the decision, within what is safe.
    Decision(Py<PyAny>),
}

impl OwnLogic {
    fn callable(&self) -> &Py<PyAny> {
        match self {
            OwnLogic::Strategy(callable) | OwnLogic::Decision(callable) => callable,
        }
    }
}

/// Breaker, retries, budget and metrics of one client, behind one lock that is never held while Python runs.
///
/// `agent_memory.policy.make_guard` makes one of settings.
///
/// - `name`: the name in errors, logs and metrics. `endpoint` (None): the address in errors.
/// - `breaker`, `retry` (None, the defaults), `budget` (None, every retry passes): the checked rules that the settings classes of
///   `agent_memory.policy` carry.
/// - `overrides` (None): maps operation names to `RetryRules`, or to a callable `decide(attempt, kind, outcome) -> seconds | None`
///   that is asked only where repeating the command is safe.
/// - `seed` (None): makes the jitter repeatable. `clock` (None): a callable that returns nanoseconds, for tests.
///
/// Raises `TypeError` or `ValueError` for an argument outside its rule. Thread-safe, and shared by any number of clients, threads
/// and tasks; no method waits.
#[pyclass(frozen, module = "agent_memory._core", weakref)]
pub(crate) struct Guard {
    circuit: Circuit,
    endpoint: Option<Py<PyString>>,
    default_strategy: Option<Py<PyAny>>,
    own_logic: HashMap<String, OwnLogic>,
}

#[pymethods]
impl Guard {
    #[new]
    #[pyo3(signature = (
        name, *, endpoint=None, breaker=None, retry=None, budget=None, overrides=None, seed=None, clock=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::name)] name: Bound<'_, PyString>,
        #[pyo3(from_py_with = arguments::endpoint)] endpoint: Option<Bound<'_, PyString>>,
        #[pyo3(from_py_with = arguments::breaker)] breaker: Option<Bound<'_, BreakerRules>>,
        #[pyo3(from_py_with = arguments::retry)] retry: Option<Bound<'_, RetryRules>>,
        #[pyo3(from_py_with = arguments::budget)] budget: Option<Bound<'_, BudgetRules>>,
        #[pyo3(from_py_with = arguments::overrides)] overrides: Option<Bound<'_, PyDict>>,
        #[pyo3(from_py_with = arguments::seed)] seed: Option<u64>,
        #[pyo3(from_py_with = arguments::clock)] clock: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let clock = Clock::new(clock);
        let now_ns = clock.now_ns(py)?;
        let breaker = match breaker {
            Some(rules) => rules.get().config,
            None => BreakerConfig::new(&BreakerOptions::default()).map_err(|error| refused(&error))?,
        };
        let default_strategy = retry.as_ref().and_then(|rules| own_strategy(py, rules.get()));
        let retry = match retry {
            Some(rules) => rules.get().config,
            None => RetryConfig::default(),
        };
        let (configs, own_logic) = parse_overrides(overrides)?;
        let seed = seed.unwrap_or_else(crate::clock::random_seed);
        Ok(Self {
            circuit: Circuit::new(
                core::Guard::new(breaker, retry, configs, budget.map(|rules| rules.get().config), seed, now_ns),
                name,
                clock,
            ),
            endpoint: endpoint.map(Bound::unbind),
            default_strategy,
            own_logic,
        })
    }

    /// The name of the client.
    #[getter]
    fn name(&self, py: Python<'_>) -> Py<PyString> {
        self.circuit.name.clone_ref(py)
    }

    /// The handle of the command `name`, whose `category` is a `CommandCategory`. Make it once and keep it. Beyond 512 names,
    /// further ones are counted together. Raises `TypeError` or `ValueError` for another category.
    #[pyo3(signature = (name, *, category))]
    fn operation(
        slf: &Bound<'_, Self>,
        #[pyo3(from_py_with = arguments::name)] name: Bound<'_, PyString>,
        #[pyo3(from_py_with = arguments::category)] category: i64,
    ) -> PyResult<Operation> {
        let guard = slf.get();
        let category: Category = numbered("category", category)?;
        let index = guard.circuit.core.operation(name.to_str()?);
        let own_logic = match guard.own_logic.get(name.to_str()?) {
            Some(OwnLogic::Strategy(callable)) => Some(OwnLogic::Strategy(callable.clone_ref(slf.py()))),
            Some(OwnLogic::Decision(callable)) => Some(OwnLogic::Decision(callable.clone_ref(slf.py()))),
            None => own_default(slf.py(), guard, name.to_str()?),
        };
        Ok(Operation {
            guard: slf.clone().unbind(),
            index,
            name: name.unbind(),
            category,
            own_logic,
            rejection_facts: RejectionFacts::new(),
        })
    }

    /// `closed`, `open` or `half_open`; an open circuit whose time is over becomes half-open by being looked at, too.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.circuit.state(py)
    }

    /// Seconds until the next probe: 0.0 when calls are admitted, never 0.0 while open, infinite when forced open.
    #[getter]
    fn retry_after_s(&self, py: Python<'_>) -> PyResult<f64> {
        self.circuit.retry_after_s(py)
    }

    /// The state and the seconds until the next probe (as `retry_after_s`), both of one moment.
    fn state_and_retry_after_s(&self, py: Python<'_>) -> PyResult<(&'static str, f64)> {
        self.circuit.state_and_retry_after_s(py)
    }

    /// What opened the circuit last: the kind of a failure (`timeout`, `refused` …), `slow_calls` or `forced`; None before it has
    /// opened.
    #[getter]
    fn opened_by(&self, py: Python<'_>) -> PyResult<Option<&'static str>> {
        Ok(self.circuit.snapshot(py)?.opened_by.map(agent_memory_core::guard::OpenedBy::name))
    }

    /// The address that errors name; None without one.
    #[getter]
    fn endpoint(&self, py: Python<'_>) -> Option<Py<PyString>> {
        self.endpoint.as_ref().map(|endpoint| endpoint.clone_ref(py))
    }

    /// The prober `id` asks the server every `interval_s` seconds at least while the circuit is open; errors report it.
    fn expect_probes(
        &self,
        #[pyo3(from_py_with = arguments::id)] id: u64,
        #[pyo3(from_py_with = arguments::interval_s)] interval_s: f64,
    ) -> PyResult<()> {
        self.circuit.core.expect_probes(id, delay_ns("interval_s", interval_s)?);
        Ok(())
    }

    /// The prober `id` has ended.
    fn expect_no_probes(&self, #[pyo3(from_py_with = arguments::id)] id: u64) {
        self.circuit.core.expect_no_probes(id);
    }

    /// A background probe found the server answering: an open circuit becomes half-open. Tells whether it did.
    fn server_answered(&self, py: Python<'_>) -> PyResult<bool> {
        self.circuit.server_answered(py)
    }

    /// A background probe will ask the server in `delay_s` seconds; rejections report it as the time to wait.
    fn announce_probe(&self, py: Python<'_>, #[pyo3(from_py_with = arguments::delay_s)] delay_s: f64) -> PyResult<()> {
        let now_ns = self.circuit.clock.now_ns(py)?;
        self.circuit.core.announce_probe(now_ns.saturating_add(delay_ns("delay_s", delay_s)?));
        Ok(())
    }

    /// Takes the price of one retry from the budget, for work that is repeated outside of a call. Tells whether it
    /// was there.
    fn pay_retry(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.circuit.core.pay_retry(self.circuit.clock.now_ns(py)?))
    }

    /// Retries are paid from the bucket of `other` from now on, as those of a cluster's nodes are: one budget for several guards.
    /// Raises `TypeError` for what is no guard.
    #[pyo3(signature = (other, /))]
    fn share_budget_of(&self, other: &Bound<'_, PyAny>) -> PyResult<()> {
        let guard = other.cast::<Self>().map_err(|_| arguments::refused(other, "other", "a Guard"))?;
        self.circuit.core.share_budget_of(&guard.get().circuit.core);
        Ok(())
    }

    /// Closes the circuit and forgets every result that it was judged by. The counters of `stats()` go on.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.circuit.reset(py)
    }

    /// Opens the circuit until `reset()`.
    fn force_open(&self, py: Python<'_>) -> PyResult<()> {
        self.circuit.force_open(py)
    }

    /// Calls `listener(name, old, new)` after each change of state. What it raises is logged.
    fn add_listener(&self, listener: Bound<'_, PyAny>) -> PyResult<()> {
        self.circuit.add_listener(listener)
    }

    /// Undoes one `add_listener` of a callable equal to `listener`. Tells whether there was one.
    fn remove_listener(&self, listener: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.circuit.remove_listener(listener)
    }

    /// Everything that was counted, as a dict of plain values.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.circuit.state(py)?;
        crate::guard::stats::guard_stats(py, &self.circuit)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<Guard {} {}>", self.circuit.name.bind(py).repr()?, self.circuit.state(py)?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.circuit.traverse(&visit)?;
        visit.call(&self.default_strategy)?;
        self.own_logic.values().try_for_each(|logic| visit.call(logic.callable()))
    }

    fn __clear__(&self) {
        self.circuit.clear();
    }
}

fn own_strategy(py: Python<'_>, rules: &RetryRules) -> Option<Py<PyAny>> {
    rules.strategy.as_ref().map(|callable| callable.clone_ref(py))
}

/// The default policy's own strategy, unless the operation has rules of its own.
fn own_default(py: Python<'_>, guard: &Guard, name: &str) -> Option<OwnLogic> {
    if guard.circuit.core.has_override(name) {
        return None;
    }
    guard.default_strategy.as_ref().map(|callable| OwnLogic::Strategy(callable.clone_ref(py)))
}

type Overrides = (HashMap<String, RetryConfig>, HashMap<String, OwnLogic>);

fn parse_overrides(overrides: Option<Bound<'_, PyDict>>) -> PyResult<Overrides> {
    let (mut configs, mut own_logic) = (HashMap::new(), HashMap::new());
    for (name, value) in overrides.into_iter().flatten() {
        let name: String = name.extract()?;
        if let Ok(rules) = value.cast::<RetryRules>() {
            let rules = rules.get();
            configs.insert(name.clone(), rules.config);
            if let Some(callable) = own_strategy(value.py(), rules) {
                own_logic.insert(name, OwnLogic::Strategy(callable));
            }
        } else if value.is_callable() {
            own_logic.insert(name, OwnLogic::Decision(value.unbind()));
        } else {
            let given = value.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "overrides['{name}'] must be a retry policy or a callable, got {given}"
            )));
        }
    }
    Ok((configs, own_logic))
}

/// One command name of a guard. Every admission is answered by exactly one of `success`, `answered_error`, `failure`
/// and `abandon`.
#[pyclass(frozen, module = "agent_memory._core", weakref)]
pub(crate) struct Operation {
    guard: Py<Guard>,
    index: OperationIndex,
    name: Py<PyString>,
    category: Category,
    own_logic: Option<OwnLogic>,
    rejection_facts: RejectionFacts,
}

#[pymethods]
impl Operation {
    /// The command name, as it was asked for.
    #[getter]
    fn name(&self, py: Python<'_>) -> Py<PyString> {
        self.name.clone_ref(py)
    }

    /// The category, as an int of `CommandCategory`.
    #[getter]
    fn category(&self) -> u8 {
        self.category as u8
    }

    /// Admits one attempt and returns its permit: the time of `monotonic_ns()`. Raises `CircuitOpenError` instead
    /// while the circuit is open.
    fn admit(&self, py: Python<'_>) -> PyResult<u64> {
        let guard = self.guard.get();
        let (result, change) = guard.circuit.core.admit(self.index, guard.circuit.clock.now_ns(py)?);
        guard.circuit.announce(py, change);
        result.map_err(|rejection| {
            circuit_open(py, &self.rejection_facts, rejection, |facts| {
                facts.set_item(intern!(py, "client"), &guard.circuit.name)?;
                facts.set_item(intern!(py, "operation"), &self.name)?;
                guard.endpoint.as_ref().map_or(Ok(()), |endpoint| facts.set_item(intern!(py, "endpoint"), endpoint))
            })
        })
    }

    /// The attempt succeeded.
    #[pyo3(signature = (permit, /))]
    fn success(&self, py: Python<'_>, permit: &Bound<'_, PyAny>) -> PyResult<()> {
        let guard = self.guard.get();
        let change = guard.circuit.core.success(self.index, permit.extract()?, guard.circuit.clock.now_ns(py)?);
        guard.circuit.announce(py, change);
        Ok(())
    }

    /// The server answered with an ordinary command error, such as WRONGTYPE: no fault of the transport.
    #[pyo3(signature = (permit, /))]
    fn answered_error(&self, py: Python<'_>, permit: &Bound<'_, PyAny>) -> PyResult<()> {
        let guard = self.guard.get();
        let change = guard.circuit.core.answered_error(self.index, permit.extract()?, guard.circuit.clock.now_ns(py)?);
        guard.circuit.announce(py, change);
        Ok(())
    }

    /// The attempt was cancelled: it counts as neither success nor failure.
    #[pyo3(signature = (permit, /))]
    fn abandon(&self, permit: &Bound<'_, PyAny>) -> PyResult<()> {
        self.guard.get().circuit.core.abandon(self.index, permit.extract()?);
        Ok(())
    }

    /// The attempt failed. Returns the seconds to wait before the next attempt, or a negative number for no further
    /// one.
    ///
    /// `kind` is a `FailureKind`, `outcome` an `Outcome`, `attempt` counts from 0; `call_started_ns` is the first
    /// attempt's permit, `deadline_ns` the time of `monotonic_ns()` at which the call must be over, or 0.
    #[pyo3(signature = (permit, kind, outcome, attempt, call_started_ns, deadline_ns, /))]
    #[expect(clippy::too_many_arguments, reason = "one call per failure, all facts at once")]
    fn failure(
        &self,
        py: Python<'_>,
        permit: u64,
        kind: i64,
        outcome: i64,
        attempt: u64,
        call_started_ns: u64,
        deadline_ns: u64,
    ) -> PyResult<f64> {
        let guard = self.guard.get();
        let kind: FailureKind = numbered("kind", kind)?;
        let failed = FailedAttempt {
            kind,
            outcome: numbered("outcome", outcome)?,
            category: self.category,
            attempt,
            call_started_ns,
            deadline_ns,
        };
        let now_ns = guard.circuit.clock.now_ns(py)?;
        let change = guard.circuit.core.failure(self.index, permit, kind, now_ns);
        guard.circuit.announce(py, change);
        let wait = self.ask_own_logic(py, &failed)?;
        let delay_s = wait.and_then(|wait| guard.circuit.core.retry_delay_s(self.index, &failed, wait, now_ns));
        Ok(delay_s.unwrap_or(NO_RETRY))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<Operation {} of {}>", self.name.bind(py).repr()?, self.guard.get().circuit.name.bind(py).repr()?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.guard)?;
        visit.call(self.own_logic.as_ref().map(OwnLogic::callable))
    }
}

impl Operation {
    /// A permit without a check: the circuit is closed, and the clock is no callable. Runs no Python.
    #[inline]
    pub(crate) fn admit_straight(&self) -> Option<u64> {
        let circuit = &self.guard.get().circuit;
        circuit.core.admit_if_closed(circuit.clock.straight_ns()?)
    }

    /// An attempt that was admitted so succeeded. Listeners may be called.
    #[inline]
    pub(crate) fn succeed(&self, py: Python<'_>, permit: u64) {
        let circuit = &self.guard.get().circuit;
        if let Some(now_ns) = circuit.clock.straight_ns() {
            circuit.announce(py, circuit.core.success(self.index, permit, now_ns));
        }
    }

    /// It was cancelled.
    pub(crate) fn give_up(&self, permit: u64) {
        self.guard.get().circuit.core.abandon(self.index, permit);
    }

    /// Asks the user's callable, where there is one and a retry would be safe; `None` when the answer is no.
    fn ask_own_logic(&self, py: Python<'_>, failed: &FailedAttempt) -> PyResult<Option<Wait>> {
        match &self.own_logic {
            None => Ok(Some(Wait::ByPolicy)),
            Some(OwnLogic::Strategy(strategy)) => {
                if !self.guard.get().circuit.core.may_retry(self.index, failed) {
                    return Ok(None);
                }
                let wait_s: f64 = strategy.call1(py, (failed.attempt,))?.extract(py)?;
                Ok((wait_s >= 0.0).then_some(Wait::Strategy(wait_s)))
            }
            Some(OwnLogic::Decision(decide)) => {
                if !failed.may_repeat() {
                    return Ok(None);
                }
                let answer = decide.call1(py, (failed.attempt, failed.kind as u8, failed.outcome as u8))?;
                let delay_s: Option<f64> = answer.extract(py)?;
                // A negative or undefined delay can only mean no.
                Ok(delay_s.filter(|delay_s| *delay_s >= 0.0).map(Wait::Decided))
            }
        }
    }
}
