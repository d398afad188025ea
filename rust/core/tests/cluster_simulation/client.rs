//! One client: calls with deadlines, a circuit per node, and the core's `Cluster` deciding for them.

use std::collections::BTreeMap;

use agent_memory_core::cluster::Rules;
use agent_memory_core::cluster::nodes::NodeNumber;
use agent_memory_core::cluster::redirect::{MAX_REDIRECTS, Progress, Refusal};
use agent_memory_core::cluster::refresh::{MAX_QUESTIONS, Next};
use agent_memory_core::cluster::state::{Cluster, Decision, Heard, NOWHERE, Settings};
use agent_memory_core::cluster::view::{Info, View};
use agent_memory_core::cluster::waiting::{OWNERLESS_NS, Verdict};

use super::run::Question;
use super::servers::{SLOTS, World, address, server_at};
use super::{MS, S, Time};

pub(crate) const DEADLINE: Time = 12 * S;
pub(crate) const FAILOVER_WAIT: Time = 6 * S;
pub(crate) const MAX_WAITING: u32 = 24;
const FAILURES_TO_OPEN: u32 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Executed,
    /// It may have been executed.
    Unknown,
    /// It was not executed: why.
    Failed(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum To {
    Route,
    Node(NodeNumber, bool),
}

pub(crate) struct Call {
    pub(crate) slot: usize,
    pub(crate) keys: u8,
    pub(crate) began: Time,
    pub(crate) to: To,
    pub(crate) sent: Time,
    pub(crate) attempt: u32,
    pub(crate) redirects: u32,
    progress: Progress,
    pub(crate) waits_for: Option<NodeNumber>,
    /// How often it waited for an owner.
    pub(crate) waits: u32,
    /// Since when it has found no owner.
    ownerless: Option<Time>,
    pub(crate) end: Option<(Time, End)>,
}

/// What a call does next.
pub(crate) enum Step {
    Send {
        node: NodeNumber,
        server: usize,
        asking: bool,
    },
    Pause(Time),
    /// Until it is woken, at most for so long; `None`: until its deadline.
    Wait(Option<Time>),
    Over,
}

pub(crate) struct Client {
    pub(crate) core: Cluster,
    pub(crate) calls: BTreeMap<u64, Call>,
    failures: BTreeMap<NodeNumber, u32>,
    pub(crate) open: BTreeMap<NodeNumber, Time>,
    /// Servers to which a connection is open.
    pub(crate) connected: Vec<bool>,
    pub(crate) cut_from: Option<usize>,
    questions: Vec<Time>,
    patches: BTreeMap<u16, (NodeNumber, Time)>,
    largest_epoch: u64,
    pub(crate) may_go_back: bool,
    pub(crate) violation: Option<String>,
}

impl Client {
    pub(crate) fn new(seed: u64, rules: Rules) -> Self {
        let settings = Settings { rules, failover_wait_ns: FAILOVER_WAIT, max_waiting: MAX_WAITING, period_ns: 5 * S };
        let mut core = Cluster::new(&[address(0), address(1)], settings, seed, 1);
        core.want(agent_memory_core::cluster::state::Reason::Asked, 1);
        Self {
            core,
            calls: BTreeMap::new(),
            failures: BTreeMap::new(),
            open: BTreeMap::new(),
            connected: vec![false; super::servers::SERVERS],
            cut_from: None,
            questions: Vec::new(),
            patches: BTreeMap::new(),
            largest_epoch: 0,
            may_go_back: false,
            violation: None,
        }
    }

    fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    pub(crate) fn server_of(&self, node: NodeNumber) -> Option<usize> {
        self.core.node(node).map(|node| server_at(&node.address))
    }

    pub(crate) fn call(&mut self, id: u64, slot: usize, keys: u8, now: Time) {
        let call = Call {
            slot,
            keys,
            began: now,
            to: To::Route,
            sent: 0,
            attempt: 0,
            redirects: 0,
            progress: Progress::default(),
            waits_for: None,
            waits: 0,
            ownerless: None,
            end: None,
        };
        self.calls.insert(id, call);
    }

    pub(crate) fn end(&mut self, id: u64, end: End, now: Time) {
        self.stop_waiting(id);
        let call = self.calls.get_mut(&id).expect("known");
        call.end.get_or_insert((now, end));
    }

    pub(crate) fn stop_waiting(&mut self, id: u64) {
        if let Some(node) = self.calls.get_mut(&id).and_then(|call| call.waits_for.take()) {
            self.core.end_waiting(node);
        }
    }

    /// The next step of a call that is neither under way nor over.
    pub(crate) fn step(&mut self, id: u64, now: Time) -> Step {
        self.stop_waiting(id);
        let call = &self.calls[&id];
        if call.end.is_some() {
            return Step::Over;
        }
        if now >= call.began + DEADLINE {
            self.end(id, End::Failed("the deadline"), now);
            return Step::Over;
        }
        let slot = SLOTS[call.slot];
        let (node, asking) = match call.to {
            To::Route => (self.core.topology().owner(slot), false),
            To::Node(node, asking) => (Some(node), asking),
        };
        let Some(node) = node else { return self.wait_for_owner(id, now) };
        if self.open.contains_key(&node) {
            self.calls.get_mut(&id).expect("known").to = To::Route;
            return self.wait(id, node, true, now);
        }
        let server = self.server_of(node).expect("a node of a route is known");
        let call = self.calls.get_mut(&id).expect("known");
        (call.sent, call.attempt, call.ownerless) = (now, call.attempt + 1, None);
        Step::Send { node, server, asking }
    }

    fn wait(&mut self, id: u64, node: NodeNumber, is_open: bool, now: Time) -> Step {
        let slot = SLOTS[self.calls[&id].slot];
        match self.core.wait_or_reject(node, Some(slot), is_open, now) {
            Verdict::Route => return Step::Pause(MS),
            Verdict::Wait => {
                self.calls.get_mut(&id).expect("known").waits_for = Some(node);
                let waiting = self.core.waiting().waiting_for(node);
                if waiting > MAX_WAITING {
                    self.violate(format!("{waiting} calls wait for one node"));
                }
                return Step::Wait(None);
            }
            Verdict::Reject => self.end(id, End::Failed("rejected"), now),
            Verdict::Full => self.end(id, End::Failed("full"), now),
        }
        Step::Over
    }

    fn wait_for_owner(&mut self, id: u64, now: Time) -> Step {
        let call = self.calls.get_mut(&id).expect("known");
        let since = *call.ownerless.get_or_insert(now);
        let (verdict, pause) = self.core.wait_for_owner(SLOTS[call.slot], since, call.began + DEADLINE, now);
        if now > since + OWNERLESS_NS + 3 * S / 2 {
            self.violate(format!("call {id} waited {} ms for an owner", (now - since) / MS));
        }
        match verdict {
            Verdict::Route => return Step::Pause(MS),
            Verdict::Wait => {
                let call = self.calls.get_mut(&id).expect("known");
                (call.waits_for, call.waits) = (Some(NOWHERE), call.waits + 1);
                return Step::Wait(Some(pause));
            }
            Verdict::Reject => self.end(id, End::Failed("no owner"), now),
            Verdict::Full => self.end(id, End::Failed("full"), now),
        }
        Step::Over
    }

    pub(crate) fn succeeded(&mut self, node: NodeNumber, server: usize) {
        self.connected[server] = true;
        self.failures.remove(&node);
        if self.open.remove(&node).is_some() || self.core.waiting().is_suspect(node) {
            self.core.node_closed(node);
        }
    }

    /// The transport failed; whether the circuit opened by it, so that a probe is due.
    pub(crate) fn failed(&mut self, node: NodeNumber, server: usize, now: Time) -> bool {
        self.connected[server] = false;
        self.core.node_failed(node, now);
        let failures = self.failures.entry(node).or_default();
        *failures += 1;
        if *failures >= FAILURES_TO_OPEN && !self.open.contains_key(&node) {
            self.open.insert(node, now);
            self.core.node_opened(node, now);
            return true;
        }
        false
    }

    /// An error reply: the pause before the next step, or `None` where the call is over.
    pub(crate) fn refused(&mut self, id: u64, node: NodeNumber, text: &str, now: Time) -> Option<Time> {
        let refusal = Refusal::parse(text, "asked").expect("all errors of these servers are refusals");
        let call = self.calls.get_mut(&id).expect("known");
        let (slot, sent) = (SLOTS[call.slot], call.sent);
        let deadline = call.began + DEADLINE;
        let before = self.core.topology().owner(slot);
        let decision = self.core.redirect(&refusal, node, &mut call.progress, sent, now, deadline);
        if let (Refusal::Ask(..), true) = (&refusal, self.core.topology().owner(slot) != before) {
            self.violate(format!("ASK changed the owner of slot {slot}"));
        }
        let call = self.calls.get_mut(&id).expect("known");
        let (to, pause) = match decision {
            Decision::Raise => {
                self.end(id, End::Failed("redirects"), now);
                return None;
            }
            Decision::Send(node, pause) => (To::Node(node, false), pause),
            Decision::Resolve(node, pause) => (To::Node(node, false), pause + MS),
            Decision::Ask(node, pause) => (To::Node(node, true), pause),
            Decision::Route(pause) => (To::Route, pause),
        };
        call.to = to;
        let is_redirect = matches!(refusal, Refusal::Moved(..) | Refusal::Ask(..));
        call.redirects = if is_redirect { call.redirects + 1 } else { 0 };
        let redirects = call.redirects;
        if redirects > MAX_REDIRECTS {
            self.violate(format!("{redirects} redirects of one call without a wait"));
        }
        if let (Refusal::Moved(slot, _), Decision::Send(target, _)) = (&refusal, decision)
            && self.core.topology().owner(*slot) == Some(target)
            && self.patches.get(slot).is_none_or(|(_, known)| *known <= sent)
        {
            self.patches.insert(*slot, (target, sent));
        }
        Some(pause)
    }

    /// The questions that are due, and when to look again.
    pub(crate) fn questions(&mut self, now: Time) -> Result<(u64, Vec<NodeNumber>, bool), Time> {
        let connected: Vec<_> = self
            .core
            .nodes()
            .iter()
            .filter(|(_, node)| self.connected[server_at(&node.address)])
            .map(|(number, _)| number)
            .collect();
        match self.core.next_questions(&connected, now) {
            Next::Wait(delay) => Err(delay.max(MS)),
            Next::Ask { round, nodes, full } => {
                self.questions.extend(nodes.iter().map(|_| now));
                let recent = self.questions.iter().filter(|asked| **asked + S > now).count();
                if recent > MAX_QUESTIONS {
                    self.violate(format!("{recent} questions within a second"));
                }
                let is_suspect = |node: &NodeNumber| self.core.waiting().is_suspect(*node);
                let others =
                    self.core.nodes().iter().filter(|(node, _)| !nodes.contains(node) && !is_suspect(node)).count();
                if others > 0 && nodes.iter().any(is_suspect) {
                    self.violate("a suspect node was asked before others".into());
                }
                Ok((round, nodes, full))
            }
        }
    }

    pub(crate) fn heard(&mut self, question: Question, said: &(View, Info), now: Time) {
        let Question { round, node, server, asked, full, .. } = question;
        self.connected[server] = true;
        let (view, info) = said;
        let heard = self.core.answer(round, node, asked, full.then_some(view), Some(*info), now);
        if !full || heard == Heard::Stale {
            return;
        }
        let epoch = self.core.topology().epoch();
        if epoch < self.largest_epoch && !self.may_go_back {
            self.violate(format!("the epoch went back from {} to {epoch}", self.largest_epoch));
        }
        self.largest_epoch = self.largest_epoch.max(epoch);
        let topology = self.core.topology();
        let broken =
            self.patches.iter().find(|(slot, (owner, sent))| *sent >= asked && topology.owner(**slot) != Some(*owner));
        if let Some((slot, _)) = broken {
            self.violate(format!("an older fact replaced the MOVED of slot {slot}"));
        }
        self.patches.retain(|_, (_, sent)| *sent >= asked);
    }

    pub(crate) fn settle(&self, world: &World) -> Result<(), String> {
        for (slot, number) in SLOTS.iter().enumerate() {
            let owner = self.core.topology().owner(*number).and_then(|node| self.server_of(node));
            let truth = world.servers[0].claims[slot].owner;
            if owner != Some(truth) && world.loop_of != Some(slot) {
                return Err(format!("slot {number} is sent to {owner:?}, its owner is {truth}"));
            }
        }
        Ok(())
    }
}
