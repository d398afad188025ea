//! A pointer that one writer replaces and readers copy without ever waiting for the writer.
//!
//! One lock would do if it were only held while a pointer is copied; but a writer that waits for it keeps new readers out,
//! and on a busy machine a thread that was woken waits milliseconds for a processor. So there are two places and a number
//! that says which one readers use. The writer only ever locks the place that they do not use:
//!
//! 1. it puts the new value into the other place,
//! 2. sends readers there,
//! 3. and puts the new value into the place they have left, so that nothing keeps the old one.
//!
//! It may have to wait for a reader that is late in leaving a place. A reader that comes late to a place finds it locked,
//! looks at the number again, and goes where the writer is not. One that has got in looks at the number once more: after a
//! long way there it may hold what is about to be published, and its next look would find what came before that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, TryLockError};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Published<T> {
    places: [RwLock<Arc<T>>; 2],
    /// The place that readers use.
    current: AtomicUsize,
}

impl<T> Published<T> {
    /// The value that was published last.
    pub(crate) fn current(&self) -> Arc<T> {
        loop {
            let place = self.current.load(Ordering::Acquire);
            let value = match self.places[place].try_read() {
                Ok(value) => Some(value),
                Err(TryLockError::Poisoned(value)) => Some(value.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            // The writer cannot change a place that is being read, so what is current here is current as long as it is held.
            if let Some(value) = value
                && self.current.load(Ordering::Acquire) == place
            {
                return Arc::clone(&value);
            }
            std::hint::spin_loop();
        }
    }

    /// Replaces the value. Callers take turns: two at once would each lock the place that the other sends readers to.
    pub(crate) fn publish(&self, value: Arc<T>) {
        let left = self.current.load(Ordering::Relaxed);
        let other = 1 - left;
        self.put(other, Arc::clone(&value));
        self.current.store(other, Ordering::Release);
        self.put(left, value);
    }

    fn put(&self, place: usize, value: Arc<T>) {
        let mut guard = self.places[place].write().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut *guard, value);
        drop(guard);
        drop(last); // outside the lock: it may be the last holder of much memory
    }
}

#[cfg(test)]
mod tests {
    use super::Published;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_late_reader_delays_the_writer_alone() {
        let published = Published::<u32>::default();
        for late in [0, 0, 1, 1] {
            let before = published.current();
            let reader = published.places[late].read().unwrap();
            std::thread::scope(|scope| {
                // The writer gets stuck behind the late reader; all other readers go on.
                let writer = scope.spawn(|| published.publish(Arc::new(*before + 1)));
                for _ in 0..1000 {
                    let value = *published.current();
                    assert!(value == *before || value == *before + 1);
                }
                drop(reader);
                writer.join().unwrap();
            });
            assert_eq!(*published.current(), *before + 1);
            assert!(Arc::strong_count(&before) == 1, "nothing keeps what was replaced");
        }
    }

    #[test]
    fn readers_never_go_back() {
        let published = Published::<u32>::default();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        let value = *published.current();
                        assert!(value >= last, "{value} after {last}");
                        last = value;
                    }
                });
            }
            for value in 1..if cfg!(miri) { 50 } else { 20_000 } {
                published.publish(Arc::new(value));
                assert_eq!(*published.current(), value, "a writer sees its own write");
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
