//! The only unsafe code of the extension, each block with its reason.
#![expect(unsafe_code, reason = "what this module is for")]

use std::ffi::c_void;

use numpy::{PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

/// The processor's time-stamp counter.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn time_stamp_counter() -> u64 {
    // SAFETY: the instruction reads a register and touches no memory; every x86-64 processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What `class.__new__(class)` returns, without looking the method up and checking that it suits the class.
pub(crate) fn new_instance<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    let no_arguments = PyTuple::empty(py);
    // SAFETY: the pointers are those of a live class and a live tuple. The slot Py_tp_new of a class holds a
    // `newfunc` or null; it is called with the class it belongs to, as type.__call__ does, and returns a new
    // reference, or null with an exception set.
    unsafe {
        let slot = ffi::PyType_GetSlot(class.as_type_ptr(), ffi::Py_tp_new);
        let Some(new) = std::mem::transmute::<*mut c_void, Option<ffi::newfunc>>(slot) else {
            return Err(PyTypeError::new_err("cannot create instances of this class"));
        };
        Bound::from_owned_ptr_or_err(py, new(class.as_type_ptr(), no_arguments.as_ptr(), std::ptr::null_mut()))
    }
}

/// A descriptor of one's own for what `fd` stands for.
pub(crate) fn duplicate_fd(fd: i32) -> std::io::Result<std::os::fd::OwnedFd> {
    if fd < 0 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the borrow ends in this line, and a number that is not an open descriptor is an error of the system call.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

/// A copy of the bytes of a contiguous array, little endian.
pub(crate) fn bytes_of_floats<'py>(array: &Bound<'py, PyArray1<f32>>) -> PyResult<Bound<'py, PyBytes>> {
    assert!(array.is_c_contiguous(), "the caller has looked");
    let len = array.len() * size_of::<f32>();
    PyBytes::new_with(array.py(), len, |buffer| {
        // SAFETY: the array is contiguous and has as many bytes as the buffer, which is new and so apart from it; nobody frees
        // or resizes it while it is referenced here. Who writes into it from another thread gets a copy with some of
        // that; no reference to its elements is made.
        unsafe { std::ptr::copy_nonoverlapping(array.data().cast::<u8>(), buffer.as_mut_ptr(), len) };
        if cfg!(target_endian = "big") {
            buffer.as_chunks_mut::<4>().0.iter_mut().for_each(|element| element.reverse());
        }
        Ok(())
    })
}
