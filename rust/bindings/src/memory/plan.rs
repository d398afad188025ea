//! `MemoryPlan`: the decision of one transaction's writes, for stores whose SQL is Python's.

use std::collections::HashMap;

use agent_memory_core::memory::plan::{
    Agent, Answer, Change, ChangeKind, Held, Identity, Plan, PlanError, RequestName, Wanted, Writes,
};
use agent_memory_storage::memories::Outcome;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyList, PyTuple};

use super::copy::tombstone_words;
use super::operations::{Classes, Given};

/// An agent's row: number (0: not there yet), name, seq, last version, generation, purged seq, erased seq, erased version,
/// memories in each tier, time of the last change.
type AgentWords = (i64, PyBackedStr, u64, u64, u32, u64, u64, u64, u64, u64, u64, u64);

struct AgentRow {
    words: AgentWords,
}

impl AgentRow {
    fn agent(&self) -> Agent {
        let (_, _, seq, last_version, generation, _, erased_seq, erased_version, short, intermediate, long, touched_us) =
            self.words;
        let counts = [short, intermediate, long];
        Agent { seq, last_version, generation, erased_seq, erased_version, counts, touched_us }
    }
}

fn agent_words<'py>(
    py: Python<'py>,
    number: i64,
    name: &str,
    purged: u64,
    agent: &Agent,
) -> PyResult<Bound<'py, PyTuple>> {
    let Agent {
        seq, last_version, generation, erased_seq, erased_version, counts: [short, intermediate, long], ..
    } = *agent;
    let erased = (erased_seq, erased_version);
    (
        number,
        name,
        seq,
        last_version,
        generation,
        purged,
        erased.0,
        erased.1,
        short,
        intermediate,
        long,
        agent.touched_us,
    )
        .into_pyobject(py)
}

/// A memory's row, in the order of the columns that Python's stores read; of a move the first eight.
struct HeldRow {
    row: i64,
    id: PyBackedStr,
    agent_id: PyBackedStr,
    numbers: (u64, u64, u8, u8, u64),
    rest: Option<HeldRest>,
    original: Py<PyTuple>,
}

struct HeldRest {
    created_us: u64,
    /// Namespace, user, key, idempotency key.
    texts: (PyBackedStr, PyBackedStr, PyBackedStr, PyBackedStr),
    content_hash: PyBackedBytes,
    session_id: PyBackedStr,
    expires_at: Option<f64>,
}

impl HeldRow {
    fn read(original: &Bound<'_, PyTuple>) -> PyResult<Self> {
        const MOVED_WIDTH: usize = 8;
        const WIDTH: usize = 17;
        let (row, id, agent_id, version, writer, deleted, tier, seq) = original.get_slice(0, MOVED_WIDTH).extract()?;
        let rest = match original.len() {
            MOVED_WIDTH => None,
            WIDTH => {
                let part = original.get_slice(MOVED_WIDTH, WIDTH);
                let (created_us, namespace, user_id, key, idempotency_key) = part.get_slice(0, 5).extract()?;
                Some(HeldRest {
                    created_us,
                    texts: (namespace, user_id, key, idempotency_key),
                    content_hash: part.get_item(5)?.extract()?,
                    session_id: part.get_item(7)?.extract()?,
                    expires_at: part.get_item(8)?.extract()?,
                })
            }
            other => return Err(PyValueError::new_err(format!("a row must have 8 or 17 columns, got {other}"))),
        };
        let numbers = (version, writer, deleted, tier, seq);
        Ok(Self { row, id, agent_id, numbers, rest, original: original.clone().unbind() })
    }

    fn held(&self) -> Held<'_> {
        let (version, writer, deleted, tier, seq) = self.numbers;
        let identity = self.rest.as_ref().map_or_else(Identity::default, |rest| Identity {
            namespace: &rest.texts.0,
            user_id: &rest.texts.1,
            key: &rest.texts.2,
            idempotency_key: &rest.texts.3,
            content_hash: &rest.content_hash,
            session_id: &rest.session_id,
            expires_at: rest.expires_at,
        });
        Held {
            row: self.row,
            id: &self.id,
            agent_id: &self.agent_id,
            version,
            writer,
            is_deleted: deleted != 0,
            tier,
            seq,
            created_us: self.rest.as_ref().map_or(0, |rest| rest.created_us),
            identity,
        }
    }
}

/// The decision of the writes of one transaction: what has to be read for it, and what is to be written.
///
/// `operations` are those of Python's stores; `classes` has their classes, those of copies and results, and the statuses of
/// results, by name. Raises `TypeError` or `OverflowError` for what is no operation. Pure: no SQL, no clock.
#[pyclass(frozen, module = "agent_memory._core")]
pub(crate) struct MemoryPlan {
    given: Vec<Given>,
    classes: Classes,
}

#[pymethods]
impl MemoryPlan {
    #[new]
    #[pyo3(signature = (operations, classes, /))]
    fn new(operations: &Bound<'_, PyAny>, classes: Classes) -> PyResult<Self> {
        let given = operations.try_iter()?.map(|operation| Given::read(&operation?, &classes));
        Ok(Self { given: given.collect::<PyResult<_>>()?, classes })
    }

    /// What must be read: agents (sorted: the order in which they are locked), ids, keys (agent, user, namespace, key),
    /// idempotency keys (agent, user, key), duplicates (agent, content hash, session, expiry), and users. Each list without
    /// duplicates.
    fn wanted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let operations: Vec<_> = self.given.iter().map(Given::operation).collect();
        let Wanted { agents, ids, keys, requests, twins, users } = Wanted::of(&operations);
        let keys: Vec<_> = keys.iter().map(|name| (name.agent_id, name.user_id, name.namespace, name.key)).collect();
        let requests: Vec<_> =
            requests.iter().map(|name| (name.agent_id, name.user_id, name.idempotency_key)).collect();
        let twins: Vec<_> =
            twins.iter().map(|twin| (twin.agent_id, twin.content_hash, twin.session_id, twin.expires_at())).collect();
        (agents, ids, keys, requests, twins, users).into_pyobject(py)
    }

    /// Decides all operations in their order, at a time in microseconds since the epoch: their results, and what is to be
    /// written, each row once.
    ///
    /// `agents` are rows of agents, those of all memories in `held` among them; `held` are rows of memories; `later_requests`
    /// are further idempotency keys (agent, user, key) and the ids of what they stand for; `fences` are of users.
    /// To be written are: agents (those that changed), copies to insert, copies to replace and tombstones, each with the row
    /// in `held` that it replaces, further idempotency keys (agent, user, key, id, version), and labels (row, seq, version,
    /// tier). Raises `OverflowError` where no version is left, `ValueError` for a tier that is none.
    #[pyo3(signature = (now_us, agents, held, later_requests, fences, /))]
    #[expect(clippy::needless_pass_by_value, reason = "what Python's stores read")]
    fn decide<'py>(
        &self,
        py: Python<'py>,
        now_us: u64,
        agents: Vec<AgentWords>,
        held: Vec<Bound<'py, PyTuple>>,
        later_requests: Vec<((PyBackedStr, PyBackedStr, PyBackedStr), PyBackedStr)>,
        fences: Vec<(PyBackedStr, u64)>,
    ) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyTuple>)> {
        let agents: Vec<_> = agents.into_iter().map(|words| AgentRow { words }).collect();
        let held = held.iter().map(HeldRow::read).collect::<PyResult<Vec<_>>>()?;
        let mut plan = Plan::new(now_us);
        for row in &agents {
            plan.add_agent(&row.words.1, row.agent());
        }
        for row in &held {
            plan.add_held(row.held());
        }
        for (user, version) in &fences {
            plan.add_fence(user, *version);
        }
        for ((agent_id, user_id, idempotency_key), id) in &later_requests {
            plan.add_later_request(RequestName { agent_id, user_id, idempotency_key }, id);
        }
        let mut results = Vec::with_capacity(self.given.len());
        let mut copies = Vec::with_capacity(self.given.len());
        for given in &self.given {
            let answer = plan.decide(&given.operation()).map_err(undecidable)?;
            let outcome = outcome_of(given, &answer);
            let (result, copy) = self.classes.result(py, given, &outcome)?;
            results.push(result);
            copies.push(Decided { outcome, copy });
        }
        let (writes, changed) = plan.finish();
        let known: HashMap<&str, &AgentRow> = agents.iter().map(|row| (&*row.words.1, row)).collect();
        let changed = changed.iter().map(|(name, agent)| {
            let (number, purged) = known.get(name).map_or((0, 0), |row| (row.words.0, row.words.5));
            agent_words(py, number, name, purged, agent)
        });
        let changed = changed.collect::<PyResult<Vec<_>>>()?;
        let rows: HashMap<i64, &Py<PyTuple>> = held.iter().map(|row| (row.row, &row.original)).collect();
        Ok((PyList::new(py, results)?, self.written(py, &writes, changed, &copies, &rows)?))
    }
}

struct Decided<'py> {
    outcome: Outcome,
    copy: Option<Bound<'py, PyAny>>,
}

impl MemoryPlan {
    fn written<'py>(
        &self,
        py: Python<'py>,
        writes: &Writes<'_>,
        agents: Vec<Bound<'py, PyTuple>>,
        decided: &[Decided<'py>],
        rows: &HashMap<i64, &Py<PyTuple>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let (mut inserted, mut replaced, mut buried) = (Vec::new(), Vec::new(), Vec::new());
        for change in &writes.changes {
            let copy = self.copy_of(py, change, decided)?;
            let before = change.before.as_ref().and_then(|before| rows.get(&before.row));
            match (change.kind, before) {
                (ChangeKind::Replace, Some(row)) => replaced.push((copy, row.clone_ref(py))),
                (ChangeKind::Bury, Some(row)) => buried.push((copy, row.clone_ref(py))),
                _ => inserted.push(copy),
            }
        }
        let requests = writes.requests.iter().map(|request| {
            let RequestName { agent_id, user_id, idempotency_key } = request.name;
            (agent_id, user_id, idempotency_key, request.id, request.version)
        });
        let requests: Vec<_> = requests.collect();
        let labels: Vec<_> =
            writes.labels.iter().map(|label| (label.row, label.seq, label.version, label.tier)).collect();
        (agents, inserted, replaced, buried, requests, labels).into_pyobject(py)
    }

    /// The copy that a row is to have: that of a result, unless a move has changed its label since.
    fn copy_of<'py>(
        &self,
        py: Python<'py>,
        change: &Change<'_>,
        decided: &[Decided<'py>],
    ) -> PyResult<Bound<'py, PyAny>> {
        let after = &change.after;
        let Some(at) = change.source else { return self.classes.copy(tombstone_words(py, after)?) };
        let Decided { outcome, copy } = &decided[at];
        match (copy, &outcome.stored) {
            (Some(copy), Some(stored)) if stored.numbers.seq == after.seq => Ok(copy.clone()),
            (_, Some(stored)) => {
                let mut outcome = outcome.clone();
                let mut moved = stored.clone();
                (moved.numbers.tier, moved.numbers.seq) = (after.tier, after.seq);
                outcome.stored = Some(moved);
                let (_, copy) = self.classes.result(py, &self.given[at], &outcome)?;
                copy.ok_or_else(|| PyValueError::new_err("a put must have a copy"))
            }
            _ => Err(PyValueError::new_err("a put that was not applied must not be written")),
        }
    }
}

fn outcome_of(given: &Given, answer: &Answer<'_>) -> Outcome {
    let stored = given.copy().and_then(|copy| answer.stored_copy(&copy));
    Outcome::of(&given.write(None, &[]), answer, stored.as_ref())
}

fn undecidable(error: PlanError) -> PyErr {
    match error {
        PlanError::NoVersionLeft => PyOverflowError::new_err("no version is left below 2^52"),
        PlanError::NoSuchTier(tier) => PyValueError::new_err(format!("tier must be 0..2, got {tier}")),
    }
}

/// The row of an agent that is erased at a time, in microseconds since the epoch.
#[pyfunction]
#[pyo3(signature = (agent, now_us, /))]
pub(crate) fn erase_agent(py: Python<'_>, agent: AgentWords, now_us: u64) -> PyResult<Bound<'_, PyTuple>> {
    let row = AgentRow { words: agent };
    let mut erased = row.agent();
    erased.erase(now_us);
    agent_words(py, row.words.0, &row.words.1, row.words.5, &erased)
}
