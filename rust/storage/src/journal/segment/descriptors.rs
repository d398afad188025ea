//! The open files of a segment, for a child of `fork()`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The descriptors of a segment: of its file and, while that is written anew, of the new one; -1 for none. A child of `fork()`
/// closes them.
#[derive(Debug)]
pub(in crate::journal) struct Descriptors([AtomicI32; 2]);

impl Descriptors {
    pub(super) fn of(file: &File) -> Arc<Self> {
        Arc::new(Self([AtomicI32::new(file.as_raw_fd()), AtomicI32::new(-1)]))
    }

    /// Takes them: they are there once.
    pub(in crate::journal) fn take(&self) -> impl Iterator<Item = i32> {
        self.0.iter().map(|descriptor| descriptor.swap(-1, Ordering::Relaxed)).filter(|descriptor| *descriptor >= 0)
    }

    pub(in crate::journal) fn are_taken(&self) -> bool {
        self.0[0].load(Ordering::Relaxed) < 0
    }

    /// Notes the file that is being written anew.
    pub(super) fn note_draft(&self, file: &File) {
        self.0[1].store(file.as_raw_fd(), Ordering::Relaxed);
    }

    /// The file that was written anew has taken the place of the other.
    pub(super) fn replace_by_draft(&self, file: &File) {
        self.0[0].store(file.as_raw_fd(), Ordering::Relaxed);
        self.forget_draft();
    }

    pub(super) fn forget_draft(&self) {
        self.0[1].store(-1, Ordering::Relaxed);
    }
}
