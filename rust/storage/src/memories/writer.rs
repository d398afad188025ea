//! The transactions.

use std::sync::atomic::AtomicU32;

use agent_memory_core::memory::copy::Numbers;
use agent_memory_core::memory::plan::Relabelled;

use super::agents;
use super::insert::{self, NewMemory};
use super::moves::{self, Compressible, Move};
use super::raw::{Connection, SqliteError, Statement};

/// Why a transaction ends without its writes.
pub(super) enum Stop {
    /// It is one that the plan has to decide.
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

struct All {
    transaction: Statements,
    agents: agents::Statements,
    insert: insert::Statements,
    moves: moves::Statements,
}

/// Writes through a connection of somebody else's, in transactions of its own.
///
/// Its methods return None, with nothing written, where the plan has to decide. The clock, microseconds since the epoch, is
/// asked when the transaction has begun.
///
/// Their errors are those of a database that is away, busy or full; nothing is written then. Other failures are no errors but
/// None: whoever does it the other way will meet them and can say more.
pub struct DirectWriter {
    connection: Connection,
    statements: Option<All>,
    log_pages: &'static AtomicU32,
}

impl DirectWriter {
    /// The schema need not be there yet. From now on the connection makes no checkpoints by itself.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self { log_pages: connection.watch_log(), connection, statements: None }
    }

    /// How many pages the write-ahead log had at the connection's last commit, whoever made it.
    #[must_use]
    pub fn log_pages(&self) -> &'static AtomicU32 {
        self.log_pages
    }

    /// Writes new memories in one transaction, in their order, and commits it; their numbers as the store has them now, or
    /// None where one of them is not new in every respect.
    ///
    /// # Errors
    /// See the type.
    pub fn insert(
        &mut self,
        memories: &[NewMemory<'_>],
        clock_us: impl FnOnce() -> u64,
    ) -> Result<Option<Vec<Numbers>>, SqliteError> {
        if !insert::are_apart(memories) {
            return Ok(None);
        }
        self.transact(|connection, all| {
            insert::write(connection, &mut all.insert, &mut all.agents, memories, clock_us())
        })
    }

    /// Moves memories in one transaction, in their order, and commits it; what became of each, or None where one of them
    /// would have to be compressed.
    ///
    /// # Errors
    /// See the type.
    pub fn relabel(
        &mut self,
        moves: &[Move<'_>],
        compressible: Compressible,
        clock_us: impl FnOnce() -> u64,
    ) -> Result<Option<Vec<Relabelled>>, SqliteError> {
        self.transact(|connection, all| {
            moves::write(connection, &mut all.moves, &mut all.agents, moves, compressible, clock_us())
        })
    }

    fn transact<R>(
        &mut self,
        write: impl FnOnce(&Connection, &mut All) -> Result<R, Stop>,
    ) -> Result<Option<R>, SqliteError> {
        match self.committed(write) {
            Ok(result) => Ok(Some(result)),
            Err(Stop::Failed(error)) if error.is_unavailable() => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn committed<R>(&mut self, write: impl FnOnce(&Connection, &mut All) -> Result<R, Stop>) -> Result<R, Stop> {
        let connection = &self.connection;
        if connection.is_in_transaction() {
            return Err(Stop::Undecided);
        }
        let all = match &mut self.statements {
            Some(all) => all,
            none => none.insert(All {
                transaction: Statements::prepare(connection)?,
                agents: agents::Statements::prepare(connection)?,
                insert: insert::Statements::prepare(connection)?,
                moves: moves::Statements::prepare(connection)?,
            }),
        };
        connection.execute(&mut all.transaction.begin, &[])?;
        let result = write(connection, all)
            .and_then(|result| Ok(connection.execute(&mut all.transaction.commit, &[]).map(|()| result)?));
        if result.is_err() && connection.is_in_transaction() {
            // Should it fail, the connection's next user finds the transaction open and rolls back.
            let _ = connection.execute(&mut all.transaction.rollback, &[]);
        }
        result
    }
}
