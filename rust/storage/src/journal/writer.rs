//! The thread that writes, and what it shares with its callers.
//!
//! One commit takes all that was asked for by then. The callers of a busy event loop come one after the other, so a writer
//! that always went on at once would take a few of them with each commit, and each commit costs their loop a turn. Where
//! a commit answered several and others have come meanwhile, it waits for as long as that commit took, `GATHER_MAX` at
//! most, or until no further request arrives. Callers who all wait for the same commit do not pay for this, nor does a thread
//! that is blocked.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::directory::Opened;
use super::records::{Damage, RecordId};
use super::segment::{Change, Segment};
use crate::signals::Signals;

use super::{Fsync, JournalError, JournalStats, MAX_PENDING_BYTES, MAX_PENDING_REQUESTS, MAX_RECORD_BYTES};

/// The most changes in one transaction, so that the first requests do not wait for ever.
const MAX_BATCH: usize = 8_192;
/// Failures that were not read are forgotten beyond this many.
const MAX_KEPT_FAILURES: usize = 65_536;
/// A commit that answered so many tickets, and found others waiting when it was done, is followed by a pause for more.
const GATHER_LEAST: usize = 4;
/// So many requests end the pause: a commit of them costs each next to nothing.
const GATHER_ENOUGH: usize = 64;
/// The longest such pause, however slow the disk.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// The pause is over when no request has come for so long.
const GATHER_QUIET: Duration = Duration::from_micros(100);
/// The pause between two attempts at removals that failed.
const OWED_PAUSE: Duration = Duration::from_millis(500);

struct Request {
    ticket: u64,
    /// The last change of the ticket is what ends it.
    is_last: bool,
    segment: usize,
    change: Change,
    bytes: usize,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    bytes: usize,
    next_ticket: u64,
    next_row: i64,
    done: u64,
    waiters: usize,
    /// The writer has been woken since it went to sleep.
    woken: bool,
    /// The writer waits for more requests.
    gathering: bool,
    failures: HashMap<u64, JournalError>,
    signals: Signals,
    closing: bool,
    stats: JournalStats,
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// Something is asked for.
    asked: Condvar,
    /// Something is done.
    progress: Condvar,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn start(opened: Opened, fsync: Fsync) -> Result<(Arc<Shared>, JoinHandle<()>), JournalError> {
    let Opened { segments, damage, foreign_segments, .. } = opened;
    let state = State {
        next_ticket: 1,
        next_row: segments.first().map_or(1, Segment::next_row),
        stats: first_stats(&segments, damage, foreign_segments),
        ..State::default()
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), asked: Condvar::new(), progress: Condvar::new() });
    let writer =
        Writer { shared: Arc::clone(&shared), segments, fsync, owed: Vec::new(), unsynced_since: None, gather: None };
    let thread = thread::Builder::new().name("agent_memory journal".to_owned()).spawn(move || writer.run())?;
    Ok((shared, thread))
}

fn first_stats(segments: &[Segment], damage: Damage, foreign_segments: usize) -> JournalStats {
    JournalStats {
        records: segments.iter().map(Segment::records).sum(),
        disk_bytes: segments.iter().map(Segment::disk_bytes).sum(),
        segments: segments.len(),
        foreign_segments,
        damage,
        ..JournalStats::default()
    }
}

impl Shared {
    pub(super) fn append(&self, body: Box<[u8]>) -> Result<(RecordId, u64), JournalError> {
        let mut state = self.open_state(body.len())?;
        let row = state.next_row;
        state.next_row += 1;
        let ticket = Self::enqueue(&mut state, vec![(0, Change::Put(row, body))]);
        Ok((RecordId::new(0, row), ticket))
    }

    pub(super) fn replace(&self, id: RecordId, body: Box<[u8]>) -> Result<u64, JournalError> {
        let mut state = self.open_state(body.len())?;
        Ok(self.ask(&mut state, vec![(id.segment(), Change::Put(id.row(), body))]))
    }

    pub(super) fn remove(&self, ids: &[RecordId]) -> Result<u64, JournalError> {
        let mut state = self.open_state(0)?;
        Ok(self.ask(&mut state, ids.iter().map(|id| (id.segment(), Change::Remove(id.row()))).collect()))
    }

    pub(super) fn mark_sent(&self, ids: &[RecordId], how: &[u8]) -> Result<u64, JournalError> {
        let mut state = self.open_state(how.len())?;
        let changes = (0..state.stats.segments).map(|segment| {
            let rows = ids.iter().filter(|id| id.segment() == segment).map(|id| id.row()).collect();
            (segment, Change::Sent(rows, how.into()))
        });
        let changes = changes.collect();
        Ok(self.ask(&mut state, changes))
    }

    pub(super) fn rewrite(&self) -> Result<u64, JournalError> {
        let mut state = self.open_state(0)?;
        let changes = (0..state.stats.segments).map(|segment| (segment, Change::Rewrite)).collect();
        Ok(self.ask(&mut state, changes))
    }

    pub(super) fn note(&self, name: &str, body: Box<[u8]>) -> Result<u64, JournalError> {
        let mut state = self.open_state(body.len())?;
        Ok(self.ask(&mut state, vec![(0, Change::Note(name.to_owned(), body))]))
    }

    fn open_state(&self, bytes: usize) -> Result<MutexGuard<'_, State>, JournalError> {
        if bytes > MAX_RECORD_BYTES {
            return Err(JournalError::TooLarge(bytes));
        }
        let state = locked(&self.state);
        if let Some(reason) = &state.stats.closed {
            return Err(reason.clone());
        }
        if state.requests.len() >= MAX_PENDING_REQUESTS || state.bytes + bytes > MAX_PENDING_BYTES.max(bytes) {
            return Err(JournalError::Behind);
        }
        Ok(state)
    }

    fn ask(&self, state: &mut State, changes: Vec<(usize, Change)>) -> u64 {
        let ticket = Self::enqueue(state, changes);
        self.wake_writer(state);
        ticket
    }

    fn enqueue(state: &mut State, changes: Vec<(usize, Change)>) -> u64 {
        let ticket = state.next_ticket;
        let last = match changes.len() {
            0 => return ticket - 1,
            length => length - 1,
        };
        state.next_ticket += 1;
        for (index, (segment, change)) in changes.into_iter().enumerate() {
            let bytes = match &change {
                Change::Put(_, body) | Change::Note(_, body) | Change::Sent(_, body) => body.len(),
                Change::Remove(_) | Change::Rewrite => 0,
            };
            state.bytes += bytes;
            state.requests.push_back(Request { ticket, is_last: index == last, segment, change, bytes });
        }
        ticket
    }

    fn wake_writer(&self, state: &mut State) {
        if !state.woken && !state.requests.is_empty() {
            state.woken = true;
            self.asked.notify_one();
        }
    }

    pub(super) fn wake(&self) {
        self.wake_writer(&mut locked(&self.state));
    }

    pub(super) fn done(&self) -> u64 {
        locked(&self.state).done
    }

    pub(super) fn failure(&self, ticket: u64) -> Option<JournalError> {
        let mut state = locked(&self.state);
        if state.failures.is_empty() { None } else { state.failures.remove(&ticket) }
    }

    pub(super) fn wait(&self, ticket: u64, deadline: Option<Instant>) -> bool {
        let mut state = locked(&self.state);
        state.waiters += 1;
        self.wake_writer(&mut state);
        if state.gathering {
            self.asked.notify_one();
        }
        while state.done < ticket {
            state = match deadline {
                None => self.progress.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.waiters -= 1;
        state.done >= ticket
    }

    pub(super) fn add_signal(&self, file: File) -> u64 {
        locked(&self.state).signals.add(file)
    }

    pub(super) fn remove_signal(&self, signal: u64) {
        locked(&self.state).signals.remove(signal);
    }

    pub(super) fn stats(&self) -> JournalStats {
        let state = locked(&self.state);
        JournalStats { pending: state.requests.len(), ..state.stats.clone() }
    }

    pub(super) fn close(&self) {
        let mut state = locked(&self.state);
        state.closing = true;
        if state.stats.closed.is_none() {
            state.stats.closed = Some(JournalError::Closed);
        }
        drop(state);
        self.asked.notify_all();
    }

    /// Says that tickets are done.
    fn tell(&self, state: &mut State, done: u64, failures: Vec<(u64, JournalError)>) {
        state.stats.failed += failures.len() as u64;
        if state.failures.len() + failures.len() > MAX_KEPT_FAILURES {
            state.failures.clear();
        }
        state.failures.extend(failures);
        state.done = state.done.max(done);
        if state.waiters > 0 {
            self.progress.notify_all();
        }
        state.signals.send();
    }
}

/// How long to wait for more requests after a commit that answered so many tickets, took so long and found so many requests
/// when it was done.
fn pause_for_company(answered: usize, waiting: usize, took: Duration) -> Option<Duration> {
    (answered >= GATHER_LEAST && (1..GATHER_ENOUGH).contains(&waiting)).then(|| took.min(GATHER_MAX))
}

struct Writer {
    shared: Arc<Shared>,
    segments: Vec<Segment>,
    fsync: Fsync,
    /// Removals that failed, by segment and row.
    owed: Vec<(usize, i64)>,
    unsynced_since: Option<Instant>,
    /// How long to wait for more requests before the next commit.
    gather: Option<Duration>,
}

impl Writer {
    fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            self.write(&batch);
            self.sync_if_due(false);
        }
        self.repeat_owed();
        self.sync_if_due(true);
        let segments = std::mem::take(&mut self.segments);
        segments.into_iter().for_each(Segment::close);
    }

    /// What was asked for meanwhile; empty when only time has passed; None when the journal is closed.
    fn next_batch(&mut self) -> Option<Vec<Request>> {
        let pause = self.gather.take();
        let mut state = self.gathered(locked(&self.shared.state), pause);
        loop {
            if !state.requests.is_empty() {
                let count = state.requests.len().min(MAX_BATCH);
                let batch: Vec<Request> = state.requests.drain(..count).collect();
                state.bytes -= batch.iter().map(|request| request.bytes).sum::<usize>();
                return Some(batch);
            }
            if state.closing {
                return None;
            }
            let pause = self.pause();
            if pause.is_some_and(|pause| pause.is_zero()) {
                return Some(Vec::new());
            }
            state.woken = false;
            state = match pause {
                None => self.shared.asked.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => {
                    let (state, timeout) =
                        self.shared.asked.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() && state.requests.is_empty() && !state.closing {
                        return Some(Vec::new());
                    }
                    state
                }
            };
        }
    }

    /// Waits for what joins the requests that are there already.
    fn gathered<'a>(&self, mut state: MutexGuard<'a, State>, pause: Option<Duration>) -> MutexGuard<'a, State> {
        let Some(until) = pause.map(|pause| Instant::now() + pause) else { return state };
        state.gathering = true;
        let mut seen = 0;
        while state.waiters == 0 && state.requests.len() < GATHER_ENOUGH && !state.closing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.requests.len() == seen {
                break;
            }
            seen = state.requests.len();
            let slept = self.shared.asked.wait_timeout(state, left.min(GATHER_QUIET));
            state = slept.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.gathering = false;
        state
    }

    /// How long the writer may sleep.
    fn pause(&self) -> Option<Duration> {
        let sync = match (self.fsync, self.unsynced_since) {
            (Fsync::Interval(interval), Some(since)) => Some(interval.saturating_sub(since.elapsed())),
            _ => None,
        };
        let owed = (!self.owed.is_empty()).then_some(OWED_PAUSE);
        sync.into_iter().chain(owed).min()
    }

    fn write(&mut self, batch: &[Request]) {
        self.repeat_owed();
        if batch.is_empty() {
            return;
        }
        let began = Instant::now();
        let mut failures = Vec::new();
        let mut commits = 0;
        for number in 0..self.segments.len() {
            let mine: Vec<&Request> = batch.iter().filter(|request| request.segment == number).collect();
            if !mine.is_empty() {
                self.write_segment(number, &mine, &mut failures, &mut commits);
            }
        }
        self.unsynced_since.get_or_insert_with(Instant::now);
        let failed: std::collections::HashSet<u64> = failures.iter().map(|(ticket, _)| *ticket).collect();
        let kept = |request: &&Request| !failed.contains(&request.ticket);
        let appended = batch.iter().filter(kept).filter(|request| matches!(request.change, Change::Put(..))).count();
        let removed = batch.iter().filter(kept).filter(|request| matches!(request.change, Change::Remove(_))).count();
        let done = batch.iter().rev().find(|request| request.is_last).map_or(0, |request| request.ticket);
        let answered = batch.iter().filter(|request| request.is_last).count();
        let disk_bytes = self.segments.iter().map(Segment::disk_bytes).sum();
        let mut state = locked(&self.shared.state);
        state.stats.appended += appended as u64;
        state.stats.removed += removed as u64;
        state.stats.commits += commits;
        state.stats.records = self.segments.iter().map(Segment::records).sum();
        state.stats.disk_bytes = disk_bytes;
        state.stats.owed_removals = self.owed.len();
        if matches!(self.fsync, Fsync::Always) {
            self.gather = pause_for_company(answered, state.requests.len(), began.elapsed());
        }
        self.shared.tell(&mut state, done, failures);
    }

    fn write_segment(
        &mut self,
        number: usize,
        requests: &[&Request],
        failures: &mut Vec<(u64, JournalError)>,
        commits: &mut u64,
    ) {
        if let Some(reason) = self.broken() {
            failures.extend(requests.iter().map(|request| (request.ticket, reason.clone())));
            return;
        }
        let changes: Vec<&Change> = requests.iter().map(|request| &request.change).collect();
        let result = self.apply(number, &changes);
        *commits += 1;
        match result {
            Ok(()) => {}
            Err(error @ JournalError::SyncFailed(_)) => {
                self.break_off(&error);
                failures.extend(requests.iter().map(|request| (request.ticket, error.clone())));
            }
            Err(_) => {
                for request in requests {
                    *commits += 1;
                    let Err(error) = self.apply(number, &[&request.change]) else { continue };
                    if let Change::Remove(row) = request.change {
                        self.owed.push((number, row));
                        continue; // it will be done: its caller need not wait
                    }
                    if matches!(error, JournalError::SyncFailed(_)) {
                        self.break_off(&error);
                    }
                    failures.push((request.ticket, error));
                }
            }
        }
    }

    fn apply(&mut self, number: usize, changes: &[&Change]) -> Result<(), JournalError> {
        let segment = &mut self.segments[number];
        segment.apply(changes)?;
        for change in changes {
            if let Change::Put(row, _) = change {
                segment.used(*row);
            }
        }
        Ok(())
    }

    fn repeat_owed(&mut self) {
        if self.owed.is_empty() || self.broken().is_some() {
            return;
        }
        let owed = std::mem::take(&mut self.owed);
        for number in 0..self.segments.len() {
            let rows: Vec<i64> = owed.iter().filter(|(segment, _)| *segment == number).map(|(_, row)| *row).collect();
            let changes: Vec<Change> = rows.iter().map(|row| Change::Remove(*row)).collect();
            if !changes.is_empty() && self.apply(number, &changes.iter().collect::<Vec<_>>()).is_err() {
                self.owed.extend(rows.into_iter().map(|row| (number, row)));
            }
        }
        locked(&self.shared.state).stats.owed_removals = self.owed.len();
    }

    fn sync_if_due(&mut self, closing: bool) {
        let Fsync::Interval(interval) = self.fsync else { return };
        let Some(since) = self.unsynced_since else { return };
        if closing || since.elapsed() >= interval {
            self.unsynced_since = None;
            if let Err(error) = self.segments.iter().try_for_each(Segment::sync) {
                self.break_off(&error);
            }
        }
    }

    fn broken(&self) -> Option<JournalError> {
        locked(&self.shared.state).stats.closed.clone().filter(|reason| *reason != JournalError::Closed)
    }

    fn break_off(&self, error: &JournalError) {
        locked(&self.shared.state).stats.closed = Some(error.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{GATHER_ENOUGH, GATHER_LEAST, GATHER_MAX, pause_for_company};

    #[test]
    fn a_commit_waits_for_company_only_where_callers_keep_coming() {
        let took = Duration::from_micros(300);
        assert_eq!(pause_for_company(GATHER_LEAST, 1, took), Some(took));
        assert_eq!(pause_for_company(GATHER_LEAST - 1, 1, took), None, "few callers");
        assert_eq!(pause_for_company(256, 0, took), None, "all of them wait for the same commit");
        assert_eq!(pause_for_company(256, GATHER_ENOUGH, took), None, "enough are there already");
        assert_eq!(pause_for_company(GATHER_LEAST, 1, Duration::from_secs(2)), Some(GATHER_MAX), "a slow disk");
    }
}
