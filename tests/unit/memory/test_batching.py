"""Calls of one turn of the event loop that become one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent_memory.memory import _batching
from agent_memory.memory._batching import AsyncTurns, Batcher, Turns


def refuse(item):
    return ValueError(f"{item} is refused") if item < 0 else 10 * item


async def test_what_tasks_ask_for_in_one_turn_travels_together_and_the_next_turn_does_not_wait_for_it():
    batches, has_begun, gate = [], asyncio.Event(), asyncio.Event()

    async def work(items):
        batches.append(list(items))
        has_begun.set()
        if items[0] == 1:
            await gate.wait()
        return [refuse(item) for item in items]

    turns = AsyncTurns(work)
    first = [asyncio.ensure_future(turns.call(item)) for item in (1, -2, 3)]
    await has_begun.wait()
    assert await turns.call(4) == 40
    assert batches == [[1, -2, 3], [4]]
    first[2].cancel()
    gate.set()
    found = await asyncio.gather(*first, return_exceptions=True)
    assert found[0] == 10
    assert str(found[1]) == "-2 is refused"
    assert isinstance(found[2], asyncio.CancelledError)


async def test_a_failure_of_all_is_raised_to_all_and_the_next_call_begins_anew():
    failures = [OSError("away")]

    async def work(items):
        if failures:
            raise failures.pop()
        return items

    turns = AsyncTurns(work)
    found = await asyncio.gather(turns.call(1), turns.call(2), return_exceptions=True)
    assert [str(error) for error in found] == ["away", "away"]
    assert await turns.call(3) == 3


async def test_more_calls_of_a_turn_than_may_wait_are_refused(monkeypatch):
    monkeypatch.setattr(_batching, "MAX_WAITING", 2)

    async def work(items):
        return items

    turns = AsyncTurns(work)
    found = await asyncio.gather(*(turns.call(item) for item in range(3)), return_exceptions=True)
    assert found[:2] == [0, 1]
    assert str(found[2]) == "items of one turn must be at most 2, got one more"


def test_a_thread_calls_alone():
    turns = Turns(lambda items: [refuse(item) for item in items])
    assert turns.call(2) == 20
    with pytest.raises(ValueError, match="-1 is refused"):
        turns.call(-1)


class Interrupted(BaseException):
    pass


def in_thread(said, call, item):
    def run():
        try:
            said[item] = call("key", item)
        except BaseException as error:
            said[item] = type(error).__name__

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def until(condition):
    while not condition():
        threading.Event().wait(0.001)


def test_an_interrupted_leader_hands_over_and_the_others_get_their_own_results():
    has_begun, gate, said = threading.Event(), threading.Event(), {}

    def work(items):
        has_begun.set()
        assert gate.wait(30)
        if items[0] == 2 and "interrupted" not in said:
            said["interrupted"] = list(items)
            raise Interrupted
        return [10 * item for item in items]

    batcher = Batcher(work, 10)
    threads = [in_thread(said, batcher.call, 1)]
    assert has_begun.wait(30)
    for item in (2, 3, 4):
        threads.append(in_thread(said, batcher.call, item))
        until(lambda item=item: len(batcher._lines["key"].seats) == item)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert said == {1: 10, 2: "Interrupted", 3: 30, 4: 40, "interrupted": [2, 3, 4]}
    assert (batcher._lines, batcher._count) == ({}, 0)


@pytest.mark.parametrize("takes_its_turn", [True, False])
def test_an_interrupted_caller_leaves_the_line(takes_its_turn):
    has_begun, gate, said = threading.Event(), threading.Event(), {}

    def work(items):
        has_begun.set()
        assert gate.wait(30)
        return [10 * item for item in items]

    class Lock:
        """Of a seat; the thread that waits for it is interrupted."""

        def acquire(self, timeout):
            if takes_its_turn:
                gate.set()
                leader.join(30)  # which has handed over by now
            raise Interrupted

        def release(self):
            pass

    batcher = Batcher(work, 10)
    leader = in_thread(said, batcher.call, 1)
    assert has_begun.wait(30)
    seat = _batching._Seat
    interrupted = type(
        "Seat", (seat,), {"__init__": lambda self, item: (seat.__init__(self, item), setattr(self, "ready", Lock()))[0]}
    )
    _batching._Seat = interrupted
    try:
        with pytest.raises(Interrupted):
            batcher.call("key", 2)
    finally:
        _batching._Seat = seat
    gate.set()
    leader.join(30)
    assert batcher.call("key", 3) == 30
    assert (said, batcher._lines, batcher._count) == ({1: 10}, {}, 0)
