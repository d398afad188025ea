"""Mistakes of users that mypy and pyright refuse, each for the reason of its mark: `tools/check_typing.py` checks them."""

from __future__ import annotations

from agent_memory import (
    AsyncCircuitBreaker,
    AsyncMemorySystem,
    AsyncResilientRedisClient,
    CircuitBreaker,
    MemorySystem,
    Priority,
    RecoveryConfig,
    ResiliencePolicy,
    ResilientRedisClient,
    resilient_operation,
)
from agent_memory.memory import MemorySettings, Ranking
from agent_memory.policy import Backoff
from agent_memory.redis import Redis, RedisCluster
from agent_memory.redis.asyncio import Redis as AsyncRedis
from agent_memory.redis.asyncio import RedisCluster as AsyncRedisCluster
from agent_memory.scoring import ScoreWeights

# --- the drop-in ---

Redis(hots="localhost")  # refused: call-overload / reportCallIssue
Redis(port="6379")  # refused: call-overload / reportArgumentType
Redis(resilience=3)  # refused: call-overload / reportArgumentType
AsyncRedis(decode_response=True)  # refused: call-overload / reportCallIssue


def replies(client: Redis, text: Redis[str]) -> None:
    wrong: str | None = client.get("key")  # refused: assignment / reportAssignmentType
    right: bytes | None = text.get("key")  # refused: assignment / reportAssignmentType
    print(wrong, right)
    client.icnr("key")  # refused: attr-defined / reportAttributeAccessIssue
    client.set("key", "value", exx=3)  # refused: call-arg / reportCallIssue
    client.get("key").upper()  # refused: union-attr / reportOptionalMemberAccess
    replies(text, text)  # refused: arg-type / reportArgumentType
    client.pipeline().icnr("key")  # refused: attr-defined / reportAttributeAccessIssue
    client.pipeline().set("key", "value", exx=3)  # refused: call-arg / reportCallIssue


async def asyncio_replies(client: AsyncRedis) -> None:
    value: bytes | None = client.get("key")  # refused: assignment / reportAssignmentType
    print(value)
    (await client.incr("key")).decode()  # refused: attr-defined / reportAttributeAccessIssue


# --- the resilient clients ---

ResilientRedisClient("orders", hots="localhost")  # refused: call-overload / reportCallIssue
ResilientRedisClient("orders", retry_policy=3)  # refused: call-overload / reportArgumentType
ResilientRedisClient()  # refused: call-overload / reportCallIssue
AsyncResilientRedisClient("orders", recovery=True)  # refused: call-overload / reportArgumentType
RecoveryConfig(paht="/var/lib/orders")  # refused: call-arg / reportCallIssue
ResiliencePolicy(retry=3)  # refused: arg-type / reportArgumentType


def commands(client: ResilientRedisClient) -> None:
    text: str = client.incr("visits")  # refused: assignment / reportAssignmentType
    value: bytes | None = client.get("key")  # refused: assignment / reportAssignmentType
    print(text, value)
    client.icnr("visits")  # refused: attr-defined / reportAttributeAccessIssue
    client.set("key", "value", exx=3)  # refused: call-arg / reportCallIssue
    client.hset_dict("hash", ["field"])  # refused: arg-type / reportArgumentType
    client.pipeline().icnr("visits")  # refused: attr-defined / reportAttributeAccessIssue


def priorities(client: ResilientRedisClient) -> None:
    done: bool = client.with_priority(Priority.HIGH).set("key", "value")  # refused: assignment / reportAssignmentType
    print(done)
    client.with_priority("high")  # refused: arg-type / reportArgumentType
    client.with_priority(Priority.HIGH).icnr("key")  # refused: attr-defined / reportAttributeAccessIssue
    high = client.with_priority(Priority.HIGH)
    print(high.set("key", 1).stauts)  # refused: attr-defined / reportAttributeAccessIssue


async def asyncio_priorities(client: AsyncResilientRedisClient) -> None:
    print(client.with_priority(Priority.LOW).set("key", 1).status)  # refused: attr-defined / reportAttributeAccessIssue


class Sessions(ResilientRedisClient[str]):
    @resilient_operation("load_session")
    def load(self, session_id: str) -> dict[str, str]:
        return self.hgetall(session_id)


def decorated_method(sessions: Sessions) -> None:
    sessions.load(7)  # refused: arg-type / reportArgumentType
    sessions.load("session-1", touch=True)  # refused: call-arg / reportCallIssue


# --- breakers ---


@CircuitBreaker("pages", failure_threshold=3)
def fetch(url: str) -> str:
    return url


@AsyncCircuitBreaker("pages", failure_threshold=3)
async def fetch_async(url: str) -> bytes:
    return url.encode()


CircuitBreaker("pages", treshold=3)  # refused: call-arg / reportCallIssue
fetch(7)  # refused: arg-type / reportArgumentType
fetch("https://example.org", timeout_s=1)  # refused: call-arg / reportCallIssue


async def breakers() -> None:
    page: str = await fetch_async("https://example.org")  # refused: assignment / reportAssignmentType
    print(page)


# --- memory ---


def memories(memory: MemorySystem) -> None:
    memory.store("agent-1", "Bob prefers tea.", importence=0.8)  # refused: call-arg / reportCallIssue
    memory.store(7, "Bob prefers tea.")  # refused: arg-type / reportArgumentType
    memory.store("agent-1", "Bob prefers tea.", minimum="paper")  # refused: arg-type / reportArgumentType
    memory.store("agent-1", "Bob prefers tea.", tags=3)  # refused: arg-type / reportArgumentType
    memory.store("agent-1", "Bob prefers tea.", degrade=True)  # refused: call-arg / reportCallIssue
    memory.store_many("agent-1", [{"importance": 0.8}])  # refused: typeddict-item / reportArgumentType
    memory.store_many("agent-1", [{"content": 1, "x": 3}])  # refused: typeddict-unknown-key / reportArgumentType
    memory.update("agent-1", "id", key="home")  # refused: call-arg / reportCallIssue
    memory.retrieve("agent-1", "tea", n=3)  # refused: call-arg / reportCallIssue
    memory.retrieve("agent-1", "tea", user_id=None)  # refused: arg-type / reportArgumentType
    memory.retrieve("agent-1", "tea", ranking={"pool": 3})  # refused: arg-type / reportArgumentType
    Ranking(wieghts=ScoreWeights())  # refused: call-arg / reportCallIssue
    MemorySettings(short_term=3)  # refused: arg-type / reportArgumentType
    memory.query("agent-1", tag=["taste"])  # refused: call-arg / reportCallIssue
    memory.query("agent-1", since_s="yesterday")  # refused: arg-type / reportArgumentType
    memory.query("agent-1", order_by="relevance")  # refused: arg-type / reportArgumentType
    memory.count("agent-1", user_id=None)  # refused: arg-type / reportArgumentType
    memory.short_term.query("agent-1", tiers=())  # refused: call-arg / reportCallIssue


def clusters() -> None:
    RedisCluster(hots="redis-1")  # refused: call-overload / reportCallIssue
    RedisCluster(host="redis-1", resilience=3)  # refused: call-overload / reportArgumentType
    RedisCluster(host="redis-1", exactly_once=True)  # refused: call-overload / reportArgumentType
    AsyncRedisCluster(host="redis-1", socket_timout=1)  # refused: call-overload / reportCallIssue


def health(memory: MemorySystem) -> None:
    print(memory.health().status)  # refused: attr-defined / reportAttributeAccessIssue
    memory.store("agent-1", "tea", timestamp=1.7e9)  # refused: call-arg / reportCallIssue
    Ranking(now=1.7e9)  # refused: call-arg / reportCallIssue
    Backoff(strategy="linearly")  # refused: arg-type / reportArgumentType


async def health_in_a_loop(memory: AsyncMemorySystem) -> None:
    await memory.health()  # refused: misc / reportGeneralTypeIssues
    print(memory.check_health().state)  # refused: attr-defined / reportAttributeAccessIssue


async def memories_in_a_loop(memory: AsyncMemorySystem) -> None:
    for entry in memory.query("agent-1"):  # refused: attr-defined / reportGeneralTypeIssues
        print(entry)
    memory.retrieve("agent-1", "tea")[0]  # refused: index / reportIndexIssue
