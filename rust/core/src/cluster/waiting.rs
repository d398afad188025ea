//! Whether a call for a node that does not answer waits, goes elsewhere or fails.
//!
//! A node is *well*; *suspect* from a failure of the transport until it answers; *open* from when its circuit opened until it
//! closed. A call for a slot of a suspect or open node
//!
//! * goes elsewhere as soon as another node owns the slot;
//! * waits until a view is accepted whose question was sent after the trouble began;
//! * waits on while a failover can be under way: the node has replicas, or had some when the trouble began (servers that have just
//!   started do not list them yet), and less than `failover_wait` is over since then; or it has replicas and the servers say
//!   themselves that slots are failing;
//! * is rejected otherwise: the cluster stands by a node that this client cannot reach.
//!
//! At most `max_waiting` calls wait for one node. A call bound to the node itself (no slot) never waits.
//!
//! A call whose slot has no owner waits for one, within its deadline: for [`OWNERLESS_NS`], and until a view is accepted whose
//! question was sent after the call began. Both give a slot that is being assigned anew the time to show up.

use super::nodes::NodeNumber;
use super::{MILLISECOND_NS, Rules, SECOND_NS};

/// How long a call waits at least for its slot to get an owner.
pub const OWNERLESS_NS: u64 = 2 * SECOND_NS;
/// The pause between two looks where only a newer view can end the wait.
const LOOK_NS: u64 = 250 * MILLISECOND_NS;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Routes anew: another node owns the slot, or this one is well again.
    Route,
    /// Waits, and has been counted.
    Wait,
    /// Fails.
    Reject,
    /// Fails: as many wait as may.
    Full,
}

/// What is known of one node's trouble.
#[derive(Debug, Clone, Copy, Default)]
struct Health {
    suspect_ns: Option<u64>,
    open_ns: Option<u64>,
    /// Whether the node had replicas when the trouble began.
    had_replicas: bool,
    waiting: u32,
}

impl Health {
    /// Whether calls wait for a node that has been in trouble since `since_ns` and still owns their slot.
    fn waits(&self, since_ns: u64, standing: Standing, now_ns: u64, failover_wait_ns: u64) -> bool {
        let is_confirmed = standing.confirmed_ns.is_some_and(|confirmed_ns| confirmed_ns > since_ns);
        let began_ns = self.suspect_ns.map_or(since_ns, |suspect_ns| suspect_ns.min(since_ns));
        let in_time = now_ns.saturating_sub(began_ns) < failover_wait_ns;
        let may_fail_over = (standing.has_replicas || self.had_replicas) && in_time;
        let is_failing_over = standing.has_replicas && standing.is_failing;
        !is_confirmed || may_fail_over || is_failing_over || standing.owner.is_none()
    }
}

/// What the topology says of the node that a call is for.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The present owner of the slot.
    pub owner: Option<NodeNumber>,
    /// Whether the node has replicas.
    pub has_replicas: bool,
    /// When the question of the latest view was sent that holds.
    pub confirmed_ns: Option<u64>,
    /// Whether the servers hold slots to be failing.
    pub is_failing: bool,
}

/// The nodes in trouble and the calls that wait for them.
#[derive(Debug)]
pub struct Waiting {
    rules: Rules,
    /// How many calls may wait for one node.
    bound: u32,
    failover_wait_ns: u64,
    nodes: Vec<Health>,
}

impl Waiting {
    /// All are well.
    #[must_use]
    pub fn new(rules: Rules, max_waiting: u32, failover_wait_ns: u64) -> Self {
        Self { rules, bound: max_waiting, failover_wait_ns, nodes: Vec::new() }
    }

    fn health(&mut self, node: NodeNumber) -> &mut Health {
        let place = usize::from(node);
        if place >= self.nodes.len() {
            self.nodes.resize(place + 1, Health::default());
        }
        &mut self.nodes[place]
    }

    fn known(&self, node: NodeNumber) -> Health {
        self.nodes.get(usize::from(node)).copied().unwrap_or_default()
    }

    /// The transport failed, of a node that has replicas or none.
    pub fn failed(&mut self, node: NodeNumber, has_replicas: bool, now_ns: u64) {
        self.in_trouble(node, has_replicas).suspect_ns.get_or_insert(now_ns);
    }

    /// Its circuit opened.
    pub fn opened(&mut self, node: NodeNumber, has_replicas: bool, now_ns: u64) {
        self.in_trouble(node, has_replicas).open_ns.get_or_insert(now_ns);
    }

    fn in_trouble(&mut self, node: NodeNumber, has_replicas: bool) -> &mut Health {
        let health = self.health(node);
        let was_well = health.suspect_ns.is_none() && health.open_ns.is_none();
        health.had_replicas = has_replicas || (health.had_replicas && !was_well);
        health
    }

    /// It answered, or its circuit closed; whether calls wait for it.
    pub fn recovered(&mut self, node: NodeNumber) -> bool {
        let health = self.health(node);
        (health.suspect_ns, health.open_ns) = (None, None);
        health.waiting > 0
    }

    /// It answered a question, which says nothing of its circuit; whether calls wait for it.
    pub fn heard_from(&mut self, node: NodeNumber) -> bool {
        let health = self.health(node);
        health.suspect_ns.take().is_some() && health.open_ns.is_none() && health.waiting > 0
    }

    /// Whether it is suspect or open.
    #[must_use]
    pub fn is_suspect(&self, node: NodeNumber) -> bool {
        let health = self.known(node);
        health.suspect_ns.is_some() || health.open_ns.is_some()
    }

    /// The nodes that are suspect or open.
    pub fn suspects(&self) -> impl Iterator<Item = NodeNumber> {
        let is_suspect = |health: &Health| health.suspect_ns.is_some() || health.open_ns.is_some();
        (0..).zip(&self.nodes).filter(move |(_, health)| is_suspect(health)).map(|(number, _)| number)
    }

    /// How many calls wait for it.
    #[must_use]
    pub fn waiting_for(&self, node: NodeNumber) -> u32 {
        self.known(node).waiting
    }

    /// How many calls wait altogether.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.nodes.iter().map(|health| u64::from(health.waiting)).sum()
    }

    /// The nodes for which calls wait.
    pub fn awaited(&self) -> impl Iterator<Item = NodeNumber> {
        (0..).zip(&self.nodes).filter(|(_, health)| health.waiting > 0).map(|(number, _)| number)
    }

    /// What a call for `node` does, for a slot or (`is_bound`) for the node itself.
    pub fn verdict(&mut self, node: NodeNumber, is_bound: bool, standing: Standing, now_ns: u64) -> Verdict {
        let (rules, bound, failover_wait_ns) = (self.rules, self.bound, self.failover_wait_ns);
        let health = self.health(node);
        let Some(since_ns) = health.open_ns.or(health.suspect_ns) else {
            // Well, or never in trouble: without an owner there is nowhere to go yet.
            let goes = is_bound || standing.owner.is_some();
            return if goes { Verdict::Route } else { Self::count(health, rules, bound) };
        };
        if is_bound {
            return Verdict::Reject;
        }
        if standing.owner.is_some_and(|owner| owner != node) {
            return Verdict::Route;
        }
        let waits = health.waits(since_ns, standing, now_ns, failover_wait_ns) || !rules.waiting_ends;
        if waits && rules.calls_wait_for_failover { Self::count(health, rules, bound) } else { Verdict::Reject }
    }

    /// What a call does whose slot has no owner, begun at `since_ns`, and how long it waits at most before it asks again.
    /// `nowhere` stands for the node of such calls; the `standing` is that of the slot.
    pub fn for_owner(
        &mut self,
        nowhere: NodeNumber,
        standing: Standing,
        since_ns: u64,
        deadline_ns: u64,
        now_ns: u64,
    ) -> (Verdict, u64) {
        let (rules, bound) = (self.rules, self.bound);
        if standing.owner.is_some() {
            return (Verdict::Route, 0);
        }
        let least_ns = since_ns.saturating_add(OWNERLESS_NS).saturating_sub(now_ns);
        let is_confirmed = standing.confirmed_ns.is_some_and(|confirmed_ns| confirmed_ns > since_ns);
        let is_over = deadline_ns != 0 && now_ns >= deadline_ns;
        let ends = least_ns == 0 && is_confirmed && rules.owner_wait_ends;
        if is_over || ends || !rules.calls_wait_for_owner {
            return (Verdict::Reject, 0);
        }
        let left_ns = if deadline_ns == 0 { u64::MAX } else { deadline_ns - now_ns };
        let pause_ns = if least_ns == 0 { LOOK_NS } else { least_ns };
        (Self::count(self.health(nowhere), rules, bound), pause_ns.min(left_ns))
    }

    /// Whether the calls that wait for a node have to look again after a view that says what was known: they fail now, or the
    /// node is suspect only, so that one of them may try it.
    #[must_use]
    pub fn must_look(&self, node: NodeNumber, standing: Standing, now_ns: u64) -> bool {
        let health = self.known(node);
        health.open_ns.is_none_or(|open_ns| !health.waits(open_ns, standing, now_ns, self.failover_wait_ns))
    }

    fn count(health: &mut Health, rules: Rules, bound: u32) -> Verdict {
        if rules.waiting_is_bounded && health.waiting >= bound {
            return Verdict::Full;
        }
        health.waiting += 1;
        Verdict::Wait
    }

    /// A call waits no longer.
    pub fn end(&mut self, node: NodeNumber) {
        let health = self.health(node);
        debug_assert!(health.waiting > 0, "each wait ends once");
        health.waiting = health.waiting.saturating_sub(1);
    }

    /// Forgets a node.
    pub fn forget(&mut self, node: NodeNumber) {
        *self.health(node) = Health::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_slot_without_an_owner_is_waited_for_two_seconds_and_until_a_newer_view() {
        let mut waiting = Waiting::new(Rules::default(), 2, 20 * SECOND);
        let mut look = |owner, confirmed_ns, deadline_ns, now_ns| {
            let standing = Standing { owner, has_replicas: false, confirmed_ns, is_failing: false };
            waiting.for_owner(9, standing, 10 * SECOND, deadline_ns, now_ns)
        };
        assert_eq!(look(Some(1), None, 0, 10 * SECOND), (Verdict::Route, 0));
        assert_eq!(look(None, Some(11 * SECOND), 0, 12 * SECOND - 1), (Verdict::Wait, 1), "not two seconds yet");
        assert_eq!(look(None, Some(11 * SECOND), 0, 12 * SECOND), (Verdict::Reject, 0));
        assert_eq!(look(None, Some(10 * SECOND), 0, 12 * SECOND), (Verdict::Wait, LOOK_NS), "that view is older");
        assert_eq!(look(None, None, 13 * SECOND, 13 * SECOND), (Verdict::Reject, 0), "the deadline is over");
        assert_eq!(look(None, None, 13 * SECOND, 13 * SECOND - 1).0, Verdict::Full, "two wait already");
        assert_eq!(waiting.waiting_for(9), 2);
    }

    #[test]
    fn no_wait_for_an_owner_reaches_beyond_the_deadline() {
        let mut waiting = Waiting::new(Rules::default(), 2, 20 * SECOND);
        let standing = Standing { owner: None, has_replicas: false, confirmed_ns: None, is_failing: false };
        assert_eq!(waiting.for_owner(9, standing, 0, SECOND, SECOND - 7), (Verdict::Wait, 7));
        assert_eq!(waiting.for_owner(9, standing, 0, 5 * SECOND, 5 * SECOND - 7), (Verdict::Wait, 7));
    }

    fn verdict_after_a_restart(had_replicas: bool, now_ns: u64) -> Verdict {
        let mut waiting = Waiting::new(Rules::default(), 10, 20 * SECOND);
        waiting.failed(0, had_replicas, SECOND);
        // Servers that have just started name the node as owner, without its replicas.
        waiting.opened(0, false, 2 * SECOND);
        let standing =
            Standing { owner: Some(0), has_replicas: false, confirmed_ns: Some(3 * SECOND), is_failing: false };
        waiting.verdict(0, false, standing, now_ns)
    }

    #[test]
    fn a_view_without_the_replicas_that_a_node_had_does_not_end_the_wait() {
        assert_eq!(verdict_after_a_restart(true, 20 * SECOND), Verdict::Wait);
        assert_eq!(verdict_after_a_restart(true, 21 * SECOND), Verdict::Reject, "failover_wait bounds it");
        assert_eq!(verdict_after_a_restart(false, 4 * SECOND), Verdict::Reject, "no replica can take over");
    }

    #[test]
    fn what_a_node_had_in_an_earlier_trouble_does_not_count() {
        let mut waiting = Waiting::new(Rules::default(), 10, 20 * SECOND);
        waiting.failed(0, true, SECOND);
        waiting.recovered(0);
        waiting.failed(0, false, 2 * SECOND);
        let standing =
            Standing { owner: Some(0), has_replicas: false, confirmed_ns: Some(3 * SECOND), is_failing: false };
        assert_eq!(waiting.verdict(0, false, standing, 4 * SECOND), Verdict::Reject);
    }
}
