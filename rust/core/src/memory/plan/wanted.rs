//! What must be read before a plan can decide.

use std::collections::HashSet;
use std::hash::Hash;

use super::operation::{KeyName, Operation, RequestName, Twin};

/// What a store reads before its plan decides these operations; no list has duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The rows of these agents, sorted: the order in which they are locked.
    pub agents: Vec<&'a str>,
    /// The rows of these memories.
    pub ids: Vec<&'a str>,
    /// The holders of these keys that are neither deleted nor erased; expired ones, too.
    pub keys: Vec<KeyName<'a>>,
    /// What these idempotency keys stand for, unless it is erased.
    pub requests: Vec<RequestName<'a>>,
    /// The first duplicate of each that is neither deleted, erased nor expired.
    pub twins: Vec<Twin<'a>>,
    /// The fences of these users, and of those of all rows that were read.
    pub users: Vec<&'a str>,
}

impl<'a> Wanted<'a> {
    /// What these operations need.
    #[must_use]
    pub fn of(operations: &[Operation<'a>]) -> Self {
        let mut wanted = Self::default();
        let (mut agents, mut ids, mut users) = (Distinct::default(), Distinct::default(), Distinct::default());
        let (mut keys, mut requests, mut twins) = (Distinct::default(), Distinct::default(), Distinct::default());
        for operation in operations {
            let (id, agent_id) = operation.names();
            agents.add(&mut wanted.agents, Some(agent_id));
            ids.add(&mut wanted.ids, Some(id));
            if let Operation::Put(put) = operation {
                let identity = &put.identity;
                keys.add(&mut wanted.keys, identity.key_name(agent_id));
                requests.add(&mut wanted.requests, identity.request_name(agent_id));
                twins.add(&mut wanted.twins, identity.twin(agent_id));
                users.add(&mut wanted.users, Some(identity.user_id).filter(|user| !user.is_empty()));
            }
        }
        wanted.agents.sort_unstable();
        wanted
    }
}

struct Distinct<T>(HashSet<T>);

impl<T> Default for Distinct<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<T: Copy + Eq + Hash> Distinct<T> {
    fn add(&mut self, list: &mut Vec<T>, one: Option<T>) {
        if let Some(one) = one
            && list.last() != Some(&one)
            && self.0.insert(one)
        {
            list.push(one);
        }
    }
}

impl<'a> Operation<'a> {
    /// Names of the memory and of its agent.
    #[must_use]
    pub fn names(&self) -> (&'a str, &'a str) {
        match self {
            Self::Put(put) => (put.id, put.agent_id),
            Self::Delete(delete) => (delete.id, delete.agent_id),
            Self::Move(one) => (one.id, one.agent_id),
        }
    }
}
