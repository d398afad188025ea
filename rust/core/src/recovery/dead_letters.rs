//! Dead letters: entries that were given up, bounded in number and bytes; the oldest are dropped.

use std::collections::VecDeque;

use super::bounds::{QueueFull, RecoveryConfig};
use super::entry::{Priority, WrongId};

/// An entry that was given up.
#[derive(Debug)]
pub struct DeadLetter<T> {
    /// The id it had in the queue.
    pub id: u64,
    /// The keys it writes.
    pub keys: Vec<Box<[u8]>>,
    /// What is needed to repeat the write.
    pub payload: T,
    /// How urgent it was.
    pub priority: Priority,
    /// How often it was retried.
    pub attempts: u32,
    /// What it counts for in the bound of bytes.
    pub size_bytes: u64,
    /// When it was given up.
    pub died_ns: u64,
    /// Why.
    pub reason: String,
    pub(super) coalesce: bool,
}

/// Why [`RecoveryQueue::retry_dead`](super::RecoveryQueue::retry_dead) did not queue a dead letter again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRevived {
    /// No dead letter has this id.
    Unknown(WrongId),
    /// The queue has no room.
    Full(QueueFull),
}

/// The letters, oldest first.
pub(super) struct DeadLetters<T> {
    letters: VecDeque<DeadLetter<T>>,
    size_bytes: u64,
}

impl<T> DeadLetters<T> {
    pub(super) const fn new() -> Self {
        Self { letters: VecDeque::new(), size_bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &DeadLetter<T>> {
        self.letters.iter()
    }

    pub(super) fn into_payloads(self) -> impl Iterator<Item = T> {
        self.letters.into_iter().map(|letter| letter.payload)
    }

    /// Keeps a letter. `drop_payload` is given the payloads of the letters that make room for it.
    pub(super) fn push(&mut self, letter: DeadLetter<T>, bounds: &RecoveryConfig, mut drop_payload: impl FnMut(T)) {
        self.size_bytes += letter.size_bytes;
        self.letters.push_back(letter);
        while self.letters.len() > bounds.max_dead_letters as usize || self.size_bytes > bounds.max_bytes {
            let Some(oldest) = self.letters.pop_front() else { break };
            self.size_bytes -= oldest.size_bytes;
            drop_payload(oldest.payload);
        }
    }

    /// The letter of an id, by its index.
    pub(super) fn find(&self, id: u64) -> Option<(usize, &DeadLetter<T>)> {
        self.letters.iter().enumerate().find(|(_, letter)| letter.id == id)
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<DeadLetter<T>> {
        let letter = self.letters.remove(index)?;
        self.size_bytes -= letter.size_bytes;
        Some(letter)
    }
}
