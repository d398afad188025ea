//! `MemoryWriter`: the queue in front of a `SQLite` store's writer, and what is written without the interpreter.

mod jobs;
mod results;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_memory_core::config::seconds_to_ns;
use agent_memory_storage::memories::{
    Connection, DirectWriter, Library, Limits, NoEntryError, Outcome, SqliteError, Write, WriteQueue, WriterStep,
};
use pyo3::exceptions::{PyBufferError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyList;

use self::jobs::{DirectJob, LongTerm};
use self::results::Ending;
pub(crate) use self::results::PendingWrites;
use super::operations::Classes;
use crate::raw::duplicate_fd;

/// The longest delay until a waiting thread handles a signal.
const SIGNALS_INTERVAL: Duration = Duration::from_millis(100);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What waits for the writer of one `SQLite` database, in the order in which it came, and what the writer does by itself.
///
/// `submit_direct` takes what can be written without the interpreter. The thread that is in `work` writes it in transactions
/// of its own, so that other threads go on. Everything else goes in by `submit`, and comes out of `work` for Python to do: what
/// has to be compressed in the database, and functions. Tickets as those of `Journal`: `done`, `wait`, `add_signal`. Safe to use
/// from any thread; `work` is for one.
#[pyclass(frozen, module = "agent_memory._core", weakref)]
pub(crate) struct MemoryWriter {
    queue: WriteQueue<Arc<DirectJob>, Py<PyAny>>,
    writer: Mutex<Option<DirectWriter>>,
    is_direct: bool,
    is_abandoned: AtomicBool,
    classes: Arc<Classes>,
    log_pages: Option<&'static AtomicU32>,
    transactions: AtomicU64,
    writes: AtomicU64,
    longest_ns: AtomicU64,
}

#[pymethods]
impl MemoryWriter {
    /// Calls `connect`, which opens one sqlite3 connection and returns it; returns that, and a writer for it.
    ///
    /// `module_file`: that of the extension module `_sqlite3`, None where it is a part of the interpreter: where its `SQLite`
    /// cannot be found, or `is_direct` is False, `submit_direct` takes nothing. `classes` has the classes of operations and
    /// results and the statuses of results, by name. `limits`: the most writes that wait, the most writes of a transaction and
    /// the seconds that it should take.
    #[staticmethod]
    #[pyo3(signature = (connect, module_file, classes, limits, is_direct))]
    fn open<'py>(
        connect: &Bound<'py, PyAny>,
        module_file: Option<&str>,
        classes: Classes,
        limits: (usize, usize, f64),
        is_direct: bool,
    ) -> PyResult<(Bound<'py, PyAny>, Self)> {
        let library = if is_direct { Library::of(module_file.map(Path::new)) } else { None };
        let (opened, connection) = match library {
            Some(library) => Connection::catch(library, || connect.call0()),
            None => (connect.call0(), None),
        };
        let opened = opened?;
        let (max_pending, max_transaction_writes, max_transaction_s) = limits;
        let max_transaction = Duration::from_nanos(seconds_to_ns(max_transaction_s));
        let direct = connection.map(DirectWriter::new);
        let writer = Self {
            queue: WriteQueue::new(Limits { max_pending, max_transaction_writes, max_transaction }),
            is_direct: direct.is_some(),
            log_pages: direct.as_ref().map(DirectWriter::log_pages),
            writer: Mutex::new(direct),
            is_abandoned: AtomicBool::new(false),
            classes: Arc::new(classes),
            transactions: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            longest_ns: AtomicU64::new(0),
        };
        Ok((opened, writer))
    }

    /// Whether anything is written without the interpreter.
    #[getter]
    fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Puts operations in; None, having done nothing, where one of them is left to Python, as far as can be seen.
    ///
    /// `now_us` is the time of their versions. `pack` gives a content of at least `least_bytes` bytes as long-term memory has it,
    /// with the dictionary `newest`, and the number of its dictionary; without it, what goes to long-term memory is not taken.
    /// Raises `BufferError` where too many writes wait, `RuntimeError` when closed.
    #[pyo3(signature = (operations, now_us, pack, least_bytes, newest))]
    fn submit_direct(
        &self,
        operations: &Bound<'_, PyList>,
        now_us: u64,
        pack: Option<&Bound<'_, PyAny>>,
        least_bytes: usize,
        newest: i64,
    ) -> PyResult<Option<PendingWrites>> {
        if !self.is_direct {
            return Ok(None);
        }
        let long_term = LongTerm { pack, least_bytes, newest };
        let Some(given) = jobs::read(operations, &self.classes, &long_term)? else { return Ok(None) };
        let job = DirectJob::new(given, &long_term, now_us);
        let ticket = self.queue.put_direct(Arc::clone(&job), operations.len()).map_err(refused)?;
        Ok(Some(PendingWrites::new(job, ticket, Arc::clone(&self.classes))))
    }

    /// Puts a job of `size` writes in that Python does, in a transaction of its own if it `is_alone`. Raises as `submit_direct`.
    #[pyo3(signature = (job, size, is_alone))]
    fn submit(&self, job: Py<PyAny>, size: usize, is_alone: bool) -> PyResult<()> {
        self.queue.put_other(job, size, is_alone).map_err(refused)
    }

    /// Writes what is direct until there are jobs for Python, and returns these: those of one transaction. None: closed. An
    /// empty list: the write-ahead log has grown to `checkpoint_pages` pages.
    fn work(&self, py: Python<'_>, checkpoint_pages: u32) -> Option<Vec<Py<PyAny>>> {
        py.detach(|| {
            loop {
                match self.queue.next() {
                    WriterStep::Closed => return None,
                    WriterStep::Others(jobs) => return Some(jobs),
                    WriterStep::Direct(jobs) => {
                        jobs.chunk_by(|one, other| one.is_alike(other)).for_each(|group| self.write(group));
                        drop(jobs); // while their callers still have them: Python's objects are freed by threads that hold it
                        self.queue.finish_direct();
                    }
                }
                if self.log_pages().is_some_and(|pages| pages >= checkpoint_pages) {
                    return Some(Vec::new());
                }
            }
        })
    }

    /// How many pages the write-ahead log had at the last commit; None where nothing is written without the interpreter.
    #[getter]
    fn log_pages(&self) -> Option<u32> {
        self.log_pages.map(|pages| pages.load(Ordering::Relaxed))
    }

    /// So many writes of jobs that `work` returned are done.
    fn finish(&self, size: usize) {
        self.queue.finish_others(size);
    }

    /// A job that `work` returned has so many writes left, and is the next again.
    fn give_back(&self, job: Py<PyAny>, size: usize) {
        self.queue.give_back(job, size);
    }

    /// A transaction of so many writes took so many seconds.
    fn fit_room(&self, took_s: f64, count: usize) {
        self.queue.fit_room(Duration::from_nanos(seconds_to_ns(took_s)), count);
    }

    /// How many writes the next transaction takes.
    #[getter]
    fn room(&self) -> usize {
        self.queue.room()
    }

    /// How many writes wait or are under way.
    #[getter]
    fn pending(&self) -> usize {
        self.queue.pending()
    }

    /// Does nothing: the writer is woken by what it is given.
    #[expect(clippy::unused_self, reason = "waiters for tickets call it")]
    fn wake(&self) {}

    /// The last ticket that is done.
    fn done(&self) -> u64 {
        self.queue.done()
    }

    /// Blocks until a ticket is done. A signal, such as Ctrl-C, ends it with what its handler raises.
    fn wait(&self, py: Python<'_>, ticket: u64) -> PyResult<()> {
        while !py.detach(|| self.queue.wait(ticket, SIGNALS_INTERVAL)) {
            py.check_signals()?;
        }
        Ok(())
    }

    /// Has eight bytes written to (a duplicate of) `fd` whenever tickets are done; returns by what to end that.
    fn add_signal(&self, fd: i32) -> PyResult<u64> {
        Ok(self.queue.add_signal(duplicate_fd(fd)?.into()))
    }

    /// Ends that.
    fn remove_signal(&self, signal: u64) {
        if !self.is_abandoned.load(Ordering::Relaxed) {
            self.queue.remove_signal(signal);
        }
    }

    /// Takes nothing more; `work` returns None when all is done that was put in.
    fn close(&self) {
        self.queue.close();
    }

    /// Releases the connection; then nothing is written here any more.
    fn release(&self, py: Python<'_>) {
        let writer = py.detach(|| locked(&self.writer).take());
        drop(writer);
    }

    /// In a child of `fork()`: takes no lock any more, since the parent's threads may have held any. What is `held`, this
    /// writer first of all, is never freed.
    fn abandon(&self, held: Vec<Py<PyAny>>) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        held.into_iter().for_each(std::mem::forget);
    }

    /// Of what was written here: transactions, writes, and nanoseconds of the longest transaction.
    fn stats(&self) -> (u64, u64, u64) {
        let [transactions, writes, longest_ns] =
            [&self.transactions, &self.writes, &self.longest_ns].map(|counter| counter.load(Ordering::Relaxed));
        (transactions, writes, longest_ns)
    }
}

impl MemoryWriter {
    /// Writes jobs in one transaction, or, where one of them is left to Python or the database is full for all of them, each
    /// in one of its own.
    fn write(&self, jobs: &[Arc<DirectJob>]) {
        let began = Instant::now();
        match self.written(jobs) {
            Ok(Some(outcomes)) => {
                self.count(began.elapsed(), outcomes.len());
                let mut outcomes = outcomes.into_iter();
                for job in jobs {
                    job.end(Ending::Written(outcomes.by_ref().take(job.len()).collect()));
                }
            }
            Ok(None) if jobs.len() > 1 => jobs.chunks(1).for_each(|alone| self.write(alone)),
            Ok(None) => jobs.iter().for_each(|job| job.end(Ending::Undecided)),
            Err(error) if jobs.len() > 1 && error.is_full() => jobs.chunks(1).for_each(|alone| self.write(alone)),
            Err(error) => jobs.iter().for_each(|job| job.end(Ending::Failed(error.clone()))),
        }
    }

    fn written(&self, jobs: &[Arc<DirectJob>]) -> Result<Option<Vec<Outcome>>, SqliteError> {
        let clock_us = || jobs.iter().map(|job| job.time_us()).max().unwrap_or_default();
        let Some(compressible) = jobs.first().map(|job| job.compressible) else { return Ok(Some(Vec::new())) };
        let mut writer = locked(&self.writer);
        let Some(writer) = writer.as_mut() else { return Ok(None) };
        let all: Vec<Write<'_>> = jobs.iter().flat_map(|job| job.writes()).collect();
        writer.write(&all, compressible, clock_us)
    }

    fn count(&self, took: Duration, count: usize) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.transactions.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(count as u64, Ordering::Relaxed);
        self.longest_ns.fetch_max(took_ns, Ordering::Relaxed);
        self.queue.fit_room(took, count);
    }
}

fn refused(error: NoEntryError) -> PyErr {
    match error {
        NoEntryError::Full => PyBufferError::new_err("too many writes wait"),
        NoEntryError::Closed => PyRuntimeError::new_err("the writer is closed"),
    }
}
