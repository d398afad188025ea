//! New memories.

use std::collections::HashSet;

use agent_memory_core::memory::copy::place::{
    IDEMPOTENCY_KEY, KEY, MEMORY_TYPE, METADATA, NAMESPACE, SESSION, TAGS, USER,
};
use agent_memory_core::memory::copy::{Copy, Numbers};

use super::agents::{self, Agents};
use super::raw::{Connection, SqliteError, Statement, Value};
use super::writer::Stop;

/// A memory to be written, as the caller gives it.
#[derive(Debug, Clone, Copy)]
pub struct NewMemory<'a> {
    /// Without a version of its own.
    pub copy: Copy<'a>,
    /// What makes it a duplicate of another; empty: nothing does.
    pub content_hash: &'a [u8],
    /// The content as the row has it.
    pub stored_content: &'a [u8],
    /// How that content is compressed.
    pub dictionary: i64,
    /// The tags, one by one.
    pub tags: &'a [String],
}

const ELEMENT_F32: i64 = 0;

statements! {
    pub(super) struct Statements {
        last_row: "SELECT coalesce(max(row_id), 0) FROM memories",
        by_key: "SELECT 1 FROM memories WHERE agent_no = ? AND user_id = ? AND namespace = ? AND key = ? AND key <> ''",
        by_idempotency_key: "SELECT 1 FROM memories WHERE agent_no = ?1 AND user_id = ?2 AND idempotency_key = ?3 \
                             AND idempotency_key <> '' UNION ALL \
                             SELECT 1 FROM requests WHERE agent_no = ?1 AND user_id = ?2 AND idempotency_key = ?3",
        by_hash: "SELECT 1 FROM memories WHERE agent_no = ? AND content_hash = ? AND content_hash <> x''",
        fence: "SELECT 1 FROM user_fences WHERE user_id = ?",
        memory: "INSERT INTO memories (row_id, agent_no, id, version, writer, deleted, tier, created_us, timestamp, step, \
                 importance, memory_type, namespace, user_id, session_id, key, idempotency_key, expires_at, tags, \
                 metadata, content_kind, content, dictionary, checksum, content_hash, seq) \
                 VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        vector: "INSERT INTO vectors (row_id, element, vector) VALUES (?, ?, ?)",
        tag: "INSERT INTO memory_tags (agent_no, tag, row_id) VALUES (?, ?, ?)",
    }
}

/// Whether no two of them could stand for one another.
pub(super) fn are_apart(memories: &[NewMemory<'_>]) -> bool {
    let (mut keys, mut idempotency_keys, mut hashes) = (HashSet::new(), HashSet::new(), HashSet::new());
    memories.iter().all(|memory| {
        let agent = memory.copy.agent_id;
        let texts = &memory.copy.texts;
        let (key, idempotency_key) = (texts[KEY], texts[IDEMPOTENCY_KEY]);
        (key.is_empty() || keys.insert((agent, texts[USER], texts[NAMESPACE], key)))
            && (idempotency_key.is_empty() || idempotency_keys.insert((agent, texts[USER], idempotency_key)))
            && (memory.content_hash.is_empty() || hashes.insert((agent, memory.content_hash)))
    })
}

/// Writes all of them, in their order; their numbers as the store has them now.
pub(super) fn write(
    connection: &Connection,
    statements: &mut Statements,
    agent_statements: &mut agents::Statements,
    memories: &[NewMemory<'_>],
    now_us: u64,
) -> Result<Vec<Numbers>, Stop> {
    let mut agents = Agents::new(connection, agent_statements);
    let mut fenced_users = HashSet::new();
    for memory in memories {
        let number = agents.find_or_add(memory.copy.agent_id)?.number;
        let user = memory.copy.texts[USER];
        if !user.is_empty() && fenced_users.insert(user) {
            expect_none(connection, &mut statements.fence, &[Value::Text(user)])?;
        }
        look_for_equals(connection, statements, number, memory)?;
    }
    let [mut row_id] = connection.first_row(&mut statements.last_row, &[])?.unwrap_or([0]);
    let first_row_id = row_id + 1;
    let mut accepted = Vec::with_capacity(memories.len());
    for memory in memories {
        row_id += 1;
        let row = agents.find_or_add(memory.copy.agent_id)?;
        let mut copy = memory.copy;
        row.agent.accept(&mut copy.numbers, now_us).map_err(|_| Stop::Undecided)?;
        copy.numbers.checksum = copy.checksum();
        write_memory(connection, statements, &NewMemory { copy, ..*memory }, (row_id, row.number))?;
        accepted.push(copy.numbers);
    }
    // Table by table: the pages of each are filled one after the other.
    for (memory, row_id) in memories.iter().zip(first_row_id..) {
        let vector = memory.copy.vector;
        if !vector.is_empty() {
            let values = [Value::Int(row_id), Value::Int(ELEMENT_F32), Value::Blob(vector)];
            connection.execute(&mut statements.vector, &values)?;
        }
    }
    for (memory, row_id) in memories.iter().zip(first_row_id..) {
        for tag in memory.tags {
            let number = agents.find_or_add(memory.copy.agent_id)?.number;
            let values = [Value::Int(number), Value::Text(tag), Value::Int(row_id)];
            connection.execute(&mut statements.tag, &values)?;
        }
    }
    agents.write()?;
    Ok(accepted)
}

/// Whether something stands for this memory already; rows that are erased and not gone yet count as well.
fn look_for_equals(
    connection: &Connection,
    statements: &mut Statements,
    number: i64,
    memory: &NewMemory<'_>,
) -> Result<(), Stop> {
    let texts = &memory.copy.texts;
    let number = Value::Int(number);
    if !texts[KEY].is_empty() {
        let values = [number, Value::Text(texts[USER]), Value::Text(texts[NAMESPACE]), Value::Text(texts[KEY])];
        expect_none(connection, &mut statements.by_key, &values)?;
    }
    if !texts[IDEMPOTENCY_KEY].is_empty() {
        let values = [number, Value::Text(texts[USER]), Value::Text(texts[IDEMPOTENCY_KEY])];
        expect_none(connection, &mut statements.by_idempotency_key, &values)?;
    }
    if !memory.content_hash.is_empty() {
        expect_none(connection, &mut statements.by_hash, &[number, Value::Blob(memory.content_hash)])?;
    }
    Ok(())
}

fn expect_none(connection: &Connection, statement: &mut Statement, values: &[Value<'_>]) -> Result<(), Stop> {
    match connection.first_row::<0>(statement, values)? {
        None => Ok(()),
        Some(_) => Err(Stop::Undecided),
    }
}

fn write_memory(
    connection: &Connection,
    statements: &mut Statements,
    memory: &NewMemory<'_>,
    (row_id, number): (i64, i64),
) -> Result<(), Stop> {
    let copy = &memory.copy;
    let Numbers { version, writer, tier, created_us, timestamp, step, importance, expires_at, content_kind, .. } =
        copy.numbers;
    let Numbers { checksum, seq, .. } = copy.numbers;
    let whole = |number: u64| i64::try_from(number).map(Value::Int).map_err(|_| Stop::Undecided);
    let text = |at: usize| Value::Text(copy.texts[at]);
    let values = [
        Value::Int(row_id),
        Value::Int(number),
        Value::Text(copy.id),
        whole(version)?,
        whole(writer)?,
        Value::Int(tier.into()),
        whole(created_us)?,
        Value::Real(timestamp),
        step.map_or(Value::Null, Value::Int),
        Value::Real(importance),
        text(MEMORY_TYPE),
        text(NAMESPACE),
        text(USER),
        text(SESSION),
        text(KEY),
        text(IDEMPOTENCY_KEY),
        expires_at.map_or(Value::Null, Value::Real),
        text(TAGS),
        text(METADATA),
        Value::Int(content_kind.into()),
        Value::Blob(memory.stored_content),
        Value::Int(memory.dictionary),
        Value::Int(checksum.into()),
        Value::Blob(memory.content_hash),
        whole(seq)?,
    ];
    // An id that is known, or comes twice, is refused by its unique index.
    connection.execute(&mut statements.memory, &values)?;
    Ok(())
}
