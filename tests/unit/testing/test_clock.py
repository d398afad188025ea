"""ManualClock."""

from __future__ import annotations

import threading

import pytest

from agent_memory.testing import ManualClock


def test_it_moves_by_hand_only():
    clock = ManualClock(start_ns=5)
    assert [clock(), clock()] == [5, 5]
    assert clock.advance(1.5) == 1_500_000_005
    assert clock.advance_ns(1) == clock() == 1_500_000_006
    assert clock.time() == pytest.approx(1.500000006)
    assert "1.500000006" in repr(clock)


def test_small_steps_add_up_exactly():
    clock = ManualClock(start_ns=0)
    for _ in range(1000):
        clock.advance(0.1)
    assert clock() == 100 * 10**9


def test_it_never_goes_back():
    clock = ManualClock()
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds"):
            clock.advance(wrong)
    with pytest.raises(ValueError, match="nanoseconds"):
        clock.advance_ns(-1)
    with pytest.raises(ValueError, match="start_ns"):
        ManualClock(-1)


def test_threads_lose_no_step():
    clock = ManualClock(start_ns=0)

    def advance():
        for _ in range(2000):
            clock.advance_ns(1)

    threads = [threading.Thread(target=advance) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock() == 8000
