//! When the servers are asked for the topology, and how many of them.
//!
//! A *round* asks one or two nodes. States: *idle* until a refresh is due (something wants one, or the period is over), and
//! *under way* until the first answer that holds, until all have failed, or for [`ROUND_NS`].
//!
//! * One round at a time, and at most [`MAX_QUESTIONS`] questions in any second.
//! * The first round asks two nodes, because one of them may know less. Those that follow ask one.
//! * Between rounds there is a pause: [`MIN_PAUSE_NS`], doubled by every round that brings nothing new, up to [`MAX_PAUSE_NS`];
//!   [`PRESSING_PAUSE_NS`] while calls wait. Each pause is shortened by up to a third.
//! * While calls wait, or a node that owns slots is suspect, a round that is over is followed by another.
//! * No caller waits for a round.

use std::collections::VecDeque;

use super::nodes::NodeNumber;
use super::{MILLISECOND_NS, Rules, SECOND_NS};
use crate::guard::random::Random;

/// The most questions in any second.
pub const MAX_QUESTIONS: usize = 4;
/// How long a round holds back the next one.
pub const ROUND_NS: u64 = SECOND_NS;
/// The pause after a round that brought something new.
pub const MIN_PAUSE_NS: u64 = 100 * MILLISECOND_NS;
/// The longest pause.
pub const MAX_PAUSE_NS: u64 = 2 * SECOND_NS;
/// The longest pause while calls wait.
pub const PRESSING_PAUSE_NS: u64 = 400 * MILLISECOND_NS;
/// Each pause is drawn between this part of it and all of it.
const SHORTEST_SHARE: f64 = 0.65;
/// After that long without a wish, the next one is served as if it were the first.
const CALM_NS: u64 = 2 * MAX_PAUSE_NS;
/// How many nodes the first round asks.
const FIRST_ROUND: usize = 2;
/// Every so many periods a full view is asked for although the epoch is the same: replicas come and go without a new epoch.
const FULL_PERIODS: u32 = 5;
/// After so many rounds without anything new, nodes are drawn from all that are known.
const WIDEN_AFTER: u32 = 3;

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing, for that long.
    Wait(u64),
    /// Ask these nodes: for slots and epoch if `full`, else for the epoch alone.
    Ask {
        /// The number of the round.
        round: u64,
        /// Whom to ask.
        nodes: Vec<NodeNumber>,
        /// Whether for the slots, too.
        full: bool,
    },
}

/// What an answer brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The topology has changed.
    New,
    /// It is as it was.
    Same,
    /// A newer one was known, or there was no answer.
    Nothing,
}

/// How much depends on the next answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    None,
    /// A node that owns slots is suspect.
    Uneasy,
    /// Calls wait.
    Pressing,
}

#[derive(Debug)]
struct Round {
    number: u64,
    began_ns: u64,
    open: Vec<NodeNumber>,
}

/// The schedule of the questions.
#[derive(Debug)]
pub struct Refresh {
    rules: Rules,
    due_ns: Option<u64>,
    period_ns: u64,
    period_due_ns: u64,
    periods: u32,
    round: Option<Round>,
    rounds: u64,
    began_ns: Option<u64>,
    pause_ns: u64,
    fruitless: u32,
    asked: VecDeque<u64>,
}

impl Refresh {
    /// Nothing is due before the first wish. The period is drawn anew each time, between 0.75 and 1.25 of `period_ns`.
    #[must_use]
    pub fn new(rules: Rules, period_ns: u64, now_ns: u64, random: &mut Random) -> Self {
        let mut refresh = Self {
            rules,
            due_ns: None,
            period_ns,
            period_due_ns: 0,
            periods: 0,
            round: None,
            rounds: 0,
            began_ns: None,
            pause_ns: MIN_PAUSE_NS,
            fruitless: 0,
            asked: VecDeque::with_capacity(MAX_QUESTIONS),
        };
        refresh.begin_period(now_ns, random);
        refresh
    }

    /// Something wants a refresh, within `within_ns` where nothing speaks against it; whether it is due earlier than before.
    pub fn want(&mut self, within_ns: u64, now_ns: u64, random: &mut Random) -> bool {
        if self.began_ns.is_none_or(|began_ns| now_ns.saturating_sub(began_ns) > CALM_NS) {
            (self.pause_ns, self.fruitless) = (MIN_PAUSE_NS, 0);
        }
        let soonest_ns = now_ns + share(within_ns, random.next_unit());
        self.schedule(soonest_ns, random)
    }

    /// What to do at `now_ns`. `candidates(widen)` gives the nodes in the order in which they are asked, best first; `widen` asks for
    /// all of them to be as good as each other, as the best ones bring nothing new.
    pub fn next(
        &mut self,
        need: Need,
        now_ns: u64,
        random: &mut Random,
        candidates: impl FnOnce(bool) -> Vec<NodeNumber>,
    ) -> Next {
        if let Some(round) = &self.round {
            let ends_ns = round.began_ns + ROUND_NS;
            if now_ns < ends_ns {
                return Next::Wait(ends_ns - now_ns);
            }
            self.end_round(Answer::Nothing, need, now_ns, random);
        }
        let is_due = self.due_ns.is_some_and(|due_ns| due_ns <= now_ns);
        if !is_due && self.period_due_ns > now_ns {
            return Next::Wait(self.due_ns.unwrap_or(u64::MAX).min(self.period_due_ns) - now_ns);
        }
        while self.asked.front().is_some_and(|asked_ns| asked_ns + SECOND_NS <= now_ns) {
            self.asked.pop_front();
        }
        let allowed = MAX_QUESTIONS.saturating_sub(self.asked.len());
        let limited = self.rules.questions_are_limited;
        if let (0, true, Some(oldest_ns)) = (allowed, limited, self.asked.front()) {
            return Next::Wait(oldest_ns + SECOND_NS - now_ns);
        }
        let wanted = if is_due && self.fruitless == 0 { FIRST_ROUND } else { 1 };
        let mut nodes = candidates(self.fruitless % (WIDEN_AFTER + 1) == WIDEN_AFTER);
        nodes.truncate(if limited { wanted.min(allowed) } else { wanted });
        let full = is_due || self.periods % FULL_PERIODS == FULL_PERIODS - 1;
        self.begin_period(now_ns, random);
        if nodes.is_empty() {
            self.due_ns = is_due.then_some(now_ns + MAX_PAUSE_NS);
            return Next::Wait(MAX_PAUSE_NS);
        }
        if is_due {
            self.due_ns = None;
        }
        self.asked.extend(nodes.iter().map(|_| now_ns));
        self.rounds += 1;
        self.began_ns = Some(now_ns);
        self.round = Some(Round { number: self.rounds, began_ns: now_ns, open: nodes.clone() });
        Next::Ask { round: self.rounds, nodes, full }
    }

    /// A node of a round has answered, or will not; what comes of rounds that are over changes nothing here.
    pub fn answered(
        &mut self,
        round: u64,
        node: NodeNumber,
        answer: Answer,
        need: Need,
        now_ns: u64,
        random: &mut Random,
    ) {
        let Some(current) = self.round.as_mut().filter(|current| current.number == round) else { return };
        current.open.retain(|open| *open != node);
        if answer != Answer::Nothing || current.open.is_empty() {
            self.end_round(answer, need, now_ns, random);
        }
    }

    /// Whether a round is under way.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.round.is_some()
    }

    fn end_round(&mut self, answer: Answer, need: Need, now_ns: u64, random: &mut Random) {
        self.round = None;
        if answer == Answer::New {
            (self.pause_ns, self.fruitless) = (MIN_PAUSE_NS, 0);
        } else {
            self.pause_ns = (self.pause_ns * 2).min(MAX_PAUSE_NS);
            self.fruitless += 1;
        }
        if need == Need::Pressing {
            // Evenly: questions that come in bursts are followed by a second without any.
            self.pause_ns = PRESSING_PAUSE_NS;
        }
        let goes_on = need != Need::None && self.rules.waiting_keeps_asking;
        if answer == Answer::Nothing || goes_on {
            self.schedule(now_ns, random);
        }
    }

    fn schedule(&mut self, soonest_ns: u64, random: &mut Random) -> bool {
        let pause_ns = share(self.pause_ns, random.uniform(SHORTEST_SHARE, 1.0));
        let after_pause_ns = self.began_ns.map_or(0, |began_ns| began_ns + pause_ns);
        let due_ns = soonest_ns.max(after_pause_ns);
        let is_earlier = self.due_ns.is_none_or(|present_ns| due_ns < present_ns);
        if is_earlier {
            self.due_ns = Some(due_ns);
        }
        is_earlier
    }

    fn begin_period(&mut self, now_ns: u64, random: &mut Random) {
        self.periods = self.periods.wrapping_add(1);
        self.period_due_ns = now_ns.saturating_add(share(self.period_ns, random.uniform(0.75, 1.25)));
    }
}

/// A part of a duration.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float casts saturate; neither is negative"
)]
pub(super) fn share(duration_ns: u64, part: f64) -> u64 {
    (duration_ns as f64 * part) as u64
}
