# Generated from ../_async/test_cluster_replies.py by tools/generate_sync.py: edit that file, not this one.

"""Replies and errors of the cluster client beside those of redis-py's: plain, in pipelines, in transactions, after WATCH."""

from __future__ import annotations

import contextlib

import pytest
import redis
from redis.exceptions import DataError

from agent_memory._concurrency import ASYNC

COMMANDS = [
    ("set", ("{t}s", 1), {}),
    ("set", ("{t}s", 2), {"get": True}),
    ("set", ("{t}s", 3), {"nx": True}),
    ("get", ("{t}s",), {}),
    ("execute_command", ("get", "{t}s"), {}),
    ("incr", ("{t}s",), {}),
    ("incrbyfloat", ("{t}s", 1.5), {}),
    ("execute_command", ("MGET", "{t}s", "{t}none"), {}),
    ("hset", ("{t}h",), {"mapping": {"f": 1, "g": 2}}),
    ("hgetall", ("{t}h",), {}),
    ("execute_command", ("hgetall", "{t}h"), {}),
    ("hincrbyfloat", ("{t}h", "f", 1.5), {}),
    ("hexists", ("{t}h", "f"), {}),
    ("hscan", ("{t}h",), {}),
    ("rpush", ("{t}l", "a", "b", "c"), {}),
    ("lset", ("{t}l", 0, "z"), {}),
    ("lpop", ("{t}l", 1), {}),
    ("sadd", ("{t}set", "a", "b"), {}),
    ("smembers", ("{t}set",), {}),
    ("execute_command", ("SINTER", "{t}set"), {}),
    ("zadd", ("{t}z", {"a": 1, "b": 2.5, "c": 3}), {}),
    ("zincrby", ("{t}z", 2, "a"), {}),
    ("zrange", ("{t}z", 0, -1), {"withscores": True}),
    ("zrange", ("{t}z", 0, -1), {"withscores": True, "score_cast_func": int}),
    ("zscore", ("{t}z", "a"), {}),
    # Their keys stand behind a count: what takes the set apart comes after them.
    ("zunion", (["{t}z"],), {"withscores": True}),
    ("zdiff", (["{t}z"],), {"withscores": True}),
    ("zpopmin", ("{t}z",), {}),
    ("zmpop", (1, ["{t}z"]), {"min": True}),
    ("expire", ("{t}s", 100), {}),
    ("expire", ("{t}none", 100), {}),
    ("persist", ("{t}s",), {}),
    ("type", ("{t}s",), {}),
    ("geoadd", ("{t}g", (13.361389, 38.115556, "P", 15.087269, 37.502669, "C")), {}),
    ("geodist", ("{t}g", "P", "C", "km"), {}),
    ("geopos", ("{t}g", "P", "none"), {}),
    ("geosearch", ("{t}g",), {"longitude": 15, "latitude": 37, "radius": 200, "unit": "km", "withcoord": True}),
    ("xadd", ("{t}x", {"f": 1}), {"id": "1-1"}),
    ("xrange", ("{t}x",), {}),
    ("lpush", ("{t}s", "wrong"), {}),
    ("pfadd", ("{t}pf", "a"), {}),
    ("execute_command", ("RENAME", "{t}l", "{t}l2"), {}),
]
OPTIONS: list[dict[str, object]] = [{}, {"decode_responses": True}]
if ASYNC and redis.Connection().protocol != 3:  # before redis-py 8.0
    OPTIONS = [{"protocol": 3, **options} for options in OPTIONS]
# with RESP2 redis-py's asyncio transactions raise TypeError for most replies
OPTIONS.append({"protocol": 2})
WAYS = ["plain", "pipeline", "transaction", "watched"]
UNTAKEN = set()
"""Redis-py's asyncio transactions fail on these: a callback has no parameter `keys`, or another loop asks for the keys."""
TRANSACTIONS = [
    [("set", ("{t}s", 1)), ("lpush", ("{t}s", "x")), ("set", ("{t}r", 1))],
    [("set", ("{t}s", 1)), ("execute_command", ("SET", "{t}s")), ("set", ("{t}r", 1))],
    [("set", ("one", 1)), ("set", ("two", 2))],
    [("set", ("{t}s", None))],
    [("get", (None,))],
    [("set", ("{t}s", 1)), ("execute_command", ("BLPOP", "{t}none", 0))],
]


@pytest.fixture(params=OPTIONS, ids=str)
def pair(request, cluster, connect_cluster):
    """A client of redis-py's and one of ours, with the same options."""
    theirs = redis.RedisCluster(**cluster.connection_kwargs, **request.param)
    with contextlib.closing(theirs):
        theirs.ping()
        yield theirs, connect_cluster(cluster, **request.param)


def shown(value):
    """A reply with the type of each part, an error with its text."""
    name = type(value).__name__
    if isinstance(value, Exception):
        return (name, "" if isinstance(value, DataError) else str(value))
    if isinstance(value, dict):
        return (name, [(shown(key), shown(one)) for key, one in value.items()])
    if isinstance(value, (list, tuple)):
        return (name, [shown(one) for one in value])
    if isinstance(value, set):
        return (name, sorted(map(shown, value)))
    return (name, value)


def outcome(call, *words, **options):
    try:
        return shown(call(*words, **options))
    except Exception as error:
        return shown(error)


def execute(client, commands, transaction, watched, raise_on_error):
    with client.pipeline(transaction=transaction) as pipeline:
        if watched:
            pipeline.watch("{t}w")
            pipeline.multi()
        for name, words, options in commands:
            getattr(pipeline, name)(*words, **options)
        return list(pipeline.execute(raise_on_error=raise_on_error))


def replies(client, way):
    if way == "plain":
        return [outcome(getattr(client, name), *words, **options) for name, words, options in COMMANDS]
    in_transaction = way in ("transaction", "watched")
    commands = [command for command in COMMANDS if not (in_transaction and command[0] in UNTAKEN)]
    return shown(execute(client, commands, in_transaction or None, way == "watched", False))[1]


def empty(cluster):
    for node in cluster.primaries():
        node.ask("FLUSHALL")


@pytest.mark.parametrize("way", WAYS)
def test_replies_are_those_of_redis_py(pair, cluster, way):
    theirs, ours = pair
    expected = replies(theirs, way)
    empty(cluster)
    assert replies(ours, way) == expected


@pytest.mark.parametrize("watched", [False, True])
def test_errors_of_transactions_are_those_of_redis_py(pair, cluster, watched):
    theirs, ours = pair
    for commands in TRANSACTIONS:
        calls = [(name, words, {}) for name, words in commands]
        for raise_on_error in (True, False):
            empty(cluster)
            expected = outcome(execute, theirs, calls, True, watched, raise_on_error)
            empty(cluster)
            assert outcome(execute, ours, calls, True, watched, raise_on_error) == expected


def test_what_is_sent_at_once_after_watch_has_the_replies_of_redis_py(pair, cluster):
    shapes = []
    for client in pair:
        empty(cluster)
        with client.pipeline(transaction=True) as pipeline:
            shapes.append([outcome(pipeline.watch, "one", "two"), outcome(pipeline.watch, "{t}w")])
            for name, words in (
                ("set", ("{t}s", 1)),
                ("zadd", ("{t}z", {"a": 1})),
                ("hgetall", ("{t}h",)),
                ("get", ("one",)),
            ):
                shapes[-1].append(outcome(getattr(pipeline, name), *words))
    assert shapes[1] == shapes[0]


def test_own_callbacks_shape_what_they_shape_in_redis_py(pair):
    shapes = []
    for client in pair:
        client.set("{t}s", 1)
        client.set_response_callback("GET", lambda reply, **_: ("shown", reply))
        get = [("get", ("{t}s",), {})]
        ways = ((None, False), (True, False), (True, True))
        shapes.append([client.get("{t}s"), *[execute(client, get, *way, True) for way in ways]])
    assert shapes[1] == shapes[0]


def test_a_command_of_a_pipeline_goes_to_the_node_that_it_is_for(pair, cluster):
    for client in pair:
        client.mset_nonatomic({f"key:{number}": number for number in range(50)})
        held = {node.port: int(node.ask("DBSIZE")) for node in cluster.primaries()}
        assert len(set(held.values())) > 1
        pipeline = client.pipeline()
        nodes = client.get_primaries()
        for node in nodes:
            pipeline.execute_command("DBSIZE", target_nodes=node)
        assert pipeline.execute() == [held[node.port] for node in nodes]


@pytest.mark.parametrize("watched", [False, True])
def test_a_transaction_may_be_long(cluster, connect_cluster, watched):
    calls = [("incr", ("{t}",), {})] * 5_000
    assert execute(connect_cluster(cluster), calls, True, watched, True) == list(range(1, 5_001))
