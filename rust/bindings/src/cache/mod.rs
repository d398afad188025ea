//! The client-side cache: the core's machine behind a lock, one lane for each event loop.
//!
//! No Python runs while the lock is held. Values that leave are dropped after its release.

use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_memory_core::cache::commands::{changed, effect_of};
use agent_memory_core::cache::machine::{Begun, Counts, Expiry, FlightId, Lookup, Machine, Settings};
use agent_memory_core::cache::store::EntryId;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::clock;
use crate::protocol::commands::{plain_word, with_word};
use crate::round_trip::objects::Held;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ClientCache>()?;
    module.add_class::<CacheView>()
}

/// A flight that can be joined.
#[derive(Debug)]
pub(crate) struct Joinable(pub(crate) Held);

impl Clone for Joinable {
    fn clone(&self) -> Self {
        Self(self.0.clone_ref())
    }
}

/// The machine of one event loop, and which of its connections speaks for it.
struct Lane {
    machine: Machine<Held, Joinable>,
    /// The connection that tracks has this number. What others say is not heard.
    speaker: u64,
}

#[derive(Default)]
struct Inner {
    lanes: Vec<Option<Lane>>,
    speakers: u64,
    off_because: Option<String>,
    /// What lanes that have been dropped had counted.
    past: Counts,
    past_evictions: u64,
}

/// The cache of the clients of one pool. Thread-safe.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct ClientCache {
    settings: Settings,
    inner: Mutex<Inner>,
}

/// What one client reads from the cache: entries of at most this age; none where `ttl_s` is 0.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct CacheView {
    pub(crate) cache: Py<ClientCache>,
    pub(crate) ttl_ns: u64,
}

#[pymethods]
impl CacheView {
    #[new]
    fn new(cache: Py<ClientCache>, ttl_s: f64) -> PyResult<Self> {
        Ok(Self { cache, ttl_ns: nanoseconds("ttl_s", ttl_s)? })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.cache)
    }
}

fn nanoseconds(name: &str, value_s: f64) -> PyResult<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the rule")]
    match value_s {
        0.0..=1e9 => Ok((value_s * 1e9) as u64),
        _ => Err(PyValueError::new_err(format!("{name} must be >= 0 and <= 1000000000, got {value_s}"))),
    }
}

#[pymethods]
impl ClientCache {
    #[new]
    #[pyo3(signature = (max_bytes, max_staleness_s, ttl_s))]
    fn new(max_bytes: usize, max_staleness_s: f64, ttl_s: f64) -> PyResult<Self> {
        let settings = Settings {
            max_bytes,
            max_staleness_ns: nanoseconds("max_staleness_s", max_staleness_s)?,
            ttl_ns: nanoseconds("ttl_s", ttl_s)?,
            seed: clock::random_seed(),
        };
        Ok(Self { settings, inner: Mutex::new(Inner::default()) })
    }

    /// A lane for another event loop.
    fn add_lane(&self) -> usize {
        let lane = Lane { machine: Machine::new(self.settings), speaker: 0 };
        let mut inner = self.lock();
        if let Some(place) = inner.lanes.iter().position(Option::is_none) {
            inner.lanes[place] = Some(lane);
            return place;
        }
        inner.lanes.push(Some(lane));
        inner.lanes.len() - 1
    }

    /// Its event loop has ended.
    #[pyo3(signature = (lane, /))]
    fn drop_lane(&self, lane: usize) {
        let dropped = {
            let mut inner = self.lock();
            let dropped = inner.lanes.get_mut(lane).and_then(Option::take);
            if let Some(dropped) = &dropped {
                inner.past = sum(inner.past, dropped.machine.counts());
                inner.past_evictions += dropped.machine.store().evictions();
            }
            dropped
        };
        drop(dropped);
    }

    /// Whether entries wait for a lease that is about to end.
    #[pyo3(signature = (lane, /))]
    fn wants_proof(&self, lane: usize) -> bool {
        let now_ns = clock::waking_and_sleeping_ns();
        let spare_ns = self.settings.max_staleness_ns / 4 * 3;
        self.lock().lanes.get(lane).and_then(Option::as_ref).is_some_and(|lane| {
            let machine = &lane.machine;
            machine.is_up() && !machine.store().is_empty() && machine.lease_ns() < now_ns.saturating_add(spare_ns)
        })
    }

    /// An own write has been answered, has failed, or was cancelled: its keys are forgotten.
    #[pyo3(signature = (words, /))]
    fn wrote(&self, words: &Bound<'_, PyTuple>) {
        note_write(self, words);
    }

    /// Forgets all entries.
    fn clear(&self) {
        self.each(Machine::clear);
    }

    /// The reply that is kept of GET, or the default. With `stale` also one that may be older than the bound.
    #[pyo3(signature = (key, default, stale=false, /))]
    fn peek<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Bound<'py, PyAny>,
        stale: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = key.py();
        let key = bytes_of(key)?;
        let now_ns = clock::waking_and_sleeping_ns();
        let mut inner = self.lock();
        let found = inner.lanes.iter_mut().flatten().find_map(|lane| {
            let value = lane.machine.peek(&key, b"", now_ns, stale);
            value.map(Held::clone_ref)
        });
        drop(inner);
        Ok(found.map_or(default, |found| found.into_bound(py)))
    }

    /// No reply is served or kept from now on.
    #[pyo3(signature = (reason, /))]
    fn turn_off(&self, reason: String) {
        self.lock().off_because = Some(reason);
        self.each(|machine| {
            machine.disconnected();
            machine.clear();
        });
    }

    /// Why it is off; None while it is on.
    #[getter]
    fn off_because(&self) -> Option<String> {
        self.lock().off_because.clone()
    }

    /// What was counted, and what is kept now.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (mut counts, mut evictions, mut entries, mut bytes, mut is_connected, off);
        {
            let inner = self.lock();
            (counts, evictions, entries, bytes, is_connected) = (inner.past, inner.past_evictions, 0, 0, false);
            for lane in inner.lanes.iter().flatten() {
                counts = sum(counts, lane.machine.counts());
                evictions += lane.machine.store().evictions();
                entries += lane.machine.store().len();
                bytes += lane.machine.store().bytes();
                is_connected |= lane.machine.is_up();
            }
            off = inner.off_because.clone();
        }
        let stats = PyDict::new(py);
        for (name, value) in [
            ("hits", counts.hits),
            ("misses", counts.misses),
            ("joined", counts.joined),
            ("invalidations_by_server", counts.invalidations_by_server),
            ("invalidations_by_own_writes", counts.invalidations_by_own_writes),
            ("invalidations_of_all", counts.invalidations_of_all),
            ("flights_killed", counts.flights_killed),
            ("evictions", evictions),
            ("expired", counts.expired),
            ("lease_refusals", counts.lease_refusals),
            ("not_kept", counts.not_kept),
            ("epochs", counts.epochs),
            ("entries", entries as u64),
            ("bytes", bytes as u64),
        ] {
            stats.set_item(name, value)?;
        }
        stats.set_item("max_bytes", self.settings.max_bytes)?;
        stats.set_item("is_connected", is_connected)?;
        stats.set_item("off_because", off)?;
        Ok(stats)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Held by another thread: what it has is reachable.
        let Ok(inner) = self.inner.try_lock() else { return Ok(()) };
        inner
            .lanes
            .iter()
            .flatten()
            .flat_map(|lane| lane.machine.joinable())
            .try_for_each(|one| visit.call(one.0.seen()))
    }

    fn __clear__(&self) {
        self.each(|machine| {
            machine.disconnected();
            machine.clear();
        });
    }
}

fn sum(left: Counts, right: Counts) -> Counts {
    Counts {
        hits: left.hits + right.hits,
        misses: left.misses + right.misses,
        joined: left.joined + right.joined,
        invalidations_by_server: left.invalidations_by_server + right.invalidations_by_server,
        invalidations_by_own_writes: left.invalidations_by_own_writes + right.invalidations_by_own_writes,
        invalidations_of_all: left.invalidations_of_all + right.invalidations_of_all,
        flights_killed: left.flights_killed + right.flights_killed,
        expired: left.expired + right.expired,
        lease_refusals: left.lease_refusals + right.lease_refusals,
        not_kept: left.not_kept + right.not_kept,
        epochs: left.epochs + right.epochs,
    }
}

/// The bytes of a key.
pub(crate) fn bytes_of(key: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let taken = |word: &Bound<'_, PyAny>| {
        with_word(word, |word| match word {
            agent_memory_core::protocol::commands::Word::Bytes(bytes) => bytes.to_vec(),
            agent_memory_core::protocol::commands::Word::Int(number) => number.to_string().into_bytes(),
        })
    };
    if let Some(bytes) = taken(key) {
        return Ok(bytes);
    }
    plain_word(key)?
        .and_then(|plain| taken(&plain))
        .ok_or_else(|| PyTypeError::new_err("key must be str, bytes, bytearray, memoryview, int or float"))
}

/// An own write is over: its keys are forgotten. Words that cannot be sent changed nothing.
pub(crate) fn note_write(cache: &ClientCache, words: &Bound<'_, PyTuple>) {
    let Ok(first) = words.get_item(0) else { return };
    let name = first.cast::<PyString>().ok().and_then(|name| name.to_str().ok().map(str::to_owned));
    let name = name.or_else(|| bytes_of(&first).ok().and_then(|name| String::from_utf8(name).ok())).unwrap_or_default();
    let name = name.trim().to_ascii_uppercase();
    let effect = effect_of(&name);
    if effect == agent_memory_core::cache::commands::Effect::Nothing {
        return;
    }
    // A name of two words is two words on the wire.
    let ahead = name.split(' ').count() - 1;
    let Ok(plain) = words.iter().skip(1).map(|word| bytes_of(&word)).collect::<PyResult<Vec<_>>>() else { return };
    let mut keys = Vec::new();
    let word = |place: usize| place.checked_sub(1 + ahead).and_then(|place| plain.get(place)).map(Vec::as_slice);
    let known = changed(effect, 1 + ahead + plain.len(), word, |place| {
        keys.extend(place.checked_sub(1 + ahead));
    });
    cache.each(|machine| {
        if known {
            for place in &keys {
                machine.wrote(&plain[*place]);
            }
        } else {
            machine.wrote_anything();
        }
    });
}

/// What a kept reply takes, by `sys.getsizeof` of it and of what is in it.
pub(crate) fn size_of_reply(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let own = |value: &Bound<'_, PyAny>| -> PyResult<usize> {
        if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            return Ok((bytes.as_bytes().len() + 33).next_multiple_of(16));
        }
        let size: usize = value.call_method0(pyo3::intern!(value.py(), "__sizeof__"))?.extract()?;
        Ok(size.next_multiple_of(16))
    };
    let mut size = if value.is_none() { 0 } else { own(value)? };
    if let Ok(dict) = value.cast::<PyDict>() {
        for (key, value) in dict {
            size += size_of_reply(&key)? + size_of_reply(&value)?;
        }
    } else if !(value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>())
        && let Ok(parts) = value.try_iter()
    {
        for part in parts {
            size += size_of_reply(&part?)?;
        }
    }
    Ok(size)
}

/// One speaker's word about its lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speaker {
    pub(crate) lane: usize,
    number: u64,
}

impl ClientCache {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts on every machine, and drops what has left afterwards.
    fn each(&self, mut act: impl FnMut(&mut Machine<Held, Joinable>)) {
        let mut graves = Vec::new();
        {
            let mut inner = self.lock();
            for lane in inner.lanes.iter_mut().flatten() {
                act(&mut lane.machine);
                if lane.machine.store().has_grave() {
                    graves.push(lane.machine.take_grave());
                }
            }
        }
        drop(graves);
    }

    /// Acts on the machine that a connection speaks for; `None` where it does not any more.
    pub(crate) fn with<T>(&self, speaker: Speaker, act: impl FnOnce(&mut Machine<Held, Joinable>) -> T) -> Option<T> {
        let (result, grave) = {
            let mut inner = self.lock();
            let lane = inner.lanes.get_mut(speaker.lane)?.as_mut()?;
            if lane.speaker != speaker.number {
                return None;
            }
            let result = act(&mut lane.machine);
            (result, lane.machine.store().has_grave().then(|| lane.machine.take_grave()))
        };
        drop(grave);
        Some(result)
    }

    /// A connection that is going to track speaks for the lane from now on; what was before it ends. `None` where it is off.
    pub(crate) fn speak(&self, lane: usize) -> Option<Speaker> {
        let mut inner = self.lock();
        if inner.off_because.is_some() {
            return None;
        }
        inner.speakers += 1;
        let number = inner.speakers;
        let taken = inner.lanes.get_mut(lane)?.as_mut()?;
        taken.machine.disconnected();
        taken.speaker = number;
        Some(Speaker { lane, number })
    }

    /// The kept reply of a request, of any lane that may serve it.
    #[inline]
    pub(crate) fn look_up(&self, key: &[u8], variant: &[u8], ttl_ns: u64) -> Option<(EntryId, Held)> {
        let now_ns = clock::waking_and_sleeping_ns();
        let mut inner = self.lock();
        for lane in inner.lanes.iter_mut().flatten() {
            if let Lookup::Hit(id, value) = lane.machine.lookup(key, variant, now_ns, ttl_ns) {
                return Some((id, value.clone_ref()));
            }
        }
        None
    }

    /// The same of one lane for many keys: what is kept of each, by the first variant that has it.
    pub(crate) fn look_up_all(
        &self,
        speaker: Speaker,
        keys: &[Vec<u8>],
        variants: [&[u8]; 2],
        ttl_ns: u64,
    ) -> Option<Vec<Option<(EntryId, Held)>>> {
        let now_ns = clock::waking_and_sleeping_ns();
        self.with(speaker, |machine| {
            let mut one = |key: &Vec<u8>| {
                variants.iter().find_map(|variant| match machine.lookup(key, variant, now_ns, ttl_ns) {
                    Lookup::Hit(id, value) => Some((id, value.clone_ref())),
                    Lookup::Miss => None,
                })
            };
            keys.iter().map(&mut one).collect()
        })
    }

    pub(crate) fn begin(
        &self,
        speaker: Speaker,
        key: &[u8],
        variant: &[u8],
        ttl_ns: u64,
        flight: Option<Joinable>,
    ) -> Option<Begun<Joinable>> {
        let now_ns = clock::waking_and_sleeping_ns();
        self.with(speaker, |machine| machine.begin(key, variant, now_ns, ttl_ns, flight))?
    }

    pub(crate) fn fail(&self, speaker: Speaker, id: FlightId) {
        self.with(speaker, |machine| machine.fail(id));
    }

    pub(crate) fn land(
        &self,
        speaker: Speaker,
        id: FlightId,
        variant: Option<&[u8]>,
        value: &Bound<'_, PyAny>,
        expiry: Expiry,
    ) -> PyResult<()> {
        let size = size_of_reply(value)?;
        let is_text = value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>();
        let is_absent = !is_text && !value.is_truthy()?;
        let held = Held::of(value);
        self.with(speaker, |machine| machine.land_as(id, variant, held, size, is_absent, expiry));
        Ok(())
    }
}
