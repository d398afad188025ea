"""LangGraph's Redis checkpointers on our client.

They need RediSearch and RedisJSON. A server with both is named by REDIS_STACK_URL; without one only that they use our client
and that the refusal of a plain Redis reaches the caller is tested. Needs `pip install langgraph langgraph-checkpoint-redis`.
"""

import os

import pytest
import servers

pytest.importorskip("langgraph.constants", reason="langgraph is not installed")
pytest.importorskip("redisvl", reason="langgraph-checkpoint-redis is not installed")

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.redis import RedisSaver
from langgraph.checkpoint.redis.shallow import ShallowRedisSaver

from agent_memory.redis import Redis

SAVERS = [RedisSaver, ShallowRedisSaver]
STACK_URL = os.environ.get("REDIS_STACK_URL")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("saver_class", SAVERS)
def test_a_server_without_the_modules_is_named_in_the_error(saver_class, start_server, connect):
    client = connect(start_server(servers.REDIS))
    saver = saver_class(redis_client=client)
    assert saver._redis is client
    with pytest.raises(Exception, match=r"unknown command 'FT\."):
        saver.setup()
    assert client.guard.stats()["state"] == "closed"


@pytest.mark.skipif(STACK_URL is None, reason="REDIS_STACK_URL names no server with RediSearch and RedisJSON")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("saver_class", SAVERS)
def test_a_checkpoint_is_stored_and_found(saver_class):
    with Redis.from_url(STACK_URL) as client:
        saver = saver_class(redis_client=client)
        saver.setup()
        config = {"configurable": {"thread_id": f"agent-memory-{os.getpid()}", "checkpoint_ns": ""}}
        checkpoint = empty_checkpoint()
        saver.put(config, checkpoint, {"source": "input", "step": -1}, {})
        assert saver.get_tuple(config).checkpoint["id"] == checkpoint["id"]
        saver.delete_thread(config["configurable"]["thread_id"])
