//! What a plan wants to know, read from the database.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::Duration;

use agent_memory_core::memory::plan::{Held, Identity, Operation, RequestName, Wanted};

use super::operation::{Compressible, Write};
use super::raw::{Connection, Row, SqliteError, Statement, Value};
use super::writer::Stop;

/// After so many memories that are to be moved the writer lets others have the processor: threads that serve callers go first.
const YIELDING_MOVES: usize = 100;
/// Long enough that a thread that waits is woken up.
const GIVE_WAY: Duration = Duration::from_micros(10);

/// What a move has to know, and whether long-term memory would compress the content.
macro_rules! moved {
    ($where:expr) => {
        concat!(
            "SELECT m.row_id, a.agent_id, m.version, m.deleted, m.tier, m.seq, \
             (m.dictionary = -1 AND length(m.content) >= ?1) OR (m.dictionary >= 0 AND m.dictionary <> ?2), m.id \
             FROM memories m JOIN agents a ON a.agent_no = m.agent_no WHERE ",
            $where
        )
    };
}

/// All that a plan looks at.
macro_rules! held {
    ($where:expr) => {
        concat!(
            "SELECT m.row_id, a.agent_id, m.version, m.deleted, m.tier, m.seq, \
             (m.dictionary = -1 AND length(m.content) >= ?1) OR (m.dictionary >= 0 AND m.dictionary <> ?2), m.id, m.writer, \
             m.created_us, m.namespace, m.user_id, m.key, m.idempotency_key, m.content_hash, m.session_id, m.expires_at, \
             m.tags FROM memories m JOIN agents a ON a.agent_no = m.agent_no WHERE ",
            $where
        )
    };
}

// Erased rows are among what is found: the plan passes them over, and there are few of one name.
statements! {
    pub(super) struct Statements {
        moved: moved!("m.id = ?3"),
        by_id: held!("m.id = ?3"),
        by_key: held!("m.agent_no = ?3 AND m.user_id = ?4 AND m.namespace = ?5 AND m.key = ?6 AND m.key <> '' \
                       AND m.deleted = 0"),
        by_request: held!("m.agent_no = ?3 AND m.user_id = ?4 AND m.idempotency_key = ?5 AND m.idempotency_key <> ''"),
        by_later_request: held!("m.id = (SELECT id FROM requests WHERE agent_no = ?3 AND user_id = ?4 \
                                 AND idempotency_key = ?5)"),
        by_twin: held!("m.agent_no = ?3 AND m.content_hash = ?4 AND m.content_hash <> x'' AND m.session_id = ?5 \
                        AND m.expires_at IS ?6 AND m.key = '' AND m.deleted = 0"),
        fence: "SELECT fence_version FROM user_fences WHERE user_id = ?",
    }
}

/// A row, and what the plan does not look at.
#[derive(Debug, Default)]
pub(super) struct HeldRow {
    row: i64,
    id: String,
    pub(super) agent_id: String,
    version: u64,
    writer: u64,
    is_deleted: bool,
    tier: u8,
    seq: u64,
    created_us: u64,
    namespace: String,
    user_id: String,
    key: String,
    idempotency_key: String,
    content_hash: Vec<u8>,
    session_id: String,
    expires_at: Option<f64>,
    pub(super) tags: String,
    /// Whether a move to long-term memory would compress its content.
    pub(super) is_compressible: bool,
}

impl HeldRow {
    fn of(row: &Row<'_>, is_whole: bool) -> Result<Self, Stop> {
        let whole = |at| u64::try_from(row.int(at)).map_err(|_| Stop::Undecided);
        let text = |at| row.text(at).map(str::to_owned).ok_or(Stop::Undecided);
        let moved = Self {
            row: row.int(0),
            agent_id: text(1)?,
            version: whole(2)?,
            is_deleted: row.int(3) != 0,
            tier: u8::try_from(row.int(4)).map_err(|_| Stop::Undecided)?,
            seq: whole(5)?,
            is_compressible: row.int(6) != 0,
            id: text(7)?,
            ..Self::default()
        };
        if !is_whole {
            return Ok(moved);
        }
        Ok(Self {
            writer: whole(8)?,
            created_us: whole(9)?,
            namespace: text(10)?,
            user_id: text(11)?,
            key: text(12)?,
            idempotency_key: text(13)?,
            content_hash: row.blob(14).to_vec(),
            session_id: text(15)?,
            expires_at: row.real(16),
            tags: text(17)?,
            ..moved
        })
    }

    pub(super) fn held(&self) -> Held<'_> {
        Held {
            row: self.row,
            id: &self.id,
            agent_id: &self.agent_id,
            version: self.version,
            writer: self.writer,
            is_deleted: self.is_deleted,
            tier: self.tier,
            seq: self.seq,
            created_us: self.created_us,
            identity: Identity {
                user_id: &self.user_id,
                namespace: &self.namespace,
                session_id: &self.session_id,
                key: &self.key,
                idempotency_key: &self.idempotency_key,
                content_hash: &self.content_hash,
                expires_at: self.expires_at,
            },
        }
    }
}

/// What was read for one plan.
#[derive(Default)]
pub(super) struct Found<'a> {
    /// By their numbers.
    pub(super) rows: HashMap<i64, HeldRow>,
    /// And the numbers of what they stand for.
    pub(super) later_requests: Vec<(RequestName<'a>, i64)>,
    pub(super) fences: Vec<(String, u64)>,
}

/// Reads what is wanted but the agents' rows; `number` gives the number of an agent that there is.
pub(super) fn read<'a>(
    connection: &Connection,
    statements: &mut Statements,
    writes: &[Write<'a>],
    wanted: &Wanted<'a>,
    compressible: Compressible,
    number: impl Fn(&str) -> Option<i64>,
) -> Result<Found<'a>, Stop> {
    let is_maintenance = writes.iter().all(|write| matches!(write.operation, Operation::Move(_)));
    let bounds = [Value::Int(compressible.least_bytes), Value::Int(compressible.newest_dictionary)];
    let mut found = Found::default();
    for (at, id) in wanted.ids.iter().enumerate() {
        if is_maintenance && at > 0 && at % YIELDING_MOVES == 0 {
            thread::sleep(GIVE_WAY);
        }
        let statement = if is_maintenance { &mut statements.moved } else { &mut statements.by_id };
        found.add(connection, statement, &[bounds[0], bounds[1], Value::Text(id)], !is_maintenance)?;
    }
    for name in &wanted.keys {
        let Some(number) = number(name.agent_id) else { continue };
        let texts = [Value::Text(name.user_id), Value::Text(name.namespace), Value::Text(name.key)];
        let values = [bounds[0], bounds[1], Value::Int(number), texts[0], texts[1], texts[2]];
        found.add(connection, &mut statements.by_key, &values, true)?;
    }
    for name in &wanted.requests {
        let Some(number) = number(name.agent_id) else { continue };
        let texts = [Value::Text(name.user_id), Value::Text(name.idempotency_key)];
        let values = [bounds[0], bounds[1], Value::Int(number), texts[0], texts[1]];
        found.add(connection, &mut statements.by_request, &values, true)?;
        if let Some(row) = found.add(connection, &mut statements.by_later_request, &values, true)? {
            found.later_requests.push((*name, row));
        }
    }
    for twin in &wanted.twins {
        let Some(number) = number(twin.agent_id) else { continue };
        let expires_at = twin.expires_at().map_or(Value::Null, Value::Real);
        let (hash, session) = (Value::Blob(twin.content_hash), Value::Text(twin.session_id));
        let values = [bounds[0], bounds[1], Value::Int(number), hash, session, expires_at];
        found.add(connection, &mut statements.by_twin, &values, true)?;
    }
    found.read_fences(connection, &mut statements.fence, wanted)?;
    Ok(found)
}

impl Found<'_> {
    /// The number of the last row.
    fn add(
        &mut self,
        connection: &Connection,
        statement: &mut Statement,
        values: &[Value<'_>],
        is_whole: bool,
    ) -> Result<Option<i64>, Stop> {
        let mut rows = connection.run(statement, values)?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let held = HeldRow::of(&row, is_whole)?;
            last = Some(held.row);
            self.rows.insert(held.row, held);
        }
        Ok(last)
    }

    fn read_fences(
        &mut self,
        connection: &Connection,
        statement: &mut Statement,
        wanted: &Wanted<'_>,
    ) -> Result<(), Stop> {
        let mut users: HashSet<&str> = wanted.users.iter().copied().collect();
        users.extend(self.rows.values().map(|row| row.user_id.as_str()).filter(|user| !user.is_empty()));
        let mut fences = Vec::new();
        for user in users {
            if let Some([version]) = connection.first_row(statement, &[Value::Text(user)])? {
                fences.push((user.to_owned(), u64::try_from(version).map_err(|_| Stop::Undecided)?));
            }
        }
        self.fences = fences;
        Ok(())
    }
}
