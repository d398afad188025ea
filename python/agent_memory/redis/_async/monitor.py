"""MONITOR: redis-py's class, whose errors say what they mean and which server they speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from redis.asyncio.client import Monitor as RedisPyMonitor
from redis.exceptions import RedisError

from agent_memory._concurrency import ASYNC
from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.redis.error_outcomes import as_ours
from agent_memory.redis.transport.failures import connect_failure

if TYPE_CHECKING:
    from agent_memory.redis._async.guarded import AsyncGuardedCalls

__all__ = ["Monitor"]


class Monitor(RedisPyMonitor):
    """redis-py's Monitor; made by `client.monitor()`. What breaks, or is no line of MONITOR's, raises RedisUnavailableError."""

    connection: Any

    def __init__(self, client: AsyncGuardedCalls) -> None:
        self._endpoint = client.endpoint
        try:
            cast(Any, super()).__init__(client.connection_pool)
        except Exception as error:
            raise connect_failure(error, self._endpoint) from error

    if ASYNC:

        async def connect(self) -> None:
            """Connect, unless that has been done."""
            try:
                await cast(Any, super()).connect()
            except Exception as error:
                raise connect_failure(error, self._endpoint) from error

    async def __aenter__(self) -> Monitor:
        try:
            await cast(Any, super()).__aenter__()
        except Exception as error:
            raise self._described(error) from error
        return self

    async def next_command(self) -> Any:
        """The next command that the server has run, as redis-py shows it."""
        try:
            return await cast(Any, super()).next_command()
        except Exception as error:
            raise self._described(error) from error

    def _described(self, error: Exception) -> Exception:
        if type(error) is RedisError:  # redis-py's own word for an answer that is neither OK nor an error
            return RedisUnavailableError(str(error), outcome=Outcome.UNKNOWN, endpoint=self._endpoint)
        return as_ours(error, self._endpoint)
