//! The decisions.

use std::collections::HashMap;

use super::agent::Agent;
use super::operation::{Answer, Delete, Held, Identity, Move, Operation, Put, RequestName, Stamp, Status};
use super::rows::{ChangeKind, Rows, Writes};
use super::{MAX_VERSION, TIERS, next_version};
use crate::memory::expiry::is_expired;

/// Why an operation cannot be decided. The transaction must end without any of its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanError {
    /// No version is left below 2^52.
    NoVersionLeft,
    /// There is no such tier.
    NoSuchTier(u8),
}

#[derive(Debug, Default)]
struct AgentRow {
    agent: Agent,
    is_changed: bool,
}

/// The decisions of one transaction. The store gives it what [`super::Wanted`] names, then the operations in their order.
#[derive(Debug)]
pub struct Plan<'a> {
    now_us: u64,
    agents: HashMap<&'a str, AgentRow>,
    fences: HashMap<&'a str, u64>,
    rows: Rows<'a>,
    decided: usize,
}

impl<'a> Plan<'a> {
    /// Of a transaction at a time, in microseconds since the epoch, that has read nothing yet.
    #[must_use]
    pub fn new(now_us: u64) -> Self {
        Self::with_capacity(now_us, 0)
    }

    /// The same, with room for so many operations.
    #[must_use]
    pub fn with_capacity(now_us: u64, operations: usize) -> Self {
        let rows = Rows::with_capacity(operations);
        Self { now_us, agents: HashMap::new(), fences: HashMap::new(), rows, decided: 0 }
    }

    /// The row of an agent. One that is not given begins at nothing.
    pub fn add_agent(&mut self, name: &'a str, agent: Agent) {
        self.agents.insert(name, AgentRow { agent, is_changed: false });
    }

    /// Copies of this user up to this version are erased, and refused.
    pub fn add_fence(&mut self, user_id: &'a str, version: u64) {
        self.fences.insert(user_id, version);
    }

    /// A row, whose agent must be given, too.
    pub fn add_held(&mut self, held: Held<'a>) {
        self.rows.add(held);
    }

    /// A further idempotency key that stands for a memory, whose row must be given, too.
    pub fn add_later_request(&mut self, name: RequestName<'a>, id: &'a str) {
        self.rows.add_later_request(name, id);
    }

    /// What becomes of the next operation.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn decide(&mut self, operation: &Operation<'a>) -> Result<Answer<'a>, PlanError> {
        let source = self.decided;
        self.decided += 1;
        match operation {
            Operation::Put(put) => self.put(put, source),
            Operation::Delete(delete) => Ok(self.delete(delete)),
            Operation::Move(one) => self.relabel(one),
        }
    }

    /// What is to be written, and the agents' rows that have changed.
    #[must_use]
    pub fn finish(self) -> (Writes<'a>, Vec<(&'a str, Agent)>) {
        let changed = self.agents.into_iter().filter(|(_, row)| row.is_changed);
        let mut agents: Vec<_> = changed.map(|(name, row)| (name, row.agent)).collect();
        agents.sort_unstable_by_key(|(name, _)| *name);
        (self.rows.finish(), agents)
    }

    // --- puts ---

    fn put(&mut self, put: &Put<'a>, source: usize) -> Result<Answer<'a>, PlanError> {
        if usize::from(put.tier) >= TIERS {
            return Err(PlanError::NoSuchTier(put.tier));
        }
        let fence = self.fence_of(put.agent_id, put.identity.user_id);
        let generation = self.agent(put.agent_id).generation;
        if (put.generation > 0 && put.generation < generation) || (put.version > 0 && put.version <= fence) {
            return Ok(Answer::new(Status::Erased, put.id));
        }
        let mut held = self.rows.find(put.id);
        let mut takes_over = false;
        if held.is_none() {
            if let Some(answer) = self.existing(put) {
                return Ok(answer);
            }
            if let Some(namesake) = self.namesake(put) {
                if put.version == 0 {
                    held = Some(namesake);
                    takes_over = true;
                } else if stamp_of(put) > namesake.stamp() {
                    let version = next_version(namesake.version, self.agent(put.agent_id).last_version);
                    self.bury(&namesake, version, put.writer, true);
                } else {
                    return Ok(self.leave_tombstone(put.id, put.agent_id, put.version, put.writer, Status::Deleted));
                }
            }
        }
        let refusal = match &held {
            None => put.if_version.map(|_| Answer::new(Status::Absent, put.id)),
            Some(held) => self.refusal(put, held, takes_over),
        };
        if let Some(answer) = refusal {
            return Ok(answer);
        }
        let answer = self.store(put, held, fence, source)?;
        if takes_over
            && let Some(name) = put.identity.request_name(put.agent_id)
            && self.by_request(&name).is_none_or(|known| known.id != answer.id)
        {
            self.rows.note_request(name, answer.id, answer.version);
        }
        Ok(answer)
    }

    /// The answer where another memory stands for this one, which is not there under its own id.
    fn existing(&mut self, put: &Put<'a>) -> Option<Answer<'a>> {
        let request = put.identity.request_name(put.agent_id);
        let known = request.and_then(|name| self.by_request(&name));
        // A version of its own was acknowledged under its own id: equality, which is a hint, does not take that back.
        let twin = if put.version == 0 { put.identity.twin(put.agent_id) } else { None };
        let existing = known.or_else(|| {
            let twin = twin?;
            self.rows.by_twin(&twin).filter(|held| self.is_living(held)).min_by_key(|held| held.seq)
        })?;
        let is_alive = !existing.is_deleted && !self.is_expired(&existing);
        if is_alive
            && known.is_none()
            && let Some(name) = request
        {
            self.rows.note_request(name, existing.id, existing.version);
        }
        Some(Answer::of(Status::Existing, &existing, is_alive))
    }

    fn by_request(&self, name: &RequestName<'a>) -> Option<Held<'a>> {
        let own = self.rows.by_request(name).filter(|held| !self.is_erased(held)).min_by_key(|held| held.seq);
        own.or_else(|| self.rows.by_later_request(name).filter(|held| !self.is_erased(held)))
    }

    /// The living memory of the same key, under another id. One that has expired makes room: it becomes a tombstone.
    fn namesake(&mut self, put: &Put<'a>) -> Option<Held<'a>> {
        let name = put.identity.key_name(put.agent_id)?;
        let mut holders =
            self.rows.by_key(&name).filter(|held| held.id != put.id && !held.is_deleted && !self.is_erased(held));
        let held = holders.next()?;
        drop(holders);
        if self.is_expired(&held) {
            let version = next_version(self.agent(put.agent_id).last_version, self.now_us);
            self.bury(&held, version, put.writer, true);
            return None;
        }
        Some(held)
    }

    fn refusal(&mut self, put: &Put<'a>, held: &Held<'a>, takes_over: bool) -> Option<Answer<'a>> {
        if held.agent_id != put.agent_id {
            return Some(Answer::new(Status::Foreign, put.id));
        }
        // A version of its own may come from before the expiry, which it may have put off.
        let is_gone = held.is_deleted || (put.version == 0 && self.is_expired(held));
        if is_gone || held.seq <= self.agent(held.agent_id).erased_seq {
            return Some(Answer::of(Status::Deleted, held, false));
        }
        if self.is_erased(held) {
            return Some(Answer::new(Status::Erased, put.id));
        }
        if put.creates && !takes_over {
            return Some(Answer::of(Status::Existing, held, true));
        }
        if put.if_version.is_some_and(|version| version != held.version) {
            return Some(Answer::of(Status::Conflict, held, true));
        }
        if put.version > 0 && stamp_of(put) <= held.stamp() {
            return Some(Answer::of(Status::Stale, held, true));
        }
        let key = put.identity.key_name(put.agent_id);
        if key.is_some() && key != held.identity.key_name(held.agent_id) {
            let other = self.namesake(put)?;
            return Some(Answer::of(Status::Existing, &other, true));
        }
        None
    }

    fn store(
        &mut self,
        put: &Put<'a>,
        held: Option<Held<'a>>,
        fence: u64,
        source: usize,
    ) -> Result<Answer<'a>, PlanError> {
        let now_us = self.now_us;
        let agent = self.agent(put.agent_id);
        let (mut version, mut created_us) = (put.version, put.created_us);
        if version == 0 {
            version = next_version(agent.last_version.max(fence), now_us);
            if version > MAX_VERSION {
                return Err(PlanError::NoVersionLeft);
            }
            created_us = match (&held, created_us) {
                (Some(held), _) => held.created_us,
                (None, 0) => version,
                (None, given) => given,
            };
        }
        agent.note_version(version);
        agent.count_in(put.tier);
        if let Some(held) = &held {
            agent.count_out(held.tier);
        }
        let idempotency_key = held.map_or(put.identity.idempotency_key, |held| held.identity.idempotency_key);
        let after = Held {
            row: held.map_or(0, |held| held.row),
            id: held.map_or(put.id, |held| held.id),
            agent_id: put.agent_id,
            version,
            writer: put.writer,
            is_deleted: false,
            tier: put.tier,
            seq: self.advance(put.agent_id),
            created_us,
            identity: Identity { idempotency_key, ..put.identity },
        };
        let kind = if held.is_none() { ChangeKind::Insert } else { ChangeKind::Replace };
        self.rows.set(kind, after, held, Some(source));
        let generation = self.agent(put.agent_id).generation;
        let stored = Answer::of(Status::Applied, &after, held.is_some());
        Ok(Answer { seq: after.seq, stored: Some(after), generation, ..stored })
    }

    // --- deletes and moves ---

    fn delete(&mut self, delete: &Delete<'a>) -> Answer<'a> {
        let now_us = self.now_us;
        let Agent { generation, erased_seq, erased_version, last_version, .. } = *self.agent(delete.agent_id);
        let is_of_before = delete.generation > 0 && delete.generation < generation;
        if is_of_before || (delete.version > 0 && delete.version <= erased_version) {
            return Answer::new(Status::Erased, delete.id);
        }
        let version = if delete.version > 0 { delete.version } else { next_version(last_version, now_us) };
        let Some(held) = self.rows.find(delete.id) else {
            if delete.if_version.is_some() || delete.is_held_only {
                return Answer::new(Status::Absent, delete.id);
            }
            return self.leave_tombstone(delete.id, delete.agent_id, version, delete.writer, Status::Applied);
        };
        if held.agent_id != delete.agent_id {
            return Answer::new(Status::Foreign, delete.id);
        }
        let is_alive = !held.is_deleted && held.seq > erased_seq;
        if delete.if_version.is_some_and(|version| version != held.version) {
            return Answer::of(Status::Conflict, &held, is_alive);
        }
        let stamp = Stamp { is_deleted: true, version: delete.version, writer: delete.writer };
        let is_greater = delete.version > 0 && stamp > held.stamp();
        if !is_alive && !is_greater && !delete.erases {
            return Answer::of(Status::Stale, &held, false);
        }
        // To its eraser what is below the fence was there, to others it was not.
        let existed = is_alive && !self.is_expired(&held) && (delete.erases || !self.is_erased(&held));
        let seq = self.bury(&held, version, delete.writer, !delete.erases);
        Answer { version, seq, existed, ..Answer::new(Status::Applied, held.id) }
    }

    fn relabel(&mut self, one: &Move<'a>) -> Result<Answer<'a>, PlanError> {
        if usize::from(one.tier) >= TIERS {
            return Err(PlanError::NoSuchTier(one.tier));
        }
        let Some(held) = self.rows.find(one.id) else { return Ok(Answer::new(Status::Absent, one.id)) };
        let agent = self.agent(one.agent_id);
        if held.is_deleted || held.agent_id != one.agent_id || held.seq <= agent.erased_seq {
            return Ok(Answer { id: one.id, ..Answer::of(Status::Absent, &held, false) });
        }
        if held.version != one.version {
            return Ok(Answer::of(Status::Stale, &held, true));
        }
        if held.tier == one.tier {
            return Ok(Answer::of(Status::Applied, &held, true));
        }
        agent.count_out(held.tier);
        agent.count_in(one.tier);
        let seq = self.advance(one.agent_id);
        self.rows.label(held.id, one.tier, seq);
        Ok(Answer { seq, ..Answer::of(Status::Applied, &held, true) })
    }

    // --- tombstones ---

    /// Of an id that is not held.
    fn leave_tombstone(
        &mut self,
        id: &'a str,
        agent_id: &'a str,
        version: u64,
        writer: u64,
        status: Status,
    ) -> Answer<'a> {
        self.agent(agent_id).note_version(version);
        let seq = self.advance(agent_id);
        let after = Held { id, agent_id, version, writer, is_deleted: true, seq, ..Held::default() };
        self.rows.set(ChangeKind::Insert, after, None, None);
        Answer { version, seq, ..Answer::new(status, id) }
    }

    /// Of a row that is there; its place in the feed.
    fn bury(&mut self, held: &Held<'a>, version: u64, writer: u64, keeps_request: bool) -> u64 {
        let is_erased = self.is_erased(held);
        let agent = self.agent(held.agent_id);
        agent.note_version(version);
        if !held.is_deleted && held.seq > agent.erased_seq {
            agent.count_out(held.tier);
        }
        let seq = self.advance(held.agent_id);
        let Identity { user_id, idempotency_key, .. } = held.identity;
        // A repeated create is answered "deleted" and does not restore the memory.
        let identity = if keeps_request && !idempotency_key.is_empty() && !is_erased {
            Identity { user_id, idempotency_key, ..Identity::default() }
        } else {
            Identity::default()
        };
        let Held { row, id, agent_id, .. } = *held;
        let after = Held { row, id, agent_id, version, writer, is_deleted: true, seq, identity, ..Held::default() };
        self.rows.set(ChangeKind::Bury, after, Some(*held), None);
        seq
    }

    // --- what the transaction knows ---

    fn agent(&mut self, name: &'a str) -> &mut Agent {
        &mut self.agents.entry(name).or_default().agent
    }

    fn advance(&mut self, name: &'a str) -> u64 {
        let row = self.agents.entry(name).or_default();
        row.is_changed = true;
        row.agent.advance(self.now_us)
    }

    fn fence_of(&mut self, agent_id: &'a str, user_id: &str) -> u64 {
        self.agent(agent_id).erased_version.max(self.user_fence(user_id))
    }

    fn user_fence(&self, user_id: &str) -> u64 {
        if self.fences.is_empty() || user_id.is_empty() { 0 } else { self.fences.get(user_id).copied().unwrap_or(0) }
    }

    fn is_erased(&self, held: &Held<'a>) -> bool {
        let erased_seq = self.agents.get(held.agent_id).map_or(0, |row| row.agent.erased_seq);
        held.seq <= erased_seq || held.version <= self.user_fence(held.identity.user_id)
    }

    fn is_expired(&self, held: &Held<'a>) -> bool {
        is_expired(held.identity.expires_at, seconds(self.now_us))
    }

    fn is_living(&self, held: &Held<'a>) -> bool {
        !held.is_deleted && !self.is_erased(held) && !self.is_expired(held)
    }
}

fn stamp_of(put: &Put<'_>) -> Stamp {
    Stamp { is_deleted: false, version: put.version, writer: put.writer }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
