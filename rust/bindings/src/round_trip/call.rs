//! `Call`: one command as an awaitable, which a task drives as it drives a coroutine.
//!
//! It is *new* until it is first stepped, *waiting* for its reply on the fast path, or *handed over* to a coroutine of the client's,
//! and then *over*. What it holds of the guard it gives back exactly once: with the reply, with the coroutine that it hands over
//! to, or when it is abandoned, in whatever way that happens.
#![expect(unsafe_code, reason = "a class of slots: PyO3 has no am_send, and one is made and forgotten per command")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use agent_memory_core::protocol::commands::{Writer, header_len};
use pyo3::exceptions::{PyException, PyRuntimeError, PyRuntimeWarning, PyStopIteration, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PyList, PyString, PyTuple, PyType};

use super::bases::{DirectCalls, DirectCommand, Entrance};
use super::cached;
use super::exchange::{self, Exchange};
use super::objects::{self, FreeList, Held, clear, is_exception, known, raise, raise_instance, runtime_error};
use super::waiter::{self, State as Wait, boolean, none};
use crate::clock;
use crate::protocol::commands::with_word;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    New,
    Waiting,
    HandedOver,
    Over,
}

#[repr(C)]
pub(super) struct Call {
    base: ffi::PyObject,
    client: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    /// The option `keys`, which says nothing that is asked for here.
    keys: *mut ffi::PyObject,
    /// The other options, a dict.
    options: *mut ffi::PyObject,
    command: *mut ffi::PyObject,
    transport: *mut ffi::PyObject,
    /// The waiter, or the coroutine that it was handed over to.
    inner: *mut ffi::PyObject,
    /// The callable that receives an error of this call, and the command's name for it; null without one.
    note: *mut ffi::PyObject,
    note_name: *mut ffi::PyObject,
    references: *mut ffi::PyObject,
    permit: u64,
    state: State,
    running: c_char,
    /// Whether the fast path is not to be tried.
    leaves: bool,
}

static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static FREE: FreeList<512> = FreeList::new();

/// A new one, which has done nothing yet.
#[inline]
pub(super) fn new<'py>(
    client: &Bound<'py, DirectCalls>,
    args: Bound<'py, PyTuple>,
    keys: Option<Bound<'py, PyAny>>,
    options: Option<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = client.py();
    let class = CLASS.get(py).expect("made with the module").as_ptr().cast();
    // SAFETY: all fields are set before it is tracked.
    unsafe {
        let object = FREE.new_object(class);
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        let call = object.cast::<Call>();
        (*call).client = client.clone().into_ptr();
        (*call).args = args.into_ptr();
        (*call).keys = keys.map_or(ptr::null_mut(), Bound::into_ptr);
        (*call).options = options.filter(|options| !options.is_empty()).map_or(ptr::null_mut(), Bound::into_ptr);
        (*call).command = ptr::null_mut();
        (*call).transport = ptr::null_mut();
        (*call).inner = ptr::null_mut();
        (*call).note = ptr::null_mut();
        (*call).note_name = ptr::null_mut();
        (*call).references = ptr::null_mut();
        (*call).permit = 0;
        (*call).state = State::New;
        (*call).running = 0;
        (*call).leaves = false;
        ffi::PyObject_GC_Track(object.cast());
        Ok(Bound::from_owned_ptr(py, object))
    }
}

/// It does not try the fast path.
pub(super) fn leave_straight(made: &Bound<'_, PyAny>) {
    // SAFETY: it is a call.
    unsafe { (*made.as_ptr().cast::<Call>()).leaves = true };
}

/// The same; `note(name, error)` gets its error, too.
#[inline]
pub(super) fn new_noted<'py>(
    client: &Bound<'py, DirectCalls>,
    args: Bound<'py, PyTuple>,
    note: Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    let made = new(client, args, None, None)?;
    // SAFETY: it is a call, new, whose fields own what they hold.
    unsafe {
        let call = made.as_ptr().cast::<Call>();
        (*call).note = note.into_ptr();
        (*call).note_name = name.clone().into_ptr();
    }
    Ok(made)
}

/// What a step has led to.
enum Step<'py> {
    /// The driving task waits for this.
    Wait(Bound<'py, PyAny>),
    Reply(Bound<'py, PyAny>),
}

/// A call while the thread is attached and the stepping caller holds a reference.
#[derive(Clone, Copy)]
struct This<'py> {
    token: Python<'py>,
    call: *mut Call,
}

impl<'py> This<'py> {
    unsafe fn of(object: *mut ffi::PyObject) -> Self {
        // SAFETY: called from slots of the class, which are called while attached.
        Self { token: unsafe { Python::assume_attached() }, call: object.cast() }
    }

    #[inline]
    fn fields<'a>(self) -> &'a mut Call {
        // SAFETY: it is alive and of the class, and this thread is the one that is attached. The borrow is over before Python runs.
        unsafe { &mut *self.call }
    }

    /// What a field holds.
    #[inline]
    fn held(self, field: *mut ffi::PyObject) -> Option<Bound<'py, PyAny>> {
        // SAFETY: fields hold live objects or null.
        unsafe { Bound::from_borrowed_ptr_or_opt(self.token, field) }
    }

    fn client(self) -> PyResult<Bound<'py, DirectCalls>> {
        let client = self.held(self.fields().client).ok_or_else(|| runtime_error("the call has been cleared"))?;
        // SAFETY: it was one when it was put there.
        Ok(unsafe { client.cast_into_unchecked() })
    }

    fn args(self) -> PyResult<Bound<'py, PyTuple>> {
        let args = self.held(self.fields().args).ok_or_else(|| runtime_error("the call has been cleared"))?;
        // SAFETY: as above.
        Ok(unsafe { args.cast_into_unchecked() })
    }

    fn command(self) -> PyResult<Bound<'py, DirectCommand>> {
        let command = self.held(self.fields().command).ok_or_else(|| runtime_error("the call has been cleared"))?;
        // SAFETY: as above.
        Ok(unsafe { command.cast_into_unchecked() })
    }

    /// The options as they were given.
    fn options(self) -> PyResult<Bound<'py, PyDict>> {
        let options = match self.held(self.fields().options) {
            Some(options) => options.cast_into::<PyDict>()?.copy()?,
            None => PyDict::new(self.token),
        };
        if let Some(keys) = self.held(self.fields().keys) {
            options.set_item(intern!(self.token, "keys"), keys)?;
        }
        Ok(options)
    }

    /// The guard gets back what it was asked for, with nothing said about the server.
    fn give_up(self) {
        if self.fields().state != State::Waiting {
            return;
        }
        self.fields().state = State::Over;
        let (command, inner) = (self.held(self.fields().command), self.held(self.fields().inner));
        if let Some(command) = command {
            // SAFETY: it was one when it was put there.
            let command: Bound<'_, DirectCommand> = unsafe { command.cast_into_unchecked() };
            if let Some(operation) = &command.get().operation {
                operation.get().give_up(self.fields().permit);
            }
        }
        if let Some(inner) = inner {
            waiter::abandon(inner.as_ptr());
        }
        self.note_write();
    }

    fn forget(self) {
        self.fields().state = State::Over;
        // SAFETY: the fields are the call's own.
        unsafe {
            clear(&raw mut (*self.call).inner);
            clear(&raw mut (*self.call).transport);
            clear(&raw mut (*self.call).command);
        }
    }

    /// Lets a coroutine go on, and steps it.
    fn hand_over(self, coroutine: Bound<'py, PyAny>) -> PyResult<Step<'py>> {
        self.fields().state = State::HandedOver;
        let before = std::mem::replace(&mut self.fields().inner, coroutine.into_ptr());
        // SAFETY: the field's old value, if any.
        drop(unsafe { Held::from_owned(self.token, before) });
        self.step_inner(none_of(self.token).as_ptr())
    }

    fn step_inner(self, argument: *mut ffi::PyObject) -> PyResult<Step<'py>> {
        let inner = self.held(self.fields().inner).ok_or_else(|| runtime_error("the call has been cleared"))?;
        let mut reply = ptr::null_mut();
        // SAFETY: all are alive; the reply is a new reference.
        let sent = unsafe { ffi::PyIter_Send(inner.as_ptr(), argument, &raw mut reply) };
        // SAFETY: as above; with an error the reply is null.
        let reply = unsafe { Bound::from_owned_ptr_or_err(self.token, reply) }?;
        match sent {
            ffi::PySendResult::PYGEN_NEXT => Ok(Step::Wait(reply)),
            _ => Ok(Step::Reply(reply)),
        }
    }

    // --- the first step -----------------------------------------------------------------------------------------------

    fn start(self) -> PyResult<Step<'py>> {
        if !self.fields().leaves {
            if self.client()?.try_borrow()?.cache.is_some()
                && let Some(step) = self.start_cached()?
            {
                return Ok(step);
            }
            if let Some(waiter) = self.start_straight()? {
                return Ok(Step::Wait(waiter));
            }
        }
        let coroutine =
            self.client()?.call_method1(intern!(self.token, "_execute_ordinarily"), (self.args()?, self.options()?))?;
        self.hand_over(coroutine)
    }

    /// Asks the cache, and where that has nothing, asks the server for it.
    fn start_cached(self) -> PyResult<Option<Step<'py>>> {
        let py = self.token;
        let (client, args) = (self.client()?, self.args()?);
        if self.fields().options.is_null()
            && let Some(reply) = cached::hit(&client, &args)
        {
            return Ok(Some(Step::Reply(reply)));
        }
        let (commands, transports, is_slow) = {
            let client = client.try_borrow()?;
            if client.foreign || client.connection.is_some() || !self.has_plain_options()? {
                return Ok(None);
            }
            let (Some(commands), Some(transports)) = (&client.commands, &client.transports) else { return Ok(None) };
            (commands.bind(py).clone(), transports.bind(py).clone(), client.takes_slow_path)
        };
        let Ok(first) = args.get_item(0) else { return Ok(None) };
        let Some(command) = item_of(&commands, &first)? else { return Ok(None) };
        let Ok(command) = command.cast_into::<DirectCommand>() else { return Ok(None) };
        let Some(transport) = item_of(&transports, &running_loop(py)?)? else { return Ok(None) };
        let Ok(transport) = transport.cast_into::<Entrance>() else { return Ok(None) };
        let connection = transport.try_borrow()?.current.as_ref().map(|current| current.bind(py).clone());
        let (question, found) = match cached::look_up(&client, &args, connection.as_ref())? {
            None => return Ok(None),
            Some(cached::Answer::Reply(reply)) => {
                self.fields().transport = transport.into_any().into_ptr();
                return self.shape(&command, reply).map(Some);
            }
            Some(cached::Answer::Ask(question, found)) => (question, found),
        };
        let Some(connection) = connection.filter(|_| !is_slow) else { return Ok(None) };
        let operation = command.get().operation.as_ref();
        let permit = match operation {
            None => clock::now_ns(),
            Some(operation) => match operation.get().admit_straight() {
                Some(permit) => permit,
                None => return Ok(None),
            },
        };
        let asked = cached::ask(&connection, question, found);
        let Ok(Some(waiter)) = asked else {
            if let Some(operation) = operation {
                operation.get().give_up(permit);
            }
            return asked.map(|_| None);
        };
        let fields = self.fields();
        fields.permit = permit;
        fields.inner = waiter.bind(py).into_ptr();
        fields.command = command.into_any().into_ptr();
        fields.transport = transport.into_any().into_ptr();
        fields.state = State::Waiting;
        Ok(Some(Step::Wait(waiter.into_bound(py))))
    }

    /// It is over, in whatever way: the cache forgets what it wrote.
    fn note_write(self) {
        let client = self.held(self.fields().client);
        let args = self.held(self.fields().args);
        if let (Some(client), Some(args)) = (client, args) {
            // SAFETY: they were such when they were put there.
            let (client, args) = unsafe { (client.cast_into_unchecked(), args.cast_into_unchecked()) };
            cached::note_write(&client, &args);
        }
    }

    /// Sends it, where the fast path is free.
    fn start_straight(self) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = self.token;
        let (client, args) = (self.client()?, self.args()?);
        let (commands, transports) = {
            let client = client.try_borrow()?;
            if client.foreign || client.takes_slow_path || client.connection.is_some() || !self.has_plain_options()? {
                return Ok(None);
            }
            let (Some(commands), Some(transports)) = (&client.commands, &client.transports) else { return Ok(None) };
            (commands.bind(py).clone(), transports.bind(py).clone())
        };
        let Ok(first) = args.get_item(0) else { return Ok(None) };
        let Some(command) = item_of(&commands, &first)? else { return Ok(None) };
        let Ok(command) = command.cast_into::<DirectCommand>() else { return Ok(None) };
        let Some(transport) = item_of(&transports, &running_loop(py)?)? else { return Ok(None) };
        let Ok(transport) = transport.cast_into::<Entrance>() else { return Ok(None) };
        let Some(connection) = transport.try_borrow()?.current.as_ref().map(|current| current.bind(py).clone()) else {
            return Ok(None);
        };
        let Some((waiter, alone, asks)) = self.append(&command, &args, &connection)? else { return Ok(None) };
        let fields = self.fields();
        fields.inner = waiter.bind(py).into_ptr();
        fields.command = command.into_any().into_ptr();
        fields.transport = transport.into_any().into_ptr();
        fields.state = State::Waiting;
        let asked = match (alone, asks) {
            (true, _) => exchange::flush(&connection),
            (false, true) => exchange::ask_flush(&connection),
            (false, false) => Ok(()),
        };
        if let Err(error) = asked {
            self.give_up();
            return Err(error);
        }
        Ok(Some(waiter.into_bound(py)))
    }

    /// Whether the options are for the callback at most.
    fn has_plain_options(self) -> PyResult<bool> {
        let Some(options) = self.held(self.fields().options) else { return Ok(true) };
        let options = options.cast_into::<PyDict>()?;
        let py = self.token;
        Ok(!options.contains(intern!(py, "NEVER_DECODE"))? && !options.contains(intern!(py, "EMPTY_RESPONSE"))?)
    }

    /// Admits it and puts it into the output; `None` where that has to be asked for. No Python runs here.
    fn append(
        self,
        command: &Bound<'py, DirectCommand>,
        args: &Bound<'py, PyTuple>,
        connection: &Bound<'py, Exchange>,
    ) -> PyResult<Option<(Held, bool, bool)>> {
        let command = command.get();
        if args.len() > command.shared_upto {
            return Ok(None);
        }
        let mut connection = connection.try_borrow_mut()?;
        if !connection.accepts() {
            return Ok(None);
        }
        let head = &command.head;
        let skipped = usize::from(!head.is_empty());
        let count = args.len() - skipped + head.len();
        let mut len = header_len(count) + head.iter().map(|word| packed_len(word)).sum::<usize>();
        for word in args.iter_borrowed().skip(skipped) {
            match with_word(&word, |word| word.packed_len()) {
                Some(word_len) => len += word_len,
                None => return Ok(None),
            }
        }
        let permit = match &command.operation {
            None => clock::now_ns(),
            Some(operation) => match operation.get().admit_straight() {
                Some(permit) => permit,
                None => return Ok(None),
            },
        };
        let waiter = connection.append_waiter(self.token, len, |buffer| {
            let mut writer = Writer::new(buffer, count);
            for word in head {
                writer.word(agent_memory_core::protocol::commands::Word::Bytes(word));
            }
            for word in args.iter_borrowed().skip(skipped) {
                with_word(&word, |word| writer.word(word));
            }
        });
        match waiter {
            Ok(waiter) => {
                self.fields().permit = permit;
                Ok(Some((waiter, connection.is_alone(), !connection.will_flush())))
            }
            Err(error) => {
                if let Some(operation) = &command.operation {
                    operation.get().give_up(permit);
                }
                Err(error)
            }
        }
    }

    // --- the reply ----------------------------------------------------------------------------------------------------

    fn resume(self) -> PyResult<Step<'py>> {
        let py = self.token;
        let waiter = self.held(self.fields().inner).ok_or_else(|| runtime_error("the call has been cleared"))?;
        match waiter::state(waiter.as_ptr()) {
            Wait::Pending => return Err(PyRuntimeError::new_err("await wasn't used with future")),
            Wait::Cancelled => {
                self.give_up();
                waiter::raise_end(py, waiter.as_ptr());
                return Err(PyErr::fetch(py));
            }
            Wait::Done | Wait::Failed => {}
        }
        let reply = waiter::take_value(waiter.as_ptr()).ok_or_else(|| runtime_error("the reply was taken"))?;
        if is_exception(reply.as_ptr()) {
            return self.recover(&reply.into_bound(py));
        }
        let reply = reply.into_bound(py);
        let command = self.command()?;
        self.fields().state = State::Over;
        if let Some(operation) = &command.get().operation {
            operation.get().succeed(py, self.fields().permit);
        }
        self.shape(&command, reply)
    }

    /// It ended with an error: what the client makes of it.
    fn recover(self, error: &Bound<'py, PyAny>) -> PyResult<Step<'py>> {
        let fields = self.fields();
        let (command, transport) = (self.command()?, self.held(fields.transport));
        let made = (|| {
            let facts = (transport, &command.get().bound, self.args()?, self.options()?, fields.permit, error);
            self.client()?.call_method1(intern!(self.token, "_recover_direct"), facts)
        })();
        match made {
            Ok(coroutine) => self.hand_over(coroutine),
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    /// The reply as redis-py would show it.
    fn shape(self, command: &Bound<'py, DirectCommand>, reply: Bound<'py, PyAny>) -> PyResult<Step<'py>> {
        let py = self.token;
        let client = self.client()?;
        let (asked, callbacks) = {
            let client = client.try_borrow()?;
            (client.asked_protocol, client.response_callbacks.as_ref().map(|callbacks| callbacks.bind(py).clone()))
        };
        let transport = self.held(self.fields().transport);
        let protocol = match &transport {
            Some(transport) => transport.cast::<Entrance>()?.try_borrow()?.protocol,
            None => asked,
        };
        let callbacks = callbacks.and_then(|callbacks| callbacks.cast_into::<PyDict>().ok());
        let (Some(callbacks), true) = (callbacks, protocol == asked) else {
            let facts = (transport, &command.get().bound, reply, self.options()?);
            return self.hand_over(client.call_method1(intern!(py, "_shape_direct"), facts)?);
        };
        let Some(callback) = item_of(&callbacks, command.get().name.bind(py).as_any())? else {
            return Ok(Step::Reply(reply));
        };
        let shaped = if self.fields().options.is_null() {
            match objects::call(&callback, [reply.as_ptr()]) {
                Ok(shaped) => shaped,
                Err(error) => {
                    client.call_method1(intern!(py, "_note_applied"), (error.value(py),))?;
                    return Err(error);
                }
            }
        } else {
            client.call_method1(intern!(py, "_call_back"), (callback, reply, self.options()?))?
        };
        if is_plain(&shaped) || !shaped.hasattr(intern!(py, "__await__"))? {
            return Ok(Step::Reply(shaped));
        }
        self.hand_over(client.call_method1(intern!(py, "_await"), (shaped,))?)
    }

    // --- being driven -------------------------------------------------------------------------------------------------

    fn step(self, argument: *mut ffi::PyObject) -> PyResult<Step<'py>> {
        if self.fields().running != 0 {
            return Err(PyValueError::new_err("coroutine already executing"));
        }
        let state = self.fields().state;
        if state == State::Over {
            return Err(runtime_error("cannot reuse already awaited coroutine"));
        }
        // SAFETY: None lives for ever.
        if state == State::New && argument != unsafe { ffi::Py_None() } {
            return Err(PyTypeError::new_err("can't send non-None value to a just-started coroutine"));
        }
        self.fields().running = 1;
        let step = match state {
            State::New => {
                self.fields().state = State::Over;
                self.start()
            }
            State::Waiting => self.resume(),
            State::HandedOver | State::Over => self.step_inner(argument),
        };
        self.fields().running = 0;
        if !matches!(step, Ok(Step::Wait(_))) && self.fields().state != State::Waiting {
            self.note_write();
            self.forget();
        }
        if let Err(error) = &step {
            self.note(error)?;
        }
        step
    }

    /// Reports an error to the callable that was registered by `noting`.
    fn note(self, error: &PyErr) -> PyResult<()> {
        let (note, name) = (self.held(self.fields().note), self.held(self.fields().note_name));
        if let (Some(note), Some(name)) = (note, name)
            && error.is_instance_of::<PyException>(self.token)
        {
            note.call1((name, error.value(self.token)))?;
        }
        Ok(())
    }
}

/// The running event loop.
fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    match exchange::waking_loop() {
        event_loop if event_loop.is_null() => objects::call(known(py).get_running_loop.bind(py), []),
        // SAFETY: its tasks are being woken, by this thread.
        event_loop => Ok(unsafe { Bound::from_borrowed_ptr(py, event_loop) }),
    }
}

fn none_of(py: Python<'_>) -> Bound<'_, PyAny> {
    py.None().into_bound(py)
}

fn packed_len(word: &[u8]) -> usize {
    agent_memory_core::protocol::commands::Word::Bytes(word).packed_len()
}

/// What a dict holds, whatever its class makes of missing keys.
#[inline]
fn item_of<'py>(dict: &Bound<'py, PyDict>, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    dict.get_item(key)
}

/// Whether it is of a class whose instances are no awaitables, as most replies are.
#[inline]
fn is_plain(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyList>()
        || object.is_exact_instance_of::<PyDict>()
        || object.is_none()
}

unsafe extern "C" fn am_send(
    this: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
    out: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: called while attached; `out` is where the reply goes.
    unsafe {
        let this = This::of(this);
        match this.step(argument) {
            Ok(Step::Wait(waiter)) => {
                *out = waiter.into_ptr();
                ffi::PySendResult::PYGEN_NEXT
            }
            Ok(Step::Reply(reply)) => {
                *out = reply.into_ptr();
                ffi::PySendResult::PYGEN_RETURN
            }
            Err(error) => {
                *out = raise(this.token, error);
                ffi::PySendResult::PYGEN_ERROR
            }
        }
    }
}

/// The same as an iterator: the reply is what `StopIteration` carries.
fn as_iterator(py: Python<'_>, step: PyResult<Step<'_>>) -> *mut ffi::PyObject {
    match step {
        Ok(Step::Wait(waiter)) => waiter.into_ptr(),
        Ok(Step::Reply(reply)) => match py.get_type::<PyStopIteration>().call1((reply,)) {
            Ok(reply) => raise(py, PyErr::from_value(reply)),
            Err(error) => raise(py, error),
        },
        Err(error) => raise(py, error),
    }
}

unsafe extern "C" fn iter_next(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let this = unsafe { This::of(this) };
    // SAFETY: None lives for ever.
    as_iterator(this.token, this.step(unsafe { ffi::Py_None() }))
}

unsafe extern "C" fn send(this: *mut ffi::PyObject, argument: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let this = unsafe { This::of(this) };
    as_iterator(this.token, this.step(argument))
}

unsafe extern "C" fn throw(
    this: *mut ffi::PyObject,
    arguments: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: called while attached, with so many arguments.
    let (this, arguments) =
        unsafe { (This::of(this), std::slice::from_raw_parts(arguments, usize::try_from(count).unwrap_or(0))) };
    let Some(error) = arguments.first() else {
        return raise(this.token, PyTypeError::new_err("throw expected at least 1 argument, got 0"));
    };
    if this.fields().running != 0 {
        return raise(this.token, PyValueError::new_err("coroutine already executing"));
    }
    match this.fields().state {
        State::HandedOver => {
            let step = throw_inner(this, arguments);
            if !matches!(step, Ok(Step::Wait(_))) {
                this.note_write();
                this.forget();
            }
            as_iterator(this.token, step)
        }
        State::Over => raise(this.token, runtime_error("cannot reuse already awaited coroutine")),
        State::New | State::Waiting => {
            this.give_up();
            this.forget();
            // SAFETY: the arguments are alive.
            unsafe { raise_given(this.token, *error, arguments.get(1).copied(), arguments.get(2).copied()) }
        }
    }
}

fn throw_inner<'py>(this: This<'py>, arguments: &[*mut ffi::PyObject]) -> PyResult<Step<'py>> {
    let inner = this.held(this.fields().inner).ok_or_else(|| runtime_error("the call has been cleared"))?;
    // SAFETY: the arguments are alive.
    let given: Vec<_> =
        arguments.iter().map(|argument| unsafe { Bound::from_borrowed_ptr(this.token, *argument) }).collect();
    this.fields().running = 1;
    let step = inner.call_method1(intern!(this.token, "throw"), PyTuple::new(this.token, given)?);
    this.fields().running = 0;
    match step {
        Ok(waiter) => Ok(Step::Wait(waiter)),
        Err(error) if error.is_instance_of::<PyStopIteration>(this.token) => {
            Ok(Step::Reply(error.value(this.token).getattr(intern!(this.token, "value"))?))
        }
        Err(error) => Err(error),
    }
}

/// Raises what was given to `throw`.
unsafe fn raise_given(
    py: Python<'_>,
    error: *mut ffi::PyObject,
    value: Option<*mut ffi::PyObject>,
    traceback: Option<*mut ffi::PyObject>,
) -> *mut ffi::PyObject {
    // SAFETY: all are alive.
    unsafe {
        let value = value.filter(|value| *value != ffi::Py_None());
        if is_exception(error) {
            raise_instance(error);
        } else if ffi::PyExceptionClass_Check(error) != 0 {
            ffi::PyErr_SetObject(error, value.unwrap_or(ptr::null_mut()));
        } else {
            let text = "exceptions must be classes or instances deriving from BaseException";
            return raise(py, PyTypeError::new_err(text));
        }
        if let Some(traceback) = traceback.filter(|traceback| *traceback != ffi::Py_None()) {
            let error = PyErr::fetch(py);
            let traceback = Bound::from_borrowed_ptr(py, traceback);
            let _ = error.value(py).setattr(intern!(py, "__traceback__"), traceback);
            return raise(py, error);
        }
    }
    ptr::null_mut()
}

unsafe extern "C" fn close(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let this = unsafe { This::of(this) };
    if this.fields().running != 0 {
        return raise(this.token, PyValueError::new_err("coroutine already executing"));
    }
    if this.fields().state == State::HandedOver
        && let Some(inner) = this.held(this.fields().inner)
        && let Err(error) = inner.call_method0(intern!(this.token, "close"))
    {
        return raise(this.token, error);
    }
    if this.fields().state == State::HandedOver {
        this.note_write();
    }
    this.give_up();
    this.forget();
    none()
}

/// `noting(note, name)`: `note(name, error)` also receives an error of this call. Returns the call.
unsafe extern "C" fn noting(
    this: *mut ffi::PyObject,
    arguments: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: called while attached, with so many arguments.
    unsafe {
        let call = This::of(this);
        if count != 2 || !call.fields().note.is_null() {
            return raise(call.token, PyTypeError::new_err("noting() takes what is notified and a name, once"));
        }
        ffi::Py_INCREF(*arguments);
        ffi::Py_INCREF(*arguments.add(1));
        call.fields().note = *arguments;
        call.fields().note_name = *arguments.add(1);
        ffi::Py_INCREF(this);
    }
    this
}

unsafe extern "C" fn am_await(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let call = unsafe { This::of(this) };
    if matches!(call.fields().state, State::Waiting | State::HandedOver) {
        return raise(call.token, runtime_error("coroutine is being awaited already"));
    }
    // SAFETY: it is alive.
    unsafe { ffi::Py_INCREF(this) };
    this
}

// --- what is asked of a coroutine --------------------------------------------------------------------------------------

unsafe extern "C" fn get_nothing(_: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    none()
}

unsafe extern "C" fn get_running(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    boolean(unsafe { This::of(this) }.fields().running != 0)
}

unsafe extern "C" fn get_suspended(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let this = unsafe { This::of(this) };
    boolean(this.fields().running == 0 && matches!(this.fields().state, State::Waiting | State::HandedOver))
}

unsafe extern "C" fn get_await(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let this = unsafe { This::of(this) };
    this.held(this.fields().inner).map_or_else(none, Bound::into_ptr)
}

unsafe extern "C" fn get_name(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let this = unsafe { This::of(this) };
    PyString::intern(this.token, "execute_command").into_any().into_ptr()
}

unsafe extern "C" fn get_qualname(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let this = unsafe { This::of(this) };
    PyString::new(this.token, &qualname(this)).into_any().into_ptr()
}

fn qualname(this: This<'_>) -> String {
    let class = this.client().and_then(|client| client.get_type().name()).map(|name| name.to_string());
    format!("{}.execute_command", class.as_deref().unwrap_or("Redis"))
}

/// Claims to be a coroutine, as mocks do: code that checks for one asks whether it may treat the object as one.
unsafe extern "C" fn get_class(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let this = unsafe { This::of(this) };
    known(this.token).coroutine_type.bind(this.token).clone().into_ptr()
}

unsafe extern "C" fn repr(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let this = unsafe { This::of(this) };
    PyString::new(this.token, &format!("<coroutine object {} at {:p}>", qualname(this), this.call))
        .into_any()
        .into_ptr()
}

// --- the class --------------------------------------------------------------------------------------------------------

unsafe extern "C" fn traverse(this: *mut ffi::PyObject, visit: ffi::visitproc, argument: *mut c_void) -> c_int {
    // SAFETY: as the collector asks for.
    unsafe {
        let call = this.cast::<Call>();
        let fields = [
            ffi::Py_TYPE(this).cast(),
            (*call).client,
            (*call).args,
            (*call).keys,
            (*call).options,
            (*call).command,
            (*call).transport,
            (*call).inner,
            (*call).note,
            (*call).note_name,
        ];
        for field in fields {
            let stop = objects::visit(field, visit, argument);
            if stop != 0 {
                return stop;
            }
        }
    }
    0
}

unsafe extern "C" fn clear_fields(this: *mut ffi::PyObject) -> c_int {
    // SAFETY: called while attached; each field is empty before the code of its owner may run.
    unsafe {
        let call = This::of(this);
        call.give_up();
        if call.fields().state == State::HandedOver {
            call.note_write();
        }
        if call.fields().state != State::New {
            call.fields().state = State::Over;
        }
        clear(&raw mut (*call.call).inner);
        clear(&raw mut (*call.call).transport);
        clear(&raw mut (*call.call).command);
        clear(&raw mut (*call.call).client);
        clear(&raw mut (*call.call).args);
        clear(&raw mut (*call.call).keys);
        clear(&raw mut (*call.call).options);
        clear(&raw mut (*call.call).note);
        clear(&raw mut (*call.call).note_name);
    }
    0
}

/// The warning that Python gives for a coroutine that was never awaited.
fn warn_unawaited(this: This<'_>) {
    let text = std::ffi::CString::new(format!("coroutine '{}' was never awaited", qualname(this)));
    let text: &CStr = text.as_deref().unwrap_or(c"a command was never awaited");
    let pending = PyErr::take(this.token);
    if let Err(error) = PyErr::warn(this.token, &this.token.get_type::<PyRuntimeWarning>(), text, 1) {
        error.write_unraisable(this.token, None);
    }
    if let Some(pending) = pending {
        pending.restore(this.token);
    }
}

unsafe extern "C" fn dealloc(this: *mut ffi::PyObject) {
    // SAFETY: no reference to it is left.
    unsafe {
        ffi::PyObject_GC_UnTrack(this.cast());
        let call = This::of(this);
        if !call.fields().references.is_null() {
            ffi::PyObject_ClearWeakRefs(this);
        }
        if call.fields().state == State::New {
            warn_unawaited(call);
        }
        clear_fields(this);
        FREE.free(this);
    }
}

/// The class, made once.
pub(super) fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    CLASS.get_or_try_init(py, || make(py).map(Bound::unbind)).map(|class| class.bind(py).clone())
}

fn make(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let method = |name: &'static CStr, meth: ffi::PyMethodDefPointer, flags: c_int| ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: meth,
        ml_flags: flags,
        ml_doc: ptr::null(),
    };
    let methods = vec![
        method(c"send", ffi::PyMethodDefPointer { PyCFunction: send }, ffi::METH_O),
        method(c"throw", ffi::PyMethodDefPointer { PyCFunctionFast: throw }, ffi::METH_FASTCALL),
        method(c"noting", ffi::PyMethodDefPointer { PyCFunctionFast: noting }, ffi::METH_FASTCALL),
        method(c"close", ffi::PyMethodDefPointer { PyCFunction: close }, ffi::METH_NOARGS),
        ffi::PyMethodDef::zeroed(),
    ];
    let members = vec![
        ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: ffi::Py_ssize_t::try_from(std::mem::offset_of!(Call, references)).unwrap_or(0),
            flags: ffi::Py_READONLY,
            doc: ptr::null(),
        },
        // SAFETY: the end of the members is all zero.
        unsafe { std::mem::zeroed() },
    ];
    let getter = |name: &'static CStr, get: ffi::getter| ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        ..ffi::PyGetSetDef::default()
    };
    let getters = vec![
        getter(c"cr_running", get_running),
        getter(c"cr_suspended", get_suspended),
        getter(c"cr_await", get_await),
        getter(c"cr_frame", get_nothing),
        getter(c"cr_code", get_nothing),
        getter(c"cr_origin", get_nothing),
        getter(c"__name__", get_name),
        getter(c"__qualname__", get_qualname),
        getter(c"__class__", get_class),
        ffi::PyGetSetDef::default(),
    ];
    let slot = |slot: c_int, pointer: *mut c_void| ffi::PyType_Slot { slot, pfunc: pointer };
    let slots = vec![
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear_fields as *mut c_void),
        slot(ffi::Py_tp_repr, repr as *mut c_void),
        slot(ffi::Py_tp_iternext, iter_next as *mut c_void),
        slot(ffi::Py_am_await, am_await as *mut c_void),
        slot(ffi::Py_am_send, am_send as *mut c_void),
        slot(ffi::Py_tp_methods, methods.leak().as_mut_ptr().cast()),
        slot(ffi::Py_tp_members, members.leak().as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, getters.leak().as_mut_ptr().cast()),
    ];
    objects::make_class(py, c"agent_memory._core.Call", size_of::<Call>(), slots, ffi::Py_TPFLAGS_HAVE_GC)
}
