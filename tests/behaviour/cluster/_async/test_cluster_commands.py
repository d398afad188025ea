"""Commands on a whole cluster: routing, several keys, scripts, target nodes, pipelines, transactions."""

from __future__ import annotations

import pytest
import redis
from redis.cluster import LoadBalancingStrategy
from redis.exceptions import CrossSlotTransactionError, RedisClusterException, ResponseError, WatchError

from agent_memory._concurrency import ASYNC, async_gather, async_spawn
from agent_memory.errors import ConnectionStateError


async def test_a_key_is_found_wherever_its_slot_is(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    for number in range(100):
        assert await client.set(f"key:{number}", number)
    assert [await client.get(f"key:{number}") for number in range(100)] == [b"%d" % number for number in range(100)]
    held = [int(node.ask("DBSIZE")) for node in cluster.primaries()]
    assert sum(held) == 100
    assert all(held)
    assert client.keyslot("key:7") == cluster.slot_of("key:7")


async def test_words_of_every_kind_are_keys(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster, decode_responses=True)
    for key in ("text", b"bytes", 12, "ключ", "{tag}rest", "a{}b", bytearray(b"array")):
        assert await client.set(key, "value")
        assert await client.get(key) == "value"
    with pytest.raises(redis.DataError):
        await client.get(None)
    with pytest.raises(ResponseError, match="wrong number of arguments"):
        await client.execute_command("GET", "one", "two")


async def test_a_reply_of_the_server_is_passed_on_and_counts_for_nothing(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("text", "value")
    for _ in range(10):
        with pytest.raises(ResponseError, match="wrong kind of value"):
            await client.lpush("text", "more")
    assert {guard["state"] for guard in client.stats()["nodes"].values()} == {"closed"}


async def test_several_keys_of_several_slots(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    pairs = {f"many:{number}": b"%d" % number for number in range(30)}
    assert all(await client.mset_nonatomic(pairs))
    assert await client.mget_nonatomic([*pairs, "none"]) == [*pairs.values(), None]
    assert await client.exists(*pairs) == 30
    assert await client.touch(*pairs, "none") == 30
    assert await client.delete(*list(pairs)[:10]) == 10
    assert await client.unlink(*pairs) == 20
    with pytest.raises(RedisClusterException, match="same key slot"):
        await client.mget("one", "two")
    assert await client.mset({"{same}1": 1, "{same}2": 2})
    assert await client.mget("{same}1", "{same}2") == [b"1", b"2"]


async def test_scripts_and_keyless_commands(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    assert await client.eval("return redis.call('GET', KEYS[1])", 1, "key") == b"value"
    assert await client.eval("return 7", 0) == 7
    script = client.register_script("return redis.call('GET', KEYS[1])")
    assert await script(keys=["key"]) == b"value"
    assert await client.ping()
    assert await client.dbsize(target_nodes=client.PRIMARIES) == 1
    assert await client.keys(target_nodes=client.PRIMARIES) == [b"key"]


async def test_target_nodes(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    owner = client.get_node_from_key("key")
    assert owner.port == cluster.owner_of_key("key").port
    assert {node.port for node in client.get_primaries()} == {node.port for node in cluster.primaries()}
    assert len(client.get_replicas()) == 3
    assert await client.dbsize(target_nodes=owner) == 1
    assert await client.ping(target_nodes=client.ALL_NODES)
    assert len(await client.info("server", target_nodes=client.PRIMARIES)) == 3
    other = next(node for node in client.get_primaries() if node != owner)
    assert await client.execute_command("GET", "key", target_nodes=other) == b"value"  # it follows MOVED


async def test_a_blocking_command_does_not_hold_up_others(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    waiting = async_spawn(client.blpop, ["{list}"], 30)
    for _ in range(20):
        assert await client.get("{list}other") is None
    assert await client.rpush("{list}", "value") == 1
    assert list(await waiting.result()) == [b"{list}", b"value"]
    assert await client.blpop(["{list}"], 0.05) is None


async def test_wait_covers_what_was_written(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    assert await client.wait(1, 5000, target_nodes=client.get_node_from_key("key")) == 1


async def test_what_needs_a_connection_of_its_own_is_refused(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.ping()
    with pytest.raises(ConnectionStateError):
        await client.execute_command("MULTI", target_nodes=client.get_primaries()[0])


async def test_a_pipeline_over_all_nodes_has_its_results_by_position(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    pipeline = client.pipeline()
    for number in range(200):
        pipeline.set(f"p:{number}", number)
        pipeline.get(f"p:{number}")
        pipeline.hgetall(f"h:{number}")
    results = await pipeline.execute()
    assert results == [one for number in range(200) for one in (True, b"%d" % number, {})]
    assert len(pipeline) == 0
    assert await pipeline.execute() == []


async def test_errors_in_a_pipeline(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("text", "value")
    pipeline = client.pipeline()
    pipeline.set("one", 1).lpush("text", "x").get("one")
    results = await pipeline.execute(raise_on_error=False)
    assert (results[0], results[2]) == (True, b"1")
    assert isinstance(results[1], ResponseError)
    pipeline.set("one", 2).lpush("text", "x")
    with pytest.raises(ResponseError, match="Command # 2"):
        await pipeline.execute()
    assert await client.get("one") == b"2"


async def test_a_transaction_goes_to_the_owner_of_its_slot(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    for number in range(20):
        pipeline = client.pipeline(transaction=True)
        pipeline.set(f"{{t{number}}}", 1).incr(f"{{t{number}}}").get(f"{{t{number}}}")
        assert await pipeline.execute() == [True if ASYNC else b"OK", 2, b"2"]  # as redis-py's two clients have it
    pipeline = client.pipeline(transaction=True)
    pipeline.set("one", 1).set("two", 2)
    with pytest.raises(CrossSlotTransactionError):
        await pipeline.execute()


async def test_watch(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("{w}", 1)
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.watch("{w}")
        assert await pipeline.get("{w}") == b"1"
        pipeline.multi()
        pipeline.incr("{w}")
        assert await pipeline.execute() == [2]
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.watch("{w}")
        pipeline.multi()
        pipeline.incr("{w}")
        await client.set("{w}", 10)
        with pytest.raises(WatchError):
            await pipeline.execute()
    assert await client.get("{w}") == b"10"


async def test_a_lock(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    lock = client.lock("name", timeout=10)
    assert await lock.acquire(blocking=False)
    assert not await client.lock("name", timeout=10).acquire(blocking=False)
    await lock.release()
    assert await client.lock("name", timeout=10).acquire(blocking=False)


async def test_scan_visits_every_key(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    assert all(await client.mset_nonatomic({f"scan:{number}": number for number in range(300)}))
    found = {key async for key in client.scan_iter("scan:*")}
    assert len(found) == 300


async def test_reads_may_go_to_replicas(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster, load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN)
    await client.set("key", "value")
    assert await client.wait(1, 5000, target_nodes=client.get_node_from_key("key")) == 1
    replica = cluster.replicas_of(cluster.owner_of_key("key"))[0]
    before = int(replica.ask("INFO", "commandstats").partition("cmdstat_get:calls=")[2].partition(",")[0] or 0)
    for _ in range(10):
        assert await client.get("key") == b"value"
    after = int(replica.ask("INFO", "commandstats").partition("cmdstat_get:calls=")[2].partition(",")[0] or 0)
    assert after - before == 5  # in turn with the primary


async def test_own_response_callbacks(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    client.set_response_callback("GET", lambda reply, **_: ("shown", reply))
    await client.set("key", "value")
    assert await client.get("key") == ("shown", b"value")


async def test_a_closed_client_connects_anew(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    await client.aclose()
    assert await client.get("key") == b"value"


async def test_many_callers_at_once(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)

    async def work(worker):
        for number in range(100):
            key = f"w{worker}:{number}"
            assert await client.set(key, number)
            assert await client.get(key) == b"%d" % number

    await async_gather(*(async_spawn(work, worker) for worker in range(20)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exactly_once": True}, "exactly_once must be False"),
        ({"resilience": 3}, "resilience must be"),
        ({"socket_timeout": -1}, "socket_timeout must be"),
        ({"retry_on_error": [ValueError]}, "retry_on_error must be left out"),
    ],
)
async def test_arguments_are_used_or_refused(cluster, async_connect_cluster, arguments, message):
    with pytest.raises(ValueError, match=message):
        async_connect_cluster(cluster, **arguments)


async def test_without_a_node_that_answers_the_client_says_so(async_connect_cluster, start_server, unused_address):
    with pytest.raises(RedisClusterException, match="cannot be connected"):
        await async_connect_cluster(unused_address).get("key")
    with pytest.raises(RedisClusterException):
        await async_connect_cluster(start_server(transport="tcp")).get("key")
