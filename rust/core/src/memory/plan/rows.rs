//! The rows of one transaction, as it has left them so far, and how they are found.

use std::collections::HashMap;
use std::hash::Hash;

use super::operation::{Held, KeyName, RequestName, Twin};

/// How a row changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Insert,
    /// All columns; its number and the access statistics stay.
    Replace,
    /// It becomes a tombstone: its payload goes.
    Bury,
}

/// The last state of one row in a transaction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change<'a> {
    /// What is to be done.
    pub kind: ChangeKind,
    /// The row as it was, None of an insert. Tier and seq may be those of a move before.
    pub before: Option<Held<'a>>,
    /// The row as it is to be.
    pub after: Held<'a>,
    /// The operation whose copy it is; None: a tombstone.
    pub source: Option<usize>,
}

/// A row of which tier and seq alone change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Its number.
    pub row: i64,
    /// The version that it has.
    pub version: u64,
    /// Where it goes.
    pub tier: u8,
    /// Its place in the feed.
    pub seq: u64,
}

/// A further idempotency key that stands for a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The key, and in what it is unique.
    pub name: RequestName<'a>,
    /// The memory.
    pub id: &'a str,
    /// Its version after that call.
    pub version: u64,
}

/// What a plan has decided to write, apart from the agents' rows; each row once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Writes<'a> {
    /// In the order in which the rows were first changed.
    pub changes: Vec<Change<'a>>,
    /// No row is also among `changes`.
    pub labels: Vec<Label>,
    /// Each name once.
    pub requests: Vec<Request<'a>>,
}

#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    held: Held<'a>,
    /// Its place among the changes.
    change: Option<usize>,
    is_labelled: bool,
}

/// Memories by something that each has, in no order.
#[derive(Debug)]
struct Index<'a, K>(HashMap<K, Vec<&'a str>>);

impl<K> Default for Index<'_, K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<'a, K: Eq + Hash> Index<'a, K> {
    fn add(&mut self, name: Option<K>, id: &'a str) {
        if let Some(name) = name {
            let ids = self.0.entry(name).or_default();
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
    }

    fn remove(&mut self, name: Option<K>, id: &str) {
        if let Some(ids) = name.and_then(|name| self.0.get_mut(&name)) {
            ids.retain(|one| *one != id);
        }
    }

    fn ids(&self, name: &K) -> &[&'a str] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// What is known of the rows.
#[derive(Debug, Default)]
pub(super) struct Rows<'a> {
    by_id: HashMap<&'a str, Row<'a>>,
    by_key: Index<'a, KeyName<'a>>,
    by_request: Index<'a, RequestName<'a>>,
    by_twin: Index<'a, Twin<'a>>,
    by_later_request: HashMap<RequestName<'a>, &'a str>,
    changes: Vec<Change<'a>>,
    labelled: Vec<&'a str>,
    requests: Vec<Request<'a>>,
    /// Places among `requests`.
    places: HashMap<RequestName<'a>, usize>,
}

impl<'a> Rows<'a> {
    pub(super) fn with_capacity(operations: usize) -> Self {
        let (by_id, changes) = (HashMap::with_capacity(operations), Vec::with_capacity(operations));
        Self { by_id, changes, ..Self::default() }
    }

    /// Takes in a row that was read.
    pub(super) fn add(&mut self, held: Held<'a>) {
        if self.by_id.insert(held.id, Row { held, change: None, is_labelled: false }).is_none() {
            self.learn_names(&held);
        }
    }

    pub(super) fn add_later_request(&mut self, name: RequestName<'a>, id: &'a str) {
        self.by_later_request.insert(name, id);
    }

    /// A row as this transaction has left it so far.
    pub(super) fn find(&self, id: &str) -> Option<Held<'a>> {
        self.by_id.get(id).map(|row| row.held)
    }

    pub(super) fn by_key(&self, name: &KeyName<'a>) -> impl Iterator<Item = Held<'a>> {
        self.by_key.ids(name).iter().filter_map(|id| self.find(id))
    }

    /// Those that an idempotency key has made.
    pub(super) fn by_request(&self, name: &RequestName<'a>) -> impl Iterator<Item = Held<'a>> {
        self.by_request.ids(name).iter().filter_map(|id| self.find(id))
    }

    /// What a further idempotency key stands for.
    pub(super) fn by_later_request(&self, name: &RequestName<'a>) -> Option<Held<'a>> {
        self.find(self.by_later_request.get(name)?)
    }

    pub(super) fn by_twin(&self, twin: &Twin<'a>) -> impl Iterator<Item = Held<'a>> {
        self.by_twin.ids(twin).iter().filter_map(|id| self.find(id))
    }

    /// Notes a row's new state over what this transaction has noted of it before; later operations see it.
    pub(super) fn set(&mut self, kind: ChangeKind, after: Held<'a>, before: Option<Held<'a>>, source: Option<usize>) {
        if let Some(before) = before {
            self.forget_names(&before);
        }
        self.learn_names(&after);
        let changed = self.by_id.get(after.id).and_then(|row| row.change);
        let place = if let Some(place) = changed {
            let change = &mut self.changes[place];
            let kind = if change.kind == ChangeKind::Insert { ChangeKind::Insert } else { kind };
            *change = Change { kind, before: change.before, after, source };
            place
        } else {
            self.changes.push(Change { kind, before, after, source });
            self.changes.len() - 1
        };
        self.by_id.insert(after.id, Row { held: after, change: Some(place), is_labelled: false });
    }

    /// Notes that nothing but tier and seq of a row that is there change.
    pub(super) fn label(&mut self, id: &'a str, tier: u8, seq: u64) {
        let Some(row) = self.by_id.get_mut(id) else { return };
        (row.held.tier, row.held.seq) = (tier, seq);
        if let Some(place) = row.change {
            let after = &mut self.changes[place].after;
            (after.tier, after.seq) = (tier, seq);
        } else if !row.is_labelled {
            row.is_labelled = true;
            self.labelled.push(id);
        }
    }

    /// The call of this idempotency key is answered with this memory from now on.
    pub(super) fn note_request(&mut self, name: RequestName<'a>, id: &'a str, version: u64) {
        self.by_later_request.insert(name, id);
        let request = Request { name, id, version };
        let place = *self.places.entry(name).or_insert(self.requests.len());
        match self.requests.get_mut(place) {
            Some(noted) => *noted = request,
            None => self.requests.push(request),
        }
    }

    fn forget_names(&mut self, held: &Held<'a>) {
        let Held { identity, agent_id, id, .. } = held;
        self.by_key.remove(identity.key_name(agent_id), id);
        self.by_request.remove(identity.request_name(agent_id), id);
        self.by_twin.remove(identity.twin(agent_id), id);
    }

    fn learn_names(&mut self, held: &Held<'a>) {
        let Held { identity, agent_id, id, .. } = held;
        self.by_key.add(identity.key_name(agent_id), id);
        self.by_request.add(identity.request_name(agent_id), id);
        self.by_twin.add(identity.twin(agent_id), id);
    }

    pub(super) fn finish(self) -> Writes<'a> {
        let labelled = self.labelled.iter().filter_map(|id| self.by_id.get(id)).filter(|row| row.change.is_none());
        let labels = labelled.map(|Row { held, .. }| Label {
            row: held.row,
            version: held.version,
            tier: held.tier,
            seq: held.seq,
        });
        Writes { labels: labels.collect(), requests: self.requests, changes: self.changes }
    }
}
