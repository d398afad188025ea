//! The state machine: which reply may be served from the cache, and what ends that.
//!
//! Time is an argument, in nanoseconds of a clock that also counts while the machine is suspended. `V` is a kept reply, `F` what
//! a join of a flight gives.

use hashbrown::HashTable;

use super::store::{EntryId, Found, Store, hash};

/// What is chosen by the user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Bound of the bytes of all entries.
    pub max_bytes: usize,
    /// No hit is older.
    pub max_staleness_ns: u64,
    /// How long an entry lives at the most.
    pub ttl_ns: u64,
    /// Of the hashes.
    pub seed: u64,
}

/// The rules, which the simulation switches off in turn to show that each is needed.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own")]
pub struct Rules {
    /// What happens to a key while a flight of it is under way ends the flight.
    pub kills_flights: bool,
    /// A hit needs a lease.
    pub asks_for_lease: bool,
    /// A connection begins empty.
    pub begins_empty: bool,
    /// The end of a connection ends its flights.
    pub ends_flights: bool,
    /// An entry ends with its key's expiry.
    pub keeps_expiry: bool,
    /// An invalidation of nothing is one of everything.
    pub null_clears: bool,
    /// Own writes remove their keys.
    pub sees_own_writes: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Self = Self {
        kills_flights: true,
        asks_for_lease: true,
        begins_empty: true,
        ends_flights: true,
        keeps_expiry: true,
        null_clears: true,
        sees_own_writes: true,
    };
}

/// What the server says of a key's expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It was not asked.
    Unasked,
    /// PTTL gave -1.
    Never,
    /// PTTL gave -2: there is no such key.
    Gone,
    /// In so many milliseconds from when PTTL was executed.
    InMs(u64),
}

impl Expiry {
    /// Reads PTTL's reply.
    #[must_use]
    pub fn from_pttl(reply: i64) -> Self {
        match reply {
            -1 => Self::Never,
            ..0 => Self::Gone,
            _ => Self::InMs(reply.unsigned_abs()),
        }
    }
}

/// The identity of a flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlightId {
    hash: u64,
    number: u64,
}

#[derive(Debug)]
struct Flight<F> {
    id: FlightId,
    key: Box<[u8]>,
    variant: Box<[u8]>,
    sent_ns: u64,
    life_ms: u32,
    /// None: it cannot be joined.
    what: Option<F>,
}

/// What follows a miss.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun<F> {
    /// The caller fetches, and lands the flight.
    Leads(FlightId),
    /// A flight of the same request is under way: its reply is the caller's.
    Joins(F),
}

/// What a lookup gave.
#[derive(Debug)]
pub enum Lookup<'a, V> {
    /// The reply.
    Hit(EntryId, &'a V),
    /// The server has to be asked.
    Miss,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub hits: u64,
    pub misses: u64,
    pub joined: u64,
    pub invalidations_by_server: u64,
    pub invalidations_by_own_writes: u64,
    pub invalidations_of_all: u64,
    pub flights_killed: u64,
    pub expired: u64,
    pub lease_refusals: u64,
    pub not_kept: u64,
    pub epochs: u64,
}

/// The cache of one tracking connection at a time.
#[derive(Debug)]
pub struct Machine<V, F> {
    settings: Settings,
    rules: Rules,
    store: Store<V>,
    flights: HashTable<Flight<F>>,
    flights_begun: u64,
    is_up: bool,
    /// Hits are served until then.
    lease_ns: u64,
    counts: Counts,
}

impl<V, F: Clone> Machine<V, F> {
    /// Empty, and not connected.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with_rules(settings, Rules::ALL)
    }

    /// The same with some rules switched off.
    #[must_use]
    pub fn with_rules(settings: Settings, rules: Rules) -> Self {
        Self {
            settings,
            rules,
            store: Store::new(settings.max_bytes, settings.seed),
            flights: HashTable::new(),
            flights_begun: 0,
            is_up: false,
            lease_ns: 0,
            counts: Counts::default(),
        }
    }

    /// What was chosen.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The entries.
    #[must_use]
    pub fn store(&self) -> &Store<V> {
        &self.store
    }

    /// Values that are to be dropped outside of locks.
    #[must_use]
    pub fn take_grave(&mut self) -> Vec<V> {
        self.store.take_grave()
    }

    /// Until when hits are served.
    #[must_use]
    pub fn lease_ns(&self) -> u64 {
        self.lease_ns
    }

    /// Whether there is a tracking connection.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// Flights under way.
    #[must_use]
    pub fn flights(&self) -> usize {
        self.flights.len()
    }

    /// What joins flights, for a collector.
    pub fn joinable(&self) -> impl Iterator<Item = &F> {
        self.flights.iter().filter_map(|flight| flight.what.as_ref())
    }

    /// Whether hits are served at `now_ns`.
    #[inline]
    #[must_use]
    pub fn has_lease(&self, now_ns: u64) -> bool {
        (self.is_up && now_ns <= self.lease_ns) || !self.rules.asks_for_lease
    }

    /// The reply to a request that was asked for less than `max_age_ns` ago, if it may be served.
    #[inline]
    pub fn lookup(&mut self, key: &[u8], variant: &[u8], now_ns: u64, max_age_ns: u64) -> Lookup<'_, V> {
        let has_lease = self.has_lease(now_ns);
        match self.store.get(key, variant, now_ns, max_age_ns) {
            Found::Entry(..) if !has_lease => {
                self.counts.lease_refusals += 1;
                Lookup::Miss
            }
            Found::Entry(id, value) => {
                self.counts.hits += 1;
                Lookup::Hit(id, value)
            }
            Found::Expired => {
                self.counts.expired += 1;
                Lookup::Miss
            }
            Found::Nothing => Lookup::Miss,
        }
    }

    /// The reply of an entry that has not expired; with `stale` also without a lease. No hit is counted.
    pub fn peek(&mut self, key: &[u8], variant: &[u8], now_ns: u64, stale: bool) -> Option<&V> {
        if !stale && !self.has_lease(now_ns) {
            return None;
        }
        match self.store.get(key, variant, now_ns, self.settings.ttl_ns) {
            Found::Entry(_, value) => Some(value),
            Found::Expired | Found::Nothing => None,
        }
    }

    /// Whether the entry is still the same.
    #[must_use]
    pub fn is_same(&self, id: EntryId) -> bool {
        self.store.is_same(id)
    }

    /// A miss: whether the caller fetches, or waits for a flight. `None` without a tracking connection: it asks as if there were
    /// no cache.
    ///
    /// Called before the request is sent. The entry may live for `ttl_ns`. With `what` others may join it.
    pub fn begin(&mut self, key: &[u8], variant: &[u8], now_ns: u64, ttl_ns: u64, what: Option<F>) -> Option<Begun<F>> {
        if !self.is_up {
            return None;
        }
        let hash = hash(self.settings.seed, key);
        if what.is_some() {
            let flight = self
                .flights
                .find(hash, |one| one.what.is_some() && one.variant.as_ref() == variant && one.key.as_ref() == key);
            if let Some(what) = flight.and_then(|flight| flight.what.clone()) {
                self.counts.joined += 1;
                return Some(Begun::Joins(what));
            }
        }
        self.counts.misses += 1;
        self.flights_begun += 1;
        let id = FlightId { hash, number: self.flights_begun };
        let flight = Flight {
            id,
            key: key.into(),
            variant: variant.into(),
            sent_ns: now_ns,
            life_ms: u32::try_from(ttl_ns / 1_000_000).unwrap_or(u32::MAX),
            what,
        };
        self.flights.insert_unique(hash, flight, |flight| flight.id.hash);
        Some(Begun::Leads(id))
    }

    /// The reply of a flight has come; returns whether it was kept.
    ///
    /// `is_absent` says that the reply is that of a key that does not exist, `value_bytes` what it takes.
    pub fn land(&mut self, id: FlightId, value: V, value_bytes: usize, is_absent: bool, expiry: Expiry) -> bool {
        self.land_as(id, None, value, value_bytes, is_absent, expiry)
    }

    /// The same; the reply is kept as that of another variant, where one is given.
    pub fn land_as(
        &mut self,
        id: FlightId,
        variant: Option<&[u8]>,
        value: V,
        value_bytes: usize,
        is_absent: bool,
        expiry: Expiry,
    ) -> bool {
        let Some(flight) = self.take_flight(id) else { return false };
        let variant = variant.unwrap_or(&flight.variant);
        let mut life_ms = flight.life_ms;
        if self.rules.keeps_expiry {
            match expiry {
                Expiry::Gone if !is_absent => return false,
                Expiry::InMs(ms) => life_ms = life_ms.min(u32::try_from(ms).unwrap_or(u32::MAX)),
                Expiry::Unasked | Expiry::Never | Expiry::Gone => {}
            }
        }
        let is_kept = self.store.put(&flight.key, variant, value, value_bytes, flight.sent_ns, life_ms);
        self.counts.not_kept += u64::from(!is_kept);
        is_kept
    }

    /// The flight has failed, or its reply is not to be kept.
    pub fn fail(&mut self, id: FlightId) {
        self.take_flight(id);
    }

    /// Whether a flight may still be kept when it lands.
    #[must_use]
    pub fn is_flying(&self, id: FlightId) -> bool {
        self.flights.find(id.hash, |flight| flight.id == id).is_some()
    }

    fn take_flight(&mut self, id: FlightId) -> Option<Flight<F>> {
        self.flights.find_entry(id.hash, |flight| flight.id == id).ok().map(|found| found.remove().0)
    }

    /// The server says that a key has changed.
    pub fn invalidated(&mut self, key: &[u8]) {
        self.counts.invalidations_by_server += 1;
        self.remove_key(key);
    }

    /// The server says that all keys have changed.
    pub fn invalidated_all(&mut self) {
        self.counts.invalidations_of_all += 1;
        if self.rules.null_clears {
            self.clear();
        }
    }

    /// An own write of a key has been answered, has failed, or was cancelled.
    pub fn wrote(&mut self, key: &[u8]) {
        if self.rules.sees_own_writes {
            self.counts.invalidations_by_own_writes += 1;
            self.remove_key(key);
        }
    }

    /// The same of a write that may have changed any key.
    pub fn wrote_anything(&mut self) {
        if self.rules.sees_own_writes {
            self.counts.invalidations_of_all += 1;
            self.clear();
        }
    }

    /// Forgets everything: what is under way is not kept.
    pub fn clear(&mut self) {
        self.store.clear();
        if self.rules.kills_flights {
            self.counts.flights_killed += self.flights.len() as u64;
            self.flights.clear();
        }
    }

    fn remove_key(&mut self, key: &[u8]) {
        self.store.remove_key(key);
        if self.flights.is_empty() || !self.rules.kills_flights {
            return;
        }
        let hash = hash(self.settings.seed, key);
        while let Ok(found) = self.flights.find_entry(hash, |flight| flight.key.as_ref() == key) {
            found.remove();
            self.counts.flights_killed += 1;
        }
    }

    /// A reply has come on the tracking connection, to a request that was sent at `sent_ns`. What came before it was handed in.
    #[inline]
    pub fn proved(&mut self, sent_ns: u64) {
        if self.is_up {
            self.lease_ns = self.lease_ns.max(sent_ns.saturating_add(self.settings.max_staleness_ns));
        }
    }

    /// A connection tracks from now on: an epoch begins, without entries.
    pub fn connected(&mut self) {
        if self.rules.begins_empty {
            self.store.clear();
        }
        self.lease_ns = 0;
        self.is_up = true;
        self.counts.epochs += 1;
    }

    /// The tracking connection has ended, or is not trusted any more. Called before anything else learns of it.
    ///
    /// The entries stay for [`Machine::peek`], until the next epoch begins.
    pub fn disconnected(&mut self) {
        self.is_up = false;
        self.lease_ns = 0;
        if self.rules.ends_flights {
            self.counts.flights_killed += self.flights.len() as u64;
            self.flights.clear();
        }
    }
}
