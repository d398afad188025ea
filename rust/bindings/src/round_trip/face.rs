//! `Face`: a command method that goes the fast path without a frame of Python's.
//!
//! It stands in a class in the place of a Python function, its *ordinary* way, and shows that function's attributes: signature,
//! docstring and name are the same. A call goes the fast path if its arguments are plain (exact str, bytes, int, as many as the
//! shape takes) and if nothing was put in the place of what the ordinary way would come by: `Stock` looks at the class, which
//! costs a comparison as long as no class has changed, and at the client's own attributes. Everything else is the ordinary way.
#![expect(unsafe_code, reason = "a class of slots: PyO3 has no vectorcall")]

#[cfg(all(not(Py_LIMITED_API), not(Py_GIL_DISABLED)))]
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PyList, PyString, PyTuple, PyType};

use super::bases::{DirectCalls, DirectListed};
#[cfg(Py_LIMITED_API)]
use super::objects::known;
use super::objects::{self, clear, raise};
use super::routed::Routed;
use super::{blocking, call};

#[repr(C)]
struct Face {
    base: ffi::PyObject,
    vectorcall: *mut c_void,
    ordinary: *mut ffi::PyObject,
    facts: *mut Facts,
}

/// What the arguments have to be, so that the words of the command are the arguments.
enum Shape {
    /// So many, by position.
    Fixed { least: usize, most: usize },
    /// At least so many, by position.
    Rest { least: usize },
    /// The first is a list or tuple of words, or a word.
    Keys { ahead: usize },
}

/// An argument by name that adds words to the command.
struct Named {
    name: Py<PyString>,
    word: Py<PyString>,
    /// Whether its value, an int, follows; otherwise it is True.
    takes_value: bool,
}

struct Facts {
    word: Py<PyString>,
    asynchronous: bool,
    shape: Shape,
    /// What the last argument is where it is left out.
    fill: Option<Py<PyAny>>,
    named: Vec<Named>,
    /// The class that the ordinary way belongs to, and its name there: something else may stand there by now.
    base: Option<(Py<PyAny>, Py<PyString>)>,
    /// Of the class of the client that is called.
    stock: Stock,
    /// Where this is the method of a resilient client.
    listed: Option<Listed>,
    /// Where this is the method of a cluster's client or pipeline.
    routed: Option<Routed>,
}

struct Listed {
    /// Of the class of the drop-in behind it.
    stock: Stock,
    /// What errors and metrics call it.
    name: Py<PyString>,
    /// The context variable that says whether it is part of a call that was admitted already.
    current: Py<PyAny>,
}

/// What has to stand in a class: (the class, or None for the class that is asked about; a name; what stands there, or a predicate
/// of the class `OwnFunction` that says so).
pub(super) type Entry = (Option<Py<PyAny>>, Py<PyString>, Py<PyAny>);

pub(super) struct Stock {
    entries: Vec<Entry>,
    #[cfg(all(not(Py_LIMITED_API), not(Py_GIL_DISABLED)))]
    seen: Cell<[(usize, u32); SEEN]>,
}

/// So many classes are remembered for each command.
#[cfg(all(not(Py_LIMITED_API), not(Py_GIL_DISABLED)))]
const SEEN: usize = 2;

// SAFETY: it is used by the thread that is attached, and there is one at a time.
#[cfg(all(not(Py_LIMITED_API), not(Py_GIL_DISABLED)))]
unsafe impl Sync for Stock {}

impl Stock {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        Self {
            entries,
            #[cfg(all(not(Py_LIMITED_API), not(Py_GIL_DISABLED)))]
            seen: Cell::new([(0, 0); SEEN]),
        }
    }

    /// Whether all of it stands in the class of an object.
    #[inline]
    pub(super) fn is_met_by(&self, object: &Bound<'_, PyAny>) -> bool {
        #[cfg(all(not(Py_LIMITED_API), not(Py_GIL_DISABLED)))]
        {
            let class = object.get_type_ptr();
            // SAFETY: it is alive. CPython gives a class a tag, never used again, that says that neither it nor a class above it has
            // changed; zero where there is none.
            let tag = unsafe { (*class).tp_version_tag };
            if tag != 0 && self.seen.get().contains(&(class.addr(), tag)) {
                return true;
            }
        }
        self.look_at(object)
    }

    #[cold]
    fn look_at(&self, object: &Bound<'_, PyAny>) -> bool {
        let py = object.py();
        let class = object.get_type();
        let is_met = self.entries.iter().all(|(holder, name, wanted)| {
            let holder = holder.as_ref().map_or(class.as_any(), |holder| holder.bind(py));
            holder.getattr(name).is_ok_and(|found| found.is(wanted) || is_allowed(wanted.bind(py), &found))
        });
        #[cfg(all(not(Py_LIMITED_API), not(Py_GIL_DISABLED)))]
        if is_met {
            // SAFETY: as above.
            let tag = unsafe { (*class.as_type_ptr()).tp_version_tag };
            if tag != 0 {
                let [first, ..] = self.seen.get();
                self.seen.set([(class.as_type_ptr().addr(), tag), first]);
            }
        }
        is_met
    }
}

/// Whether a predicate, if it is one, says that this may stand there.
fn is_allowed(predicate: &Bound<'_, PyAny>, found: &Bound<'_, PyAny>) -> bool {
    predicate.hasattr(intern!(predicate.py(), "stands")).unwrap_or(false)
        && predicate.call1((found,)).and_then(|allowed| allowed.is_truthy()).unwrap_or(false)
}

/// What has to stand in the class of a client; `entries` are (class or None, name, object).
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct ClassWatch {
    pub(super) stock: Stock,
}

#[pymethods]
impl ClassWatch {
    #[new]
    fn new(entries: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self { stock: Stock::new(self::entries(entries)?) })
    }

    /// Whether all of it stands there.
    fn is_met_by(&self, client: &Bound<'_, PyAny>) -> bool {
        self.stock.is_met_by(client)
    }
}

/// Whether a client has methods of its own in the place of its class's.
#[inline]
fn has_own_methods(client: &Bound<'_, PyAny>) -> bool {
    let py = client.py();
    has_own(client, [intern!(py, "execute_command"), intern!(py, "parse_response")])
}

/// Whether a client itself has attributes of one of these names.
#[inline]
pub(super) fn has_own<const N: usize>(client: &Bound<'_, PyAny>, names: [&Bound<'_, PyString>; N]) -> bool {
    let Some(dict) = own_attributes(client) else { return false };
    // SAFETY: it is a dict. The names are str, which no other code looks at.
    names.iter().any(|name| unsafe { ffi::PyDict_Contains(dict.as_ptr(), name.as_ptr()) } != 0)
}

/// The attributes of the object itself, if it has a dict of them.
#[inline]
pub(super) fn own_attributes<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyDict>> {
    let py = object.py();
    // SAFETY: the object is alive, and has a dict or none.
    let dict =
        unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyObject_GenericGetDict(object.as_ptr(), ptr::null_mut())) };
    if dict.is_none() {
        drop(PyErr::take(py));
    }
    // SAFETY: CPython gives a dict.
    dict.map(|dict| unsafe { dict.cast_into_unchecked() })
}

static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();

// --- the words of a command ---------------------------------------------------------------------------------------------

/// Whether it is one word on the wire, and nothing that the ordinary way would change.
#[inline]
fn is_word(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyInt>()
}

/// Borrowed arguments of a call; all are alive until it is over.
#[derive(Clone, Copy)]
struct Given<'py, 'a> {
    token: Python<'py>,
    positional: &'a [*mut ffi::PyObject],
    /// The values of those by name, and a tuple of their names.
    values: &'a [*mut ffi::PyObject],
    names: *mut ffi::PyObject,
}

impl<'py> Given<'py, '_> {
    #[inline]
    fn at(self, place: usize) -> Option<Bound<'py, PyAny>> {
        // SAFETY: the caller holds the arguments.
        self.positional.get(place).map(|object| unsafe { Bound::from_borrowed_ptr(self.token, *object) })
    }
}

impl Facts {
    /// The command's name and its words; `None` where the ordinary way has to be asked.
    #[inline]
    fn words<'py>(&self, given: Given<'py, '_>) -> Option<Bound<'py, PyTuple>> {
        let count = given.positional.len();
        match self.shape {
            Shape::Fixed { least, most } if count >= least && count <= most => {}
            Shape::Rest { least } if count >= least => {}
            Shape::Keys { ahead } if count > ahead => return self.words_of_keys(given, ahead),
            _ => return None,
        }
        if !(0..count).filter_map(|place| given.at(place)).all(|word| is_word(&word)) {
            return None;
        }
        let mut behind: [Option<Bound<'py, PyAny>>; 2] = [None, None];
        if !given.values.is_empty() {
            behind = self.named_words(given)?;
        } else if let (Some(fill), Shape::Fixed { most, .. }) = (&self.fill, &self.shape)
            && count < *most
        {
            behind[0] = Some(fill.bind(given.token).clone());
        }
        let len = 1 + count + behind.iter().flatten().count();
        // SAFETY: a new tuple, each place of which is given a reference of its own.
        unsafe {
            let tuple = ffi::PyTuple_New(ffi::Py_ssize_t::try_from(len).ok()?);
            if tuple.is_null() {
                drop(PyErr::take(given.token));
                return None;
            }
            ffi::PyTuple_SetItem(tuple, 0, self.word.clone_ref(given.token).into_ptr());
            let mut place = 1;
            for word in given.positional {
                ffi::Py_INCREF(*word);
                ffi::PyTuple_SetItem(tuple, place, *word);
                place += 1;
            }
            for word in behind.into_iter().flatten() {
                ffi::PyTuple_SetItem(tuple, place, word.into_ptr());
                place += 1;
            }
            Some(Bound::from_owned_ptr(given.token, tuple).cast_into_unchecked())
        }
    }

    fn named_words<'py>(&self, given: Given<'py, '_>) -> Option<[Option<Bound<'py, PyAny>>; 2]> {
        let [value] = given.values else { return None };
        // SAFETY: the caller holds both; the tuple has as many names as there are values.
        let (value, name) = unsafe {
            let name = ffi::PyTuple_GetItem(given.names, 0);
            (Bound::from_borrowed_ptr(given.token, *value), name)
        };
        // Names of parameters are interned.
        let named = self.named.iter().find(|named| named.name.as_ptr() == name)?;
        let word = named.word.bind(given.token).clone().into_any();
        if named.takes_value {
            value.is_exact_instance_of::<PyInt>().then(|| [Some(word), Some(value)])
        } else {
            value.is(PyBool::new(given.token, true)).then(|| [Some(word), None])
        }
    }

    fn words_of_keys<'py>(&self, given: Given<'py, '_>, ahead: usize) -> Option<Bound<'py, PyTuple>> {
        if !given.values.is_empty() {
            return None;
        }
        let mut words = vec![self.word.bind(given.token).clone().into_any()];
        for place in 0..given.positional.len() {
            let argument = given.at(place)?;
            if place != ahead {
                words.push(argument);
            } else if let Ok(keys) = argument.cast_exact::<PyList>() {
                words.extend(keys.iter());
            } else if let Ok(keys) = argument.cast_exact::<PyTuple>() {
                words.extend(keys.iter());
            } else {
                words.push(argument);
            }
        }
        if words.len() < ahead + 2 || !words[1..].iter().all(is_word) {
            return None;
        }
        PyTuple::new(given.token, words).ok()
    }
}

// --- a call -------------------------------------------------------------------------------------------------------------

/// What it leads to; `None` where the ordinary way has to be taken.
fn go_straight<'py>(facts: &Facts, given: Given<'py, '_>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some((first, rest)) = given.positional.split_first() else { return Ok(None) };
    // SAFETY: the caller holds it.
    let called = unsafe { Bound::from_borrowed_ptr(given.token, *first) };
    if !facts.stock.is_met_by(&called) {
        return Ok(None);
    }
    let given = Given { positional: rest, ..given };
    if let Some(routed) = &facts.routed {
        return routed.go_straight(&called, facts.asynchronous, || facts.words(given));
    }
    let Some(listed) = &facts.listed else {
        if has_own_methods(&called) {
            return Ok(None);
        }
        let Some(words) = facts.words(given) else { return Ok(None) };
        // SAFETY: the class has these methods, so it is one.
        let client: Bound<'py, DirectCalls> = unsafe { called.cast_into_unchecked() };
        if facts.asynchronous {
            return call::new(&client, words, None, None).map(Some);
        }
        return blocking::call(&client, &words, None);
    };
    // SAFETY: the class has these methods, so it is one.
    let called: Bound<'py, DirectListed> = unsafe { called.cast_into_unchecked() };
    let (client, note) = {
        let called = called.try_borrow()?;
        let (Some(client), Some(note), false) = (&called.commands, &called.note, called.double_await) else {
            return Ok(None);
        };
        (client.bind(given.token).clone(), note.bind(given.token).clone())
    };
    if !listed.stock.is_met_by(&client) || has_own_methods(&client) || objects::is_set(&listed.current, given.token)? {
        return Ok(None);
    }
    let Some(words) = facts.words(given) else { return Ok(None) };
    // SAFETY: as above.
    let client: Bound<'py, DirectCalls> = unsafe { client.cast_into_unchecked() };
    if facts.asynchronous {
        return call::new_noted(&client, words, note, listed.name.bind(given.token)).map(Some);
    }
    blocking::call(&client, &words, None).map_err(|error| blocking::note(&note, &listed.name, error))
}

unsafe fn call_face(
    this: *mut ffi::PyObject,
    arguments: &[*mut ffi::PyObject],
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<Option<*mut ffi::PyObject>> {
    // SAFETY: called while attached.
    let py = unsafe { Python::assume_attached() };
    let (positional, values) = arguments.split_at(count);
    let given = Given { token: py, positional, values, names };
    // SAFETY: the facts live as long as the face does, which the caller holds.
    let facts = unsafe { &*(*this.cast::<Face>()).facts };
    Ok(go_straight(facts, given)?.map(Bound::into_ptr))
}

/// What is called in every case that is not the face's own.
fn ordinary_of<'py>(this: *mut ffi::PyObject) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: called while attached; the caller holds the face.
    unsafe {
        let py = Python::assume_attached();
        match &(*(*this.cast::<Face>()).facts).base {
            Some((base, name)) => base.bind(py).getattr(name),
            None => Ok(Bound::from_borrowed_ptr(py, (*this.cast::<Face>()).ordinary)),
        }
    }
}

#[cfg(not(Py_LIMITED_API))]
unsafe extern "C" fn vectorcall(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    flags: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called while attached, with an array of so many arguments, behind which stand those that `names` names.
    unsafe {
        let count = usize::try_from(ffi::PyVectorcall_NARGS(flags)).unwrap_or(0);
        let by_name = if names.is_null() { 0 } else { usize::try_from(ffi::PyTuple_GET_SIZE(names)).unwrap_or(0) };
        let len = count + by_name;
        let all = if len == 0 { &[] } else { std::slice::from_raw_parts(arguments, len) };
        match call_face(this, all, count, names) {
            Ok(Some(reply)) => reply,
            Ok(None) => match ordinary_of(this) {
                Ok(ordinary) => ffi::PyObject_Vectorcall(ordinary.as_ptr(), arguments, flags, names),
                Err(error) => raise(Python::assume_attached(), error),
            },
            Err(error) => raise(Python::assume_attached(), error),
        }
    }
}

#[cfg(Py_LIMITED_API)]
unsafe extern "C" fn call_slot(
    this: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
    named: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called while attached, with a tuple and a dict, or null.
    unsafe {
        let ordinary = match ordinary_of(this) {
            Ok(ordinary) => ordinary,
            Err(error) => return raise(Python::assume_attached(), error),
        };
        let ordinary = ordinary.as_ptr();
        if !named.is_null() && ffi::PyDict_Size(named) > 0 {
            return ffi::PyObject_Call(ordinary, arguments, named);
        }
        let count = ffi::PyTuple_Size(arguments);
        let all: Vec<_> = (0..count).map(|place| ffi::PyTuple_GetItem(arguments, place)).collect();
        match call_face(this, &all, all.len(), ptr::null_mut()) {
            Ok(Some(reply)) => reply,
            Ok(None) => ffi::PyObject_Call(ordinary, arguments, named),
            Err(error) => raise(Python::assume_attached(), error),
        }
    }
}

// --- as a function ------------------------------------------------------------------------------------------------------

#[cfg(not(Py_LIMITED_API))]
unsafe extern "C" {
    // Of CPython's classobject.h.
    fn PyMethod_New(function: *mut ffi::PyObject, object: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

unsafe extern "C" fn bind(
    this: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    unsafe {
        if object.is_null() || object == ffi::Py_None() {
            ffi::Py_INCREF(this);
            return this;
        }
        #[cfg(not(Py_LIMITED_API))]
        return PyMethod_New(this, object);
        #[cfg(Py_LIMITED_API)]
        {
            let py = Python::assume_attached();
            let (this, object) = (Bound::from_borrowed_ptr(py, this), Bound::from_borrowed_ptr(py, object));
            match known(py).method_type.bind(py).call1((this, object)) {
                Ok(method) => method.into_ptr(),
                Err(error) => raise(py, error),
            }
        }
    }
}

/// What it stands for is asked, by whatever name; its class is said to be a function's.
unsafe extern "C" fn get_attribute(this: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    unsafe { ffi::PyObject_GetAttr((*this.cast::<Face>()).ordinary, name) }
}

unsafe extern "C" fn repr(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called while attached.
    unsafe { ffi::PyObject_Repr((*this.cast::<Face>()).ordinary) }
}

unsafe extern "C" fn dealloc(this: *mut ffi::PyObject) {
    // SAFETY: no reference to it is left.
    unsafe {
        let class = ffi::Py_TYPE(this);
        let face = this.cast::<Face>();
        clear(&raw mut (*face).ordinary);
        drop(Box::from_raw((*face).facts));
        ffi::PyObject_Free(this.cast());
        ffi::Py_DECREF(class.cast());
    }
}

// --- the class ----------------------------------------------------------------------------------------------------------

fn make_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    #[cfg(not(Py_LIMITED_API))]
    let members = vec![
        ffi::PyMemberDef {
            name: c"__vectorcalloffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: ffi::Py_ssize_t::try_from(std::mem::offset_of!(Face, vectorcall)).unwrap_or(0),
            flags: ffi::Py_READONLY,
            doc: ptr::null(),
        },
        // SAFETY: the end of the members is all zero.
        unsafe { std::mem::zeroed() },
    ];
    let slot = |slot: c_int, pointer: *mut c_void| ffi::PyType_Slot { slot, pfunc: pointer };
    let slots = vec![
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_repr, repr as *mut c_void),
        slot(ffi::Py_tp_getattro, get_attribute as *mut c_void),
        slot(ffi::Py_tp_descr_get, bind as *mut c_void),
        #[cfg(not(Py_LIMITED_API))]
        slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
        #[cfg(not(Py_LIMITED_API))]
        slot(ffi::Py_tp_members, members.leak().as_mut_ptr().cast()),
        #[cfg(Py_LIMITED_API)]
        slot(ffi::Py_tp_call, call_slot as *mut c_void),
    ];
    #[cfg(not(Py_LIMITED_API))]
    let flags = ffi::Py_TPFLAGS_HAVE_VECTORCALL | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR;
    #[cfg(Py_LIMITED_API)]
    let flags = 0;
    objects::make_class(py, c"agent_memory._core.Face", size_of::<Face>(), slots, flags)
}

/// The class, made once.
pub(super) fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    CLASS.get_or_try_init(py, || make_class(py).map(Bound::unbind)).map(|class| class.bind(py).clone())
}

pub(super) fn entries(given: &Bound<'_, PyAny>) -> PyResult<Vec<Entry>> {
    given.try_iter()?.map(|entry| entry?.extract::<Entry>()).collect()
}

/// A method that sends the command `word`, and is `ordinary` in every other respect.
///
/// `shape` is ("fixed", least, most), ("rest", least) or ("keys", ahead): how many arguments by position are the command's words;
/// of "keys" the one behind so many may be a list or a tuple of them. `fill` is the last one where it is left out. `named` are
/// (name, word, `takes_value`) of arguments by name, of which one may be given. `base` is (class, name):
/// the ordinary way is what stands there at the time. `stock` are (class or None, name, object): what
/// has to stand in a class, None for the class of the client that is called. Of a method of a resilient client, `listed` is (the
/// stock of the drop-in behind it, what errors call it, the context variable of the call that it may be part of).
/// Of a method of a cluster's client, `nodes` is the stock of the clients of its nodes; with `collects` it is the method of a
/// cluster's pipeline.
#[pyfunction]
#[pyo3(signature = (
    ordinary, word, *, asynchronous, shape, stock, fill=None, named=vec![], base=None, listed=None, nodes=None, collects=false,
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
#[expect(clippy::needless_pass_by_value, reason = "what PyO3 can extract")]
pub(super) fn command_face<'py>(
    py: Python<'py>,
    ordinary: Bound<'py, PyAny>,
    word: &str,
    asynchronous: bool,
    shape: (String, usize, Option<usize>),
    stock: &Bound<'py, PyAny>,
    fill: Option<Py<PyAny>>,
    named: Vec<(String, String, bool)>,
    base: Option<(Py<PyAny>, String)>,
    listed: Option<(Bound<'py, PyAny>, String, Py<PyAny>)>,
    nodes: Option<Bound<'py, PyAny>>,
    collects: bool,
) -> PyResult<Bound<'py, PyAny>> {
    if !ordinary.is_callable() {
        return Err(PyTypeError::new_err("ordinary must be callable"));
    }
    let shape = match (shape.0.as_str(), shape.1, shape.2) {
        ("fixed", least, Some(most)) => Shape::Fixed { least, most },
        ("rest", least, None) => Shape::Rest { least },
        ("keys", ahead, None) => Shape::Keys { ahead },
        (other, ..) => return Err(PyValueError::new_err(format!("shape must be one of those listed, got {other}"))),
    };
    let interned = |text: &str| PyString::intern(py, text).unbind();
    let listed = match listed {
        None => None,
        Some((stock, name, current)) => {
            Some(Listed { stock: Stock::new(entries(&stock)?), name: interned(&name), current })
        }
    };
    let facts = Box::new(Facts {
        word: interned(word),
        asynchronous,
        shape,
        fill,
        named: named
            .iter()
            .map(|(name, word, takes_value)| Named {
                name: interned(name),
                word: interned(word),
                takes_value: *takes_value,
            })
            .collect(),
        base: base.map(|(base, name)| (base, interned(&name))),
        stock: Stock::new(entries(stock)?),
        listed,
        routed: match nodes {
            Some(nodes) => Some(Routed::Client(Stock::new(entries(&nodes)?))),
            None => collects.then_some(Routed::Pipeline),
        },
    });
    let class = class(py)?;
    // SAFETY: all fields are set before any other code sees it.
    unsafe {
        let allocate = ffi::PyType_GetSlot(class.as_type_ptr(), ffi::Py_tp_alloc);
        let allocate: ffi::allocfunc = std::mem::transmute(allocate);
        let object = allocate(class.as_type_ptr(), 0);
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        let face = object.cast::<Face>();
        #[cfg(not(Py_LIMITED_API))]
        {
            (*face).vectorcall = vectorcall as *mut c_void;
        }
        (*face).ordinary = ordinary.into_ptr();
        (*face).facts = Box::into_raw(facts);
        Ok(Bound::from_owned_ptr(py, object))
    }
}
