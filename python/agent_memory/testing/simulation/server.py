"""The simulated server: a store of strings, lists and hashes that speaks RESP, and dies, stalls and forgets on request.

It executes one command after the other, each in a turn of its own, so that a fault may strike between any two: also between
MULTI and EXEC. Known are the commands in `COMMANDS`; others are answered as an old server answers what it does not know.
"""

from __future__ import annotations

import collections
import itertools
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _check
from agent_memory.redis.exactly_once.tickets import GATE_SCRIPT, GATE_SHA

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable

    from agent_memory.testing.simulation.network import Link

__all__ = ["COMMANDS", "SimulatedServer"]

SNAPSHOT_EVERY: Final = 4
"""Writes between two copies of the data: as many may be lost by a failover."""
TURN_S: Final = 0.00002
"""How long a command takes."""


class _Status(str):
    __slots__ = ()


class _Error(Exception):
    """An error reply."""


_OK: Final = _Status("OK")
_QUEUED: Final = _Status("QUEUED")


class _End:
    """The server's end of one connection."""

    def __init__(self, link: Link, number: int) -> None:
        self.link = link
        self.number = number
        self.address = f"10.0.0.{number % 250}:{40_000 + number % 20_000}"
        self.buffer = bytearray()
        self.commands: collections.deque[tuple[list[bytes], int]] = collections.deque()
        self.received_bytes = 0
        self.queued_bytes = 0
        self.protocol = 2
        self.transaction: list[list[bytes]] | None = None
        self.aborted = False
        self.working = False


class SimulatedServer:
    """One server; `data` is what it holds, by key: bytes, a list of bytes, or a dict of bytes.

    - `on_command(words)` is called for each command, `on_write(words)` for each write that has been executed.
    - `forbidden` names commands that are answered NOPERM ("CLIENT KILL"), `honours_kill=False` makes CLIENT KILL a lie,
      `honours_setbit=False` SETBIT.
    - `product` ("valkey", "redis") decides whether CLIENT LIST counts bytes.

    For one thread, as the simulation is.
    """

    def __init__(self, dice: random.Random, *, product: str = "valkey") -> None:
        """Made by `Simulation(product="valkey")`."""
        self.data: dict[bytes, Any] = {}
        self.expires_s: dict[bytes, float] = {}
        self.up = True
        self.product = product
        self.forbidden: set[str] = set()
        self.honours_kill = True
        self.honours_setbit = True
        self.on_command: Callable[[list[bytes]], object] | None = None
        self.on_write: Callable[[list[bytes]], object] | None = None
        self.wall_offset_s = 1_700_000_000.0
        """What the server's wall clock shows beyond the loop's time."""
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # set by the simulation
        self._dice = dice
        self._numbers = itertools.count(1)
        self._ends: dict[int, _End] = {}  # by the number of their link
        self._scripts: set[bytes] = set()
        self._stalled_until_s = 0.0
        self._writes = 0
        self._snapshot: tuple[dict[bytes, Any], dict[bytes, float]] = ({}, {})
        self._new_process()

    def _new_process(self) -> None:
        self.run_id = f"{self._dice.getrandbits(160):040x}"
        self._scripts = set()

    # --- what happens to it ---------------------------------------------------------------------------------------

    def crash(self, down_s: float, *, loses_tail: bool = False) -> None:
        """Die now and come back after `down_s` seconds; what was written last is lost where `loses_tail`.

        Raises ValueError for a time below 0.
        """
        _check.at_least("down_s", down_s, 0)
        _check.flag("loses_tail", loses_tail)
        self.up = False
        for end in list(self._ends.values()):
            end.link.at_server = False
            end.link.end_at_client(ConnectionResetError(104, "Connection reset by peer (simulated)"))
        self._ends = {}
        if loses_tail:
            self.data, self.expires_s = _copy(*self._snapshot)
        self._new_process()
        self.loop.call_later(down_s, self._come_back)

    def _come_back(self) -> None:
        self.up = True

    def fail_over(self) -> None:
        """Another process answers from now on, which has not got the last writes."""
        self.crash(0.0, loses_tail=True)

    def stall(self, seconds: float) -> None:
        """Stand still for `seconds`: nothing is executed, connections stay open. Raises ValueError below 0."""
        _check.at_least("seconds", seconds, 0)
        self._stalled_until_s = max(self._stalled_until_s, self.loop.time() + seconds)

    # --- connections ----------------------------------------------------------------------------------------------

    def accept(self, link: Link) -> None:
        """For the network: a client has connected by `link`."""
        self._ends[link.number] = _End(link, next(self._numbers))

    def forget(self, link: Link) -> None:
        """For the network: the connection `link` is gone, and with it what was not executed yet."""
        self._ends.pop(link.number, None)

    def receive(self, link: Link, data: bytes) -> None:
        """For the network: `data` has arrived by `link`."""
        end = self._ends.get(link.number)
        if end is None:
            return
        end.received_bytes += len(data)
        end.buffer += data
        while (parsed := _parse(end.buffer)) is not None:
            words, size = parsed
            del end.buffer[:size]
            end.commands.append((words, size))
            end.queued_bytes += size
        if end.commands and not end.working:
            end.working = True
            self.loop.call_later(TURN_S, self._work, end)

    def _work(self, end: _End) -> None:
        if self._ends.get(end.link.number) is not end:
            return
        wait_s = self._stalled_until_s - self.loop.time()
        if wait_s > 0:
            self.loop.call_later(wait_s, self._work, end)
            return
        words, size = end.commands.popleft()
        end.queued_bytes -= size
        if self.on_command is not None:
            self.on_command(words)
        reply = self._answer(end, words)
        if self._writes >= SNAPSHOT_EVERY:  # here, because a transaction is copied as a whole or not at all
            self._writes = 0
            self._snapshot = _copy(self.data, self.expires_s)
        if self._ends.get(end.link.number) is end:
            end.link.send_down(_encode(reply, end.protocol))
        if end.commands:
            self.loop.call_later(TURN_S, self._work, end)
        else:
            end.working = False

    # --- commands -------------------------------------------------------------------------------------------------

    def _answer(self, end: _End, words: list[bytes]) -> Any:
        name = words[0].decode().upper()
        try:
            full = f"{name} {words[1].decode().upper()}" if name == "CLIENT" and len(words) > 1 else name
            if full in self.forbidden:
                raise _Error(f"NOPERM User default has no permissions to run the '{full.lower()}' command")
            if name == "MULTI":
                end.transaction, end.aborted = [], False
                return _OK
            if name == "EXEC":
                return self._execute_transaction(end)
            if end.transaction is not None:
                if name not in COMMANDS:
                    raise _Error(f"ERR unknown command '{name}'")
                end.transaction.append(words)
                return _QUEUED
            return self._run(end, words)
        except _Error as error:
            if end.transaction is not None:
                end.aborted = True
            return error

    def _execute_transaction(self, end: _End) -> Any:
        transaction, end.transaction = end.transaction, None
        if transaction is None:
            raise _Error("ERR EXEC without MULTI")
        if end.aborted:
            raise _Error("EXECABORT Transaction discarded because of previous errors.")
        replies: list[Any] = []
        for words in transaction:
            try:
                replies.append(self._run(end, words))
            except _Error as error:
                replies.append(error)
        return replies

    def _run(self, end: _End, words: list[bytes]) -> Any:
        name = words[0].decode().upper()
        command = COMMANDS.get(name)
        if command is None:
            raise _Error(f"ERR unknown command '{name}'")
        self._expire()
        try:
            reply = command(self, end, words[1:])
        except (ValueError, IndexError):
            raise _Error("ERR value is not an integer or out of range") from None
        except (TypeError, AttributeError, KeyError):
            raise _Error("WRONGTYPE Operation against a key holding the wrong kind of value") from None
        if name in _WRITES:
            self._writes += 1
            if self.on_write is not None:
                self.on_write(words)
        return reply

    def _expire(self) -> None:
        now_s = self.loop.time()
        for key in [key for key, at_s in self.expires_s.items() if at_s <= now_s]:
            self._delete([key])

    def _delete(self, keys: list[bytes]) -> int:
        for key in keys:
            self.expires_s.pop(key, None)
        return sum(self.data.pop(key, None) is not None for key in keys)

    def _expire_in(self, key: bytes, seconds: float) -> int:
        if key not in self.data:
            return 0
        self.expires_s[key] = self.loop.time() + seconds
        return 1

    def _set(self, _end: _End, words: list[bytes]) -> Any:
        key, value, *rest = words
        options = [option.upper() for option in rest]
        if (b"NX" in options and key in self.data) or (b"XX" in options and key not in self.data):
            return None
        self.data[key] = value
        self.expires_s.pop(key, None)
        for unit, factor in ((b"EX", 1.0), (b"PX", 0.001)):
            if unit in options:
                self._expire_in(key, int(options[options.index(unit) + 1]) * factor)
        return _OK

    def _increment(self, key: bytes, by: int) -> int:
        value = int(self.data.get(key, b"0")) + by
        self.data[key] = b"%d" % value
        return value

    def _push(self, key: bytes, values: list[bytes], *, left: bool) -> int:
        target: list[bytes] = self.data.setdefault(key, [])
        for value in values:
            target.insert(0 if left else len(target), value)
        return len(target)

    def _hset(self, _end: _End, words: list[bytes]) -> int:
        fields = self.data.setdefault(words[0], {})
        before = len(fields)
        fields.update(zip(words[1::2], words[2::2], strict=True))
        return len(fields) - before

    def _setbit(self, _end: _End, words: list[bytes]) -> int:
        bit = int(words[1])
        value = bytearray(self.data.get(words[0], b""))
        value.extend(bytes(max(0, bit // 8 + 1 - len(value))))
        mask = 0x80 >> (bit % 8)
        before = bool(value[bit // 8] & mask)
        if self.honours_setbit:
            value[bit // 8] = value[bit // 8] | mask if words[2] == b"1" else value[bit // 8] & ~mask
        self.data[words[0]] = bytes(value)
        return int(before)

    def _getbit(self, _end: _End, words: list[bytes]) -> int:
        bit, value = int(words[1]), self.data.get(words[0], b"")
        return int(bit // 8 < len(value) and bool(value[bit // 8] & (0x80 >> (bit % 8))))

    def _time(self, *_: Any) -> list[bytes]:
        now_us = round((self.loop.time() + self.wall_offset_s) * 1e6)
        return [b"%d" % (now_us // 1_000_000), b"%d" % (now_us % 1_000_000)]

    def _script(self, end: _End, words: list[bytes]) -> Any:
        """The script of exactly once's gate, which is the only one that is known."""
        if words[0] not in (GATE_SCRIPT.encode(), GATE_SHA):
            raise _Error("NOSCRIPT No matching script. Please use EVAL.")
        if words[0] == GATE_SHA and GATE_SHA not in self._scripts:
            raise _Error("NOSCRIPT No matching script. Please use EVAL.")
        self._scripts.add(GATE_SHA)
        marker, not_after_us, bit, _, *command = words[2:]
        if not self._getbit(end, [marker, b"0"]):
            raise _Error("NOGATE the marker is gone")
        if self._getbit(end, [marker, bit]):
            raise _Error("ONCE already executed")
        seconds, microseconds = self._time()
        if int(seconds) * 1_000_000 + int(microseconds) > int(not_after_us):
            raise _Error(f"TOOLATE {seconds.decode()} {microseconds.decode()}")
        reply = self._run(end, command)
        self._setbit(end, [marker, bit, b"1"])
        return reply

    def _client(self, end: _End, words: list[bytes]) -> Any:
        what = words[0].upper()
        if what == b"ID":
            return end.number
        if what == b"INFO":
            return self._describe(end, current=True)
        if what == b"LIST":
            wanted = int(words[2]) if len(words) > 2 else None
            return b"".join(self._describe(one) for one in self._ends.values() if wanted in (None, one.number))
        if what == b"KILL":
            return self._kill(end, int(words[2]))
        return _OK

    def _kill(self, asker: _End, number: int) -> int:
        # As Redis 6.2 does: 0 is every client except the asking one.
        struck = [end for end in self._ends.values() if end.number == number or (not number and end is not asker)]
        for end in struck if self.honours_kill else ():
            end.link.end_at_server()
            end.link.end_at_client(None)
        return len(struck)

    def _describe(self, end: _End, *, current: bool = False) -> bytes:
        unparsed = 0 if current else end.queued_bytes + len(end.buffer)
        count = f" tot-net-in={end.received_bytes}" if self.product == "valkey" else ""
        return f"id={end.number} addr={end.address} flags=N qbuf={unparsed}{count}\n".encode()

    def _info(self, *_: Any) -> bytes:
        version = "valkey_version:9.1.0\r\n" if self.product == "valkey" else ""
        return f"redis_version:7.2.4\r\n{version}run_id:{self.run_id}\r\nmaxmemory_policy:noeviction\r\n".encode()

    def _hello(self, end: _End, words: list[bytes]) -> dict[bytes, Any]:
        end.protocol = int(words[0]) if words else end.protocol
        return {
            b"server": b"redis",
            b"version": b"7.2.4",
            b"proto": end.protocol,
            b"id": end.number,
            b"mode": b"standalone",
        }


COMMANDS: Final[dict[str, Any]] = {
    "PING": lambda *_: _Status("PONG"),
    "ECHO": lambda s, e, w: w[0],
    "HELLO": SimulatedServer._hello,
    "AUTH": lambda *_: _OK,
    "SELECT": lambda *_: _OK,
    "CLIENT": SimulatedServer._client,
    "INFO": SimulatedServer._info,
    "TIME": SimulatedServer._time,
    "GET": lambda s, e, w: _text(s.data.get(w[0])),
    "SET": SimulatedServer._set,
    "SETNX": lambda s, e, w: int(s._set(e, [*w, b"NX"]) is not None),
    "MSET": lambda s, e, w: s.data.update(zip(w[::2], w[1::2], strict=True)) or _OK,
    "MGET": lambda s, e, w: [s.data.get(key) for key in w],
    "DEL": lambda s, e, w: s._delete(w),
    "UNLINK": lambda s, e, w: s._delete(w),
    "EXISTS": lambda s, e, w: sum(key in s.data for key in w),
    "KEYS": lambda s, e, w: [key for key in s.data if w[0] == b"*" or key.startswith(w[0].rstrip(b"*"))],
    "FLUSHALL": lambda s, e, w: s._delete(list(s.data)) * 0 or _OK,
    "APPEND": lambda s, e, w: len(s.data.__setitem__(w[0], s.data.get(w[0], b"") + w[1]) or s.data[w[0]]),
    "INCR": lambda s, e, w: s._increment(w[0], 1),
    "INCRBY": lambda s, e, w: s._increment(w[0], int(w[1])),
    "DECR": lambda s, e, w: s._increment(w[0], -1),
    "DECRBY": lambda s, e, w: s._increment(w[0], -int(w[1])),
    "EXPIRE": lambda s, e, w: s._expire_in(w[0], int(w[1])),
    "PEXPIRE": lambda s, e, w: s._expire_in(w[0], int(w[1]) / 1e3),
    "PERSIST": lambda s, e, w: int(s.expires_s.pop(w[0], None) is not None),
    "TTL": lambda s, e, w: (
        round(s.expires_s[w[0]] - s.loop.time()) if w[0] in s.expires_s else -1 - (w[0] not in s.data)
    ),
    "LPUSH": lambda s, e, w: s._push(w[0], w[1:], left=True),
    "RPUSH": lambda s, e, w: s._push(w[0], w[1:], left=False),
    "LLEN": lambda s, e, w: len(s.data.get(w[0], [])),
    "LRANGE": lambda s, e, w: s.data.get(w[0], [])[int(w[1]) : (int(w[2]) + 1) or None],
    "HSET": SimulatedServer._hset,
    "HGET": lambda s, e, w: s.data.get(w[0], {}).get(w[1]),
    "HGETALL": lambda s, e, w: dict(s.data.get(w[0], {})),
    "HDEL": lambda s, e, w: sum(s.data.get(w[0], {}).pop(field, None) is not None for field in w[1:]),
    "SETBIT": SimulatedServer._setbit,
    "GETBIT": SimulatedServer._getbit,
    "EVAL": SimulatedServer._script,
    "EVALSHA": SimulatedServer._script,
}
"""What the server knows, beside MULTI and EXEC."""
_WRITES: Final = frozenset(
    """
    SET SETNX MSET DEL UNLINK FLUSHALL APPEND INCR INCRBY DECR DECRBY EXPIRE PEXPIRE PERSIST LPUSH RPUSH HSET HDEL SETBIT
    """.split()
)


def _copy(data: dict[bytes, Any], expires_s: dict[bytes, float]) -> tuple[dict[bytes, Any], dict[bytes, float]]:
    """A copy as deep as commands reach: values are bytes, lists of them, or dicts of them."""
    return {key: value if isinstance(value, bytes) else value.copy() for key, value in data.items()}, dict(expires_s)


def _text(value: Any) -> bytes | None:
    if value is not None and not isinstance(value, bytes):
        raise TypeError
    return value


def _parse(buffer: bytearray) -> tuple[list[bytes], int] | None:
    """The first command of a buffer and its size; None while it is not complete."""
    end = buffer.find(b"\r\n")
    if end < 0:
        return None
    words = []
    position = end + 2
    for _ in range(int(buffer[1:end])):
        end = buffer.find(b"\r\n", position)
        if end < 0:
            return None
        size = int(buffer[position + 1 : end])
        position = end + 2 + size + 2
        if len(buffer) < position:
            return None
        words.append(bytes(buffer[end + 2 : end + 2 + size]))
    return words, position


def _encode(reply: Any, protocol: int) -> bytes:
    if isinstance(reply, list):
        return b"*%d\r\n%s" % (len(reply), b"".join(_encode(one, protocol) for one in reply))
    if isinstance(reply, dict):
        flat = [_encode(one, protocol) for pair in reply.items() for one in pair]
        head = b"%%%d\r\n" % len(reply) if protocol == 3 else b"*%d\r\n" % len(flat)
        return head + b"".join(flat)
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    if reply is None:
        return b"_\r\n" if protocol == 3 else b"$-1\r\n"
    sign = ":" if isinstance(reply, int) else "-" if isinstance(reply, _Error) else "+"
    return f"{sign}{reply}\r\n".encode()
