//! The recovery queue and its journal, for Python.

pub(crate) mod journal;
pub(crate) mod queue;
