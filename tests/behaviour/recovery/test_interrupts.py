"""A plain write that takes the place of a queued one, interrupted at each line in turn: no lease stays, nothing is overtaken.

The interrupt is raised by a trace function, as a signal handler would raise it between two lines of the main thread.
"""

import sys

import pytest

from agent_memory import Priority, RecoveryConfig, ResilientRedisClient, RetryPolicy

WAIT_S = 30.0
TRACED = {"admit", "_lease_superseded", "_leave_replaced", "put_in_place"}
FILES = ("recovery/_sync/write_order.py", "recovery/_sync/write_queue.py")


class InterruptAt:
    """Raises KeyboardInterrupt before the line number `at` of the traced functions is executed, once."""

    def __init__(self, at):
        self.left, self.has_struck = at, False

    def __enter__(self):
        sys.settrace(self._call)

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, event, _argument):
        is_traced = frame.f_code.co_name in TRACED and frame.f_code.co_filename.endswith(FILES)
        return self._line if is_traced else None

    def _line(self, frame, event, _argument):
        if event == "line" and not self.has_struck:
            if self.left == 0:
                self.has_struck = True
                raise KeyboardInterrupt
            self.left -= 1
        return self._line


@pytest.mark.parametrize("path", [False, True])
def test_a_lease_does_not_outlive_the_call_that_is_interrupted(valkey, tmp_path, path):
    config = RecoveryConfig(path=tmp_path / "journal" if path else None, base_delay=0.01, close_timeout_s=WAIT_S)
    client = ResilientRedisClient(
        "interrupted", **valkey.connection_kwargs, recovery=config, retry_policy=RetryPolicy(max_retries=0)
    )
    struck = number = 0
    with client:
        while number < 200:
            client.recovery.pause()
            client.guard.force_open()
            client.with_priority(Priority.HIGH).set("key", f"old {number}")
            client.guard.reset()
            interrupt = InterruptAt(number)
            try:
                with interrupt:
                    client.set("key", f"new {number}")
            except KeyboardInterrupt:
                struck += 1
            assert client._engine.queue.core.stats()["leased"] == 0, f"line {number}"
            client.recovery.resume()
            assert client.recovery.flush(WAIT_S), f"line {number}"
            value = client.get("key")
            assert value in (f"old {number}", f"new {number}")
            if not interrupt.has_struck:
                assert value == f"new {number}"
                break
            number += 1
        else:
            pytest.fail("the call never ends")
    assert struck > 15
