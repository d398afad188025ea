"""Methods of cluster clients and pipelines that are the extension's: as redis-py's, and they give way to replacements."""

from __future__ import annotations

from unittest import mock

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from agent_memory._concurrency import ASYNC
from agent_memory.redis.asyncio import RedisCluster
from agent_memory.redis.commands.direct import DIRECT
from agent_memory.redis.commands.keys import ONE_KEY


def face_names(owner):
    return {name for name, value in vars(owner).items() if type(value).__name__ == "Face"}


async def test_every_direct_command_of_one_key_is_the_extensions(cluster, async_connect_cluster):
    wanted = {name for name, (word, _) in DIRECT.items() if word in ONE_KEY}
    assert face_names(RedisCluster) == wanted
    assert len(wanted) > 40
    assert face_names(type(async_connect_cluster(cluster).pipeline())) == wanted


async def test_a_patched_class_is_noticed_at_the_next_call(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    for _ in range(2):
        assert await client.get("key") == b"value"
        with mock.patch.object(RedisCluster, "execute_command", giving(b"traced")):
            assert await client.get("key") == b"traced"
    assert await client.get("key") == b"value"


async def test_a_clients_own_method_is_noticed_at_the_next_call(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    with mock.patch.object(client, "execute_command", giving(b"own")):
        assert await client.get("key") == b"own"
    assert await client.get("key") == b"value"


async def test_a_patched_client_of_a_node_is_noticed(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    node = client._route("key")
    way = "execute_command" if ASYNC else "execute_routed"
    with mock.patch.object(node, way, giving(b"node")):
        assert await client.get("key") == b"node"
    with mock.patch.object(type(node), way, giving(b"class")):
        assert await client.get("key") == b"class"
    assert await client.get("key") == b"value"


async def test_a_subclass_decides(cluster, async_connect_cluster):
    plain = async_connect_cluster(cluster)
    await plain.set("key", "value")

    class Tracing(RedisCluster):
        def execute_command(self, *args, **options):
            names.append(args[0])
            return super().execute_command(*args, **options)

    names = []
    client = Tracing(**cluster.connection_kwargs)
    try:
        assert await client.get("key") == b"value"
        assert await client.incr("count") == 1
        assert names[-2:] == ["GET", "INCRBY"]
    finally:
        await client.aclose()


async def test_callbacks_of_the_caller_show_replies(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    client.set_response_callback("GET", lambda reply, **_options: [reply])
    assert await client.get("key") == [b"value"]
    pipeline = client.pipeline()
    pipeline.get("key").set("other", 1)
    assert await pipeline.execute() == [[b"value"], True]


async def test_a_closed_client_opens_again(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    await client.aclose()
    assert await client.get("key") == b"value"
    assert await client.get("key") == b"value"


async def test_a_pipeline_shows_what_it_has_collected(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("text", "value")
    pipeline = client.pipeline()
    assert pipeline.get("text") is pipeline
    pipeline.set("key", "1", ex=100).incr("key").execute_command("GET", "key")
    assert len(pipeline) == 4
    queue = pipeline._execution_strategy._command_queue
    assert [command.args for command in queue] == [
        ("GET", "text"),
        ("SET", "key", "1", "EX", 100),
        ("INCRBY", "key", 1),
        ("GET", "key"),
    ]
    assert [command.position for command in queue] == [0, 1, 2, 3]
    pipeline.get("text")
    assert await pipeline.execute() == [b"value", True, 2, b"2", b"value"]
    assert len(pipeline) == 0
    assert await pipeline.execute() == []


async def test_words_of_every_kind_and_errors_in_a_pipeline(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("text", "value")
    pipeline = client.pipeline()
    for number in range(60):
        pipeline.set(f"key:{number}", number).get(b"key:%d" % number)
    pipeline.lpush("text", "more").set("float", 1.5).get("float")
    results = await pipeline.execute(raise_on_error=False)
    assert results[:120] == [part for number in range(60) for part in (True, b"%d" % number)]
    assert isinstance(results[120], ResponseError)
    assert results[121:] == [True, b"1.5"]
    pipeline.get("text").lpush("text", "more").get("text")
    with pytest.raises(
        ResponseError, match=r"Command # 2 \(LPUSH text more\) of pipeline caused error: WRONGTYPE|wrong kind"
    ):
        await pipeline.execute()


async def test_a_patched_pipeline_collects_as_the_patch_says(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    seen = []
    owner = type(client.pipeline())
    ordinary = owner.execute_command

    def traced(self, *args, **options):
        seen.append(args)
        return ordinary(self, *args, **options)

    with mock.patch.object(owner, "execute_command", traced):
        pipeline = client.pipeline()
        assert await pipeline.get("key").execute() == [b"value"]
    assert seen == [("GET", "key")]
    assert await client.pipeline().get("key").execute() == [b"value"]
    assert len(seen) == 1


async def test_a_pipeline_has_the_attributes_of_redis_pys(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    stock = redis.asyncio.RedisCluster(**cluster.connection_kwargs)
    try:
        names = set(vars(stock.pipeline()))
    finally:
        await stock.aclose()
    pipeline = client.pipeline().get("key")
    assert all(hasattr(pipeline, name) for name in names)
    assert not hasattr(pipeline, "unknown")
    assert await pipeline.set("key", 1).execute() == [b"value", True]


async def test_a_transaction_collects_by_itself(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    pipeline = client.pipeline(transaction=True)
    pipeline.set("{tag}a", 1).incr("{tag}a").get("{tag}a")
    assert len(pipeline) == 3
    assert (await pipeline.execute())[1:] == [2, b"2"]


def giving(reply):
    """What stands in the place of a method that sends."""

    async def give(*_args, **_options):
        return reply

    return give
