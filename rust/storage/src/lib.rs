//! Files of `agent_memory`. What is in them is decided in `agent-memory-core`.

pub mod journal;
pub mod memories;
mod own_files;
mod signals;
pub mod snapshot;
