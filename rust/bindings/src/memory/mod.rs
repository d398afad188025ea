//! The memory's copies in Redis, the plan of its writes to SQL, and those to `SQLite`, for Python.

pub(crate) mod copy;
mod operations;
pub(crate) mod plan;
pub(crate) mod writer;
