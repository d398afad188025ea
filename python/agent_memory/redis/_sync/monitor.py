# Generated from ../_async/monitor.py by tools/generate_sync.py: edit that file, not this one.

"""MONITOR: redis-py's class, whose errors say what they mean and which server they speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from redis.client import Monitor as RedisPyMonitor
from redis.exceptions import RedisError

from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.redis.error_outcomes import as_ours
from agent_memory.redis.transport.failures import connect_failure

if TYPE_CHECKING:
    from agent_memory.redis._sync.guarded import GuardedCalls

__all__ = ["Monitor"]


class Monitor(RedisPyMonitor):
    """redis-py's Monitor; made by `client.monitor()`. What breaks, or is no line of MONITOR's, raises RedisUnavailableError."""

    connection: Any

    def __init__(self, client: GuardedCalls) -> None:
        self._endpoint = client.endpoint
        try:
            cast(Any, super()).__init__(client.connection_pool)
        except Exception as error:
            raise connect_failure(error, self._endpoint) from error

    def __enter__(self) -> Monitor:
        try:
            cast(Any, super()).__enter__()
        except Exception as error:
            raise self._described(error) from error
        return self

    def next_command(self) -> Any:
        """The next command that the server has run, as redis-py shows it."""
        try:
            return cast(Any, super()).next_command()
        except Exception as error:
            raise self._described(error) from error

    def _described(self, error: Exception) -> Exception:
        if type(error) is RedisError:  # redis-py's own word for an answer that is neither OK nor an error
            return RedisUnavailableError(str(error), outcome=Outcome.UNKNOWN, endpoint=self._endpoint)
        return as_ours(error, self._endpoint)
