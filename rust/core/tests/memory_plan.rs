//! The plan of memories' writes: each rule by itself, and all of them against a model that knows no maps, no batches and no
//! rows read beforehand, but looks through a table for each operation.

use std::collections::{BTreeMap, BTreeSet};

use agent_memory_core::memory::plan::{
    Agent, Answer, Change, ChangeKind, Delete, Held, Identity, MAX_VERSION, Move, Operation, Plan, PlanError, Put,
    Stamp, Status, Wanted, Writes, next_version,
};
use proptest::prelude::*;

const NOW_US: u64 = 1_000;

// --- a database in memory ---

/// What a store holds, and how it reads it: the conditions of its statements, one by one.
#[derive(Debug, Clone, Default, PartialEq)]
struct Table {
    agents: BTreeMap<&'static str, Agent>,
    rows: BTreeMap<&'static str, Held<'static>>,
    requests: BTreeMap<(&'static str, &'static str, &'static str), &'static str>,
    fences: BTreeMap<&'static str, u64>,
    last_row: i64,
}

impl Table {
    fn agent(&self, name: &str) -> Agent {
        self.agents.get(name).cloned().unwrap_or_default()
    }

    fn fence(&self, user_id: &str) -> u64 {
        self.fences.get(user_id).copied().unwrap_or(0)
    }

    fn is_erased(&self, held: &Held<'_>) -> bool {
        let user = held.identity.user_id;
        held.seq <= self.agent(held.agent_id).erased_seq || (!user.is_empty() && held.version <= self.fence(user))
    }

    fn visible(&self, matches: impl Fn(&Held<'static>) -> bool) -> Vec<Held<'static>> {
        let mut found: Vec<_> =
            self.rows.values().filter(|held| !self.is_erased(held) && matches(held)).copied().collect();
        found.sort_unstable_by_key(|held| held.seq);
        found
    }

    fn by_request(&self, agent_id: &str, identity: &Identity<'_>) -> Option<Held<'static>> {
        let (user, key) = (identity.user_id, identity.idempotency_key);
        let own = self.visible(|held| {
            held.agent_id == agent_id && held.identity.user_id == user && held.identity.idempotency_key == key
        });
        let later = || {
            let id = self.requests.get(&(agent_id, user, key) as &(&str, &str, &str))?;
            self.visible(|held| held.id == *id).first().copied()
        };
        own.first().copied().or_else(later).filter(|_| !key.is_empty())
    }

    fn by_key(&self, agent_id: &str, identity: &Identity<'_>) -> Option<Held<'static>> {
        let found = self.visible(|held| {
            let (one, other) = (&held.identity, identity);
            held.agent_id == agent_id
                && !held.is_deleted
                && (one.user_id, one.namespace, one.key) == (other.user_id, other.namespace, other.key)
        });
        assert!(found.len() <= 1 || identity.key.is_empty(), "a key names one memory: {found:?}");
        found.first().copied().filter(|_| !identity.key.is_empty())
    }

    fn twins(&self, agent_id: &str, identity: &Identity<'_>, now_us: u64) -> Vec<Held<'static>> {
        if identity.content_hash.is_empty() || !identity.key.is_empty() {
            return Vec::new();
        }
        self.visible(|held| {
            let one = &held.identity;
            held.agent_id == agent_id
                && !held.is_deleted
                && !is_expired(held, now_us)
                && one.key.is_empty()
                && (one.content_hash, one.session_id, one.expires_at)
                    == (identity.content_hash, identity.session_id, identity.expires_at)
        })
    }

    /// One transaction, as a store makes it.
    fn transact(&mut self, operations: &[Operation<'static>], now_us: u64) -> Vec<Answer<'static>> {
        let wanted = Wanted::of(operations);
        let mut plan = Plan::new(now_us);
        let mut read: Vec<Held<'static>> = wanted.ids.iter().filter_map(|id| self.rows.get(id)).copied().collect();
        let identities = operations.iter().filter_map(|operation| match operation {
            Operation::Put(put) => Some((put.agent_id, put.identity)),
            _ => None,
        });
        for (agent_id, identity) in identities {
            if let Some(name) = identity.key_name(agent_id) {
                assert!(wanted.keys.contains(&name));
                read.extend(self.by_key(agent_id, &identity));
            }
            if let Some(name) = identity.request_name(agent_id) {
                assert!(wanted.requests.contains(&name));
                if let Some(held) = self.by_request(agent_id, &identity) {
                    if held.identity.request_name(agent_id) != Some(name) {
                        plan.add_later_request(name, held.id);
                    }
                    read.push(held);
                }
            }
            if let Some(twin) = identity.twin(agent_id) {
                assert!(wanted.twins.contains(&twin));
                read.extend(self.twins(agent_id, &identity, now_us));
            }
        }
        let mut users: BTreeSet<_> = wanted.users.iter().copied().collect();
        users.extend(read.iter().map(|held| held.identity.user_id));
        for user in users.into_iter().filter(|user| !user.is_empty() && self.fence(user) > 0) {
            plan.add_fence(user, self.fence(user));
        }
        for name in wanted.agents.iter().copied().chain(read.iter().map(|held| held.agent_id)) {
            if let Some(agent) = self.agents.get(name) {
                plan.add_agent(name, agent.clone());
            }
        }
        for held in read {
            plan.add_held(held);
        }
        let answers = operations.iter().map(|operation| plan.decide(operation).expect("versions are left")).collect();
        let (writes, agents) = plan.finish();
        self.write(&writes);
        self.agents.extend(agents);
        answers
    }

    fn write(&mut self, writes: &Writes<'static>) {
        for Change { kind, before, after, source } in &writes.changes {
            let mut after = *after;
            let held = self.rows.get(after.id).map(|held| held.row);
            match kind {
                ChangeKind::Insert => {
                    assert_eq!((held, before), (None, &None));
                    self.last_row += 1;
                    after.row = self.last_row;
                }
                ChangeKind::Replace | ChangeKind::Bury => {
                    assert_eq!(held, before.map(|before| before.row));
                    assert_eq!(held, Some(after.row));
                }
            }
            assert_eq!(source.is_none(), after.is_deleted);
            self.rows.insert(after.id, after);
        }
        for label in &writes.labels {
            let held = self.rows.values_mut().find(|held| held.row == label.row).expect("a row that is there");
            assert_eq!(held.version, label.version);
            (held.tier, held.seq) = (label.tier, label.seq);
        }
        for request in &writes.requests {
            let name = request.name;
            self.requests.insert((name.agent_id, name.user_id, name.idempotency_key), request.id);
        }
    }
}

fn is_expired(held: &Held<'_>, now_us: u64) -> bool {
    held.identity.expires_at.is_some_and(|at| at <= now_us as f64 / 1e6)
}

// --- each rule by itself ---

fn put(id: &'static str) -> Put<'static> {
    Put { id, agent_id: "a", ..Put::default() }
}

fn named(identity: Identity<'static>, id: &'static str) -> Put<'static> {
    Put { identity, ..put(id) }
}

fn one(table: &mut Table, operation: Operation<'static>, now_us: u64) -> Answer<'static> {
    table.transact(&[operation], now_us)[0]
}

fn statuses(table: &mut Table, puts: &[Put<'static>]) -> Vec<(Status, &'static str, bool)> {
    let answers = puts.iter().map(|put| one(table, Operation::Put(*put), NOW_US));
    answers.map(|answer| (answer.status, answer.id, answer.existed)).collect()
}

#[test]
fn a_version_is_the_clocks_but_above_all_that_was_accepted_and_erased() {
    let mut table = Table::default();
    let versions = |table: &mut Table, now_us| {
        table.transact(&[Operation::Put(put("m1")), Operation::Put(put("m2"))], now_us).map_versions()
    };
    assert_eq!(versions(&mut table, 500), [500, 501]);
    assert_eq!(versions(&mut table, 100), [502, 503], "the clock went back");
    let agent = table.agents.get_mut("a").expect("there");
    assert_eq!((agent.seq, agent.touched_us, agent.counts), (4, 500, [2, 0, 0]));
    agent.erase(700);
    assert_eq!((agent.erased_seq, agent.erased_version, agent.generation, agent.counts), (4, 700, 2, [0; 3]));
    let user = Identity { user_id: "u", ..Identity::default() };
    assert_eq!(one(&mut table, Operation::Put(named(user, "m3")), 100).version, 701);
    table.fences.insert("u", 900);
    assert_eq!(one(&mut table, Operation::Put(named(user, "m4")), 100).version, 901, "or it would not be read");
}

trait Versions {
    fn map_versions(&self) -> Vec<u64>;
}

impl Versions for Vec<Answer<'_>> {
    fn map_versions(&self) -> Vec<u64> {
        self.iter().map(|answer| answer.version).collect()
    }
}

#[test]
fn what_is_of_before_an_erasure_is_refused() {
    let mut table = Table::default();
    one(&mut table, Operation::Put(put("m1")), NOW_US);
    table.agents.get_mut("a").expect("there").erase(NOW_US);
    table.fences.insert("u", 2_000);
    let user = Identity { user_id: "u", ..Identity::default() };
    let erased_version = table.agent("a").erased_version;
    for refused in [
        Put { generation: 1, ..put("m2") },
        Put { version: erased_version, ..put("m2") },
        Put { version: 2_000, ..named(user, "m2") },
    ] {
        assert_eq!(one(&mut table, Operation::Put(refused), 3_000), answer(Status::Erased, "m2", 0));
    }
    let delete = Delete { id: "m2", agent_id: "a", ..Delete::default() };
    for refused in [Delete { generation: 1, ..delete }, Delete { version: erased_version, ..delete }] {
        assert_eq!(one(&mut table, Operation::Delete(refused), 3_000).status, Status::Erased);
    }
    assert_eq!(one(&mut table, Operation::Put(put("m1")), 3_000).status, Status::Deleted, "ids are not used again");
    let later = Put { version: 2_001, generation: 2, ..named(user, "m2") };
    assert_eq!(one(&mut table, Operation::Put(later), 3_000).status, Status::Applied);
}

#[test]
fn a_greater_stamp_wins_and_a_tombstone_always() {
    let mut table = Table::default();
    let versioned = |version, writer| Put { version, writer, created_us: 7, ..put("m1") };
    for (version, writer, status) in [
        (50, 5, Status::Applied),
        (50, 5, Status::Stale),
        (49, 9, Status::Stale),
        (50, 4, Status::Stale),
        (50, 6, Status::Applied),
        (51, 1, Status::Applied),
    ] {
        let answer = one(&mut table, Operation::Put(versioned(version, writer)), NOW_US);
        assert_eq!(answer.status, status, "{version} {writer}");
    }
    assert_eq!(table.rows["m1"].created_us, 7);
    let delete = Delete { id: "m1", agent_id: "a", version: 20, ..Delete::default() };
    let answer = one(&mut table, Operation::Delete(delete), NOW_US);
    assert_eq!((answer.status, answer.existed), (Status::Applied, true), "of a lower version, too");
    for late in [versioned(60, 1), put("m1")] {
        assert_eq!(one(&mut table, Operation::Put(late), NOW_US).status, Status::Deleted);
    }
    assert_eq!(one(&mut table, Operation::Delete(delete), NOW_US).status, Status::Stale, "the same once more");
    let greater = Delete { version: 70, ..delete };
    assert_eq!(one(&mut table, Operation::Delete(greater), NOW_US).version, 70);
    assert!(Stamp { is_deleted: true, version: 1, writer: 0 } > Stamp { is_deleted: false, version: 2, writer: 1 });
}

#[test]
fn a_version_that_is_asked_for_must_be_held() {
    let mut table = Table::default();
    let over = |if_version| Put { if_version: Some(if_version), ..put("m1") };
    let version = one(&mut table, Operation::Put(put("m1")), NOW_US).version;
    assert_eq!(one(&mut table, Operation::Put(over(version + 1)), NOW_US).status, Status::Conflict);
    assert_eq!(one(&mut table, Operation::Put(over(version)), NOW_US).status, Status::Applied);
    assert_eq!(
        one(&mut table, Operation::Put(Put { if_version: Some(1), ..put("m2") }), NOW_US).status,
        Status::Absent
    );
    let delete = Delete { id: "m1", agent_id: "a", if_version: Some(version), ..Delete::default() };
    assert_eq!(one(&mut table, Operation::Delete(delete), NOW_US).status, Status::Conflict);
    let absent = Delete { id: "m2", ..delete };
    assert_eq!(one(&mut table, Operation::Delete(absent), NOW_US).status, Status::Absent);
    assert_eq!(one(&mut table, Operation::Put(Put { creates: true, ..put("m1") }), NOW_US).status, Status::Existing);
    let foreign = Put { agent_id: "b", ..put("m1") };
    assert_eq!(one(&mut table, Operation::Put(foreign), NOW_US).status, Status::Foreign);
    let foreign = Delete { id: "m1", agent_id: "b", ..Delete::default() };
    assert_eq!(one(&mut table, Operation::Delete(foreign), NOW_US).status, Status::Foreign);
}

#[test]
fn an_idempotency_key_and_equal_content_stand_for_the_memory_that_is_there() {
    let mut table = Table::default();
    let request = Identity { idempotency_key: "i", ..Identity::default() };
    let equal = Identity { content_hash: b"h", ..Identity::default() };
    let both = Identity { idempotency_key: "j", content_hash: b"h", ..Identity::default() };
    let elsewhere = [
        Identity { user_id: "u", ..request },
        Identity { session_id: "s", ..equal },
        Identity { expires_at: Some(9.0), ..equal },
    ];
    let mut puts = vec![named(request, "m1"), named(request, "m2"), named(equal, "m3"), named(equal, "m4")];
    puts.extend([named(both, "m5"), Put { identity: both, ..put("m6") }]);
    assert_eq!(
        statuses(&mut table, &puts),
        [
            (Status::Applied, "m1", false),
            (Status::Existing, "m1", true),
            (Status::Applied, "m3", false),
            (Status::Existing, "m3", true),
            (Status::Existing, "m3", true),
            (Status::Existing, "m3", true),
        ]
    );
    assert_eq!(table.requests, BTreeMap::from([(("a", "", "j"), "m3")]), "a further key of the same memory");
    for (identity, id) in elsewhere.into_iter().zip(["n1", "n2", "n3"]) {
        assert_eq!(one(&mut table, Operation::Put(named(identity, id)), NOW_US).status, Status::Applied, "{id}");
    }
    let versioned = Put { version: 5_000, ..named(equal, "n4") };
    assert_eq!(one(&mut table, Operation::Put(versioned), NOW_US).status, Status::Applied, "it was acknowledged");
    let delete = Delete { id: "m1", agent_id: "a", ..Delete::default() };
    one(&mut table, Operation::Delete(delete), NOW_US);
    let repeated = statuses(&mut table, &[named(request, "n5")]);
    assert_eq!(repeated, [(Status::Existing, "m1", false)], "it is told that it was deleted");
    one(&mut table, Operation::Delete(Delete { erases: true, ..delete }), NOW_US);
    assert_eq!(statuses(&mut table, &[named(request, "n6")]), [(Status::Applied, "n6", false)]);
}

#[test]
fn a_key_names_one_memory() {
    let mut table = Table::default();
    let key = Identity { key: "k", ..Identity::default() };
    let first = one(&mut table, Operation::Put(named(key, "m1")), NOW_US);
    let over = Put { created_us: 9, ..named(Identity { idempotency_key: "i", ..key }, "m2") };
    let answer = one(&mut table, Operation::Put(over), NOW_US);
    assert_eq!((answer.id, answer.existed), ("m1", true));
    let held = table.rows["m1"];
    assert_eq!((held.created_us, held.identity.idempotency_key), (first.version, ""), "its first call made it");
    assert_eq!(table.requests, BTreeMap::from([(("a", "", "i"), "m1")]));
    // Of two that were acknowledged elsewhere the greater stamp keeps the key.
    let lower = Put { version: 10, ..named(key, "m3") };
    let answer = one(&mut table, Operation::Put(lower), NOW_US);
    assert_eq!((answer.status, answer.version, table.rows["m3"].is_deleted), (Status::Deleted, 10, true));
    let greater = Put { version: 9_000, ..named(key, "m4") };
    assert_eq!(one(&mut table, Operation::Put(greater), NOW_US).status, Status::Applied);
    assert!(table.rows["m1"].is_deleted);
    assert_eq!(table.agent("a").counts, [1, 0, 0]);
    // A memory that takes a key that is in use is refused.
    one(&mut table, Operation::Put(put("m5")), NOW_US);
    assert_eq!(statuses(&mut table, &[named(key, "m5")]), [(Status::Existing, "m4", true)]);
}

#[test]
fn an_expired_memory_is_gone_and_makes_room() {
    let mut table = Table::default();
    let (expires_at, soon) = (Some(0.002), 2_000);
    let key = Identity { key: "k", expires_at, ..Identity::default() };
    let twin = Identity { content_hash: b"h", expires_at, ..Identity::default() };
    for (identity, id) in [(key, "m1"), (twin, "m2")] {
        one(&mut table, Operation::Put(named(identity, id)), NOW_US);
    }
    assert_eq!(one(&mut table, Operation::Put(named(twin, "m3")), soon - 1).status, Status::Existing);
    assert_eq!(one(&mut table, Operation::Put(named(twin, "m3")), soon).status, Status::Applied);
    assert_eq!(one(&mut table, Operation::Put(put("m2")), soon).status, Status::Deleted);
    assert_eq!(one(&mut table, Operation::Put(named(key, "m4")), soon).id, "m4");
    assert!(table.rows["m1"].is_deleted);
    // A version of its own may come from before the expiry, which it may have put off.
    let later = Put { version: 5_000, ..put("m2") };
    assert_eq!(one(&mut table, Operation::Put(later), soon).status, Status::Applied);
    let delete = Delete { id: "m3", agent_id: "a", ..Delete::default() };
    assert!(!one(&mut table, Operation::Delete(delete), soon).existed);
}

#[test]
fn a_tombstone_is_left_of_an_id_that_is_not_there_unless_only_what_is_held_is_meant() {
    let mut table = Table::default();
    let delete = Delete { id: "m1", agent_id: "a", ..Delete::default() };
    let held_only = Delete { is_held_only: true, ..delete };
    assert_eq!(one(&mut table, Operation::Delete(held_only), NOW_US).status, Status::Absent);
    assert!(table.rows.is_empty());
    assert_eq!(one(&mut table, Operation::Delete(delete), NOW_US).status, Status::Applied);
    assert_eq!((table.rows["m1"].is_deleted, table.agent("a").counts), (true, [0; 3]));
}

#[test]
fn a_move_changes_the_label_of_an_unchanged_version_and_nothing_else() {
    let mut table = Table::default();
    let version = one(&mut table, Operation::Put(put("m1")), NOW_US).version;
    let relabel = |version, tier| Operation::Move(Move { id: "m1", agent_id: "a", version, tier });
    let before = table.clone();
    for (operation, status) in [
        (relabel(version + 1, 1), Status::Stale),
        (relabel(version, 0), Status::Applied),
        (Operation::Move(Move { id: "m2", agent_id: "a", version, tier: 1 }), Status::Absent),
        (Operation::Move(Move { id: "m1", agent_id: "b", version, tier: 1 }), Status::Absent),
    ] {
        let answer = one(&mut table, operation, 2_000);
        assert_eq!((answer.status, answer.seq), (status, 0));
        assert_eq!(table, before, "nothing has changed");
    }
    assert_eq!(one(&mut table, relabel(version, 2), 2_000).seq, 2);
    let held = table.rows["m1"];
    assert_eq!(held, Held { tier: 2, seq: 2, ..before.rows["m1"] });
    assert_eq!(table.agent("a").counts, [0, 0, 1]);
    assert_eq!(table.agent("a").last_version, version);
}

#[test]
fn each_row_is_written_once() {
    let mut table = Table::default();
    one(&mut table, Operation::Put(put("m1")), NOW_US);
    let operations = [
        Operation::Move(Move { id: "m1", agent_id: "a", version: NOW_US, tier: 1 }),
        Operation::Put(put("m2")),
        Operation::Put(put("m1")),
        Operation::Delete(Delete { id: "m2", agent_id: "a", ..Delete::default() }),
    ];
    let mut plan = Plan::new(NOW_US);
    plan.add_agent("a", table.agent("a"));
    plan.add_held(table.rows["m1"]);
    for operation in &operations {
        plan.decide(operation).expect("versions are left");
    }
    let (writes, agents) = plan.finish();
    let kinds: Vec<_> = writes.changes.iter().map(|change| (change.after.id, change.kind, change.source)).collect();
    assert_eq!(kinds, [("m2", ChangeKind::Insert, None), ("m1", ChangeKind::Replace, Some(2))]);
    assert!(writes.labels.is_empty());
    assert_eq!((agents.len(), agents[0].1.seq, agents[0].1.counts), (1, 5, [1, 0, 0]));
}

#[test]
fn what_no_version_is_left_for_and_what_has_no_tier_is_an_error() {
    let mut plan = Plan::new(MAX_VERSION + 1);
    assert_eq!(plan.decide(&Operation::Put(put("m1"))), Err(PlanError::NoVersionLeft));
    assert_eq!(MAX_VERSION, 4_503_599_627_370_495, "2^52 - 1");
    let mut plan = Plan::new(MAX_VERSION);
    assert_eq!(plan.decide(&Operation::Put(put("m1"))).map(|answer| answer.version), Ok(MAX_VERSION), "the last one");
    assert_eq!(plan.decide(&Operation::Put(put("m2"))), Err(PlanError::NoVersionLeft));
    assert_eq!(plan.decide(&Operation::Put(Put { tier: 3, ..put("m2") })), Err(PlanError::NoSuchTier(3)));
    let strange = Operation::Move(Move { id: "m1", agent_id: "a", version: MAX_VERSION, tier: 3 });
    assert_eq!(plan.decide(&strange), Err(PlanError::NoSuchTier(3)));
}

// --- the model: one operation, on the table itself ---

impl Table {
    fn model(&mut self, operation: &Operation<'static>, now_us: u64) -> Answer<'static> {
        match operation {
            Operation::Put(put) => self.model_put(put, now_us),
            Operation::Delete(delete) => self.model_delete(delete, now_us),
            Operation::Move(one) => self.model_move(one, now_us),
        }
    }

    fn touch(&mut self, agent_id: &'static str, version: u64, now_us: u64) -> u64 {
        let agent = self.agents.entry(agent_id).or_default();
        agent.seq += 1;
        agent.last_version = agent.last_version.max(version);
        agent.touched_us = agent.touched_us.max(now_us);
        agent.seq
    }

    /// Counts anew: a model need not be quick.
    fn recount(&mut self) {
        for (name, agent) in &mut self.agents {
            let counted = |held: &&Held<'_>| held.agent_id == *name && !held.is_deleted && held.seq > agent.erased_seq;
            let mut counts = [0; 3];
            for held in self.rows.values().filter(counted) {
                counts[usize::from(held.tier)] += 1;
            }
            agent.counts = counts;
        }
    }

    fn entomb(&mut self, held: &Held<'static>, version: u64, writer: u64, keeps_request: bool, now_us: u64) -> u64 {
        let keeps_request = keeps_request && !held.identity.idempotency_key.is_empty() && !self.is_erased(held);
        let Identity { user_id, idempotency_key, .. } = held.identity;
        let kept = Identity { user_id, idempotency_key, ..Identity::default() };
        let identity = if keeps_request { kept } else { Identity::default() };
        let seq = self.touch(held.agent_id, version, now_us);
        let Held { row, id, agent_id, .. } = *held;
        let tombstone = Held { row, id, agent_id, version, writer, is_deleted: true, seq, identity, ..Held::default() };
        self.rows.insert(id, tombstone);
        self.recount();
        seq
    }

    fn add(&mut self, mut held: Held<'static>, now_us: u64) -> Held<'static> {
        if held.row == 0 {
            self.last_row += 1;
            held.row = self.last_row;
        }
        held.seq = self.touch(held.agent_id, held.version, now_us);
        self.rows.insert(held.id, held);
        self.recount();
        held
    }

    fn model_put(&mut self, put: &Put<'static>, now_us: u64) -> Answer<'static> {
        let Put { id, agent_id, version, writer, identity, .. } = *put;
        let agent = self.agent(agent_id);
        let fence =
            agent.erased_version.max(if identity.user_id.is_empty() { 0 } else { self.fence(identity.user_id) });
        if (put.generation != 0 && put.generation < agent.generation) || (version != 0 && version <= fence) {
            return answer(Status::Erased, id, 0);
        }
        let last = || agent.last_version;
        let mut target = self.rows.get(id).copied();
        let mut takes_over = false;
        if target.is_none() {
            let by_request = self.by_request(agent_id, &identity);
            let twin = if version == 0 { self.twins(agent_id, &identity, now_us).first().copied() } else { None };
            if let Some(existing) = by_request.or(twin) {
                let existed = !existing.is_deleted && !is_expired(&existing, now_us);
                if existed && !identity.idempotency_key.is_empty() && by_request.is_none() {
                    self.requests.insert((agent_id, identity.user_id, identity.idempotency_key), existing.id);
                }
                return Answer { existed, ..answer(Status::Existing, existing.id, existing.version) };
            }
            match self.by_key(agent_id, &identity) {
                Some(holder) if is_expired(&holder, now_us) => {
                    self.entomb(&holder, next_version(last(), now_us), writer, true, now_us);
                }
                Some(holder) if version == 0 => (target, takes_over) = (Some(holder), true),
                Some(holder) if (version, writer) > (holder.version, holder.writer) => {
                    self.entomb(&holder, next_version(holder.version, last()), writer, true, now_us);
                }
                Some(_) => {
                    let tombstone = Held { id, agent_id, version, writer, is_deleted: true, ..Held::default() };
                    let seq = self.add(tombstone, now_us).seq;
                    return Answer { seq, ..answer(Status::Deleted, id, version) };
                }
                None => {}
            }
        }
        let Some(held) = target else {
            if put.if_version.is_some() {
                return answer(Status::Absent, id, 0);
            }
            return self.model_store(put, None, now_us);
        };
        if held.agent_id != agent_id {
            return answer(Status::Foreign, id, 0);
        }
        if held.is_deleted || (version == 0 && is_expired(&held, now_us)) || held.seq <= agent.erased_seq {
            return answer(Status::Deleted, held.id, held.version);
        }
        if self.is_erased(&held) {
            return answer(Status::Erased, id, 0);
        }
        let there = |status, held: &Held<'static>| Answer { existed: true, ..answer(status, held.id, held.version) };
        if put.creates && !takes_over {
            return there(Status::Existing, &held);
        }
        if put.if_version.is_some_and(|wanted| wanted != held.version) {
            return there(Status::Conflict, &held);
        }
        if version != 0 && (version, writer) <= (held.version, held.writer) {
            return there(Status::Stale, &held);
        }
        if let Some(holder) = self.by_key(agent_id, &identity).filter(|holder| holder.id != held.id) {
            if !is_expired(&holder, now_us) {
                return there(Status::Existing, &holder);
            }
            self.entomb(&holder, next_version(last(), now_us), writer, true, now_us);
        }
        let answer = self.model_store(put, Some(held), now_us);
        if takes_over
            && !identity.idempotency_key.is_empty()
            && identity.idempotency_key != held.identity.idempotency_key
        {
            self.requests.insert((agent_id, identity.user_id, identity.idempotency_key), held.id);
        }
        answer
    }

    fn model_store(&mut self, put: &Put<'static>, held: Option<Held<'static>>, now_us: u64) -> Answer<'static> {
        let Put { agent_id, identity, .. } = *put;
        let fence = if identity.user_id.is_empty() { 0 } else { self.fence(identity.user_id) };
        let agent = self.agent(agent_id);
        let assigned = next_version(agent.last_version.max(agent.erased_version).max(fence), now_us);
        let version = if put.version == 0 { assigned } else { put.version };
        let created_us = match held {
            Some(held) if put.version == 0 => held.created_us,
            None if put.version == 0 && put.created_us == 0 => version,
            _ => put.created_us,
        };
        let idempotency_key = held.map_or(identity.idempotency_key, |held| held.identity.idempotency_key);
        let stored = Held {
            row: held.map_or(0, |held| held.row),
            id: held.map_or(put.id, |held| held.id),
            agent_id,
            version,
            writer: put.writer,
            is_deleted: false,
            tier: put.tier,
            seq: 0,
            created_us,
            identity: Identity { idempotency_key, ..identity },
        };
        let stored = self.add(stored, now_us);
        Answer {
            seq: stored.seq,
            existed: held.is_some(),
            stored: Some(stored),
            generation: agent.generation,
            ..answer(Status::Applied, stored.id, version)
        }
    }

    fn model_delete(&mut self, delete: &Delete<'static>, now_us: u64) -> Answer<'static> {
        let Delete { id, agent_id, writer, if_version, .. } = *delete;
        let agent = self.agent(agent_id);
        if (delete.generation != 0 && delete.generation < agent.generation)
            || (delete.version != 0 && delete.version <= agent.erased_version)
        {
            return answer(Status::Erased, id, 0);
        }
        let version = if delete.version == 0 { next_version(agent.last_version, now_us) } else { delete.version };
        let Some(held) = self.rows.get(id).copied() else {
            if if_version.is_some() || delete.is_held_only {
                return answer(Status::Absent, id, 0);
            }
            let left = Held { id, agent_id, version, writer, is_deleted: true, ..Held::default() };
            let seq = self.add(left, now_us).seq;
            return Answer { seq, ..answer(Status::Applied, id, version) };
        };
        if held.agent_id != agent_id {
            return answer(Status::Foreign, id, 0);
        }
        let lives = !held.is_deleted && held.seq > agent.erased_seq;
        if if_version.is_some_and(|wanted| wanted != held.version) {
            return Answer { existed: lives, ..answer(Status::Conflict, id, held.version) };
        }
        let beats =
            delete.version != 0 && (true, delete.version, writer) > (held.is_deleted, held.version, held.writer);
        if !lives && !beats && !delete.erases {
            return answer(Status::Stale, id, held.version);
        }
        let existed = lives && !is_expired(&held, now_us) && (delete.erases || !self.is_erased(&held));
        let seq = self.entomb(&held, version, writer, !delete.erases, now_us);
        Answer { seq, existed, ..answer(Status::Applied, id, version) }
    }

    fn model_move(&mut self, one: &Move<'static>, now_us: u64) -> Answer<'static> {
        let Some(held) = self.rows.get(one.id).copied() else { return answer(Status::Absent, one.id, 0) };
        let there = |status| Answer { existed: true, ..answer(status, one.id, held.version) };
        if held.is_deleted || held.agent_id != one.agent_id || held.seq <= self.agent(one.agent_id).erased_seq {
            return answer(Status::Absent, one.id, held.version);
        }
        if held.version != one.version {
            return there(Status::Stale);
        }
        if held.tier == one.tier {
            return there(Status::Applied);
        }
        let seq = self.touch(one.agent_id, 0, now_us);
        self.rows.insert(one.id, Held { tier: one.tier, seq, ..held });
        self.recount();
        Answer { seq, ..there(Status::Applied) }
    }
}

fn answer(status: Status, id: &'static str, version: u64) -> Answer<'static> {
    Answer { status, id, version, seq: 0, existed: false, stored: None, generation: 0 }
}

// --- histories ---

#[derive(Debug, Clone)]
enum Step {
    Transaction(Vec<Operation<'static>>),
    EraseAgent(&'static str),
    FenceUser(&'static str),
}

const IDS: [&str; 5] = ["m1", "m2", "m3", "m4", "m5"];
const AGENTS: [&str; 2] = ["a", "b"];
const NAMES: [&str; 4] = ["", "", "x", "y"];
const HASHES: [&[u8]; 4] = [b"", b"", b"h", b"g"];

/// Around the time, which begins at [`NOW_US`] and moves by up to 40 a step; 0 is most frequent.
fn versions() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 2 => NOW_US..NOW_US + 200]
}

fn identities() -> impl Strategy<Value = Identity<'static>> {
    let name = || prop::sample::select(&NAMES[..]);
    let expires_at = prop::option::weighted(0.3, (NOW_US..NOW_US + 200).prop_map(|at| at as f64 / 1e6));
    (name(), name(), name(), name(), name(), prop::sample::select(&HASHES[..]), expires_at).prop_map(
        |(user_id, namespace, session_id, key, idempotency_key, content_hash, expires_at)| Identity {
            user_id,
            namespace,
            session_id: if key.is_empty() { session_id } else { "" },
            key,
            idempotency_key,
            content_hash,
            expires_at,
        },
    )
}

fn operations() -> impl Strategy<Value = Operation<'static>> {
    let id = || prop::sample::select(&IDS[..]);
    let agent = || prop::sample::select(&AGENTS[..]);
    let if_version = || prop::option::weighted(0.2, NOW_US..NOW_US + 100);
    let puts =
        (id(), agent(), versions(), 0..3_u64, 0..3_u8, identities(), if_version(), any::<(bool, bool)>(), 0..3_u32)
            .prop_map(
                |(id, agent_id, version, writer, tier, identity, if_version, (creates, is_dated), generation)| Put {
                    id,
                    agent_id,
                    version,
                    writer,
                    tier,
                    created_us: if is_dated { 5 } else { 0 },
                    generation,
                    identity,
                    if_version,
                    creates,
                },
            );
    let deletes = (id(), agent(), versions(), 0..3_u64, if_version(), 0..3_u32, any::<(bool, bool)>()).prop_map(
        |(id, agent_id, version, writer, if_version, generation, (is_held_only, erases))| Delete {
            id,
            agent_id,
            version,
            writer,
            if_version,
            generation,
            is_held_only,
            erases,
        },
    );
    // What version a move has is filled in when it is known what is held.
    let moves = (id(), agent(), 0..2_u64, 0..3_u8).prop_map(|(id, agent_id, version, tier)| Move {
        id,
        agent_id,
        version,
        tier,
    });
    prop_oneof![
        6 => puts.prop_map(Operation::Put),
        2 => deletes.prop_map(Operation::Delete),
        2 => moves.prop_map(Operation::Move)
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(operations(), 1..7).prop_map(Step::Transaction),
        1 => prop::sample::select(&AGENTS[..]).prop_map(Step::EraseAgent),
        1 => prop::sample::select(&NAMES[2..]).prop_map(Step::FenceUser)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_is_decided_as_its_operations_are_one_by_one(history in prop::collection::vec((steps(), 0..40_u64), 1..10)) {
        let (mut planned, mut expected) = (Table::default(), Table::default());
        let mut now_us = NOW_US;
        for (step, tick) in history {
            now_us += tick;
            match step {
                Step::Transaction(mut operations) => {
                    for operation in &mut operations {
                        if let Operation::Move(one) = operation {
                            one.version += expected.rows.get(one.id).map_or(0, |held| held.version);
                        }
                    }
                    let one_by_one: Vec<_> = operations.iter().map(|one| expected.model(one, now_us)).collect();
                    let answers = planned.transact(&operations, now_us);
                    let mut answers_without_rows = answers.clone();
                    let rows_alike = |answer: &mut Answer<'static>, model: &Answer<'static>| {
                        // Of a row that is inserted the plan does not know the number.
                        if let (Some(stored), Some(row)) = (&mut answer.stored, model.stored.map(|held| held.row)) {
                            stored.row = if stored.row == 0 { row } else { stored.row };
                        }
                    };
                    answers_without_rows.iter_mut().zip(&one_by_one).for_each(|(one, other)| rows_alike(one, other));
                    prop_assert_eq!(answers_without_rows, one_by_one, "{:?}", operations);
                }
                Step::EraseAgent(name) => for table in [&mut planned, &mut expected] {
                    let mut agent = table.agent(name);
                    agent.erase(now_us);
                    table.agents.insert(name, agent);
                },
                Step::FenceUser(name) => for table in [&mut planned, &mut expected] {
                    let greatest = table.rows.values().filter(|held| held.identity.user_id == name).map(|held| held.version);
                    let fence = next_version(greatest.max().unwrap_or(0), now_us);
                    table.fences.insert(name, fence);
                },
            }
            prop_assert_eq!(&planned, &expected);
        }
    }
}
