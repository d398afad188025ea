"""The recovery queue from Python; its order is tested against a model in Rust."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest

from agent_memory.errors import RecoveryQueueFullError
from agent_memory.policy import Priority, RecoveryQueue


@pytest.fixture
def queue(clock):
    return RecoveryQueue(clock=clock)


def drain(queue):
    served = []
    while (entry := queue.pop_due()) is not None:
        served.append(entry.payload)
        queue.complete(entry.id)
    return served


def test_the_most_urgent_first_and_each_key_in_order(queue):
    for payload, (key, priority) in enumerate(
        [
            ("a", Priority.LOW),
            ("a", Priority.CRITICAL),
            ("b", Priority.NORMAL),
            ("c", Priority.HIGH),
            ("b", Priority.HIGH),
        ]
    ):
        queue.push(key, payload, priority=priority)
    assert drain(queue) == [3, 2, 4, 0, 1]


def test_equal_priorities_are_served_in_the_order_they_came(queue):
    for number in range(100):
        queue.push(f"key{number}", number, priority=Priority.NORMAL)
    assert drain(queue) == list(range(100))


def test_a_lease_blocks_its_keys_until_it_ends(queue, clock):
    first = queue.push("k", "first", priority=Priority.NORMAL, size_bytes=10)
    queue.push("k", "second", priority=Priority.CRITICAL, size_bytes=5)
    entry = queue.pop_due()
    assert (entry.id, entry.payload, entry.keys, entry.attempts) == (first, "first", (b"k",), 0)
    assert (entry.priority, entry.size_bytes, entry.reason) == (Priority.NORMAL, 10, None)
    assert queue.pop_due() is None
    assert queue.next_due_in_s() is None
    assert (len(queue), queue.size_bytes) == (2, 15)
    queue.retry(first, 2.5)
    assert queue.next_due_in_s() == 2.5
    assert queue.pop_due() is None
    clock.advance(2.5)
    entry = queue.pop_due()
    assert (entry.payload, entry.attempts, entry.age_s) == ("first", 1, 2.5)
    queue.complete(first)
    assert queue.pop_due().payload == "second"
    assert (len(queue), queue.size_bytes) == (1, 5)


def test_keys_are_bytes_or_str_one_or_many(queue):
    queue.push("schlüssel", 1, priority=Priority.NORMAL)
    queue.push([b"a", "b", b"a"], 2, priority=Priority.NORMAL)
    queue.push((), 3, priority=Priority.NORMAL)
    assert queue.keys_queued("schlüssel".encode())
    assert queue.keys_queued("a")
    assert queue.keys_queued(b"b")
    assert not queue.keys_queued("c")
    assert [queue.pop_due().keys for _ in range(3)] == [("schlüssel".encode(),), (b"a", b"b"), ()]
    for keys in (7, [7], None, [None]):
        with pytest.raises(TypeError):
            queue.push(keys, 1, priority=Priority.NORMAL)


def test_absolute_writes_coalesce(queue, clock):
    first = queue.push("k", {"v": 1}, priority=Priority.LOW, coalesce=True, size_bytes=100, due_in_s=5)
    clock.advance(1)
    assert queue.push("k", {"v": 2}, priority=Priority.HIGH, coalesce=True, size_bytes=10, due_in_s=9) == first
    assert (len(queue), queue.size_bytes, queue.stats()["superseded"]) == (1, 10, 1)
    assert queue.next_due_in_s() == 4.0
    clock.advance(4)
    entry = queue.pop_due()
    assert (entry.payload, entry.priority) == ({"v": 2}, Priority.HIGH)
    assert queue.push("k", {"v": 3}, priority=Priority.HIGH, coalesce=True) != first, "a leased entry is not replaced"


def test_a_newer_success_cancels_what_it_supersedes(queue):
    queue.push("k", 1, priority=Priority.NORMAL, coalesce=True)
    queue.push("k", 2, priority=Priority.NORMAL)
    queue.push("k", 3, priority=Priority.NORMAL, coalesce=True)
    assert queue.cancel_superseded("k") == 2
    assert drain(queue) == [2]


def test_a_full_queue_refuses_by_a_named_error(clock):
    queue = RecoveryQueue(max_entries=2, max_bytes=100, clock=clock)
    queue.push("a", 1, priority=Priority.NORMAL, size_bytes=60)
    with pytest.raises(RecoveryQueueFullError, match=r"max_bytes \(100\)"):
        queue.push("b", 2, priority=Priority.NORMAL, size_bytes=41)
    queue.push("b", 3, priority=Priority.NORMAL)
    with pytest.raises(RecoveryQueueFullError, match=r"max_entries \(2\)"):
        queue.push("c", 4, priority=Priority.NORMAL)
    assert queue.stats()["refused"] == 2
    assert drain(queue) == [1, 3]


def test_dead_letters(clock):
    queue = RecoveryQueue(max_dead_letters=2, max_age_s=60, clock=clock)
    for payload in range(3):
        queue.push("k", payload, priority=Priority.NORMAL, size_bytes=7)
        queue.discard(queue.pop_due().id, f"poison {payload}")
    queue.push("k", 3, priority=Priority.HIGH)
    clock.advance(60)
    assert queue.pop_due() is None
    letters = queue.dead_letters()
    assert [(letter.payload, letter.reason) for letter in letters] == [(2, "poison 2"), (3, "expired")]
    assert (letters[0].age_s, letters[0].keys, letters[0].size_bytes) == (60.0, (b"k",), 7)
    stats = queue.stats()
    assert (stats["expired"], stats["discarded"], stats["dead_letters_dropped"]) == (1, 3, 2)
    new_id = queue.retry_dead(letters[0].id)
    entry = queue.pop_due()
    assert (entry.id, entry.payload, entry.attempts, entry.age_s) == (new_id, 2, 0, 0.0)
    with pytest.raises(KeyError):
        queue.retry_dead(letters[0].id)


def test_ids_that_do_not_fit_are_key_errors(queue):
    entry_id = queue.push("k", 1, priority=Priority.NORMAL)
    for method in (queue.complete, queue.retry):
        with pytest.raises(KeyError, match="not leased"):
            method(entry_id)
    queue.pop_due()
    queue.complete(entry_id)
    with pytest.raises(KeyError, match="no entry"):
        queue.complete(entry_id)
    with pytest.raises(KeyError, match="no entry"):
        queue.discard(entry_id, "gone")


def test_a_worker_that_takes_over_gets_the_leases_back(queue):
    queue.push("a", 1, priority=Priority.NORMAL)
    queue.push("a", 2, priority=Priority.NORMAL)
    queue.pop_due()
    assert queue.release_leases() == 1
    assert drain(queue) == [1, 2]


def test_leases_have_an_owner(queue):
    """A worker that takes over leaves those of calls and of other workers alone; an ended lease is no lease."""
    for key in ("a", "b", "c"):
        queue.push(key, key, priority=Priority.HIGH, coalesce=True)
    called = queue.lease_superseded("a", 7)
    first, second = queue.pop_due(1), queue.pop_due(2)
    assert len({called.lease, first.lease, second.lease}) == 3
    assert [entry.lease for entry in queue.entries()] == [called.lease, first.lease, second.lease]
    assert queue.release_leases(1) == 1
    assert queue.is_leased_to_calls()
    for ended in (queue.complete, queue.retry, queue.release):
        with pytest.raises(KeyError, match="not leased"):
            ended(first.id, lease=first.lease)
    assert queue.pop_due_many(5, 3)[0].id == first.id
    queue.complete(second.id, lease=second.lease)
    assert queue.release_call(7)
    assert not queue.release_call(7)
    assert not queue.is_leased_to_calls()
    with pytest.raises(KeyError, match="not leased"):
        queue.complete(called.id, lease=called.lease)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_entries": 0}, "max_entries must be >= 1, got 0"),
        ({"max_bytes": 0}, "max_bytes must be >= 1, got 0"),
        ({"max_age_s": -1}, "max_age_s must be > 0 seconds, got -1.0"),
        ({"max_dead_letters": -1}, "max_dead_letters must be >= 0, got -1"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match="must be") as caught:
        RecoveryQueue(**options)
    assert str(caught.value) == message


def test_arguments_that_make_no_sense_are_refused(queue):
    with pytest.raises(ValueError, match="priority must be"):
        queue.push("k", 1, priority=4)
    with pytest.raises(ValueError, match=r"due_in_s must be >= 0, got -1\.0"):
        queue.push("k", 1, priority=Priority.NORMAL, due_in_s=-1)
    queue.push("k", 1, priority=Priority.NORMAL)
    with pytest.raises(ValueError, match="delay_s must be >= 0, got nan"):
        queue.retry(queue.pop_due().id, float("nan"))


def test_no_stored_value_shows_in_a_repr(queue):
    queue.push("secret-key", "secret-value", priority=Priority.NORMAL)
    entry = queue.pop_due()
    queue.discard(entry.id, "poison")
    assert "secret" not in repr(entry) + repr(queue.dead_letters()[0]) + repr(queue)


class Payload:
    """Uses the queue while it is being dropped."""

    def __init__(self, queue):
        self.queue = queue

    def __del__(self):
        len(self.queue)


def test_a_payload_may_use_the_queue_while_it_is_dropped(queue):
    queue.push("k", Payload(queue), priority=Priority.NORMAL, coalesce=True)
    queue.push("k", Payload(queue), priority=Priority.NORMAL, coalesce=True)
    queue.complete(queue.pop_due().id)
    queue.push("k", Payload(queue), priority=Priority.NORMAL, coalesce=True)
    assert queue.cancel_superseded("k") == 1


def test_a_cycle_through_a_payload_is_collected():
    def make_cycle():
        queue = RecoveryQueue()
        queue.push("a", lambda: queue, priority=Priority.NORMAL)
        dead = queue.push("b", lambda: queue, priority=Priority.NORMAL)
        queue.discard(dead, "poison")
        return weakref.ref(queue)

    reference = make_cycle()
    gc.collect()
    assert reference() is None


def test_threads_serve_every_entry_once_and_each_key_in_order():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        queue = RecoveryQueue()
        producers, entries_each, keys = 4, 500, 10
        served, lock, done = {}, threading.Lock(), threading.Event()

        def produce(producer):
            for number in range(entries_each):
                key = f"{producer}:{number % keys}"
                queue.push(key, (key, number), priority=Priority(number % 4))

        def consume():
            while True:
                finished = done.is_set()
                entry = queue.pop_due()
                if entry is None:
                    if finished and len(queue) == 0:
                        return
                    continue
                key, number = entry.payload
                with lock:
                    served.setdefault(key, []).append(number)
                if number % 3 == 0 and entry.attempts == 0:
                    with lock:
                        served[key].pop()
                    queue.retry(entry.id)
                else:
                    queue.complete(entry.id)

        threads = [threading.Thread(target=produce, args=(producer,)) for producer in range(producers)]
        consumers = [threading.Thread(target=consume) for _ in range(4)]
        for thread in threads + consumers:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        for thread in consumers:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(served) == producers * keys
    assert all(numbers == sorted(numbers) for numbers in served.values())
    assert sum(map(len, served.values())) == producers * entries_each
    assert queue.stats()["completed"] == producers * entries_each
