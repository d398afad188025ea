"""What commands touch, seen from their packed words, and which of them may pass others on a second connection."""

import contextvars
from types import SimpleNamespace

import pytest

from agent_memory._core import Exchange, pack_command
from agent_memory.redis.commands.categories import ABSOLUTE_WRITES, READS, RELATIVE_WRITES
from agent_memory.redis.transport.multiplexed.order import KEPT_BYTES, Touch, Unanswered, touch_of


def touch(*commands):
    return touch_of(b"".join(pack_command(tuple(command.split())) for command in commands))


def reads(*keys):
    return Touch(frozenset(key.encode() for key in keys), False)


def writes(*keys):
    return Touch(frozenset(key.encode() for key in keys), True)


READ_ALL = Touch(None, False)
ANYTHING = Touch(None, True)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("GET a", reads("a")),
        ("get a", reads("a")),
        ("MGET a b c", reads("a", "b", "c")),
        ("LCS a b LEN", reads("a", "b")),
        ("ZINTER 2 a b WITHSCORES", reads("a", "b")),
        ("EVAL_RO script 1 a b", reads("a")),
        ("OBJECT ENCODING a", reads("a")),
        ("MEMORY USAGE a SAMPLES 0", reads("a")),
        ("XINFO STREAM a", reads("a")),
        ("PING", reads()),
        ("ECHO a", reads()),
        ("SET a 1 EX 5", writes("a")),
        ("DEL a b", writes("a", "b")),
        ("MSET a 1 b 2", writes("a", "b")),
        ("COPY a b", writes("a", "b")),
        ("EVAL script 2 a b c", writes("a", "b")),
        ("XGROUP CREATE a group 0", writes("a")),
        ("PUBLISH a message", writes("channel a")),
        ("SORT a STORE b", writes("a", "b")),
        ("SORT a BY weight_*", ANYTHING),
        ("SORT_RO a GET value_*", READ_ALL),
        ("EVAL script 0", ANYTHING),
        ("EVAL_RO script 0", READ_ALL),
        ("EVAL script x a", ANYTHING),
        ("FLUSHDB", ANYTHING),
        ("SCRIPT FLUSH", ANYTHING),
        ("JSON.SET a . 1", ANYTHING),
        ("GET", READ_ALL),
        ("KEYS *", READ_ALL),
        ("SCAN 0", READ_ALL),
        ("DBSIZE", READ_ALL),
        ("RANDOMKEY", READ_ALL),
        ("INFO", READ_ALL),
        ("CONFIG GET save", READ_ALL),
        ("CLIENT LIST", READ_ALL),
        ("CLIENT KILL ID 5", ANYTHING),
    ],
)
def test_what_a_command_touches(command, expected):
    assert touch(command) == expected


def test_several_commands_touch_what_any_of_them_touches():
    assert touch("GET a", "GET b") == reads("a", "b")
    assert touch("MULTI", "GET a", "SET b 1", "EXEC") == writes("a", "b")
    assert touch("GET a", "DBSIZE") == READ_ALL
    assert touch("SET a 1", "DBSIZE") == ANYTHING


def test_every_known_command_has_an_answer():
    for name in READS | ABSOLUTE_WRITES | RELATIVE_WRITES:
        for words in (name, f"{name} a", f"{name} a b c d"):
            assert isinstance(touch(words), Touch)


class Kept(Exchange):
    keeps_all = False


def keep(parts):
    """What a connection keeps of a write; an empty part belongs to the one before."""
    exchange = Kept()
    silent = SimpleNamespace(feed=None, gets=None, has_data=None)
    exchange._begin(
        event_loop=SimpleNamespace(call_soon=lambda *_, **__: None, time=lambda: 1.0),
        context=contextvars.Context(),
        reader=silent,
        incomplete=None,
        push=object,
        undecodable=repr,
        surplus=ValueError,
        raise_error=repr,
        buffer=bytearray(1),
        max_in_flight=100,
        kept_bytes=KEPT_BYTES,
        large_write_bytes=1_000_000,
    )
    exchange.append_all(None, parts[0], len(parts), [])
    exchange.flush()
    ((upto, at_s, first_byte, kept),) = exchange.hand_overs()
    assert (upto, at_s, first_byte) == (len(parts), 1.0, 0)
    return kept


def test_of_a_large_command_its_beginning_is_kept():
    (kept,) = keep([pack_command(("SET", "a", "x" * 100_000))])
    assert len(kept) == KEPT_BYTES
    assert touch_of(kept) == writes("a")
    (kept,) = keep([pack_command(("MSET", "a", "x" * 100_000, "b", "y"))])
    assert touch_of(kept) == ANYTHING
    (kept,) = keep([pack_command(("SET", "k" * 100_000, "x"))])
    assert touch_of(kept) == touch_of(pack_command(("SET", "k" * 100_000, "x")))
    window = pack_command(("SET", "a", "x" * 100_000)) + pack_command(("SET", "b", "x"))
    assert touch_of(keep([window, b""])[0]) == ANYTHING


def test_long_keys_are_compared_by_their_beginning():
    one, other = (touch_of(pack_command(("SET", "k" * 2_000 + end, "v"))) for end in "ab")
    assert one == other


def test_bytes_that_are_no_command_touch_anything():
    for packed in (b"?", b"*1\r\n", b"*x\r\n$1\r\na\r\n", b"*0\r\n"):
        assert touch_of(packed) == ANYTHING


def held_up(sent, candidate, executed_upto=0):
    unanswered = Unanswered()
    for number, one in enumerate(sent):
        unanswered.add(number + 1, touch(one))
    return unanswered.hold_up(touch(candidate), executed_upto)


@pytest.mark.parametrize(
    ("sent", "candidate", "expected"),
    [
        (["SET a 1"], "SET a 2", True),
        (["SET a 1"], "GET a", True),
        (["GET a"], "SET a 1", True),
        (["GET a"], "GET a", False),  # two reads need no order
        (["SET a 1"], "SET b 1", False),
        (["SET a 1"], "MSET b 1 a 1", True),
        (["EVAL script 0"], "GET b", True),
        (["DBSIZE"], "GET b", False),
        (["DBSIZE"], "SET b 1", True),
        (["GET a"], "DBSIZE", False),
        (["SET a 1"], "DBSIZE", True),
        (["GET a"], "FLUSHDB", True),
        (["PING"], "SET a 1", False),
        (["EVAL script 0"], "PING", False),
        ([], "FLUSHDB", False),
    ],
)
def test_which_command_waits_for_which(sent, candidate, expected):
    assert held_up(sent, candidate) is expected


def test_what_is_being_answered_holds_up_only_its_own_keys():
    assert not held_up(["KEYS *"], "SET a 1", executed_upto=1)
    assert not held_up(["EVAL script 0"], "SET a 1", executed_upto=1)
    assert not held_up(["GET a"], "FLUSHDB", executed_upto=1)
    assert held_up(["GET a"], "SET a 1", executed_upto=1)
    assert held_up(["GET a", "GET b"], "FLUSHDB", executed_upto=1)
    assert held_up(["GET a", "EVAL script 0"], "SET b 1", executed_upto=1)
    assert held_up(["MULTI", "SET b 1"], "SET b 2", executed_upto=1)


def test_reads_of_a_large_value_stay_behind_each_other():
    unanswered = Unanswered()
    unanswered.add(1, touch("GET a"))
    unanswered.add(2, touch("GET a"))
    assert not unanswered.hold_up(touch("GET a"), 1)
    unanswered.note_large(1)
    assert unanswered.hold_up(touch("GET a"), 1)
    assert unanswered.hold_up(touch("MGET b a"), 1)
    assert not unanswered.hold_up(touch("GET b"), 1)
    unanswered.answer(1)
    assert unanswered.hold_up(touch("GET a"))
    unanswered.answer(2)
    assert not unanswered.hold_up(touch("GET a"))


def test_what_has_been_answered_holds_up_nothing():
    unanswered = Unanswered()
    unanswered.add(3, touch("MULTI", "SET a 1", "EXEC"))
    unanswered.add(4, touch("EVAL script 0"))
    unanswered.answer(2)
    assert unanswered.hold_up(touch("GET a"))
    unanswered.answer(3)
    assert unanswered.hold_up(touch("GET a"))
    unanswered.answer(4)
    assert not unanswered.hold_up(touch("SET a 1"))
    assert not unanswered.hold_up(touch("FLUSHDB"))
    assert len(unanswered) == 0


def test_parts_of_a_flush_have_a_slot_each():
    unanswered = Unanswered()
    window = pack_command(("SET", "a", "1")) + pack_command(("SET", "b", "1"))
    unanswered.add_all(10, [pack_command(("SET", "c", "1")), window, b"", pack_command(("SET", "d", "1"))])
    unanswered.answer(11)
    assert not unanswered.hold_up(touch("SET c 1"))
    unanswered.answer(12)
    assert unanswered.hold_up(touch("SET a 1"))
    unanswered.answer(13)
    assert not unanswered.hold_up(touch("SET b 1"))
    assert unanswered.hold_up(touch("SET d 1"))
