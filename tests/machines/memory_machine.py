"""
A hypothesis machine over the memory system: two systems on one folder or database, against a model of plain dictionaries.

Whatever a system gives is compared with the model: ids, contents, fields, counts, errors. In the end, and after each erasure,
nothing that was erased may be in any file of the folder.

Every text holds the mark of its agent and user. An erasure makes all marks of its agent or user forbidden, and those that are
stored later have new ones. A memory with `ttl_s=OVER_S` has expired when the store has it, so no test waits for time to pass.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent_memory.memory import (
    IndexSettings,
    MemoryDeletedError,
    MemorySettings,
    MemorySystem,
    PostgresSettings,
    SyncSettings,
)

SETTINGS = MemorySettings(
    index=IndexSettings(snapshot_entries=1, dimensions=4),
    sync=SyncSettings(max_staleness_s=1e-9),
    postgres=PostgresSettings(schema="machine", max_connections=2),
)
OVER_S = 1e-6
LATER_S = 100_000.0
PATIENCE_S = 3.0
"""For how long the machine waits for what a server does in the background."""

AGENTS, USERS, SESSIONS = ["a1", "a2"], ["ann", None, "bob"], [None, "s"]
NAMESPACES, KEYS, REQUESTS = [(), ("n",), ("n", "m")], [None, "k1", "k2"], [None, "i1", "i2"]
VECTORS = [None, (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)]
TAGS = [(), ("t",), ("t", "u")]
WORD = "kettle"
"""In every text, so that retrieving it gives all memories."""


@dataclass(frozen=True)
class Row:
    """A living memory."""

    id: str
    version: int
    agent_id: str
    content: str
    importance: float
    user_id: str | None
    session_id: str | None
    namespace: tuple[str, ...]
    key: str | None
    tags: tuple[str, ...]
    timestamp: float
    vector: tuple[float, ...] | None
    expiry: object = None
    """What two memories that expire at the same moment have in common; None: never."""
    is_hinted: bool = False
    """Whether it was stored with `deduplicate`."""
    is_dirty: bool = False
    request: str | None = None
    """The idempotency key of the call that made it."""

    @property
    def twin(self):
        return (self.agent_id, self.user_id, self.session_id, self.namespace, self.content, self.expiry)


@dataclass
class Model:
    rows: dict[str, Row] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    """Ids of memories that are no more, with their agents."""
    requests: dict[tuple, str] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    eras: dict[tuple, int] = field(default_factory=dict)

    def mark(self, agent_id, user_id):
        era = (self.eras.setdefault((agent_id, None), 0), self.eras.setdefault((None, user_id), 0))
        letters = [chr(ord("a") + number // 26) + chr(ord("a") + number % 26) for number in era]
        return f"zq{agent_id[-1].translate(str.maketrans('12', 'vw'))}{(user_id or 'x')[0]}{''.join(letters)}k"

    def expected(self, agent_id, words, expiry):
        """What becomes of a store: ("new",), ("replaced", id), ("existing", ids) or ("refused", id)."""
        request = (agent_id, words["user_id"], words["idempotency_key"])
        if words["idempotency_key"] and request in self.requests:
            memory_id = self.requests[request]
            return ("existing", {memory_id}) if memory_id in self.rows else ("refused", memory_id)
        if words["deduplicate"] and not words["key"] and words["ttl_s"] != OVER_S:
            twin = (agent_id, words["user_id"], words["session_id"], words["namespace"], words["content"], expiry)
            twins = {row.id for row in self.rows.values() if row.is_hinted and not row.key and row.twin == twin}
            if twins:
                return ("existing", twins)
        holder = self.holder(agent_id, words["user_id"], words["namespace"], words["key"])
        return ("replaced", holder.id) if holder else ("new",)

    def holder(self, agent_id, user_id, namespace, key):
        if key is None:
            return None
        name = (agent_id, user_id, namespace, key)
        return next(
            (row for row in self.rows.values() if (row.agent_id, row.user_id, row.namespace, row.key) == name), None
        )

    def stored(self, agent_id, words, expiry, outcome, memory_id, version, *, is_dirty=False):
        """The state after it; checks the id that was given."""
        if outcome[0] == "existing":
            assert memory_id in outcome[1]
        else:
            assert memory_id == outcome[1] if outcome[0] == "replaced" else memory_id not in self.rows | self.gone
            row = Row(
                str(memory_id),
                version,
                agent_id,
                *(
                    words[name]
                    for name in ("content", "importance", "user_id", "session_id", "namespace", "key", "tags")
                ),
                words["timestamp_s"],
                words["embedding"],
                expiry,
                words["deduplicate"],
                is_dirty,
                words["idempotency_key"] if outcome[0] == "new" else self.rows[outcome[1]].request,
            )
            if words["ttl_s"] == OVER_S:
                self.bury(row)
            else:
                self.rows[row.id] = row
        if words["idempotency_key"]:
            self.requests[agent_id, words["user_id"], words["idempotency_key"]] = str(memory_id)

    def bury(self, row):
        self.rows.pop(row.id, None)
        self.gone[row.id] = row.agent_id

    def erase(self, *, agent_id=None, user_id=None):
        """Returns the rows that are erased."""
        of = (lambda row: row.agent_id == agent_id) if agent_id else (lambda row: row.user_id == user_id)
        erased = [row for row in self.rows.values() if of(row)]
        for row in erased:
            self.bury(row)
        self.requests = {
            name: memory_id
            for name, memory_id in self.requests.items()
            if (name[0] != agent_id if agent_id else name[1] != user_id)
        }
        for agent in [agent_id] if agent_id else AGENTS:
            for user in USERS if agent_id else [user_id]:
                self.forbidden.add(self.mark(agent, user))
        place = (agent_id, None) if agent_id else (None, user_id)
        self.eras[place] = self.eras.get(place, 0) + 1
        return erased

    def matching(self, agent_id, conditions):
        return {row.id: row for row in self.rows.values() if row.agent_id == agent_id and matches(row, conditions)}


def matches(row, conditions):
    checks = {
        "user_id": lambda value: row.user_id == value,
        "session_id": lambda value: row.session_id == value,
        "namespace": lambda value: row.namespace[: len(value)] == tuple(value),
        "tags": lambda value: set(value) <= set(row.tags),
        "since_s": lambda value: row.timestamp >= value,
        "until_s": lambda value: row.timestamp < value,
        "key": lambda value: row.key == value,
        "min_importance": lambda value: row.importance >= value,
    }
    return all(checks[name](value) for name, value in conditions.items())


def is_empty(value):
    return value is None or value in ((), [], set())


def mostly(first, *others):
    """Names that meet: the first half of the time."""
    return st.sampled_from([*[first] * len(others), *others])


STORED = st.fixed_dictionaries(
    {
        "content": mostly(0, 1),
        "importance": mostly(0.25, 0.75),
        "user_id": mostly(*USERS),
        "session_id": mostly(*SESSIONS),
        "namespace": mostly(*NAMESPACES),
        "key": st.sampled_from(KEYS),
        "idempotency_key": st.sampled_from(REQUESTS),
        "ttl_s": mostly(None, LATER_S, OVER_S),
        "deduplicate": st.booleans(),
        "embedding": st.sampled_from(VECTORS),
        "tags": st.sampled_from(TAGS),
    }
)
DIFFERENCES = ["user_id", "session_id", "namespace", "key", "idempotency_key", "ttl_s", "content"]
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "content": st.integers(0, 1),
        "importance": st.sampled_from([0.25, 0.75]),
        "ttl_s": st.sampled_from([LATER_S, OVER_S]),
        "tags": st.sampled_from(TAGS),
    },
)
# Mostly one or two conditions, some of them empty.
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.sampled_from(["ann", "bob", None]),
        "session_id": st.sampled_from(["s", None]),
        "namespace": st.sampled_from([("n",), ["n", "m"], ()]),
        "tags": st.sampled_from([("t",), ["t", "u"], {"u"}, ()]),
        "since_s": st.sampled_from([0.0, 3.0, None]),
        "until_s": st.sampled_from([5.0, None]),
    },
)
ROWS_ONLY = {"key": st.sampled_from(["k1", "k2", None]), "min_importance": st.sampled_from([0.5, None])}
QUERIES = st.builds(lambda one, other: one | other, CONDITIONS, st.fixed_dictionaries({}, optional=ROWS_ONLY))
AGENT = mostly("a1", "a1", "a2")
SYSTEM = st.integers(0, 1)


class MemoryMachine(RuleBasedStateMachine):
    """`world` makes the place that the systems of one run share, and takes it away."""

    world = None

    def __init__(self):
        super().__init__()
        self.place = type(self).world()
        self.place.make()
        self.systems = [self.place.open(), self.place.open()]
        self.model = Model()
        self.exported = []
        self.numbers = itertools.count()

    def teardown(self):
        with contextlib.ExitStack() as stack:
            stack.callback(self.place.remove)
            for system in self.systems:
                stack.callback(system.close)
            self.settle()
            for system in self.systems:
                self.check(system)
            for system in self.systems:
                system.maintain()
                self.check_files()
        # Closed, the folder holds no more than before.

    # --- helpers ---

    def words(self, agent_id, given):
        """The arguments of a store."""
        mark = self.model.mark(agent_id, given["user_id"])
        return given | {"content": f"{WORD} {mark} number {given['content']}", "timestamp_s": float(next(self.numbers))}

    def settle(self):
        """What Redis alone has goes to SQL, where queries look."""
        if any(row.is_dirty for row in self.model.rows.values()):
            self.systems[0].sync()
            self.model.rows = {name: replace(row, is_dirty=False) for name, row in self.model.rows.items()}

    def check_files(self):
        deadline = time.monotonic() + PATIENCE_S
        while left := self.place.holding(self.model.forbidden):
            assert time.monotonic() < deadline, f"erased text is in {left}"
            time.sleep(0.02)

    def refused(self, conditions, call):
        """Whether conditions are refused, as they must be where one is empty."""
        if not any(map(is_empty, conditions.values())):
            return False
        try:
            call()
        except ValueError:
            return True
        raise AssertionError(f"{conditions} were taken")

    @staticmethod
    def same(entry, row):
        found = (
            *(
                entry.id,
                entry.version,
                entry.agent_id,
                entry.content,
                entry.importance,
                entry.user_id,
                entry.session_id,
            ),
            *(entry.namespace, entry.key, entry.tags, entry.timestamp_s, entry.expires_at_s is None),
        )
        wanted = (
            *(row.id, row.version, row.agent_id, row.content, row.importance, row.user_id, row.session_id),
            *(row.namespace, row.key, row.tags, row.timestamp, row.expiry is None),
        )
        assert found == wanted
        if row.vector is not None and row.vector != "any":
            assert np.array_equal(entry.embedding, row.vector)

    def compare(self, entries, rows):
        entries = list(entries)
        assert len(entries) == len({entry.id for entry in entries})
        assert {entry.id for entry in entries} == rows.keys()
        for entry in entries:
            self.same(entry, rows[entry.id])

    def check(self, system):
        """Everything that a system can be asked, but for conditions."""
        for agent_id in AGENTS:
            rows = self.model.matching(agent_id, {})
            self.compare(system.query(agent_id), rows)
            self.compare(system.history(agent_id, limit=1_000), rows)
            self.compare(system.retrieve(agent_id, WORD, k=1_000), rows)
            assert system.count(agent_id) == len(rows)
            namespaces = {}
            for row in rows.values():
                namespaces[row.namespace] = namespaces.get(row.namespace, 0) + 1
            assert {one.namespace: one.memories for one in system.namespaces(agent_id)} == namespaces
            for memory_id in [*rows, *(name for name, agent in self.model.gone.items() if agent == agent_id)]:
                entry = system.get(agent_id, memory_id)
                assert (entry is None) == (memory_id not in rows), memory_id
                if entry is not None:
                    self.same(entry, rows[memory_id])
            for user_id, namespace, key in itertools.product(USERS, NAMESPACES, KEYS[1:]):
                entry = system.get_by_key(agent_id, key, namespace, user_id=user_id)
                holder = self.model.holder(agent_id, user_id, namespace, key)
                assert (entry and entry.id) == (holder and holder.id)

    # --- rules: writes ---

    @rule(which=SYSTEM, agent_id=AGENT, given=STORED, other=STORED, is_plain=st.booleans())
    def store_variants(self, which, agent_id, given, other, is_plain):
        """Calls with one difference each, and all of them once more: what names and hints are about."""
        if is_plain:
            given = given | {"key": None, "idempotency_key": None, "ttl_s": None, "deduplicate": True}
        calls = [given, *(given | {name: other[name]} for name in DIFFERENCES if given[name] != other[name])]
        for call in [*calls, *calls]:
            self.store_one(which, agent_id, call)

    @rule(which=SYSTEM, agent_id=AGENT, given=STORED)
    def store(self, which, agent_id, given):
        self.store_one(which, agent_id, given)

    def store_one(self, which, agent_id, given):
        self.settle()
        words = self.words(agent_id, given)
        expiry = None if words["ttl_s"] is None else object()
        outcome = self.model.expected(agent_id, words, expiry)
        try:
            memory_id = self.systems[which].store(agent_id, **words)
        except MemoryDeletedError as error:
            refused = error.memory_id
        else:
            refused = None
        assert (outcome == ("refused", refused)) == (refused is not None)
        if refused is not None:
            return
        self.model.stored(agent_id, words, expiry, outcome, memory_id, memory_id.version)
        row, entry = self.model.rows.get(memory_id), self.systems[which].get(agent_id, memory_id)
        assert (entry is None) == (row is None)
        if entry is not None:
            self.same(entry, row)

    @rule(which=SYSTEM, agent_id=AGENT, given=st.lists(STORED, min_size=2, max_size=4))
    def store_many(self, which, agent_id, given):
        self.settle()
        entries = [self.words(agent_id, one) for one in given]
        expiry = object()
        # Decided one after the other, as the store does; names stand for the ids to come.
        trial = Model(dict(self.model.rows), dict(self.model.gone), dict(self.model.requests))
        expiries = []
        for number, words in enumerate(entries):
            expiries.append(None if words["ttl_s"] is None else expiry)
            outcome = trial.expected(agent_id, words, expiries[-1])
            if outcome[0] == "refused":
                return  # the rest of the batch is stored all the same: `store` has the cases
            known = {"new": f"new {number}", "existing": min(outcome[-1])}.get(outcome[0], outcome[-1])
            trial.stored(agent_id, words, expiries[-1], outcome, known, 0)
        ids = self.systems[which].store_many(agent_id, entries)
        for words, own, memory_id in zip(entries, expiries, ids, strict=True):
            outcome = self.model.expected(agent_id, words, own)
            self.model.stored(agent_id, words, own, outcome, memory_id, memory_id.version)

    @rule(which=SYSTEM, agent_id=AGENT, given=STORED)
    def store_in_redis(self, which, agent_id, given):
        if not self.place.has_redis:
            return
        given = given | {"key": None, "idempotency_key": None, "deduplicate": False}
        words = self.words(agent_id, given)
        expiry = None if words["ttl_s"] is None else object()
        memory_id = self.systems[which].store(agent_id, **words, durability="redis")
        is_dirty = memory_id.durability == "redis"
        self.model.stored(agent_id, words, expiry, ("new",), memory_id, memory_id.version, is_dirty=is_dirty)

    @rule(which=SYSTEM, data=st.data(), changes=CHANGES)
    def update(self, which, data, changes):
        self.settle()
        memory_id, agent_id = self.any_memory(data)
        if memory_id is None:
            return
        row = self.model.rows.get(memory_id)
        words = dict(changes)
        if "content" in words:
            mark = self.model.mark(agent_id, row.user_id if row else None)
            words["content"] = f"{WORD} {mark} number {changes['content']}"
        try:
            changed = self.systems[which].update(agent_id, memory_id, **words)
        except KeyError:
            assert row is None
            return
        assert row is not None
        assert changed == memory_id
        fields = {name: words[name] for name in ("content", "importance", "tags") if name in words}
        if "ttl_s" in words:
            fields["expiry"] = object()
        if "content" in words:
            fields["vector"] = "any"
        self.model.rows[memory_id] = replace(row, version=changed.version, **fields)
        if words.get("ttl_s") == OVER_S:
            self.model.bury(self.model.rows[memory_id])

    @rule(which=SYSTEM, data=st.data())
    def delete(self, which, data):
        self.settle()
        memory_id, agent_id = self.any_memory(data)
        if memory_id is None:
            return
        row = self.model.rows.get(memory_id)
        assert self.systems[which].delete(agent_id, memory_id) == (row is not None)
        if row is not None:
            self.model.bury(row)

    def any_memory(self, data):
        known = [*((row.id, row.agent_id) for row in self.model.rows.values()), *self.model.gone.items()]
        return data.draw(st.sampled_from(known)) if known else (None, None)

    @rule(which=SYSTEM, agent_id=AGENT, conditions=QUERIES, dry_run=st.booleans())
    def forget(self, which, agent_id, conditions, dry_run):
        self.settle()
        system = self.systems[which]
        if not conditions:
            conditions = {"user_id": None}
        if self.refused(conditions, lambda: system.forget(agent_id, dry_run=dry_run, **conditions)):
            return
        rows = self.model.matching(agent_id, conditions)
        assert system.forget(agent_id, dry_run=dry_run, **conditions) == len(rows)
        if not dry_run:
            for row in rows.values():
                self.model.bury(row)

    # --- rules: erasures ---

    @rule(which=SYSTEM, agent_id=AGENT)
    def delete_agent(self, which, agent_id):
        count = self.systems[which].delete_agent(agent_id)
        erased = self.model.erase(agent_id=agent_id)
        assert count == sum(not row.is_dirty for row in erased)
        self.check_files()

    @rule(which=SYSTEM, user_id=st.sampled_from(["ann", "bob"]))
    def delete_user(self, which, user_id):
        count = self.systems[which].delete_user(user_id)
        assert count == len(self.model.erase(user_id=user_id))
        self.model.rows = {name: replace(row, is_dirty=False) for name, row in self.model.rows.items()}
        self.check_files()

    @rule(which=SYSTEM)
    def maintain(self, which):
        for agent_id in AGENTS:
            self.systems[which].retrieve(agent_id, WORD)  # indexes that are loaded have snapshots then
        self.systems[which].maintain()
        self.model.rows = {name: replace(row, is_dirty=False) for name, row in self.model.rows.items()}

    # --- rules: reads ---

    @rule(which=SYSTEM, agent_id=AGENT, conditions=CONDITIONS)
    def retrieve(self, which, agent_id, conditions):
        system = self.systems[which]

        def call():
            return system.retrieve(agent_id, WORD, k=1_000, **conditions)

        if not self.refused(conditions, call):
            self.compare(call(), self.model.matching(agent_id, conditions))

    @rule(which=SYSTEM, agent_id=AGENT, conditions=QUERIES)
    def query(self, which, agent_id, conditions):
        self.settle()
        system = self.systems[which]
        if not self.refused(conditions, lambda: list(system.query(agent_id, **conditions))):
            rows = self.model.matching(agent_id, conditions)
            self.compare(system.query(agent_id, **conditions), rows)
            assert system.count(agent_id, **conditions) == len(rows)
        else:
            assert self.refused(conditions, lambda: system.count(agent_id, **conditions))

    @rule(which=SYSTEM)
    def look_at_everything(self, which):
        self.settle()
        self.check(self.systems[which])

    # --- rules: export, import, processes ---

    @rule(which=SYSTEM, agent_id=AGENT)
    def export(self, which, agent_id):
        self.settle()
        lines = list(self.systems[which].export(agent_id))
        rows = self.model.matching(agent_id, {})
        assert {json.loads(line)["id"] for line in lines} == rows.keys()
        self.exported = [line for line in lines if not self.forbidden(line)]
        with self.place.fresh() as fresh:
            assert fresh.import_(lines) == len(lines)
            self.compare(fresh.query(agent_id), rows)
            for row in rows.values():
                if row.request is not None:
                    again = fresh.store(agent_id, "again", idempotency_key=row.request, user_id=row.user_id)
                    assert again == row.id

    def forbidden(self, text):
        return any(mark in text for mark in self.model.forbidden)

    @rule(which=SYSTEM)
    def import_again(self, which):
        """What is held or gone: nothing changes, and all of it is accounted for."""
        self.settle()
        report = self.systems[which].import_(self.exported)
        assert report == 0
        assert report.unchanged + sum(report.skipped.values()) == len(self.exported)

    @rule(which=SYSTEM, agent_id=AGENT, data=st.data())
    def import_what_is_gone(self, which, agent_id, data):
        """With new ids what was deleted comes back, unless its names or equal content have another memory by now."""
        self.settle()
        system = self.systems[which]
        self.exported = list(system.export(agent_id))
        for row in list(self.model.matching(agent_id, {}).values()):
            if data.draw(st.booleans()):
                assert system.delete(agent_id, row.id)
                self.model.bury(row)
        system.maintain()  # what has expired is a tombstone then
        lines = [line for line in self.exported if not self.forbidden(line)]
        expected = []
        for line in lines:
            found = json.loads(line)
            if found["id"] in self.model.rows:
                continue
            names = (
                "content",
                "importance",
                "user_id",
                "session_id",
                "key",
                "idempotency_key",
                "deduplicate",
            )
            words = {name: found.get(name) for name in names} | {"timestamp_s": found.get("timestamp")}
            words |= {"namespace": tuple(found.get("namespace", ())), "tags": tuple(found.get("tags", ()))}
            words |= {"embedding": "any" if "embedding_base64" in found else None, "ttl_s": None}
            expiry = object() if "expires_at" in found else None
            outcome = self.model.expected(found["agent_id"], words, expiry)
            name = {"new": f"new {found['id']}", "existing": min(outcome[-1])}.get(outcome[0], outcome[-1])
            if outcome[0] != "refused":
                self.model.stored(found["agent_id"], words, expiry, outcome, name, 0)
            if outcome[0] in ("new", "replaced"):
                expected.append((name, found))
        report = system.import_(lines, new_ids=True)
        assert report == len(expected), (report, expected)
        for name, found in expected:
            (entry,) = (one for one in system.query(found["agent_id"]) if one.timestamp_s == found["timestamp"])
            row = self.model.rows.pop(name)
            assert entry.id == name or name.startswith("new ")
            self.model.rows[entry.id] = replace(row, id=entry.id, version=entry.version)
            self.model.requests = {
                request: entry.id if memory_id == name else memory_id
                for request, memory_id in self.model.requests.items()
            }

    @rule(which=SYSTEM)
    def reopen(self, which):
        self.systems[which].close()
        self.systems[which] = self.place.open()
        self.place.wait_for_redis(self.systems)

    @precondition(lambda self: self.place.has_redis)
    @rule()
    def lose_redis_data(self):
        self.settle()
        self.place.flush(self.systems[0])

    @invariant()
    def counts_are_those_of_the_model(self):
        if not any(row.is_dirty for row in self.model.rows.values()):
            for agent_id in AGENTS:
                assert self.systems[0].count(agent_id) == len(self.model.matching(agent_id, {}))


class Place:
    """A folder with SQLite, or a PostgreSQL schema, with or without Redis."""

    has_redis = False

    def __init__(self, folder, *, redis=None, store=None):
        self.folder, self.redis, self.store = Path(folder), redis, store
        self.has_redis = redis is not None
        self._fresh = itertools.count()

    def make(self):
        self.home = self.folder / f"run{time.monotonic_ns()}"

    def open(self):
        return MemorySystem(self.home, redis=self.redis, store=self.store, config=SETTINGS).open()

    def fresh(self):
        """A system of its own, for imports."""
        return MemorySystem(
            self.folder / f"fresh{next(self._fresh)}-{time.monotonic_ns()}", redis=None, config=SETTINGS
        )

    def flush(self, system):
        system._lifecycle.parts.redis.tier.client.flushall()

    def wait_for_redis(self, systems):
        deadline = time.monotonic() + PATIENCE_S
        while self.has_redis and not all(system.check_health() for system in systems):
            assert time.monotonic() < deadline, "Redis did not come back"
            time.sleep(0.02)

    def holding(self, marks):
        """The files that hold any of the marks."""
        wanted = [mark.encode() for mark in marks]
        found = []
        for path in self.home.rglob("*") if wanted else ():
            with contextlib.suppress(OSError):  # sockets, and what has just gone
                data = path.read_bytes() if path.is_file() else b""
                found += [f"{path.name}: {mark.decode()}" for mark in wanted if mark in data]
        return found

    def remove(self):
        """What is left of a run is removed with the test's folder."""
