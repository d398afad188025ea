//! `Waiter`: what a task waits for. As a future to its task, but all waiters of one read are woken by one callback of the loop.
//!
//! A class of slots: one is made and forgotten per command. It belongs to one loop, whose thread is the only one that uses it.
#![expect(unsafe_code, reason = "a class of slots")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple, PyType};

use super::exchange::LoopFace;
use super::objects::{self, FreeList, Held, call_soon, clear, known, raise, raise_instance};

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Pending,
    /// The reply is there.
    Done,
    /// The waiting task has given up: an orphan.
    Cancelled,
    /// The connection, or a deadline, has failed it.
    Failed,
}

#[repr(C)]
pub(super) struct Waiter {
    base: ffi::PyObject,
    /// A `LoopFace`.
    face: *mut ffi::PyObject,
    callback: *mut ffi::PyObject,
    context: *mut ffi::PyObject,
    /// A list of further callbacks with their contexts.
    more: *mut ffi::PyObject,
    /// The reply, or the exception.
    value: *mut ffi::PyObject,
    message: *mut ffi::PyObject,
    state: State,
    blocking: c_char,
}

static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static FREE: FreeList<512> = FreeList::new();

/// A new waiter, to be yielded to the task's loop.
#[inline]
pub(super) fn new(py: Python<'_>, face: &Py<LoopFace>) -> PyResult<Held> {
    let class = CLASS.get(py).expect("made with the module").as_ptr().cast();
    // SAFETY: all fields are set before it is tracked.
    unsafe {
        let object = FREE.new_object(class);
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        ffi::Py_INCREF(face.as_ptr());
        let waiter = object.cast::<Waiter>();
        (*waiter).face = face.as_ptr();
        (*waiter).callback = ptr::null_mut();
        (*waiter).context = ptr::null_mut();
        (*waiter).more = ptr::null_mut();
        (*waiter).value = ptr::null_mut();
        (*waiter).message = ptr::null_mut();
        (*waiter).state = State::Pending;
        (*waiter).blocking = 1;
        ffi::PyObject_GC_Track(object.cast());
        Ok(Held::taken(Bound::from_owned_ptr(py, object)))
    }
}

/// Whether it is a waiter.
#[inline]
pub(super) fn is_waiter(py: Python<'_>, object: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller holds it. The class has no subclasses.
    unsafe { ffi::Py_TYPE(object).cast() == CLASS.get(py).expect("made with the module").as_ptr() }
}

#[inline]
fn of<'a>(object: *mut ffi::PyObject) -> &'a mut Waiter {
    // SAFETY: only called with waiters, by the thread that is attached; the borrow is over before Python runs.
    unsafe { &mut *object.cast::<Waiter>() }
}

#[inline]
pub(super) fn state(object: *mut ffi::PyObject) -> State {
    of(object).state
}

/// Its reply has come. `Ok` if a task has to be woken; `Err` returns the reply of an abandoned waiter.
#[inline]
pub(super) fn answer(object: *mut ffi::PyObject, reply: Held) -> Result<(), Held> {
    let waiter = of(object);
    if waiter.state != State::Pending {
        return Err(reply);
    }
    waiter.value = reply.into_ptr();
    waiter.state = State::Done;
    Ok(())
}

/// The reply, or the exception.
#[inline]
pub(super) fn take_value(object: *mut ffi::PyObject) -> Option<Held> {
    // SAFETY: the field is the waiter's own.
    unsafe { objects::take(&raw mut of(object).value) }
}

/// The task no longer waits; no callback is called.
pub(super) fn abandon(object: *mut ffi::PyObject) {
    let waiter = of(object);
    if waiter.state == State::Pending {
        waiter.state = State::Cancelled;
    }
    let waiter = ptr::from_mut(waiter);
    // SAFETY: each field is empty before the code of its owner may run.
    unsafe {
        clear(&raw mut (*waiter).callback);
        clear(&raw mut (*waiter).context);
        clear(&raw mut (*waiter).more);
    }
}

/// The first callback and its context, to be called now.
#[inline]
pub(super) fn take_callback(object: *mut ffi::PyObject) -> Option<(Held, Held)> {
    let waiter = ptr::from_mut(of(object));
    // SAFETY: as above.
    unsafe {
        let callback = objects::take(&raw mut (*waiter).callback);
        let context = objects::take(&raw mut (*waiter).context);
        Some((callback?, context?))
    }
}

/// Lets the loop call its callbacks, one by one, as futures do.
pub(super) fn schedule(py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<()> {
    // SAFETY: the caller holds it.
    let this = unsafe { Bound::from_borrowed_ptr(py, object) };
    let face = face_of(py, object);
    let first = take_callback(object);
    // SAFETY: as above.
    let more = unsafe { objects::take(&raw mut of(object).more) };
    let soon = face.get().call_soon.bind(py);
    if let Some((callback, context)) = first {
        call_soon(soon, &callback.bind(py), Some(&this), &context.bind(py))?;
    }
    if let Some(more) = more {
        for pair in more.bind(py).cast::<PyList>()? {
            let (callback, context): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair.extract()?;
            call_soon(soon, &callback, Some(&this), &context)?;
        }
    }
    Ok(())
}

/// Whether it has callbacks beyond the first.
#[inline]
pub(super) fn has_more(object: *mut ffi::PyObject) -> bool {
    !of(object).more.is_null()
}

fn face_of(py: Python<'_>, object: *mut ffi::PyObject) -> Bound<'_, LoopFace> {
    // SAFETY: the field holds one until the waiter ends.
    unsafe { Bound::from_borrowed_ptr(py, of(object).face).cast_into_unchecked() }
}

// --- what its task asks -----------------------------------------------------------------------------------------------

unsafe extern "C" fn get_loop(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let py = unsafe { Python::assume_attached() };
    face_of(py, this).get().event_loop.bind(py).clone().into_ptr()
}

unsafe extern "C" fn give_itself(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the caller holds it.
    unsafe { ffi::Py_INCREF(this) };
    this
}

unsafe extern "C" fn give_none(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    none()
}

struct Definition(ffi::PyMethodDef);

// SAFETY: it is never changed.
unsafe impl Sync for Definition {}

static GET_LOOP: Definition = Definition(plain(c"get_loop", give_itself, ffi::METH_NOARGS));
static RESULT: Definition = Definition(plain(c"result", give_none, ffi::METH_NOARGS));
static ADD_DONE_CALLBACK: Definition = Definition(keywords(c"add_done_callback", add_done_callback));
/// What `result` is of a waiter that is done.
static DONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// A function with a definition that lives for ever.
fn function_of<'py>(
    py: Python<'py>,
    definition: &'static Definition,
    this: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: as said; what it is bound to is alive, or null.
    unsafe {
        let definition = ptr::from_ref(&definition.0).cast_mut();
        Bound::from_owned_ptr_or_err(py, ffi::PyCFunction_NewEx(definition, this, ptr::null_mut()))
    }
}

/// What `get_loop` is of all waiters of a loop.
pub(super) fn loop_giver<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    function_of(event_loop.py(), &GET_LOOP, event_loop.as_ptr())
}

/// What a task asks for on its way is answered without a look at the class.
unsafe extern "C" fn get_attribute(this: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached; names that are not the interned ones go the ordinary way.
    unsafe {
        let py = Python::assume_attached();
        let names = &known(py).names;
        if name == names.blocking.as_ptr() {
            return boolean(of(this).blocking != 0);
        }
        if name == names.get_loop.as_ptr() {
            return face_of(py, this).get().get_loop.clone_ref(py).into_ptr();
        }
        if name == names.add_done_callback.as_ptr() {
            let method = ptr::from_ref(&ADD_DONE_CALLBACK.0).cast_mut();
            return ffi::PyCFunction_NewEx(method, this, ptr::null_mut());
        }
        ffi::PyObject_GenericGetAttr(this, name)
    }
}

/// The same by a name in C, as a task asks for `result` when it is woken.
unsafe extern "C" fn get_attribute_by_text(this: *mut ffi::PyObject, name: *mut c_char) -> *mut ffi::PyObject {
    // SAFETY: called while attached, with a text that ends.
    unsafe {
        let py = Python::assume_attached();
        if matches!(state(this), State::Done | State::Failed) && CStr::from_ptr(name) == c"result" {
            match DONE.get_or_try_init(py, || function_of(py, &RESULT, ptr::null_mut()).map(Bound::unbind)) {
                Ok(done) => return done.clone_ref(py).into_ptr(),
                Err(error) => return raise(py, error),
            }
        }
        let name = ffi::PyUnicode_FromString(name);
        if name.is_null() {
            return ptr::null_mut();
        }
        let found = ffi::PyObject_GenericGetAttr(this, name);
        ffi::Py_DECREF(name);
        found
    }
}

unsafe extern "C" fn set_attribute(
    this: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: called while attached, with a value, or null to delete.
    unsafe {
        let is_blocking = name == known(Python::assume_attached()).names.blocking.as_ptr();
        if is_blocking && (value == ffi::Py_False() || value == ffi::Py_True()) {
            of(this).blocking = c_char::from(value == ffi::Py_True());
            return 0;
        }
        ffi::PyObject_GenericSetAttr(this, name, value)
    }
}

unsafe extern "C" fn loop_getter(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let py = unsafe { Python::assume_attached() };
    face_of(py, this).get().event_loop.bind(py).clone().into_ptr()
}

unsafe extern "C" fn add_done_callback(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called while attached, with an array of the arguments and a tuple of the names of the last of them.
    unsafe {
        let py = Python::assume_attached();
        let by_name = if names.is_null() { 0 } else { ffi::PyTuple_Size(names) };
        if count != 1 || by_name > 1 {
            return raise(py, PyTypeError::new_err("add_done_callback() takes one callback and context="));
        }
        let callback = *arguments;
        let given = if by_name == 1 { *arguments.add(1) } else { ffi::Py_None() };
        let context = if given == ffi::Py_None() {
            match objects::current_context(py) {
                Ok(context) => context.into_ptr(),
                Err(error) => return raise(py, error),
            }
        } else {
            ffi::Py_INCREF(given);
            given
        };
        let waiter = of(this);
        ffi::Py_INCREF(callback);
        if waiter.state == State::Pending && waiter.callback.is_null() {
            waiter.callback = callback;
            waiter.context = context;
        } else {
            let callback = Bound::from_owned_ptr(py, callback);
            let context = Bound::from_owned_ptr(py, context);
            if let Err(error) = add_another(py, this, &callback, &context) {
                return raise(py, error);
            }
        }
        none()
    }
}

fn add_another(
    py: Python<'_>,
    object: *mut ffi::PyObject,
    callback: &Bound<'_, PyAny>,
    context: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if state(object) != State::Pending {
        // SAFETY: the caller holds it.
        let this = unsafe { Bound::from_borrowed_ptr(py, object) };
        return call_soon(face_of(py, object).get().call_soon.bind(py), callback, Some(&this), context);
    }
    let pair = PyTuple::new(py, [callback, context])?;
    if of(object).more.is_null() {
        of(object).more = PyList::empty(py).into_ptr();
    }
    // SAFETY: it is a list of the waiter's own.
    unsafe { Bound::from_borrowed_ptr(py, of(object).more) }.cast::<PyList>()?.append(pair)
}

unsafe extern "C" fn remove_done_callback(
    this: *mut ffi::PyObject,
    callback: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the caller holds it.
    match remove(py, this, &unsafe { Bound::from_borrowed_ptr(py, callback) }) {
        Ok(count) => count.into_pyobject(py).map_or(ptr::null_mut(), Bound::into_ptr),
        Err(error) => raise(py, error),
    }
}

fn remove(py: Python<'_>, object: *mut ffi::PyObject, callback: &Bound<'_, PyAny>) -> PyResult<usize> {
    let mut removed = 0;
    if !of(object).callback.is_null() {
        // SAFETY: it is held by the waiter, and by this while it is compared.
        let first = unsafe { Bound::from_borrowed_ptr(py, of(object).callback) };
        if first.eq(callback)? && of(object).callback == first.as_ptr() {
            drop(take_callback(object));
            removed += 1;
        }
    }
    if has_more(object) {
        // SAFETY: it is a list of the waiter's own, held by this.
        let more = unsafe { Bound::from_borrowed_ptr(py, of(object).more) }.cast_into::<PyList>()?;
        for pair in more.iter().collect::<Vec<_>>() {
            if pair.get_item(0)?.eq(callback)? {
                more.call_method1("remove", (pair,))?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

unsafe extern "C" fn cancel(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called while attached, as above.
    unsafe {
        let py = Python::assume_attached();
        let waiter = of(this);
        if waiter.state != State::Pending {
            return boolean(false);
        }
        waiter.state = State::Cancelled;
        let by_name = if names.is_null() { 0 } else { ffi::PyTuple_Size(names) };
        if count + by_name > 0 {
            ffi::Py_INCREF(*arguments);
            waiter.message = *arguments;
        }
        match schedule(py, this) {
            Ok(()) => boolean(true),
            Err(error) => raise(py, error),
        }
    }
}

/// Raises what it failed or was cancelled with; tells whether it did.
pub(super) fn raise_end(py: Python<'_>, object: *mut ffi::PyObject) -> bool {
    let waiter = of(object);
    match waiter.state {
        State::Done => return false,
        // SAFETY: the value is held by the waiter.
        State::Failed if !waiter.value.is_null() => unsafe { raise_instance(waiter.value) },
        State::Cancelled => {
            // SAFETY: all are held.
            unsafe {
                let message = if waiter.message == ffi::Py_None() { ptr::null_mut() } else { waiter.message };
                ffi::PyErr_SetObject(known(py).cancelled_error.as_ptr(), message);
            }
        }
        State::Failed | State::Pending => {
            // SAFETY: as above.
            unsafe { ffi::PyErr_SetString(known(py).invalid_state.as_ptr(), c"Result is not set.".as_ptr()) }
        }
    }
    true
}

unsafe extern "C" fn result(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let py = unsafe { Python::assume_attached() };
    // Only the task asks, to learn whether to go on: the reply goes by the call. A failure goes that way, too.
    match state(this) {
        State::Failed => none(),
        _ if raise_end(py, this) => ptr::null_mut(),
        _ => none(),
    }
}

unsafe extern "C" fn exception(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let py = unsafe { Python::assume_attached() };
    match state(this) {
        State::Failed if !of(this).value.is_null() => {
            // SAFETY: held by the waiter.
            unsafe { Bound::from_borrowed_ptr(py, of(this).value) }.into_ptr()
        }
        _ if raise_end(py, this) => ptr::null_mut(),
        _ => none(),
    }
}

unsafe extern "C" fn set_exception(this: *mut ffi::PyObject, error: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    let py = unsafe { Python::assume_attached() };
    if !objects::is_exception(error) {
        return raise(py, PyTypeError::new_err("error must be an exception"));
    }
    let waiter = of(this);
    if waiter.state != State::Pending {
        // SAFETY: held for ever.
        unsafe { ffi::PyErr_SetString(known(py).invalid_state.as_ptr(), c"invalid state".as_ptr()) };
        return ptr::null_mut();
    }
    // SAFETY: the caller holds it.
    unsafe { ffi::Py_INCREF(error) };
    waiter.value = error;
    waiter.state = State::Failed;
    match schedule(py, this) {
        Ok(()) => none(),
        Err(error) => raise(py, error),
    }
}

unsafe extern "C" fn done(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    boolean(state(this) != State::Pending)
}

unsafe extern "C" fn cancelled(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    boolean(state(this) == State::Cancelled)
}

pub(super) fn none() -> *mut ffi::PyObject {
    // SAFETY: None lives for ever.
    unsafe {
        ffi::Py_INCREF(ffi::Py_None());
        ffi::Py_None()
    }
}

pub(super) fn boolean(value: bool) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    unsafe { ffi::PyBool_FromLong(value.into()) }
}

// --- the class --------------------------------------------------------------------------------------------------------

unsafe extern "C" fn traverse(this: *mut ffi::PyObject, visit: ffi::visitproc, argument: *mut c_void) -> c_int {
    // SAFETY: as the collector asks for.
    unsafe {
        let waiter = this.cast::<Waiter>();
        let fields = [
            ffi::Py_TYPE(this).cast(),
            (*waiter).face,
            (*waiter).callback,
            (*waiter).context,
            (*waiter).more,
            (*waiter).value,
            (*waiter).message,
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

/// What it holds but the loop, which it may be asked for as long as it lives.
unsafe extern "C" fn clear_fields(this: *mut ffi::PyObject) -> c_int {
    // SAFETY: each field is empty before the code of its owner may run.
    unsafe {
        let waiter = this.cast::<Waiter>();
        clear(&raw mut (*waiter).callback);
        clear(&raw mut (*waiter).context);
        clear(&raw mut (*waiter).more);
        clear(&raw mut (*waiter).value);
        clear(&raw mut (*waiter).message);
    }
    0
}

unsafe extern "C" fn dealloc(this: *mut ffi::PyObject) {
    // SAFETY: no reference to it is left.
    unsafe {
        ffi::PyObject_GC_UnTrack(this.cast());
        clear_fields(this);
        clear(&raw mut (*this.cast::<Waiter>()).face);
        FREE.free(this);
    }
}

/// The class, made once.
pub(super) fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    CLASS.get_or_try_init(py, || make(py).map(Bound::unbind)).map(|class| class.bind(py).clone())
}

const fn plain(name: &'static CStr, function: ffi::PyCFunction, flags: c_int) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: flags,
        ml_doc: ptr::null(),
    }
}

const fn keywords(name: &'static CStr, function: ffi::PyCFunctionFastWithKeywords) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: ptr::null(),
    }
}

fn make(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let methods = vec![
        plain(c"get_loop", get_loop, ffi::METH_NOARGS),
        keywords(c"add_done_callback", add_done_callback),
        plain(c"remove_done_callback", remove_done_callback, ffi::METH_O),
        keywords(c"cancel", cancel),
        plain(c"result", result, ffi::METH_NOARGS),
        plain(c"exception", exception, ffi::METH_NOARGS),
        plain(c"set_exception", set_exception, ffi::METH_O),
        plain(c"done", done, ffi::METH_NOARGS),
        plain(c"cancelled", cancelled, ffi::METH_NOARGS),
        ffi::PyMethodDef::zeroed(),
    ];
    let members = vec![
        ffi::PyMemberDef {
            name: c"_asyncio_future_blocking".as_ptr(),
            type_code: ffi::Py_T_BOOL,
            offset: ffi::Py_ssize_t::try_from(std::mem::offset_of!(Waiter, blocking)).unwrap_or(0),
            flags: 0,
            doc: ptr::null(),
        },
        // SAFETY: the end of the members is all zero.
        unsafe { std::mem::zeroed() },
    ];
    let getters = vec![
        ffi::PyGetSetDef { name: c"_loop".as_ptr(), get: Some(loop_getter), ..ffi::PyGetSetDef::default() },
        ffi::PyGetSetDef::default(),
    ];
    let slot = |slot: c_int, pointer: *mut c_void| ffi::PyType_Slot { slot, pfunc: pointer };
    let slots = vec![
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear_fields as *mut c_void),
        slot(ffi::Py_tp_getattro, get_attribute as *mut c_void),
        slot(ffi::Py_tp_getattr, get_attribute_by_text as *mut c_void),
        slot(ffi::Py_tp_setattro, set_attribute as *mut c_void),
        slot(ffi::Py_tp_methods, methods.leak().as_mut_ptr().cast()),
        slot(ffi::Py_tp_members, members.leak().as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, getters.leak().as_mut_ptr().cast()),
    ];
    objects::make_class(py, c"agent_memory._core.Waiter", size_of::<Waiter>(), slots, ffi::Py_TPFLAGS_HAVE_GC)
}
