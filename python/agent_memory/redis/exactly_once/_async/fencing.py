"""Asks the server what exactly once has to know: the greeting of a new connection, and the fence around an old one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.exceptions import ResponseError

from agent_memory._concurrency import async_sleep
from agent_memory._core import choose_level, fence_step, monotonic_ns, pack_command, read_client_line
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.exactly_once.mode import Mode
from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.exactly_once.tickets import GATE_SCRIPT, Marker, Stream, Ticket, Verdict

__all__ = ["AsyncAsk", "async_fence", "async_greet", "kill_at_once", "note_offset"]

AsyncAsk = Callable[[list[bytes]], Awaitable[list[Any]]]
"""Sends packed commands on one connection in one piece and gives their replies, error replies as values."""

BUSY_PAUSE_S: Final = 0.05
"""How long a server that runs a long script is left alone before it is asked again."""
CLOCK_PAUSE_S: Final = 0.01
"""The least pause before the server's clock is looked at again."""
MAX_QUESTIONS: Final = 1_000
"""Bits of markers that are asked for in one round trip."""

_INFO_SERVER: Final = pack_command(("INFO", "server"))
_INFO_MEMORY: Final = pack_command(("INFO", "memory"))
# The number of no connection, to learn whether CLIENT KILL is permitted. Never 0: Redis 6.2 takes it for "any" and ends the
# connections of all other clients.
_KILL_UNKNOWN_ID: Final = pack_command(("CLIENT", "KILL", "ID", 2**63 - 1))
_TIME: Final = pack_command(("TIME",))
_CLIENT_INFO: Final = pack_command(("CLIENT", "INFO"))
_MULTI: Final = pack_command(("MULTI",))
_EXEC: Final = pack_command(("EXEC",))


async def async_greet(mode: Mode, ask: AsyncAsk, protocol: int) -> Stream:
    """Learn in one round trip where a new connection goes and what we may do there; makes its marker.

    The caller adds what it knows itself: `Stream.first_byte` is what the server had received when it answered.
    Raises what the server answers while it loads its data.
    """
    if mode.settings.asked is Level.OFFSET:
        stream = await _greet(mode, ask, protocol, None)
        if stream.level is Level.OFFSET:
            return stream  # no marker that would not be used
    return await _greet(mode, ask, protocol, Marker.make(mode.settings.marker_prefix))


async def _greet(mode: Mode, ask: AsyncAsk, protocol: int, marker: Marker | None) -> Stream:
    settings = mode.settings
    marking: list[bytes] = []
    if marker is not None:
        gate = ("EVAL", GATE_SCRIPT, 1, marker.key, 0, 1, protocol, "PING")
        marking = [marker.creation(settings.marker_ttl_s), pack_command(gate)]
    # CLIENT INFO is the last: nothing has been received behind it when it is answered.
    server, memory, kill, time, *marked, client = await ask(
        [_INFO_SERVER, _INFO_MEMORY, _KILL_UNKNOWN_ID, _TIME, *marking, _CLIENT_INFO]
    )
    for reply in (server, *marked[:1]):
        if isinstance(reply, Exception) and getattr(reply, "failure_kind", None) is not None:
            raise reply  # LOADING, READONLY, BUSY …: says nothing of what we may do once that has passed
    run_id = _field(server, "run_id")
    line = None if isinstance(client, Exception) else read_client_line(_text(client))
    known = run_id is not None and line is not None
    made = known and bool(marked) and not isinstance(marked[0], Exception)
    level = Level(
        choose_level(
            settings.asked,
            kill=known and not isinstance(kill, Exception),
            marker=made,
            # On other servers the precision of the count has not been tested.
            offset=line is not None and line[2] is not None and _field(server, "valkey_version") is not None,
            gate=made and isinstance(marked[1], ResponseError) and str(marked[1]).startswith("TOOLATE"),
        )
    )
    number, address, received_bytes, _ = line or (0, "", None, None)
    stream = Stream(run_id or "", number, address, level)
    stream.first_byte = received_bytes or 0
    stream.protocol = protocol
    stream.prefix, stream.ttl_s = settings.marker_prefix, settings.marker_ttl_s
    stream.marker = marker if made else None
    if not isinstance(time, Exception):
        stream.set_clock(_microseconds(time))
    if marker is not None or level is Level.OFFSET:
        mode.learn(level, _field(memory, "maxmemory_policy"))
    return stream


async def async_fence(mode: Mode, ask: AsyncAsk, here: Stream, old: Stream, timeout_s: float | None) -> None:
    """Fence an old connection from `here`, then resolve its writes. May be repeated; raises where it could not be done now.

    Where it can never be done, its writes become unresolvable and the old connection is released.
    """
    deadline_ns = monotonic_ns() + int((5.0 if timeout_s is None else timeout_s) * 1e9)
    same = old.run_id == here.run_id
    step = fence_step(same, old.level, here.level, old.client_id)
    if not old.fenced:
        if step == "kill":
            await _kill(ask, old, deadline_ns)
        elif step == "wait_for_clock":
            await _wait_for_clock(ask, old, deadline_ns)
        old.fenced = step != "impossible"
        old.end()
        mode.count_fence()
    tickets = list(old.open_tickets)
    if not old.fenced:
        for ticket in tickets:
            ticket.conclude(Verdict.UNRESOLVABLE)
    else:
        await _resolve(mode, ask, old, deadline_ns)
    mode.count_verdicts(tickets)
    old.open_tickets = []
    if not same:
        mode.away.append(old)


async def _patiently(ask: AsyncAsk, commands: list[bytes], deadline_ns: int) -> list[Any]:
    """Ask until the server is not busy with a script; raises what else keeps it from answering."""
    while True:
        replies = await ask(commands)
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if not errors:
            return replies
        if not any(_is_busy(error) for error in errors):
            error = errors[0]
            if getattr(error, "failure_kind", None) is not None:
                raise error
            return replies
        if monotonic_ns() + BUSY_PAUSE_S * 1e9 > deadline_ns:
            raise RedisTimeoutError(
                "the server is busy with a script, so nothing could be fenced", outcome=Outcome.NOT_SENT
            )
        await async_sleep(BUSY_PAUSE_S)


def kill_at_once(old: Stream) -> list[bytes]:
    """The commands that end an old connection, without waiting for `async_fence`; their replies go to `note_offset`."""
    kill = pack_command(("CLIENT", "KILL", "ID", old.client_id))
    if old.level is not Level.OFFSET:
        return [kill]
    return [_MULTI, pack_command(("CLIENT", "LIST", "ID", old.client_id)), kill, _EXEC]


def note_offset(old: Stream, replies: list[Any]) -> None:
    """How far the server had come on the old connection; nothing where that was said before, or cannot be said any more."""
    result = replies[-1]
    if old.level is not Level.OFFSET or not isinstance(result, list) or isinstance(result[0], Exception):
        return
    line = read_client_line(_text(result[0]))
    if line is not None:
        old.executed_bytes = line[3]


async def _kill(ask: AsyncAsk, old: Stream, deadline_ns: int) -> None:
    kill: tuple[Any, ...] = ("CLIENT", "KILL", "ID", old.client_id)
    if old.address and "/" not in old.address:
        kill = (*kill, "ADDR", old.address)
    if old.level is Level.OFFSET:
        look = pack_command(("CLIENT", "LIST", "ID", old.client_id))
        replies = await _patiently(ask, [_MULTI, look, pack_command(kill), _EXEC], deadline_ns)
        result = replies[-1]
        if isinstance(result, Exception):
            raise _could_not(result)
        note_offset(old, replies)
        killed = result[1]
    else:
        (killed,) = await _patiently(ask, [pack_command(kill)], deadline_ns)
    if isinstance(killed, Exception):
        raise _could_not(killed)


async def _wait_for_clock(ask: AsyncAsk, old: Stream, deadline_ns: int) -> None:
    while True:
        (time,) = await _patiently(ask, [_TIME], deadline_ns)
        if isinstance(time, Exception):
            raise _could_not(time)
        left_s = (old.not_after_us - _microseconds(time)) / 1e6
        if left_s < 0:
            return
        pause_s = max(CLOCK_PAUSE_S, left_s)
        if monotonic_ns() + pause_s * 1e9 > deadline_ns:
            raise RedisTimeoutError(
                "an old write may still be executed, so no other is sent yet", outcome=Outcome.NOT_SENT
            )
        await async_sleep(pause_s)


async def _resolve(mode: Mode, ask: AsyncAsk, old: Stream, deadline_ns: int) -> None:
    tickets = list(old.open_tickets)
    marked = [ticket for ticket in tickets if ticket.marker is not None]
    for ticket in tickets:
        if ticket.marker is None and old.level is Level.OFFSET:
            ticket.conclude_by_offset(old.executed_bytes)
        elif ticket.marker is None:
            ticket.conclude(Verdict.UNRESOLVABLE)
    for first in range(0, len(marked), MAX_QUESTIONS):
        await _ask_markers(ask, marked[first : first + MAX_QUESTIONS], deadline_ns)
    keys = old.markers(mode.stale_markers) + mode.swept()
    if keys:
        await ask([pack_command((b"UNLINK", *keys))])


async def _ask_markers(ask: AsyncAsk, tickets: list[Ticket], deadline_ns: int) -> None:
    # Both bits in one transaction: between two commands the key might expire.
    questions = [
        pack_command((b"GETBIT", ticket.marker.key, bit))
        for ticket in tickets
        if ticket.marker
        for bit in (0, ticket.bit)
    ]
    answers = (await _patiently(ask, [_MULTI, *questions, _EXEC], deadline_ns))[-1]
    if isinstance(answers, Exception):
        raise _could_not(answers)
    for ticket, is_the_same, is_set in zip(tickets, answers[::2], answers[1::2], strict=True):
        ticket.conclude_by_marker(is_the_same == 1, is_set == 1)


def _is_busy(error: Exception) -> bool:
    return isinstance(error, ResponseError) and str(error).startswith("BUSY")


def _could_not(error: Exception) -> Exception:
    return RedisUnavailableError(f"an old connection could not be fenced: {error}", outcome=Outcome.NOT_SENT)


def _microseconds(time: Any) -> int:
    return int(time[0]) * 1_000_000 + int(time[1])


def _text(reply: Any) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)


def _field(reply: Any, name: str) -> str | None:
    """A field of an INFO reply."""
    if isinstance(reply, Exception):
        return None
    for line in _text(reply).splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return None
