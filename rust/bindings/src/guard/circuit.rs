//! What `Guard` and `Breaker` share: a circuit with a name, a clock and listeners.

use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_memory_core::config::ns_to_seconds;
use agent_memory_core::guard::breaker::Change;
use agent_memory_core::guard::{Guard, GuardSnapshot};
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::clock::Clock;

pub(crate) struct Circuit {
    pub(crate) core: Guard,
    pub(crate) name: Py<PyString>,
    pub(crate) clock: Clock,
    listeners: Mutex<Vec<Py<PyAny>>>,
}

impl Circuit {
    pub(crate) fn new(core: Guard, name: Bound<'_, PyString>, clock: Clock) -> Self {
        Self { core, name: name.unbind(), clock, listeners: Mutex::new(Vec::new()) }
    }

    pub(crate) fn state(&self, py: Python<'_>) -> PyResult<&'static str> {
        let (state, change) = self.core.state(self.clock.now_ns(py)?);
        self.announce(py, change);
        Ok(state.name())
    }

    /// The guard's own figures, all of one moment.
    pub(crate) fn snapshot(&self, py: Python<'_>) -> PyResult<GuardSnapshot> {
        let (snapshot, change) = self.core.snapshot(self.clock.now_ns(py)?);
        self.announce(py, change);
        Ok(snapshot)
    }

    pub(crate) fn retry_after_s(&self, py: Python<'_>) -> PyResult<f64> {
        Ok(seconds_of(self.snapshot(py)?.retry_after_ns))
    }

    pub(crate) fn state_and_retry_after_s(&self, py: Python<'_>) -> PyResult<(&'static str, f64)> {
        let snapshot = self.snapshot(py)?;
        Ok((snapshot.state.name(), seconds_of(snapshot.retry_after_ns)))
    }

    pub(crate) fn server_answered(&self, py: Python<'_>) -> PyResult<bool> {
        let change = self.core.server_answered(self.clock.now_ns(py)?);
        self.announce(py, change);
        Ok(change.is_some())
    }

    pub(crate) fn reset(&self, py: Python<'_>) -> PyResult<()> {
        let change = self.core.reset(self.clock.now_ns(py)?);
        self.announce(py, change);
        Ok(())
    }

    pub(crate) fn force_open(&self, py: Python<'_>) -> PyResult<()> {
        let change = self.core.force_open(self.clock.now_ns(py)?);
        self.announce(py, change);
        Ok(())
    }

    pub(crate) fn add_listener(&self, listener: Bound<'_, PyAny>) -> PyResult<()> {
        if !listener.is_callable() {
            return Err(PyTypeError::new_err(format!(
                "listener must be callable, got {}",
                listener.get_type().name()?
            )));
        }
        self.listeners().push(listener.unbind());
        Ok(())
    }

    pub(crate) fn remove_listener(&self, listener: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = listener.py();
        // Comparing calls Python, so it is done on a copy, without the lock.
        let copies: Vec<_> = self.listeners().iter().map(|known| known.clone_ref(py)).collect();
        for copy in copies {
            if copy.bind(py).eq(listener)? {
                let mut listeners = self.listeners();
                let place = listeners.iter().position(|known| known.is(&copy));
                return Ok(place.map(|index| listeners.remove(index)).is_some());
            }
        }
        Ok(false)
    }

    /// Tells the listeners; no lock is held.
    #[inline]
    pub(crate) fn announce(&self, py: Python<'_>, change: Option<Change>) {
        if let Some(change) = change {
            self.announce_change(py, change);
        }
    }

    #[cold]
    fn announce_change(&self, py: Python<'_>, change: Change) {
        let listeners: Vec<_> = self.listeners().iter().map(|listener| listener.clone_ref(py)).collect();
        for listener in listeners {
            if let Err(error) = listener.call1(py, (&self.name, change.old.name(), change.new.name())) {
                log_listener_error(py, self.name.bind(py), error);
            }
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Clock::Manual(callable) = &self.clock {
            visit.call(callable)?;
        }
        // The collector stops the other threads, one of which may hold this lock: then this round finds no cycle here.
        if let Ok(listeners) = self.listeners.try_lock() {
            listeners.iter().try_for_each(|listener| visit.call(listener))?;
        }
        Ok(())
    }

    pub(crate) fn clear(&self) {
        let listeners = std::mem::take(&mut *self.listeners());
        // The lock is free again: dropping a listener may run code that uses this circuit.
        drop(listeners);
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Py<PyAny>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds to wait; infinite where the circuit was forced open.
pub(crate) fn seconds_of(retry_after_ns: Option<u64>) -> f64 {
    retry_after_ns.map_or(f64::INFINITY, ns_to_seconds)
}

fn log_listener_error(py: Python<'_>, name: &Bound<'_, PyString>, error: PyErr) {
    let logged = (|| {
        let logger = py.import("logging")?.call_method1("getLogger", ("agent_memory.policy",))?;
        let details = PyDict::new(py);
        details.set_item("exc_info", error.value(py))?;
        logger.call_method("error", ("a listener of circuit %s raised", name), Some(&details))?;
        Ok::<_, PyErr>(())
    })();
    if logged.is_err() {
        error.write_unraisable(py, None);
    }
}
