//! `ClusterPipeline`: one execution of a pipeline over the nodes of a cluster.

use std::ops::Range;

use agent_memory_core::cluster::Rules;
use agent_memory_core::cluster::nodes::NodeNumber;
use agent_memory_core::cluster::pipeline::{self as core, Fate, Way};
use agent_memory_core::cluster::state::{Decision, Reason};
use agent_memory_core::config::ns_to_seconds;
use agent_memory_core::protocol::commands::{Word, Writer, header_len};
use pyo3::exceptions::{PyBaseException, PyException, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use super::ASKING;
use super::keys::slot_of_key;
use super::state::ClusterCore;
use crate::protocol::commands::{pack_command, with_word};

/// What goes to one node in one write.
#[pyclass(frozen, get_all, module = "agent_memory._core")]
pub(crate) struct ClusterBatch {
    /// The number of the node.
    node: NodeNumber,
    /// Its handle.
    handle: Py<PyAny>,
    /// The bytes to send.
    packed: Py<PyBytes>,
    /// How many replies they get, those of ASKING included.
    count: usize,
    /// Where its commands stand in the pipeline.
    positions: Vec<usize>,
    /// Where the reply of each of them stands among the replies.
    reply_places: Vec<usize>,
    /// The slot of its first command that has one, -1 without.
    slot: i32,
}

#[pymethods]
impl ClusterBatch {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.handle)
    }
}

/// One execution of a pipeline: split per node, with positions; what is redirected goes again, in the order of each slot.
///
/// `commands` are tuples of words. `places` says where a key of each command stands: a dict by the first word, or a sequence by
/// position; 0 for a command without keys (it goes to any primary), -1 where `slots` (a dict by position) names the slot.
/// `deadline_ns` bounds redirects and pauses, 0 for none. For one caller at a time.
#[pyclass(module = "agent_memory._core")]
pub(crate) struct ClusterPipeline {
    core: Py<ClusterCore>,
    pipeline: core::Pipeline,
    packed: Vec<u8>,
    ranges: Vec<Range<usize>>,
    results: Vec<Option<Py<PyAny>>>,
    deadline_ns: u64,
    /// Of a pipeline that was collected: its different first words, and which of them each command has.
    names: Vec<Py<PyAny>>,
    name_places: Vec<u8>,
}

/// With more different names a pipeline is not a collected one.
const MOST_NAMES: usize = 64;

#[pymethods]
impl ClusterPipeline {
    /// The same for a list of tuples of plain words, as the methods of a pipeline collect them: the first is a key of the dict
    /// `one_key`, the second the command's one key. None where a command is anything else; `names` are the first words then.
    #[staticmethod]
    #[pyo3(signature = (core, commands, one_key, deadline_ns, /))]
    fn collected(
        core: Py<ClusterCore>,
        commands: &Bound<'_, PyList>,
        one_key: &Bound<'_, PyDict>,
        deadline_ns: u64,
    ) -> PyResult<Option<Self>> {
        let (mut names, mut name_places): (Vec<Py<PyAny>>, Vec<u8>) = (Vec::new(), Vec::with_capacity(commands.len()));
        let (mut ranges, mut slots) = (Vec::with_capacity(commands.len()), Vec::with_capacity(commands.len()));
        let mut packed = Vec::new();
        for command in commands.iter() {
            let Ok(words) = command.cast_exact::<PyTuple>() else { return Ok(None) };
            let (Ok(first), Ok(key)) = (words.get_borrowed_item(0), words.get_borrowed_item(1)) else {
                return Ok(None);
            };
            let place = match names.iter().position(|name| name.as_ptr() == first.as_ptr()) {
                Some(place) => place,
                None if names.len() < MOST_NAMES && one_key.contains(first)? => {
                    names.push(first.to_owned().unbind());
                    names.len() - 1
                }
                None => return Ok(None),
            };
            name_places.push(u8::try_from(place).unwrap_or(0));
            slots.push(Some(slot_of_key(&key)?));
            let start = packed.len();
            pack_into(words, &first, &mut packed)?;
            ranges.push(start..packed.len());
        }
        let pipeline = core::Pipeline::new(Rules::ALL, slots);
        let results = ranges.iter().map(|_| None).collect();
        Ok(Some(Self { core, pipeline, packed, ranges, results, deadline_ns, names, name_places }))
    }

    #[new]
    #[pyo3(signature = (core, commands, places, deadline_ns=0, slots=None, /))]
    fn new(
        core: Py<ClusterCore>,
        commands: &Bound<'_, PyAny>,
        places: &Bound<'_, PyAny>,
        deadline_ns: u64,
        slots: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let by_name = places.cast::<PyDict>().ok();
        let (mut packed, mut ranges, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (position, command) in commands.try_iter()?.enumerate() {
            let command = command?;
            let words = command.cast::<PyTuple>()?;
            let first = words.get_item(0).map_err(|_| PyValueError::new_err("a command must have a name, got ()"))?;
            let place: isize = match by_name {
                Some(by_name) => match by_name.get_item(&first)? {
                    Some(place) => place.extract()?,
                    None => places.get_item(&first)?.extract()?,
                },
                None => places.get_item(position)?.extract()?,
            };
            targets.push(slot_at(words, position, place, slots)?);
            let start = packed.len();
            pack_into(words, &first, &mut packed)?;
            ranges.push(start..packed.len());
        }
        let pipeline = core::Pipeline::new(Rules::ALL, targets);
        let results = ranges.iter().map(|_| None).collect();
        let (names, name_places) = (Vec::new(), Vec::new());
        Ok(Self { core, pipeline, packed, ranges, results, deadline_ns, names, name_places })
    }

    /// (pause in seconds, batches, slot without an owner or -1); None when every command has its result.
    ///
    /// After the pause all batches are written, then the replies of each are read and handed to `answered` or `failed`. Without
    /// any batch the call waits for the owner of the slot.
    fn next_round(&mut self, py: Python<'_>) -> PyResult<Option<(f64, Vec<ClusterBatch>, i32)>> {
        let core = self.core.get();
        let mut keyless = None;
        let round = self.pipeline.next_round(|slot| match slot {
            Some(slot) => core.table().owner(slot),
            None => *keyless.get_or_insert_with(|| core.lock().any_primary()),
        });
        if self.pipeline.is_over() {
            return Ok(None);
        }
        let homeless = round.homeless.first().map_or(-1, |position| slot_number(self.pipeline.slot(*position)));
        if !round.homeless.is_empty() {
            core.act(py, |state, now_ns| state.want(Reason::Unknown, now_ns));
        }
        let batches = round.batches.into_iter().map(|batch| self.batch_of(py, batch)).collect::<PyResult<_>>()?;
        Ok(Some((ns_to_seconds(round.pause_ns), batches, homeless)))
    }

    /// All replies of a batch, errors as exceptions, those of ASKING included; it was sent at `sent_ns`.
    #[pyo3(signature = (batch, replies, sent_ns, /))]
    fn answered(&mut self, batch: &ClusterBatch, replies: &Bound<'_, PyAny>, sent_ns: u64) -> PyResult<()> {
        let left = self.take_replies(batch, replies, sent_ns)?;
        if left == batch.positions.len() {
            return Ok(());
        }
        Err(PyValueError::new_err(format!("replies must be {}, got fewer", batch.count)))
    }

    /// The connection of a batch was lost with `error`, after `replies`. What was not answered is of unknown outcome if
    /// `is_sent`, and goes again otherwise.
    #[pyo3(signature = (batch, replies, error, is_sent, sent_ns, /))]
    fn failed(
        &mut self,
        batch: &ClusterBatch,
        replies: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        is_sent: bool,
        sent_ns: u64,
    ) -> PyResult<()> {
        let left = self.take_replies(batch, replies, sent_ns)?;
        for position in &batch.positions[left..] {
            if is_sent {
                self.pipeline.lost(*position);
                if self.pipeline.fate(*position) == Fate::Unknown {
                    self.results[*position] = Some(error.clone().unbind());
                }
            } else {
                self.pipeline.again(*position, Way::Route, 0);
            }
        }
        Ok(())
    }

    /// What has no result yet gets `error`: it was not executed, and is not sent any more. How many those are.
    #[pyo3(signature = (error, /))]
    fn give_up(&mut self, error: &Bound<'_, PyAny>) -> usize {
        let pending: Vec<_> = self.pipeline.pending().collect();
        for position in &pending {
            self.pipeline.give_up(*position);
            self.results[*position] = Some(error.clone().unbind());
        }
        pending.len()
    }

    /// By position: the reply, or the exception. Commands that were held back behind one of unknown outcome get `barred`.
    #[pyo3(signature = (barred=None, /))]
    fn results<'py>(&self, py: Python<'py>, barred: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyList>> {
        let instead = barred.map_or_else(|| py.None(), |barred| barred.clone().unbind());
        PyList::new(py, self.results.iter().map(|result| result.as_ref().unwrap_or(&instead).bind(py)))
    }

    /// The different first words of a pipeline that was `collected`.
    #[getter]
    fn names<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.names)
    }

    /// The results of a pipeline that was `collected`, shown by `callbacks`: for each of the `names` a callable, or None.
    ///
    /// What a callback raises is given to `note` first.
    #[pyo3(signature = (callbacks, barred, note, /))]
    #[expect(clippy::needless_pass_by_value, reason = "extracted arguments are owned")]
    fn shown<'py>(
        &self,
        py: Python<'py>,
        callbacks: Vec<Option<Bound<'py, PyAny>>>,
        barred: &Bound<'py, PyAny>,
        note: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let results = self.results(py, Some(barred))?;
        if callbacks.len() != self.names.len() {
            return Err(PyValueError::new_err(format!(
                "callbacks must be {}, one for each name, got {}",
                self.names.len(),
                callbacks.len()
            )));
        }
        if callbacks.iter().all(Option::is_none) {
            return Ok(results);
        }
        for (position, place) in self.name_places.iter().enumerate() {
            let Some(callback) = &callbacks[usize::from(*place)] else { continue };
            let reply = results.get_item(position)?;
            if reply.is_instance_of::<PyBaseException>() {
                continue;
            }
            match callback.call1((reply,)) {
                Ok(shown) => results.set_item(position, shown)?,
                Err(error) => {
                    if error.is_instance_of::<PyException>(py) {
                        note.call1((error.value(py),))?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(results)
    }

    /// The positions of the commands that were held back behind one of unknown outcome in their slot.
    fn barred(&self) -> Vec<usize> {
        let is_barred =
            |position: &usize| self.pipeline.fate(*position) == Fate::Barred && self.results[*position].is_none();
        (0..self.results.len()).filter(is_barred).collect()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.core)?;
        self.results.iter().flatten().try_for_each(|result| visit.call(result))
    }

    fn __clear__(&mut self) {
        self.results.fill_with(|| None);
    }
}

impl ClusterPipeline {
    fn batch_of(&self, py: Python<'_>, batch: core::Batch) -> PyResult<ClusterBatch> {
        let len =
            |(position, asking): &(usize, bool)| self.ranges[*position].len() + if *asking { ASKING.len() } else { 0 };
        let packed = PyBytes::new_with(py, batch.commands.iter().map(len).sum(), |mut rest| {
            for (position, asking) in &batch.commands {
                let parts: [&[u8]; 2] =
                    [if *asking { ASKING } else { &[] }, &self.packed[self.ranges[*position].clone()]];
                for part in parts {
                    let (place, behind) = rest.split_at_mut(part.len());
                    place.copy_from_slice(part);
                    rest = behind;
                }
            }
            Ok(())
        })?;
        let mut count = 0;
        let places = batch.commands.into_iter().map(|(position, asking)| {
            count += 1 + usize::from(asking);
            (position, count - 1)
        });
        let (positions, reply_places): (Vec<_>, Vec<_>) = places.unzip();
        let slot = positions.iter().find_map(|position| self.pipeline.slot(*position));
        Ok(ClusterBatch {
            node: batch.node,
            handle: self.core.get().handle_of(py, batch.node)?,
            packed: packed.unbind(),
            count,
            positions,
            reply_places,
            slot: slot_number(slot),
        })
    }

    /// Takes the replies that are there; how many commands they answer.
    fn take_replies(&mut self, batch: &ClusterBatch, replies: &Bound<'_, PyAny>, sent_ns: u64) -> PyResult<usize> {
        let mut answered = 0;
        for (place, reply) in replies.try_iter()?.enumerate() {
            // The reply of an ASKING stands between those of commands.
            if batch.reply_places.get(answered) == Some(&place) {
                self.take_reply(batch.positions[answered], batch.node, reply?, sent_ns)?;
                answered += 1;
            }
        }
        Ok(answered)
    }

    #[inline]
    fn take_reply(&mut self, position: usize, node: NodeNumber, reply: Bound<'_, PyAny>, sent_ns: u64) -> PyResult<()> {
        if reply.is_instance_of::<PyBaseException>()
            && let Some((way, pause_ns)) = self.redirected(position, node, &reply, sent_ns)?
        {
            self.pipeline.again(position, way, pause_ns);
            return Ok(());
        }
        self.pipeline.answered(position);
        self.results[position] = Some(reply.unbind());
        Ok(())
    }

    #[cold]
    fn redirected(
        &mut self,
        position: usize,
        node: NodeNumber,
        error: &Bound<'_, PyAny>,
        sent_ns: u64,
    ) -> PyResult<Option<(Way, u64)>> {
        let core = self.core.get();
        let Some(refusal) = core.refusal_of(error, node)? else { return Ok(None) };
        let (progress, deadline_ns) = (self.pipeline.progress_mut(position), self.deadline_ns);
        let decision = core
            .act(error.py(), |state, now_ns| state.redirect(&refusal, node, progress, sent_ns, now_ns, deadline_ns));
        Ok(match decision {
            Decision::Raise => None,
            Decision::Send(node, pause_ns) | Decision::Resolve(node, pause_ns) => Some((Way::Node(node), pause_ns)),
            Decision::Ask(node, pause_ns) => Some((Way::Ask(node), pause_ns)),
            Decision::Route(pause_ns) => Some((Way::Route, pause_ns)),
        })
    }
}

fn slot_number(slot: Option<u16>) -> i32 {
    slot.map_or(-1, i32::from)
}

fn slot_at(
    words: &Bound<'_, PyTuple>,
    position: usize,
    place: isize,
    slots: Option<&Bound<'_, PyDict>>,
) -> PyResult<Option<u16>> {
    match usize::try_from(place) {
        Ok(0) => Ok(None),
        Ok(place) => match words.get_borrowed_item(place) {
            Ok(key) => slot_of_key(&key).map(Some),
            // The server says what is missing.
            Err(_) => Ok(None),
        },
        Err(_) => {
            let slot = slots.map(|slots| slots.get_item(position)).transpose()?.flatten();
            let slot = slot.ok_or_else(|| {
                PyValueError::new_err(format!("slots must name the slot of command {position}, got none"))
            })?;
            slot.extract().map(Some).map_err(|_| PyTypeError::new_err("slots must be ints from 0 to 16383"))
        }
    }
}

/// Appends a command; a name of two words is sent as two.
fn pack_into(words: &Bound<'_, PyTuple>, first: &Bound<'_, PyAny>, packed: &mut Vec<u8>) -> PyResult<()> {
    let name = with_word(first, |word| match word {
        Word::Bytes(bytes) if bytes.contains(&b' ') => Some(bytes.to_owned()),
        _ => None,
    });
    if let Some(Some(name)) = name {
        let py = words.py();
        let parts = name.split(|byte| *byte == b' ').filter(|part| !part.is_empty());
        let mut all: Vec<Bound<'_, PyAny>> = parts.map(|part| PyBytes::new(py, part).into_any()).collect();
        all.extend(words.iter().skip(1));
        packed.extend_from_slice(pack_command(&PyTuple::new(py, all)?)?.as_bytes());
        return Ok(());
    }
    let mut len = header_len(words.len());
    for word in words.iter_borrowed() {
        let Some(word_len) = with_word(&word, |word| word.packed_len()) else {
            packed.extend_from_slice(pack_command(words)?.as_bytes());
            return Ok(());
        };
        len += word_len;
    }
    let start = packed.len();
    packed.resize(start + len, 0);
    let mut writer = Writer::new(&mut packed[start..], words.len());
    for word in words.iter_borrowed() {
        with_word(&word, |word| writer.word(word));
    }
    Ok(())
}
