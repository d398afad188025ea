//! `Exchange`: the commands and replies of one shared connection.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ptr;

use agent_memory_core::protocol::replies::Scanner;
use agent_memory_core::round_trip::Slots;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyException, PyUnicodeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::cached::{self, CacheFlight, Tracking};
use super::objects::{self, Held, call_soon, call_within, known};
use super::waiter;
use super::window::{self, Window};
use crate::cache::ClientCache;
use crate::clock;
use crate::raw;

/// A command of so many bytes is not copied together with others in the making, but once, when all leave.
const OWN_PART_BYTES: usize = 16_384;
/// A buffer that has grown beyond this is given back.
const KEPT_BUFFER_BYTES: usize = 262_144;

thread_local! {
    /// The event loop of this thread whose tasks are being woken by an exchange; null otherwise.
    static WAKING: Cell<*mut ffi::PyObject> = const { Cell::new(ptr::null_mut()) };
}

/// The event loop whose tasks are being woken now by this thread, and which therefore runs.
#[inline]
pub(super) fn waking_loop() -> *mut ffi::PyObject {
    WAKING.get()
}

/// What is asked of an event loop.
#[pyclass(frozen, module = "agent_memory._core")]
pub(super) struct LoopFace {
    pub(super) event_loop: Py<PyAny>,
    pub(super) call_soon: Py<PyAny>,
    /// `get_loop()` of its waiters.
    pub(super) get_loop: Py<PyAny>,
    time: Py<PyAny>,
    /// Whether the loop's clock is asyncio's own: `time.monotonic()`.
    has_plain_clock: bool,
    /// What our own callbacks run in.
    context: Py<PyAny>,
}

#[pymethods]
impl LoopFace {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.call_soon)?;
        visit.call(&self.get_loop)?;
        visit.call(&self.time)?;
        visit.call(&self.context)
    }
}

impl LoopFace {
    fn new(event_loop: &Bound<'_, PyAny>, context: Bound<'_, PyAny>) -> PyResult<Self> {
        let py = event_loop.py();
        let time = event_loop.getattr(intern!(py, "time"))?;
        let plain = py.import("asyncio")?.getattr("BaseEventLoop")?.getattr(intern!(py, "time"))?;
        Ok(Self {
            has_plain_clock: time.getattr("__func__").is_ok_and(|function| function.is(&plain)),
            call_soon: event_loop.getattr(intern!(py, "call_soon"))?.unbind(),
            get_loop: waiter::loop_giver(event_loop)?.unbind(),
            time: time.unbind(),
            event_loop: event_loop.clone().unbind(),
            context: context.unbind(),
        })
    }

    /// The loop's clock.
    fn now_s(&self, py: Python<'_>) -> PyResult<f64> {
        let now_s = if self.has_plain_clock {
            // Looked up every time, as asyncio does: tests put other clocks there.
            objects::call(&known(py).time_module.bind(py).getattr(intern!(py, "monotonic"))?, [])
        } else {
            objects::call(self.time.bind(py), [])
        };
        now_s?.extract()
    }
}

/// What is asked of the parser and of the Python side, once the connection stands.
struct Ways {
    feed: Held,
    gets: Held,
    has_data: Held,
    incomplete: Held,
    push: Held,
    undecodable: Held,
    surplus: Held,
    raise: Held,
    view: Held,
    buffer: PyBuffer<u8>,
}

/// The number behind its last slot, when, the offset of its first byte, what is kept for each of its slots.
type HandedOver<'py> = (u64, f64, u64, Bound<'py, PyList>);

/// What is kept of a hand-over: its bytes, or the parts of it with the large ones cut off.
enum Kept {
    Whole(Held),
    Parts(Held),
}

/// The slots and the output of one connection; what `MultiplexedConnection` inherits. Used by the thread of its loop only.
///
/// - `append`, `append_all` and direct calls put commands into the output of this iteration of the loop, which leaves in one write.
/// - `receive` matches the replies of one read. Waiters are woken together, at its end (`wake`); what they send while they are woken
///   leaves at the end of that.
#[pyclass(subclass, module = "agent_memory._core")]
#[expect(clippy::struct_excessive_bools, reason = "they change apart from each other")]
pub(crate) struct Exchange {
    face: Option<Py<LoopFace>>,
    ways: Option<Ways>,
    write: Option<Held>,
    flush_callback: Option<Held>,
    wake_callback: Option<Held>,
    slots: Slots<Held, Kept>,
    /// The output: large commands, and what came between them, then the rest.
    parts: Vec<Held>,
    parts_len: usize,
    output: Vec<u8>,
    woken: VecDeque<Held>,
    scanner: Scanner,
    max_in_flight: usize,
    kept_bytes: usize,
    large_write_bytes: usize,
    alone: bool,
    flush_scheduled: bool,
    wake_scheduled: bool,
    waking: bool,
    /// Whether the reader holds the beginning of something that came while no command was unanswered: a push, or a reply that
    /// no command asked for, whose rest must not be taken for the next command's.
    torn: bool,
    /// What the cache needs of it, while the server tracks what is read here.
    tracking: Option<Tracking>,
    /// Whether commands may be sent without asking the transport.
    #[pyo3(get, set)]
    accepting: bool,
    /// Whether it has ended.
    #[pyo3(get)]
    closed: bool,
    /// Whether a sweep of the deadlines is armed, or there are none; otherwise `_begin_sweep` is called at the next hand-over.
    #[pyo3(get, set)]
    sweeping: bool,
    /// When bytes last arrived, by the loop's clock.
    #[pyo3(get)]
    last_read_s: f64,
    /// Since when the reply to the oldest slot has been arriving; 0: it has not begun.
    #[pyo3(get, set, name = "_partial_since_s")]
    partial_since_s: f64,
    /// Whether it carries something large, and the second connection relieves it.
    #[pyo3(get, set)]
    busy: bool,
    /// Whether it was silent past a deadline, and no byte has arrived since.
    #[pyo3(get, set)]
    suspect: bool,
    /// Whether the tasks that are woken by its replies send to other connections too, whose replies wake tasks that send here: what
    /// they send leaves in one write, in the loop's next turn.
    #[pyo3(get, set)]
    shares_turn: bool,
}

#[pymethods]
impl Exchange {
    #[new]
    #[pyo3(signature = (*_arguments, **_named))]
    fn new(_arguments: &Bound<'_, PyTuple>, _named: Option<&Bound<'_, PyAny>>) -> Self {
        Self {
            face: None,
            ways: None,
            write: None,
            flush_callback: None,
            wake_callback: None,
            slots: Slots::default(),
            parts: Vec::new(),
            parts_len: 0,
            output: Vec::new(),
            woken: VecDeque::new(),
            scanner: Scanner::new(),
            max_in_flight: 0,
            kept_bytes: 0,
            large_write_bytes: 0,
            alone: false,
            flush_scheduled: false,
            wake_scheduled: false,
            waking: false,
            torn: false,
            tracking: None,
            accepting: false,
            closed: false,
            sweeping: true,
            last_read_s: 0.0,
            partial_since_s: 0.0,
            busy: false,
            suspect: false,
            shares_turn: false,
        }
    }

    /// Says what it works with. `reader` is hiredis's with `incomplete` for "not enough data"; `push` is the class of its pushes,
    /// `undecodable(error)` makes a reply of a `UnicodeError`, `surplus()` makes the error of a reply that no command
    /// asked for, `raise_error(error)` raises it. `buffer` is what is read into.
    #[pyo3(signature = (
        *, event_loop, context, reader, incomplete, push, undecodable, surplus, raise_error, buffer, max_in_flight, kept_bytes,
        large_write_bytes,
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn _begin(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, PyAny>,
        context: Bound<'_, PyAny>,
        reader: &Bound<'_, PyAny>,
        incomplete: &Bound<'_, PyAny>,
        push: &Bound<'_, PyAny>,
        undecodable: &Bound<'_, PyAny>,
        surplus: &Bound<'_, PyAny>,
        raise_error: &Bound<'_, PyAny>,
        buffer: &Bound<'_, PyAny>,
        max_in_flight: usize,
        kept_bytes: usize,
        large_write_bytes: usize,
    ) -> PyResult<()> {
        let py = slf.py();
        let face = LoopFace::new(event_loop, context)?;
        let held = PyBuffer::<u8>::get(buffer)?;
        let ways = Ways {
            feed: Held::taken(reader.getattr(intern!(py, "feed"))?),
            gets: Held::taken(reader.getattr(intern!(py, "gets"))?),
            has_data: Held::taken(reader.getattr(intern!(py, "has_data"))?),
            incomplete: Held::of(incomplete),
            push: Held::of(push),
            undecodable: Held::of(undecodable),
            surplus: Held::of(surplus),
            raise: Held::of(raise_error),
            view: Held::taken(py.import("builtins")?.getattr("memoryview")?.call1((buffer,))?),
            buffer: held,
        };
        let flush = Held::taken(slf.getattr(intern!(py, "flush"))?);
        let wake = Held::taken(slf.getattr(intern!(py, "_wake"))?);
        let mut this = slf.try_borrow_mut()?;
        this.face = Some(Py::new(py, face)?);
        this.ways = Some(ways);
        this.flush_callback = Some(flush);
        this.wake_callback = Some(wake);
        this.max_in_flight = max_in_flight;
        this.kept_bytes = kept_bytes;
        this.large_write_bytes = large_write_bytes;
        this.accepting = true;
        Ok(())
    }

    /// The server is going to track what is read here for a lane of the cache; returns whether the cache is on.
    #[pyo3(signature = (cache, lane, /))]
    fn _track(&mut self, cache: &Bound<'_, ClientCache>, lane: usize) -> bool {
        self.tracking = Tracking::new(cache, lane);
        self.scanner.note_pushes();
        self.tracking.is_some()
    }

    /// Whether the server tracks, or the connection is to be trusted: without that the cache serves nothing.
    #[pyo3(signature = (is_tracked, /))]
    fn _set_tracked(slf: &Bound<'_, Self>, is_tracked: bool) -> PyResult<()> {
        let Some((cache, speaker)) = slf.try_borrow()?.speaker(slf.py()) else { return Ok(()) };
        cache.get().with(speaker, |machine| if is_tracked { machine.connected() } else { machine.disconnected() });
        Ok(())
    }

    /// Says what takes the bytes.
    fn _write_to(&mut self, write: &Bound<'_, PyAny>) {
        self.write = Some(Held::of(write));
    }

    /// asyncio asks where to read to.
    #[pyo3(signature = (sizehint))]
    fn get_buffer<'py>(&self, py: Python<'py>, sizehint: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let _ = sizehint; // asyncio's name; the buffer has one size
        Ok(self.ways()?.view.bind(py))
    }

    /// Unanswered commands, orphans included.
    #[getter]
    fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Commands answered since the connection was opened.
    #[getter]
    fn answered(&self) -> u64 {
        self.slots.answered()
    }

    /// Bytes handed to the socket so far.
    #[getter]
    fn written(&self) -> u64 {
        self.slots.written()
    }

    /// How many commands wait to be handed over.
    #[getter]
    fn unsent(&self) -> usize {
        self.slots.unsent()
    }

    /// When the oldest command that may be unanswered was handed over, by the loop's clock; None without one.
    #[getter]
    fn oldest_s(&self) -> Option<f64> {
        self.slots.oldest_s()
    }

    /// Appends one packed command to this iteration's write. `slot` has `done()`, `set_result(reply)` and `set_exception(error)`;
    /// `raw` leaves its reply undecoded.
    #[pyo3(signature = (slot, packed, raw=false, /))]
    fn append(slf: &Bound<'_, Self>, slot: &Bound<'_, PyAny>, packed: &Bound<'_, PyBytes>, raw: bool) -> PyResult<()> {
        let at_once = {
            let mut this = slf.try_borrow_mut()?;
            let was_empty = this.slots.unsent() == 0;
            this.slots.push(Held::of(slot), raw, packed.as_bytes().len());
            this.put(packed);
            this.note_pushed();
            was_empty && this.alone && this.slots.len() == 1 && !this.waking
        };
        if at_once { flush(slf) } else { ask_flush(slf) }
    }

    /// The same for `count` commands that were packed as one. The slot stands once for each of their replies; `raw` numbers, from 0,
    /// those that stay undecoded.
    #[pyo3(signature = (slot, packed, count, raw, /))]
    fn append_all(
        slf: &Bound<'_, Self>,
        slot: &Bound<'_, PyAny>,
        packed: &Bound<'_, PyBytes>,
        count: usize,
        raw: Vec<usize>,
    ) -> PyResult<()> {
        {
            let mut this = slf.try_borrow_mut()?;
            let mut wanting = raw;
            wanting.sort_unstable();
            let mut wanting = wanting.into_iter().peekable();
            for number in 0..count {
                let len = if number == 0 { packed.as_bytes().len() } else { 0 };
                let raw = wanting.next_if_eq(&number).is_some();
                this.slots.push(Held::of(slot), raw, len);
            }
            this.put(packed);
            this.note_pushed();
        }
        ask_flush(slf)
    }

    /// Hands over now what would leave at the end of this iteration.
    #[pyo3(name = "flush")]
    fn flush_now(slf: &Bound<'_, Self>) -> PyResult<()> {
        flush(slf)
    }

    /// asyncio has read `nbytes`: matches the replies in them to the slots, and wakes the tasks that wait for them.
    ///
    /// What cannot be read is for `_refuse(error)`. `_note_part(now_s)` is called for bytes that complete no reply,
    /// `_note_through(now_s)` for a reply while `busy`, `_note_alive()` for any bytes while `suspect`, `_note_room()` for any while
    /// commands are not accepted.
    #[pyo3(signature = (nbytes))]
    fn buffer_updated(slf: &Bound<'_, Self>, nbytes: usize) -> PyResult<()> {
        if slf.try_borrow()?.closed {
            return Ok(()); // it is open only until it is fenced
        }
        let taken = take_in(slf, nbytes);
        wake_in_read(slf)?;
        taken
    }

    /// Whether the reader holds a part of something.
    fn has_part(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let has_data = slf.try_borrow()?.ways()?.has_data.clone_ref();
        objects::call(&has_data.bind(slf.py()), [])?.is_truthy()
    }

    /// Wakes the waiters whose replies have come and that have not resumed.
    fn _wake(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.try_borrow_mut()?.wake_scheduled = false;
        wake(slf)
    }

    /// Looks at the deadlines: (whether it was silent, the slots whose time is over, when to look again); None where nothing is
    /// on its way.
    #[pyo3(signature = (now_s, moved_s, timeout_s, patience_s, /))]
    fn sweep<'py>(
        &mut self,
        py: Python<'py>,
        now_s: f64,
        moved_s: f64,
        timeout_s: f64,
        patience_s: f64,
    ) -> PyResult<Option<(bool, Bound<'py, PyList>, f64)>> {
        let Some(sweep) = self.slots.sweep(now_s, moved_s, timeout_s, patience_s) else { return Ok(None) };
        let late = self.slots.waiting_in(&sweep.expired).map(|slot| slot.bind(py));
        Ok(Some((sweep.silent, PyList::new(py, late.collect::<Vec<_>>())?, sweep.next_s)))
    }

    /// What was handed over and is not answered altogether: (number behind its last slot, when, offset of its first byte, what is
    /// kept for each of its slots).
    fn hand_overs<'py>(&self, py: Python<'py>) -> PyResult<Vec<HandedOver<'py>>> {
        let mut all = Vec::new();
        for (one, lens) in self.slots.hand_overs() {
            let parts = match &one.kept {
                Kept::Parts(parts) => parts.bind(py).cast_into::<PyList>()?,
                Kept::Whole(bytes) => split(py, bytes.bind(py).cast::<PyBytes>()?.as_bytes(), &lens)?,
            };
            all.push((one.upto, one.at_s, one.first_byte, parts));
        }
        Ok(all)
    }

    /// What waits to be handed over, for each of its slots.
    fn unsent_parts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        split(py, self.joined(py)?.as_bytes(), &self.slots.unsent_lens())
    }

    /// It ends: gives back the slots, oldest first, and how many of them may have been executed. `received` says how many bytes of our
    /// stream the peer has received at the most, where that is proven.
    #[pyo3(signature = (received=None, /))]
    fn end<'py>(slf: &Bound<'py, Self>, received: Option<u64>) -> PyResult<(Bound<'py, PyList>, usize)> {
        let py = slf.py();
        // Before any caller learns of it.
        Self::_set_tracked(slf, false)?;
        let mut this = slf.try_borrow_mut()?;
        this.closed = true;
        this.accepting = false;
        this.tracking = None;
        let maybe_executed = this.slots.maybe_executed(received);
        let parts = std::mem::take(&mut this.parts);
        this.parts_len = 0;
        this.output = Vec::new();
        let slots = this.slots.end();
        drop(this);
        drop(parts);
        let slots: Vec<_> = slots.map(|slot| slot.bind(py)).collect();
        Ok((PyList::new(py, slots)?, maybe_executed))
    }

    /// Why the stream is no longer one of replies; None while it is.
    #[getter]
    fn violation(&self) -> Option<String> {
        self.scanner.violation().map(|violation| violation.to_string())
    }

    /// Whether something has come that no command asked for, and whose rest is still to come.
    #[getter]
    fn is_torn(&self) -> bool {
        self.torn
    }

    /// Whether the stream stands between two replies.
    #[getter]
    fn is_between_replies(&self) -> bool {
        self.scanner.is_between_replies()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.face)?;
        if let Some(tracking) = &self.tracking {
            visit.call(&tracking.cache)?;
        }
        let ways = self.ways.iter().flat_map(|ways| {
            [
                &ways.feed,
                &ways.gets,
                &ways.has_data,
                &ways.incomplete,
                &ways.push,
                &ways.undecodable,
                &ways.surplus,
                &ways.raise,
                &ways.view,
            ]
        });
        let own = [&self.write, &self.flush_callback, &self.wake_callback].into_iter().flatten();
        let waiting = self.slots.waiting().chain(&self.woken);
        ways.chain(own).chain(waiting).try_for_each(|held| visit.call(held.seen()))
    }

    fn __clear__(&mut self) {
        self.ways = None;
        self.tracking = None;
        self.write = None;
        self.flush_callback = None;
        self.wake_callback = None;
        self.woken.clear();
        drop(self.slots.end());
    }
}

fn split<'py>(py: Python<'py>, bytes: &[u8], lens: &[usize]) -> PyResult<Bound<'py, PyList>> {
    let mut rest = bytes;
    let parts = lens.iter().map(|len| {
        let (part, behind) = rest.split_at((*len).min(rest.len()));
        rest = behind;
        PyBytes::new(py, part)
    });
    PyList::new(py, parts.collect::<Vec<_>>())
}

/// What is kept of each slot's bytes: their beginning, where they are large; of several that were packed as one and are large
/// together, nothing.
fn cut_off<'py>(py: Python<'py>, bytes: &[u8], lens: &[usize], kept_bytes: usize) -> PyResult<Bound<'py, PyList>> {
    let mut rest = bytes;
    let parts = lens.iter().enumerate().map(|(place, len)| {
        let (part, behind) = rest.split_at((*len).min(rest.len()));
        rest = behind;
        match lens.get(place + 1) {
            _ if part.len() <= kept_bytes => PyBytes::new(py, part),
            Some(0) => PyBytes::new(py, b"?"),
            _ => PyBytes::new(py, &part[..kept_bytes]),
        }
    });
    PyList::new(py, parts.collect::<Vec<_>>())
}

impl Exchange {
    /// The cache that the connection tracks for.
    #[inline]
    pub(super) fn speaker<'py>(&self, py: Python<'py>) -> Option<(Bound<'py, ClientCache>, crate::cache::Speaker)> {
        self.tracking.as_ref().map(|tracking| (tracking.cache.bind(py).clone(), tracking.speaker))
    }

    /// Puts packed commands into the output whose replies are for a flight.
    pub(super) fn append_flight(&mut self, flight: &Held, packed: &Bound<'_, PyBytes>, count: usize) {
        for number in 0..count {
            let len = if number == 0 { packed.as_bytes().len() } else { 0 };
            self.slots.push(flight.clone_ref(), false, len);
        }
        self.put(packed);
        self.note_pushed();
    }

    /// Whether so many more commands may be sent.
    pub(super) fn has_room_for(&self, count: usize) -> bool {
        self.accepts() && self.slots.len() + count <= self.max_in_flight
    }

    /// A waiter has its reply: its task is woken at the end of the read.
    pub(super) fn note_woken(&mut self, waiter: Held) {
        self.woken.push_back(waiter);
    }

    fn ways(&self) -> PyResult<&Ways> {
        self.ways.as_ref().ok_or_else(|| PyValueError::new_err("the exchange has not begun"))
    }

    #[inline]
    pub(super) fn face(&self) -> PyResult<&Py<LoopFace>> {
        self.face.as_ref().ok_or_else(|| PyValueError::new_err("the exchange has not begun"))
    }

    /// Whether what the parser gives next is known to be a push.
    #[inline]
    fn next_is_push(&mut self) -> bool {
        self.tracking.as_ref().is_some_and(|tracking| self.scanner.is_push(tracking.taken))
    }

    #[inline]
    fn note_pushed(&mut self) {
        if self.slots.len() >= self.max_in_flight {
            self.accepting = false;
        }
    }

    fn put(&mut self, packed: &Bound<'_, PyBytes>) {
        let bytes = packed.as_bytes();
        if bytes.len() < OWN_PART_BYTES {
            self.output.extend_from_slice(bytes);
        } else {
            self.seal(packed.py());
            self.parts_len += bytes.len();
            self.parts.push(Held::of(packed.as_any()));
        }
    }

    fn seal(&mut self, py: Python<'_>) {
        if !self.output.is_empty() {
            self.parts_len += self.output.len();
            self.parts.push(Held::taken(PyBytes::new(py, &self.output).into_any()));
            self.output.clear();
        }
    }

    /// Whether what waits is more than is kept of so many commands.
    fn is_long(&self) -> bool {
        self.parts_len + self.output.len() > self.kept_bytes.saturating_mul(self.slots.unsent().max(1))
    }

    /// All that waits, as one.
    fn joined<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        if self.parts.is_empty() {
            return Ok(PyBytes::new(py, &self.output));
        }
        let parts: Vec<Bound<'py, PyBytes>> =
            self.parts.iter().map(|part| part.bind(py).cast_into()).collect::<Result<_, _>>()?;
        if let ([only], true) = (parts.as_slice(), self.output.is_empty()) {
            return Ok(only.clone());
        }
        let len = self.parts_len + self.output.len();
        PyBytes::new_with(py, len, |buffer| {
            let mut rest = buffer;
            for part in parts.iter().map(PyBytesMethods::as_bytes).chain([self.output.as_slice()]) {
                let (place, behind) = rest.split_at_mut(part.len());
                place.copy_from_slice(part);
                rest = behind;
            }
            Ok(())
        })
    }

    /// Puts a command into the output that `write` writes there in `len` bytes, and a waiter into its slot.
    #[inline]
    pub(super) fn append_waiter(
        &mut self,
        py: Python<'_>,
        len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> PyResult<Held> {
        let waiter = waiter::new(py, self.face()?)?;
        if len < OWN_PART_BYTES {
            let place = self.output.len();
            self.output.resize(place + len, 0);
            write(&mut self.output[place..]);
        } else {
            let packed = PyBytes::new_with(py, len, |buffer| {
                write(buffer);
                Ok(())
            })?;
            self.put(&packed);
        }
        self.slots.push(waiter.clone_ref(), false, len);
        self.note_pushed();
        Ok(waiter)
    }

    /// Whether the only command there is should leave without waiting for the loop's next turn: callers have been coming one at a
    /// time, so no other command would share the write.
    #[inline]
    pub(super) fn is_alone(&self) -> bool {
        self.alone && self.slots.len() == 1 && !self.waking
    }

    /// The same where the only call has so many slots.
    pub(super) fn is_alone_with(&self, slots: usize) -> bool {
        self.alone && self.slots.len() == slots && !self.waking
    }

    /// Whether a command may be sent without asking the transport.
    #[inline]
    pub(super) fn accepts(&self) -> bool {
        self.accepting && !self.closed
    }

    /// Whether a flush is already due.
    #[inline]
    pub(super) fn will_flush(&self) -> bool {
        self.waking || self.flush_scheduled
    }
}

/// The same where there is any output.
fn ask_flush_of_output(slf: &Bound<'_, Exchange>) -> PyResult<()> {
    let is_empty = {
        let this = slf.try_borrow()?;
        this.output.is_empty() && this.parts.is_empty()
    };
    if is_empty { Ok(()) } else { ask_flush(slf) }
}

/// Makes sure that the output leaves at the end of this iteration.
pub(super) fn ask_flush(slf: &Bound<'_, Exchange>) -> PyResult<()> {
    let py = slf.py();
    let (face, callback) = {
        let this = slf.try_borrow()?;
        let Some(callback) = &this.flush_callback else { return Ok(()) };
        if this.will_flush() || this.closed {
            return Ok(());
        }
        (this.face()?.bind(py).clone(), callback.bind(py))
    };
    let face = face.get();
    call_soon(face.call_soon.bind(py), &callback, None, face.context.bind(py))?;
    slf.try_borrow_mut()?.flush_scheduled = true;
    Ok(())
}

fn now_s(slf: &Bound<'_, Exchange>) -> PyResult<f64> {
    let py = slf.py();
    let face = slf.try_borrow()?.face()?.bind(py).clone();
    face.get().now_s(py)
}

/// Hands everything over that waits.
pub(super) fn flush(slf: &Bound<'_, Exchange>) -> PyResult<()> {
    let py = slf.py();
    let is_long = {
        let mut this = slf.try_borrow_mut()?;
        this.flush_scheduled = false;
        if this.closed || (this.output.is_empty() && this.parts.is_empty()) {
            return Ok(());
        }
        this.is_long()
    };
    let keeps_all = !is_long || slf.getattr(intern!(py, "keeps_all"))?.is_truthy()?;
    let now_s = now_s(slf)?;
    // What has been asked may have led to anything, so everything is looked at anew.
    let (bytes, largest, begin_sweep, write, parts) = {
        let mut this = slf.try_borrow_mut()?;
        let bytes = this.joined(py)?;
        let len = bytes.as_bytes().len();
        if this.closed || len == 0 {
            return Ok(());
        }
        let (cut, is_large) = (!keeps_all && this.is_long(), len > this.large_write_bytes);
        let lens = if cut || is_large { this.slots.unsent_lens() } else { Vec::new() };
        let kept = if cut {
            Kept::Parts(Held::taken(cut_off(py, bytes.as_bytes(), &lens, this.kept_bytes)?.into_any()))
        } else {
            Kept::Whole(Held::of(bytes.as_any()))
        };
        let parts = std::mem::take(&mut this.parts);
        this.parts_len = 0;
        this.output.clear();
        this.output.shrink_to(KEPT_BUFFER_BYTES);
        let unsent = this.slots.unsent();
        this.alone = unsent == 1 || (unsent == cached::SLOTS_OF_ONE && this.tracking.is_some());
        this.slots.hand_over(now_s, len, kept);
        let upto = this.slots.answered() + this.slots.len() as u64;
        if let Some(tracking) = &mut this.tracking {
            tracking.sent(upto, clock::waking_and_sleeping_ns());
        }
        let largest = if is_large { lens.iter().copied().max() } else { None };
        (bytes, largest, !this.sweeping, this.write.as_ref().map(Held::clone_ref), parts)
    };
    drop(parts);
    if begin_sweep {
        slf.call_method1(intern!(py, "_begin_sweep"), (now_s,))?;
    }
    if let Some(write) = write {
        objects::call(&write.bind(py), [bytes.as_ptr()])?;
    }
    if let Some(largest) = largest {
        slf.call_method1(intern!(py, "_watch_write"), (largest, now_s))?;
    }
    Ok(())
}

// --- reading ----------------------------------------------------------------------------------------------------------

/// What one look at the parser needs, without the exchange being borrowed meanwhile.
struct Parser<'py> {
    gets: Bound<'py, PyAny>,
    has_data: Bound<'py, PyAny>,
    undecodable: Bound<'py, PyAny>,
    incomplete: Held,
    push: Held,
    surplus: Held,
}

enum Got<'py> {
    Nothing,
    Push(Bound<'py, PyAny>),
    Reply(Bound<'py, PyAny>),
}

impl<'py> Parser<'py> {
    fn get(&self, raw: bool) -> PyResult<Got<'py>> {
        let py = self.gets.py();
        let reply = if raw { self.gets.call1((false,)) } else { objects::call(&self.gets, []) };
        let reply = match reply {
            Err(error) if error.is_instance_of::<PyUnicodeError>(py) => self.undecodable.call1((error.value(py),))?,
            reply => reply?,
        };
        if reply.as_ptr() == self.incomplete.as_ptr() {
            return Ok(Got::Nothing);
        }
        if reply.get_type_ptr().cast() == self.push.as_ptr() {
            return Ok(Got::Push(reply));
        }
        Ok(Got::Reply(reply))
    }

    fn holds_part(&self) -> PyResult<bool> {
        objects::call(&self.has_data, [])?.is_truthy()
    }

    fn surplus(&self) -> PyErr {
        PyErr::from_value(
            self.surplus
                .bind(self.gets.py())
                .call0()
                .unwrap_or_else(|error| error.into_value(self.gets.py()).into_bound(self.gets.py()).into_any()),
        )
    }
}

fn read(slf: &Bound<'_, Exchange>, count: usize) -> PyResult<()> {
    let py = slf.py();
    let (parser, feed, view, parts) = {
        let mut this = slf.try_borrow_mut()?;
        let this = &mut *this;
        let ways = this.ways.as_ref().ok_or_else(|| PyValueError::new_err("the exchange has not begun"))?;
        let mut parts = Vec::new();
        let scanner = &mut this.scanner;
        let is_all = raw::with_bytes(&ways.buffer, 0..count, |bytes| {
            scanner.scan(bytes, |part| parts.push((part.start, part.len())))
        })
        .ok_or_else(|| PyValueError::new_err(format!("count must be within the buffer, got {count}")))?;
        let parser = Parser {
            gets: ways.gets.bind(py),
            has_data: ways.has_data.bind(py),
            undecodable: ways.undecodable.bind(py),
            incomplete: ways.incomplete.clone_ref(),
            push: ways.push.clone_ref(),
            surplus: ways.surplus.clone_ref(),
        };
        (parser, ways.feed.bind(py), ways.view.bind(py), if is_all { None } else { Some(parts) })
    };
    match &parts {
        None => drop(feed.call1((&view, 0, count))?),
        Some(parts) => {
            for (offset, len) in parts {
                feed.call1((&view, offset, len))?;
            }
        }
    }
    if !slf.try_borrow()?.torn || skip_torn(slf, &parser)? {
        match_replies(slf, &parser)?;
    }
    if parts.is_some() {
        slf.call_method0(intern!(py, "_check_scanned"))?;
    }
    Ok(())
}

/// Matches what has been read, and notes what it says of the connection.
fn take_in(slf: &Bound<'_, Exchange>, count: usize) -> PyResult<()> {
    let py = slf.py();
    let before = slf.try_borrow()?.slots.answered();
    match read(slf, count) {
        Ok(()) => {}
        Err(error) if error.is_instance_of::<PyException>(py) => {
            return slf.call_method1(intern!(py, "_refuse"), (error.into_value(py),)).map(drop);
        }
        Err(error) => return Err(error),
    }
    let now_s = now_s(slf)?;
    let (settled, moved) = {
        let mut this = slf.try_borrow_mut()?;
        this.last_read_s = now_s;
        let settled = this.slots.settle();
        let moved = this.slots.answered() != before;
        if moved {
            this.partial_since_s = 0.0;
            let answered = this.slots.answered();
            if let Some(tracking) = &mut this.tracking {
                tracking.prove(py, answered);
            }
        }
        (settled, moved)
    };
    drop(settled);
    if !moved {
        slf.call_method1(intern!(py, "_note_part"), (now_s,))?;
    } else if slf.try_borrow()?.busy {
        slf.call_method1(intern!(py, "_note_through"), (now_s,))?;
    }
    if slf.try_borrow()?.suspect {
        slf.call_method0(intern!(py, "_note_alive"))?;
    }
    if !slf.try_borrow()?.accepting {
        slf.call_method0(intern!(py, "_note_room"))?;
    }
    Ok(())
}

/// A push has come: what of it is for the cache.
fn note_push(slf: &Bound<'_, Exchange>, push: &Bound<'_, PyAny>) -> PyResult<()> {
    let speaker = {
        let mut this = slf.try_borrow_mut()?;
        if let Some(tracking) = &mut this.tracking {
            tracking.taken += 1;
        }
        this.speaker(slf.py())
    };
    match speaker {
        None => Ok(()),
        Some((cache, speaker)) => cached::note_push(&cache, speaker, push),
    }
}

/// Whether the push that had begun while no command was unanswered is complete; anything else is not the protocol.
fn skip_torn(slf: &Bound<'_, Exchange>, parser: &Parser<'_>) -> PyResult<bool> {
    match parser.get(true)? {
        Got::Nothing => Ok(false),
        Got::Reply(_) => Err(parser.surplus()),
        Got::Push(push) => {
            slf.try_borrow_mut()?.torn = false;
            note_push(slf, &push)?;
            Ok(true)
        }
    }
}

fn match_replies(slf: &Bound<'_, Exchange>, parser: &Parser<'_>) -> PyResult<()> {
    let py = slf.py();
    loop {
        let (is_empty, raw) = {
            let mut this = slf.try_borrow_mut()?;
            (this.slots.is_empty(), this.slots.next_wants_bytes() || this.next_is_push())
        };
        if is_empty && !parser.holds_part()? {
            return Ok(());
        }
        let reply = match parser.get(raw)? {
            Got::Push(push) => {
                note_push(slf, &push)?;
                continue;
            }
            Got::Nothing => {
                let mut this = slf.try_borrow_mut()?;
                this.torn = this.slots.is_empty();
                return Ok(());
            }
            Got::Reply(reply) => reply,
        };
        if let Some(tracking) = &mut slf.try_borrow_mut()?.tracking {
            tracking.taken += 1;
        }
        let Some(slot) = slf.try_borrow_mut()?.slots.answer() else { return Err(parser.surplus()) };
        if waiter::is_waiter(py, slot.as_ptr()) {
            match waiter::answer(slot.as_ptr(), Held::taken(reply)) {
                Ok(()) => slf.try_borrow_mut()?.woken.push_back(slot),
                Err(unwanted) => drop(unwanted),
            }
        } else if let Ok(flight) = slot.bind(py).cast_exact::<CacheFlight>() {
            cached::answer(slf, flight, &reply)?;
        } else {
            let slot = slot.bind(py);
            if let Ok(window) = slot.cast_exact::<Window>() {
                window::take(window, reply)?;
                continue;
            }
            if !slot.call_method0(intern!(py, "done"))?.is_truthy()? {
                slot.call_method1(intern!(py, "set_result"), (reply,))?;
            }
        }
    }
}

// --- waking -----------------------------------------------------------------------------------------------------------

/// Makes sure that those whose replies have come are woken.
fn ask_wake(slf: &Bound<'_, Exchange>) -> PyResult<()> {
    let py = slf.py();
    let (face, callback) = {
        let this = slf.try_borrow()?;
        let Some(callback) = &this.wake_callback else { return Ok(()) };
        if this.woken.is_empty() || this.wake_scheduled {
            return Ok(());
        }
        (this.face()?.bind(py).clone(), callback.bind(py))
    };
    let face = face.get();
    call_soon(face.call_soon.bind(py), &callback, None, face.context.bind(py))?;
    slf.try_borrow_mut()?.wake_scheduled = true;
    Ok(())
}

/// Marks for its lifetime that this thread wakes tasks of a loop.
struct Waking {
    before: *mut ffi::PyObject,
}

impl Waking {
    fn of(event_loop: &Bound<'_, PyAny>) -> Self {
        Self { before: WAKING.replace(event_loop.as_ptr()) }
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        WAKING.set(self.before);
    }
}

fn wake(slf: &Bound<'_, Exchange>) -> PyResult<()> {
    let py = slf.py();
    let face = {
        let mut this = slf.try_borrow_mut()?;
        if this.woken.is_empty() {
            return Ok(());
        }
        this.waking = true;
        this.face()?.bind(py).clone()
    };
    let event_loop = face.get().event_loop.bind(py);
    // A task may run the loop within the loop, and wait there for one that is still to be woken.
    let nested = event_loop.hasattr(intern!(py, "_nest_patched")).unwrap_or(false);
    let waking = Waking::of(event_loop);
    let mut ended = Ok(());
    while ended.is_ok() {
        let Some(waiter) = slf.try_borrow_mut()?.woken.pop_front() else { break };
        if nested {
            ask_wake(slf)?;
        }
        ended = wake_one(py, &face, &waiter);
    }
    drop(waking);
    let leaves_later = {
        let mut this = slf.try_borrow_mut()?;
        this.waking = false;
        this.shares_turn && !this.alone
    };
    // Something like KeyboardInterrupt came out of a task: it goes on, and so do the others.
    let rest = ask_wake(slf);
    let flushed = if leaves_later { ask_flush_of_output(slf) } else { flush(slf) };
    ended.and(rest).and(flushed)
}

/// The same at the end of a read. What would end the loop gets a callback of its own: uvloop would take it for an error of the
/// connection.
fn wake_in_read(slf: &Bound<'_, Exchange>) -> PyResult<()> {
    let Err(error) = wake(slf) else { return Ok(()) };
    let py = slf.py();
    if error.is_instance_of::<PyException>(py) {
        return Err(error);
    }
    let (face, raise) = {
        let this = slf.try_borrow()?;
        (this.face()?.bind(py).clone(), this.ways()?.raise.bind(py))
    };
    let face = face.get();
    call_soon(face.call_soon.bind(py), &raise, Some(error.value(py)), face.context.bind(py))
}

fn wake_one(py: Python<'_>, face: &Bound<'_, LoopFace>, waiter: &Held) -> PyResult<()> {
    let Some((callback, context)) = waiter::take_callback(waiter.as_ptr()) else { return Ok(()) };
    if waiter::has_more(waiter.as_ptr()) {
        waiter::schedule(py, waiter.as_ptr())?;
    }
    let (callback, context, waiter) = (callback.bind(py), context.bind(py), waiter.bind(py));
    match call_within(&context, &callback, &waiter) {
        // The context is already entered: code in it runs a nested loop. The callback follows in a turn of its own.
        None => call_soon(face.get().call_soon.bind(py), &callback, Some(&waiter), &context),
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) if error.is_instance_of::<PyException>(py) => {
            let facts = pyo3::types::PyDict::new(py);
            facts.set_item(intern!(py, "message"), "Exception in the callback of a waiter")?;
            facts.set_item(intern!(py, "exception"), error.value(py))?;
            face.get().event_loop.bind(py).call_method1(intern!(py, "call_exception_handler"), (facts,)).map(drop)
        }
        Some(Err(error)) => Err(error),
    }
}
