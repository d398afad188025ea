//! What of a pipeline goes where, round after round, until every command has a reply or an error.
//!
//! A command is *pending* (to be routed, or sent to a node that a redirect named, with or without ASKING), *answered*, *unknown*
//! (handed over, and its connection was lost) or *barred*. Rules:
//!
//! * A round sends, for each slot, the longest run of its pending commands that go to one node: order within a slot is kept.
//! * What was answered, whatever the reply was, and what is unknown is never sent again.
//! * What stands behind an unknown command in its slot is barred: sent again, it could overtake it.
//! * A round pauses for as long as the longest pause that one of its commands was given.

use std::collections::BTreeMap;

use super::Rules;
use super::nodes::NodeNumber;
use super::redirect::Progress;

/// Where a pending command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the owner of its slot.
    Route,
    /// To this node.
    Node(NodeNumber),
    /// To this node, behind an ASKING.
    Ask(NodeNumber),
}

/// What has become of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is to be sent, or is under way.
    Pending(Way),
    /// Its reply is there.
    Answered,
    /// It may have been executed.
    Unknown,
    /// It was not executed, and is not sent any more.
    Barred,
}

/// What goes to one node, in the order of the pipeline: positions, and whether behind an ASKING.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The node.
    pub node: NodeNumber,
    /// The commands.
    pub commands: Vec<(usize, bool)>,
}

/// One round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// How long to pause before it.
    pub pause_ns: u64,
    /// What to write, all of it before any reply is read.
    pub batches: Vec<Batch>,
    /// Commands that no node can be named for yet.
    pub homeless: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Command {
    /// `None` for a command without keys.
    slot: Option<u16>,
    fate: Fate,
    progress: Progress,
}

/// One execution of a pipeline.
#[derive(Debug)]
pub struct Pipeline {
    rules: Rules,
    commands: Vec<Command>,
    pending: usize,
    is_first: bool,
    pause_ns: u64,
    /// The first unknown command of a slot.
    unknown: BTreeMap<u16, usize>,
}

impl Pipeline {
    /// All commands are pending.
    #[must_use]
    pub fn new(rules: Rules, slots: impl IntoIterator<Item = Option<u16>>) -> Self {
        let command = |slot| Command { slot, fate: Fate::Pending(Way::Route), progress: Progress::default() };
        let commands: Vec<_> = slots.into_iter().map(command).collect();
        let pending = commands.len();
        Self { rules, commands, pending, is_first: true, pause_ns: 0, unknown: BTreeMap::new() }
    }

    /// The next round; `owner` names the node of a slot, or of commands without one. Empty when nothing is pending.
    pub fn next_round(&mut self, mut owner: impl FnMut(Option<u16>) -> Option<NodeNumber>) -> Round {
        let mut round = Round { pause_ns: std::mem::take(&mut self.pause_ns), ..Round::default() };
        if self.pending == 0 {
            return round;
        }
        // Nothing has been redirected in the first round, so a slot has one node.
        let mut runs: Option<BTreeMap<u16, Option<NodeNumber>>> = (!self.is_first).then(BTreeMap::new);
        let mut places: Vec<usize> = Vec::new();
        self.is_first = false;
        for (position, command) in self.commands.iter_mut().enumerate() {
            let Fate::Pending(way) = command.fate else { continue };
            if let Some(unknown) = command.slot.and_then(|slot| self.unknown.get(&slot))
                && *unknown < position
                && self.rules.order_follows_unknown
            {
                command.fate = Fate::Barred;
                self.pending -= 1;
                continue;
            }
            let (node, asking) = match way {
                Way::Route => (owner(command.slot), false),
                Way::Node(node) => (Some(node), false),
                Way::Ask(node) => (Some(node), true),
            };
            if let (Some(runs), Some(slot)) = (&mut runs, command.slot) {
                let run = runs.entry(slot).or_insert(node);
                if *run != node || run.is_none() {
                    *run = None;
                    if node.is_none() {
                        round.homeless.push(position);
                    }
                    continue;
                }
            }
            let Some(node) = node else {
                round.homeless.push(position);
                continue;
            };
            let place = usize::from(node);
            if place >= places.len() {
                places.resize(place + 1, usize::MAX);
            }
            if places[place] == usize::MAX {
                places[place] = round.batches.len();
                round.batches.push(Batch { node, commands: Vec::new() });
            }
            round.batches[places[place]].commands.push((position, asking));
        }
        round
    }

    /// The reply of a command is there, and is no refusal.
    pub fn answered(&mut self, position: usize) {
        self.settle(position, Fate::Answered);
    }

    /// The connection was lost after the command was handed over.
    pub fn lost(&mut self, position: usize) {
        if !self.rules.unknown_is_final {
            return self.again(position, Way::Route, 0);
        }
        if self.settle(position, Fate::Unknown)
            && let Some(slot) = self.commands[position].slot
        {
            let first = self.unknown.entry(slot).or_insert(position);
            *first = position.min(*first);
        }
    }

    /// The command was proven not to have been executed and goes again, after a pause.
    pub fn again(&mut self, position: usize, way: Way, pause_ns: u64) {
        if let Fate::Pending(known) = &mut self.commands[position].fate {
            *known = way;
            self.pause_ns = self.pause_ns.max(pause_ns);
        }
    }

    /// The command was not executed and is given up.
    pub fn give_up(&mut self, position: usize) {
        self.settle(position, Fate::Barred);
    }

    /// What a command has been through.
    pub fn progress_mut(&mut self, position: usize) -> &mut Progress {
        &mut self.commands[position].progress
    }

    /// The slot of a command.
    #[must_use]
    pub fn slot(&self, position: usize) -> Option<u16> {
        self.commands[position].slot
    }

    /// What has become of a command.
    #[must_use]
    pub fn fate(&self, position: usize) -> Fate {
        self.commands[position].fate
    }

    /// The positions of the pending commands.
    pub fn pending(&self) -> impl Iterator<Item = usize> {
        let is_pending = |command: &Command| matches!(command.fate, Fate::Pending(_));
        self.commands.iter().enumerate().filter(move |(_, command)| is_pending(command)).map(|(position, _)| position)
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.pending == 0
    }

    fn settle(&mut self, position: usize, fate: Fate) -> bool {
        let command = &mut self.commands[position];
        let was_pending = matches!(command.fate, Fate::Pending(_));
        if was_pending {
            command.fate = fate;
            self.pending -= 1;
        }
        was_pending
    }
}
