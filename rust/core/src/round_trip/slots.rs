use std::collections::VecDeque;
use std::ops::Range;

/// One write: everything that was handed to the socket together.
#[derive(Debug, Clone, PartialEq)]
pub struct HandOver<K> {
    /// The number behind its last slot.
    pub upto: u64,
    /// When.
    pub at_s: f64,
    /// Where it begins in our stream.
    pub first_byte: u64,
    /// What the caller keeps of it.
    pub kept: K,
}

/// What to do when the deadlines are looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// Whether no byte has moved for the whole timeout.
    pub silent: bool,
    /// The numbers of the slots whose time is over and whose waiters have not been woken yet.
    pub expired: Range<u64>,
    /// When to look again.
    pub next_s: f64,
}

#[derive(Debug)]
struct Slot<S> {
    caller: S,
    wants_bytes: bool,
}

/// The unanswered commands of one connection. `S` is the waiter, `K` what is kept of each hand-over.
///
/// Bounded by the sender: [`Slots::len`] says how many there are, orphans included.
#[derive(Debug)]
pub struct Slots<S, K> {
    queue: VecDeque<Slot<S>>,
    /// How many have left the queue; the number of the oldest that has not.
    answered: u64,
    /// The number behind the last slot that was handed over.
    handed_over: u64,
    /// The number behind the last slot that the sweep has told.
    expired: u64,
    /// How many of them want their reply undecoded.
    wanting_bytes: usize,
    hand_overs: VecDeque<HandOver<K>>,
    /// How many bytes each slot has in its hand-over, from the oldest hand-over on.
    lens: VecDeque<usize>,
    written: u64,
}

impl<S, K> Default for Slots<S, K> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            answered: 0,
            handed_over: 0,
            expired: 0,
            wanting_bytes: 0,
            hand_overs: VecDeque::new(),
            lens: VecDeque::new(),
            written: 0,
        }
    }
}

impl<S, K> Slots<S, K> {
    /// Unanswered commands, orphans and those that have not been handed over included.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether everything is answered.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many commands have been answered: the number of the oldest that has not.
    #[inline]
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Bytes handed over so far.
    #[inline]
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Slots that wait for the next hand-over.
    #[inline]
    #[must_use]
    pub fn unsent(&self) -> usize {
        usize::try_from(self.answered + self.queue.len() as u64 - self.handed_over.max(self.answered))
            .unwrap_or(usize::MAX)
    }

    /// Takes a place for a command of `len` bytes; a command that has further replies takes places of no bytes for them.
    #[inline]
    pub fn push(&mut self, caller: S, wants_bytes: bool, len: usize) {
        self.wanting_bytes += usize::from(wants_bytes);
        self.queue.push_back(Slot { caller, wants_bytes });
        self.lens.push_back(len);
    }

    /// Whether the next reply is to stay undecoded.
    #[inline]
    #[must_use]
    pub fn next_wants_bytes(&self) -> bool {
        self.wanting_bytes > 0 && self.queue.front().is_some_and(|slot| slot.wants_bytes)
    }

    /// A reply has come: whose it is, or `None` where no command asked for it.
    #[inline]
    pub fn answer(&mut self) -> Option<S> {
        let slot = self.queue.pop_front()?;
        self.answered += 1;
        self.wanting_bytes -= usize::from(slot.wants_bytes);
        Some(slot.caller)
    }

    /// Everything that waited for it is handed over now: `len` bytes of it.
    pub fn hand_over(&mut self, at_s: f64, len: usize, kept: K) {
        self.handed_over = self.answered + self.queue.len() as u64;
        self.hand_overs.push_back(HandOver { upto: self.handed_over, at_s, first_byte: self.written, kept });
        self.written += len as u64;
    }

    /// Forgets the hand-overs that have been answered altogether; returns what was kept of each.
    #[inline]
    pub fn settle(&mut self) -> impl Iterator<Item = K> + use<S, K> {
        let mut settled = Vec::new();
        while let Some(oldest) = self.hand_overs.front() {
            if oldest.upto > self.answered {
                break;
            }
            let first = self.first_number();
            let count = usize::try_from(oldest.upto - first).unwrap_or(usize::MAX).min(self.lens.len());
            self.lens.drain(..count);
            settled.extend(self.hand_overs.pop_front().map(|one| one.kept));
        }
        settled.into_iter()
    }

    /// The number of the slot that the first of `lens` belongs to.
    fn first_number(&self) -> u64 {
        self.answered + self.queue.len() as u64 - self.lens.len() as u64
    }

    /// When the oldest command that may be unanswered was handed over.
    #[must_use]
    pub fn oldest_s(&self) -> Option<f64> {
        self.hand_overs.front().map(|oldest| oldest.at_s)
    }

    /// The hand-overs that are not answered altogether, oldest first, each with the bytes of its slots.
    pub fn hand_overs(&self) -> impl Iterator<Item = (&HandOver<K>, Vec<usize>)> {
        let mut lens = self.lens.iter().copied();
        let mut number = self.first_number();
        self.hand_overs.iter().map(move |one| {
            let count = usize::try_from(one.upto - number).unwrap_or(usize::MAX);
            number = one.upto;
            (one, lens.by_ref().take(count).collect())
        })
    }

    /// The bytes of each slot that has not been handed over.
    #[must_use]
    pub fn unsent_lens(&self) -> Vec<usize> {
        self.lens.range(self.lens.len() - self.unsent()..).copied().collect()
    }

    /// The waiters, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &S> {
        self.queue.iter().map(|slot| &slot.caller)
    }

    /// The waiters in the slots of these numbers, so far as they are there.
    pub fn waiting_in(&self, numbers: &Range<u64>) -> impl Iterator<Item = &S> {
        let place = |number: u64| {
            usize::try_from(number.saturating_sub(self.answered)).unwrap_or(usize::MAX).min(self.queue.len())
        };
        let (first, end) = (place(numbers.start), place(numbers.end));
        self.queue.range(first.min(end)..end).map(|slot| &slot.caller)
    }

    /// Looks at the deadlines at `now_s`; `None` where nothing is on its way.
    ///
    /// `moved_s` is when bytes last moved in either direction. While they move, commands are waited for until `patience_s`;
    /// otherwise until `timeout_s`.
    pub fn sweep(&mut self, now_s: f64, moved_s: f64, timeout_s: f64, patience_s: f64) -> Option<Sweep> {
        let silent_since_s = moved_s.max(self.oldest_s()?);
        let silent = silent_since_s <= now_s - timeout_s;
        let allowed_s = if silent { timeout_s } else { timeout_s.max(patience_s) };
        let mut upto = self.expired;
        let mut next_s = now_s + timeout_s;
        for one in &self.hand_overs {
            if one.at_s > now_s - allowed_s {
                next_s = one.at_s + allowed_s;
                break;
            }
            upto = one.upto;
        }
        let first = self.expired.max(self.answered);
        self.expired = self.expired.max(upto);
        if !silent {
            next_s = next_s.min(silent_since_s + timeout_s);
        }
        Some(Sweep { silent, expired: first..upto.max(first), next_s })
    }

    /// How many of the oldest commands may have been executed: all that were handed over, or those of the hand-overs that begin
    /// within the first `received` bytes of our stream, where it is proven that the peer has no more.
    #[must_use]
    pub fn maybe_executed(&self, received: Option<u64>) -> usize {
        let handed_over = self.queue.len() - self.unsent();
        let Some(received) = received else { return handed_over };
        let reached = self.hand_overs.iter().take_while(|one| one.first_byte < received).last();
        reached.map_or(0, |one| usize::try_from(one.upto.saturating_sub(self.answered)).unwrap_or(usize::MAX))
    }

    /// The connection has ended: the remaining waiters, oldest first.
    pub fn end(&mut self) -> impl Iterator<Item = S> + use<S, K> {
        self.hand_overs.clear();
        self.lens.clear();
        self.wanting_bytes = 0;
        self.handed_over = self.answered;
        std::mem::take(&mut self.queue).into_iter().map(|slot| slot.caller)
    }

    /// What is kept of the hand-overs.
    pub fn kept(&self) -> impl Iterator<Item = &K> {
        self.hand_overs.iter().map(|one| &one.kept)
    }
}
