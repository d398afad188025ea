//! A blocking socket whose sends and receives end in time whatever signals arrive.
//!
//! The kernel's own timeout (`SO_RCVTIMEO`, `SO_SNDTIMEO`) costs no system call per operation, but a signal ends the wait, and
//! a second wait has the whole timeout again, as `CPython`'s sockets do. Here what is left is computed anew.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::clock::now_ns;
use crate::raw;

/// No timeout.
const FOR_EVER: u64 = u64::MAX;
/// The kernel takes zero for "for ever", and counts in microseconds.
const SHORTEST: Duration = Duration::from_micros(1);

/// `socket.socket` in blocking mode, with `send` and `recv_into` as it has them; each ends after the timeout at the latest.
///
/// Past the timeout they raise `BlockingIOError` or `TimeoutError`. What a signal handler raises they raise.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct Wire {
    sock: Py<PyAny>,
    timeout_ns: AtomicU64,
}

#[pymethods]
impl Wire {
    #[new]
    fn new(sock: Py<PyAny>) -> Self {
        Self { sock, timeout_ns: AtomicU64::new(FOR_EVER) }
    }

    /// Bounds every later operation; None waits for ever. Raises `OSError` for a socket that is closed.
    #[pyo3(signature = (timeout_s, /))]
    fn set_timeout(&self, py: Python<'_>, timeout_s: Option<f64>) -> PyResult<()> {
        let timeout = match timeout_s {
            None => None,
            Some(seconds) => {
                let timeout = Duration::try_from_secs_f64(seconds.max(0.0))
                    .map_err(|_| PyValueError::new_err(format!("timeout_s must be a finite number, got {seconds}")))?;
                Some(timeout.max(SHORTEST))
            }
        };
        raw::set_socket_timeouts(self.fd(py)?, timeout).map_err(os_error)?;
        let bound_ns = timeout.map_or(FOR_EVER, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(FOR_EVER));
        self.timeout_ns.store(bound_ns, Ordering::Relaxed);
        Ok(())
    }

    /// How many bytes of `data` were taken by the kernel.
    #[pyo3(signature = (data, /))]
    fn send(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            let bytes = bytes.as_bytes();
            return self.patiently(py, PollFlags::OUT, |fd, at_once| raw::send(fd, bytes, at_once));
        }
        let bytes = PyBuffer::<u8>::get(data)?;
        self.patiently(py, PollFlags::OUT, |fd, at_once| raw::send_buffer(fd, &bytes, at_once))
    }

    /// How many bytes arrived; 0 is the end of the stream.
    #[pyo3(signature = (buffer, /))]
    fn recv_into(&self, py: Python<'_>, buffer: &Bound<'_, PyByteArray>) -> PyResult<usize> {
        let room = PyBuffer::<u8>::get(buffer)?;
        self.patiently(py, PollFlags::IN, |fd, at_once| raw::receive(fd, &room, at_once))
    }
}

impl Wire {
    /// Asked for each time: closing the socket must leave no number behind that may soon be another socket's.
    #[inline]
    fn fd(&self, py: Python<'_>) -> PyResult<i32> {
        let fd: i32 = self.sock.bind(py).call_method0(intern!(py, "fileno"))?.extract()?;
        if fd < 0 { Err(os_error(Errno::BADF)) } else { Ok(fd) }
    }

    /// Calls `operate(descriptor, whether it must not wait)` until it ends without having been interrupted, or the time is up.
    #[inline]
    fn patiently(
        &self,
        py: Python<'_>,
        readiness: PollFlags,
        operate: impl Fn(i32, bool) -> Result<usize, Errno> + Sync,
    ) -> PyResult<usize> {
        let fd = self.fd(py)?;
        let began_ns = now_ns();
        match py.detach(|| operate(fd, false)) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => self.after_signal(py, began_ns, readiness, operate),
            Err(error) => Err(os_error(error)),
        }
    }

    #[cold]
    fn after_signal(
        &self,
        py: Python<'_>,
        began_ns: u64,
        readiness: PollFlags,
        operate: impl Fn(i32, bool) -> Result<usize, Errno> + Sync,
    ) -> PyResult<usize> {
        let timeout_ns = self.timeout_ns.load(Ordering::Relaxed);
        loop {
            py.check_signals()?;
            let fd = self.fd(py)?;
            let left = match timeout_ns {
                FOR_EVER => None,
                _ => Some(Duration::from_nanos((began_ns + timeout_ns).saturating_sub(now_ns()))),
            };
            if left.is_some_and(|left| left.is_zero()) {
                return Err(os_error(Errno::TIMEDOUT));
            }
            let done = py.detach(|| match raw::wait_for_socket(fd, readiness, left) {
                Ok(true) => operate(fd, true),
                Ok(false) => Err(Errno::TIMEDOUT),
                Err(error) => Err(error),
            });
            match done {
                Ok(count) => return Ok(count),
                // Another signal, or another reader was faster: the time tells.
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(os_error(error)),
            }
        }
    }
}

/// As `CPython`'s sockets raise it: `OSError` chooses the class by the number.
#[cold]
fn os_error(error: Errno) -> PyErr {
    let text = std::io::Error::from(error).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_owned();
    PyOSError::new_err((error.raw_os_error(), text))
}
