//! Rules of the agent memory.
//!
//! * [`plan`]: what becomes of a write to the SQL store.
//! * [`expiry`]: when a memory has expired.
//! * [`copy`]: the bytes of a memory's copy in Redis.
//! * [`export_line`]: the vector in a line of an export.

pub mod copy;
pub mod expiry;
pub mod export_line;
pub mod plan;
