//! The extension module `agent_memory._core`: converts between Python and `agent-memory-core`; it decides nothing.

use pyo3::prelude::*;

mod backoff;
mod breaker;
mod circuit;
mod clock;
mod convert;
mod errors;
mod fence;
mod guard;
mod journal;
mod memory_copy;
mod memory_writer;
mod packing;
mod raw;
mod recovery;
mod replies;
mod scoring;
mod settings;
mod stats;
mod wire;

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    scoring::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
    module.add_function(wrap_pyfunction!(clock::monotonic_ns, module)?)?;
    module.add_function(wrap_pyfunction!(clock::set_virtual_time, module)?)?;
    module.add_function(wrap_pyfunction!(backoff::exponential_backoff, module)?)?;
    module.add_function(wrap_pyfunction!(packing::pack_command, module)?)?;
    module.add_function(wrap_pyfunction!(memory_copy::accept_copy, module)?)?;
    module.add_function(wrap_pyfunction!(memory_copy::copy_checksum, module)?)?;
    module.add_function(wrap_pyfunction!(memory_copy::encode_copy, module)?)?;
    module.add_function(wrap_pyfunction!(memory_copy::is_expired, module)?)?;
    module.add_function(wrap_pyfunction!(memory_copy::decode_copy, module)?)?;
    module.add_function(wrap_pyfunction!(memory_copy::encode_vector, module)?)?;
    module.add_function(wrap_pyfunction!(fence::choose_level, module)?)?;
    module.add_function(wrap_pyfunction!(fence::fence_step, module)?)?;
    module.add_function(wrap_pyfunction!(fence::read_client_line, module)?)?;
    module.add_function(wrap_pyfunction!(fence::verdict_of_offset, module)?)?;
    module.add_function(wrap_pyfunction!(fence::verdict_of_marker, module)?)?;
    module.add_function(wrap_pyfunction!(fence::next_step, module)?)?;
    module.add_class::<backoff::Backoff>()?;
    module.add_class::<breaker::Breaker>()?;
    module.add_class::<recovery::RecoveryQueue>()?;
    module.add_class::<recovery::RecoveryEntry>()?;
    module.add_class::<journal::Journal>()?;
    module.add_class::<memory_writer::MemoryWriter>()?;
    module.add_class::<memory_writer::PendingWrites>()?;
    module.add_class::<settings::BreakerRules>()?;
    module.add_class::<settings::RetryRules>()?;
    module.add_class::<settings::BudgetRules>()?;
    module.add_class::<guard::Guard>()?;
    module.add_class::<wire::Wire>()?;
    module.add_class::<replies::ReplyScanner>()?;
    module.add_class::<guard::Operation>()
}
