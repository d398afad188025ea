//! `IndexCore`: the class behind `agent_memory.scoring.MemoryIndex`.

use super::arrays::{Matrix, column, vector};
use super::exact::{decay_of, kernels_named, metric_named};
use agent_memory_core::scoring::index::codes::Rotation;
use agent_memory_core::scoring::index::search::{Diversity, Filter, Found, Fusion, Query, Searcher};
use agent_memory_core::scoring::index::segment::NewRow;
use agent_memory_core::scoring::index::text::{Analyzer, Bm25, LANGUAGES, OTHER_LANGUAGES};
use agent_memory_core::scoring::index::{Exhausted, Index, Settings, State};
use agent_memory_core::scoring::kernels::{Kernels, MAX_DIMENSIONS};
use agent_memory_core::scoring::parts::Weights;
use agent_memory_storage::snapshot::{self, LoadError};
use numpy::{PyArray1, PyArray2};
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

type Parts<'py> = Bound<'py, PyArray2<f64>>;
type Answer<'py> = (Vec<String>, Bound<'py, PyArray1<f64>>, usize);
type WeightTuple = (f64, f64, f64, f64, f64);

/// An index in memory. Every method may be called from any thread.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct IndexCore {
    index: Index,
}

/// What a search needs besides its query, as the Python face hands it over.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Options {
    k: usize,
    weights: WeightTuple,
    fusion: String,
    decay: (String, f64, f64),
    now_s: f64,
    time_range_s: Option<(f64, f64)>,
    attributes: Vec<Vec<String>>,
    diversity: Option<(f64, usize)>,
    threads: usize,
    kernel: Option<String>,
}

/// [`Options`] in the core's types.
struct CoreOptions {
    k: usize,
    weights: Weights,
    fusion: Fusion,
    decay: agent_memory_core::scoring::parts::Decay,
    now_s: f64,
    filter: Filter,
    diversity: Option<Diversity>,
    kernels: Kernels,
    threads: usize,
}

impl CoreOptions {
    fn new(options: Options) -> PyResult<Self> {
        let (similarity, lexical, recency, importance, access) = options.weights;
        let fusion = match options.fusion.as_str() {
            "minmax" => Fusion::MinMax,
            "sum" => Fusion::Sum,
            "rrf" => Fusion::Rrf,
            other => {
                return Err(PyValueError::new_err(format!("fusion must be one of minmax, sum, rrf, got {other:?}")));
            }
        };
        let (kind, first, second) = options.decay;
        Ok(Self {
            k: options.k,
            weights: Weights { similarity, lexical, recency, importance, access },
            fusion,
            decay: decay_of((&kind, first, second))?,
            now_s: options.now_s,
            filter: Filter { time_range_s: options.time_range_s, attributes: options.attributes },
            diversity: options.diversity.map(|(relevance_share, pool)| Diversity { relevance_share, pool }),
            kernels: kernels_named(options.kernel.as_deref())?,
            threads: options.threads,
        })
    }

    fn query<'a>(&'a self, vector: Option<&'a [f64]>, terms: Option<&'a [String]>) -> Query<'a> {
        Query {
            vector,
            terms,
            k: self.k,
            weights: self.weights,
            fusion: self.fusion,
            decay: self.decay,
            now_s: self.now_s,
            filter: &self.filter,
            diversity: self.diversity,
        }
    }
}

fn answer<'py>(py: Python<'py>, state: &State, found: &Found) -> Answer<'py> {
    let ids = found.hits.iter().map(|hit| state.id_of(hit.row).to_owned()).collect();
    let scores: Vec<f64> = found.hits.iter().map(|hit| hit.score).collect();
    (ids, PyArray1::from_slice(py, &scores), found.candidates)
}

#[pymethods]
impl IndexCore {
    #[new]
    #[pyo3(signature = (dimensions, similarity, language, k1, b, context, model))]
    fn new(
        dimensions: usize,
        similarity: &str,
        language: &str,
        k1: f64,
        b: f64,
        context: bool,
        model: String,
    ) -> PyResult<Self> {
        check_dimensions(dimensions)?;
        let metric = metric_named(similarity)?;
        let analyzer = Analyzer::new(language).ok_or_else(|| {
            PyValueError::new_err(format!("language must be one of {}, got {language:?}", languages().join(", ")))
        })?;
        let rotation = Rotation::new(dimensions);
        let bm25 = Bm25 { k1, b };
        Ok(Self { index: Index::new(Settings { dimensions, metric, analyzer, bm25, context, model, rotation }) })
    }

    #[getter]
    fn dimensions(&self) -> usize {
        self.index.settings().dimensions
    }

    #[getter]
    fn similarity(&self) -> &'static str {
        self.index.settings().metric.name()
    }

    #[getter]
    fn language(&self) -> &str {
        self.index.settings().analyzer.language()
    }

    /// The version of the rules that its terms were made by.
    #[getter]
    fn analyzer_version(&self) -> u32 {
        self.index.settings().analyzer.version()
    }

    #[getter]
    fn model(&self) -> &str {
        &self.index.settings().model
    }

    fn __len__(&self) -> usize {
        self.index.state().len()
    }

    fn __contains__(&self, py: Python<'_>, id: &str) -> bool {
        py.detach(|| self.index.contains(id))
    }

    /// The ids of all memories, by the time of their last write.
    fn ids(&self, py: Python<'_>) -> Vec<String> {
        py.detach(|| self.index.state().ids())
    }

    /// An empty index with the settings of this one, for vectors of another model.
    #[pyo3(signature = (dimensions, model))]
    fn emptied(&self, dimensions: usize, model: String) -> PyResult<Self> {
        let Settings { metric, analyzer, bm25, context, .. } = self.index.settings();
        check_dimensions(dimensions)?;
        // Terms are carried over, so a question of the new index must have terms of the same rules.
        let analyzer = Analyzer::of_version(analyzer.version(), analyzer.language()).expect("it is an analyzer's own");
        let rotation = Rotation::new(dimensions);
        let settings =
            Settings { dimensions, metric: *metric, analyzer, bm25: *bm25, context: *context, model, rotation };
        Ok(Self { index: Index::new(settings) })
    }

    /// Copies memories into `target` with other vectors, one for each id, or none. Ids that are gone are passed over.
    #[pyo3(signature = (target, ids, vectors))]
    #[allow(clippy::needless_pass_by_value)] // extracted from Python
    fn copy_into(
        &self,
        py: Python<'_>,
        target: &Bound<'_, Self>,
        ids: Vec<String>,
        vectors: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let target = target.get();
        let matrix = vectors.map(|vectors| Matrix::export(vectors, "vectors")).transpose()?;
        let width = target.index.settings().dimensions;
        if let Some(matrix) = &matrix {
            check_shape(matrix, ids.len(), width)?;
        }
        py.detach(|| {
            let vectors = matrix.as_ref().map(copy_vectors).transpose()?.unwrap_or_default();
            let (rows, sequences) = self.index.rows_of(&ids);
            let kept = vectors.chunks_exact(width).zip(&rows).filter(|(_, row)| row.is_some());
            let vectors = kept.flat_map(|(vector, _)| vector.iter().copied()).collect();
            let rows = rows.into_iter().flatten().collect();
            target.index.upsert(rows, vectors, &sequences).map_err(exhausted)
        })
    }

    /// Writes a snapshot beside `path` and renames it there; with `mapped` the elements are then left to the file.
    #[allow(clippy::needless_pass_by_value)] // extracted from Python
    fn save(&self, py: Python<'_>, path: PathBuf, mapped: bool) -> PyResult<()> {
        Ok(py.detach(|| snapshot::save(&self.index, &path, mapped))?)
    }

    /// Loads a snapshot; with `mapped` the elements of the vectors stay in the file.
    #[staticmethod]
    #[allow(clippy::needless_pass_by_value)] // extracted from Python
    fn load(py: Python<'_>, path: PathBuf, mapped: bool) -> PyResult<Self> {
        match py.detach(|| snapshot::load(&path, mapped)) {
            Ok(index) => Ok(Self { index }),
            Err(LoadError::Io(error)) => Err(error.into()),
            Err(LoadError::Snapshot(error)) => Err(PyValueError::new_err(format!("{}: {error}", path.display()))),
        }
    }

    /// The number of segments, and of dead rows that still occupy memory.
    fn fragmentation(&self) -> (usize, usize) {
        self.index.state().fragmentation()
    }

    #[pyo3(signature = (ids, vectors, texts, importance, access_counts, timestamps_s, attributes, sequence))]
    #[allow(clippy::too_many_arguments)] // the Python face names and checks them
    fn upsert(
        &self,
        py: Python<'_>,
        ids: Vec<String>,
        vectors: Option<&Bound<'_, PyAny>>,
        texts: Option<Vec<Option<String>>>,
        importance: Option<&Bound<'_, PyAny>>,
        access_counts: Option<&Bound<'_, PyAny>>,
        timestamps_s: Option<&Bound<'_, PyAny>>,
        attributes: Option<Vec<Vec<String>>>,
        sequence: Option<Vec<Option<(String, i64)>>>,
    ) -> PyResult<()> {
        let count = ids.len();
        let matrix = vectors.map(|vectors| Matrix::export(vectors, "vectors")).transpose()?;
        let numbers = |array: Option<&Bound<'_, PyAny>>, name: &str, other: f64| match array {
            Some(array) => column(array, name, Some(count)),
            None => Ok(vec![other; count]),
        };
        let importance = numbers(importance, "importance", 0.0)?;
        let access_counts = numbers(access_counts, "access_counts", 0.0)?;
        let times = numbers(timestamps_s, "timestamps", f64::NAN)?;
        check_numbers(&importance, "importance", f64::NEG_INFINITY)?;
        check_numbers(&access_counts, "access_counts", 0.0)?;
        let settings = self.index.settings();
        if let Some(matrix) = &matrix {
            check_shape(matrix, count, settings.dimensions)?;
        }
        let mut names = Names::default();
        let mut rows: Vec<NewRow> = Vec::with_capacity(count);
        let mut attributes = attributes.unwrap_or_default().into_iter();
        let mut sequence = sequence.unwrap_or_default().into_iter();
        for (index, id) in ids.into_iter().enumerate() {
            rows.push(NewRow {
                id,
                importance: importance[index],
                access_count: access_counts[index],
                timestamp_s: times[index],
                attributes: attributes.next().unwrap_or_default(),
                sequence: sequence.next().flatten().map(|(name, step)| (names.number(name), step)),
                ..NewRow::default()
            });
        }
        py.detach(|| {
            check_unique(&rows)?;
            let vectors = matrix.as_ref().map(copy_vectors).transpose()?.unwrap_or_default();
            for (row, text) in rows.iter_mut().zip(texts.unwrap_or_default()) {
                row.text = text.map(|text| settings.analyzer.count(&text));
            }
            self.index.upsert(rows, vectors, &names.known).map_err(exhausted)
        })
    }

    #[allow(clippy::needless_pass_by_value)] // extracted from Python
    fn delete(&self, py: Python<'_>, ids: Vec<String>) -> usize {
        py.detach(|| self.index.delete(ids.iter().map(String::as_str)))
    }

    #[pyo3(signature = (vector, text, options))]
    fn search<'py>(
        &self,
        py: Python<'py>,
        vector: Option<&Bound<'py, PyAny>>,
        text: Option<&str>,
        options: Options,
    ) -> PyResult<Answer<'py>> {
        let settings = self.index.settings();
        let vector = vector.map(|array| self::vector(array, "vector", Some(settings.dimensions))).transpose()?;
        let options = CoreOptions::new(options)?;
        let (state, found) = py.detach(|| {
            let terms = text.map(|text| settings.analyzer.query_terms(text));
            let state = self.index.state();
            let searcher = Searcher { settings, state: &state, kernels: options.kernels };
            let found = searcher.search(&options.query(vector.as_deref(), terms.as_deref()));
            (state, found)
        });
        Ok(answer(py, &state, &found))
    }

    /// As `search`, and of each memory found the parts of its score, shape (found, 5), and its relevance, shape (found,).
    #[pyo3(signature = (vector, text, options))]
    fn search_with_parts<'py>(
        &self,
        py: Python<'py>,
        vector: Option<&Bound<'py, PyAny>>,
        text: Option<&str>,
        options: Options,
    ) -> PyResult<(Answer<'py>, Parts<'py>, Bound<'py, PyArray1<f64>>)> {
        let settings = self.index.settings();
        let vector = vector.map(|array| self::vector(array, "vector", Some(settings.dimensions))).transpose()?;
        let options = CoreOptions::new(options)?;
        let (state, found, parts, relevance) = py.detach(|| {
            let terms = text.map(|text| settings.analyzer.query_terms(text));
            let state = self.index.state();
            let searcher = Searcher { settings, state: &state, kernels: options.kernels };
            let query = options.query(vector.as_deref(), terms.as_deref());
            let found = searcher.search(&query);
            let parts = searcher.parts(&query, &found.hits);
            let relevance = searcher.relevance(&query, &found, &parts);
            let parts: Vec<Vec<f64>> = parts.into_iter().map(|parts| parts.to_vec()).collect();
            (state, found, parts, relevance)
        });
        let parts = if parts.is_empty() {
            PyArray2::zeros(py, [0, 5], false)
        } else {
            PyArray2::from_vec2(py, &parts).expect("rows of equal length")
        };
        Ok((answer(py, &state, &found), parts, PyArray1::from_slice(py, &relevance)))
    }

    /// Many searches over one state. Plain searches by vector share one pass over the codes.
    #[pyo3(signature = (vectors, texts, options))]
    #[allow(clippy::needless_pass_by_value)] // extracted from Python
    fn search_many<'py>(
        &self,
        py: Python<'py>,
        vectors: Option<&Bound<'py, PyAny>>,
        texts: Option<Vec<String>>,
        options: Options,
    ) -> PyResult<Vec<Answer<'py>>> {
        let settings = self.index.settings();
        let matrix = vectors.map(|array| Matrix::export(array, "vectors")).transpose()?;
        let vectors = matrix.as_ref().map(|matrix| finite_rows(matrix, settings.dimensions)).transpose()?;
        let count = vectors.as_ref().map_or_else(|| texts.as_ref().map_or(0, Vec::len), Vec::len);
        if let (Some(vectors), Some(texts)) = (&vectors, &texts)
            && vectors.len() != texts.len()
        {
            let (rows, others) = (vectors.len(), texts.len());
            return Err(PyValueError::new_err(format!(
                "texts must have one element per vector ({rows}), got {others}"
            )));
        }
        let options = CoreOptions::new(options)?;
        let state = self.index.state();
        let found: Vec<Found> = py.detach(|| {
            let searcher = Searcher { settings, state: &state, kernels: options.kernels };
            let terms: Option<Vec<Vec<String>>> =
                texts.map(|texts| texts.iter().map(|text| settings.analyzer.query_terms(text)).collect());
            in_threads(options.threads, count, |range| {
                let vectors: Option<Vec<&[f64]>> =
                    vectors.as_ref().map(|vectors| vectors[range.clone()].iter().map(Vec::as_slice).collect());
                let terms = terms.as_ref().map(|terms| &terms[range.clone()]);
                let one = |index: usize| {
                    let vector = vectors.as_ref().map(|vectors| vectors[index]);
                    let terms = terms.map(|terms| terms[index].as_slice());
                    options.query(vector, terms)
                };
                searcher.search_many(&(0..range.len()).map(one).collect::<Vec<_>>())
            })
        });
        Ok(found.iter().map(|found| answer(py, &state, found)).collect())
    }
}

/// The names that `language` takes.
#[pyfunction]
pub(super) fn languages() -> Vec<&'static str> {
    LANGUAGES.iter().map(|(name, _)| *name).chain(OTHER_LANGUAGES).collect()
}

fn check_dimensions(dimensions: usize) -> PyResult<()> {
    if (1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("dimensions must be in 1..={MAX_DIMENSIONS}, got {dimensions}")))
}

fn exhausted(_: Exhausted) -> PyErr {
    PyOverflowError::new_err("2**32 rows were written; save and load the index to go on")
}

fn check_shape(matrix: &Matrix, rows: usize, dimensions: usize) -> PyResult<()> {
    let (expected, got) = ((rows, dimensions), (matrix.rows().len(), matrix.rows().dimensions()));
    if got == expected {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("vectors must have shape {expected:?}, got {got:?}")))
}

fn in_threads<T: Send>(threads: usize, count: usize, work: impl Fn(std::ops::Range<usize>) -> Vec<T> + Sync) -> Vec<T> {
    let share = count.div_ceil(threads.max(1)).max(1);
    if share >= count {
        return work(0..count);
    }
    let work = &work;
    std::thread::scope(|scope| {
        let piece = |start: usize| scope.spawn(move || work(start..count.min(start + share)));
        let handles: Vec<_> = (0..count).step_by(share).map(piece).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("a search does not panic")).collect()
    })
}

fn check_numbers(values: &[f64], name: &str, least: f64) -> PyResult<()> {
    match values.iter().position(|value| !value.is_finite() || *value < least) {
        Some(row) if least >= 0.0 => Err(PyValueError::new_err(format!(
            "{name} must be finite and >= {least}, got {} in row {row}",
            values[row]
        ))),
        Some(row) => Err(PyValueError::new_err(format!("{name} must be finite, got {} in row {row}", values[row]))),
        None => Ok(()),
    }
}

fn check_unique(rows: &[NewRow]) -> PyResult<()> {
    let mut seen = HashSet::with_capacity(rows.len());
    match rows.iter().find(|row| !seen.insert(row.id.as_str())) {
        Some(row) => Err(PyValueError::new_err(format!("ids must be unique within a call, got {:?} twice", row.id))),
        None => Ok(()),
    }
}

/// Copies each row once and judges the copy: what the caller writes meanwhile cannot get past the check.
fn copy_vectors(matrix: &Matrix) -> PyResult<Vec<f32>> {
    /// Larger elements have squares that are not finite in single precision; nothing that is embedded needs them.
    const LIMIT: f32 = 1e15;
    let source = matrix.rows();
    let width = source.dimensions();
    let mut vectors = vec![0.0; source.len() * width];
    for (index, row) in vectors.chunks_exact_mut(width).enumerate() {
        source.copy_f32(index, row);
        // All of a row first, without a branch for each element; a NaN is not within the limit.
        if !row.iter().fold(true, |all, x| all & (x.abs() <= LIMIT)) {
            let x = row.iter().find(|x| x.is_nan() || x.abs() > LIMIT).unwrap_or(&f32::NAN);
            let message = format!("vectors must be finite and at most 1e15 in size, got {x} in row {index}");
            return Err(PyValueError::new_err(message));
        }
    }
    Ok(vectors)
}

fn finite_rows(matrix: &Matrix, dimensions: usize) -> PyResult<Vec<Vec<f64>>> {
    let source = matrix.rows();
    if source.dimensions() != dimensions {
        let got = source.dimensions();
        return Err(PyValueError::new_err(format!("vectors must have {dimensions} columns, got {got}")));
    }
    let rows: Vec<Vec<f64>> = (0..source.len()).map(|row| source.wide(row)).collect();
    match rows.iter().position(|row| row.iter().any(|x| !x.is_finite())) {
        Some(row) => Err(PyValueError::new_err(format!("vectors must be finite, got a NaN or infinity in row {row}"))),
        None => Ok(rows),
    }
}

/// Names in the order of their first use.
#[derive(Default)]
struct Names {
    numbers: HashMap<String, u32>,
    known: Vec<String>,
}

impl Names {
    fn number(&mut self, name: String) -> u32 {
        let next = u32::try_from(self.known.len()).expect("fewer names than rows");
        *self.numbers.entry(name).or_insert_with_key(|name| {
            self.known.push(name.clone());
            next
        })
    }
}
