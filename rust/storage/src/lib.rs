//! Files of `agent_memory`. What is in them is decided in `agent-memory-core`.
//!
//! * [`journal`]: the recovery queue on disk.
//! * [`memories`]: the memory's `SQLite` database, without the interpreter.
//! * [`snapshot`]: the memory index on disk.
//! * `own_files`: files that belong to this user only. `signals`: wakes threads and event loops.

pub mod journal;
pub mod memories;
mod own_files;
mod signals;
pub mod snapshot;
