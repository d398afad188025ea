//! Eventfds or pipes of event loops, which learn that something is done without a thread of theirs that waits.

use std::fs::File;
use std::io::Write;

#[derive(Default)]
pub(crate) struct Signals {
    files: Vec<(u64, File)>,
    last: u64,
}

impl Signals {
    /// Returns the number by which the file can be removed.
    pub(crate) fn add(&mut self, file: File) -> u64 {
        self.last += 1;
        self.files.push((self.last, file));
        self.last
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.files.retain(|(known, _)| *known != number);
    }

    /// Makes all of them readable.
    pub(crate) fn send(&self) {
        for (_, file) in &self.files {
            // A counter that is full, or a pipe, will wake its reader anyway.
            let _ = (&*file).write(&1u64.to_ne_bytes());
        }
    }
}
