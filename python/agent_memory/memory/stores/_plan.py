"""The decision of a write, pure: no SQL, no clock of its own, no chance.

An engine begins a transaction, locks the rows of the agents concerned, reads what is `Wanted`, lets the plan decide the
operations one after the other, and then writes what `Plan.changes`, `Plan.labels`, `Plan.requests` and `Plan.agents` hold,
once per row however often it was written. Nothing is left to constraints; they only catch mistakes.

Order of the questions a put is asked
1. Is it of a time before its agent or user was erased?                      ERASED
2. Is its id unknown, and its user's idempotency key known, or, without a key, equal content of the same user, session,
   namespace and expiry, and no version of its own?                          EXISTING
3. Is its id unknown, and its user's key in use? An assigned version goes over that memory; of two with versions of their
   own the greater stamp keeps the key, and the other becomes a tombstone. An expired holder becomes one in any case.
4. Is a tombstone there, or for an assigned version an expired memory?       DELETED
5. Does `if_version` hold?                                                   CONFLICT, ABSENT
6. Does it beat what is held (R1)? An assigned version always does.          STALE
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from agent_memory.memory._copy import Copy, accepted, tombstone_of
from agent_memory.memory._copy_rules import MAX_VERSION, Stamp, beats, is_expired, next_version
from agent_memory.memory.stores.operations import (
    AgentState,
    Delete,
    Move,
    Operation,
    Put,
    WriteResult,
    WriteStatus,
)

# Looking a member of an enum up takes longer than a call.
_APPLIED: Final = WriteStatus.APPLIED

__all__ = ["Agent", "Change", "ChangeKind", "Held", "Plan", "Wanted"]


@dataclass(slots=True)
class Agent:
    """The row of an agent while a transaction holds it. `number` stands for its name in other tables; 0: not there yet."""

    name: str
    number: int = 0
    seq: int = 0
    last_version: int = 0
    generation: int = 1
    purged_seq: int = 0
    erased_seq: int = 0
    erased_version: int = 0
    counts: list[int] = field(default_factory=lambda: [0, 0, 0])
    touched_us: int = 0
    changed: bool = False

    def state(self) -> AgentState:
        """The row as its readers see it."""
        short, intermediate, long = self.counts
        return AgentState(
            self.name,
            self.seq,
            self.last_version,
            self.generation,
            self.purged_seq,
            self.erased_seq,
            (short, intermediate, long),
            self.touched_us,
        )


class Held(NamedTuple):
    """What the plan must know of a row that is there; to move it, what has no default."""

    row: int
    id: str
    agent_id: str
    version: int
    writer: int
    deleted: int
    tier: int
    seq: int
    created_us: int = 0
    namespace: str = ""
    user_id: str = ""
    key: str = ""
    idempotency_key: str = ""
    content_hash: bytes = b""
    tags: str = ""
    session_id: str = ""
    expires_at: float | None = None


KeyName: TypeAlias = tuple[str, str, str, str]
"""Agent, user, namespace, key: what a caller's key is unique in, and the key."""

RequestName: TypeAlias = tuple[str, str, str]
"""Agent, user, idempotency key."""

Twin: TypeAlias = tuple[str, bytes, str, float | None]
"""Agent, content hash (of user, namespace and content), session, expiry: what makes memories without a key duplicates."""


class ChangeKind(enum.Enum):
    """How a row changes."""

    INSERT = 1
    REPLACE = 2
    """All columns; the row number and the access statistics stay."""
    BURY = 3
    """It becomes a tombstone: its payload goes."""


_INSERT: Final = ChangeKind.INSERT


class Change(NamedTuple):
    """The last state of one row in this transaction. `held` is the row as it was before it, None of an insert.

    Tier and seq of `held` may be those of a move before.
    """

    kind: ChangeKind
    copy: Copy
    held: Held | None


class Wanted(NamedTuple):
    """What must be read before a plan can decide these operations."""

    agents: list[str]
    ids: list[str]
    keys: list[KeyName]
    idempotency_keys: list[RequestName]
    hashes: list[Twin]
    users: list[str]
    """Of the copies to be put; those of the rows held are wanted, too."""

    @classmethod
    def of(cls, operations: Sequence[Operation]) -> Wanted:
        """Of these operations; each list without duplicates, agents sorted (the order in which rows are locked)."""
        agents: set[str] = set()
        ids: dict[str, None] = {}
        keys: dict[KeyName, None] = {}
        idempotency_keys: dict[RequestName, None] = {}
        hashes: dict[Twin, None] = {}
        users: dict[str, None] = {}
        for operation in operations:
            if not isinstance(operation, Put):
                agents.add(operation.agent_id)
                ids[operation.id] = None
                continue
            copy = operation.copy
            agents.add(copy.agent_id)
            ids[copy.id] = None
            if copy.key:
                keys[_key_name(copy)] = None
            if copy.idempotency_key:
                idempotency_keys[_request_name(copy)] = None
            if copy.content_hash and not copy.key:
                hashes[_twin(copy)] = None
            if copy.user_id:
                users[copy.user_id] = None
        return cls(sorted(agents), list(ids), list(keys), list(idempotency_keys), list(hashes), list(users))


class Plan:
    """The decisions of one transaction. The engine fills `agents` (all that `Wanted` names), `held`, the three maps to ids
    (only of rows that are not erased, and those rows must be in `held`), and `user_fences`, before it calls `decide`.
    """

    __slots__ = (
        *("_now_us", "agents", "changes", "hashes", "held", "idempotency_keys", "keys", "labels", "requests"),
        "user_fences",
    )

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us
        self.agents: dict[str, Agent] = {}
        self.held: dict[str, Held] = {}
        self.keys: dict[KeyName, str] = {}
        self.idempotency_keys: dict[RequestName, str] = {}
        self.hashes: dict[Twin, str] = {}
        self.user_fences: dict[str, int] = {}
        self.changes: dict[str, Change] = {}
        self.labels: dict[str, Held] = {}
        """Rows of which tier and seq alone change, as they are after it."""
        self.requests: dict[RequestName, tuple[str, int]] = {}
        """Id and version of the memories that further idempotency keys stand for."""

    def decide(self, operation: Operation) -> WriteResult:
        """What becomes of one operation; the rows it changes are in `changes`."""
        if isinstance(operation, Put):
            return self._put(operation)
        if isinstance(operation, Delete):
            return self._delete(operation)
        return self._move(operation)

    # --- puts ------------------------------------------------------------------------------------------------------------

    def _put(self, put: Put) -> WriteResult:
        copy = put.copy
        agent = self.agents[copy.agent_id]
        fence = self._fence(agent, copy) if self.user_fences else agent.erased_version
        if (0 < copy.generation < agent.generation) or 0 < copy.version <= fence:
            return WriteResult(WriteStatus.ERASED, copy.id)
        held = self._held(copy.id)
        request = ""
        if held is None and (copy.idempotency_key or copy.content_hash or copy.key):
            existing = self._existing(copy)
            if existing is not None:
                alive = not (existing.deleted or self._is_expired(existing))
                if copy.idempotency_key and alive:
                    self._note_request(copy, existing.id, existing.version)
                return WriteResult(WriteStatus.EXISTING, existing.id, existing.version, existed=alive)
            namesake = self._namesake(agent, copy)
            if namesake is not None:
                if copy.version == 0:
                    request = copy.idempotency_key
                    copy = copy._replace(id=namesake.id)
                    held = namesake
                elif beats(copy.stamp, _stamp(namesake)):
                    self._bury(agent, namesake, next_version(namesake.version, agent.last_version), copy.writer)
                else:
                    return self._lost_its_key(agent, copy)
        if held is None:
            if put.if_version is not None:
                return WriteResult(WriteStatus.ABSENT, copy.id)
        else:
            refused = self._refusal(put, copy, held, agent)
            if refused is not None:
                return refused
        result = self._apply(agent, copy, held, fence)
        if request:
            self._note_request(copy, result.id, result.version)
        return result

    def _note_request(self, copy: Copy, memory_id: str, version: int) -> None:
        """The call of this idempotency key is answered with this memory from now on."""
        name = _request_name(copy)
        if self.idempotency_keys.get(name) != memory_id:
            self.requests[name] = (memory_id, version)
            self.idempotency_keys[name] = memory_id

    def _refusal(self, put: Put, copy: Copy, held: Held, agent: Agent) -> WriteResult | None:  # noqa: PLR0911
        if held.agent_id != copy.agent_id:
            return WriteResult(WriteStatus.FOREIGN, copy.id)
        # A version of its own may come from before the expiry, which it may have put off.
        is_gone = held.deleted or (copy.version == 0 and self._is_expired(held))
        if is_gone or held.seq <= agent.erased_seq:
            return WriteResult(WriteStatus.DELETED, held.id, held.version)
        if held.user_id and held.version <= self.user_fences.get(held.user_id, 0):
            return WriteResult(WriteStatus.ERASED, copy.id)
        if put.create and copy.id == put.copy.id:
            return WriteResult(WriteStatus.EXISTING, held.id, held.version, existed=True)
        if put.if_version is not None and put.if_version != held.version:
            return WriteResult(WriteStatus.CONFLICT, held.id, held.version, existed=True)
        if copy.version and not beats(copy.stamp, _stamp(held)):
            return WriteResult(WriteStatus.STALE, held.id, held.version, existed=True)
        if copy.key and _key_name(copy) != _key_name(held):
            other = self._namesake(agent, copy)
            if other is not None:
                return WriteResult(WriteStatus.EXISTING, other.id, other.version, existed=True)
        return None

    def _apply(self, agent: Agent, copy: Copy, held: Held | None, fence: int) -> WriteResult:
        seq = self._advance(agent)
        version, created_us = copy.version, copy.created_us
        takes_key = held is not None and held.idempotency_key != copy.idempotency_key
        if held is not None and takes_key:
            copy = copy._replace(idempotency_key=held.idempotency_key)
        if version == 0:
            last_version = agent.last_version
            version = next_version(last_version if last_version > fence else fence, self._now_us)
            if version > MAX_VERSION:
                raise OverflowError("no version is left below 2^52")
            created_us = held.created_us if held is not None else created_us or version
        if copy.version == 0 or takes_key:
            copy = accepted(copy, version, copy.writer, created_us, seq, agent.generation)
        else:
            copy = copy._replace(seq=seq, generation=agent.generation)
        if version > agent.last_version:
            agent.last_version = version
        agent.counts[copy.tier] += 1
        if held is None:
            self._set(_INSERT, copy, None)
        else:
            agent.counts[held.tier] -= 1
            self._set(ChangeKind.REPLACE, copy, held)
        return WriteResult(_APPLIED, copy.id, version, seq, held is not None, created_us, copy)

    def _existing(self, copy: Copy) -> Held | None:
        """The memory that stands for this one, which is not there under its own id."""
        if copy.idempotency_key:
            known = self.idempotency_keys.get(_request_name(copy))
            held = self._held(known) if known is not None else None
            if held is not None and not self._is_erased(held):
                return held
        # A version of its own was acknowledged under its own id: equality, which is a hint, does not take that back.
        if copy.content_hash and not copy.key and copy.version == 0:
            known = self.hashes.get(_twin(copy))
            held = self._held(known) if known is not None else None
            if held is not None and not held.deleted and not self._is_erased(held) and not self._is_expired(held):
                return held
        return None

    def _namesake(self, agent: Agent, copy: Copy) -> Held | None:
        """The living memory of the same key, under another id. One that has expired makes room: it becomes a tombstone."""
        known = self.keys.get(_key_name(copy)) if copy.key else None
        held = self._held(known) if known is not None and known != copy.id else None
        if held is None or held.deleted or self._is_erased(held):
            return None
        if self._is_expired(held):
            self._bury(agent, held, next_version(agent.last_version, self._now_us), copy.writer)
            return None
        return held

    def _lost_its_key(self, agent: Agent, copy: Copy) -> WriteResult:
        seq = self._advance(agent)
        tombstone = tombstone_of(copy.id, agent.name, copy.version, copy.writer, seq=seq, generation=agent.generation)
        agent.last_version = max(agent.last_version, copy.version)
        self._set(_INSERT, tombstone, None)
        return WriteResult(WriteStatus.DELETED, copy.id, copy.version, seq)

    # --- deletes and moves -------------------------------------------------------------------------------------------------

    def _delete(self, delete: Delete) -> WriteResult:  # noqa: PLR0911
        agent = self.agents[delete.agent_id]
        if (0 < delete.generation < agent.generation) or 0 < delete.version <= agent.erased_version:
            return WriteResult(WriteStatus.ERASED, delete.id)
        held = self._held(delete.id)
        if held is None:
            if delete.if_version is not None or delete.held_only:
                return WriteResult(WriteStatus.ABSENT, delete.id)
            version = delete.version or next_version(agent.last_version, self._now_us)
            seq = self._advance(agent)
            agent.last_version = max(agent.last_version, version)
            tombstone = tombstone_of(
                delete.id, agent.name, version, delete.writer, seq=seq, generation=agent.generation
            )
            self._set(_INSERT, tombstone, None)
            return WriteResult(_APPLIED, delete.id, version, seq)
        if held.agent_id != delete.agent_id:
            return WriteResult(WriteStatus.FOREIGN, delete.id)
        alive = not held.deleted and held.seq > agent.erased_seq
        if delete.if_version is not None and delete.if_version != held.version:
            return WriteResult(WriteStatus.CONFLICT, held.id, held.version, existed=alive)
        is_greater = delete.version and beats(Stamp(True, delete.version, delete.writer), _stamp(held))
        if not alive and not is_greater and not delete.erases:
            return WriteResult(WriteStatus.STALE, held.id, held.version)
        version = delete.version or next_version(agent.last_version, self._now_us)
        seq = self._bury(agent, held, version, delete.writer, keeps_request=not delete.erases)
        # To its eraser what is below the fence was there, to others it was not.
        existed = alive and not self._is_expired(held) and (delete.erases or not self._is_erased(held))
        return WriteResult(_APPLIED, held.id, version, seq, existed)

    def _bury(self, agent: Agent, held: Held, version: int, writer: int, *, keeps_request: bool = True) -> int:
        seq = self._advance(agent)
        agent.last_version = max(agent.last_version, version)
        if not held.deleted and held.seq > agent.erased_seq:
            agent.counts[held.tier] -= 1
        tombstone = tombstone_of(held.id, agent.name, version, writer, seq=seq, generation=agent.generation)
        if keeps_request and held.idempotency_key and not self._is_erased(held):
            # A repetition of its create is told that it was deleted, and does not bring it back.
            tombstone = tombstone._replace(idempotency_key=held.idempotency_key, user_id=held.user_id)
        self._set(ChangeKind.BURY, tombstone, held)
        return seq

    def _move(self, move: Move) -> WriteResult:
        agent = self.agents[move.agent_id]
        held = self._held(move.id)
        if held is None or held.deleted or held.agent_id != move.agent_id or held.seq <= agent.erased_seq:
            return WriteResult(WriteStatus.ABSENT, move.id, held.version if held is not None else 0)
        if held.version != move.version:
            return WriteResult(WriteStatus.STALE, held.id, held.version, existed=True)
        if held.tier == move.tier:
            return WriteResult(_APPLIED, held.id, held.version, 0, True)
        seq = self._advance(agent)
        agent.counts[held.tier] -= 1
        agent.counts[move.tier] += 1
        before = self.changes.get(held.id)
        if before is None:
            # By position: maintenance does this for thousands.
            labelled = Held._make((*held[:6], int(move.tier), seq, *held[8:]))
            self.held[held.id] = self.labels[held.id] = labelled
        else:
            self.changes[held.id] = before._replace(copy=before.copy._replace(tier=int(move.tier), seq=seq))
        return WriteResult(_APPLIED, held.id, held.version, seq, True)

    # --- what the transaction knows --------------------------------------------------------------------------------------

    def _advance(self, agent: Agent) -> int:
        agent.changed = True
        if agent.touched_us < self._now_us:
            agent.touched_us = self._now_us
        agent.seq += 1
        return agent.seq

    def _held(self, memory_id: str) -> Held | None:
        """The row as this transaction has left it so far."""
        change = self.changes.get(memory_id)
        if change is None:
            return self.held.get(memory_id)
        copy, before = change.copy, change.held
        return Held(
            before.row if before is not None else 0,
            copy.id,
            copy.agent_id,
            copy.version,
            copy.writer,
            copy.deleted,
            copy.tier,
            copy.seq,
            copy.created_us,
            copy.namespace,
            copy.user_id,
            copy.key,
            copy.idempotency_key,
            copy.content_hash,
            copy.tags,
            copy.session_id,
            copy.expires_at,
        )

    def _is_erased(self, held: Held) -> bool:
        if held.seq <= self.agents[held.agent_id].erased_seq:
            return True
        return bool(held.user_id) and held.version <= self.user_fences.get(held.user_id, 0)

    def _is_expired(self, held: Held) -> bool:
        return held.expires_at is not None and is_expired(held.expires_at, self._now_us / 1e6)

    def _fence(self, agent: Agent, copy: Copy) -> int:
        if not self.user_fences or not copy.user_id:
            return agent.erased_version
        return max(agent.erased_version, self.user_fences.get(copy.user_id, 0))

    def _set(self, kind: ChangeKind, copy: Copy, held: Held | None) -> None:
        """Notes the row's new state over what this transaction has noted of it before, and what later operations see."""
        if self.labels:
            self.labels.pop(copy.id, None)
        before = self.changes.get(copy.id)
        if before is None and held is None and not (copy.key or copy.idempotency_key or copy.content_hash):
            self.changes[copy.id] = Change(kind, copy, None)
            return
        original = held
        if before is not None:
            original = before.held
            if before.kind is _INSERT:
                kind = _INSERT
        if held is not None and held.key and (copy.deleted or _key_name(held) != _key_name(copy)):
            self.keys.pop(_key_name(held), None)
        if held is not None and held.content_hash and _twin(held) != _twin(copy):
            self.hashes.pop(_twin(held), None)
        self.changes[copy.id] = Change(kind, copy, original)
        if copy.key:
            self.keys[_key_name(copy)] = copy.id
        if copy.idempotency_key:
            self.idempotency_keys[_request_name(copy)] = copy.id
        if copy.content_hash and not copy.key:
            self.hashes[_twin(copy)] = copy.id


def _key_name(memory: Copy | Held) -> KeyName:
    return (memory.agent_id, memory.user_id, memory.namespace, memory.key)


def _request_name(memory: Copy | Held) -> RequestName:
    return (memory.agent_id, memory.user_id, memory.idempotency_key)


def _twin(memory: Copy | Held) -> Twin:
    return (memory.agent_id, memory.content_hash, memory.session_id, memory.expires_at)


def _stamp(held: Held) -> Stamp:
    return Stamp(bool(held.deleted), held.version, held.writer)
