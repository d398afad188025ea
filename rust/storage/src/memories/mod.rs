//! The writes of the memory's `SQLite` database, in one go and without the interpreter.
//!
//! What becomes of them is decided by the core's plan. Read and written is all but what compresses a content that is in the
//! database, or rounds a vector: such operations are left to Python.
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
mod operation;
mod queue;
mod raw;
mod reading;
mod writer;
mod writing;

pub use operation::{Compressible, Outcome, Payload, Stored, Write};
pub use queue::{Limits, NoEntryError, WriteQueue, WriterStep};
pub use raw::{Connection, Library, SqliteError};
pub use writer::DirectWriter;
