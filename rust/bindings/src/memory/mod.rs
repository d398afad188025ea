//! The memory's copies in Redis, and its writes to `SQLite`, for Python.

pub(crate) mod copy;
pub(crate) mod writer;
