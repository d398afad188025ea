//! Age: the entries as a list from the oldest to the newest, by links in the entries themselves.

use super::entry::Entry;
use super::places::{NO_PLACE, Places};

/// The ends of the list.
pub(super) struct Ages {
    oldest: u32,
    newest: u32,
}

impl Ages {
    pub(super) const fn new() -> Self {
        Self { oldest: NO_PLACE, newest: NO_PLACE }
    }

    /// The oldest entry; `NO_PLACE` when there is none.
    pub(super) const fn oldest(&self) -> u32 {
        self.oldest
    }

    /// Makes an entry the newest.
    pub(super) fn join<T>(&mut self, entries: &mut Places<Entry<T>>, place: u32, now_ns: u64) {
        let older = std::mem::replace(&mut self.newest, place);
        if older == NO_PLACE {
            self.oldest = place;
        } else {
            entries[older].newer = place;
        }
        let entry = &mut entries[place];
        (entry.older, entry.newer, entry.enqueued_ns) = (older, NO_PLACE, now_ns);
    }

    pub(super) fn leave<T>(&mut self, entries: &mut Places<Entry<T>>, place: u32) {
        let Entry { older, newer, .. } = entries[place];
        if older == NO_PLACE {
            self.oldest = newer;
        } else {
            entries[older].newer = newer;
        }
        if newer == NO_PLACE {
            self.newest = older;
        } else {
            entries[newer].older = older;
        }
    }
}
