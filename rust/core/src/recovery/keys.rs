//! Order per key: for each key, its entries in the order they came. Entries are known here by their places only.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::places::{NO_PLACE, Places};

/// One entry's place in the queue of one key.
struct Link {
    entry: u32,
    key: u32,
    previous: u32,
    next: u32,
}

/// The queue of one key, by its first and last link.
struct Key {
    name: Box<[u8]>,
    first: u32,
    last: u32,
}

/// What joining the queue of a key came to.
pub(super) struct Joined {
    pub(super) link: u32,
    /// Other entries come first.
    pub(super) is_behind: bool,
}

/// The queues of all keys.
pub(super) struct KeyOrder {
    links: Places<Link>,
    keys: Places<Key>,
    by_name: HashTable<u32>,
    hasher: RandomState,
}

impl KeyOrder {
    pub(super) fn new() -> Self {
        Self { links: Places::new(), keys: Places::new(), by_name: HashTable::new(), hasher: RandomState::new() }
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.find(name).is_some()
    }

    /// Puts an entry at the end of a key's queue; `None` when it is there already, by the same key given twice.
    pub(super) fn join(&mut self, name: &[u8], entry: u32) -> Option<Joined> {
        let key = self.find(name).unwrap_or_else(|| self.add(name));
        let previous = self.keys[key].last;
        if previous == NO_PLACE {
            let link = self.links.insert(Link { entry, key, previous, next: NO_PLACE });
            (self.keys[key].first, self.keys[key].last) = (link, link);
            return Some(Joined { link, is_behind: false });
        }
        if self.links[previous].entry == entry {
            return None;
        }
        let link = self.links.insert(Link { entry, key, previous, next: NO_PLACE });
        self.links[previous].next = link;
        self.keys[key].last = link;
        Some(Joined { link, is_behind: true })
    }

    /// Takes a link out of its key's queue. Returns the entry that has become the first of that key by it.
    pub(super) fn leave(&mut self, link: u32) -> Option<u32> {
        let Link { key, previous, next, .. } = self.links.remove(link);
        if next == NO_PLACE {
            self.keys[key].last = previous;
        } else {
            self.links[next].previous = previous;
        }
        if previous != NO_PLACE {
            self.links[previous].next = next;
        } else if next != NO_PLACE {
            self.keys[key].first = next;
            return Some(self.links[next].entry);
        } else {
            self.remove(key);
        }
        None
    }

    /// The last entry of a key.
    pub(super) fn last(&self, name: &[u8]) -> Option<u32> {
        let key = &self.keys[self.find(name)?];
        Some(self.links[key.last].entry)
    }

    /// The entry of a key that has no other.
    pub(super) fn only(&self, name: &[u8]) -> Option<u32> {
        let key = &self.keys[self.find(name)?];
        (key.first == key.last).then(|| self.links[key.first].entry)
    }

    /// The first link of a key; `NO_PLACE` when it has none.
    pub(super) fn first_link(&self, name: &[u8]) -> u32 {
        self.find(name).map_or(NO_PLACE, |key| self.keys[key].first)
    }

    /// The entry of a link, and the next link of its key.
    pub(super) fn follow(&self, link: u32) -> (u32, u32) {
        let Link { entry, next, .. } = self.links[link];
        (entry, next)
    }

    /// The name of a link's key.
    pub(super) fn name(&self, link: u32) -> &[u8] {
        &self.keys[self.links[link].key].name
    }

    /// Gives the memory back; there are no entries.
    pub(super) fn shrink(&mut self) {
        (self.links, self.keys) = (Places::new(), Places::new());
        self.by_name = HashTable::new();
    }

    fn find(&self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.by_name.find(hash, |key| *self.keys[*key].name == *name).copied()
    }

    fn add(&mut self, name: &[u8]) -> u32 {
        let key = self.keys.insert(Key { name: name.into(), first: NO_PLACE, last: NO_PLACE });
        let (keys, hasher) = (&self.keys, &self.hasher);
        self.by_name.insert_unique(hasher.hash_one(name), key, |key| hasher.hash_one(&*keys[*key].name));
        key
    }

    fn remove(&mut self, key: u32) {
        let name = self.keys.remove(key).name;
        let hash = self.hasher.hash_one(&*name);
        if let Ok(found) = self.by_name.find_entry(hash, |candidate| *candidate == key) {
            found.remove();
        }
    }

    /// Room for links, keys and names.
    #[cfg(test)]
    pub(super) fn capacities(&self) -> (usize, usize, usize) {
        (self.links.capacity(), self.keys.capacity(), self.by_name.capacity())
    }
}
