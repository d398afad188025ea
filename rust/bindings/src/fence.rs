//! The decisions of exactly once (`agent_memory_core::fence`), as plain functions over numbers.

use agent_memory_core::fence::{self as core, Abilities, ClientLine, FenceStep, Level};
use agent_memory_core::guard::retry::Category;
use pyo3::prelude::*;

use crate::convert::numbered;

/// The level in force, as a number: the one asked for (None: the best) where the server offers it.
#[pyfunction]
#[pyo3(signature = (asked, *, kill, marker, offset, gate))]
#[expect(clippy::fn_params_excessive_bools, reason = "four independent permissions")]
pub(crate) fn choose_level(asked: Option<i64>, kill: bool, marker: bool, offset: bool, gate: bool) -> PyResult<u8> {
    let asked = asked.map(|number| numbered::<Level>("asked", number)).transpose()?;
    Ok(core::choose_level(asked, Abilities { kill, marker, offset, gate }) as u8)
}

/// How to fence an old connection: "away", "kill", `"wait_for_clock"` or "impossible".
#[pyfunction]
pub(crate) fn fence_step(same_process: bool, old_level: i64, level: i64, old_id: u64) -> PyResult<&'static str> {
    let (old_level, level) = (numbered("old_level", old_level)?, numbered("level", level)?);
    Ok(match core::fence_step(same_process, old_level, level, old_id) {
        FenceStep::Away => "away",
        FenceStep::Kill => "kill",
        FenceStep::WaitForClock => "wait_for_clock",
        FenceStep::Impossible => "impossible",
    })
}

/// (id, address, bytes received or None, bytes executed or None) of a line of CLIENT LIST; None if it is not one.
#[pyfunction]
pub(crate) fn read_client_line(line: &str) -> Option<(u64, String, Option<u64>, Option<u64>)> {
    let line = ClientLine::parse(line)?;
    let executed = line.executed_bytes();
    Some((line.id, line.address, line.received_bytes, executed))
}

/// The verdict of an offset on a write that ends at `end_bytes` of the stream, as a number.
#[pyfunction]
pub(crate) fn verdict_of_offset(executed_bytes: Option<u64>, end_bytes: u64) -> u8 {
    core::verdict_of_offset(executed_bytes, end_bytes) as u8
}

/// The verdict of a marker's first bit and the write's bit, as a number.
#[pyfunction]
pub(crate) fn verdict_of_marker(is_the_same: bool, is_set: bool) -> u8 {
    core::verdict_of_marker(is_the_same, is_set) as u8
}

/// What becomes of a command whose answer was lost, as a number.
#[pyfunction]
pub(crate) fn next_step(category: i64, fenced: bool, verdict: Option<i64>) -> PyResult<u8> {
    let category: Category = numbered("category", category)?;
    let verdict = verdict.map(|number| numbered("verdict", number)).transpose()?;
    Ok(core::next_step(category, fenced, verdict) as u8)
}
