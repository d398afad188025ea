//! The extension module `agent_memory._core`: converts between Python and `agent-memory-core`; it decides nothing.
//!
//! * `cache`, `cluster`, `guard`, `fence`, `recovery`, `memory`, `scoring`, `protocol`: the Python side of the core's module of that name.
//! * `clock`: the monotonic clock. `errors`: exceptions. `convert`: small conversions. `raw`: the only unsafe code
//!   beside the raw types of `round_trip`: the awaitable of the asyncio client, its slots and wakes.

use pyo3::prelude::*;

mod arguments;
mod cache;
mod clock;
mod cluster;
mod convert;
mod errors;
mod fence;
mod guard;
mod memory;
mod protocol;
mod raw;
mod recovery;
mod round_trip;
mod scoring;

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    cache::register(module)?;
    cluster::register(module)?;
    scoring::register(module)?;
    round_trip::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
    module.add_function(wrap_pyfunction!(clock::monotonic_ns, module)?)?;
    module.add_function(wrap_pyfunction!(clock::set_virtual_time, module)?)?;
    module.add_function(wrap_pyfunction!(guard::backoff::exponential_backoff, module)?)?;
    module.add_function(wrap_pyfunction!(protocol::commands::pack_command, module)?)?;
    module.add_function(wrap_pyfunction!(memory::copy::accept_copy, module)?)?;
    module.add_function(wrap_pyfunction!(memory::copy::copy_checksum, module)?)?;
    module.add_function(wrap_pyfunction!(memory::copy::encode_copy, module)?)?;
    module.add_function(wrap_pyfunction!(memory::copy::is_expired, module)?)?;
    module.add_function(wrap_pyfunction!(memory::copy::decode_copy, module)?)?;
    module.add_function(wrap_pyfunction!(memory::copy::decode_dirty_copies, module)?)?;
    module.add_function(wrap_pyfunction!(memory::copy::encode_vector, module)?)?;
    module.add_function(wrap_pyfunction!(memory::copy::split_export_line, module)?)?;
    module.add_function(wrap_pyfunction!(fence::choose_level, module)?)?;
    module.add_function(wrap_pyfunction!(fence::fence_step, module)?)?;
    module.add_function(wrap_pyfunction!(fence::read_client_line, module)?)?;
    module.add_function(wrap_pyfunction!(fence::verdict_of_offset, module)?)?;
    module.add_function(wrap_pyfunction!(fence::verdict_of_marker, module)?)?;
    module.add_function(wrap_pyfunction!(fence::next_step, module)?)?;
    module.add_class::<guard::backoff::Backoff>()?;
    module.add_class::<guard::breaker::Breaker>()?;
    module.add_class::<recovery::queue::RecoveryQueue>()?;
    module.add_class::<recovery::queue::RecoveryEntry>()?;
    module.add_class::<recovery::journal::Journal>()?;
    module.add_class::<memory::plan::MemoryPlan>()?;
    module.add_function(wrap_pyfunction!(memory::plan::erase_agent, module)?)?;
    module.add_class::<memory::writer::MemoryWriter>()?;
    module.add_class::<memory::writer::PendingWrites>()?;
    module.add_class::<guard::settings::BreakerRules>()?;
    module.add_class::<guard::settings::RetryRules>()?;
    module.add_class::<guard::settings::BudgetRules>()?;
    module.add_class::<guard::Guard>()?;
    module.add_class::<protocol::wire::Wire>()?;
    module.add_class::<protocol::replies::ReplyScanner>()?;
    module.add_function(wrap_pyfunction!(protocol::replies::take_replies, module)?)?;
    module.add_function(wrap_pyfunction!(protocol::replies::first_error, module)?)?;
    module.add_class::<guard::Operation>()
}
