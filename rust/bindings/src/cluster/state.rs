//! `ClusterCore`: the state that the clients of one cluster share in this process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use agent_memory_core::cluster::address::Address;
use agent_memory_core::cluster::nodes::{NodeNumber, Role};
use agent_memory_core::cluster::plan::{self, Part, Plan};
use agent_memory_core::cluster::redirect::{Progress, Refusal};
use agent_memory_core::cluster::refresh::Next;
use agent_memory_core::cluster::state::{Cluster, Decision, Effects, Heard, NOWHERE, Reason, Settings};
use agent_memory_core::cluster::topology::SlotTable;
use agent_memory_core::cluster::view::{Info, Reading, View};
use agent_memory_core::cluster::{Rules, waiting::Verdict};
use agent_memory_core::config::{count, duration_ns, ns_to_seconds};
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::keys::slot_of_key;
use super::replies::{error_text, reply_of, text_of};
use super::{ASK, FULL, RAISE, REJECT, RESOLVE, ROUTE, SEND, WAIT, WAIT_ROUTE};
use crate::clock::now_ns;
use crate::convert::Whole;
use crate::errors::refused;

/// The most calls that may wait for one node.
const MOST_WAITING: u32 = 10_000_000;

/// The shared state of one cluster. All methods may be called from any thread; none waits for anything.
///
/// `seeds` are (host, port). `make_handle(node, host, port)` makes the object that stands for a node, when it is first asked for.
/// `remap((host, port))` gives the address under which a node is reached; None for the same. `wake(nodes)` is called with the
/// nodes whose waiting calls route anew (-1: those without an owner), `refresh_due()` when `next_questions` is to be asked again.
#[pyclass(frozen, module = "agent_memory._core", weakref)]
pub(crate) struct ClusterCore {
    state: Mutex<Cluster>,
    table: Arc<SlotTable>,
    handles: RwLock<Vec<Option<Py<PyAny>>>>,
    make_handle: Py<PyAny>,
    remap: Option<Py<PyAny>>,
    wake: Option<Py<PyAny>>,
    refresh_due: Option<Py<PyAny>>,
    is_tls: bool,
}

#[pymethods]
impl ClusterCore {
    #[new]
    #[pyo3(signature = (
        seeds, make_handle, *, remap=None, wake=None, refresh_due=None, is_tls=false, failover_wait_s=20.0,
        max_waiting_commands=Whole(10_000), period_s=60.0, seed=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn new(
        seeds: Vec<(String, i64)>,
        make_handle: Py<PyAny>,
        remap: Option<Py<PyAny>>,
        wake: Option<Py<PyAny>>,
        refresh_due: Option<Py<PyAny>>,
        is_tls: bool,
        failover_wait_s: f64,
        max_waiting_commands: Whole,
        period_s: f64,
        seed: Option<u64>,
    ) -> PyResult<Self> {
        let settings = Settings {
            rules: Rules::ALL,
            failover_wait_ns: duration_ns("failover_wait_s", failover_wait_s).map_err(|error| refused(&error))?,
            max_waiting: count("max_waiting_commands", max_waiting_commands.0, MOST_WAITING)
                .map_err(|error| refused(&error))?,
            period_ns: duration_ns("period_s", period_s).map_err(|error| refused(&error))?,
        };
        let seeds: Vec<Address> = seeds
            .iter()
            .map(|(host, port)| {
                Address::new(host, *port).ok_or_else(|| {
                    PyValueError::new_err(format!("seeds must be (host, port 1 to 65535), got ({host:?}, {port})"))
                })
            })
            .collect::<PyResult<_>>()?;
        if seeds.is_empty() {
            return Err(PyValueError::new_err("seeds must name a node, got none"));
        }
        let mut state = Cluster::new(&seeds, settings, seed.unwrap_or_else(crate::clock::random_seed), now_ns());
        state.want(Reason::Asked, now_ns());
        let table = Arc::clone(state.topology().table());
        let handles = RwLock::new(Vec::new());
        Ok(Self { state: Mutex::new(state), table, handles, make_handle, remap, wake, refresh_due, is_tls })
    }

    // --- routing ------------------------------------------------------------------------------------------------

    /// The handle of the owner of the key's slot; None where no owner is known.
    #[pyo3(signature = (key, /))]
    fn route<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.owner_of(key)
    }

    /// The handle of the slot's owner; None where no owner is known.
    #[pyo3(signature = (slot, /))]
    fn route_slot(&self, py: Python<'_>, slot: u16) -> PyResult<Option<Py<PyAny>>> {
        self.table.owner(slot).map(|node| self.handle_of(py, node)).transpose()
    }

    /// The number of the slot's owner.
    #[pyo3(signature = (slot, /))]
    fn owner(&self, slot: u16) -> Option<NodeNumber> {
        self.table.owner(slot)
    }

    /// The handle of a node. Raises `KeyError` for one that is not known.
    #[pyo3(signature = (node, /))]
    fn handle(&self, py: Python<'_>, node: NodeNumber) -> PyResult<Py<PyAny>> {
        self.handle_of(py, node)
    }

    /// The number of the node that is known at this address; None without one.
    #[pyo3(signature = (host, port, /))]
    fn number_of(&self, host: &str, port: i64) -> Option<NodeNumber> {
        self.lock().nodes().find(&Address::new(host, port)?)
    }

    /// A primary for a command without keys; None where none is known.
    fn any_primary(&self) -> Option<NodeNumber> {
        self.lock().any_primary()
    }

    /// The slot of all keys; -1 without keys; [(slot, positions)] for a command that is split by slot; None for CROSSSLOT.
    #[pyo3(signature = (name, keys, /))]
    #[expect(clippy::unused_self, reason = "a method in Python, beside its kin")]
    fn plan<'py>(&self, py: Python<'py>, name: &str, keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match plan::plan(name, &slots_of(keys)?) {
            Plan::Keyless => (-1_i32).into_pyobject(py)?.into_any(),
            Plan::One(slot) => slot.into_pyobject(py)?.into_any(),
            Plan::Split(parts) => parts_of(py, parts)?.into_any(),
            Plan::CrossSlot => py.None().into_bound(py),
        })
    }

    /// The keys by slot: [(slot, positions)], in the order of each slot's first key.
    #[pyo3(signature = (keys, /))]
    #[expect(clippy::unused_self, reason = "a method in Python, beside its kin")]
    fn split<'py>(&self, py: Python<'py>, keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        parts_of(py, plan::split(&slots_of(keys)?))
    }

    // --- redirects and failures -------------------------------------------------------------------------------------

    /// What follows an error reply of `node` to a command sent at `sent_ns`: (action, node, pause in seconds, progress).
    ///
    /// `progress` is what the call's last redirect gave, 0 at first; `deadline_ns` 0 for none.
    #[pyo3(signature = (error, node, progress, sent_ns, deadline_ns, /))]
    fn redirect(
        &self,
        error: &Bound<'_, PyAny>,
        node: NodeNumber,
        progress: u64,
        sent_ns: u64,
        deadline_ns: u64,
    ) -> PyResult<(u8, NodeNumber, f64, u64)> {
        let py = error.py();
        let Some(refusal) = self.refusal_of(error, node)? else { return Ok((RAISE, node, 0.0, progress)) };
        let mut progress = Progress::unpack(progress);
        let decision =
            self.act(py, |state, now_ns| state.redirect(&refusal, node, &mut progress, sent_ns, now_ns, deadline_ns));
        let (action, node, pause_ns) = match decision {
            Decision::Raise => (RAISE, node, 0),
            Decision::Send(node, pause_ns) => (SEND, node, pause_ns),
            Decision::Ask(node, pause_ns) => (ASK, node, pause_ns),
            Decision::Route(pause_ns) => (ROUTE, node, pause_ns),
            Decision::Resolve(node, pause_ns) => (RESOLVE, node, pause_ns),
        };
        Ok((action, node, ns_to_seconds(pause_ns), progress.pack()))
    }

    /// The transport to a node failed: refused, reset or too late.
    #[pyo3(signature = (node, /))]
    fn node_failed(&self, py: Python<'_>, node: NodeNumber) {
        self.act(py, |state, now_ns| state.node_failed(node, now_ns));
    }

    /// The circuit of a node opened.
    #[pyo3(signature = (node, /))]
    fn node_opened(&self, py: Python<'_>, node: NodeNumber) {
        self.act(py, |state, now_ns| state.node_opened(node, now_ns));
    }

    /// The circuit of a node closed, or the node answered after a failure.
    #[pyo3(signature = (node, /))]
    fn node_closed(&self, py: Python<'_>, node: NodeNumber) {
        self.act(py, |state, _| state.node_closed(node));
    }

    /// What a call for `slot` does (-1: for the node itself) that `node` could not take (-1: no owner), as a number.
    #[pyo3(signature = (node, slot, is_open, /))]
    fn wait_or_reject(&self, py: Python<'_>, node: i64, slot: i64, is_open: bool) -> u8 {
        let verdict = self
            .act(py, |state, now_ns| state.wait_or_reject(number_of(node), u16::try_from(slot).ok(), is_open, now_ns));
        verdict_number(verdict)
    }

    /// What a call does whose slot has no owner, begun at `since_ns`: (a number as of `wait_or_reject`, the longest wait in seconds).
    #[pyo3(signature = (slot, since_ns, deadline_ns, /))]
    fn wait_for_owner(&self, py: Python<'_>, slot: u16, since_ns: u64, deadline_ns: u64) -> (u8, f64) {
        let (verdict, pause_ns) =
            self.act(py, |state, now_ns| state.wait_for_owner(slot, since_ns, deadline_ns, now_ns));
        (verdict_number(verdict), ns_to_seconds(pause_ns))
    }

    /// Ends a wait: once for each that was counted.
    #[pyo3(signature = (node, /))]
    fn end_waiting(&self, node: i64) {
        self.lock().end_waiting(number_of(node));
    }

    // --- refreshing -------------------------------------------------------------------------------------------------

    /// Wishes for a refresh: "asked", "failure", "unknown", "moved" or "unserved".
    #[pyo3(signature = (reason="asked", /))]
    fn want_refresh(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        let reason = match reason {
            "asked" => Reason::Asked,
            "failure" => Reason::Failure,
            "unknown" => Reason::Unknown,
            "moved" => Reason::Moved,
            "unserved" => Reason::Unserved,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "reason must be 'asked', 'failure', 'unknown', 'moved' or 'unserved', got '{reason}'"
                )));
            }
        };
        self.act(py, |state, now_ns| state.want(reason, now_ns));
        Ok(())
    }

    /// (`delay_s`, 0, []): nothing to ask for that long. (0.0, round, [(node, full)]): ask these now.
    #[pyo3(signature = (connected=Vec::new(), /))]
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn next_questions(&self, connected: Vec<NodeNumber>) -> (f64, u64, Vec<(NodeNumber, bool)>) {
        match self.lock().next_questions(&connected, now_ns()) {
            Next::Wait(delay_ns) => (ns_to_seconds(delay_ns), 0, Vec::new()),
            Next::Ask { round, nodes, full } => (0.0, round, nodes.into_iter().map(|node| (node, full)).collect()),
        }
    }

    /// An answer to a question sent at `asked_ns`: "accepted", "unchanged", "stale" or "wanted".
    ///
    /// `slots` is the reply of CLUSTER SLOTS or CLUSTER SHARDS, `info` that of CLUSTER INFO; None where it was not asked for.
    /// Raises `ValueError` for what is neither; the question counts as unanswered then.
    #[pyo3(signature = (round, node, asked_ns, slots, info, /))]
    fn answer(
        &self,
        round: u64,
        node: NodeNumber,
        asked_ns: u64,
        slots: &Bound<'_, PyAny>,
        info: &Bound<'_, PyAny>,
    ) -> PyResult<&'static str> {
        let py = slots.py();
        let read = self.read_answer(node, slots, info);
        let (view, info) = match read {
            Ok(read) => read,
            Err(error) => {
                self.no_answer(py, round, node);
                return Err(error);
            }
        };
        let heard = self.act(py, |state, now_ns| state.answer(round, node, asked_ns, view.as_ref(), info, now_ns));
        Ok(match heard {
            Heard::Accepted => "accepted",
            Heard::Unchanged => "unchanged",
            Heard::Stale => "stale",
            Heard::Wanted => "wanted",
        })
    }

    /// A question stays unanswered: an error, or too late.
    #[pyo3(signature = (round, node, /))]
    fn no_answer(&self, py: Python<'_>, round: u64, node: NodeNumber) {
        self.act(py, |state, now_ns| state.no_answer(round, node, now_ns));
    }

    // --- what is known ----------------------------------------------------------------------------------------------

    /// Grows with every change of the topology.
    #[getter]
    fn version(&self) -> u64 {
        self.lock().topology().version()
    }

    /// (node, host, port, id, hostname, zone, number of its primary or None, whether a view or a redirect names it).
    #[expect(clippy::type_complexity, reason = "a row")]
    fn nodes(
        &self,
    ) -> Vec<(NodeNumber, String, u16, Option<String>, Option<String>, Option<String>, Option<NodeNumber>, bool)> {
        let state = self.lock();
        let row = |(number, node): (NodeNumber, &agent_memory_core::cluster::nodes::Node)| {
            let text = |value: &Option<Box<str>>| value.as_deref().map(str::to_owned);
            let primary = if let Role::Replica(primary) = node.role { Some(primary) } else { None };
            let (host, port) = (node.address.host.to_string(), node.address.port);
            let is_named = state.topology().names(number);
            (number, host, port, text(&node.id), text(&node.hostname), text(&node.zone), primary, is_named)
        };
        state.nodes().iter().map(row).collect()
    }

    /// (first slot, last slot, owner, replicas of the owner), ascending; slots without an owner are left out.
    fn slot_ranges(&self) -> Vec<(u16, u16, NodeNumber, Vec<NodeNumber>)> {
        let state = self.lock();
        let topology = state.topology();
        let row = |(first, last, owner)| (first, last, owner, topology.replicas(owner).to_vec());
        topology.ranges().into_iter().map(row).collect()
    }

    /// How many slots have no owner.
    #[getter]
    fn uncovered(&self) -> usize {
        self.lock().uncovered()
    }

    /// Nodes with a handle that neither the present view nor a redirect names and that no call waits for.
    fn retirable(&self) -> Vec<NodeNumber> {
        let nodes = self.lock().retirable();
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        nodes.into_iter().filter(|node| handles.get(usize::from(*node)).is_some_and(Option::is_some)).collect()
    }

    /// Forgets a node, and gives its handle back; None where it is needed after all, or has no handle.
    #[pyo3(signature = (node, /))]
    fn retire(&self, node: NodeNumber) -> Option<Py<PyAny>> {
        if !self.lock().retire(node) {
            return None;
        }
        self.handles.write().unwrap_or_else(PoisonError::into_inner).get_mut(usize::from(node))?.take()
    }

    /// Counters since the beginning, and the state now.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (counters, epoch, version, waiting, nodes) = {
            let state = self.lock();
            let waiting: Vec<_> =
                state.waiting().awaited().map(|node| (node, state.waiting().waiting_for(node))).collect();
            let topology = state.topology();
            (state.counters(), topology.epoch(), topology.version(), waiting, state.nodes().len())
        };
        let stats = PyDict::new(py);
        for (name, value) in [
            ("questions", counters.questions),
            ("views_accepted", counters.views_accepted),
            ("views_unchanged", counters.views_unchanged),
            ("views_stale", counters.views_stale),
            ("moved", counters.moved),
            ("ask", counters.ask),
            ("try_again", counters.try_again),
            ("unserved", counters.unserved),
            ("redirects_refused", counters.redirects_refused),
            ("waits", counters.waits),
            ("waits_rejected", counters.waits_rejected),
            ("waits_full", counters.waits_full),
            ("epoch", epoch),
            ("version", version),
        ] {
            stats.set_item(name, value)?;
        }
        stats.set_item("nodes", nodes)?;
        let by_node = PyDict::new(py);
        for (node, count) in waiting {
            by_node.set_item(if node == NOWHERE { -1 } else { i64::from(node) }, count)?;
        }
        stats.set_item("waiting", by_node)?;
        Ok(stats)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.make_handle)?;
        visit.call(&self.remap)?;
        visit.call(&self.wake)?;
        visit.call(&self.refresh_due)?;
        if let Ok(handles) = self.handles.try_read() {
            for handle in handles.iter().flatten() {
                visit.call(handle)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let handles = self.handles.try_write().map(|mut handles| std::mem::take(&mut *handles));
        drop(handles);
    }
}

impl ClusterCore {
    pub(super) fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn table(&self) -> &SlotTable {
        &self.table
    }

    /// Calls `decide(state, now_ns)` under the lock, and then Python's callbacks for what it leaves to be done.
    pub(super) fn act<T>(&self, py: Python<'_>, decide: impl FnOnce(&mut Cluster, u64) -> T) -> T {
        let (result, effects) = {
            let mut state = self.lock();
            let result = decide(&mut state, now_ns());
            (result, state.take_effects())
        };
        if effects != Effects::default() {
            self.call_back(py, effects);
        }
        result
    }

    #[cold]
    fn call_back(&self, py: Python<'_>, effects: Effects) {
        let told = |result: PyResult<Py<PyAny>>| {
            if let Err(error) = result {
                error.write_unraisable(py, None);
            }
        };
        if let (Some(wake), false) = (&self.wake, effects.wake.is_empty()) {
            let number = |node| if node == NOWHERE { -1 } else { i64::from(node) };
            let nodes: Vec<i64> = effects.wake.into_iter().map(number).collect();
            told(wake.call1(py, (nodes,)));
        }
        if let (Some(refresh_due), true) = (&self.refresh_due, effects.refresh_is_earlier) {
            told(refresh_due.call0(py));
        }
    }

    /// The refusal that an error reply is, with the address under which its node is reached.
    pub(super) fn refusal_of(&self, error: &Bound<'_, PyAny>, node: NodeNumber) -> PyResult<Option<Refusal>> {
        let Some(text) = error_text(error) else { return Ok(None) };
        let host = self.host_of(node);
        let refusal = Refusal::parse(&text, &host);
        Ok(match refusal {
            Some(Refusal::Moved(slot, address)) => Some(Refusal::Moved(slot, self.remapped(error.py(), address)?)),
            Some(Refusal::Ask(slot, address)) => Some(Refusal::Ask(slot, self.remapped(error.py(), address)?)),
            other => other,
        })
    }

    /// The handle of the owner of the key's slot; `None` where no owner is known.
    #[inline]
    pub(crate) fn owner_of<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.table.owner(slot_of_key(key)?) {
            Some(node) => self.handle_of(key.py(), node).map(|handle| Some(handle.into_bound(key.py()))),
            None => Ok(None),
        }
    }

    #[inline]
    pub(super) fn handle_of(&self, py: Python<'_>, node: NodeNumber) -> PyResult<Py<PyAny>> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(handle)) = handles.get(usize::from(node)) {
            return Ok(handle.clone_ref(py));
        }
        drop(handles);
        self.new_handle(py, node)
    }

    #[cold]
    fn new_handle(&self, py: Python<'_>, node: NodeNumber) -> PyResult<Py<PyAny>> {
        let address = self.lock().node(node).map(|node| node.address.clone());
        let address = address.ok_or_else(|| PyKeyError::new_err(node))?;
        let made = self.make_handle.call1(py, (node, &*address.host, address.port))?;
        let (kept, surplus) = {
            let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
            let place = usize::from(node);
            if place >= handles.len() {
                handles.resize_with(place + 1, || None);
            }
            match &handles[place] {
                Some(first) => (first.clone_ref(py), Some(made)),
                None => (handles[place].insert(made).clone_ref(py), None),
            }
        };
        drop(surplus);
        Ok(kept)
    }

    fn host_of(&self, node: NodeNumber) -> String {
        self.lock().node(node).map_or_else(String::new, |node| node.address.host.to_string())
    }

    fn remapped(&self, py: Python<'_>, address: Address) -> PyResult<Address> {
        let Some(remap) = &self.remap else { return Ok(address) };
        let answer = remap.call1(py, ((&*address.host, address.port),))?;
        let (host, port): (String, i64) = answer.extract(py)?;
        Address::new(&host, port).ok_or_else(|| {
            PyValueError::new_err(format!("address_remap must return (host, port), got ({host:?}, {port})"))
        })
    }

    fn read_answer(
        &self,
        node: NodeNumber,
        slots: &Bound<'_, PyAny>,
        info: &Bound<'_, PyAny>,
    ) -> PyResult<(Option<View>, Option<Info>)> {
        let host = self.host_of(node);
        let info = match text_of(info) {
            Some(text) => Some(Info::parse(&text).ok_or_else(|| {
                PyValueError::new_err(
                    "info must be the reply of CLUSTER INFO, got a text without cluster_current_epoch",
                )
            })?),
            None => None,
        };
        if slots.is_none() {
            return match info {
                Some(_) => Ok((None, info)),
                None => Err(PyTypeError::new_err("slots or info must be given, got neither")),
            };
        }
        let reading = Reading { asked_host: &host, is_tls: self.is_tls };
        let mut view = View::read(&reply_of(slots), reading).map_err(|error| {
            PyValueError::new_err(format!("slots must be a reply of CLUSTER SLOTS or SHARDS: {}", error.0))
        })?;
        let mut failure = None;
        view.remap(|address| match self.remapped(slots.py(), address.clone()) {
            Ok(address) => Some(address),
            Err(error) => {
                failure.get_or_insert(error);
                None
            }
        });
        failure.map_or(Ok((Some(view), info)), Err)
    }
}

fn verdict_number(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Route => WAIT_ROUTE,
        Verdict::Wait => WAIT,
        Verdict::Reject => REJECT,
        Verdict::Full => FULL,
    }
}

fn number_of(node: i64) -> NodeNumber {
    NodeNumber::try_from(node).unwrap_or(NOWHERE)
}

fn slots_of(keys: &Bound<'_, PyAny>) -> PyResult<Vec<u16>> {
    if let Ok(list) = keys.cast::<PyList>() {
        return list.iter().map(|key| slot_of_key(&key)).collect();
    }
    if let Ok(tuple) = keys.cast::<PyTuple>() {
        return tuple.iter().map(|key| slot_of_key(&key)).collect();
    }
    keys.try_iter()?.map(|key| slot_of_key(&key?)).collect()
}

fn parts_of(py: Python<'_>, parts: Vec<Part>) -> PyResult<Bound<'_, PyList>> {
    PyList::new(py, parts.into_iter().map(|part| (part.slot, part.positions)))
}
