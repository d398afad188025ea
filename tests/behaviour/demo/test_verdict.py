"""The check at the end of the demo must be able to fail: databases that do not hold what was promised."""

from types import SimpleNamespace

import pytest
import redis
from demo.ledger import CounterLedger, KeyLedger, QueuedWrite, foreign_reply, render_value
from demo.verdict import judge

from agent_memory.recovery.results import StoreStatus


@pytest.fixture
def database(valkey):
    with redis.Redis(**valkey.connection_kwargs) as client:
        client.connection_kwargs = valkey.connection_kwargs
        yield client


def owner(*keys, counter=None, queued=(), foreign_replies=0):
    """What the judge sees of a worker."""
    return SimpleNamespace(
        name="owner", keys=list(keys), counter=counter, queued=list(queued), foreign_replies=foreign_replies
    )


def string_ledger(*, accepted, unknown=()):
    ledger = KeyLedger("key", accepted=accepted, accepted_count=accepted)
    ledger.unknown.update(unknown)
    return ledger


@pytest.mark.parametrize(
    ("accepted", "unknown", "held", "right"),
    [
        (3, (), 3, True),
        (3, (), 2, False),  # an older write came back
        (3, (), None, False),  # lost
        (3, (4, 6), 6, True),
        (3, (4, 6), 3, True),
        (3, (4, 6), 5, False),  # a write that the client said was not executed
        (0, (), None, True),
        (0, (1,), 1, True),
    ],
)
def test_a_key_holds_its_last_accepted_write_or_a_later_one_of_unknown_outcome(
    database, accepted, unknown, held, right
):
    if held is not None:
        database.set("key", render_value("key", held))
    verdict = judge(database.connection_kwargs, [owner(string_ledger(accepted=accepted, unknown=unknown))], [])
    assert verdict.passed is right
    assert verdict.missing_writes == (0 if right else 1)
    assert len(verdict.problems) == verdict.missing_writes


@pytest.mark.parametrize(
    ("fields", "right"),
    [
        ({"value": render_value("key", 2), "sequence": "2"}, True),
        ({"value": render_value("key", 2), "sequence": "1"}, False),  # half of one write and half of another
        ({"sequence": "2"}, False),
        ({"value": render_value("other", 2), "sequence": "2"}, False),
    ],
)
def test_a_hash_holds_both_fields_of_one_write(database, fields, right):
    database.hset("key", mapping=fields)
    ledger = KeyLedger("key", is_hash=True, accepted=2, accepted_count=2)
    assert judge(database.connection_kwargs, [owner(ledger)], []).passed is right


@pytest.mark.parametrize(("value", "right"), [(4, False), (5, True), (7, True), (8, False)])
def test_a_counter_stands_between_what_is_certain_and_what_is_possible(database, value, right):
    database.set("counter", value)
    counter = CounterLedger("counter", attempted=9, acknowledged=5, unknown=2)
    verdict = judge(database.connection_kwargs, [owner(counter=counter)], [])
    assert verdict.passed is right
    assert verdict.wrong_counters == (0 if right else 1)


@pytest.mark.parametrize("status", [StoreStatus.QUEUED, StoreStatus.FAILED, StoreStatus.DROPPED])
def test_a_queued_write_that_was_not_stored_is_missing(database, status):
    database.set("key", render_value("key", 1))
    write = QueuedWrite("key", 1, SimpleNamespace(status=status))
    verdict = judge(database.connection_kwargs, [owner(string_ledger(accepted=1), queued=[write])], [])
    assert not verdict.passed
    assert (verdict.queued_writes, verdict.drained_writes) == (1, 0)


def test_replies_of_other_calls_and_unexpected_errors_are_not_forgiven(database):
    assert not judge(database.connection_kwargs, [owner(foreign_replies=1)], []).passed
    assert not judge(database.connection_kwargs, [], ["ValueError: surprise"]).passed


def test_names_only_the_first_problems(database):
    ledgers = [KeyLedger(f"lost {number}", accepted=1, accepted_count=1) for number in range(500)]
    verdict = judge(database.connection_kwargs, [owner(*ledgers)], [])
    assert verdict.missing_writes == 500
    assert len(verdict.problems) == 20


def test_a_reply_tells_which_key_it_belongs_to():
    assert not foreign_reply("key", None)
    assert not foreign_reply("key", render_value("key", 12))
    assert foreign_reply("key", render_value("other", 12))
    assert foreign_reply("key", b"bytes")
    assert foreign_reply("key", 5)
