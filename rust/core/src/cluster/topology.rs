//! Which node owns a slot, and which of two contradicting facts holds.
//!
//! A fact is a view (all slots) or a MOVED (one slot). Its *stamp* is when its question was sent: it was true at some time after
//! that. The rules, from the strongest:
//!
//! 1. A view with a smaller epoch than the present one is *stale*, unless a majority of the primaries that it names has shown
//!    such views for [`DISSENT_NS`], and no node the larger epoch: then the cluster was made anew.
//! 2. Of views of one epoch, the one with the later stamp holds. A view of a larger epoch holds whatever its stamp.
//! 3. A MOVED holds for its slot against facts with earlier stamps, and until a view is accepted whose stamp is later.
//! 4. A view without any slot never replaces one that has some.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use std::collections::{BTreeMap, BTreeSet};

use super::nodes::{NodeNumber, Nodes, Role};
use super::slot::SLOTS;
use super::view::View;
use super::{Rules, SECOND_NS};

/// How long a majority must have shown a smaller epoch before it is believed.
pub const DISSENT_NS: u64 = 10 * SECOND_NS;

const NO_OWNER: NodeNumber = NodeNumber::MAX;

/// The owner of each slot; read without a lock.
#[derive(Debug)]
pub struct SlotTable([AtomicU16; SLOTS as usize]);

impl SlotTable {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU16::new(NO_OWNER)))
    }

    /// The owner of a slot; `None` where none is known, or beyond the last slot.
    #[inline]
    #[must_use]
    pub fn owner(&self, slot: u16) -> Option<NodeNumber> {
        let owner = self.0.get(usize::from(slot))?.load(Ordering::Relaxed);
        (owner != NO_OWNER).then_some(owner)
    }

    fn set(&self, slot: u16, owner: NodeNumber) -> bool {
        self.0[usize::from(slot)].swap(owner, Ordering::Relaxed) != owner
    }
}

/// What became of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It holds, and something is different now.
    Changed,
    /// It holds, and says what was known.
    Unchanged,
    /// A newer one stays.
    Stale,
}

#[derive(Debug, Clone, Copy)]
struct Patch {
    owner: NodeNumber,
    stamp_ns: u64,
}

#[derive(Debug)]
struct Dissent {
    since_ns: u64,
    nodes: BTreeSet<NodeNumber>,
}

/// The owners of the slots and the replicas of the owners.
#[derive(Debug)]
pub struct Topology {
    rules: Rules,
    table: Arc<SlotTable>,
    /// When the question of the present view was sent; `None` before the first.
    asked_ns: Option<u64>,
    epoch: u64,
    version: u64,
    replicas: BTreeMap<NodeNumber, Vec<NodeNumber>>,
    patches: BTreeMap<u16, Patch>,
    dissent: Option<Dissent>,
}

impl Topology {
    /// Nothing is known.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            table: Arc::new(SlotTable::new()),
            asked_ns: None,
            epoch: 0,
            version: 0,
            replicas: BTreeMap::new(),
            patches: BTreeMap::new(),
            dissent: None,
        }
    }

    /// The owners, for readers that take no lock.
    #[must_use]
    pub fn table(&self) -> &Arc<SlotTable> {
        &self.table
    }

    /// The owner of a slot.
    #[must_use]
    pub fn owner(&self, slot: u16) -> Option<NodeNumber> {
        self.table.owner(slot)
    }

    /// The replicas of a primary, as the present view has them.
    #[must_use]
    pub fn replicas(&self, primary: NodeNumber) -> &[NodeNumber] {
        self.replicas.get(&primary).map_or(&[], Vec::as_slice)
    }

    /// The epoch of the present view.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// When the question of the present view was sent; `None` before the first view.
    #[must_use]
    pub fn asked_ns(&self) -> Option<u64> {
        self.asked_ns
    }

    /// Grows with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A MOVED in answer to a command that was sent at `sent_ns`: whether it holds. It does not where a newer fact is known.
    pub fn moved(&mut self, slot: u16, owner: NodeNumber, sent_ns: u64) -> bool {
        if slot >= SLOTS {
            return false;
        }
        let known_ns = self.patches.get(&slot).map(|patch| patch.stamp_ns).max(self.asked_ns);
        if self.rules.facts_have_stamps && known_ns.is_some_and(|known_ns| sent_ns < known_ns) {
            return false;
        }
        self.patches.insert(slot, Patch { owner, stamp_ns: sent_ns });
        if self.table.set(slot, owner) {
            self.version += 1;
        }
        true
    }

    /// A view that `answered_by` gave to a question sent at `asked_ns`. Without `epoch` it is taken to be of the present one.
    ///
    /// Nodes that the view names are made known, as far as there is room.
    pub fn accept(
        &mut self,
        view: &View,
        epoch: Option<u64>,
        asked_ns: u64,
        answered_by: NodeNumber,
        nodes: &mut Nodes,
        now_ns: u64,
    ) -> Acceptance {
        let epoch = epoch.unwrap_or(self.epoch);
        if view.ranges.is_empty() && self.asked_ns.is_some() {
            return Acceptance::Stale;
        }
        let resets = epoch < self.epoch && self.is_majority(view, answered_by, nodes, now_ns);
        if self.rules.larger_epoch_wins && epoch < self.epoch && !resets {
            return Acceptance::Stale;
        }
        if epoch == self.epoch && self.asked_ns.is_some_and(|present_ns| asked_ns < present_ns) {
            return Acceptance::Stale;
        }
        self.dissent = None;
        let is_first = self.asked_ns.is_none();
        (self.epoch, self.asked_ns) = (epoch, Some(asked_ns));
        let changed = self.replace(view, asked_ns, nodes);
        self.version += u64::from(changed);
        if changed || is_first { Acceptance::Changed } else { Acceptance::Unchanged }
    }

    /// Whether a node is named by the present view or by a MOVED since.
    #[must_use]
    pub fn names(&self, node: NodeNumber) -> bool {
        self.replicas.contains_key(&node)
            || self.replicas.values().any(|replicas| replicas.contains(&node))
            || self.patches.values().any(|patch| patch.owner == node)
    }

    /// The slots by owner, ascending: first, last, owner.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u16, u16, NodeNumber)> {
        let mut ranges: Vec<(u16, u16, NodeNumber)> = Vec::new();
        for slot in 0..SLOTS {
            let Some(owner) = self.owner(slot) else { continue };
            match ranges.last_mut() {
                Some((_, last, same)) if *same == owner && *last + 1 == slot => *last = slot,
                _ => ranges.push((slot, slot, owner)),
            }
        }
        ranges
    }

    /// Counts one more node that shows a smaller epoch.
    fn is_majority(&mut self, view: &View, answered_by: NodeNumber, nodes: &Nodes, now_ns: u64) -> bool {
        let dissent = self.dissent.get_or_insert_with(|| Dissent { since_ns: now_ns, nodes: BTreeSet::new() });
        dissent.nodes.insert(answered_by);
        let primaries: BTreeSet<_> = view.ranges.iter().filter_map(|range| range.primary).collect();
        let agree = primaries.iter().filter(|place| {
            let number = nodes.find(&view.nodes[**place].address);
            number.is_some_and(|number| dissent.nodes.contains(&number))
        });
        let lasts = now_ns.saturating_sub(dissent.since_ns) >= DISSENT_NS;
        self.rules.majority_resets_epoch && lasts && agree.count() * 2 > primaries.len()
    }

    /// Whether anything has become different.
    fn replace(&mut self, view: &View, asked_ns: u64, nodes: &mut Nodes) -> bool {
        let numbers: Vec<_> = view.nodes.iter().map(|node| nodes.ensure(&node.address)).collect();
        let mut replicas: BTreeMap<NodeNumber, Vec<NodeNumber>> = BTreeMap::new();
        let mut owners = vec![NO_OWNER; usize::from(SLOTS)];
        let shards = view.ranges.iter().map(|range| (range.primary, &range.replicas));
        let slotless = view.slotless.iter().map(|(primary, replicas)| (Some(*primary), replicas));
        for (primary, copies) in shards.chain(slotless) {
            let Some(number) = primary.and_then(|place| numbers[place]) else { continue };
            let known = replicas.entry(number).or_default();
            for copy in copies.iter().filter_map(|place| numbers[*place]) {
                if copy != number && !known.contains(&copy) {
                    known.push(copy);
                }
            }
        }
        for range in &view.ranges {
            if let Some(owner) = range.primary.and_then(|place| numbers[place]) {
                owners[usize::from(range.first)..=usize::from(range.last)].fill(owner);
            }
        }
        let stamped = self.rules.facts_have_stamps;
        self.patches.retain(|_, patch| stamped && patch.stamp_ns >= asked_ns);
        for (slot, patch) in &self.patches {
            owners[usize::from(*slot)] = patch.owner;
        }
        let mut changed = self.replicas != replicas;
        for (slot, owner) in (0..SLOTS).zip(owners) {
            changed |= self.table.set(slot, owner);
        }
        let patched: BTreeSet<_> = self.patches.values().map(|patch| patch.owner).collect();
        changed |= describe(view, &numbers, &replicas, &patched, nodes);
        self.replicas = replicas;
        changed
    }
}

/// What the view says of the nodes themselves; whether anything of it is new.
fn describe(
    view: &View,
    numbers: &[Option<NodeNumber>],
    replicas: &BTreeMap<NodeNumber, Vec<NodeNumber>>,
    patched: &BTreeSet<NodeNumber>,
    nodes: &mut Nodes,
) -> bool {
    let mut roles: BTreeMap<NodeNumber, Role> =
        replicas.keys().chain(patched).map(|primary| (*primary, Role::Primary)).collect();
    for (primary, copies) in replicas {
        for copy in copies {
            roles.entry(*copy).or_insert(Role::Replica(*primary));
        }
    }
    let known: Vec<_> = nodes.iter().map(|(number, _)| number).collect();
    let mut changed = false;
    for number in known {
        let Some(node) = nodes.get_mut(number) else { continue };
        let before = node.clone();
        node.role = roles.get(&number).copied().unwrap_or(Role::Unnamed);
        if let Some(place) = numbers.iter().position(|named| *named == Some(number)) {
            let said = &view.nodes[place];
            (node.id, node.hostname, node.zone) = (said.id.clone(), said.hostname.clone(), said.zone.clone());
        }
        changed |= *node != before;
    }
    changed
}
