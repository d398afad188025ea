//! One cluster as its clients know it: nodes, slots, refreshes, waiting calls. What happens comes in by methods; what has to be
//! done beside the answer, waking calls and looking at the schedule again, is taken out by [`Cluster::take_effects`].

use super::address::Address;
use super::nodes::{MAX_NODES, Node, NodeNumber, Nodes, Role};
use super::redirect::{Progress, Refusal};
use super::refresh::{Answer, Need, Next, Refresh};
use super::slot::SLOTS;
use super::topology::{Acceptance, Topology};
use super::view::{Info, View};
use super::waiting::{Standing, Verdict, Waiting};
use super::{MILLISECOND_NS, Rules};
use crate::guard::random::Random;

/// Stands for the node of calls whose slot has no owner.
#[expect(clippy::cast_possible_truncation, reason = "2,048")]
pub const NOWHERE: NodeNumber = MAX_NODES as NodeNumber;

/// Why a refresh is wanted, which decides how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The client asks for it, or begins.
    Asked,
    /// A connection was refused or lost, or a node is suspect.
    Failure,
    /// A slot has no owner, or a redirect named a node that no view names.
    Unknown,
    /// MOVED: the slot is patched already.
    Moved,
    /// A server cannot serve: CLUSTERDOWN, READONLY, LOADING, MASTERDOWN.
    Unserved,
}

impl Reason {
    /// The jitter before the first question.
    fn within_ns(self) -> u64 {
        match self {
            Self::Asked => 0,
            Self::Failure | Self::Unknown => 25 * MILLISECOND_NS,
            Self::Unserved => 50 * MILLISECOND_NS,
            Self::Moved => 100 * MILLISECOND_NS,
        }
    }
}

/// The bounds and durations that users choose.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The rules in force.
    pub rules: Rules,
    /// How long a failover may take.
    pub failover_wait_ns: u64,
    /// How many calls may wait for one node.
    pub max_waiting: u32,
    /// How often the epoch is asked for while nothing happens.
    pub period_ns: u64,
}

/// What follows an error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The reply is the answer.
    Raise,
    /// Send to this node.
    Send(NodeNumber, u64),
    /// Send to this node, behind an ASKING.
    Ask(NodeNumber, u64),
    /// Route anew.
    Route(u64),
    /// Let the node resolve its name anew, and send to it.
    Resolve(NodeNumber, u64),
}

/// What became of an answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The topology has changed.
    Accepted,
    /// It is as it was.
    Unchanged,
    /// A newer one stays.
    Stale,
    /// Only the epoch was asked for, and it differs: the slots are asked for next.
    Wanted,
}

/// What is left to be done outside.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Effects {
    /// Nodes whose waiting calls route anew.
    pub wake: Vec<NodeNumber>,
    /// Whether the schedule is to be looked at again.
    pub refresh_is_earlier: bool,
}

/// What has happened so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub questions: u64,
    pub views_accepted: u64,
    pub views_unchanged: u64,
    pub views_stale: u64,
    pub moved: u64,
    pub ask: u64,
    pub try_again: u64,
    pub unserved: u64,
    pub redirects_refused: u64,
    pub waits: u64,
    pub waits_rejected: u64,
    pub waits_full: u64,
}

/// The state that the clients of one cluster share.
#[derive(Debug)]
pub struct Cluster {
    rules: Rules,
    seeds: Vec<NodeNumber>,
    nodes: Nodes,
    topology: Topology,
    refresh: Refresh,
    waiting: Waiting,
    random: Random,
    info: Option<(u64, Info)>,
    counters: Counters,
    effects: Effects,
}

impl Cluster {
    /// A cluster of which only some addresses are known.
    #[must_use]
    pub fn new(seeds: &[Address], settings: Settings, seed: u64, now_ns: u64) -> Self {
        let mut random = Random::new(seed);
        let mut nodes = Nodes::default();
        let mut numbers: Vec<_> = seeds.iter().filter_map(|seed| nodes.ensure(seed)).collect();
        numbers.dedup();
        Self {
            rules: settings.rules,
            seeds: numbers,
            nodes,
            topology: Topology::new(settings.rules),
            refresh: Refresh::new(settings.rules, settings.period_ns, now_ns, &mut random),
            waiting: Waiting::new(settings.rules, settings.max_waiting, settings.failover_wait_ns),
            random,
            info: None,
            counters: Counters::default(),
            effects: Effects::default(),
        }
    }

    /// The slots and their owners.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The node with this number.
    #[must_use]
    pub fn node(&self, number: NodeNumber) -> Option<&Node> {
        self.nodes.get(number)
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The calls that wait, by node.
    #[must_use]
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// What is left to be done since this was last asked.
    pub fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// A primary for a command without keys: one that is well, if there is one.
    pub fn any_primary(&mut self) -> Option<NodeNumber> {
        let primaries: Vec<_> =
            self.nodes.iter().filter(|(_, node)| node.role == Role::Primary).map(|(number, _)| number).collect();
        let well: Vec<_> = primaries.iter().copied().filter(|number| !self.waiting.is_suspect(*number)).collect();
        let choice = if well.is_empty() { &primaries } else { &well };
        choice.get(self.random_below(choice.len())).copied()
    }

    // --- redirects ------------------------------------------------------------------------------------------------

    /// What follows a refusal that `node` gave to a command sent at `sent_ns`.
    pub fn redirect(
        &mut self,
        refusal: &Refusal,
        node: NodeNumber,
        progress: &mut Progress,
        sent_ns: u64,
        now_ns: u64,
        deadline_ns: u64,
    ) -> Decision {
        let decision = match refusal {
            Refusal::Moved(slot, address) => self.moved(*slot, address, node, progress, sent_ns, now_ns, deadline_ns),
            Refusal::Ask(slot, address) => {
                self.counters.ask += 1;
                let target = self.nodes.ensure(address);
                if !self.rules.ask_patches_nothing
                    && let Some(target) = target
                {
                    self.topology.moved(*slot, target, sent_ns);
                }
                let pause_ns = progress.redirect(self.rules, now_ns, deadline_ns, &mut self.random);
                target.zip(pause_ns).map(|(target, pause_ns)| Decision::Ask(target, pause_ns))
            }
            Refusal::TryAgain => {
                self.counters.try_again += 1;
                progress.wait(now_ns, deadline_ns, &mut self.random).map(Decision::Route)
            }
            Refusal::ClusterDown | Refusal::ReadOnly | Refusal::Loading | Refusal::MasterDown => {
                self.counters.unserved += 1;
                self.want(Reason::Unserved, now_ns);
                progress.wait(now_ns, deadline_ns, &mut self.random).map(Decision::Route)
            }
        };
        self.counters.redirects_refused += u64::from(decision.is_none());
        decision.unwrap_or(Decision::Raise)
    }

    #[expect(clippy::too_many_arguments, reason = "what one redirect consists of")]
    fn moved(
        &mut self,
        slot: u16,
        address: &Address,
        node: NodeNumber,
        progress: &mut Progress,
        sent_ns: u64,
        now_ns: u64,
        deadline_ns: u64,
    ) -> Option<Decision> {
        self.counters.moved += 1;
        let target = self.nodes.ensure(address);
        let before = self.topology.owner(slot);
        let is_named = target.and_then(|target| self.nodes.get(target)).is_some_and(|node| node.role != Role::Unnamed);
        self.want(if is_named { Reason::Moved } else { Reason::Unknown }, now_ns);
        let pause_ns = progress.redirect(self.rules, now_ns, deadline_ns, &mut self.random)?;
        let target = target?;
        if target == node {
            return Some(Decision::Resolve(node, pause_ns));
        }
        if self.topology.moved(slot, target, sent_ns) {
            if let Some(known) = self.nodes.get_mut(target) {
                known.role = Role::Primary;
            }
            if let Some(before) = before.filter(|before| *before != target && self.waiting.waiting_for(*before) > 0) {
                self.effects.wake.push(before);
            }
        }
        Some(Decision::Send(target, pause_ns))
    }

    // --- health and waiting -----------------------------------------------------------------------------------------

    /// The transport to a node failed.
    pub fn node_failed(&mut self, node: NodeNumber, now_ns: u64) {
        if self.nodes.get(node).is_some() {
            self.waiting.failed(node, self.has_replicas(node), now_ns);
            self.want(Reason::Failure, now_ns);
        }
    }

    /// The circuit of a node opened.
    pub fn node_opened(&mut self, node: NodeNumber, now_ns: u64) {
        if self.nodes.get(node).is_some() {
            self.waiting.opened(node, self.has_replicas(node), now_ns);
            self.want(Reason::Failure, now_ns);
        }
    }

    /// The circuit of a node closed, or it answered after a failure.
    pub fn node_closed(&mut self, node: NodeNumber) {
        if self.waiting.recovered(node) {
            self.effects.wake.push(node);
        }
    }

    /// What a call does that `node` could not take: the circuit `is_open`, or the command was not sent. Without `slot` the call
    /// is bound to the node. [`Verdict::Wait`] is to be ended by [`Cluster::end_waiting`].
    pub fn wait_or_reject(&mut self, node: NodeNumber, slot: Option<u16>, is_open: bool, now_ns: u64) -> Verdict {
        let node = if self.nodes.get(node).is_some() { node } else { NOWHERE };
        if is_open && node != NOWHERE {
            self.waiting.opened(node, self.has_replicas(node), now_ns);
        }
        let standing = self.standing(node, slot.and_then(|slot| self.topology.owner(slot)));
        let verdict = self.waiting.verdict(node, slot.is_none(), standing, now_ns);
        match verdict {
            Verdict::Route => {}
            Verdict::Wait => {
                self.counters.waits += 1;
                if self.rules.waiting_keeps_asking {
                    self.want(Reason::Failure, now_ns);
                }
            }
            Verdict::Reject => self.counters.waits_rejected += 1,
            Verdict::Full => self.counters.waits_full += 1,
        }
        verdict
    }

    /// What a call does whose `slot` has no owner, begun at `since_ns` (deadline 0: none), and the longest pause of a
    /// [`Verdict::Wait`], which is to be ended by [`Cluster::end_waiting`] of [`NOWHERE`].
    pub fn wait_for_owner(&mut self, slot: u16, since_ns: u64, deadline_ns: u64, now_ns: u64) -> (Verdict, u64) {
        let standing = self.standing(NOWHERE, self.topology.owner(slot));
        let (verdict, pause_ns) = self.waiting.for_owner(NOWHERE, standing, since_ns, deadline_ns, now_ns);
        match verdict {
            Verdict::Route => {}
            Verdict::Wait => {
                self.counters.waits += 1;
                self.want(Reason::Unknown, now_ns);
            }
            Verdict::Reject => self.counters.waits_rejected += 1,
            Verdict::Full => self.counters.waits_full += 1,
        }
        (verdict, pause_ns)
    }

    fn has_replicas(&self, node: NodeNumber) -> bool {
        !self.topology.replicas(node).is_empty()
    }

    fn standing(&self, node: NodeNumber, owner: Option<NodeNumber>) -> Standing {
        Standing {
            owner,
            has_replicas: self.has_replicas(node),
            confirmed_ns: self.topology.asked_ns(),
            is_failing: self.info.is_some_and(|(_, info)| info.failing_slots > 0 || !info.is_ok),
        }
    }

    /// A call that waited for `node` routes anew, or has ended.
    pub fn end_waiting(&mut self, node: NodeNumber) {
        let node = if self.nodes.get(node).is_some() { node } else { NOWHERE };
        self.waiting.end(node);
    }

    // --- refreshing ---------------------------------------------------------------------------------------------------

    /// A refresh is wanted.
    pub fn want(&mut self, reason: Reason, now_ns: u64) {
        if self.refresh.want(reason.within_ns(), now_ns, &mut self.random) {
            self.effects.refresh_is_earlier = true;
        }
    }

    /// What to ask now; `connected` are the nodes to which a connection is open.
    pub fn next_questions(&mut self, connected: &[NodeNumber], now_ns: u64) -> Next {
        let need = self.need();
        // The draws of the schedule and of the nodes must not depend on each other's order.
        let mut draws = Random::new(self.random.next_u64());
        let (nodes, topology, waiting, rules) = (&self.nodes, &self.topology, &self.waiting, self.rules);
        let next = self.refresh.next(need, now_ns, &mut self.random, |widen| {
            let mut ranked: Vec<(u8, u64, NodeNumber)> = nodes
                .iter()
                .map(|(number, node)| {
                    let is_named = node.role != Role::Unnamed || topology.names(number);
                    let rank = match (is_named, connected.contains(&number)) {
                        _ if rules.suspects_are_asked_last && waiting.is_suspect(number) => 3,
                        _ if widen => 0,
                        (true, true) => 0,
                        (true, false) => 1,
                        (false, _) => 2,
                    };
                    (rank, draws.next_u64(), number)
                })
                .collect();
            ranked.sort_unstable();
            ranked.into_iter().map(|(_, _, number)| number).collect()
        });
        if let Next::Ask { nodes, .. } = &next {
            self.counters.questions += nodes.len() as u64;
        }
        next
    }

    /// What `node` answered to a question sent at `asked_ns`: a view, or the epoch alone.
    pub fn answer(
        &mut self,
        round: u64,
        node: NodeNumber,
        asked_ns: u64,
        view: Option<&View>,
        info: Option<Info>,
        now_ns: u64,
    ) -> Heard {
        if let Some(info) = info
            && self.info.is_none_or(|(known_ns, _)| known_ns <= asked_ns)
        {
            self.info = Some((asked_ns, info));
        }
        if self.waiting.heard_from(node) {
            self.effects.wake.push(node);
        }
        let heard = match (view, info) {
            (Some(view), _) => {
                let epoch = info.map(|info| info.epoch);
                match self.topology.accept(view, epoch, asked_ns, node, &mut self.nodes, now_ns) {
                    Acceptance::Changed => Heard::Accepted,
                    Acceptance::Unchanged => Heard::Unchanged,
                    Acceptance::Stale => Heard::Stale,
                }
            }
            (None, Some(info)) if info.epoch == self.topology.epoch() => Heard::Unchanged,
            (None, Some(info)) if info.epoch < self.topology.epoch() => Heard::Stale,
            (None, _) => Heard::Wanted,
        };
        match heard {
            Heard::Accepted => self.counters.views_accepted += 1,
            Heard::Unchanged => self.counters.views_unchanged += 1,
            Heard::Stale => self.counters.views_stale += 1,
            Heard::Wanted => {}
        }
        if view.is_some() && heard != Heard::Stale {
            // Waking all for each answer would cost the healthy nodes more than the failover does.
            let looks = |node: &NodeNumber| {
                heard == Heard::Accepted || self.waiting.must_look(*node, self.standing(*node, Some(*node)), now_ns)
            };
            let awaited: Vec<_> = self.waiting.awaited().filter(looks).collect();
            self.effects.wake.extend(awaited);
        }
        let answer = match heard {
            Heard::Accepted => Answer::New,
            Heard::Unchanged => Answer::Same,
            Heard::Stale | Heard::Wanted => Answer::Nothing,
        };
        self.end_question(round, node, answer, now_ns);
        if heard == Heard::Wanted {
            self.want(Reason::Asked, now_ns);
        }
        heard
    }

    /// `node` will not answer a question: an error, or too late.
    pub fn no_answer(&mut self, round: u64, node: NodeNumber, now_ns: u64) {
        self.end_question(round, node, Answer::Nothing, now_ns);
    }

    fn need(&self) -> Need {
        if self.waiting.total() > 0 {
            return Need::Pressing;
        }
        let owns_slots = |node| self.nodes.get(node).is_some_and(|node| node.role == Role::Primary);
        if self.waiting.suspects().any(owns_slots) { Need::Uneasy } else { Need::None }
    }

    fn end_question(&mut self, round: u64, node: NodeNumber, answer: Answer, now_ns: u64) {
        let need = self.need();
        self.refresh.answered(round, node, answer, need, now_ns, &mut self.random);
        self.effects.refresh_is_earlier = true;
    }

    // --- nodes that are not needed any more -------------------------------------------------------------------------

    /// Nodes that neither the present view nor a redirect names, and that no call waits for.
    #[must_use]
    pub fn retirable(&self) -> Vec<NodeNumber> {
        if self.topology.asked_ns().is_none() {
            return Vec::new();
        }
        self.nodes.iter().map(|(number, _)| number).filter(|number| self.is_retirable(*number)).collect()
    }

    /// Forgets a node; false where it is needed after all. Seeds keep their numbers.
    pub fn retire(&mut self, node: NodeNumber) -> bool {
        if self.nodes.get(node).is_none() || !self.is_retirable(node) {
            return false;
        }
        if !self.is_seed(node) {
            self.waiting.forget(node);
            self.nodes.remove(node);
        }
        true
    }

    /// Whether a node was given, not found.
    #[must_use]
    pub fn is_seed(&self, node: NodeNumber) -> bool {
        self.seeds.contains(&node)
    }

    fn is_retirable(&self, node: NodeNumber) -> bool {
        !self.topology.names(node) && self.waiting.waiting_for(node) == 0
    }

    /// Slots without an owner.
    #[must_use]
    pub fn uncovered(&self) -> usize {
        (0..SLOTS).filter(|slot| self.topology.owner(*slot).is_none()).count()
    }

    fn random_below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % bound.max(1) as u64).unwrap_or(0)
    }
}
