//! The asyncio round trip: one awaitable for a command, one wake for all tasks of a read.
//!
//! - [`exchange::Exchange`] is what a shared connection inherits: the output of this iteration, the slots, the matching of replies
//!   and the wake.
//! - [`waiter`] is what a task waits for: an `asyncio.Future` for that task alone.
//! - [`call`] is the awaitable. It goes the fast path (closed circuit, shared connection with room, plain words, a plain
//!   reply) by itself and hands everything else to a coroutine of the client's.
//! - [`cached`] are commands that the client-side cache may answer, and what the server says of changes.
//! - [`face`] are the command methods that make one without a frame of Python's, and those of the sync client, whose round trip
//!   [`blocking`] admits, records and shapes.
//! - [`routed`] are those of a cluster's clients, which find the node, and of its pipelines, which collect.
//! - [`bases`] is what the Python classes inherit whose attributes are read on that way.

pub(crate) mod bases;
mod blocking;
mod cached;
pub(crate) mod call;
pub(crate) mod exchange;
mod face;
pub(crate) mod objects;
mod routed;
mod waiter;
mod window;

use pyo3::prelude::*;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    objects::prepare(module.py())?;
    module.add_class::<exchange::Exchange>()?;
    module.add_class::<window::Window>()?;
    module.add_class::<bases::DirectCalls>()?;
    module.add_class::<bases::BlockingCalls>()?;
    module.add_class::<bases::DirectListed>()?;
    module.add_class::<bases::DirectCommand>()?;
    module.add_class::<bases::Entrance>()?;
    module.add_class::<cached::CacheFlight>()?;
    module.add_class::<face::ClassWatch>()?;
    module.add("Face", face::class(module.py())?)?;
    module.add_function(wrap_pyfunction!(face::command_face, module)?)?;
    module.add("Call", call::class(module.py())?)?;
    module.add("Waiter", waiter::class(module.py())?)
}
