//! The most frequent writes of the memory's `SQLite` database, in one go and without the interpreter: new memories, and moves
//! between tiers.
//!
//! The database belongs to Python's `sqlite3`. A process must not open a file with two `SQLite` libraries: POSIX locks belong
//! to the process, so each would take the other's away, and the one that closes last as far as it knows would remove the
//! other's log. So nothing is opened here, and the library that is linked into the journal is not used: the interpreter's
//! own library is asked for its functions, and its connection is borrowed (`Connection::catch`). Where the library's
//! functions cannot be found, as in an interpreter that hides them, there is no connection, and Python writes all by itself.

/// A struct of prepared statements, each by a name.
macro_rules! statements {
    ($visibility:vis struct $Statements:ident { $($name:ident: $sql:expr),* $(,)? }) => {
        $visibility struct $Statements {
            $($name: Statement,)*
        }

        impl $Statements {
            $visibility fn prepare(connection: &Connection) -> Result<Self, SqliteError> {
                Ok(Self { $($name: connection.prepare($sql)?,)* })
            }
        }
    };
}

mod agents;
mod insert;
mod moves;
mod queue;
mod raw;
mod writer;

pub use insert::NewMemory;
pub use moves::{Compressible, Move};
pub use queue::{Limits, Next, NoEntryError, WriteQueue};
pub use raw::{Connection, Library, SqliteError};
pub use writer::DirectWriter;
