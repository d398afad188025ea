//! `RecoveryQueue`: writes that failed, waiting to be tried again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_memory_core::config::ns_to_seconds;
use agent_memory_core::recovery::{
    self as core, DEFAULT_MAX_BYTES, DEFAULT_MAX_DEAD_LETTERS, DEFAULT_MAX_ENTRIES, DeadLetter, Lease, NewEntry,
    NotRevived, QueueFull, RecoveryConfig,
};
use pyo3::exceptions::{PyKeyError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::arguments;
use crate::clock::Clock;
use crate::convert::{Whole, delay_ns, numbered};
use crate::errors::refused;

type Queue = core::RecoveryQueue<Py<PyAny>>;

/// Writes that failed, waiting to be tried again: ordered per key first, then by priority, then by due time.
///
/// Entries that share a key are served in the order they came. `pop_due` leases the next entry that is due; its keys
/// stay blocked until the entry is completed, retried or discarded. Keys are bytes, or str that stand for their
/// UTF-8.
///
/// - `max_entries` (10,000), `max_bytes` (67,108,864, the sum of the stated sizes), `max_dead_letters` (1,000): the bounds.
/// - `max_age_s` (None, no bound): seconds after which an entry becomes a dead letter.
/// - `clock` (None, the monotonic clock): a callable that returns nanoseconds, for tests.
///
/// Raises `TypeError` or `ValueError` for an argument outside its rule, here and in every method. Thread-safe: one lock, never
/// held while Python runs. No method waits.
#[pyclass(frozen, module = "agent_memory._core", weakref)]
pub(crate) struct RecoveryQueue {
    queue: Mutex<Queue>,
    clock: Clock,
}

#[pymethods]
impl RecoveryQueue {
    #[new]
    #[pyo3(signature = (
        *, max_entries=Whole(i64::from(DEFAULT_MAX_ENTRIES)), max_bytes=Whole(DEFAULT_MAX_BYTES),
        max_age_s=None, max_dead_letters=Whole(i64::from(DEFAULT_MAX_DEAD_LETTERS)), clock=None,
    ))]
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn new(
        #[pyo3(from_py_with = arguments::max_entries)] max_entries: Whole,
        #[pyo3(from_py_with = arguments::max_bytes)] max_bytes: Whole,
        #[pyo3(from_py_with = arguments::max_age_s)] max_age_s: Option<f64>,
        #[pyo3(from_py_with = arguments::max_dead_letters)] max_dead_letters: Whole,
        #[pyo3(from_py_with = arguments::clock)] clock: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let config = RecoveryConfig::new(max_entries.0, max_bytes.0, max_age_s, max_dead_letters.0);
        let queue = Queue::new(config.map_err(|error| refused(&error))?);
        Ok(Self { queue: Mutex::new(queue), clock: Clock::new(clock) })
    }

    /// Queues `payload` as a write of `keys` (one key, or an iterable of keys) and returns the id of its entry.
    ///
    /// - `priority`: the number of a `Priority`; a lower one is served first.
    /// - `due_in_s` (0.0): seconds until it is due.
    /// - `size_bytes` (0): what it counts for in `max_bytes`, in bytes.
    /// - `coalesce` (False): whether, as an absolute write of one key, it may take the place of an older such write that is
    ///   still queued; the id is then that entry's.
    ///
    /// Raises `RecoveryQueueFullError` when the queue is at a bound.
    #[pyo3(signature = (keys, payload, *, priority, due_in_s=0.0, size_bytes=0, coalesce=false))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn push(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        payload: Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::priority)] priority: i64,
        #[pyo3(from_py_with = arguments::due_in_s)] due_in_s: f64,
        #[pyo3(from_py_with = arguments::size_bytes)] size_bytes: u64,
        #[pyo3(from_py_with = arguments::coalesce)] coalesce: bool,
    ) -> PyResult<u64> {
        let keys = extract_keys(keys)?;
        let names: Vec<&[u8]> = keys.iter().map(KeyName::as_bytes).collect();
        let priority = numbered("priority", priority)?;
        let now_ns = self.clock.now_ns(py)?;
        let due_ns = now_ns.saturating_add(delay_ns("due_in_s", due_in_s)?);
        let entry = NewEntry { keys: &names, payload: payload.unbind(), priority, due_ns, size_bytes, coalesce };
        let pushed = self.with_queue(|queue| queue.push(entry, now_ns));
        pushed.map_err(|full| queue_full(py, &full))
    }

    /// As `push(keys, payload, priority=, due_in_s=, size_bytes=, coalesce=)` (seconds, bytes), and returns beside the id the
    /// payload whose place was taken, or None. With `restored` (False), for an entry that was accepted before by a process that
    /// has died, bounds are not asked.
    #[pyo3(signature = (keys, payload, *, priority, due_in_s=0.0, size_bytes=0, coalesce=false, restored=false))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn put(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        payload: Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::priority)] priority: i64,
        #[pyo3(from_py_with = arguments::due_in_s)] due_in_s: f64,
        #[pyo3(from_py_with = arguments::size_bytes)] size_bytes: u64,
        #[pyo3(from_py_with = arguments::coalesce)] coalesce: bool,
        #[pyo3(from_py_with = arguments::restored)] restored: bool,
    ) -> PyResult<(u64, Option<Py<PyAny>>)> {
        let keys = extract_keys(keys)?;
        let names: Vec<&[u8]> = keys.iter().map(KeyName::as_bytes).collect();
        let priority = numbered("priority", priority)?;
        let now_ns = self.clock.now_ns(py)?;
        let due_ns = now_ns.saturating_add(delay_ns("due_in_s", due_in_s)?);
        let entry = NewEntry { keys: &names, payload: payload.unbind(), priority, due_ns, size_bytes, coalesce };
        let mut queue = self.lock();
        let superseded = queue.stats(now_ns).superseded;
        let pushed = if restored { Ok(queue.restore(entry, now_ns)) } else { queue.push(entry, now_ns) };
        let has_superseded = pushed.is_ok() && queue.stats(now_ns).superseded > superseded;
        let mut dropped = queue.take_dropped();
        drop(queue);
        let displaced = if has_superseded { dropped.pop() } else { None };
        drop(dropped);
        pushed.map(|id| (id, displaced)).map_err(|full| queue_full(py, &full))
    }

    /// Leases up to `count` entries that are due to a worker (its number is `worker`), in the order they are to be tried.
    #[pyo3(signature = (count, worker=0))]
    fn pop_due_many(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::count)] count: usize,
        #[pyo3(from_py_with = arguments::worker)] worker: u16,
    ) -> PyResult<Vec<RecoveryEntry>> {
        let now_ns = self.clock.now_ns(py)?;
        let leases: Vec<_> = self.with_queue(|queue| {
            std::iter::from_fn(|| queue.pop_due(worker, now_ns).map(|lease| Facts::of_lease(py, &lease)))
                .take(count)
                .collect()
        });
        leases.into_iter().map(|facts| facts.into_entry(py)).collect()
    }

    /// Leases the one entry of `key`, if an absolute write of it that is about to be tried would make it needless; else
    /// None. `complete` it when that write succeeds, `release` it when it fails; `release_call` it by `call`, the
    /// number of the call, where that was interrupted before it had the entry.
    #[pyo3(signature = (key, call=0))]
    fn lease_superseded(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::call)] call: u32,
    ) -> PyResult<Option<RecoveryEntry>> {
        let key = extract_key("key", key)?;
        let now_ns = self.clock.now_ns(py)?;
        let lease = self.with_queue(|queue| {
            queue.lease_superseded(key.as_bytes(), call, now_ns).map(|lease| Facts::of_lease(py, &lease))
        });
        lease.map(|facts| facts.into_entry(py)).transpose()
    }

    /// Gives the lease number `lease` of the entry `id` back as it was; None stands for whichever lease the entry has. Raises
    /// `KeyError` when there is no such lease.
    #[pyo3(signature = (id, *, lease=None))]
    fn release(
        &self,
        #[pyo3(from_py_with = arguments::id)] id: u64,
        #[pyo3(from_py_with = arguments::lease)] lease: Option<u64>,
    ) -> PyResult<()> {
        self.with_queue(|queue| queue.release(id, lease)).map_err(|wrong| wrong_id(&wrong))
    }

    /// `complete` for many `leases`, each an (id, lease); returns their payloads in the same order, None for a lease that has
    /// ended.
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn complete_many(
        &self,
        #[pyo3(from_py_with = arguments::leases)] leases: Vec<(u64, Option<u64>)>,
    ) -> Vec<Option<Py<PyAny>>> {
        self.with_queue(|queue| leases.iter().map(|(id, lease)| queue.complete(*id, *lease).ok()).collect())
    }

    /// The oldest entry, leased or not; None if there is none.
    fn oldest(&self, py: Python<'_>) -> PyResult<Option<RecoveryEntry>> {
        let now_ns = self.clock.now_ns(py)?;
        let oldest = self.with_queue(|queue| queue.entries(now_ns).next().map(|entry| Facts::of_lease(py, &entry)));
        oldest.map(|facts| facts.into_entry(py)).transpose()
    }

    /// The entries, oldest first, leased ones included; a snapshot.
    fn entries(&self, py: Python<'_>) -> PyResult<Vec<RecoveryEntry>> {
        let now_ns = self.clock.now_ns(py)?;
        let entries: Vec<_> =
            self.with_queue(|queue| queue.entries(now_ns).map(|entry| Facts::of_lease(py, &entry)).collect());
        entries.into_iter().map(|facts| facts.into_entry(py)).collect()
    }

    /// Leases the next entry that is due to the worker number `worker`; None when there is none.
    #[pyo3(signature = (worker=0))]
    fn pop_due(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::worker)] worker: u16,
    ) -> PyResult<Option<RecoveryEntry>> {
        let now_ns = self.clock.now_ns(py)?;
        let lease = self.with_queue(|queue| queue.pop_due(worker, now_ns).map(|lease| Facts::of_lease(py, &lease)));
        lease.map(|facts| facts.into_entry(py)).transpose()
    }

    /// The write of the leased entry `id` succeeded: it leaves the queue. Raises `KeyError` when there is no such lease.
    ///
    /// `lease` is the number of the lease, as its entry says; None stands for whichever lease the entry has.
    #[pyo3(signature = (id, *, lease=None))]
    fn complete(
        &self,
        #[pyo3(from_py_with = arguments::id)] id: u64,
        #[pyo3(from_py_with = arguments::lease)] lease: Option<u64>,
    ) -> PyResult<()> {
        let payload = self.with_queue(|queue| queue.complete(id, lease)).map_err(|wrong| wrong_id(&wrong))?;
        drop(payload);
        Ok(())
    }

    /// The write of the leased entry `id` failed: it is due again in `delay_s` seconds (0.0), before the later entries of its
    /// keys. `lease` as in `complete`. Raises `KeyError` when there is no such lease.
    #[pyo3(signature = (id, delay_s=0.0, *, lease=None))]
    fn retry(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::id)] id: u64,
        #[pyo3(from_py_with = arguments::delay_s)] delay_s: f64,
        #[pyo3(from_py_with = arguments::lease)] lease: Option<u64>,
    ) -> PyResult<()> {
        let due_ns = self.clock.now_ns(py)?.saturating_add(delay_ns("delay_s", delay_s)?);
        self.with_queue(|queue| queue.retry(id, lease, due_ns)).map_err(|wrong| wrong_id(&wrong))
    }

    /// Gives the entry `id` up, leased or not: it becomes a dead letter with this `reason`. Returns the payloads of the dead
    /// letters that made room for it. Raises `KeyError` when there is no such entry.
    fn discard(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::id)] id: u64,
        #[pyo3(from_py_with = arguments::reason)] reason: String,
    ) -> PyResult<Vec<Py<PyAny>>> {
        let now_ns = self.clock.now_ns(py)?;
        let mut queue = self.lock();
        let discarded = queue.discard(id, reason, now_ns);
        let dropped = queue.take_dropped();
        drop(queue);
        discarded.map(|()| dropped).map_err(|wrong| wrong_id(&wrong))
    }

    /// Removes the absolute writes that are queued for `key` alone, since a newer one has succeeded. Returns how many.
    fn cancel_superseded(&self, key: &Bound<'_, PyAny>) -> PyResult<usize> {
        let key = extract_key("key", key)?;
        Ok(self.with_queue(|queue| queue.cancel_superseded(key.as_bytes())))
    }

    /// Gives the leases of the worker number `worker` back as they were, for another that takes over from it. Returns how many.
    #[pyo3(signature = (worker=0))]
    fn release_leases(&self, #[pyo3(from_py_with = arguments::worker)] worker: u16) -> usize {
        self.with_queue(|queue| queue.release_leases(worker))
    }

    /// Gives the lease of the call number `call` back as it was; returns whether there was one.
    fn release_call(&self, #[pyo3(from_py_with = arguments::call)] call: u32) -> bool {
        self.with_queue(|queue| queue.release_call(call))
    }

    /// Are entries leased to calls (`lease_superseded`)?
    fn is_leased_to_calls(&self) -> bool {
        self.with_queue(|queue| queue.is_leased_to_calls())
    }

    /// Seconds until an entry is due, 0.0 when one is; None when there is nothing to wait for: no entry, or all of
    /// them leased or behind a lease.
    fn next_due_in_s(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        let now_ns = self.clock.now_ns(py)?;
        let due_ns = self.with_queue(Queue::next_due_ns);
        Ok(due_ns.map(|due_ns| ns_to_seconds(due_ns.saturating_sub(now_ns))))
    }

    /// Does an entry, queued or leased, write `key`?
    fn keys_queued(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let key = extract_key("key", key)?;
        Ok(self.with_queue(|queue| queue.is_key_queued(key.as_bytes())))
    }

    /// The entries that were given up, oldest first.
    fn dead_letters(&self, py: Python<'_>) -> PyResult<Vec<RecoveryEntry>> {
        let now_ns = self.clock.now_ns(py)?;
        let letters: Vec<_> =
            self.with_queue(|queue| queue.dead_letters().map(|letter| Facts::of_dead(py, letter, now_ns)).collect());
        letters.into_iter().map(|facts| facts.into_entry(py)).collect()
    }

    /// Queues the dead letter `id` again, as the newest entry of its keys, due at once, and returns its new id. Raises
    /// `KeyError` when there is no such dead letter, `RecoveryQueueFullError` when there is no room.
    fn retry_dead(&self, py: Python<'_>, #[pyo3(from_py_with = arguments::id)] id: u64) -> PyResult<u64> {
        let now_ns = self.clock.now_ns(py)?;
        self.with_queue(|queue| queue.retry_dead(id, now_ns)).map_err(|reason| match reason {
            NotRevived::Unknown(wrong) => wrong_id(&wrong),
            NotRevived::Full(full) => queue_full(py, &full),
        })
    }

    fn __len__(&self) -> usize {
        self.with_queue(|queue| queue.len())
    }

    /// The sum of the sizes of the entries, in bytes.
    #[getter]
    fn size_bytes(&self) -> u64 {
        self.with_queue(|queue| queue.size_bytes())
    }

    /// What has happened so far and what is there now, as a dict of plain values.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let now_ns = self.clock.now_ns(py)?;
        let now = self.with_queue(|queue| queue.stats(now_ns));
        let stats = PyDict::new(py);
        for (name, value) in [
            ("pushed", now.pushed),
            ("superseded", now.superseded),
            ("refused", now.refused),
            ("completed", now.completed),
            ("retried", now.retried),
            ("discarded", now.discarded),
            ("expired", now.expired),
            ("dead_letters_dropped", now.dead_letters_dropped),
            ("entries", now.entries as u64),
            ("leased", now.leased as u64),
            ("keys", now.keys as u64),
            ("size_bytes", now.size_bytes),
            ("dead_letters", now.dead_letters as u64),
        ] {
            stats.set_item(name, value)?;
        }
        stats.set_item("oldest_age_s", ns_to_seconds(now.oldest_age_ns))?;
        Ok(stats)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Clock::Manual(callable) = &self.clock {
            visit.call(callable)?;
        }
        // The collector stops the other threads, one of which may hold this lock: then this round finds no cycle here.
        self.queue.try_lock().map_or(Ok(()), |queue| queue.payloads().try_for_each(|payload| visit.call(payload)))
    }

    fn __clear__(&self) {
        let payloads = self.lock().drain();
        drop(payloads);
    }
}

impl RecoveryQueue {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something under the lock. What left the queue by it is dropped after the lock is free, since that may run
    /// Python.
    fn with_queue<R>(&self, work: impl FnOnce(&mut Queue) -> R) -> R {
        let mut queue = self.lock();
        let result = work(&mut queue);
        let dropped = queue.take_dropped();
        drop(queue);
        drop(dropped);
        result
    }
}

/// An entry of a `RecoveryQueue`, as it was when it was leased or given up. Immutable: threads may share it.
#[pyclass(frozen, get_all, module = "agent_memory._core")]
pub(crate) struct RecoveryEntry {
    /// By which it is completed, retried, discarded, or brought back from the dead letters.
    id: u64,
    /// The number of its lease, which no other lease has; None while it is not leased.
    lease: Option<u64>,
    /// The keys it writes, as bytes.
    keys: Py<PyTuple>,
    /// What was pushed.
    payload: Py<PyAny>,
    /// The number of its `Priority`.
    priority: u8,
    /// How often it was retried.
    attempts: u32,
    /// What it counts for in `max_bytes`, in bytes.
    size_bytes: u64,
    /// Seconds since it was queued, or since it was given up.
    age_s: f64,
    /// Why it was given up; None for a lease.
    reason: Option<Py<PyString>>,
}

#[pymethods]
impl RecoveryEntry {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        // Neither keys nor payload: what is logged must not show stored values.
        let reason = self
            .reason
            .as_ref()
            .map_or(Ok(String::new()), |reason| reason.bind(py).repr().map(|reason| format!(" reason={reason}")))?;
        let (id, priority, attempts) = (self.id, self.priority, self.attempts);
        Ok(format!("<RecoveryEntry {id} priority={priority} attempts={attempts}{reason}>"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.payload)
    }
}

/// What a `RecoveryEntry` is made of. It is copied out under the lock; Python's objects are made when the lock is
/// free, since any allocation of theirs may start the garbage collector, and with it finalizers that use this queue.
struct Facts {
    id: u64,
    lease: Option<u64>,
    keys: Vec<Box<[u8]>>,
    payload: Py<PyAny>,
    priority: u8,
    attempts: u32,
    size_bytes: u64,
    age_ns: u64,
    reason: Option<String>,
}

impl Facts {
    fn of_lease(py: Python<'_>, lease: &Lease<'_, Py<PyAny>>) -> Self {
        Self {
            id: lease.id,
            lease: lease.lease,
            keys: lease.keys.iter().map(|key| Box::from(*key)).collect(),
            payload: lease.payload.clone_ref(py),
            priority: lease.priority as u8,
            attempts: lease.attempts,
            size_bytes: lease.size_bytes,
            age_ns: lease.age_ns,
            reason: None,
        }
    }

    fn of_dead(py: Python<'_>, letter: &DeadLetter<Py<PyAny>>, now_ns: u64) -> Self {
        Self {
            id: letter.id,
            lease: None,
            keys: letter.keys.clone(),
            payload: letter.payload.clone_ref(py),
            priority: letter.priority as u8,
            attempts: letter.attempts,
            size_bytes: letter.size_bytes,
            age_ns: now_ns.saturating_sub(letter.died_ns),
            reason: Some(letter.reason.clone()),
        }
    }

    fn into_entry(self, py: Python<'_>) -> PyResult<RecoveryEntry> {
        let keys: Vec<_> = self.keys.iter().map(|key| PyBytes::new(py, key)).collect();
        Ok(RecoveryEntry {
            id: self.id,
            lease: self.lease,
            keys: PyTuple::new(py, keys)?.unbind(),
            payload: self.payload,
            priority: self.priority,
            attempts: self.attempts,
            size_bytes: self.size_bytes,
            age_s: ns_to_seconds(self.age_ns),
            reason: self.reason.map(|reason| PyString::new(py, &reason).unbind()),
        })
    }
}

enum KeyName {
    Bytes(PyBackedBytes),
    Text(PyBackedStr),
}

impl KeyName {
    fn as_bytes(&self) -> &[u8] {
        match self {
            KeyName::Bytes(bytes) => bytes,
            KeyName::Text(text) => text.as_bytes(),
        }
    }
}

fn extract_key(parameter: &str, key: &Bound<'_, PyAny>) -> PyResult<KeyName> {
    if let Ok(text) = key.cast::<PyString>() {
        return Ok(KeyName::Text(PyBackedStr::try_from(text.clone())?));
    }
    match key.extract::<PyBackedBytes>() {
        Ok(bytes) => Ok(KeyName::Bytes(bytes)),
        Err(_) => {
            Err(PyTypeError::new_err(format!("{parameter} must be bytes or str, got {}", key.get_type().name()?)))
        }
    }
}

fn extract_keys(keys: &Bound<'_, PyAny>) -> PyResult<Vec<KeyName>> {
    if keys.is_instance_of::<PyString>() || keys.is_instance_of::<PyBytes>() {
        return Ok(vec![extract_key("keys", keys)?]);
    }
    let Ok(each) = keys.try_iter() else {
        let given = keys.get_type().name()?;
        return Err(PyTypeError::new_err(format!("keys must be bytes, str or an iterable of them, got {given}")));
    };
    each.map(|key| extract_key("keys", &key?)).collect()
}

fn wrong_id(wrong: &core::WrongId) -> PyErr {
    PyKeyError::new_err(wrong.to_string())
}

fn queue_full(py: Python<'_>, full: &QueueFull) -> PyErr {
    let raised = py
        .import("agent_memory.errors")
        .and_then(|errors| errors.getattr("RecoveryQueueFullError"))
        .and_then(|class| class.call1((full.to_string(),)));
    raised.map_or_else(|error| error, PyErr::from_value)
}
