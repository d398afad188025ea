//! One transaction's writes: decided by the plan, and written.

use std::collections::HashMap;

use agent_memory_core::memory::copy::place::{MEMORY_TYPE, METADATA, TAGS};
use agent_memory_core::memory::copy::{Copy, Numbers};
use agent_memory_core::memory::plan::{Change, ChangeKind, Held, LONG_TERM, Plan, Wanted, Writes};

use super::agents::{self, Agents};
use super::operation::{Compressible, Outcome, Payload, Write};
use super::raw::{Connection, SqliteError, Statement, Value};
use super::reading::{self, Found};
use super::writer::Stop;

/// In the place of a dictionary's number: the content as it is.
const UNCOMPRESSED: i64 = -1;
const ELEMENT_F32: i64 = 0;

statements! {
    pub(super) struct Statements {
        last_row: "SELECT coalesce(max(row_id), 0) FROM memories",
        insert: "INSERT INTO memories (row_id, agent_no, id, version, writer, deleted, tier, created_us, timestamp, step, \
                 importance, memory_type, namespace, user_id, session_id, key, idempotency_key, expires_at, tags, \
                 metadata, content_kind, content, dictionary, checksum, content_hash, seq) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        replace: "UPDATE memories SET version = ?4, writer = ?5, deleted = ?6, tier = ?7, created_us = ?8, timestamp = ?9, \
                  step = ?10, importance = ?11, memory_type = ?12, namespace = ?13, user_id = ?14, session_id = ?15, \
                  key = ?16, idempotency_key = ?17, expires_at = ?18, tags = ?19, metadata = ?20, content_kind = ?21, \
                  content = ?22, dictionary = ?23, checksum = ?24, content_hash = ?25, seq = ?26 \
                  WHERE row_id = ?1 AND agent_no = ?2 AND id = ?3 AND version = ?27 RETURNING 1",
        bury: "UPDATE memories SET version = ?, writer = ?, deleted = 1, timestamp = 0, step = NULL, importance = 0, \
               memory_type = '', namespace = '', user_id = ?, session_id = '', key = '', idempotency_key = ?, \
               expires_at = NULL, tags = '', metadata = '', content_kind = 0, content = x'', dictionary = -1, \
               checksum = 0, content_hash = x'', seq = ? WHERE row_id = ? AND version = ? RETURNING 1",
        label: "UPDATE memories SET tier = ?, seq = ? WHERE row_id = ? AND version = ? RETURNING 1",
        // Of new rows: what replaces something takes a savepoint.
        vector: "INSERT INTO vectors (row_id, element, vector) VALUES (?, ?, ?)",
        other_vector: "INSERT OR REPLACE INTO vectors (row_id, element, vector) VALUES (?, ?, ?)",
        drop_vector: "DELETE FROM vectors WHERE row_id = ?",
        drop_accesses: "DELETE FROM accesses WHERE row_id = ?",
        tag: "INSERT INTO memory_tags (agent_no, tag, row_id) VALUES (?, ?, ?)",
        drop_tags: "DELETE FROM memory_tags WHERE agent_no = ?1 AND row_id = ?2 \
                    AND tag IN (SELECT value FROM json_each(?3))",
        request: "INSERT OR REPLACE INTO requests (agent_no, user_id, idempotency_key, id, version) VALUES (?, ?, ?, ?, ?)",
    }
}

pub(super) struct All {
    pub(super) agents: agents::Statements,
    pub(super) reading: reading::Statements,
    pub(super) writing: Statements,
}

/// Decides and writes all of them, in their order; what became of each. Where ids are taken for new ones they are not looked
/// up: it fails if one of them is known.
pub(super) fn apply(
    connection: &Connection,
    statements: &mut All,
    writes: &[Write<'_>],
    compressible: Compressible,
    takes_for_new: bool,
    now_us: u64,
) -> Result<Vec<Outcome>, Stop> {
    let operations: Vec<_> = writes.iter().map(|write| write.operation).collect();
    let mut wanted = Wanted::of(&operations);
    if takes_for_new {
        wanted.ids.clear();
    }
    let mut agents = Agents::read(connection, &mut statements.agents, wanted.agents.iter().copied())?;
    let number = |name: &str| agents.number(name);
    let found = reading::read(connection, &mut statements.reading, writes, &wanted, compressible, number)?;
    // A row of an agent that none of the operations names: its own agent's row decides whether it is erased.
    agents.read_more(connection, &mut statements.agents, found.rows.values().map(|row| row.agent_id.as_str()))?;
    let mut plan = prepare(now_us, &agents, &found, writes.len());
    let mut copies = Vec::with_capacity(writes.len());
    let mut outcomes = Vec::with_capacity(writes.len());
    for write in writes {
        let answer = plan.decide(&write.operation).map_err(|_| Stop::Undecided)?;
        let stored = write.payload.as_ref().and_then(|payload| answer.stored_copy(&payload.copy));
        outcomes.push(Outcome::of(write, &answer, stored.as_ref()));
        copies.push(stored);
    }
    let (decided, changed) = plan.finish();
    let added = agents.write(connection, &mut statements.agents, changed)?;
    let (statements, agents) = (&mut statements.writing, AgentNumbers { agents: &agents, added });
    Transaction { connection, statements, writes, copies, found: &found, agents }.write(&decided)?;
    Ok(outcomes)
}

fn prepare<'a>(now_us: u64, agents: &'a Agents, found: &'a Found<'a>, operations: usize) -> Plan<'a> {
    let mut plan = Plan::with_capacity(now_us, operations);
    agents.rows().for_each(|(name, agent)| plan.add_agent(name, agent.clone()));
    found.rows.values().for_each(|row| plan.add_held(row.held()));
    found.fences.iter().for_each(|(user, version)| plan.add_fence(user, *version));
    for (name, row) in &found.later_requests {
        plan.add_later_request(*name, found.rows[row].held().id);
    }
    plan
}

/// Of those that were there and of new ones.
struct AgentNumbers<'t> {
    agents: &'t Agents,
    added: HashMap<String, i64>,
}

impl AgentNumbers<'_> {
    fn of(&self, name: &str) -> Result<i64, Stop> {
        self.agents.number(name).or_else(|| self.added.get(name).copied()).ok_or(Stop::Undecided)
    }
}

struct Transaction<'t, 'a> {
    connection: &'t Connection,
    statements: &'t mut Statements,
    writes: &'t [Write<'a>],
    /// The copies of the puts that were applied, by operation.
    copies: Vec<Option<Copy<'a>>>,
    found: &'t Found<'a>,
    agents: AgentNumbers<'t>,
}

/// A row to be written in full.
struct Place {
    row_id: i64,
    agent_no: i64,
}

impl Transaction<'_, '_> {
    fn write(&mut self, decided: &Writes<'_>) -> Result<(), Stop> {
        self.insert_all(&decided.changes)?;
        for change in &decided.changes {
            match (change.kind, &change.before) {
                (ChangeKind::Replace, Some(before)) => self.replace(change, before)?,
                (ChangeKind::Bury, Some(before)) => self.bury(change, before)?,
                _ => {}
            }
        }
        for request in &decided.requests {
            let name = request.name;
            let values = [
                Value::Int(self.agents.of(name.agent_id)?),
                Value::Text(name.user_id),
                Value::Text(name.idempotency_key),
                Value::Text(request.id),
                whole(request.version)?,
            ];
            self.connection.execute(&mut self.statements.request, &values)?;
        }
        for label in &decided.labels {
            if label.tier == LONG_TERM && self.found.rows[&label.row].is_compressible {
                return Err(Stop::Undecided);
            }
            let (seq, version) = (whole(label.seq)?, whole(label.version)?);
            let values = [Value::Int(label.tier.into()), seq, Value::Int(label.row), version];
            self.expect_one(|statements| &mut statements.label, &values)?;
        }
        Ok(())
    }

    /// Table by table: the pages of each are filled one after the other.
    fn insert_all(&mut self, changes: &[Change<'_>]) -> Result<(), Stop> {
        let inserted = || changes.iter().filter(|change| change.kind == ChangeKind::Insert);
        if inserted().next().is_none() {
            return Ok(());
        }
        let [last_row] = self.connection.first_row(&mut self.statements.last_row, &[])?.unwrap_or([0]);
        for (row_id, change) in (last_row + 1..).zip(inserted()) {
            let place = Place { row_id, agent_no: self.number(&change.after)? };
            match self.source(change)? {
                Some((payload, copy)) => {
                    let values = values_of(&place, &change.after, &copy, &payload)?;
                    self.connection.execute(&mut self.statements.insert, &values)?;
                }
                None => self.insert_tombstone(&place, &change.after)?,
            }
        }
        for (row_id, change) in (last_row + 1..).zip(inserted()) {
            if let Some((_, copy)) = self.source(change)?
                && !copy.vector.is_empty()
            {
                self.connection.execute(&mut self.statements.vector, &vector_values(row_id, copy.vector))?;
            }
        }
        for (row_id, change) in (last_row + 1..).zip(inserted()) {
            if let Some((payload, _)) = self.source(change)? {
                self.put_tags(&Place { row_id, agent_no: self.number(&change.after)? }, payload.tags)?;
            }
        }
        Ok(())
    }

    fn insert_tombstone(&mut self, place: &Place, after: &Held<'_>) -> Result<(), Stop> {
        let numbers = Numbers { version: after.version, writer: after.writer, seq: after.seq, ..Numbers::default() };
        let copy = Copy { numbers, id: after.id, agent_id: after.agent_id, texts: [""; 8], vector: &[], content: &[] };
        let payload = Payload { copy, content_hash: &[], packed: None, tags: &[] };
        let values = values_of(place, after, &copy, &payload)?;
        self.connection.execute(&mut self.statements.insert, &values)?;
        Ok(())
    }

    fn replace(&mut self, change: &Change<'_>, before: &Held<'_>) -> Result<(), Stop> {
        let place = Place { row_id: before.row, agent_no: self.number(&change.after)? };
        let Some((payload, copy)) = self.source(change)? else { return Err(Stop::Undecided) };
        let [row, rest @ ..] = values_of(&place, &change.after, &copy, &payload)?;
        let mut values = [Value::Null; 27];
        (values[0], values[26]) = (row, whole(before.version)?);
        values[1..26].copy_from_slice(&rest);
        self.expect_one(|statements| &mut statements.replace, &values)?;
        if copy.vector.is_empty() {
            self.connection.execute(&mut self.statements.drop_vector, &[Value::Int(before.row)])?;
        } else {
            self.connection.execute(&mut self.statements.other_vector, &vector_values(before.row, copy.vector))?;
        }
        if self.found.rows[&before.row].tags != copy.texts[TAGS] {
            self.drop_tags(&place)?;
            self.put_tags(&place, payload.tags)?;
        }
        Ok(())
    }

    fn bury(&mut self, change: &Change<'_>, before: &Held<'_>) -> Result<(), Stop> {
        let after = &change.after;
        let row = Value::Int(before.row);
        let values = [
            whole(after.version)?,
            whole(after.writer)?,
            Value::Text(after.identity.user_id),
            Value::Text(after.identity.idempotency_key),
            whole(after.seq)?,
            row,
            whole(before.version)?,
        ];
        self.expect_one(|statements| &mut statements.bury, &values)?;
        self.drop_tags(&Place { row_id: before.row, agent_no: self.number(after)? })?;
        self.connection.execute(&mut self.statements.drop_vector, &[row])?;
        self.connection.execute(&mut self.statements.drop_accesses, &[row])?;
        Ok(())
    }

    fn put_tags(&mut self, place: &Place, tags: &[String]) -> Result<(), Stop> {
        for tag in tags {
            let values = [Value::Int(place.agent_no), Value::Text(tag), Value::Int(place.row_id)];
            self.connection.execute(&mut self.statements.tag, &values)?;
        }
        Ok(())
    }

    fn drop_tags(&mut self, place: &Place) -> Result<(), Stop> {
        let tags = &self.found.rows[&place.row_id].tags;
        if !tags.is_empty() {
            let values = [Value::Int(place.agent_no), Value::Int(place.row_id), Value::Text(tags)];
            self.connection.execute(&mut self.statements.drop_tags, &values)?;
        }
        Ok(())
    }

    /// R1 and R6 are conditions of the statements as well: what they do not match was decided wrongly.
    fn expect_one(
        &mut self,
        statement: impl FnOnce(&mut Statements) -> &mut Statement,
        values: &[Value<'_>],
    ) -> Result<(), Stop> {
        match self.connection.first_row::<0>(statement(self.statements), values)? {
            Some(_) => Ok(()),
            None => Err(Stop::Undecided),
        }
    }

    fn number(&self, held: &Held<'_>) -> Result<i64, Stop> {
        self.agents.of(held.agent_id)
    }
}

impl<'a> Transaction<'_, 'a> {
    /// The copy that a row is to have, as it is after all operations; None of a tombstone.
    fn source(&self, change: &Change<'_>) -> Result<Option<(Payload<'a>, Copy<'a>)>, Stop> {
        let Some(at) = change.source else { return Ok(None) };
        match (&self.writes[at].payload, &self.copies[at]) {
            (Some(payload), Some(copy)) => Ok(Some((*payload, *copy))),
            _ => Err(Stop::Undecided),
        }
    }
}

fn vector_values(row_id: i64, vector: &[u8]) -> [Value<'_>; 3] {
    [Value::Int(row_id), Value::Int(ELEMENT_F32), Value::Blob(vector)]
}

/// In the order of the columns of `Statements::insert`.
fn values_of<'v>(
    place: &Place,
    after: &Held<'v>,
    copy: &Copy<'v>,
    payload: &Payload<'v>,
) -> Result<[Value<'v>; 26], Stop> {
    let Numbers { timestamp, step, importance, expires_at, content_kind, checksum, .. } = copy.numbers;
    let (content, dictionary) = match payload.packed {
        Some(packed) if after.tier == LONG_TERM => packed,
        // Moved there by an operation that follows: how it is compressed is not known here.
        None if after.tier == LONG_TERM && !copy.content.is_empty() => return Err(Stop::Undecided),
        _ => (copy.content, UNCOMPRESSED),
    };
    let identity = &after.identity;
    Ok([
        Value::Int(place.row_id),
        Value::Int(place.agent_no),
        Value::Text(after.id),
        whole(after.version)?,
        whole(after.writer)?,
        Value::Int(after.is_deleted.into()),
        Value::Int(after.tier.into()),
        whole(after.created_us)?,
        Value::Real(timestamp),
        step.map_or(Value::Null, Value::Int),
        Value::Real(importance),
        Value::Text(copy.texts[MEMORY_TYPE]),
        Value::Text(identity.namespace),
        Value::Text(identity.user_id),
        Value::Text(identity.session_id),
        Value::Text(identity.key),
        Value::Text(identity.idempotency_key),
        expires_at.map_or(Value::Null, Value::Real),
        Value::Text(copy.texts[TAGS]),
        Value::Text(copy.texts[METADATA]),
        Value::Int(content_kind.into()),
        Value::Blob(content),
        Value::Int(dictionary),
        Value::Int(checksum.into()),
        Value::Blob(payload.content_hash),
        whole(after.seq)?,
    ])
}

fn whole(number: u64) -> Result<Value<'static>, Stop> {
    i64::try_from(number).map(Value::Int).map_err(|_| Stop::Undecided)
}
