//! The queue of a `SQLite` store's writer: what waits, its waiters, and how much of it one transaction takes.
//!
//! Jobs are of two kinds: direct ones, which are written here, and others, which Python decides about. Both wait in one
//! queue, in the order in which they came, and one thread, the writer, takes them: as many of the kind that is in front as
//! follow one another there and fit in a transaction. A direct job has a ticket, which is done when `done()` has reached it;
//! how others are answered is their own affair.
//!
//! A transaction takes up to `room` writes, fewer after one that took long and more again after quick ones. The queue takes up
//! to `max_pending` writes, those under way included.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::signals::Signals;

/// However slow the disk: so many writes share a sync, if they are there.
const LEAST_ROOM: usize = 16;

/// The bounds of a queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The most writes that wait or are under way.
    pub max_pending: usize,
    /// The most writes of one transaction.
    pub max_transaction_writes: usize,
    /// How long a transaction should take at the most.
    pub max_transaction: Duration,
}

/// Why a queue takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEntryError {
    /// `max_pending` writes are there.
    Full,
    /// It has been closed.
    Closed,
}

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum WriterStep<D, O> {
    /// To write these in one transaction, then to call [`WriteQueue::finish_direct`].
    Direct(Vec<D>),
    /// To hand these over, whose owner calls [`WriteQueue::finish_others`] or [`WriteQueue::give_back`] for each.
    Others(Vec<O>),
    /// To end: it was closed, and nothing is left.
    Closed,
}

enum Job<D, O> {
    Direct { ticket: u64, job: D, size: usize },
    Other { job: O, size: usize, is_alone: bool },
}

struct State<D, O> {
    jobs: VecDeque<Job<D, O>>,
    pending: usize,
    room: usize,
    last_ticket: u64,
    /// Of the direct jobs that the writer has: the last ticket, and how many writes.
    taken: (u64, usize),
    done: u64,
    waiters: usize,
    signals: Signals,
    is_closed: bool,
}

/// See the module. Any thread may put something in; one takes out.
pub struct WriteQueue<D, O> {
    limits: Limits,
    state: Mutex<State<D, O>>,
    /// There is something to do.
    asked: Condvar,
    /// Tickets are done.
    progress: Condvar,
}

impl<D, O> WriteQueue<D, O> {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            pending: 0,
            room: limits.max_transaction_writes,
            last_ticket: 0,
            taken: (0, 0),
            done: 0,
            waiters: 0,
            signals: Signals::default(),
            is_closed: false,
        };
        Self { limits, state: Mutex::new(state), asked: Condvar::new(), progress: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<D, O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job of `size` writes in; returns its ticket.
    ///
    /// # Errors
    /// [`NoEntryError`].
    pub fn put_direct(&self, job: D, size: usize) -> Result<u64, NoEntryError> {
        self.put(size, |ticket| Job::Direct { ticket, job, size })
    }

    /// Puts a job of `size` writes in, which may want a transaction of its own.
    ///
    /// # Errors
    /// [`NoEntryError`].
    pub fn put_other(&self, job: O, size: usize, is_alone: bool) -> Result<(), NoEntryError> {
        self.put(size, |_| Job::Other { job, size, is_alone }).map(|_| ())
    }

    fn put(&self, size: usize, job: impl FnOnce(u64) -> Job<D, O>) -> Result<u64, NoEntryError> {
        let mut state = self.state();
        if state.is_closed {
            return Err(NoEntryError::Closed);
        }
        if state.pending >= self.limits.max_pending {
            return Err(NoEntryError::Full);
        }
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.pending += size;
        state.jobs.push_back(job(ticket));
        if state.jobs.len() == 1 {
            self.asked.notify_one();
        }
        Ok(ticket)
    }

    /// Waits for what is to be done next. For the writer.
    pub fn next(&self) -> WriterStep<D, O> {
        let mut state = self.state();
        loop {
            match state.jobs.front() {
                Some(Job::Direct { .. }) => return WriterStep::Direct(take_direct(&mut state)),
                Some(Job::Other { .. }) => return WriterStep::Others(take_others(&mut state)),
                None if state.is_closed => return WriterStep::Closed,
                None => state = self.asked.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The direct jobs that the writer has are done.
    pub fn finish_direct(&self) {
        let mut state = self.state();
        let (ticket, size) = std::mem::take(&mut state.taken);
        state.pending -= size;
        state.done = state.done.max(ticket);
        if state.waiters > 0 {
            self.progress.notify_all();
        }
        state.signals.send();
    }

    /// So many writes of the others are done.
    pub fn finish_others(&self, size: usize) {
        self.state().pending -= size;
    }

    /// A job with so many writes left is the next again.
    pub fn give_back(&self, job: O, size: usize) {
        self.state().jobs.push_front(Job::Other { job, size, is_alone: false });
    }

    /// A transaction of so many writes took so long.
    pub fn fit_room(&self, took: Duration, count: usize) {
        let mut state = self.state();
        state.room = fitted_room(self.limits, state.room, took, count);
    }

    /// How many writes the next transaction takes.
    pub fn room(&self) -> usize {
        self.state().room
    }

    /// How many writes wait or are under way.
    pub fn pending(&self) -> usize {
        self.state().pending
    }

    /// The last ticket that is done, and all before it.
    pub fn done(&self) -> u64 {
        self.state().done
    }

    /// Waits until a ticket is done, at most for so long; returns whether it is.
    pub fn wait(&self, ticket: u64, timeout: Duration) -> bool {
        let mut state = self.state();
        state.waiters += 1;
        let waited = self.progress.wait_timeout_while(state, timeout, |state| state.done < ticket);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.waiters -= 1;
        state.done >= ticket
    }

    /// A file that is written to, eight bytes, when tickets are done; returns its number.
    pub fn add_signal(&self, file: File) -> u64 {
        self.state().signals.add(file)
    }

    /// Forgets such a file.
    pub fn remove_signal(&self, number: u64) {
        self.state().signals.remove(number);
    }

    /// Takes nothing more; what is there will be done.
    pub fn close(&self) {
        self.state().is_closed = true;
        self.asked.notify_all();
    }
}

fn take_direct<D, O>(state: &mut State<D, O>) -> Vec<D> {
    let mut taken = Vec::new();
    let mut room = state.room;
    while let Some(Job::Direct { size, .. }) = state.jobs.front() {
        if !taken.is_empty() && *size > room {
            break;
        }
        let Some(Job::Direct { ticket, job, size }) = state.jobs.pop_front() else { break };
        room = room.saturating_sub(size);
        state.taken = (ticket, state.taken.1 + size);
        taken.push(job);
    }
    taken
}

fn take_others<D, O>(state: &mut State<D, O>) -> Vec<O> {
    let mut taken = Vec::new();
    let mut room = state.room;
    while let Some(Job::Other { size, is_alone, .. }) = state.jobs.front() {
        if !taken.is_empty() && (*is_alone || *size > room) {
            break;
        }
        let Some(Job::Other { job, size, is_alone }) = state.jobs.pop_front() else { break };
        room = room.saturating_sub(size);
        taken.push(job);
        if is_alone {
            break;
        }
    }
    taken
}

/// The number of writes for the next transaction, from the duration of the last one.
fn fitted_room(limits: Limits, room: usize, took: Duration, count: usize) -> usize {
    let share = limits.max_transaction.as_secs_f64() / took.as_secs_f64();
    if took > limits.max_transaction && count > LEAST_ROOM {
        // One slow sync may be most of that time, so a step halves the room at most.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
        let part = (count as f64 * share.max(0.5)) as usize;
        part.max(LEAST_ROOM)
    } else if took < limits.max_transaction / 2 {
        limits.max_transaction_writes.min(room + room / 4 + 1)
    } else {
        room
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{LEAST_ROOM, Limits, NoEntryError, WriteQueue, WriterStep, fitted_room};

    const LIMITS: Limits =
        Limits { max_pending: 40, max_transaction_writes: 10, max_transaction: Duration::from_millis(50) };

    fn queue() -> WriteQueue<u32, u32> {
        WriteQueue::new(LIMITS)
    }

    #[test]
    fn jobs_of_one_kind_that_follow_one_another_share_a_transaction() {
        let queue = queue();
        for (job, size) in [(1, 4), (2, 6), (3, 1)] {
            queue.put_direct(job, size).expect("room");
        }
        queue.put_other(4, 2, false).expect("room");
        queue.put_other(5, 20, false).expect("room");
        let last = queue.put_direct(6, 1).expect("room");
        assert_eq!(queue.next(), WriterStep::Direct(vec![1, 2]), "ten writes");
        queue.finish_direct();
        assert_eq!((queue.done(), queue.pending()), (2, 24));
        assert_eq!(queue.next(), WriterStep::Direct(vec![3]), "the others come first");
        queue.finish_direct();
        assert_eq!(queue.next(), WriterStep::Others(vec![4]));
        queue.finish_others(2);
        assert_eq!(queue.next(), WriterStep::Others(vec![5]), "a long one is taken alone");
        queue.give_back(5, 10);
        assert_eq!(queue.next(), WriterStep::Others(vec![5]), "before all others");
        queue.finish_others(20);
        assert_eq!(queue.next(), WriterStep::Direct(vec![6]));
        queue.finish_direct();
        assert_eq!((queue.done(), queue.pending()), (last, 0));
    }

    #[test]
    fn what_wants_to_be_alone_is() {
        let queue = queue();
        for (job, is_alone) in [(1, false), (2, true), (3, true), (4, false)] {
            queue.put_other(job, 1, is_alone).expect("room");
        }
        for expected in [1, 2, 3, 4] {
            assert_eq!(queue.next(), WriterStep::Others(vec![expected]));
        }
    }

    #[test]
    fn it_is_bounded_and_ends_when_it_is_empty() {
        let queue = queue();
        queue.put_direct(1, 39).expect("room");
        queue.put_direct(2, 5).expect("one more, since there was room");
        assert_eq!(queue.put_direct(3, 1), Err(NoEntryError::Full));
        assert_eq!(queue.put_other(3, 1, false), Err(NoEntryError::Full));
        queue.close();
        assert_eq!(queue.put_direct(4, 1), Err(NoEntryError::Closed));
        for job in [1, 2] {
            assert_eq!(queue.next(), WriterStep::Direct(vec![job]), "what is there is done");
            queue.finish_direct();
        }
        assert_eq!(queue.next(), WriterStep::Closed);
    }

    #[test]
    fn a_waiting_caller_resumes_when_the_ticket_is_done() {
        let queue = queue();
        let ticket = queue.put_direct(1, 1).expect("room");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.wait(ticket, Duration::from_secs(60)));
            assert_eq!(queue.next(), WriterStep::Direct(vec![1]));
            assert!(!queue.wait(ticket, Duration::ZERO), "not yet");
            queue.finish_direct();
            assert!(waiter.join().expect("no panic"));
        });
        assert!(queue.wait(ticket, Duration::ZERO));
    }

    #[test]
    fn a_transaction_takes_less_after_a_slow_one() {
        let limits = Limits { max_transaction_writes: 1_000, ..LIMITS };
        let after = |took_ms, room, count| fitted_room(limits, room, Duration::from_millis(took_ms), count);
        assert_eq!(after(100, 1_000, 1_000), 500);
        assert_eq!(after(1_000, 1_000, 1_000), 500, "not all the way at once");
        assert_eq!(after(60, 600, 600), 500);
        assert_eq!(after(1_000, 20, 20), LEAST_ROOM);
        assert_eq!(after(1_000, 500, LEAST_ROOM), 500, "it was not the writes");
        assert_eq!(after(30, 400, 400), 400, "about right");
        assert_eq!(after(10, 400, 400), 501);
        assert_eq!(after(10, 900, 900), 1_000);
    }

    proptest! {
        /// Whatever comes in whatever order: all of it is taken, in that order, and what is taken together fits.
        #[test]
        fn nothing_is_lost_and_nothing_overtakes(jobs in prop::collection::vec((any::<bool>(), 1..5_usize, any::<bool>()), 0..12)) {
            let queue = queue();
            for (at, (is_direct, size, is_alone)) in jobs.iter().enumerate() {
                let name = u32::try_from(at).expect("few");
                if *is_direct {
                    queue.put_direct(name, *size).expect("room");
                } else {
                    queue.put_other(name, *size, *is_alone).expect("room");
                }
            }
            queue.close();
            let mut order = Vec::new();
            loop {
                let (taken, is_direct) = match queue.next() {
                    WriterStep::Direct(taken) => (taken, true),
                    WriterStep::Others(taken) => (taken, false),
                    WriterStep::Closed => break,
                };
                let of = |name: &u32| jobs[*name as usize];
                let size: usize = taken.iter().map(|name| of(name).1).sum();
                prop_assert!(size <= LIMITS.max_transaction_writes);
                prop_assert!(taken.iter().all(|name| of(name).0 == is_direct));
                if is_direct { queue.finish_direct() } else {
                    prop_assert!(taken.len() == 1 || taken.iter().all(|name| !of(name).2));
                    queue.finish_others(size);
                }
                order.extend(taken);
            }
            prop_assert_eq!(order, (0..u32::try_from(jobs.len()).expect("few")).collect::<Vec<_>>());
            prop_assert_eq!(queue.pending(), 0);
        }
    }
}
