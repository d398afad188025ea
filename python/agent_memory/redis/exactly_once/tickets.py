"""What is remembered of a connection and of each write on it, so that a lost answer can be resolved later.

Tickets that are kept in a journal are *held*: the marker of a held ticket is not deleted, since a successor that finds the
journal after this process was killed reads it. A hold that is never released costs one key until that expires.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import NoScriptError, ResponseError

from agent_memory._core import monotonic_ns, pack_command, verdict_of_marker, verdict_of_offset
from agent_memory._enums import NamedIntEnum
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.exactly_once.settings import Level

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

__all__ = ["GATE_SCRIPT", "MISSING", "Marker", "NextStep", "Stream", "Ticket", "Verdict", "Wrapped", "adopt"]

MARKER_BITS: Final = 65_536
"""Writes that share one marker, which is then 8 KiB; the next ones get a new key."""
MARKER_LIFE_SHARE: Final = 0.5
"""The share of its time to live during which a marker takes new writes."""
MISSING: Final = object()
"""There is no reply."""

_MULTI: Final = pack_command(("MULTI",))
_EXEC: Final = pack_command(("EXEC",))
_REPLIES_OF_TRANSACTION: Final = 4  # of MULTI, the write, SETBIT and EXEC

GATE_SCRIPT: Final = """\
if redis.call('GETBIT', KEYS[1], 0) == 0 then return redis.error_reply('NOGATE the marker is gone') end
if redis.call('GETBIT', KEYS[1], ARGV[2]) == 1 then return redis.error_reply('ONCE already executed') end
local now = redis.call('TIME')
if tonumber(now[1]) * 1000000 + tonumber(now[2]) > tonumber(ARGV[1]) then
  return redis.error_reply('TOOLATE ' .. now[1] .. ' ' .. now[2])
end
if ARGV[3] == '3' then redis.setresp(3) end
local reply = redis.pcall(unpack(ARGV, 4))
if type(reply) == 'table' and reply.err then return reply end
redis.call('SETBIT', KEYS[1], ARGV[2], 1)
return reply
"""
"""KEYS: the marker. ARGV: not after (microseconds of the server's clock), the bit, the protocol, the command's words."""
GATE_SHA: Final = hashlib.sha1(GATE_SCRIPT.encode(), usedforsecurity=False).hexdigest().encode()


class Verdict(NamedIntEnum):
    """What is known of a write whose connection is fenced; the core has the same numbers."""

    NOT_APPLIED = 0
    """It was not executed and never will be."""
    APPLIED = 1
    """It was executed."""
    UNRESOLVABLE = 2
    """Nothing tells."""


class NextStep(NamedIntEnum):
    """What becomes of a command whose answer was lost; the core has the same numbers."""

    RESEND = 0
    """Send it again."""
    DONE = 1
    """It was executed; only its answer is lost."""
    DEAD_LETTER = 2
    """The outcome cannot be resolved."""
    WAIT = 3
    """Not known yet."""


class Marker:
    """One key with a bit for each write; its first bit says that it is the one that was made here."""

    __slots__ = ("born_ns", "holds", "key", "outstanding", "stale_markers", "used")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.holds: set[tuple[int, int]] = set()
        """The holders of its bits; a set, whose methods need no lock."""
        self.stale_markers: deque[bytes] | None = None
        """Where its key goes when no holder is left; None while it is not done with."""
        self.born_ns = monotonic_ns()
        self.used = 1
        self.outstanding = 0

    @classmethod
    def make(cls, prefix: str) -> Marker:
        """A new one, with a name that no other has."""
        return cls(f"{prefix}{secrets.token_hex(12)}".encode())

    def creation(self, ttl_s: int) -> bytes:
        """The packed command that creates it."""
        return pack_command((b"SET", self.key, b"\x80", b"EX", ttl_s))


class Ticket:
    """One write: where it went and what will tell whether it was executed.

    `verdict` is None as long as that is not known. Set once, by the thread or task that resolves; may be read by any.
    """

    __slots__ = ("_token", "_watchers", "bit", "end_bytes", "marker", "reply", "stream", "verdict")

    def __init__(self, stream: Stream, marker: Marker | None, bit: int) -> None:
        """Made by the transport, of a `stream`, its `marker` and the `bit` of the write there."""
        self.stream = stream
        self.marker = marker
        self.bit = bit
        self.end_bytes: int | None = None
        """Where the write ends in its connection's stream, counted as the server counts."""
        self.verdict: Verdict | None = None
        self.reply: Any = MISSING
        """The reply, where it came after its caller had given up."""
        self._watchers: list[Callable[[], object]] = []
        self._token: bytes | None = None

    @property
    def token(self) -> bytes:
        """`record()` as bytes."""
        if self._token is None:
            self._token = json.dumps(self.record(), sort_keys=True).encode()
        return self._token

    def hold(self, by: object) -> None:
        """For the recovery queue: `by` keeps this ticket where a later process will find it: its marker has to stay."""
        if self.marker is not None:
            self.marker.holds.add((id(by), self.bit))

    def release(self, by: object) -> None:
        """For the recovery queue: `by` does not keep it any more."""
        marker = self.marker
        if marker is not None:
            marker.holds.discard((id(by), self.bit))
            if marker.stale_markers is not None and not marker.holds:
                marker.stale_markers.append(marker.key)

    def conclude(self, verdict: Verdict, reply: Any = MISSING) -> None:
        """For the transport: what became of the write is known, a `verdict`, and its `reply` where that came."""
        if self.verdict is not None:
            return
        self.reply = reply
        self.verdict = verdict
        if self.marker is not None:
            self.marker.outstanding -= 1
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher()

    def watch(self, watcher: Callable[[], object]) -> None:
        """For the package: call `watcher` once the verdict is known: at once if it is. Only for the thread that resolves."""
        if self.verdict is None:
            self._watchers.append(watcher)
        else:
            watcher()

    def record(self) -> dict[str, Any]:
        """What a journal keeps, so that another process can fence the connection and resolve the write."""
        marker = None if self.marker is None else self.marker.key.decode()
        return {**self.stream.record(), "marker": marker, "bit": self.bit}

    def conclude_by_offset(self, executed_bytes: int | None) -> None:
        """For the transport: resolve by the `executed_bytes` (bytes) that the server said of the connection's stream."""
        if self.end_bytes is None:
            self.conclude(Verdict.UNRESOLVABLE)
        else:
            self.conclude(Verdict(verdict_of_offset(executed_bytes, self.end_bytes)))

    def conclude_by_marker(self, is_the_same: bool, is_set: bool) -> None:
        """For the transport: resolve by the two bits of the marker, `is_the_same` and `is_set`."""
        self.conclude(Verdict(verdict_of_marker(is_the_same, is_set)))


class Wrapped:
    """A write as it travels: its bytes, how many replies they get, and where among them the write's own is."""

    __slots__ = ("_skip", "_transaction", "count", "packed", "ticket")

    def __init__(self, ticket: Ticket, packed: bytes, count: int, skip: int = 0, *, transaction: bool = False) -> None:
        self.ticket = ticket
        self.packed = packed
        self.count = count
        self._skip = skip
        self._transaction = transaction

    @property
    def raw_reply(self) -> int:
        """The number, from 0, of the reply that carries the write's."""
        return self.count - 1

    def unwrap(self, replies: list[Any]) -> Any:
        """The write's own reply among those of its bytes, an error reply as a value. For one command, not a transaction."""
        own = replies[self._skip :]
        if not self._transaction:
            return self._judge_gate(own[0]) if self.ticket.marker is not None else own[0]
        result = own[-1]
        if isinstance(result, Exception):
            # EXECABORT says only that some command was refused; which one, and why, was said before.
            return next((reply for reply in own if isinstance(reply, Exception)), result)
        return result[0]

    def _judge_gate(self, reply: Any) -> Any:
        """What the gate says of itself is not the command's answer."""
        if not isinstance(reply, ResponseError):
            return reply
        if isinstance(reply, NoScriptError):
            self.ticket.stream.gate_is_loaded = False  # the next one brings it along
            return RedisUnavailableError("the server had lost the script of the gate", outcome=Outcome.NOT_SENT)
        if str(reply).startswith("TOOLATE"):
            # Where the server's clock has jumped, later writes shall not be late as well.
            _, seconds, microseconds = str(reply).split()
            self.ticket.stream.set_clock(int(seconds) * 1_000_000 + int(microseconds))
            return RedisTimeoutError("the gate was closed: not executed in time", outcome=Outcome.NOT_SENT)
        return reply

    def unwrap_transaction(self, replies: list[Any]) -> list[Any]:
        """The replies of a caller's own MULTI … EXEC without what was added to it."""
        own = replies[self._skip :]
        if self._transaction:
            marking = own.pop(-2)
            if isinstance(own[-1], list):
                own[-1].pop()
            elif isinstance(marking, Exception) and not any(isinstance(reply, Exception) for reply in own[:-1]):
                own[-1] = marking
        return own


class Stream:
    """One greeted connection as the server knows it, and what is open on it."""

    __slots__ = (
        "__weakref__",
        "_clock_at_ns",
        "_clock_us",
        "_lock",
        "_retired",
        "address",
        "allowance_us",
        "client_id",
        "executed_bytes",
        "fenced",
        "first_byte",
        "gate_is_loaded",
        "hang_up",
        "keeper",
        "level",
        "marker",
        "not_after_us",
        "open_tickets",
        "prefix",
        "protocol",
        "run_id",
        "ttl_s",
    )

    def __init__(self, run_id: str, client_id: int, address: str, level: Level) -> None:
        self.run_id = run_id
        self.client_id = client_id
        self.address = address
        self.level = level
        self.protocol = 3
        self.prefix = ""
        self.ttl_s = 0
        self.marker: Marker | None = None
        self.gate_is_loaded = True
        self.first_byte = 0
        """What the server has received before the first byte that our transport counts."""
        self.allowance_us = 0
        """How much later than its sending any write on it may be executed, at the level of the gate."""
        self.not_after_us = 0
        """The latest time, of the server's clock, that any write on it was given."""
        self.fenced = False
        self.executed_bytes: int | None = None
        self.hang_up: Callable[[], object] | None = None
        """Closes our end, where that has to wait for the fence: what the server knows of a connection goes with it."""
        self.keeper: Callable[[], bool] | None = None
        """Whether the owner of the lost connection still resolves it; None before it was lost."""
        self.open_tickets: list[Ticket] = []
        """Writes that lost their answer; as many as were in flight when the connection ended."""
        self._clock_us = 0
        self._clock_at_ns = 0
        self._retired: list[Marker] = []
        self._lock = threading.Lock()

    def set_clock(self, server_us: int) -> None:
        """The server's clock is at `server_us` now."""
        self._clock_us = server_us
        self._clock_at_ns = monotonic_ns()

    def record(self) -> dict[str, Any]:
        """What fences it from another process."""
        return {
            "run_id": self.run_id,
            "client_id": self.client_id,
            "address": self.address,
            "level": int(self.level),
            "not_after_us": self.not_after_us,
            "allowance_us": self.allowance_us,
        }

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Stream:
        """The connection that `record()` described. Raises KeyError, TypeError or ValueError for what is none."""
        stream = cls(
            str(record["run_id"]), int(record["client_id"]), str(record["address"]), Level(int(record["level"]))
        )
        stream.not_after_us = int(record["not_after_us"])
        stream.allowance_us = int(record["allowance_us"])
        return stream

    def has_been_left(self, here: Stream) -> None:
        """Its process is dead, and may have written until just now; `here` knows the server's clock."""
        if self.level is Level.GATE:
            self.not_after_us = max(self.not_after_us, here._clock_us + self.allowance_us)

    # --- writes ---------------------------------------------------------------------------------------------------

    def wrap(self, packed: bytes, timeout_s: float | None, *, is_script: bool = False) -> Wrapped:
        """One command, made so that it can be resolved; it is to be executed within `timeout_s`. Only its owner may call."""
        if self.level is Level.MARKER:
            prefix, skip, ticket, setbit = self._marked()
            body = b"".join((*prefix, _MULTI, packed, setbit, _EXEC))
            return Wrapped(ticket, body, skip + _REPLIES_OF_TRANSACTION, skip, transaction=True)
        if self.level is Level.GATE and not is_script:
            prefix, skip, ticket, _ = self._marked()
            return Wrapped(ticket, b"".join((*prefix, self._gated(packed, ticket, timeout_s))), skip + 1, skip)
        return Wrapped(Ticket(self, None, 0), packed, 1)

    def wrap_transaction(self, packed: bytes, count: int) -> Wrapped:
        """The same for a caller's MULTI … EXEC, which gets `count` replies."""
        if self.level is Level.MARKER:
            prefix, skip, ticket, setbit = self._marked()
            body = b"".join((*prefix, packed[: -len(_EXEC)], setbit, _EXEC))
            return Wrapped(ticket, body, skip + count + 1, skip, transaction=True)
        return Wrapped(Ticket(self, None, 0), packed, count)

    def _marked(self) -> tuple[list[bytes], int, Ticket, bytes]:
        """What goes before a marked write, how many replies that gets, the write's ticket, and the command that marks it."""
        prefix = self.fresh_marker()
        marker = self.marker
        assert marker is not None
        bit = marker.used
        marker.used += 1
        marker.outstanding += 1
        return prefix, len(prefix), Ticket(self, marker, bit), pack_command((b"SETBIT", marker.key, bit, 1))

    def fresh_marker(self) -> list[bytes]:
        """The commands that have to go before the next marked write: where its marker has no room for it, a new one is made."""
        marker = self.marker
        prefix: list[bytes] = []
        if marker is None or self.level not in (Level.MARKER, Level.GATE):
            return prefix
        aged = monotonic_ns() - marker.born_ns > self.ttl_s * 1e9 * MARKER_LIFE_SHARE
        if marker.used >= MARKER_BITS or aged:
            # An old marker whose writes have all been answered is not read again.
            done = [old.key for old in self._retired if not old.outstanding and not old.holds]
            self._retired = [old for old in self._retired if old.outstanding or old.holds]
            if done:
                prefix.append(pack_command((b"UNLINK", *done)))
            self._retired.append(marker)
            marker = self.marker = Marker.make(self.prefix)
            prefix.append(marker.creation(self.ttl_s))
        return prefix

    def _gated(self, packed: bytes, ticket: Ticket, timeout_s: float | None) -> bytes:
        assert ticket.marker is not None
        now_us = self._clock_us + (monotonic_ns() - self._clock_at_ns) // 1_000
        not_after_us = now_us + int((60.0 if timeout_s is None else timeout_s) * 1e6)
        self.not_after_us = max(self.not_after_us, not_after_us)
        how = (b"EVALSHA", GATE_SHA) if self.gate_is_loaded else (b"EVAL", GATE_SCRIPT)
        self.gate_is_loaded = True
        head = (*how, 1, ticket.marker.key, not_after_us, ticket.bit, self.protocol)
        count, words = packed.split(b"\r\n", 1)
        gate = pack_command(head).split(b"\r\n", 1)[1]
        return b"*%d\r\n%s%s" % (int(count[1:]) + len(head), gate, words)

    # --- the end --------------------------------------------------------------------------------------------------

    def lose(self, ticket: Ticket) -> None:
        """The answer of a write will not come any more on this connection."""
        with self._lock:
            self.open_tickets.append(ticket)

    def end(self) -> None:
        """Close our end, if that has been waiting."""
        hang_up, self.hang_up = self.hang_up, None
        if hang_up is not None:
            hang_up()

    def retire(self, marker: Marker) -> None:
        """A marker that takes no more writes, and is deleted once everything is resolved."""
        self._retired.append(marker)

    def markers(self, stale_markers: deque[bytes]) -> list[bytes]:
        """The keys that may be deleted now that everything is resolved; those that are held go to `stale_markers` later."""
        keys = []
        for marker in (*self._retired, self.marker):
            if marker is not None:
                marker.stale_markers = stale_markers
                if not marker.holds:
                    keys.append(marker.key)
        return keys


def adopt(records: list[dict[str, Any]]) -> tuple[list[Stream], list[Ticket]]:
    """The connections and writes that `Ticket.record()` described, the writes in the order of their records."""
    streams: dict[tuple[str, int], Stream] = {}
    markers: dict[str, Marker] = {}
    tickets = []
    for record in records:
        place = (str(record["run_id"]), int(record["client_id"]))
        stream = streams.get(place)
        if stream is None:
            stream = streams[place] = Stream.of_record(record)
        stream.not_after_us = max(stream.not_after_us, int(record["not_after_us"]))
        name = record["marker"]
        marker = None
        if name is not None:
            marker = markers.get(name)
            if marker is None:
                marker = markers[name] = Marker(str(name).encode())
                stream.retire(marker)
            marker.outstanding += 1
        ticket = Ticket(stream, marker, int(record["bit"]))
        stream.lose(ticket)
        tickets.append(ticket)
    return list(streams.values()), tickets
