"""The connection to one node over which a cluster's subscriber has shard channels of that node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisPyConnectionError
from redis.exceptions import ResponseError

from agent_memory._core import monotonic_ns
from agent_memory.redis._async.pubsub import Loss, PubSub
from agent_memory.redis.redis_py_internals.features import is_open

if TYPE_CHECKING:
    from agent_memory.redis._async.guarded import AsyncGuardedCalls

__all__ = ["LostConnectionError", "ShardSubscriber", "RefusedSubscriptionError"]


class LostConnectionError(Exception):
    """The connection is gone, and its channels with it."""

    def __init__(self, loss: Loss) -> None:
        super().__init__("the connection of a subscriber was lost")
        self.loss = loss


class RefusedSubscriptionError(Exception):
    """The node answered SSUBSCRIBE or SUNSUBSCRIBE with an error."""

    def __init__(self, kind: str, names: Sequence[bytes], error: ResponseError) -> None:
        super().__init__(str(error))
        self.kind = kind
        self.names = names
        self.error = error


class ShardSubscriber(PubSub):
    """Watches its connection as any subscriber does. It never connects again: the channels go to where their slots are now."""

    def __init__(self, client: AsyncGuardedCalls, **options: Any) -> None:
        self.held: set[Any] = set()
        """The channels that this connection is for, confirmed or not."""
        self.number: int = client.number  # type: ignore[attr-defined]
        super().__init__(client, reconnect_timeout_s=None, **options)

    @property
    def subscribed(self) -> bool:
        """Whether it holds any channel."""
        return bool(self.held)

    @property
    def is_lost(self) -> bool:
        """Whether there was a connection and it has ended."""
        return self.connection is not None and not is_open(self.connection)

    async def ask(self, words: tuple[Any, ...]) -> None:
        """Send SSUBSCRIBE or SUNSUBSCRIBE; the connection is opened for the first one. Raises what sending raises."""
        self._subscribed_ns = monotonic_ns()
        if self.is_lost:
            raise RedisPyConnectionError("the connection was lost")
        await self._connect_if_needed()
        await self._send(words)

    async def take(self) -> Any:
        """A reply that has arrived, or None. Raises LostConnectionError, RefusedSubscriptionError and ClientClosedError."""
        if self.connection is None:
            return None  # not opened yet, or ended meanwhile
        return await self.parse_response(block=False, timeout=0)

    @property
    def heard_ns(self) -> int:
        """When something was received for the last time."""
        return self._heard_ns

    async def _restore(self, until_ns: int | None) -> bool:
        del until_ns
        self._check_not_closed(None)
        loss, self._loss = self._loss, None
        raise LostConnectionError(loss or Loss(None, self._heard_ns, 0))

    def _is_theirs(self, reply: Any) -> bool:
        if isinstance(reply, ResponseError):
            refused = self._answers.refused()
            if refused is not None:
                raise RefusedSubscriptionError(*refused, reply)
        return super()._is_theirs(reply)
