//! Commands packed, replies scanned, and the blocking socket that carries both, for Python.

pub(crate) mod commands;
pub(crate) mod replies;
pub(crate) mod wire;
