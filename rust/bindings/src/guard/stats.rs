//! Statistics as plain Python values.

use agent_memory_core::config::ns_to_seconds;
use agent_memory_core::guard::OperationIndex;
use agent_memory_core::guard::metrics::{Histogram, OperationMetrics};
use agent_memory_core::guard::retry::FailureKind;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::guard::circuit::{Circuit, seconds_of};

/// The statistics of a guard with all its operations.
pub(crate) fn guard_stats<'py>(py: Python<'py>, circuit: &Circuit) -> PyResult<Bound<'py, PyDict>> {
    let stats = circuit_stats(py, circuit)?;
    let snapshot = circuit.snapshot(py)?;
    stats.set_item("budget_level", snapshot.budget_level)?;
    let operations = PyDict::new(py);
    for index in 0..circuit.core.operation_count() {
        let (operation, metrics) = circuit.core.operation_metrics(index);
        operations.set_item(operation, operation_stats(py, &metrics)?)?;
    }
    stats.set_item("operations", operations)?;
    Ok(stats)
}

/// The statistics of a breaker that stands alone, flat: it has one operation.
pub(crate) fn breaker_stats<'py>(
    py: Python<'py>,
    circuit: &Circuit,
    operation: OperationIndex,
) -> PyResult<Bound<'py, PyDict>> {
    let stats = circuit_stats(py, circuit)?;
    let (_, metrics) = circuit.core.operation_metrics(operation);
    stats.set_item("calls", metrics.calls())?;
    stats.set_item("successes", metrics.successes)?;
    stats.set_item("failures", metrics.failures.iter().sum::<u64>())?;
    stats.set_item("other_errors", metrics.command_errors)?;
    stats.set_item("rejections", metrics.rejections)?;
    stats.set_item("cancellations", metrics.cancellations)?;
    stats.set_item("latency", latency_stats(py, &metrics.latency)?)?;
    Ok(stats)
}

fn circuit_stats<'py>(py: Python<'py>, circuit: &Circuit) -> PyResult<Bound<'py, PyDict>> {
    let snapshot = circuit.snapshot(py)?;
    let stats = PyDict::new(py);
    stats.set_item("name", &circuit.name)?;
    stats.set_item("state", snapshot.state.name())?;
    stats.set_item("retry_after_s", seconds_of(snapshot.retry_after_ns))?;
    stats.set_item("state_changes", snapshot.state_changes)?;
    stats.set_item("times_opened", snapshot.times_opened)?;
    Ok(stats)
}

fn operation_stats<'py>(py: Python<'py>, metrics: &OperationMetrics) -> PyResult<Bound<'py, PyDict>> {
    let stats = PyDict::new(py);
    stats.set_item("calls", metrics.calls())?;
    stats.set_item("successes", metrics.successes)?;
    stats.set_item("command_errors", metrics.command_errors)?;
    let failures = PyDict::new(py);
    for kind in FailureKind::ALL {
        failures.set_item(kind.name(), metrics.failures[kind as usize])?;
    }
    stats.set_item("failures", failures)?;
    stats.set_item("retries", metrics.retries)?;
    stats.set_item("retries_refused", metrics.retries_refused)?;
    stats.set_item("rejections", metrics.rejections)?;
    stats.set_item("cancellations", metrics.cancellations)?;
    stats.set_item("latency", latency_stats(py, &metrics.latency)?)?;
    Ok(stats)
}

fn latency_stats<'py>(py: Python<'py>, latency: &Histogram) -> PyResult<Bound<'py, PyDict>> {
    let stats = PyDict::new(py);
    stats.set_item("count", latency.total())?;
    stats.set_item("sum_s", ns_to_seconds(latency.sum_ns()))?;
    for (name, quantile) in [("p50_s", 0.5), ("p90_s", 0.9), ("p99_s", 0.99)] {
        stats.set_item(name, ns_to_seconds(latency.quantile_ns(quantile)))?;
    }
    stats.set_item("max_s", ns_to_seconds(latency.max_ns()))?;
    let buckets: Vec<(f64, u64)> = latency.buckets().map(|(end_ns, count)| (ns_to_seconds(end_ns), count)).collect();
    stats.set_item("buckets", buckets)?;
    Ok(stats)
}
