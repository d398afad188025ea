"""Changes of state: listeners, and the rate of the log."""

import logging

import pytest

from agent_memory.policy import Event, subscribe
from agent_memory.policy.event_listeners import MAX_LISTENERS, publish
from agent_memory.policy.event_log import BURST, MAX_SOURCES, REFILL_S, EventLog
from agent_memory.recovery.queue_level import QueueLevel


def event(new="open", *, name="x", source="circuit", **more):
    return Event(source=source, name=name, endpoint="h:1", old="closed", new=new, message=f"{name} {new}", **more)


@pytest.fixture
def events():
    found = []
    stop = subscribe(found.append)
    yield found
    stop()


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock, monkeypatch):
    made = EventLog(clock)
    monkeypatch.setattr(made, "_wake_later", lambda: None)  # the test is the timer
    return made


def test_a_record_has_the_facts_as_attributes(log, caplog):
    log.add(event(cause="timeout", figures={"open_s": 1.5}))
    (record,) = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == ("agent_memory.policy", "WARNING", "x open")
    assert record.event == "circuit.open"
    assert (record.client, record.endpoint, record.state_before, record.state) == ("x", "h:1", "closed", "open")
    assert (record.cause, record.figures, record.records_left_out) == ("timeout", {"open_s": 1.5}, 0)


def test_beyond_the_burst_the_latest_record_is_logged_when_there_is_room(log, clock, caplog):
    for number in range(BURST + 10):
        log.add(event(f"state{number}"))
    assert len(caplog.records) == BURST
    log.flush()
    assert len(caplog.records) == BURST
    clock.now_s += REFILL_S
    log.flush()
    last = caplog.records[-1]
    assert (last.state, last.records_left_out) == (f"state{BURST + 9}", 9)
    clock.now_s += REFILL_S
    log.flush()
    assert len(caplog.records) == BURST + 1


def test_a_record_that_comes_when_there_is_room_again_stands_for_what_was_held_back(log, clock, caplog):
    for number in range(BURST + 3):
        log.add(event(f"state{number}"))
    clock.now_s += REFILL_S
    log.add(event("closed"))
    assert (caplog.records[-1].state, caplog.records[-1].records_left_out) == ("closed", 3)


def test_each_source_has_a_rate_of_its_own_and_their_number_is_bounded(log, caplog):
    for number in range(MAX_SOURCES + 5):
        log.add(event(name=f"client{number}"))
    assert len(caplog.records) == MAX_SOURCES + 5
    assert len(log._rates) == MAX_SOURCES


def test_what_was_held_back_is_logged_by_a_timer(caplog, monkeypatch):
    monkeypatch.setattr("agent_memory.policy.event_log.REFILL_S", 0.05)
    log = EventLog()
    for number in range(BURST + 2):
        log.add(event(f"state{number}"))
    timer = log._timer
    if timer is not None:  # else a slow machine has logged it already
        timer.join(10)
    assert caplog.records[-1].state == f"state{BURST + 1}"


def test_a_level_that_is_off_costs_no_record(log, caplog):
    with caplog.at_level(logging.ERROR, "agent_memory.policy"):
        log.add(event())
    assert not caplog.records
    assert not log._rates


def test_listeners_are_called_until_they_unsubscribe(events):
    others = []
    stop = subscribe(others.append)
    publish(event())
    stop()
    stop()
    publish(event("closed"))
    assert [found.new for found in events] == ["open", "closed"]
    assert [found.new for found in others] == ["open"]


def test_a_listener_that_raises_does_not_stop_the_others(events, caplog):
    def broken(_):
        raise ValueError("no")

    stop = subscribe(broken)
    try:
        publish(event())
    finally:
        stop()
    publish(event("closed"))
    assert len(events) == 2
    assert sum("a listener of events raised" in record.getMessage() for record in caplog.records) == 1


def test_listeners_are_checked_and_bounded():
    with pytest.raises(ValueError, match="listener must be a function"):
        subscribe("print")
    stops = [subscribe(lambda _: None) for _ in range(MAX_LISTENERS)]
    try:
        with pytest.raises(ValueError, match="at most 64"):
            subscribe(print)
    finally:
        for stop in stops:
            stop()


def test_levels_of_a_queue(events, caplog):
    level = QueueLevel("x")

    def now(entries, share):
        level.now(entries, 10 * entries, share, stored=entries, given_up=0)
        return level.level

    assert now(0, 0.0) == "empty"
    assert now(1, 0.1) == "waiting"
    assert now(8, 0.8) == "nearly_full"
    level.refused(10)
    assert now(7, 0.7) == "full"
    assert now(4, 0.4) == "waiting"
    assert now(0, 0.0) == "empty"
    assert [found.new for found in events] == ["waiting", "nearly_full", "full", "waiting", "empty"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "ERROR", "WARNING"]
