//! The primitives of the two places that are more than a mutex, or those of loom when their interleavings are searched:
//! `RUSTFLAGS="--cfg loom" cargo test -p agent-memory-core --test interleavings --release`.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};
