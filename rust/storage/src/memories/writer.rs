//! The transactions.

use std::sync::atomic::AtomicU32;

use agent_memory_core::memory::plan::{Operation, Put};

use super::agents;
use super::operation::{Compressible, Outcome, Write};
use super::raw::{Connection, SqliteError, Statement};
use super::reading;
use super::writing::{self, All};

/// Why a transaction ends without its writes.
pub(super) enum Stop {
    /// It is left to Python.
    Undecided,
    Failed(SqliteError),
}

impl From<SqliteError> for Stop {
    fn from(error: SqliteError) -> Self {
        Self::Failed(error)
    }
}

statements! {
    struct Statements {
        begin: "BEGIN IMMEDIATE",
        commit: "COMMIT",
        rollback: "ROLLBACK",
    }
}

/// After ids that were taken for new ones and were known, so many transactions take none for new before it is tried again.
const SUSPENDED_TRANSACTIONS: u32 = 16;

/// Writes through a borrowed connection, in transactions of its own.
pub struct DirectWriter {
    connection: Connection,
    statements: Option<(Statements, All)>,
    /// So many transactions still look up every id.
    suspended: u32,
    log_pages: &'static AtomicU32,
}

impl DirectWriter {
    /// The schema need not be there yet. From now on the connection makes no checkpoints by itself.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self { log_pages: connection.watch_log(), connection, statements: None, suspended: 0 }
    }

    /// How many pages the write-ahead log had at the connection's last commit, by any writer.
    #[must_use]
    pub fn log_pages(&self) -> &'static AtomicU32 {
        self.log_pages
    }

    /// Decides and writes operations in one transaction, in their order, and commits it; what became of each. None, with
    /// nothing written, where one of them is left to Python: what has to be compressed, and what the database does not take.
    ///
    /// The clock, microseconds since the epoch, is asked when the transaction has begun.
    ///
    /// # Errors
    /// Those of a database that is away, busy or full; nothing is written then. Other failures are no errors but None: Python
    /// will meet them, and can say more.
    pub fn write(
        &mut self,
        writes: &[Write<'_>],
        compressible: Compressible,
        clock_us: impl Fn() -> u64,
    ) -> Result<Option<Vec<Outcome>>, SqliteError> {
        let takes_for_new = self.suspended == 0 && are_inserts(writes);
        self.suspended = self.suspended.saturating_sub(1);
        let mut written = self.committed(writes, compressible, takes_for_new, &clock_us);
        if takes_for_new && matches!(&written, Err(Stop::Failed(error)) if !error.is_unavailable()) {
            // An id is known, and its unique index says so: all of it once more, from what the database holds.
            self.suspended = SUSPENDED_TRANSACTIONS;
            written = self.committed(writes, compressible, false, &clock_us);
        }
        match written {
            Ok(result) => Ok(Some(result)),
            Err(Stop::Failed(error)) if error.is_unavailable() => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn committed(
        &mut self,
        writes: &[Write<'_>],
        compressible: Compressible,
        takes_for_new: bool,
        clock_us: &impl Fn() -> u64,
    ) -> Result<Vec<Outcome>, Stop> {
        let connection = &self.connection;
        if connection.is_in_transaction() {
            return Err(Stop::Undecided);
        }
        let (transaction, all) = match &mut self.statements {
            Some(all) => all,
            none => none.insert((
                Statements::prepare(connection)?,
                All {
                    agents: agents::Statements::prepare(connection)?,
                    reading: reading::Statements::prepare(connection)?,
                    writing: writing::Statements::prepare(connection)?,
                },
            )),
        };
        connection.execute(&mut transaction.begin, &[])?;
        let result = writing::apply(connection, all, writes, compressible, takes_for_new, clock_us())
            .and_then(|result| Ok(connection.execute(&mut transaction.commit, &[]).map(|()| result)?));
        if result.is_err() && connection.is_in_transaction() {
            // Should it fail, the connection's next user finds the transaction open and rolls back.
            let _ = connection.execute(&mut transaction.rollback, &[]);
        }
        result
    }
}

/// Whether each is decided alike whether its id was looked up or not, as long as its insert is accepted: the unique index
/// refuses an id that is known. So it is for a put that nothing but its id could connect with a memory that is there.
fn are_inserts(writes: &[Write<'_>]) -> bool {
    writes.iter().all(|write| match &write.operation {
        Operation::Put(Put { identity, if_version: None, .. }) => {
            identity.key.is_empty() && identity.idempotency_key.is_empty() && identity.content_hash.is_empty()
        }
        _ => false,
    })
}
