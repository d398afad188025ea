//! Age: the entries as a list from the oldest to the newest, by links in the entries themselves.

use super::entry::Entry;
use super::places::{NOBODY, Places};

/// The ends of the list.
pub(super) struct Ages {
    oldest: u32,
    newest: u32,
}

impl Ages {
    pub(super) const fn new() -> Self {
        Self { oldest: NOBODY, newest: NOBODY }
    }

    /// The oldest entry; `NOBODY` when there is none.
    pub(super) const fn oldest(&self) -> u32 {
        self.oldest
    }

    /// Makes an entry the newest.
    pub(super) fn join<T>(&mut self, entries: &mut Places<Entry<T>>, place: u32, now_ns: u64) {
        let older = std::mem::replace(&mut self.newest, place);
        if older == NOBODY {
            self.oldest = place;
        } else {
            entries[older].newer = place;
        }
        let entry = &mut entries[place];
        (entry.older, entry.newer, entry.enqueued_ns) = (older, NOBODY, now_ns);
    }

    pub(super) fn leave<T>(&mut self, entries: &mut Places<Entry<T>>, place: u32) {
        let Entry { older, newer, .. } = entries[place];
        if older == NOBODY {
            self.oldest = newer;
        } else {
            entries[older].newer = newer;
        }
        if newer == NOBODY {
            self.newest = older;
        } else {
            entries[newer].older = older;
        }
    }
}
