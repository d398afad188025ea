//! `Journal`: the journal of the recovery queue on disk.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_memory_core::config::seconds_to_ns;
use agent_memory_storage::journal::{self as storage, Fsync, JournalError, Options, RecordId};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::raw::duplicate_fd;

/// Records on disk that outlive the process: a directory shared by any number of processes, of which each owns its own
/// part and adopts what dead ones of the same `identity` left.
///
/// Requests (`append`, `replace`, `remove`, `mark_sent`, `note`) return a ticket at once; a thread of its own carries them
/// out in order, in batches. A ticket is done when `done()` has reached it, and then `failure(ticket)` is None or the error.
/// `wait` blocks for that, without the GIL; `add_signal(fd)` has eight bytes written to an eventfd or a pipe whenever tickets
/// are done.
///
/// `fsync` is "always", "interval" (`fsync_interval_s`) or "never". Raises `RecoveryJournalError` when the directory can't be
/// used. Safe to use from any thread.
#[pyclass(frozen, module = "agent_memory._core", weakref)]
pub(crate) struct Journal {
    journal: storage::Journal,
}

#[pymethods]
impl Journal {
    #[new]
    #[pyo3(signature = (path, identity, *, fsync="always", fsync_interval_s=1.0))]
    fn new(py: Python<'_>, path: PathBuf, identity: String, fsync: &str, fsync_interval_s: f64) -> PyResult<Self> {
        let fsync = match fsync {
            "always" => Fsync::Always,
            "interval" => Fsync::Interval(Duration::from_nanos(seconds_to_ns(fsync_interval_s))),
            "never" => Fsync::Never,
            _ => return Err(PyValueError::new_err("fsync must be one of always, interval, never")),
        };
        if identity.is_empty() {
            return Err(PyValueError::new_err("identity must not be empty"));
        }
        let options = Options { directory: path, identity, fsync };
        let opened = py.detach(|| storage::Journal::open(&options));
        Ok(Self { journal: opened.map_err(|error| failed(py, &error))? })
    }

    /// What was there when the journal was opened, oldest first: (id, how it was being sent, body), with None for how where
    /// it was not; a second call returns nothing.
    fn take_recovered<'py>(&self, py: Python<'py>) -> Vec<(u64, Option<Bound<'py, PyBytes>>, Bound<'py, PyBytes>)> {
        let recovered = self.journal.take_recovered().into_iter();
        let bytes = |bytes: &[u8]| PyBytes::new(py, bytes);
        recovered.map(|record| (record.id.0, record.sent.as_deref().map(bytes), bytes(&record.body))).collect()
    }

    /// The ids of the recovered records that damage may have hidden the removal or a change of.
    fn uncertain(&self) -> Vec<u64> {
        self.journal.uncertain().iter().map(|id| id.0).collect()
    }

    /// The notes that were there: (number of the segment, name, body). The segment of a record is its id >> 48.
    fn recovered_notes<'py>(&self, py: Python<'py>) -> Vec<(usize, String, Bound<'py, PyBytes>)> {
        let notes = self.journal.recovered_notes().iter();
        notes.map(|note| (note.segment, note.name.clone(), PyBytes::new(py, &note.body))).collect()
    }

    /// Asks for a record to be written; returns its id and the ticket. Raises `RecoveryJournalError`.
    ///
    /// The writer begins when a thread waits for a ticket, asks for anything else, or calls `wake()`.
    fn append(&self, py: Python<'_>, body: &[u8]) -> PyResult<(u64, u64)> {
        let asked = self.journal.append(body.into());
        asked.map(|(id, ticket)| (id.0, ticket)).map_err(|error| failed(py, &error))
    }

    /// Asks for a record to be replaced; returns the ticket. Raises `RecoveryJournalError`.
    fn replace(&self, py: Python<'_>, id: u64, body: &[u8]) -> PyResult<u64> {
        self.journal.replace(RecordId(id), body.into()).map_err(|error| failed(py, &error))
    }

    /// Asks for records to be removed; returns the ticket. Raises `RecoveryJournalError`.
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn remove(&self, py: Python<'_>, ids: Vec<u64>) -> PyResult<u64> {
        self.journal.remove(&records(&ids)).map_err(|error| failed(py, &error))
    }

    /// Asks to remember that these records, and no others, are being sent, and `how`; returns the ticket. Raises
    /// `RecoveryJournalError`.
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn mark_sent(&self, py: Python<'_>, ids: Vec<u64>, how: &[u8]) -> PyResult<u64> {
        self.journal.mark_sent(&records(&ids), how).map_err(|error| failed(py, &error))
    }

    /// Asks for a note to be kept beside the records; returns the ticket. Raises `RecoveryJournalError`.
    fn note(&self, py: Python<'_>, name: &str, body: &[u8]) -> PyResult<u64> {
        self.journal.note(name, body.into()).map_err(|error| failed(py, &error))
    }

    /// Asks for the files to be written anew, without anything of what was removed before; copies of damaged files go. Returns
    /// the ticket. Raises `RecoveryJournalError`.
    fn rewrite(&self, py: Python<'_>) -> PyResult<u64> {
        self.journal.rewrite().map_err(|error| failed(py, &error))
    }

    /// Has the writer begin with what is asked for, if it sleeps.
    fn wake(&self) {
        self.journal.wake();
    }

    /// The last ticket that is done.
    fn done(&self) -> u64 {
        self.journal.done()
    }

    /// Why a ticket that is done failed, as a `RecoveryJournalError`; None if it did not, or was asked about before.
    fn failure(&self, py: Python<'_>, ticket: u64) -> Option<Py<PyAny>> {
        self.journal.failure(ticket).map(|error| failed(py, &error).into_value(py).into_any())
    }

    /// Blocks until a ticket is done, at most `timeout` seconds (None: for ever); returns whether it is.
    #[pyo3(signature = (ticket, timeout=None))]
    fn wait(&self, py: Python<'_>, ticket: u64, timeout: Option<f64>) -> bool {
        // A wait that does not fit the clock is one for ever.
        let deadline =
            timeout.and_then(|timeout| Instant::now().checked_add(Duration::from_nanos(seconds_to_ns(timeout))));
        py.detach(|| self.journal.wait(ticket, deadline))
    }

    /// Has eight bytes written to (a duplicate of) `fd` whenever tickets are done; returns by what to end that.
    fn add_signal(&self, fd: i32) -> PyResult<u64> {
        Ok(self.journal.add_signal(duplicate_fd(fd)?.into()))
    }

    /// Ends that.
    fn remove_signal(&self, signal: u64) {
        self.journal.remove_signal(signal);
    }

    /// Writes what is asked for and gives the segments free; those without records are removed.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.journal.close());
    }

    /// In a child of `fork()`: gives up the parent's segments without touching them.
    fn abandon(&self) {
        self.journal.abandon();
    }

    /// What has happened and what is there now, as a dict of plain values; "closed" is None or why the journal is closed.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let now = self.journal.stats();
        let stats = PyDict::new(py);
        for (name, value) in [
            ("appended", now.appended),
            ("removed", now.removed),
            ("commits", now.commits),
            ("failed", now.failed),
            ("pending", now.pending as u64),
            ("owed_removals", now.owed_removals as u64),
            ("records", now.records),
            ("disk_bytes", now.disk_bytes),
            ("segments", now.segments as u64),
            ("foreign_segments", now.foreign_segments as u64),
            ("damaged_records", now.damage.records),
            ("damaged_segments", now.damage.segments),
            ("damaged_bytes", now.damage.bytes),
            ("torn_bytes", now.damage.torn_bytes),
            ("uncertain_records", now.damage.uncertain),
            ("removed_damaged_files", now.damage.removed_files),
        ] {
            stats.set_item(name, value)?;
        }
        let files: Vec<String> = now.damage.files.iter().map(|file| file.display().to_string()).collect();
        stats.set_item("damaged_files", files)?;
        stats.set_item("closed", now.closed.map(|reason| reason.to_string()))?;
        Ok(stats)
    }
}

fn records(ids: &[u64]) -> Vec<RecordId> {
    ids.iter().map(|id| RecordId(*id)).collect()
}

fn failed(py: Python<'_>, error: &JournalError) -> PyErr {
    let raised = py
        .import("agent_memory.errors")
        .and_then(|errors| errors.getattr("RecoveryJournalError"))
        .and_then(|class| class.call1((error.to_string(),)));
    raised.map_or_else(|error| error, PyErr::from_value)
}
