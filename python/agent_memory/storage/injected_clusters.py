"""redis-py's own cluster clients inside a resilient client: their retries are switched off, their raw errors are explained.

redis-py repeats a command after a lost reply whatever it does, so a write is executed several times. The resilient client
repeats only what is safe. Where a node is lost, redis-py raises AttributeError and TypeError from within: they say nothing of
the command, so its outcome is UNKNOWN.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import redis
from redis.asyncio.cluster import RedisCluster as AsyncRedisPyCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster as RedisPyCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as RedisPyTimeout
from redis.retry import Retry

from agent_memory.errors import Outcome, RedisUnavailableError

__all__ = ["explain_cluster_error", "is_redis_py_cluster", "silence_retries"]

logger: Final = logging.getLogger("agent_memory.storage")

_REDIS_PY: Final = str(Path(redis.__file__).parent)
_RAW: Final = (AttributeError, TypeError, KeyError, IndexError, ValueError)
_CONNECTION: Final = (RedisConnectionError, RedisPyTimeout, OSError)


def is_redis_py_cluster(client: object) -> bool:
    """Whether `client` is a cluster client of redis-py, of either world."""
    return isinstance(client, RedisPyCluster | AsyncRedisPyCluster)


def silence_retries(cluster: Any) -> None:
    """Switch the retries of an injected cluster client off; where that is not possible, warn that writes may be doubled."""
    kind: Any = AsyncRetry if isinstance(cluster, AsyncRedisPyCluster) else Retry
    try:
        had = cluster.retry.get_retries()
        cluster.set_retry(kind(NoBackoff(), 0))
        if cluster.retry.get_retries() != 0:
            raise ValueError("it kept its retries")
    except Exception as error:
        logger.warning(
            "%s repeats commands by itself, and its retries could not be switched off (%s): a write whose reply is lost may be "
            "executed several times; use agent_memory.redis.RedisCluster",
            type(cluster).__name__,
            error,
        )
        return
    if had:
        logger.info("the %d retries of the injected %s are off: the retry policy decides", had, type(cluster).__name__)


def explain_cluster_error(error: Exception) -> Exception:
    """An error of redis-py's cluster client as what it says of the command; the same error where that is clear."""
    if isinstance(error, RedisClusterException):
        # Raised while the topology was asked for anew after a lost connection: the command may have been sent before.
        is_lost = isinstance(error.__cause__, _CONNECTION) or isinstance(error.__context__, _CONNECTION)
    else:
        is_lost = isinstance(error, _RAW) and not isinstance(error, redis.RedisError) and _is_from_within(error)
    if not is_lost:
        return error
    unknown = RedisUnavailableError(f"the cluster client failed: {type(error).__name__}", outcome=Outcome.UNKNOWN)
    unknown.__cause__ = error
    return unknown


def _is_from_within(error: Exception) -> bool:
    """Whether redis-py's clients raised it, not the caller's arguments."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return False
    path = step.tb_frame.f_code.co_filename
    return path.startswith(_REDIS_PY) and "/commands/" not in path
