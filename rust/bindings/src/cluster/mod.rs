//! `ClusterCore` and `ClusterPipeline`: the decisions of `agent_memory_core::cluster` for Python.
//!
//! * `keys`: from Python's keys to slots. `replies`: from Python's replies to the core's.
//! * `state`: `ClusterCore`, which clients of one cluster share. `pipeline`: one execution of a pipeline.

pub(crate) mod keys;
pub(crate) mod pipeline;
mod replies;
pub(crate) mod state;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// ASKING, packed.
pub(crate) const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// The names of what `ClusterCore.redirect` answers.
pub(crate) const RAISE: u8 = 0;
pub(crate) const SEND: u8 = 1;
pub(crate) const ASK: u8 = 2;
pub(crate) const ROUTE: u8 = 3;
pub(crate) const RESOLVE: u8 = 4;
/// The names of what `ClusterCore.wait_or_reject` answers.
const WAIT_ROUTE: u8 = 0;
const WAIT: u8 = 1;
const REJECT: u8 = 2;
const FULL: u8 = 3;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("ASKING", PyBytes::new(module.py(), ASKING))?;
    module.add("CLUSTER_RAISE", RAISE)?;
    module.add("CLUSTER_SEND", SEND)?;
    module.add("CLUSTER_ASK", ASK)?;
    module.add("CLUSTER_ROUTE", ROUTE)?;
    module.add("CLUSTER_RESOLVE", RESOLVE)?;
    module.add("CLUSTER_WAIT_ROUTE", WAIT_ROUTE)?;
    module.add("CLUSTER_WAIT", WAIT)?;
    module.add("CLUSTER_REJECT", REJECT)?;
    module.add("CLUSTER_FULL", FULL)?;
    module.add_function(wrap_pyfunction!(keys::key_slot, module)?)?;
    module.add_function(wrap_pyfunction!(keys::slot_tag, module)?)?;
    module.add_class::<state::ClusterCore>()?;
    module.add_class::<pipeline::ClusterPipeline>()?;
    module.add_class::<pipeline::ClusterBatch>()
}
