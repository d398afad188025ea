//! `Breaker`: a circuit breaker that stands alone, the base of `CircuitBreaker` and `AsyncCircuitBreaker`.

use std::collections::HashMap;

use agent_memory_core::guard::retry::{FailureKind, RetryConfig};
use agent_memory_core::guard::{Guard, OperationIndex};
use pyo3::exceptions::PyException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use crate::arguments;
use crate::clock::Clock;
use crate::errors::{RejectionFacts, circuit_open};
use crate::guard::circuit::Circuit;
use crate::guard::settings::BreakerRules;

/// A circuit breaker around calls of one kind.
///
/// `counts` says which exceptions are failures: a class, a tuple of classes, or a callable that is given the
/// exception and returns a truth value. Other exceptions pass and count as neither, and so does what is no
/// `Exception`, such as a cancellation.
#[pyclass(frozen, subclass, module = "agent_memory._core", weakref)]
pub(crate) struct Breaker {
    circuit: Circuit,
    operation: OperationIndex,
    counts: Py<PyAny>,
    counts_is_predicate: bool,
    rejection_facts: RejectionFacts,
}

#[pymethods]
impl Breaker {
    #[new]
    #[pyo3(signature = (name, rules, counts, clock=None))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::name)] name: Bound<'_, PyString>,
        rules: &Bound<'_, BreakerRules>,
        counts: Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::clock)] clock: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let clock = Clock::new(clock);
        let now_ns = clock.now_ns(py)?;
        // Retries are not a stand-alone breaker's business, so nothing ever draws from the seed.
        let core = Guard::new(rules.get().config, RetryConfig::default(), HashMap::new(), None, 0, now_ns);
        let operation = core.operation(name.to_str()?);
        Ok(Self {
            circuit: Circuit::new(core, name, clock),
            operation,
            counts_is_predicate: !(counts.is_instance_of::<PyTuple>() || counts.is_instance_of::<PyType>()),
            counts: counts.unbind(),
            rejection_facts: RejectionFacts::new(),
        })
    }

    /// The name of the circuit.
    #[getter]
    fn name(&self, py: Python<'_>) -> Py<PyString> {
        self.circuit.name.clone_ref(py)
    }

    /// `closed`, `open` or `half_open`; an open circuit whose time is over becomes half-open by being looked at, too.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.circuit.state(py)
    }

    /// Seconds until the next probe may be admitted: 0.0 when calls are admitted, infinite when forced open.
    #[getter]
    fn retry_after_s(&self, py: Python<'_>) -> PyResult<f64> {
        self.circuit.retry_after_s(py)
    }

    /// Admits one call and returns its permit, or raises `CircuitOpenError`. The permit is given back by exactly one of
    /// `success`, `error` and `abandon`.
    fn admit(&self, py: Python<'_>) -> PyResult<u64> {
        let (result, change) = self.circuit.core.admit(self.operation, self.circuit.clock.now_ns(py)?);
        self.circuit.announce(py, change);
        result.map_err(|rejection| {
            circuit_open(py, &self.rejection_facts, rejection, |facts| {
                facts.set_item(intern!(py, "client"), &self.circuit.name)
            })
        })
    }

    /// The call of `permit` succeeded. Raises `TypeError` for what is no permit.
    #[pyo3(signature = (permit, /))]
    fn success(&self, py: Python<'_>, permit: &Bound<'_, PyAny>) -> PyResult<()> {
        self.settle_success(py, arguments::permit(permit)?)
    }

    /// The call of `permit` raised `error`: it counts as a failure or as neither.
    #[pyo3(signature = (permit, error, /))]
    fn error(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::permit)] permit: u64,
        error: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.settle_error(py, permit, &arguments::error(error)?)
    }

    /// The call of `permit` was cancelled: it counts as neither.
    #[pyo3(signature = (permit, /))]
    fn abandon(&self, #[pyo3(from_py_with = arguments::permit)] permit: u64) {
        self.circuit.core.abandon(self.operation, permit);
    }

    /// Calls `operation()` under the breaker and returns its result.
    ///
    /// Raises `CircuitOpenError` while the circuit is open, what `operation` raises, and `TypeError` for what cannot be called.
    #[pyo3(signature = (operation, /))]
    fn _execute<'py>(&self, py: Python<'py>, operation: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let operation = arguments::operation(operation)?;
        self.guarded(py, || operation.call0())
    }

    /// Calls `function(first)` under the breaker. This and the next ones pack no tuple: decorated functions use them.
    #[pyo3(signature = (function, first, /))]
    fn _call1<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        first: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.guarded(py, || function.call1((first,)))
    }

    /// Calls `function(first, second)` under the breaker.
    #[pyo3(signature = (function, first, second, /))]
    fn _call2<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        first: &Bound<'py, PyAny>,
        second: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.guarded(py, || function.call1((first, second)))
    }

    /// Calls `function(first, second, third)` under the breaker.
    #[pyo3(signature = (function, first, second, third, /))]
    fn _call3<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        first: &Bound<'py, PyAny>,
        second: &Bound<'py, PyAny>,
        third: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.guarded(py, || function.call1((first, second, third)))
    }

    /// Calls `function(*args, **kwargs)` under the breaker.
    #[pyo3(signature = (function, args, kwargs, /))]
    fn _call<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.guarded(py, || function.call(args, kwargs))
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
        crate::guard::stats::breaker_stats(py, &self.circuit, self.operation)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.circuit.traverse(&visit)?;
        visit.call(&self.counts)
    }

    fn __clear__(&self) {
        self.circuit.clear();
    }
}

impl Breaker {
    /// One call: admitted, made, its result recorded. No interruption can come between these in the same thread.
    #[inline]
    fn guarded<'py>(
        &self,
        py: Python<'py>,
        call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let permit = self.admit(py)?;
        let result = call();
        match &result {
            Ok(_) => self.settle_success(py, permit)?,
            Err(error) => self.settle_error(py, permit, error.value(py))?,
        }
        result
    }

    #[inline]
    fn settle_success(&self, py: Python<'_>, permit: u64) -> PyResult<()> {
        let change = self.circuit.core.success(self.operation, permit, self.circuit.clock.now_ns(py)?);
        self.circuit.announce(py, change);
        Ok(())
    }

    #[cold]
    fn settle_error(&self, py: Python<'_>, permit: u64, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let (core, operation) = (&self.circuit.core, self.operation);
        if !error.is_instance_of::<PyException>() {
            core.abandon(operation, permit);
            return Ok(());
        }
        match self.is_counted(py, error) {
            Ok(true) => {
                let change = core.failure(operation, permit, FailureKind::Other, self.circuit.clock.now_ns(py)?);
                self.circuit.announce(py, change);
                Ok(())
            }
            Ok(false) => {
                core.unrelated_error(operation, permit);
                Ok(())
            }
            Err(mistake) => {
                // The user's predicate failed. The permit must be given back all the same.
                core.unrelated_error(operation, permit);
                Err(mistake)
            }
        }
    }

    fn is_counted(&self, py: Python<'_>, error: &Bound<'_, PyAny>) -> PyResult<bool> {
        let counts = self.counts.bind(py);
        if self.counts_is_predicate { counts.call1((error,))?.is_truthy() } else { error.is_instance(counts) }
    }
}
