# Generated from ../_async/store_calls.py by tools/generate_sync.py: edit that file, not this one.

"""Every call of a SQL store, each with what has to be there before it: what is held against every error of a database."""

from __future__ import annotations

import itertools

from agent_memory.memory import MemoryStoreError, Tier, _copy
from agent_memory.memory.stores import Delete, MemoryQuery, Move, Put
from agent_memory.memory.stores.operations import Access

numbers = itertools.count()


def copy(agent, **options):
    number = next(numbers)
    options.setdefault("timestamp", 1_000.0)
    made = {"memory_id": f"e{number:06d}", "writer": 7, "created_us": 0, **options}
    return _copy.make_copy(agent, f"content {number}", **made)


def a_memory(store, agent, **options):
    return store.write([Put(copy(agent, **options))])[0]


def prepare_nothing(store, agent):
    return None


def prepare_one(store, agent):
    return a_memory(store, agent, user_id=f"u {agent}", key="k", tags=["t"])


def prepare_dead(store, agent):
    one = a_memory(store, agent)
    store.write([Delete(one.id, agent, writer=7)])


def prepare_due(store, agent):
    a_memory(store, agent, expires_at=5.0)


def prepare_erasure(store, agent):
    a_memory(store, agent)
    store.begin_erasure("agent", agent)


def prepare_user_erasure(store, agent):
    a_memory(store, agent, user_id=f"u {agent}")
    store.begin_erasure("user", f"u {agent}")


def prepare_long(store, agent):
    store.write([Put(copy(agent, tier=Tier.LTM, memory_type="x" * 9)) for _ in range(60)])


def put_several(store, agent, _):
    options = {"user_id": f"u {agent}", "tags": ["t"], "embedding": [1.0]}
    copies = [copy(agent, **options), copy(agent, key="k2", **options), copy(agent, idempotency_key="i", **options)]
    assert [result.status for result in store.write([Put(one) for one in copies])] == [0, 0, 0]
    return 3


def put_over(store, agent, one):
    copies = [copy(agent, memory_id=one.id, user_id=f"u {agent}", key="k")]
    assert [result.status for result in store.write([Put(one) for one in copies])] == [0]
    return 1


def delete_one(store, agent, one):
    assert store.write([Delete(one.id, agent, writer=7)])[0].status == 0
    return 1


def move_one(store, agent, one):
    assert store.write([Move(one.id, agent, one.version, Tier.LTM)])[0].status == 0
    return 1


def record_accesses(store, agent, one):
    store.record_accesses([Access(one.id, 2, 9.0)])
    return 0


def expire(store, agent, _):
    assert len(store.expire(10.0)) >= 1  # what was refused before, too
    return 1


def purge(store, agent, _):
    assert store.purge_tombstones(2**52) >= 1
    return 0


def begin_erasure(store, agent, _):
    assert store.begin_erasure("agent", agent).generation == 2
    return 0


def begin_user_erasure(store, agent, _):
    assert store.begin_erasure("user", f"u {agent}").remaining
    return 0


def erase(store, agent, _):
    assert store.erase("agent", agent).remaining is False
    return 0


def erase_user(store, agent, _):
    erasure = store.erase("user", f"u {agent}")
    assert (erasure.erased, erasure.remaining) == (1, False)
    return 1


def train(store, agent, _):
    assert store.train_dictionary(force=True)
    return 0


def reading(name, *arguments):
    def read(store, agent, one):
        given = [agent if word == "AGENT" else [one.id] if word == "IDS" else word for word in arguments]
        given = [MemoryQuery(agent_id=agent) if word == "QUERY" else word for word in given]
        answer = getattr(store, name)(*given)
        assert answer or name in ("check_writable", "crowded", "erasures", "accesses")
        return 0

    return prepare_one, read


CALLS = {
    "put several": (prepare_nothing, put_several),
    "put over": (prepare_one, put_over),
    "delete": (prepare_one, delete_one),
    "move": (prepare_one, move_one),
    "record_accesses": (prepare_one, record_accesses),
    "expire": (prepare_due, expire),
    "purge_tombstones": (prepare_dead, purge),
    "begin_erasure of an agent": (prepare_one, begin_erasure),
    "begin_erasure of a user": (prepare_one, begin_user_erasure),
    "erase an agent": (prepare_erasure, erase),
    "erase a user": (prepare_user_erasure, erase_user),
    "train_dictionary": (prepare_long, train),
    "get": reading("get", "IDS"),
    "get_by_key": (prepare_one, None),
    "query": reading("query", "QUERY"),
    "count": reading("count", "QUERY"),
    "changes": reading("changes", "AGENT"),
    "agent": reading("agent", "AGENT"),
    "agents": reading("agents"),
    "crowded": reading("crowded", Tier.STM, 10_000),
    "namespaces": reading("namespaces", "AGENT"),
    "aged": reading("aged", Tier.STM, 2**52),
    "oldest": reading("oldest", "AGENT", Tier.STM),
    "accesses": reading("accesses", "IDS"),
    "user_agents": (prepare_one, None),
    "erasures": reading("erasures"),
    "check_writable": reading("check_writable"),
}


def get_by_key(store, agent, one):
    assert store.get_by_key(agent, "k", (), f"u {agent}").id == one.id
    return 0


def user_agents(store, agent, one):
    assert store.user_agents(f"u {agent}") == [agent]
    return 0


CALLS["get_by_key"] = (prepare_one, get_by_key)
CALLS["user_agents"] = (prepare_one, user_agents)
READS = frozenset(
    "get get_by_key query count changes agent agents crowded namespaces aged oldest accesses user_agents erasures"
    " check_writable".split()
)


def seq_of(store, agent):
    state = store.agent(agent)
    return 0 if state is None else state.seq


def tried(call, store, agent, prepared):
    try:
        return call(store, agent, prepared), None
    except MemoryStoreError as error:
        return 0, error
