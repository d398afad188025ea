//! What a plan is asked, what it must know of the rows that are there, and what it answers.

use crate::memory::copy::{Copy, Numbers, place};

/// What a memory may have in common with another one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Identity<'a> {
    /// The user it is about; empty: none.
    pub user_id: &'a str,
    /// Labels, percent-encoded, each followed by "/".
    pub namespace: &'a str,
    /// The session it is from.
    pub session_id: &'a str,
    /// The caller's name for it; empty: none.
    pub key: &'a str,
    /// The caller's name for the call that made it; empty: none.
    pub idempotency_key: &'a str,
    /// Of user, namespace and content, where the memory takes part in deduplication; else empty.
    pub content_hash: &'a [u8],
    /// Seconds since the epoch, if ever.
    pub expires_at: Option<f64>,
}

/// What the order of copies looks at: a tombstone beats every living copy, then the greater version, then the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Whether it is a tombstone.
    pub is_deleted: bool,
    /// Microseconds since the epoch.
    pub version: u64,
    /// The writer of this version.
    pub writer: u64,
}

/// One write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation<'a> {
    /// Store a living copy.
    Put(Put<'a>),
    /// Leave a tombstone.
    Delete(Delete<'a>),
    /// Put another label on an unchanged version (R6).
    Move(Move<'a>),
}

/// A living copy to be stored, as far as a plan looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Put<'a> {
    /// Name of the memory.
    pub id: &'a str,
    /// Name of its agent.
    pub agent_id: &'a str,
    /// 0: the store assigns one; else the copy is taken as it is, if it beats what is held.
    pub version: u64,
    /// The writer of this version.
    pub writer: u64,
    /// 0 short-term, 1 intermediate, 2 long-term.
    pub tier: u8,
    /// When it was first stored; 0: with this version. Kept from what is held where the version is assigned.
    pub created_us: u64,
    /// The agent's generation it was written in; 0: any.
    pub generation: u32,
    /// See the type.
    pub identity: Identity<'a>,
    /// Only over exactly this version.
    pub if_version: Option<u64>,
    /// Only as a new memory: an id that is held is answered with [`Status::Existing`].
    pub creates: bool,
}

/// A tombstone to be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delete<'a> {
    /// Name of the memory.
    pub id: &'a str,
    /// Name of its agent.
    pub agent_id: &'a str,
    /// 0: the store assigns one.
    pub version: u64,
    /// The writer of the tombstone.
    pub writer: u64,
    /// Only over exactly this version.
    pub if_version: Option<u64>,
    /// The agent's generation it was written in; 0: any.
    pub generation: u32,
    /// Of an id that is not held leave none.
    pub is_held_only: bool,
    /// The tombstone keeps no idempotency key, and one that has it loses it.
    pub erases: bool,
}

/// A label to be put on a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Move<'a> {
    /// Name of the memory.
    pub id: &'a str,
    /// Name of its agent.
    pub agent_id: &'a str,
    /// The version that it must still have.
    pub version: u64,
    /// Where it goes.
    pub tier: u8,
}

/// A row, as far as a plan looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Held<'a> {
    /// Its number in the database; 0: it is not there yet.
    pub row: i64,
    /// Name of the memory.
    pub id: &'a str,
    /// Name of its agent.
    pub agent_id: &'a str,
    /// Of the copy.
    pub version: u64,
    /// Of the copy.
    pub writer: u64,
    /// Whether it is a tombstone.
    pub is_deleted: bool,
    /// 0 short-term, 1 intermediate, 2 long-term.
    pub tier: u8,
    /// Its place in the agent's feed.
    pub seq: u64,
    /// When it was first stored. Moves need neither this nor `identity`.
    pub created_us: u64,
    /// See the type.
    pub identity: Identity<'a>,
}

impl<'a> Put<'a> {
    /// What a plan looks at of a copy.
    #[must_use]
    pub fn of(copy: &Copy<'a>, content_hash: &'a [u8], if_version: Option<u64>, creates: bool) -> Self {
        let Numbers { version, writer, tier, created_us, generation, expires_at, .. } = copy.numbers;
        let identity = Identity {
            user_id: copy.texts[place::USER],
            namespace: copy.texts[place::NAMESPACE],
            session_id: copy.texts[place::SESSION],
            key: copy.texts[place::KEY],
            idempotency_key: copy.texts[place::IDEMPOTENCY_KEY],
            content_hash,
            expires_at,
        };
        let Copy { id, agent_id, .. } = *copy;
        Self { id, agent_id, version, writer, tier, created_us, generation, identity, if_version, creates }
    }
}

impl Held<'_> {
    /// What the order of copies looks at.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp { is_deleted: self.is_deleted, version: self.version, writer: self.writer }
    }
}

/// What a caller's key is unique in, and the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyName<'a> {
    /// The agent.
    pub agent_id: &'a str,
    /// The user; empty: none.
    pub user_id: &'a str,
    /// Encoded.
    pub namespace: &'a str,
    /// Never empty.
    pub key: &'a str,
}

/// What an idempotency key is unique in, and the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestName<'a> {
    /// The agent.
    pub agent_id: &'a str,
    /// The user; empty: none.
    pub user_id: &'a str,
    /// Never empty.
    pub idempotency_key: &'a str,
}

/// What makes memories without a key duplicates of one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Twin<'a> {
    /// The agent.
    pub agent_id: &'a str,
    /// Never empty.
    pub content_hash: &'a [u8],
    /// The session; empty: none.
    pub session_id: &'a str,
    expires_at_bits: Option<u64>,
}

impl Twin<'_> {
    /// Seconds since the epoch, if ever.
    #[must_use]
    pub fn expires_at(&self) -> Option<f64> {
        self.expires_at_bits.map(f64::from_bits)
    }
}

impl<'a> Identity<'a> {
    /// The name of its key, if it has one.
    #[must_use]
    pub fn key_name(&self, agent_id: &'a str) -> Option<KeyName<'a>> {
        let name = KeyName { agent_id, user_id: self.user_id, namespace: self.namespace, key: self.key };
        (!self.key.is_empty()).then_some(name)
    }

    /// The name of its idempotency key, if it has one.
    #[must_use]
    pub fn request_name(&self, agent_id: &'a str) -> Option<RequestName<'a>> {
        let name = RequestName { agent_id, user_id: self.user_id, idempotency_key: self.idempotency_key };
        (!self.idempotency_key.is_empty()).then_some(name)
    }

    /// What its duplicates have in common with it, if it takes part in deduplication.
    #[must_use]
    pub fn twin(&self, agent_id: &'a str) -> Option<Twin<'a>> {
        // Adding 0 makes -0 the 0 that it is equal to.
        let expires_at_bits = self.expires_at.map(|at| (at + 0.0).to_bits());
        let twin = Twin { agent_id, content_hash: self.content_hash, session_id: self.session_id, expires_at_bits };
        (!self.content_hash.is_empty() && self.key.is_empty()).then_some(twin)
    }
}

/// What became of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is done.
    Applied,
    /// The store holds this copy or a greater one; of a move: another version.
    Stale,
    /// A tombstone is in the way.
    Deleted,
    /// `if_version` is not the version held.
    Conflict,
    /// The idempotency key, the equal content or the id is there already.
    Existing,
    /// The write is of a time before its agent or user was erased.
    Erased,
    /// There is no such memory to move, or for `if_version`.
    Absent,
    /// The id belongs to another agent.
    Foreign,
}

/// The answer to one operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer<'a> {
    /// What became of it.
    pub status: Status,
    /// The memory, which for a key, idempotency and deduplication may be an older one.
    pub id: &'a str,
    /// The version held now; 0: none.
    pub version: u64,
    /// The place in the feed; 0 where nothing changed.
    pub seq: u64,
    /// Whether a copy was held before, neither a tombstone nor expired.
    pub existed: bool,
    /// Of a put that was applied: the row as this operation leaves it.
    pub stored: Option<Held<'a>>,
    /// The agent's generation, where something is stored.
    pub generation: u32,
}

impl<'a> Answer<'a> {
    pub(super) fn new(status: Status, id: &'a str) -> Self {
        Self { status, id, version: 0, seq: 0, existed: false, stored: None, generation: 0 }
    }

    pub(super) fn of(status: Status, held: &Held<'a>, existed: bool) -> Self {
        Self { version: held.version, existed, ..Self::new(status, held.id) }
    }

    /// The copy of a put that was applied as it is held now, with the checksum that belongs to that. A copy that is taken
    /// as it is keeps its own, so that damage stays visible.
    #[must_use]
    pub fn stored_copy(&self, given: &Copy<'a>) -> Option<Copy<'a>> {
        let held = self.stored.as_ref()?;
        let mut copy = Copy { id: held.id, ..*given };
        let Held { version, writer, created_us, seq, .. } = *held;
        copy.numbers = Numbers { version, writer, created_us, seq, generation: self.generation, ..given.numbers };
        copy.texts[place::IDEMPOTENCY_KEY] = held.identity.idempotency_key;
        if given.numbers.version == 0 || copy.texts != given.texts {
            copy.numbers.checksum = copy.checksum();
        }
        Some(copy)
    }
}
