"""Arguments of the cluster clients: what is refused, before anything is connected, and how long a call may take."""

from __future__ import annotations

import types

import pytest
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.retry import Retry

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory import ResiliencePolicy, RetryPolicy
from agent_memory.redis.cluster.arguments import deadline_s_of, max_retries_of

BOTH = (agent_memory.redis.RedisCluster, agent_memory.redis.asyncio.RedisCluster)
SYNC = BOTH[:1]
ENABLED = types.SimpleNamespace(enabled=True)


@pytest.mark.parametrize(
    ("clients", "arguments", "message"),
    [
        (BOTH, {"exactly_once": True}, "exactly_once must be False"),
        (BOTH, {"resilience": 3}, "resilience must be a ResiliencePolicy or None"),
        (BOTH, {"retry_on_error": [ValueError]}, "retry_on_error must be left out"),
        (BOTH, {"maint_notifications_config": ENABLED}, "maint_notifications_config must be disabled"),
        (BOTH, {"socket_timeout": -1}, "socket_timeout must be"),
        (SYNC, {"cache_config": CacheConfig()}, "cache_config must be left out"),
    ],
)
def test_what_the_clients_have_no_use_for_is_refused(clients, arguments, message):
    for client in clients:
        with pytest.raises(ValueError, match=message):
            client(host="127.0.0.1", port=1, **arguments)


@pytest.mark.parametrize(
    ("resilience", "given", "deadline_s"),
    [
        (ResiliencePolicy(), {}, 20.0),
        (ResiliencePolicy(), {"socket_timeout": 15}, 30.0),
        (None, {"socket_timeout": 0.3}, 20.0),
        (ResiliencePolicy(retry=RetryPolicy(deadline_s=1.0)), {"socket_timeout": 15}, 1.0),
    ],
)
def test_a_call_outlasts_a_failover_unless_its_deadline_is_given(resilience, given, deadline_s):
    assert deadline_s_of(resilience, given) == deadline_s


@pytest.mark.parametrize(
    ("given", "retries"),
    [({}, None), ({"retry": Retry(NoBackoff(), 2)}, 2), ({"cluster_error_retry_attempts": 5}, 5)],
)
def test_redis_pys_retries_bound_a_call_where_they_are_given(given, retries):
    assert max_retries_of(given) == retries
