//! Files of `agent_memory`. What is in them is decided in `agent-memory-core`.

pub mod journal;
pub mod memories;
mod signals;
pub mod snapshot;
