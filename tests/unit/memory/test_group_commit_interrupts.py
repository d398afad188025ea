"""A leader of PostgreSQL's group commit is interrupted: no caller is stranded, nothing is written twice."""

from __future__ import annotations

import threading

import pytest

from agent_memory.memory.errors import MemoryStoreUnavailableError
from agent_memory.memory.settings import PostgresSettings
from agent_memory.memory.stores.postgres._sync import group as group_commit
from agent_memory.memory.stores.postgres._sync.group import GroupCommit


class Interruption(BaseException):
    pass


class Transactions:
    """Transactions that are made up. `strikes` says at which of them, and when, the committing thread is interrupted."""

    def __init__(self, strikes, **settings):
        self.group = GroupCommit(PostgresSettings(**settings), self.apply)
        self.strikes = dict(strikes)
        self.count = 0
        self.committed = []
        self.may_go, self.has_begun = threading.Event(), threading.Event()

    def apply(self, operations):
        self.count += 1
        when = self.strikes.get(self.count)
        self.group.begins()
        self.has_begun.set()
        self.may_go.wait(10)
        if when == "before":
            raise Interruption
        self.group.ends()
        if when == "undone":
            raise Interruption
        self.committed += operations
        if when == "done":
            raise Interruption
        return [f"result of {operation}" for operation in operations]

    def run(self, *writes):
        """Each write in a thread of its own, the first alone, the others queued behind it; how each ended."""
        ended = {}

        def write(operations):
            try:
                ended[operations] = self.group.write(list(operations))
            except BaseException as error:
                ended[operations] = error

        threads = [threading.Thread(target=write, args=(operations,)) for operations in writes]
        threads[0].start()
        assert self.has_begun.wait(10)
        for number, thread in enumerate(threads[1:], 2):
            thread.start()
            while len(self.group._waiting) < number:
                threading.Event().wait(0.001)
        self.may_go.set()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
        return ended


def results(operations):
    return [f"result of {operation}" for operation in operations]


def test_others_are_committed_by_the_next_when_their_leader_is_interrupted_before_the_commit():
    transactions = Transactions({2: "before"})
    ended = transactions.run("a", "b", "c", "d")
    interrupted = [name for name, end in ended.items() if isinstance(end, Interruption)]
    assert len(interrupted) == 1
    others = set("abcd").difference(interrupted)
    assert {name: ended[name] for name in others} == {name: results(name) for name in others}
    assert sorted(transactions.committed) == sorted(others)
    assert transactions.group.pending == 0


@pytest.mark.parametrize("when", ["undone", "done"])
def test_where_the_commit_itself_was_interrupted_the_outcome_is_unknown(when):
    transactions = Transactions({2: when})
    ended = transactions.run("a", "b", "c", "d")
    assert ended.pop("a") == ["result of a"]
    assert sum(isinstance(end, Interruption) for end in ended.values()) == 1
    unknown = [end for end in ended.values() if isinstance(end, MemoryStoreUnavailableError)]
    assert len(unknown) == 2
    assert "outcome is unknown" in str(unknown[0])
    assert sorted(transactions.committed) == (["a"] if when == "undone" else ["a", "b", "c", "d"])
    assert transactions.group.pending == 0
    assert transactions.group.write(["e"]) == ["result of e"]


def test_a_long_write_that_another_thread_had_begun_goes_on_where_it_stopped(monkeypatch):
    monkeypatch.setattr(group_commit, "MAX_TRANSACTION_WRITES", 2)
    transactions = Transactions({3: "before"})
    ended = transactions.run("a", "bcdef", "gh")
    assert ended["a"] == ["result of a"]
    done = [name for name, end in ended.items() if not isinstance(end, Interruption)]
    for name in done:
        assert ended[name] == results(name)
        assert [one for one in transactions.committed if one in name] == list(name)
    assert transactions.group.pending == 0


def test_a_thread_that_was_interrupted_while_it_waited_leaves_the_line():
    transactions = Transactions({})
    call = threading.Thread(target=transactions.group.write, args=(["a"],))
    call.start()
    assert transactions.has_begun.wait(10)
    turn = transactions.group._turn

    class Turn:
        def __enter__(self):
            raise Interruption

        def __exit__(self, *_):
            raise AssertionError

    transactions.group._turn = Turn()
    with pytest.raises(Interruption):
        transactions.group.write(["b"])
    transactions.group._turn = turn
    transactions.may_go.set()
    call.join(10)
    assert transactions.group.write(["c"]) == ["result of c"]
    assert transactions.committed == ["a", "c"]
    assert transactions.group.pending == 0
