"""Client-side caching of the asyncio client: the promise, on real servers."""

import asyncio
import time

import pytest
import redis
import servers

from agent_memory.redis import MISSING, Cache
from agent_memory.redis import Redis as BlockingRedis
from agent_memory.redis.asyncio import Redis

BOUND_S = 0.4
"""The bound of the tests that wait for it to pass."""


@pytest.fixture
def other(server):
    """Another client of the same server: redis-py's."""
    with redis.Redis(**server.connection_kwargs) as client:
        yield client


@pytest.fixture
def cached(server, async_connect):
    return async_connect(server, cache=Cache())


def hits(client):
    return client.cache.stats()["hits"]


def calls_of(other, command):
    """How often the server has executed it."""
    return other.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


async def tracked(client):
    """The client, connected, and the server tracks."""
    await client.ping()
    await until(lambda: client.cache.stats()["is_connected"])
    return client


async def until(condition, turns=5_000):
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it did not happen")


async def read_until(client, key, value, turns=5_000):
    for _ in range(turns):
        if await client.get(key) == value:
            return
        await asyncio.sleep(0.001)
    pytest.fail("the write was not seen")


async def test_a_second_read_does_not_ask_the_server(cached, other):
    other.set("k", "v")
    await tracked(cached)
    assert await cached.get("k") == b"v"
    assert cached.cache.peek("k") == b"v"
    before = calls_of(other, "get")
    assert [await cached.get("k") for _ in range(10)] == [b"v"] * 10
    assert calls_of(other, "get") == before
    assert hits(cached) == 10


async def test_writes_of_others_are_seen(cached, other):
    await tracked(cached)
    for number in range(100):
        other.set("k", number)
        await read_until(cached, "k", str(number).encode())
        await cached.get("k")
    assert cached.cache.stats()["invalidations_by_server"] >= 99


async def test_nil_is_cached_and_ends_with_a_write(cached, other):
    await tracked(cached)
    assert [await cached.get("none"), await cached.get("none")] == [None, None]
    assert hits(cached) == 1
    other.set("none", "now")
    await read_until(cached, "none", b"now")


async def test_an_error_is_not_cached(cached, other):
    other.rpush("list", 1)
    await tracked(cached)
    for _ in range(2):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            await cached.get("list")
    assert cached.cache.stats()["entries"] == 0


@pytest.mark.parametrize("flush", ["flushdb", "flushall"])
async def test_flushes_end_everything(cached, other, flush):
    other.set("k", "v")
    await tracked(cached)
    await cached.get("k")
    getattr(other, flush)()
    await read_until(cached, "k", None)


async def test_expiry_is_kept_to_the_millisecond(cached, other):
    await tracked(cached)
    for _ in range(20):
        other.set("k", "v", px=60)
        await read_until(cached, "k", b"v")
        while (value := await cached.get("k")) is not None:
            assert value == b"v"
        assert other.get("k") is None
        assert await cached.get("k") is None
    assert hits(cached) > 100


async def test_own_writes_are_read_back(cached):
    await tracked(cached)
    for number in range(300):
        expected = str(number).encode()
        await cached.set("k", number)
        assert await cached.get("k") == expected
        assert await cached.mget("k", "k") == [expected, expected]
    assert hits(cached) > 200


async def test_own_writes_of_pipelines_scripts_and_several_keys_are_read_back(cached):
    await tracked(cached)

    async def read():
        return await cached.get("a"), await cached.get("b")

    for number in range(50):
        for transaction in (False, True):
            await read()
            async with cached.pipeline(transaction=transaction) as pipe:
                await pipe.set("a", f"{number}{transaction}").delete("b").execute()
            assert await read() == (f"{number}{transaction}".encode(), None)
        await cached.mset({"a": f"m{number}", "b": f"n{number}"})
        assert await read() == (f"m{number}".encode(), f"n{number}".encode())
        await cached.eval("redis.call('SET', KEYS[1], ARGV[1])", 1, "a", f"e{number}")
        assert (await read())[0] == f"e{number}".encode()
        await cached.rename("a", "b")
        assert await read() == (None, f"e{number}".encode())
        await cached.flushdb()
        assert await read() == (None, None)


async def test_own_writes_of_many_tasks_are_read_back(cached):
    await tracked(cached)

    async def work(name):
        for number in range(200):
            expected = f"{name}:{number}".encode()
            await cached.set(name, expected)
            read = await asyncio.gather(cached.get(name), cached.get(name))
            assert read == [expected, expected]

    await asyncio.gather(*(work(f"key{number}") for number in range(20)))


async def test_the_write_of_a_cancelled_call_is_read_back(cached):
    await tracked(cached)
    for number in range(50):
        await cached.get("k")
        write = asyncio.create_task(cached.set("k", number))
        await asyncio.sleep(0)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        value = await cached.get("k")
        assert value == await cached.cached(ttl_s=0).get("k")


async def test_concurrent_misses_are_one_question(cached, other):
    other.set("k", "v")
    await tracked(cached)
    before = calls_of(other, "get")
    assert await asyncio.gather(*(cached.get("k") for _ in range(50))) == [b"v"] * 50
    assert calls_of(other, "get") == before + 1
    assert cached.cache.stats()["joined"] == 49


async def test_a_cancelled_leader_and_a_cancelled_waiter_cost_the_others_nothing(cached, other):
    other.set("k", "v")
    await tracked(cached)
    tasks = [asyncio.create_task(cached.get("k")) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if result == b"v"] == [b"v"] * 3
    assert cached.cache.peek("k") == b"v"


async def test_mutable_replies_are_the_callers_own(cached, other):
    other.hset("h", mapping={"a": 1})
    other.rpush("l", 1, 2)
    other.sadd("s", 1)
    await tracked(cached)
    for _ in range(3):
        first, second = await asyncio.gather(cached.hgetall("h"), cached.hgetall("h"))
        assert first == second == {b"a": b"1"}
        first.clear()
        values = await cached.lrange("l", 0, -1)
        assert values == [b"1", b"2"]
        values.clear()
        members = await cached.smembers("s")
        assert members == {b"1"}
        members.clear()
    assert hits(cached) >= 6


async def test_replies_are_those_of_a_client_without_cache(server, other, async_connect):
    for decode in (False, True):
        other.flushdb()
        other.set("k", "v")
        other.hset("h", mapping={"a": 1, "b": 2})
        other.rpush("l", 1, 2, 3)
        other.zadd("z", {"a": 1, "b": 2.5})
        other.sadd("s", "x")
        other.xadd("x", {"f": 1})
        other.geoadd("g", (13.0, 38.0, "p"))
        cached = await tracked(async_connect(server, cache=Cache(), decode_responses=decode))
        plain = async_connect(server, decode_responses=decode)
        calls = [
            lambda client: client.get("k"),
            lambda client: client.strlen("k"),
            lambda client: client.getrange("k", 0, 0),
            lambda client: client.exists("k"),
            lambda client: client.exists("none"),
            lambda client: client.type("h"),
            lambda client: client.hget("h", "a"),
            lambda client: client.hmget("h", "a", "c"),
            lambda client: client.hgetall("h"),
            lambda client: client.hgetall("none"),
            lambda client: client.hkeys("h"),
            lambda client: client.hexists("h", "a"),
            lambda client: client.lrange("l", 0, -1),
            lambda client: client.lindex("l", 1),
            lambda client: client.llen("l"),
            lambda client: client.smembers("s"),
            lambda client: client.sismember("s", "x"),
            lambda client: client.zscore("z", "b"),
            lambda client: client.zrange("z", 0, -1, withscores=True),
            lambda client: client.zrangebyscore("z", 0, 5),
            lambda client: client.zrank("z", "b"),
            lambda client: client.xrange("x"),
            lambda client: client.xlen("x"),
            lambda client: client.geopos("g", "p"),
            lambda client: client.mget("k", "none", "h"),
        ]
        for number, call in enumerate(calls):
            expected = await call(plain)
            assert [await call(cached), await call(cached)] == [expected, expected], number
        assert hits(cached) >= len(calls)


async def test_variants_of_a_key_end_together(cached, other):
    other.hset("h", mapping={"a": 1, "b": 2})
    await tracked(cached)
    assert [await cached.hget("h", "a"), await cached.hget("h", "b"), await cached.hlen("h")] == [b"1", b"2", 2]
    await cached.hset("h", "a", 3)
    assert [await cached.hget("h", "a"), await cached.hget("h", "b"), await cached.hlen("h")] == [b"3", b"2", 2]


async def test_mget_asks_for_what_is_missing(cached, other):
    other.mset({"a": 1, "b": 2})
    await tracked(cached)
    before = calls_of(other, "mget"), calls_of(other, "get")
    await cached.get("a")
    assert await cached.mget("a", "b", "c") == [b"1", b"2", None]
    assert await cached.mget("a", "b", "c") == [b"1", b"2", None]
    assert await cached.get("b") == b"2"
    assert (calls_of(other, "mget"), calls_of(other, "get")) == (before[0] + 1, before[1] + 1)


async def test_mget_is_a_snapshot(cached, server):
    """Another client writes both keys at once; no read sees them differ, though one of them is often cached."""
    writer = Redis(**server.connection_kwargs)
    await tracked(cached)
    await writer.mset({"a": 0, "b": 0})
    is_over = False

    async def write():
        number = 0
        while not is_over:
            number += 1
            await writer.mset({"a": number, "b": number})

    task = asyncio.create_task(write())
    for number in range(1_500):
        await cached.get("ab"[number % 2])
        first, second = await cached.mget("a", "b")
        assert first == second
    is_over = True
    await task
    await writer.aclose()


async def test_keys_that_are_no_text_are_invalidated_with_decoded_replies(server, other, async_connect):
    cached = await tracked(async_connect(server, cache=Cache(), decode_responses=True))
    key = b"\xff\x00key"
    for number in range(20):
        other.set(key, number)
        await read_until(cached, key, str(number))
        assert await cached.get(key) == str(number)


async def test_nothing_survives_a_reconnect(cached, other):
    other.set("k", "v")
    await tracked(cached)
    await cached.get("k")
    for line in other.client_list():
        if line["id"] != str(other.client_id()):
            other.client_kill_filter(_id=line["id"])
    await until(lambda: not cached.cache.stats()["is_connected"])
    assert cached.cache.peek("k") is MISSING
    assert cached.cache.peek("k", stale=True) == b"v"
    other.set("k", "w")
    assert await cached.get("k") == b"w"
    await until(lambda: cached.cache.stats()["epochs"] == 2)


async def test_a_silent_partition_is_never_older_than_the_bound(server, other, proxy, async_connect):
    where = server.connection_kwargs
    relay = proxy((where["host"], where["port"]))
    options = {"host": relay.host, "port": relay.port, "socket_timeout": 5.0, "resilience": None}
    client = await tracked(async_connect(server, cache=Cache(max_staleness_s=BOUND_S), **options))
    other.set("k", "old")
    assert await client.get("k") == b"old"
    relay.black_hole("down")
    written_s = time.monotonic()
    other.set("k", "new")
    last_s = written_s
    while time.monotonic() - written_s < 3 * BOUND_S:
        try:
            async with asyncio.timeout(0.02):
                value = await client.get("k")
        except TimeoutError:
            continue
        assert value == b"old"
        last_s = time.monotonic()
    assert last_s - written_s <= BOUND_S + 0.05
    assert client.cache.stats()["lease_refusals"] > 0


async def test_a_task_that_never_yields_is_bounded(cached, other, server, async_connect):
    client = await tracked(async_connect(server, cache=Cache(max_staleness_s=BOUND_S)))
    other.set("k", "old")
    assert await client.get("k") == b"old"
    other.set("k", "new")
    began_s = time.monotonic()
    while await client.get("k") == b"old":  # hits never give the loop a turn
        assert time.monotonic() - began_s < BOUND_S + 0.1
    assert await client.get("k") == b"new"


async def test_an_idle_client_keeps_its_lease(server, other, async_connect):
    client = await tracked(async_connect(server, cache=Cache(max_staleness_s=BOUND_S)))
    other.set("k", "v")
    await client.get("k")
    await asyncio.sleep(3 * BOUND_S)
    assert client.cache.peek("k") == b"v"


async def test_views_have_a_time_to_live_of_their_own(cached, other):
    other.set("k", "v")
    await tracked(cached)
    await cached.get("k")
    fresh, short = cached.cached(ttl_s=0), cached.cached(ttl_s=0.05)
    before = hits(cached)
    assert await fresh.get("k") == b"v"
    assert hits(cached) == before
    await asyncio.sleep(0.06)
    misses = cached.cache.stats()["misses"]
    assert await short.get("k") == b"v"
    assert cached.cache.stats()["misses"] == misses + 1
    with pytest.raises(ValueError, match="ttl_s must be"):
        cached.cached(ttl_s=-1)


async def test_clear_and_bounds(server, other, async_connect):
    client = await tracked(async_connect(server, cache=Cache(65_536)))
    for number in range(400):
        other.set(f"k{number}", "x" * 300)
        await client.get(f"k{number}")
    stats = client.cache.stats()
    assert stats["bytes"] <= 65_536
    assert stats["evictions"] > 100
    other.set("large", "x" * 2_000)
    await client.get("large")
    assert client.cache.peek("large") is MISSING
    client.cache.clear()
    assert client.cache.stats()["entries"] == 0


async def test_without_resp3_the_cache_is_off_and_reads_go_on(server, other, async_connect, caplog):
    other.set("k", "v")
    client = async_connect(server, cache=Cache(), protocol=2)
    assert [await client.get("k") for _ in range(3)] == [b"v"] * 3
    assert "RESP3" in client.cache.stats()["off_because"]
    assert sum("client-side cache" in record.getMessage() for record in caplog.records) == 1


async def test_a_refusal_of_tracking_is_no_outage(server, other, async_connect, caplog):
    other.set("k", "v")
    other.acl_setuser("plain", enabled=True, passwords=["+word"], keys=["*"], commands=["+@all", "-client"])
    try:
        client = async_connect(server, cache=Cache(), username="plain", password="word")
        assert [await client.get("k") for _ in range(3)] == [b"v"] * 3
        await until(lambda: client.cache.stats()["off_because"] is not None)
        assert await client.get("k") == b"v"
        assert client.stats()["state"] == "closed"
    finally:
        other.acl_deluser("plain")


async def test_without_cache_there_is_none(server, async_connect):
    client = async_connect(server)
    assert client.cache is None
    with pytest.raises(ValueError, match="ttl_s must be asked of a client with cache="):
        client.cached(ttl_s=1)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_bytes": 1}, "max_bytes must be"),
        ({"max_staleness_s": 0}, "max_staleness_s must be >= 0.01, got 0"),
        ({"ttl_s": 0}, "ttl_s must be"),
        ({"prefixes": ["a"]}, "prefixes must be None"),
    ],
)
def test_settings_are_refused_by_name(settings, text):
    with pytest.raises(ValueError, match=text):
        Cache(**settings)


def test_other_kinds_of_cache_are_refused_by_name():
    with pytest.raises(ValueError, match=r"cache must be an agent_memory\.redis\.Cache or None, got dict"):
        Redis(cache={})


def test_the_synchronous_client_refuses_a_cache_by_name():
    with pytest.raises(ValueError, match=r"cache must be None or a redis\.CacheInterface for the synchronous client"):
        BlockingRedis(cache=Cache())


async def test_tls_and_unix_sockets(tls_server, start_server, async_connect):
    unix = start_server(servers.VALKEY, transport="unix")
    for where in (tls_server, unix):
        with redis.Redis(**where.connection_kwargs) as other:
            client = await tracked(async_connect(where, cache=Cache()))
            for number in range(20):
                other.set("k", number)
                await read_until(client, "k", str(number).encode())
            assert [await client.get("k"), await client.get("k")] == [b"19", b"19"]
            assert hits(client) > 0


def test_several_loops_read_own_writes(server):
    client = Redis(**server.connection_kwargs, cache=Cache())

    async def work(number):
        await tracked(client)
        await client.set("k", number)
        assert [await client.get("k"), await client.get("k")] == [str(number).encode()] * 2
        await client.aclose()

    for number in range(3):
        asyncio.run(work(number))
