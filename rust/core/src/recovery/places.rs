//! Numbered places: what the queue's lists and heaps refer to, in 32 bits each.

/// The number of no place.
pub(super) const NO_PLACE: u32 = u32::MAX;

/// Numbered places that are used again.
pub(super) struct Places<V> {
    places: Vec<Option<V>>,
    free: Vec<u32>,
}

impl<V> Places<V> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, value: V) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(value);
            return place;
        }
        self.places.push(Some(value));
        u32::try_from(self.places.len() - 1).expect("the bounds of the queue keep places below 2^32")
    }

    pub(super) fn remove(&mut self, place: u32) -> V {
        self.free.push(place);
        self.places[place as usize].take().expect("a place is removed once")
    }

    pub(super) fn get(&self, place: u32) -> Option<&V> {
        self.places.get(place as usize)?.as_ref()
    }

    /// The values in use, with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &V)> {
        (0u32..).zip(&self.places).filter_map(|(place, value)| Some((place, value.as_ref()?)))
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = V> {
        self.places.into_iter().flatten()
    }

    /// How many places there have been at once.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.places.capacity()
    }
}

impl<V> std::ops::Index<u32> for Places<V> {
    type Output = V;

    fn index(&self, place: u32) -> &V {
        self.places[place as usize].as_ref().expect("a place in use")
    }
}

impl<V> std::ops::IndexMut<u32> for Places<V> {
    fn index_mut(&mut self, place: u32) -> &mut V {
        self.places[place as usize].as_mut().expect("a place in use")
    }
}
