# Generated from ../_async/test_queued_writes.py by tools/generate_sync.py: edit that file, not this one.

"""What a queued command holds: as little as it can, since a million of them may wait."""

import tracemalloc

from agent_memory import Priority, RecoveryConfig, ResilientRedisClient
from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.recovery._sync.queued_writes import CommandWrite, InheritedCommandWrite, shape_of

PACKED = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"
SHAPE = shape_of(("SET",), True)


class Ticket:
    """Counts its holders, as the tickets of the fence do."""

    token = b"token"

    def __init__(self):
        self.held_by = []

    def hold(self, by):
        self.held_by.append(by)

    def release(self, by):
        self.held_by.remove(by)


def unknown_to(ticket):
    error = RedisUnavailableError("lost", outcome=Outcome.UNKNOWN)
    error.ticket = ticket
    return error


def test_one_command_and_several_are_described_alike():
    one, several = (
        CommandWrite(PACKED, SHAPE),
        CommandWrite((PACKED, PACKED), shape_of(("SET", "SET"), True, True)),
    )
    assert (one.packed, one.joined, one.count) == ((PACKED,), PACKED, 1)
    assert (several.packed, several.joined, several.count) == ((PACKED, PACKED), 2 * PACKED, 2)
    assert several.size_bytes - one.size_bytes == len(PACKED)
    several.only([1])
    assert (several.packed, several.shape.names, several.count) == ((PACKED,), ("SET",), 1)
    assert [CommandWrite.is_inherited, InheritedCommandWrite.is_inherited] == [False, True]


def test_record_unknown_token_and_ticket_do_not_disturb_each_other():
    write, first, second = CommandWrite(PACKED, SHAPE), Ticket(), Ticket()
    write.unknown_token, write.ticket = None, None
    assert (write.record, write.unknown_token, write.ticket) == (None, None, None)
    write.record = 7
    write.note_unknown(unknown_to(first))
    assert (write.record, write.unknown_token, write.ticket, first.held_by) == (7, b"token", first, [write])
    write.record = 8
    write.note_unknown(unknown_to(second))
    assert (write.record, write.ticket, first.held_by, second.held_by) == (8, second, [], [write])
    write.unknown_token = None
    assert (write.record, write.unknown_token, write.ticket) == (8, None, second)
    write.leave_journal()
    assert (write.record, write.ticket, second.held_by) == (None, None, [])
    write.leave_journal()


def test_a_million_entries_leave_room_within_500_mb():
    # 500 bytes an entry, of which the queue itself takes 202, and malloc's rounding some: Python's objects have less than 250.
    writes, most_bytes = 20_000, 250
    config = RecoveryConfig(max_entries=writes, max_bytes=1 << 40, close_timeout_s=0)
    client = ResilientRedisClient("memory", recovery=config, probe_interval_s=None)
    client.recovery.pause()
    client.guard.force_open()
    high = client.with_priority(Priority.HIGH)
    high.set("agent:first", "x")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(writes - 1):
            result = high.set(f"agent:{number:08}", "x" * 16)
        took = (tracemalloc.get_traced_memory()[0] - before) / (writes - 1)
    finally:
        tracemalloc.stop()
    assert result.status == "queued"
    assert took < most_bytes, f"{took:.0f} bytes an entry"
    client._engine.queue.start_afresh()
    client.close()
