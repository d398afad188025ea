//! Conversion between numpy arrays and the scoring core. What may be asked for is checked here, where the names of the
//! caller's arguments are known; how it is answered is decided in the core.

use pyo3::prelude::*;

mod arrays;
mod exact;
mod index;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(exact::score_rows, module)?)?;
    module.add_function(wrap_pyfunction!(index::languages, module)?)?;
    module.add("ANALYZER_VERSION", agent_memory_core::scoring::index::text::ANALYZER_VERSION)?;
    module.add_class::<index::IndexCore>()?;
    module.add_function(wrap_pyfunction!(exact::kernel_tiers, module)?)
}
