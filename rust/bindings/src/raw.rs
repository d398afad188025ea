//! The only unsafe code of the extension, each block with its reason.
#![expect(unsafe_code, reason = "what this module is for")]

use std::ffi::c_void;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use numpy::{PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};

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
        // SAFETY: the array is contiguous and has as many bytes as the buffer, which is new and so apart from it; no code frees
        // or resizes it while it is referenced here. A write from another thread gives a copy with some of
        // that; no reference to its elements is made.
        unsafe { std::ptr::copy_nonoverlapping(array.data().cast::<u8>(), buffer.as_mut_ptr(), len) };
        if cfg!(target_endian = "big") {
            buffer.as_chunks_mut::<4>().0.iter_mut().for_each(|element| element.reverse());
        }
        Ok(())
    })
}

/// What `function` does with the descriptor of an open socket. Another thread may close it meanwhile, as it may with `CPython`'s
/// sockets: then the system call fails, or meets what was opened since.
#[inline]
fn with_socket<T>(fd: i32, function: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the borrow ends with the call, and a number that is not an open descriptor is an error of the system call.
    function(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Sets how long one send and one receive may wait in the kernel; None is for ever.
pub(crate) fn set_socket_timeouts(fd: i32, timeout: Option<Duration>) -> Result<(), Errno> {
    with_socket(fd, |socket| {
        set_socket_timeout(socket, Timeout::Recv, timeout)?;
        set_socket_timeout(socket, Timeout::Send, timeout)
    })
}

/// Whether the socket became ready (an end or an error counts) within `left`.
pub(crate) fn wait_for_socket(fd: i32, readiness: PollFlags, left: Option<Duration>) -> Result<bool, Errno> {
    let left = left.map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    with_socket(fd, |socket| Ok(poll(&mut [PollFd::from_borrowed_fd(socket, readiness)], left.as_ref())? > 0))
}

/// One `send`; `at_once` fails where it would have to wait.
#[inline]
pub(crate) fn send(fd: i32, bytes: &[u8], at_once: bool) -> Result<usize, Errno> {
    let flags = if at_once { SendFlags::DONTWAIT } else { SendFlags::empty() };
    with_socket(fd, |socket| rustix::net::send(socket, bytes, flags))
}

/// The same with what an object exports. Its bytes may change meanwhile, if its owner wants so; it cannot be resized or freed.
pub(crate) fn send_buffer(fd: i32, buffer: &PyBuffer<u8>, at_once: bool) -> Result<usize, Errno> {
    if !buffer.is_c_contiguous() {
        return Err(Errno::INVAL);
    }
    // SAFETY: the export holds so many contiguous bytes where it says, for as long as the buffer lives. The kernel reads them.
    send(fd, unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) }, at_once)
}

/// One `recv` into a bytearray that only the caller uses.
#[inline]
pub(crate) fn receive(fd: i32, buffer: &PyBuffer<u8>, at_once: bool) -> Result<usize, Errno> {
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(Errno::INVAL);
    }
    let flags = if at_once { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
    // SAFETY: the export holds so many contiguous bytes where it says and keeps them from being resized or freed; it is a
    // channel's own buffer, which one call uses at a time, so no other reference to them exists.
    let room = unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) };
    with_socket(fd, |socket| rustix::net::recv(socket, room, flags).map(|(count, _)| count))
}

/// Calls `use_bytes` with bytes of a buffer.
pub(crate) fn with_bytes<T>(
    buffer: &PyBuffer<u8>,
    part: Range<usize>,
    use_bytes: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    if !buffer.is_c_contiguous() || part.start > part.end || part.end > buffer.item_count() {
        return None;
    }
    // SAFETY: the buffer is contiguous, has so many bytes and is neither freed nor resized while it is held here. It is what a
    // connection reads into: its reader waits for `use_bytes`, which runs no Python.
    let bytes = unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.item_count()) };
    Some(use_bytes(&bytes[part]))
}
