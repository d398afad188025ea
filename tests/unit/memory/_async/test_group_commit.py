"""Group commit of the PostgreSQL store, with a transaction made up."""

from __future__ import annotations

from agent_memory.memory.settings import PostgresSettings
from agent_memory.memory.stores.postgres._async import group as group_commit
from agent_memory.memory.stores.postgres._async.group import AsyncGroupCommit, _Call


async def test_a_caller_whose_turn_comes_before_that_of_earlier_calls_gets_its_own_results(monkeypatch):
    monkeypatch.setattr(group_commit, "MAX_TRANSACTION_WRITES", 3)
    transactions = []

    async def apply(operations):
        transactions.append(list(operations))
        return [f"result of {operation}" for operation in operations]

    group = AsyncGroupCommit(PostgresSettings(), apply)
    earlier = [_Call(["a", "b"]), _Call(["c", "d"])]
    group._waiting.update(dict.fromkeys(earlier))
    group.pending = 4

    assert await group.write(["e", "f", "g"]) == ["result of e", "result of f", "result of g"]
    assert transactions == [["a", "b"], ["c", "d"], ["e", "f", "g"]]
    assert [call.results for call in earlier] == [["result of a", "result of b"], ["result of c", "result of d"]]
    assert group.pending == 0
