"""Interruptions at every place of a call of the sync memory system: locks are free, followers end, what was stored is there."""

from __future__ import annotations

import gc
import threading

import pytest
from interrupts import places, strike, within

from agent_memory import MemorySystem
from agent_memory.memory._batching import Batcher
from agent_memory.memory.settings import PostgresSettings
from agent_memory.memory.stores.postgres._sync.group import GroupCommit

# An object dropped between two steps is closed when it is freed.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


CALLS = {
    "store": lambda system, memory_id: system.store("agent", "a new one"),
    "store many": lambda system, memory_id: system.store_many("agent", [{"content": "one"}, {"content": "two"}]),
    "get": lambda system, memory_id: system.get("agent", memory_id),
    "update": lambda system, memory_id: system.update("agent", memory_id, content="changed"),
    "retrieve": lambda system, memory_id: system.retrieve("agent", "first memory"),
    "query": lambda system, memory_id: list(system.query("agent")),
    "delete": lambda system, memory_id: system.delete("agent", system.store("agent", "short lived")),
}


@pytest.fixture(params=["sql", "redis"])
def system(request, tmp_path):
    redis = None
    if request.param == "redis":
        redis = request.getfixturevalue("memory_redis")
    system = MemorySystem(tmp_path, redis=redis)
    system.open()
    yield system
    within(20, system.close)


@pytest.fixture
def memory_redis(shared_servers):
    import servers

    from agent_memory.redis import Redis

    server = shared_servers.get_clean(servers.REDIS)
    client = Redis(**server.connection_kwargs, socket_timeout=5, max_connections=4)
    yield client
    client.close()


def check(system, memory_id):
    """Another thread uses the same agent and the same memory: whatever was left locked holds it up."""
    new = system.store("agent", "stored afterwards")
    assert system.get("agent", new).content == "stored afterwards"
    assert system.get("agent", memory_id) is not None
    assert system.retrieve("agent", "memory")
    system.update("agent", memory_id, content="first memory")
    system.delete("agent", new)


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_of_the_memory_leaves_nothing_taken(system, name):
    memory_id = system.store("agent", "first memory")
    check(system, memory_id)
    gc.collect()
    for at in places(41):
        striker = strike(lambda: CALLS[name](system, memory_id), at)
        with striker.told():
            within(10, check, system, memory_id)
        if striker.place is None:
            break


class Followers:
    """Threads that come while a call is under way, and travel with it or behind it."""

    def __init__(self, call):
        self.call, self.ended, self.threads = call, {}, []

    def come(self, name):
        def run():
            try:
                self.ended[name] = self.call(name)
            except Exception as error:
                self.ended[name] = error

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def end(self):
        for thread in self.threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self.threads), "a follower has not ended"
        return self.ended


def test_an_interrupted_batch_strands_no_caller():
    for at in places(3):
        if not strike_a_batch(at):
            break


def strike_a_batch(at):
    followers = None

    def work(items):
        if items[0] == "main":
            for name in ("a", "b"):
                followers.come(name)
            while batcher._count < 2:
                pass
        return [item.upper() for item in items]

    batcher = Batcher(work, 10)
    followers = Followers(lambda name: batcher.call("key", name))
    striker = strike(lambda: batcher.call("key", "main"), at, ("/_batching.py",))
    with striker.told():
        ended = followers.end()
        assert all(end == name.upper() for name, end in ended.items())
        assert within(10, batcher.call, "key", "later") == "LATER"
        assert batcher._count == 0
        assert not batcher._lines
    return striker.place is not None


def test_an_interrupted_group_commit_strands_no_caller():
    for at in places(3):
        if not strike_a_group_commit(at):
            break


def strike_a_group_commit(at):
    committed = []

    def apply(operations):
        group.begins()
        if operations[0] == "main":
            for name in ("a", "b"):
                followers.come(name)
            while len(group._waiting) < 3:
                pass
        group.ends()
        committed.extend(operations)
        return [one.upper() for one in operations]

    group = GroupCommit(PostgresSettings(), apply)
    followers = Followers(lambda name: group.write([name]))
    striker = strike(lambda: group.write(["main"]), at, ("/_group.py",))
    with striker.told():
        ended = followers.end()
        assert all(end == [name.upper()] for name, end in ended.items())
        assert within(10, group.write, ["later"]) == ["LATER"]
        assert group.pending == 0
        assert not group._waiting
        assert len(committed) == len(set(committed))
    return striker.place is not None
