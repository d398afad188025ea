"""Programs of users that mypy and pyright accept, both strict: `tools/check_typing.py` checks them; nothing runs them."""

from __future__ import annotations

from typing import Any, assert_type

from redis.asyncio.connection import ConnectionPool as AsyncConnectionPool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry

from agent_memory import (
    AsyncCircuitBreaker,
    AsyncMemorySystem,
    AsyncResilientRedisClient,
    AsyncStoreResult,
    BreakerSettings,
    CircuitBreaker,
    MemoryEntry,
    MemorySystem,
    Priority,
    RecoveryConfig,
    ResiliencePolicy,
    ResilientRedisClient,
    RetryPolicy,
    StoreResult,
    Tier,
    resilient_operation,
)
from agent_memory.memory import MemoryAttributes, MemoryHealth, MemoryId, NewMemory, Ranking
from agent_memory.redis import Redis, RedisCluster
from agent_memory.redis.asyncio import Redis as AsyncRedis
from agent_memory.redis.asyncio import RedisCluster as AsyncRedisCluster
from agent_memory.scoring import PowerLaw, ScoreWeights
from agent_memory.testing import EmbeddedServer

# --- the drop-in ---


def replies_are_bytes_by_default() -> None:
    client = Redis(host="localhost", port=6379, socket_timeout=0.5, ssl=True, client_name="orders")
    assert_type(client, Redis[bytes])
    assert_type(client.get("key"), bytes | None)
    assert_type(client.incr("key"), int)
    assert_type(client.hgetall("key"), dict[bytes, bytes])


def replies_are_text_when_decoded() -> None:
    client = Redis("localhost", 6379, decode_responses=True)
    assert_type(client, Redis[str])
    value = client.get("key")
    if value is not None:
        value.upper()


def as_a_parameter(client: Redis) -> bytes | None:
    return client.get("key")


def as_a_parameter_of_text(client: Redis[str]) -> str | None:
    return client.get("key")


def from_keywords(server: EmbeddedServer) -> None:
    as_a_parameter(Redis(**server.connection_kwargs, socket_timeout=0.2))


def guarded() -> None:
    policy = ResiliencePolicy(breaker=BreakerSettings(5, 60.0), retry=RetryPolicy(max_retries=2, base_delay=0.1))
    Redis(resilience=policy)
    Redis(resilience=None, exactly_once=True)


def pipelines_chain(client: Redis) -> list[Any]:
    with client.pipeline() as pipeline:
        return pipeline.set("key", "value").incr("visits").expire("visits", 60).execute()


async def asyncio_twin() -> None:
    client = AsyncRedis(decode_responses=True)
    assert_type(client, AsyncRedis[str])
    assert_type(await client.get("key"), str | None)
    async with client.pipeline(transaction=False) as pipeline:
        await pipeline.lpush("list", "a", "b").lrange("list", 0, -1).execute()


# --- the resilient clients ---


def resilient() -> None:
    client = ResilientRedisClient("orders", "localhost", 6379, recovery=RecoveryConfig(path="/var/lib/orders"))
    assert_type(client, ResilientRedisClient[str])
    assert_type(client.get("key"), str | None)
    assert_type(client.set("key", "value", ex=60, nx=True), bool | str | None)
    assert_type(client.hset_dict("hash", {"field": 1}), int)
    assert_type(client.lpush("list", "a"), int)
    with client.pipeline() as pipeline:
        pipeline.incr("visits").expire("visits", 60).execute()


def resilient_with_bytes() -> None:
    client = ResilientRedisClient("orders", decode_responses=False)
    assert_type(client.get("key"), bytes | None)


def with_priority(client: ResilientRedisClient) -> None:
    result = client.with_priority(Priority.HIGH).set("order:7", "paid", ex=3600)
    assert_type(result, StoreResult)
    if not result and result.status == "queued":
        result.wait(timeout=5)
    several = client.with_priority(Priority.CRITICAL).pipeline().set("a", 1).incr("b").execute()
    assert_type(several, StoreResult)


async def resilient_asyncio_twin() -> None:
    async with AsyncResilientRedisClient("orders") as client:
        assert_type(await client.get("key"), str | None)
        assert_type(await client.with_priority(Priority.LOW).incr("key"), AsyncStoreResult)
        with_text = AsyncResilientRedisClient("orders", decode_responses=False)
        assert_type(await with_text.hget("hash", "field"), bytes | None)


class Sessions(ResilientRedisClient[str]):
    @resilient_operation("load_session")
    def load(self, session_id: str, *, touch: bool = False) -> dict[str, str]:
        if touch:
            self.expire(session_id, 60)
        return self.hgetall(session_id)


def decorated_method(sessions: Sessions) -> None:
    assert_type(sessions.load("session-1", touch=True), dict[str, str])


# --- breakers ---


@CircuitBreaker("pages", failure_threshold=3)
def fetch(url: str, timeout_s: float = 1.0) -> str:
    return f"{url} {timeout_s}"


@AsyncCircuitBreaker("pages", failure_threshold=3)
async def fetch_async(url: str, *, timeout_s: float = 1.0) -> bytes:
    return f"{url} {timeout_s}".encode()


async def breakers() -> None:
    assert_type(fetch("https://example.org", timeout_s=2.0), str)
    assert_type(await fetch_async("https://example.org", timeout_s=2.0), bytes)
    assert_type(CircuitBreaker("pages").execute(lambda: 7), int)


# --- clusters, and what redis-py has for either world ---


def clusters(policy: ResiliencePolicy) -> None:
    Redis(retry=Retry(NoBackoff(), 3))
    RedisCluster("redis-1", 7000, password="secret", ssl=True, resilience=policy)
    RedisCluster(startup_nodes=[ClusterNode("redis-1", 7000)], read_from_replicas=True, retry=Retry(NoBackoff(), 3))
    with ResilientRedisClient("cluster", client=RedisCluster(host="redis-1", resilience=None)) as client:
        client.set("key", "value")


async def clusters_in_a_loop() -> None:
    AsyncRedis(retry=AsyncRetry(NoBackoff(), 3), connection_pool=AsyncConnectionPool())
    given = AsyncRedisCluster(host="redis-1", port=7000, retry=AsyncRetry(NoBackoff(), 3))
    async with AsyncResilientRedisClient("cluster", client=given) as client:
        await client.set("key", "value")


# --- memory ---


def goes(memory: MemorySystem) -> None:
    assert_type(memory.health(), MemoryHealth)
    assert_type(memory.check_health(), MemoryHealth)
    assert_type(memory.stats(), dict[str, Any])
    print(memory.health().state if memory.health() else memory.health().sql)


async def goes_in_a_loop(memory: AsyncMemorySystem) -> None:
    assert_type(memory.health(), MemoryHealth)
    assert_type(await memory.check_health(), MemoryHealth)


def remembers(memory: MemorySystem) -> None:
    memory.store("agent-1", "Bob prefers tea.", importance=0.8, tags=["taste"], session_id="talk-1")
    found = memory.retrieve("agent-1", "What does Bob drink?", k=3, tags={"taste"}, since_s=1.7e9)
    assert_type(found, list[MemoryEntry])
    for entry in memory.query(
        "agent-1", since_s=1.7e9, tags=["taste"], order_by="importance", descending=True, limit=5
    ):
        print(entry.content, entry.timestamp_s)
    assert_type(memory.count("agent-1", tiers=[Tier.STM], memory_types=("fact",)), int)
    assert_type(memory.forget("agent-1", session_id="talk-1", dry_run=True), int)
    memory.short_term.query("agent-1", user_id="bob")
    common: MemoryAttributes = {"user_id": "bob", "namespace": ("projects",)}
    memory.store("agent-1", {"city": "Lisbon"}, durability="sql", minimum="redis", **common)
    memory.store("agent-1", "Lisbon", key="home", ttl_s=60)
    entries: list[NewMemory] = [{"content": "Bob prefers tea.", "importance": 0.8}, {"content": b"", **common}]
    assert_type(memory.store_many("agent-1", entries), list[MemoryId])
    memory.store_many("agent-1", [{"content": "Bob prefers tea.", "tags": ["taste"]}], embeddings=[[1.0]])
    memory.update("agent-1", "id", content="Bob prefers coffee.", tags=(), if_version=7, minimum="redis")
    memory.delete("agent-1", "id", minimum="journal")
    ranking = Ranking(weights=ScoreWeights(lexical=0.5), decay=PowerLaw(), rerank=lambda _, found: [0.0] * len(found))
    memory.retrieve("agent-1", "tea", ranking=ranking, filters={"year": [2024, 2025], "kind": "fact"})


async def remembers_in_a_loop() -> None:
    async with AsyncMemorySystem() as memory:
        await memory.store("agent-1", "Bob prefers tea.")
        assert_type(await memory.retrieve("agent-1", "tea", k=1), list[MemoryEntry])
        async for entry in memory.query("agent-1", namespace=("projects",), attributes={"kind": "fact"}):
            assert_type(entry, MemoryEntry)
