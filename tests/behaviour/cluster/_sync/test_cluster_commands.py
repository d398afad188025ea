# Generated from ../_async/test_cluster_commands.py by tools/generate_sync.py: edit that file, not this one.

"""Commands on a whole cluster: routing, several keys, scripts, target nodes, pipelines, transactions."""

from __future__ import annotations

import pytest
import redis
from redis.cluster import LoadBalancingStrategy
from redis.exceptions import CrossSlotTransactionError, RedisClusterException, ResponseError, WatchError

from agent_memory._concurrency import gather, spawn
from agent_memory.errors import ConnectionStateError


def test_a_key_is_found_wherever_its_slot_is(cluster, connect_cluster):
    client = connect_cluster(cluster)
    for number in range(100):
        assert client.set(f"key:{number}", number)
    assert [client.get(f"key:{number}") for number in range(100)] == [b"%d" % number for number in range(100)]
    held = [int(node.ask("DBSIZE")) for node in cluster.primaries()]
    assert sum(held) == 100
    assert all(held)
    assert client.keyslot("key:7") == cluster.slot_of("key:7")


def test_words_of_every_kind_are_keys(cluster, connect_cluster):
    client = connect_cluster(cluster, decode_responses=True)
    for key in ("text", b"bytes", 12, "ключ", "{tag}rest", "a{}b", bytearray(b"array")):
        assert client.set(key, "value")
        assert client.get(key) == "value"
    with pytest.raises(redis.DataError):
        client.get(None)
    with pytest.raises(ResponseError, match="wrong number of arguments"):
        client.execute_command("GET", "one", "two")


def test_a_reply_of_the_server_is_passed_on_and_counts_for_nothing(cluster, connect_cluster):
    client = connect_cluster(cluster)
    client.set("text", "value")
    for _ in range(10):
        with pytest.raises(ResponseError, match="wrong kind of value"):
            client.lpush("text", "more")
    assert {guard["state"] for guard in client.stats()["nodes"].values()} == {"closed"}


def test_several_keys_of_several_slots(cluster, connect_cluster):
    client = connect_cluster(cluster)
    pairs = {f"many:{number}": b"%d" % number for number in range(30)}
    assert all(client.mset_nonatomic(pairs))
    assert client.mget_nonatomic([*pairs, "none"]) == [*pairs.values(), None]
    assert client.exists(*pairs) == 30
    assert client.touch(*pairs, "none") == 30
    assert client.delete(*list(pairs)[:10]) == 10
    assert client.unlink(*pairs) == 20
    with pytest.raises(RedisClusterException, match="same key slot"):
        client.mget("one", "two")
    assert client.mset({"{same}1": 1, "{same}2": 2})
    assert client.mget("{same}1", "{same}2") == [b"1", b"2"]


def test_scripts_and_keyless_commands(cluster, connect_cluster):
    client = connect_cluster(cluster)
    client.set("key", "value")
    assert client.eval("return redis.call('GET', KEYS[1])", 1, "key") == b"value"
    assert client.eval("return 7", 0) == 7
    script = client.register_script("return redis.call('GET', KEYS[1])")
    assert script(keys=["key"]) == b"value"
    assert client.ping()
    assert client.dbsize(target_nodes=client.PRIMARIES) == 1
    assert client.keys(target_nodes=client.PRIMARIES) == [b"key"]


def test_target_nodes(cluster, connect_cluster):
    client = connect_cluster(cluster)
    client.set("key", "value")
    owner = client.get_node_from_key("key")
    assert owner.port == cluster.owner_of_key("key").port
    assert {node.port for node in client.get_primaries()} == {node.port for node in cluster.primaries()}
    assert len(client.get_replicas()) == 3
    assert client.dbsize(target_nodes=owner) == 1
    assert client.ping(target_nodes=client.ALL_NODES)
    assert len(client.info("server", target_nodes=client.PRIMARIES)) == 3
    other = next(node for node in client.get_primaries() if node != owner)
    assert client.execute_command("GET", "key", target_nodes=other) == b"value"  # it follows MOVED


def test_a_blocking_command_does_not_hold_up_others(cluster, connect_cluster):
    client = connect_cluster(cluster)
    waiting = spawn(client.blpop, ["{list}"], 30)
    for _ in range(20):
        assert client.get("{list}other") is None
    assert client.rpush("{list}", "value") == 1
    assert list(waiting.result()) == [b"{list}", b"value"]
    assert client.blpop(["{list}"], 0.05) is None


def test_wait_covers_what_was_written(cluster, connect_cluster):
    client = connect_cluster(cluster)
    client.set("key", "value")
    assert client.wait(1, 5000, target_nodes=client.get_node_from_key("key")) == 1


def test_what_needs_a_connection_of_its_own_is_refused(cluster, connect_cluster):
    client = connect_cluster(cluster)
    client.ping()
    with pytest.raises(ConnectionStateError):
        client.execute_command("MULTI", target_nodes=client.get_primaries()[0])


def test_a_pipeline_over_all_nodes_has_its_results_by_position(cluster, connect_cluster):
    client = connect_cluster(cluster)
    pipeline = client.pipeline()
    for number in range(200):
        pipeline.set(f"p:{number}", number)
        pipeline.get(f"p:{number}")
        pipeline.hgetall(f"h:{number}")
    results = pipeline.execute()
    assert results == [one for number in range(200) for one in (True, b"%d" % number, {})]
    assert len(pipeline) == 0
    assert pipeline.execute() == []


def test_errors_in_a_pipeline(cluster, connect_cluster):
    client = connect_cluster(cluster)
    client.set("text", "value")
    pipeline = client.pipeline()
    pipeline.set("one", 1).lpush("text", "x").get("one")
    results = pipeline.execute(raise_on_error=False)
    assert (results[0], results[2]) == (True, b"1")
    assert isinstance(results[1], ResponseError)
    pipeline.set("one", 2).lpush("text", "x")
    with pytest.raises(ResponseError, match="Command # 2"):
        pipeline.execute()
    assert client.get("one") == b"2"


def test_a_transaction_goes_to_the_owner_of_its_slot(cluster, connect_cluster):
    client = connect_cluster(cluster)
    for number in range(20):
        pipeline = client.pipeline(transaction=True)
        pipeline.set(f"{{t{number}}}", 1).incr(f"{{t{number}}}").get(f"{{t{number}}}")
        assert pipeline.execute() == [b"OK", 2, b"2"]  # as redis-py's two clients have it
    pipeline = client.pipeline(transaction=True)
    pipeline.set("one", 1).set("two", 2)
    with pytest.raises(CrossSlotTransactionError):
        pipeline.execute()


def test_watch(cluster, connect_cluster):
    client = connect_cluster(cluster)
    client.set("{w}", 1)
    with client.pipeline(transaction=True) as pipeline:
        pipeline.watch("{w}")
        assert pipeline.get("{w}") == b"1"
        pipeline.multi()
        pipeline.incr("{w}")
        assert pipeline.execute() == [2]
    with client.pipeline(transaction=True) as pipeline:
        pipeline.watch("{w}")
        pipeline.multi()
        pipeline.incr("{w}")
        client.set("{w}", 10)
        with pytest.raises(WatchError):
            pipeline.execute()
    assert client.get("{w}") == b"10"


def test_a_lock(cluster, connect_cluster):
    client = connect_cluster(cluster)
    lock = client.lock("name", timeout=10)
    assert lock.acquire(blocking=False)
    assert not client.lock("name", timeout=10).acquire(blocking=False)
    lock.release()
    assert client.lock("name", timeout=10).acquire(blocking=False)


def test_scan_visits_every_key(cluster, connect_cluster):
    client = connect_cluster(cluster)
    assert all(client.mset_nonatomic({f"scan:{number}": number for number in range(300)}))
    found = set(client.scan_iter("scan:*"))
    assert len(found) == 300


def test_reads_may_go_to_replicas(cluster, connect_cluster):
    client = connect_cluster(cluster, load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN)
    client.set("key", "value")
    assert client.wait(1, 5000, target_nodes=client.get_node_from_key("key")) == 1
    replica = cluster.replicas_of(cluster.owner_of_key("key"))[0]
    before = int(replica.ask("INFO", "commandstats").partition("cmdstat_get:calls=")[2].partition(",")[0] or 0)
    for _ in range(10):
        assert client.get("key") == b"value"
    after = int(replica.ask("INFO", "commandstats").partition("cmdstat_get:calls=")[2].partition(",")[0] or 0)
    assert after - before == 5  # in turn with the primary


def test_own_response_callbacks(cluster, connect_cluster):
    client = connect_cluster(cluster)
    client.set_response_callback("GET", lambda reply, **_: ("shown", reply))
    client.set("key", "value")
    assert client.get("key") == ("shown", b"value")


def test_a_closed_client_connects_anew(cluster, connect_cluster):
    client = connect_cluster(cluster)
    client.set("key", "value")
    client.close()
    assert client.get("key") == b"value"


def test_many_callers_at_once(cluster, connect_cluster):
    client = connect_cluster(cluster)

    def work(worker):
        for number in range(100):
            key = f"w{worker}:{number}"
            assert client.set(key, number)
            assert client.get(key) == b"%d" % number

    gather(*(spawn(work, worker) for worker in range(20)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exactly_once": True}, "exactly_once must be False"),
        ({"resilience": 3}, "resilience must be"),
        ({"socket_timeout": -1}, "socket_timeout must be"),
        ({"retry_on_error": [ValueError]}, "retry_on_error must be left out"),
    ],
)
def test_arguments_are_used_or_refused(cluster, connect_cluster, arguments, message):
    with pytest.raises(ValueError, match=message):
        connect_cluster(cluster, **arguments)


def test_without_a_node_that_answers_the_client_says_so(connect_cluster, start_server, unused_address):
    with pytest.raises(RedisClusterException, match="cannot be connected"):
        connect_cluster(unused_address).get("key")
    with pytest.raises(RedisClusterException):
        connect_cluster(start_server(transport="tcp")).get("key")
