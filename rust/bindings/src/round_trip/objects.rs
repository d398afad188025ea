//! What the raw types need of the C API, under safe names where that is possible.
#![expect(unsafe_code, reason = "types of CPython's own form: PyO3 has neither am_send nor freelists for them")]

use std::ffi::{CStr, c_int};
use std::mem::ManuallyDrop;
use std::ptr;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType};

/// A strong reference that is released at once. These types are only dropped while the thread is attached to Python. `PyO3`'s own
/// reference would be released later if it is dropped in a slot function.
#[derive(Debug)]
pub(crate) struct Held(ManuallyDrop<Py<PyAny>>);

impl Held {
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> Self {
        Self::taken(object.clone())
    }

    #[inline]
    pub(crate) fn taken(object: Bound<'_, PyAny>) -> Self {
        Self(ManuallyDrop::new(object.unbind()))
    }

    /// Takes over a reference; `None` for null.
    #[inline]
    pub(crate) unsafe fn from_owned(py: Python<'_>, object: *mut ffi::PyObject) -> Option<Self> {
        // SAFETY: the caller gives up a reference, or null.
        unsafe { Bound::from_owned_ptr_or_opt(py, object) }.map(Self::taken)
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }

    #[inline]
    pub(crate) fn into_ptr(self) -> *mut ffi::PyObject {
        let object = self.0.as_ptr();
        std::mem::forget(self);
        object
    }

    #[inline]
    pub(crate) fn bind<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.0.bind(py).clone()
    }

    #[inline]
    pub(crate) fn into_bound(self, py: Python<'_>) -> Bound<'_, PyAny> {
        // SAFETY: the reference is owned, and handed over.
        unsafe { Bound::from_owned_ptr(py, self.into_ptr()) }
    }

    #[inline]
    pub(crate) fn clone_ref(&self) -> Self {
        // SAFETY: a thread that holds one is attached.
        Self(ManuallyDrop::new(self.0.clone_ref(unsafe { Python::assume_attached() })))
    }

    /// For the collector.
    pub(crate) fn seen(&self) -> &Py<PyAny> {
        &self.0
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the reference is owned, and is not used again.
        unsafe { ffi::Py_DECREF(self.0.as_ptr()) };
    }
}

/// The names of what a task asks of what it waits for.
pub(super) struct Names {
    pub(super) blocking: Py<PyString>,
    pub(super) get_loop: Py<PyString>,
    pub(super) add_done_callback: Py<PyString>,
}

/// What is looked up once.
pub(super) struct Known {
    pub(super) cancelled_error: Py<PyAny>,
    pub(super) invalid_state: Py<PyAny>,
    pub(super) get_running_loop: Py<PyAny>,
    pub(super) coroutine_type: Py<PyAny>,
    pub(super) time_module: Py<PyAny>,
    /// The names by which a task asks a waiter, interned.
    pub(super) names: Names,
    #[cfg(Py_LIMITED_API)]
    pub(super) method_type: Py<PyAny>,
    #[cfg(any(Py_3_12, not(Py_LIMITED_API)))]
    context_name: Py<PyTuple>,
}

static KNOWN: PyOnceLock<Known> = PyOnceLock::new();

/// Looks everything up; called when the module is made.
pub(super) fn prepare(py: Python<'_>) -> PyResult<()> {
    KNOWN.get_or_try_init(py, || {
        let asyncio = py.import("asyncio")?;
        Ok::<_, PyErr>(Known {
            cancelled_error: asyncio.getattr("CancelledError")?.unbind(),
            invalid_state: asyncio.getattr("InvalidStateError")?.unbind(),
            get_running_loop: asyncio.getattr("get_running_loop")?.unbind(),
            coroutine_type: py.import("types")?.getattr("CoroutineType")?.unbind(),
            time_module: py.import("time")?.into_any().unbind(),
            names: Names {
                blocking: PyString::intern(py, "_asyncio_future_blocking").unbind(),
                get_loop: PyString::intern(py, "get_loop").unbind(),
                add_done_callback: PyString::intern(py, "add_done_callback").unbind(),
            },
            #[cfg(Py_LIMITED_API)]
            method_type: py.import("types")?.getattr("MethodType")?.unbind(),
            #[cfg(any(Py_3_12, not(Py_LIMITED_API)))]
            context_name: PyTuple::new(py, [intern!(py, "context")])?.unbind(),
        })
    })?;
    Ok(())
}

#[inline]
pub(super) fn known(py: Python<'_>) -> &Known {
    KNOWN.get(py).expect("looked up when the module was made")
}

/// `callable(*arguments)`.
#[inline]
pub(super) fn call<'py, const N: usize>(
    callable: &Bound<'py, PyAny>,
    arguments: [*mut ffi::PyObject; N],
) -> PyResult<Bound<'py, PyAny>> {
    let py = callable.py();
    #[cfg(any(Py_3_12, not(Py_LIMITED_API)))]
    // SAFETY: all are alive, and so many.
    unsafe {
        let reply = ffi::PyObject_Vectorcall(callable.as_ptr(), arguments.as_ptr(), N, ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, reply)
    }
    #[cfg(not(any(Py_3_12, not(Py_LIMITED_API))))]
    callable.call1(tuple_of(py, &arguments)?)
}

/// `arguments[0].name(*arguments[1:])`.
#[inline]
pub(super) fn call_method<'py, const N: usize>(
    py: Python<'py>,
    name: &Bound<'py, PyString>,
    arguments: [*mut ffi::PyObject; N],
) -> PyResult<Bound<'py, PyAny>> {
    #[cfg(any(Py_3_12, not(Py_LIMITED_API)))]
    // SAFETY: all are alive, and so many.
    unsafe {
        let reply = ffi::PyObject_VectorcallMethod(name.as_ptr(), arguments.as_ptr(), N, ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, reply)
    }
    #[cfg(not(any(Py_3_12, not(Py_LIMITED_API))))]
    {
        let [object, rest @ ..] = &arguments[..] else { return Err(runtime_error("no object")) };
        // SAFETY: it is alive.
        unsafe { Bound::from_borrowed_ptr(py, *object) }.call_method1(name, tuple_of(py, rest)?)
    }
}

/// Whether a context variable has a value, and not None.
#[inline]
pub(super) fn is_set(variable: &Py<PyAny>, py: Python<'_>) -> PyResult<bool> {
    #[cfg(not(Py_LIMITED_API))]
    {
        let mut value = ptr::null_mut();
        // SAFETY: it is a context variable: the maker of the face says so, and CPython looks.
        let failed = unsafe { ffi::PyContextVar_Get(variable.as_ptr(), ffi::Py_None(), &raw mut value) } != 0;
        if failed {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: a new reference.
        Ok(unsafe { Bound::from_owned_ptr_or_opt(py, value) }.is_some_and(|value| !value.is_none()))
    }
    #[cfg(Py_LIMITED_API)]
    variable.bind(py).call_method1(intern!(py, "get"), (py.None(),)).map(|value| !value.is_none())
}

#[cfg(not(any(Py_3_12, not(Py_LIMITED_API))))]
fn tuple_of<'py>(py: Python<'py>, objects: &[*mut ffi::PyObject]) -> PyResult<Bound<'py, PyTuple>> {
    // SAFETY: all are alive.
    PyTuple::new(py, objects.iter().map(|object| unsafe { Bound::from_borrowed_ptr(py, *object) }))
}

/// `call_soon(callback, *arguments, context=context)`.
pub(super) fn call_soon(
    call_soon: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    argument: Option<&Bound<'_, PyAny>>,
    context: &Bound<'_, PyAny>,
) -> PyResult<()> {
    #[cfg(any(Py_3_12, not(Py_LIMITED_API)))]
    {
        let py = callback.py();
        let (count, arguments) = match argument {
            Some(argument) => (2, [callback.as_ptr(), argument.as_ptr(), context.as_ptr()]),
            None => (1, [callback.as_ptr(), context.as_ptr(), ptr::null_mut()]),
        };
        let names = known(py).context_name.as_ptr();
        // SAFETY: all are alive; behind the positional ones stands the one that is named.
        let handle = unsafe {
            let handle = ffi::PyObject_Vectorcall(call_soon.as_ptr(), arguments.as_ptr(), count, names);
            Bound::from_owned_ptr_or_err(py, handle)
        };
        handle.map(drop)
    }
    #[cfg(not(any(Py_3_12, not(Py_LIMITED_API))))]
    {
        let py = callback.py();
        let named = pyo3::types::PyDict::new(py);
        named.set_item(intern!(py, "context"), context)?;
        match argument {
            Some(argument) => call_soon.call((callback, argument), Some(&named)),
            None => call_soon.call((callback,), Some(&named)),
        }
        .map(drop)
    }
}

/// `callback(argument)` within `context`; `None` where the context cannot be entered.
#[cfg(not(Py_LIMITED_API))]
#[inline]
pub(super) fn call_within<'py>(
    context: &Bound<'py, PyAny>,
    callback: &Bound<'py, PyAny>,
    argument: &Bound<'py, PyAny>,
) -> Option<PyResult<Bound<'py, PyAny>>> {
    // SAFETY: the context is one: add_done_callback has looked.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        drop(PyErr::take(callback.py()));
        return None;
    }
    let reply = call(callback, [argument.as_ptr()]);
    // SAFETY: it was entered by this thread, and no error is set: it was taken with the reply.
    unsafe { ffi::PyContext_Exit(context.as_ptr()) };
    Some(reply)
}

#[cfg(Py_LIMITED_API)]
pub(super) fn call_within<'py>(
    context: &Bound<'py, PyAny>,
    callback: &Bound<'py, PyAny>,
    argument: &Bound<'py, PyAny>,
) -> Option<PyResult<Bound<'py, PyAny>>> {
    let py = callback.py();
    Some(call(&context.getattr(intern!(py, "run")).ok()?, [callback.as_ptr(), argument.as_ptr()]))
}

/// The current context of the calling thread.
pub(super) fn current_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    #[cfg(not(Py_LIMITED_API))]
    // SAFETY: it returns a new reference, or null with an exception set.
    unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent())
    }
    #[cfg(Py_LIMITED_API)]
    py.import("contextvars")?.call_method0(intern!(py, "copy_context"))
}

/// Whether it is an exception.
#[inline]
pub(super) fn is_exception(object: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller holds it.
    unsafe { ffi::PyExceptionInstance_Check(object) != 0 }
}

/// Raises `error` and returns null.
pub(super) fn raise(py: Python<'_>, error: PyErr) -> *mut ffi::PyObject {
    error.restore(py);
    ptr::null_mut()
}

/// Raises an exception instance.
pub(super) unsafe fn raise_instance(error: *mut ffi::PyObject) {
    // SAFETY: it is an exception and alive.
    unsafe { ffi::PyErr_SetObject(ffi::Py_TYPE(error).cast(), error) };
}

pub(super) fn runtime_error(text: &'static str) -> PyErr {
    PyRuntimeError::new_err(text)
}

/// Gives back what a field holds.
#[inline]
pub(super) unsafe fn clear(field: *mut *mut ffi::PyObject) {
    // SAFETY: the field owns what it points to, if anything; it is empty before its owner's code may run.
    unsafe {
        let object = *field;
        if !object.is_null() {
            *field = ptr::null_mut();
            ffi::Py_DECREF(object);
        }
    }
}

/// Takes what a field holds.
#[inline]
pub(super) unsafe fn take(field: *mut *mut ffi::PyObject) -> Option<Held> {
    // SAFETY: as above; the calling thread is attached.
    unsafe { Held::from_owned(Python::assume_attached(), std::mem::replace(&mut *field, ptr::null_mut())) }
}

pub(super) unsafe fn visit(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: as the collector asks for.
    if object.is_null() { 0 } else { unsafe { visit(object, argument) } }
}

/// Memory of objects that have ended, for the next ones. Without the GIL there is none.
pub(super) struct FreeList<const N: usize> {
    #[cfg(not(Py_GIL_DISABLED))]
    kept: std::cell::UnsafeCell<([*mut ffi::PyObject; N], usize)>,
}

// SAFETY: only attached threads use it, and one thread is attached at a time.
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl<const N: usize> Sync for FreeList<N> {}

impl<const N: usize> FreeList<N> {
    pub(super) const fn new() -> Self {
        Self {
            #[cfg(not(Py_GIL_DISABLED))]
            kept: std::cell::UnsafeCell::new(([ptr::null_mut(); N], 0)),
        }
    }

    /// A new object of the class, its fields unset, not yet tracked; null with an exception set.
    #[inline]
    pub(super) unsafe fn new_object(&self, class: *mut ffi::PyTypeObject) -> *mut ffi::PyObject {
        #[cfg(not(Py_GIL_DISABLED))]
        // SAFETY: attached, and no Python runs within.
        unsafe {
            let (kept, count) = &mut *self.kept.get();
            if *count > 0 {
                *count -= 1;
                return ffi::PyObject_Init(kept[*count], class);
            }
        }
        // SAFETY: a class with the collector's flag.
        unsafe { ffi::PyObject_GC_New::<ffi::PyObject>(class) }
    }

    /// The object has ended: it is untracked, and its fields are empty.
    #[inline]
    pub(super) unsafe fn free(&self, object: *mut ffi::PyObject) {
        // SAFETY: no reference to it is left.
        unsafe {
            let class = ffi::Py_TYPE(object);
            #[cfg(not(Py_GIL_DISABLED))]
            {
                let (kept, count) = &mut *self.kept.get();
                if *count < N {
                    kept[*count] = object;
                    *count += 1;
                    ffi::Py_DECREF(class.cast());
                    return;
                }
            }
            ffi::PyObject_GC_Del(object.cast());
            ffi::Py_DECREF(class.cast());
        }
    }
}

/// Makes a class of slots.
pub(super) fn make_class<'py>(
    py: Python<'py>,
    name: &'static CStr,
    size: usize,
    mut slots: Vec<ffi::PyType_Slot>,
    flags: std::ffi::c_ulong,
) -> PyResult<Bound<'py, PyType>> {
    slots.push(ffi::PyType_Slot::default());
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: c_int::try_from(size).map_err(|_| runtime_error("too large"))?,
        itemsize: 0,
        flags: u32::try_from(ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION | flags)
            .map_err(|_| runtime_error("flags"))?,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the slots end with an empty one, and what they point to lives for ever.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))?.cast_into().map_err(Into::into) }
}
