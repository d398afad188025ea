//! `score_rows`: the call behind `agent_memory.scoring.score`.

use super::arrays::{Matrix, column, true_positions, vector};
use agent_memory_core::scoring::exact::{Answer, Part, Request, rank};
use agent_memory_core::scoring::kernels::{Kernels, Tier};
use agent_memory_core::scoring::parts::{Decay, Metric, access};
use numpy::PyArray1;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

type Floats<'py> = Bound<'py, PyArray1<f64>>;
/// Rows, scores, and if they were asked for the similarities followed by the values of each part.
type Scored<'py> = (Bound<'py, PyArray1<i64>>, Floats<'py>, Option<Vec<Floats<'py>>>);

/// The names of the kernel tiers that this processor has, slowest first.
#[pyfunction]
pub(crate) fn kernel_tiers() -> Vec<&'static str> {
    Tier::ALL.into_iter().filter(|tier| tier.is_available()).map(Tier::name).collect()
}

/// The kernels of a name, or the fastest.
pub(crate) fn kernels_named(name: Option<&str>) -> PyResult<Kernels> {
    let Some(name) = name else {
        return Ok(Kernels::detect());
    };
    let known = Tier::ALL.into_iter().find(|tier| tier.name() == name);
    let known = known.ok_or_else(|| {
        PyValueError::new_err(format!("kernel must be one of scalar, neon, avx2, avx512, got {name:?}"))
    })?;
    let missing = || PyRuntimeError::new_err(format!("kernel {name} is not available on this processor"));
    Kernels::forced(known).ok_or_else(missing)
}

pub(crate) fn metric_named(name: &str) -> PyResult<Metric> {
    let refuse =
        || PyValueError::new_err(format!("similarity must be one of cosine, inner_product, euclidean, got {name:?}"));
    Metric::named(name).ok_or_else(refuse)
}

/// `("half_life", half_life_s, 0)` or `("power_law", scale_s, exponent)`, checked by the Python classes.
pub(crate) fn decay_of((kind, first, second): (&str, f64, f64)) -> PyResult<Decay> {
    match kind {
        "half_life" => Ok(Decay::HalfLife { half_life_s: first }),
        "power_law" => Ok(Decay::PowerLaw { scale_s: first, exponent: second }),
        other => Err(PyValueError::new_err(format!("decay must be half_life or power_law, got {other:?}"))),
    }
}

/// Reads the part `name` for the rows that take part and refuses values that cannot be scored.
fn read_part(
    name: &str,
    weight: f64,
    array: &Bound<'_, PyAny>,
    rows: usize,
    eligible: Option<&[u32]>,
    decay: Decay,
) -> PyResult<Part> {
    let all = column(array, name, Some(rows))?;
    let mut values = match eligible {
        Some(eligible) => eligible.iter().map(|&row| all[row as usize]).collect(),
        None => all,
    };
    let row_of = |index: usize| eligible.map_or(index, |eligible| eligible[index] as usize);
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(PyValueError::new_err(format!(
            "{name} must be finite, got {} in row {}",
            values[index],
            row_of(index)
        )));
    }
    match name {
        "age_s" => values = values.into_iter().map(|age_s| decay.recency(age_s)).collect(),
        "access_count" => {
            if let Some(index) = values.iter().position(|v| *v < 0.0) {
                let (value, row) = (values[index], row_of(index));
                return Err(PyValueError::new_err(format!("{name} must be >= 0, got {value} in row {row}")));
            }
            values = values.into_iter().map(access).collect();
        }
        _ => {}
    }
    Ok(Part { weight, values })
}

/// Ranks the rows of `vectors`; see `agent_memory.scoring.score` for the meaning of everything.
#[pyfunction]
#[pyo3(signature = (query, vectors, similarity, similarity_weight, parts, decay, min_max, mask, threshold, k, threads, components, kernel))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)] // the Python face names and checks them
pub(crate) fn score_rows<'py>(
    py: Python<'py>,
    query: &Bound<'py, PyAny>,
    vectors: &Bound<'py, PyAny>,
    similarity: &str,
    similarity_weight: f64,
    parts: Vec<(String, f64, Bound<'py, PyAny>)>,
    decay: (&str, f64, f64),
    min_max: bool,
    mask: Option<&Bound<'py, PyAny>>,
    threshold: Option<f64>,
    k: usize,
    threads: usize,
    components: bool,
    kernel: Option<&str>,
) -> PyResult<Scored<'py>> {
    let kernels = kernels_named(kernel)?;
    let metric = metric_named(similarity)?;
    let decay = decay_of(decay)?;
    let matrix = Matrix::export(vectors, "vectors")?;
    let rows = matrix.rows();
    let query = vector(query, "query", Some(rows.dimensions()))?;
    let eligible = mask.map(|mask| true_positions(mask, "mask", rows.len())).transpose()?;
    let eligible = eligible.as_deref();
    let read = |(name, weight, array): &(String, f64, Bound<'py, PyAny>)| {
        read_part(name, *weight, array, rows.len(), eligible, decay)
    };
    let parts = parts.iter().map(read).collect::<PyResult<Vec<Part>>>()?;
    let request = Request {
        query: &query,
        metric,
        similarity_weight,
        parts: &parts,
        min_max,
        eligible,
        threshold: threshold.unwrap_or(f64::NEG_INFINITY),
        k,
        threads,
        components,
    };
    let answer: Answer = py.detach(|| rank(kernels, &rows, &request));
    // Copied into memory of numpy's own: for answers of this size that is cheaper than to have numpy keep ours.
    let floats = |values: Vec<f64>| PyArray1::from_slice(py, &values);
    let indices: Vec<i64> = answer.rows.into_iter().map(i64::from).collect();
    let indices = PyArray1::from_slice(py, &indices);
    let scores = floats(answer.ranked.iter().map(|ranked| ranked.value).collect());
    let parts = components.then(|| std::iter::once(answer.similarity).chain(answer.parts).map(floats).collect());
    Ok((indices, scores, parts))
}
