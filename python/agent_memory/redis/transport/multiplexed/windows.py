"""Pipelines: windows of packed commands, at most two of them under way."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any, Protocol

from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.transport.multiplexed.admission import forget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agent_memory.redis.transport.multiplexed.connection import MultiplexedConnection

__all__ = ["WindowCarrier", "send_windows"]


class WindowCarrier(Protocol):
    """What is asked of the transport."""

    loop: asyncio.AbstractEventLoop
    timeout_s: float | None
    patience_s: float
    current: MultiplexedConnection | None

    def late(self, moving: bool) -> RedisTimeoutError:
        """What a command fails with that was sent and not answered in time."""
        ...

    def has_moved_since(self, began_s: float) -> bool:
        """Whether bytes have moved since then on a connection that takes calls."""
        ...

    async def wait_for_turn(
        self,
        send: Callable[[MultiplexedConnection], asyncio.Future[Any]],
        packed: bytes,
        until_s: float | None = None,
        behind: MultiplexedConnection | None = None,
    ) -> asyncio.Future[Any]:
        """Call `send` with a connection when there is room in it; returns what it returns."""
        ...


async def send_windows(
    carrier: WindowCarrier,
    windows: Iterator[tuple[bytes, int]],
    raw: frozenset[int] = frozenset(),
    timeout_s: float | None = None,
) -> list[Any]:
    """Send windows of packed commands and return all replies; error replies as exception instances.

    A window is its bytes and the number of its replies. It leaves in one piece; at most two of them are under way, and
    other tasks' commands go between them. `raw` numbers the replies that stay undecoded. Each window has what a command
    has, and all of them `timeout_s` where that is less.
    """
    replies: list[Any] = []
    under_way: collections.deque[asyncio.Future[list[Any]]] = collections.deque()
    sent = first = 0
    behind: MultiplexedConnection | None = None
    in_a_hurry = timeout_s is not None and (carrier.timeout_s is None or timeout_s < carrier.patience_s)
    began_s = carrier.loop.time()
    try:
        async with asyncio.timeout(timeout_s if in_a_hurry else None):
            for packed, count in windows:
                raw_here = [number - first for number in raw if first <= number < first + count] if raw else ()
                future, behind = await _send_window(carrier, packed, count, raw_here, behind)
                under_way.append(future)
                sent += 1
                first += count
                if len(under_way) > 1:
                    replies += await under_way[0]
                    under_way.popleft()
            if under_way:
                replies += await under_way[0]
    except TimeoutError:
        late = carrier.late(bool(sent) and carrier.has_moved_since(began_s))
        late.outcome = Outcome.UNKNOWN if sent else Outcome.NOT_SENT
        raise late from None
    except (RedisUnavailableError, RedisTimeoutError) as error:
        # What is proven of a window holds for the pipeline only where it was the only one that left.
        if sent > 1 or (sent and not (under_way[0].done() and under_way[0].exception())):
            error.outcome = Outcome.UNKNOWN
        raise
    finally:
        for future in under_way:
            forget(future)
    return replies


async def _send_window(
    carrier: WindowCarrier, packed: bytes, count: int, raw: Iterable[int], behind: MultiplexedConnection | None
) -> tuple[asyncio.Future[list[Any]], MultiplexedConnection]:
    """Send it, and say over which connection; it follows the window before it, which that one carries."""
    connection = carrier.current
    if connection is not None and connection.accepting:
        return connection.send_window(packed, count, raw), connection
    carried_by: list[MultiplexedConnection] = []

    def send(connection: MultiplexedConnection) -> asyncio.Future[list[Any]]:
        carried_by.append(connection)
        return connection.send_window(packed, count, raw)

    future = await carrier.wait_for_turn(send, packed, behind=behind)
    return future, carried_by[0]
