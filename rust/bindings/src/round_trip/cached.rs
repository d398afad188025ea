//! Commands whose replies may be cached: hits, flights on the tracking connection, and what the server says meanwhile.
//!
//! A miss is three commands in one piece: CLIENT CACHING YES, the read, and PTTL of its key. A [`CacheFlight`] is the slot of all
//! of their replies; the callers that wait for it have a waiter each.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_memory_core::cache::commands::{Cacheable, cacheable};
use agent_memory_core::cache::machine::{Begun, Expiry, FlightId, Machine};
use agent_memory_core::cache::store::EntryId;
use agent_memory_core::protocol::commands::{Word, Writer, header_len};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PySet, PyString, PyTuple};

use super::bases::DirectCalls;
use super::exchange::{self, Exchange};
use super::objects::{Held, is_exception};
use super::waiter;
use crate::cache::{ClientCache, Joinable, Speaker, bytes_of};
use crate::protocol::commands::with_word;

/// An MGET of more keys goes the ordinary way.
const MAX_ELEMENTS: usize = 1_000;
/// nil as MGET gives it, which may stand for a value of another type: it serves no GET.
const ABSENT: &[u8] = b"\0";
/// A miss of one key has so many slots.
pub(super) const SLOTS_OF_ONE: usize = 3;
const CACHING: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n";

// --- the connection -------------------------------------------------------------------------------------------------

/// What the connection keeps for the cache.
pub(super) struct Tracking {
    pub(super) cache: Py<ClientCache>,
    pub(super) speaker: Speaker,
    /// How many replies and pushes the parser has given since the scanner notes pushes.
    pub(super) taken: u64,
    /// The first and last number of the slots of each hand-over that is not answered altogether, and when it was sent.
    sent: VecDeque<(u64, u64, u64)>,
    /// The number behind the last slot that was handed over.
    handed_over: u64,
}

impl Tracking {
    /// `None` where the cache is off.
    pub(super) fn new(cache: &Bound<'_, ClientCache>, lane: usize) -> Option<Self> {
        let speaker = cache.get().speak(lane)?;
        Some(Self { cache: cache.clone().unbind(), speaker, taken: 0, sent: VecDeque::new(), handed_over: 0 })
    }

    /// Everything up to this slot is going to be written now.
    pub(super) fn sent(&mut self, upto: u64, now_ns: u64) {
        self.sent.push_back((self.handed_over, upto, now_ns));
        self.handed_over = upto;
    }

    /// So many commands have been answered, and every push before the last reply was handed in.
    pub(super) fn prove(&mut self, py: Python<'_>, answered: u64) {
        let mut proof = None;
        while let Some((first, upto, sent_ns)) = self.sent.front().copied() {
            if answered > first {
                proof = Some(sent_ns);
            }
            if answered < upto {
                break;
            }
            self.sent.pop_front();
        }
        if let Some(sent_ns) = proof {
            self.cache.bind(py).get().with(self.speaker, |machine| machine.proved(sent_ns));
        }
    }
}

/// A push of the server: an invalidation, or nothing for the cache.
pub(super) fn note_push(cache: &Bound<'_, ClientCache>, speaker: Speaker, push: &Bound<'_, PyAny>) -> PyResult<()> {
    if push.get_item(0)?.cast::<PyBytes>().is_ok_and(|kind| kind.as_bytes() == b"invalidate") {
        let keys = push.get_item(1)?;
        if keys.is_none() {
            cache.get().with(speaker, Machine::invalidated_all);
            return Ok(());
        }
        let keys: Vec<Vec<u8>> = keys.try_iter()?.map(|key| bytes_of(&key?)).collect::<PyResult<_>>()?;
        cache.get().with(speaker, |machine| {
            for key in &keys {
                machine.invalidated(key);
            }
        });
    }
    Ok(())
}

// --- flights --------------------------------------------------------------------------------------------------------

struct Element {
    /// Its place in the reply.
    place: usize,
    flight: Option<FlightId>,
    expiry: Expiry,
}

/// What an MGET fetches, and what it had.
struct Many {
    keys: Vec<Vec<u8>>,
    fetched: Vec<Element>,
    served: Vec<(usize, EntryId, Held)>,
}

struct State {
    flight: Option<FlightId>,
    many: Option<Many>,
    waiters: Vec<Held>,
    value: Option<Held>,
    replies: usize,
    refused: bool,
    is_over: bool,
    ttl_ns: u64,
}

/// The slot of the replies of one miss.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct CacheFlight {
    cache: Py<ClientCache>,
    speaker: Speaker,
    state: Mutex<State>,
}

impl CacheFlight {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is over, and its flights are.
    fn end(&self, py: Python<'_>) -> Vec<Held> {
        let (waiters, flights) = {
            let mut state = self.lock();
            state.is_over = true;
            let many = state.many.take();
            let fetched = many.iter().flat_map(|many| &many.fetched).filter_map(|element| element.flight);
            let flights: Vec<_> = state.flight.iter().copied().chain(fetched).collect();
            (std::mem::take(&mut state.waiters), flights)
        };
        for flight in flights {
            self.cache.bind(py).get().fail(self.speaker, flight);
        }
        waiters
    }
}

#[pymethods]
impl CacheFlight {
    /// Whether its replies are here, or it has failed.
    fn done(&self) -> bool {
        self.lock().is_over
    }

    /// It has failed, and with it all that wait for it.
    fn set_exception(&self, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = error.py();
        for waiter in self.end(py) {
            let waiter = waiter.bind(py);
            if !waiter.call_method0(intern!(py, "done"))?.is_truthy()? {
                waiter.call_method1(intern!(py, "set_exception"), (error,))?;
            }
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.cache)?;
        let Ok(state) = self.state.try_lock() else { return Ok(()) };
        state.waiters.iter().try_for_each(|waiter| visit.call(waiter.seen()))
    }

    fn __clear__(&self) {
        drop(std::mem::take(&mut self.lock().waiters));
    }
}

/// One of the replies of a flight has come.
pub(super) fn answer(
    exchange: &Bound<'_, Exchange>,
    flight: &Bound<'_, CacheFlight>,
    reply: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = flight.py();
    let this = flight.get();
    let is_complete = {
        let mut state = this.lock();
        state.replies += 1;
        let is_error = is_exception(reply.as_ptr());
        match state.replies {
            1 => state.refused = is_error,
            2 => state.value = Some(Held::of(reply)),
            number => {
                let expiry = reply.extract().map_or(Expiry::Gone, Expiry::from_pttl);
                state.refused |= is_error;
                if let Some(element) = state.many.as_mut().and_then(|many| many.fetched.get_mut(number - 3)) {
                    element.expiry = expiry;
                }
            }
        }
        if state.is_over {
            return Ok(());
        }
        let expected = 2 + state.many.as_ref().map_or(1, |many| many.fetched.len());
        state.replies == expected
    };
    if !is_complete {
        return Ok(());
    }
    if this.lock().many.is_some() {
        return answer_many(exchange, flight, reply);
    }
    let (value, id, refused) = {
        let mut state = this.lock();
        (state.value.take(), state.flight.take(), state.refused)
    };
    let value = value.map_or_else(|| py.None().into_bound(py), |value| value.into_bound(py));
    let cache = this.cache.bind(py).get();
    if let Some(id) = id {
        if refused || is_exception(value.as_ptr()) {
            cache.fail(this.speaker, id);
        } else {
            let expiry = reply.extract().map_or(Expiry::Gone, Expiry::from_pttl);
            // The first waiter may change what it is given.
            cache.land(this.speaker, id, None, &copied(&value)?, expiry)?;
        }
    }
    give(exchange, this.end(py), &value, true)
}

/// Gives a reply to those that wait for it.
fn give(exchange: &Bound<'_, Exchange>, waiters: Vec<Held>, value: &Bound<'_, PyAny>, copies: bool) -> PyResult<()> {
    let only = waiters.len() == 1;
    for waiter in waiters {
        let own = if only || !copies { value.clone() } else { copied(value)? };
        if waiter::answer(waiter.as_ptr(), Held::taken(own)).is_ok() {
            exchange.try_borrow_mut()?.note_woken(waiter);
        }
    }
    Ok(())
}

fn answer_many(
    exchange: &Bound<'_, Exchange>,
    flight: &Bound<'_, CacheFlight>,
    last: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = flight.py();
    let this = flight.get();
    let cache = this.cache.bind(py).get();
    let (value, many, refused, ttl_ns) = {
        let mut state = this.lock();
        (state.value.take(), state.many.take(), state.refused || is_exception(last.as_ptr()), state.ttl_ns)
    };
    let (Some(value), Some(many)) = (value, many) else { return Ok(()) };
    let value = value.into_bound(py);
    let Ok(values) = value.cast::<PyList>() else {
        for id in many.fetched.iter().filter_map(|element| element.flight) {
            cache.fail(this.speaker, id);
        }
        return give(exchange, this.end(py), &value, false);
    };
    // Before the fetched ones land: a key may be among both.
    let same = cache.with(this.speaker, |machine| many.served.iter().all(|(_, id, _)| machine.is_same(*id)));
    for (element, value) in many.fetched.iter().zip(values) {
        let Some(id) = element.flight else { continue };
        if refused {
            cache.fail(this.speaker, id);
        } else {
            let variant = value.is_none().then_some(ABSENT);
            cache.land(this.speaker, id, variant, &value, element.expiry)?;
        }
    }
    if !many.served.is_empty() && same != Some(true) {
        // What was served from the cache has changed meanwhile: all of them are asked for at once.
        let waiters = this.end(py);
        let whole = fetch_many(exchange, &this.cache, many.keys, Vec::new(), waiters, ttl_ns, true)?;
        if let Some(waiters) = whole {
            let error = pyo3::exceptions::PyConnectionError::new_err("the connection ended while MGET was repeated");
            return give(exchange, waiters, error.value(py).as_any(), false);
        }
        return Ok(());
    }
    let all = PyList::new(py, (0..many.keys.len()).map(|_| py.None()))?;
    for (element, value) in many.fetched.iter().zip(values) {
        all.set_item(element.place, value)?;
    }
    for (place, _, value) in &many.served {
        all.set_item(*place, value.bind(py))?;
    }
    give(exchange, this.end(py), all.as_any(), false)
}

/// Packs commands one behind the other.
#[derive(Default)]
struct Packed(Vec<u8>);

impl Packed {
    fn add(&mut self, words: &[Word<'_>]) {
        let len = header_len(words.len()) + words.iter().map(Word::packed_len).sum::<usize>();
        let place = self.0.len();
        self.0.resize(place + len, 0);
        let mut writer = Writer::new(&mut self.0[place..], words.len());
        for word in words {
            writer.word(*word);
        }
    }
}

/// Sends MGET for the keys that are not served; gives the waiters back where there is no room or no connection.
fn fetch_many(
    exchange: &Bound<'_, Exchange>,
    cache: &Py<ClientCache>,
    keys: Vec<Vec<u8>>,
    served: Vec<(usize, EntryId, Held)>,
    waiters: Vec<Held>,
    ttl_ns: u64,
    is_repeated: bool,
) -> PyResult<Option<Vec<Held>>> {
    let py = exchange.py();
    let wanted: Vec<usize> = (0..keys.len()).filter(|place| !served.iter().any(|(known, ..)| known == place)).collect();
    let room = is_repeated || exchange.try_borrow()?.has_room_for(wanted.len() + 2);
    let speaker = exchange.try_borrow()?.speaker(py).map(|(_, speaker)| speaker);
    let (true, Some(speaker)) = (room, speaker) else { return Ok(Some(waiters)) };
    let mut fetched = Vec::with_capacity(wanted.len());
    let mut packed = Packed(CACHING.to_vec());
    let words: Vec<_> = [&b"MGET"[..]].into_iter().chain(wanted.iter().map(|place| keys[*place].as_slice())).collect();
    packed.add(&words.into_iter().map(Word::Bytes).collect::<Vec<_>>());
    for place in wanted {
        let flight = match cache.bind(py).get().begin(speaker, &keys[place], b"", ttl_ns, None) {
            Some(Begun::Leads(id)) => Some(id),
            _ => None,
        };
        packed.add(&[Word::Bytes(b"PTTL"), Word::Bytes(&keys[place])]);
        fetched.push(Element { place, flight, expiry: Expiry::Gone });
    }
    let count = 2 + fetched.len();
    let state = State {
        flight: None,
        many: Some(Many { keys, fetched, served }),
        waiters,
        value: None,
        replies: 0,
        refused: false,
        is_over: false,
        ttl_ns,
    };
    let flight = CacheFlight { cache: cache.clone_ref(py), speaker, state: Mutex::new(state) };
    let flight = Held::taken(Bound::new(py, flight)?.into_any());
    exchange.try_borrow_mut()?.append_flight(&flight, &PyBytes::new(py, &packed.0), count);
    exchange::ask_flush(exchange)?;
    Ok(None)
}

// --- calls ----------------------------------------------------------------------------------------------------------

/// A reply that a caller may change without changing what is kept.
pub(super) fn copied<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    if let Ok(list) = value.cast::<PyList>() {
        return Ok(PyList::new(py, list.iter().map(|part| copied(&part)).collect::<PyResult<Vec<_>>>()?)?.into_any());
    }
    if let Ok(dict) = value.cast::<PyDict>() {
        let copy = PyDict::new(py);
        for (key, value) in dict {
            copy.set_item(key, copied(&value)?)?;
        }
        return Ok(copy.into_any());
    }
    if let Ok(set) = value.cast::<PySet>() {
        return Ok(PySet::new(py, set.iter().collect::<Vec<_>>())?.into_any());
    }
    Ok(value.clone())
}

/// A command that may be answered by the cache.
pub(super) struct Question {
    cache: Py<ClientCache>,
    ttl_ns: u64,
    kind: Cacheable,
    /// The words behind the name.
    words: Vec<Vec<u8>>,
    /// The command and its words but for the key.
    variant: Vec<u8>,
    name: String,
}

/// What the cache has for a command.
pub(super) enum Answer<'py> {
    /// The reply.
    Reply(Bound<'py, PyAny>),
    /// Nothing, or not all of it.
    Ask(Question, Vec<Option<(EntryId, Held)>>),
}

/// The kept reply of a plain GET; `None` where there is more to do.
#[inline]
pub(super) fn hit<'py>(client: &Bound<'py, DirectCalls>, args: &Bound<'py, PyTuple>) -> Option<Bound<'py, PyAny>> {
    let py = client.py();
    let view = {
        let client = client.try_borrow().ok()?;
        let view = client.cache.as_ref()?;
        if client.foreign || client.connection.is_some() {
            return None;
        }
        let get = intern!(py, "GET");
        if args.len() != 2 || !args.get_item(0).is_ok_and(|name| name.is(get)) {
            return None;
        }
        let callbacks = client.response_callbacks.as_ref()?.bind(py);
        // It is a dict, whose class upper-cases names in Python.
        if callbacks.cast::<PyDict>().ok()?.get_item(get).ok()?.is_some() {
            return None;
        }
        view.bind(py).clone()
    };
    let view = view.get();
    let key = args.get_item(1).ok()?;
    let found = with_word(&key, |word| match word {
        Word::Bytes(key) if view.ttl_ns > 0 => view.cache.bind(py).get().look_up(key, b"", view.ttl_ns),
        _ => None,
    });
    found?.map(|(_, value)| value.into_bound(py))
}

/// A command is over, whatever became of it: what it wrote is forgotten.
pub(super) fn note_write(client: &Bound<'_, DirectCalls>, args: &Bound<'_, PyTuple>) {
    let py = client.py();
    let Ok(Some(view)) = client.try_borrow().map(|client| client.cache.as_ref().map(|view| view.bind(py).clone()))
    else {
        return;
    };
    crate::cache::note_write(view.get().cache.bind(py).get(), args);
}

/// Looks a command up; `None` where the cache has nothing to do with it.
pub(super) fn look_up<'py>(
    client: &Bound<'py, DirectCalls>,
    args: &Bound<'py, PyTuple>,
    exchange: Option<&Bound<'py, Exchange>>,
) -> PyResult<Option<Answer<'py>>> {
    let py = client.py();
    let Some(view) = client.try_borrow()?.cache.as_ref().map(|view| view.bind(py).clone()) else { return Ok(None) };
    let view = view.get();
    if view.ttl_ns == 0 {
        return Ok(None);
    }
    let Ok(first) = args.get_item(0) else { return Ok(None) };
    let Ok(name) = first.cast_exact::<PyString>() else { return Ok(None) };
    let name = name.to_str()?;
    let kind = cacheable(name, args.len());
    if kind == Cacheable::No || !args.iter_borrowed().skip(1).all(|word| with_word(&word, |_| ()).is_some()) {
        return Ok(None);
    }
    let words: Vec<_> = args.iter().skip(1).map(|word| bytes_of(&word)).collect::<PyResult<_>>()?;
    let mut variant = Vec::new();
    if name != "GET" {
        variant.extend_from_slice(name.as_bytes());
        for word in &words[1..] {
            variant.extend_from_slice(&word.len().to_le_bytes());
            variant.extend_from_slice(word);
        }
    }
    let cache = view.cache.clone_ref(py);
    let question = Question { cache, ttl_ns: view.ttl_ns, kind, words, variant, name: name.to_owned() };
    let cache = question.cache.bind(py).get();
    if kind == Cacheable::Elements {
        let speaker = exchange.and_then(|exchange| exchange.try_borrow().ok()?.speaker(py)).map(|(_, speaker)| speaker);
        let Some(speaker) = speaker.filter(|_| question.words.len() <= MAX_ELEMENTS) else { return Ok(None) };
        let Some(found) = cache.look_up_all(speaker, &question.words, [b"", ABSENT], question.ttl_ns) else {
            return Ok(None);
        };
        if found.iter().all(Option::is_some) {
            let values = found.into_iter().flatten().map(|(_, value)| value.into_bound(py));
            return Ok(Some(Answer::Reply(PyList::new(py, values.collect::<Vec<_>>())?.into_any())));
        }
        return Ok(Some(Answer::Ask(question, found)));
    }
    if let Some((_, value)) = cache.look_up(&question.words[0], &question.variant, question.ttl_ns) {
        return Ok(Some(Answer::Reply(copied(&value.into_bound(py))?)));
    }
    Ok(Some(Answer::Ask(question, Vec::new())))
}

/// Sends what the cache does not have, or joins a flight; returns the waiter. `None`: nothing was done.
pub(super) fn ask(
    exchange: &Bound<'_, Exchange>,
    question: Question,
    found: Vec<Option<(EntryId, Held)>>,
) -> PyResult<Option<Held>> {
    let py = exchange.py();
    let Some((_, speaker)) = exchange.try_borrow()?.speaker(py) else { return Ok(None) };
    let cache = question.cache.bind(py).get();
    if cache.with(speaker, |machine| machine.is_up()) != Some(true)
        || !exchange.try_borrow()?.has_room_for(SLOTS_OF_ONE)
    {
        return Ok(None);
    }
    let waiter = waiter::new(py, exchange.try_borrow()?.face()?)?;
    if question.kind == Cacheable::Elements {
        let served = found.into_iter().enumerate();
        let served = served.filter_map(|(place, known)| known.map(|(id, value)| (place, id, value))).collect();
        let refused = fetch_many(
            exchange,
            &question.cache,
            question.words,
            served,
            vec![waiter.clone_ref()],
            question.ttl_ns,
            false,
        )?;
        return Ok(refused.is_none().then_some(waiter));
    }
    let state = State {
        flight: None,
        many: None,
        waiters: vec![waiter.clone_ref()],
        value: None,
        replies: 0,
        refused: false,
        is_over: false,
        ttl_ns: question.ttl_ns,
    };
    let flight = CacheFlight { cache: question.cache.clone_ref(py), speaker, state: Mutex::new(state) };
    let flight = Bound::new(py, flight)?;
    let key = &question.words[0];
    let joinable = Joinable(Held::of(flight.as_any()));
    match cache.begin(speaker, key, &question.variant, question.ttl_ns, Some(joinable)) {
        None => return Ok(None),
        Some(Begun::Joins(other)) => {
            let other = other.0.bind(py);
            other.cast::<CacheFlight>()?.get().lock().waiters.push(waiter.clone_ref());
        }
        Some(Begun::Leads(id)) => {
            flight.get().lock().flight = Some(id);
            let mut packed = Packed(CACHING.to_vec());
            let words = [question.name.as_bytes()].into_iter().chain(question.words.iter().map(Vec::as_slice));
            packed.add(&words.map(Word::Bytes).collect::<Vec<_>>());
            packed.add(&[Word::Bytes(b"PTTL"), Word::Bytes(key)]);
            let slot = Held::of(flight.as_any());
            exchange.try_borrow_mut()?.append_flight(&slot, &PyBytes::new(py, &packed.0), SLOTS_OF_ONE);
            let alone = exchange.try_borrow()?.is_alone_with(SLOTS_OF_ONE);
            if alone { exchange::flush(exchange)? } else { exchange::ask_flush(exchange)? }
        }
    }
    Ok(Some(waiter))
}
