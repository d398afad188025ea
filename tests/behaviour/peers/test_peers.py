"""Libraries that are handed a redis-py client, or make one from a pool of their own, work with ours."""

from __future__ import annotations

import django.conf
import kombu
import kombu.transport.redis
import pytest
import rq

import agent_memory.redis


@pytest.fixture
def own_server(start_server):
    """A server of the test's own: these libraries keep connections open for as long as the process lives."""
    return start_server(transport="tcp")


def double(number):
    return number * 2


def test_rq_runs_a_job(own_server, connect):
    client = connect(own_server)
    queue = rq.Queue(connection=client)
    job = queue.enqueue(double, 21)
    rq.SimpleWorker([queue], connection=client).work(burst=True)
    assert job.latest_result().return_value == 42
    assert client.transport_here() is not None
    assert client.stats()["operations"]["PIPELINE"]["successes"] > 0


def test_kombu_hands_over_a_pool(own_server, monkeypatch):
    made = []

    class Recorded(agent_memory.redis.Redis):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(kombu.transport.redis.redis, "Redis", Recorded)
    with kombu.Connection(own_server.url) as connection, connection.SimpleQueue("letters") as queue:
        queue.put({"to": "someone"})
        message = queue.get(timeout=10)
        assert message.payload == {"to": "someone"}
        message.ack()
    assert any(client.stats()["operations"] for client in made)


def test_django_redis_shares_its_pool(own_server):
    options = {"REDIS_CLIENT_CLASS": "agent_memory.redis.Redis"}
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": own_server.url, "OPTIONS": options}
    django.conf.settings.configure(CACHES={"default": cache})
    from django.core.cache import cache as default_cache
    from django_redis import get_redis_connection

    default_cache.set("key", {"a": 1}, timeout=60)
    assert default_cache.get("key") == {"a": 1}
    with default_cache.lock("lock", timeout=5):
        assert default_cache.incr("count", ignore_key_check=True) == 1
    first, second = get_redis_connection("default"), get_redis_connection("default")
    assert type(first) is agent_memory.redis.Redis
    assert first.transport_here() is second.transport_here() is not None
    default_cache.client.close()
