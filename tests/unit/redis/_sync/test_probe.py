# Generated from ../_async/test_probe.py by tools/generate_sync.py: edit that file, not this one.

"""The background probe, on a guard whose server is a function."""

import copy
import gc

import pytest
from redis.exceptions import AuthenticationError

from agent_memory._concurrency import Event, in_thread, sleep
from agent_memory.errors import RedisUnavailableError
from agent_memory.policy import BreakerSettings, make_guard
from agent_memory.redis._sync.probe import Prober
from agent_memory.redis.redis_py_internals.replies import parse_reply_error

WAIT_S = 30.0


class Server:
    """Answers a ping with a given result, and counts the pings."""

    def __init__(self):
        self.error = RedisUnavailableError("down")
        self.pings = 0
        self.asked = Event()
        self.release = Event()
        self.release.set()

    def ping(self):
        self.pings += 1
        self.asked.set()
        self.release.wait(WAIT_S)
        if self.error is not None:
            raise copy.copy(self.error)  # a traceback keeps everything alive that it has passed through


class Circuit:
    """A guard that opens at once, its changes noted."""

    def __init__(self, **settings):
        self.guard = make_guard("probed", breaker=BreakerSettings(1, **settings))
        self.changes = []
        self.closed = Event()
        self.guard.add_listener(self.note)
        self.operation = self.guard.operation("work", category=0)

    def note(self, name, old, new):
        self.changes.append(new)
        if new == "closed":
            self.closed.set()

    def fail(self):
        permit = self.operation.admit()
        self.operation.failure(permit, 0, 0, 0, permit, permit)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def circuit():
    return Circuit()


@pytest.fixture
def prober(circuit, server):
    prober = Prober(circuit.guard, server.ping, interval_s=0.01)
    yield prober
    server.release.set()
    prober.stop(WAIT_S)


def test_does_nothing_while_the_circuit_is_closed(prober, server):
    prober.ensure_running()
    assert prober._task is None
    assert server.pings == 0


def test_closes_the_circuit_when_the_server_answers(prober, circuit, server):
    circuit.fail()
    assert server.asked.wait(WAIT_S)
    assert circuit.guard.state == "open"
    server.error = None
    assert circuit.closed.wait(WAIT_S)
    assert circuit.changes == ["open", "half_open", "closed"]
    assert prober._task.join(WAIT_S) if prober._task else True


def test_a_pending_probe_is_the_only_one(prober, circuit, server):
    server.release.clear()
    circuit.fail()
    assert server.asked.wait(WAIT_S)
    for _ in range(10):
        prober.ensure_running()
    server.error = None
    server.release.set()
    assert circuit.closed.wait(WAIT_S)
    assert server.pings == 2  # the probe, and the call that closes the circuit


@pytest.mark.parametrize(
    ("error", "answers"),
    [(AuthenticationError("no"), True), (parse_reply_error("LOADING Redis is loading"), False), (KeyError("?"), True)],
)
def test_what_counts_as_an_answer(prober, server, error, answers):
    server.error = error
    assert (prober._probe() is None) is answers


def test_a_server_that_fails_again_at_once_opens_the_circuit_again(prober, circuit, server):
    answers = iter([None, RedisUnavailableError("down again"), None, None])
    plain = server.ping

    def ping():
        server.error = next(answers)
        return plain()

    prober._ping = ping
    circuit.fail()
    assert circuit.closed.wait(WAIT_S)
    assert circuit.changes == ["open", "half_open", "open", "half_open", "closed"]


def test_a_probe_of_another_client_is_left_alone(prober, circuit, server):
    circuit.fail()
    assert server.asked.wait(WAIT_S)
    circuit.guard.server_answered()
    permit = circuit.operation.admit()
    prober._confirm()
    assert circuit.guard.state == "half_open"
    circuit.operation.success(permit)
    assert circuit.guard.state == "closed"


def test_stop_and_reopen(prober, circuit, server):
    circuit.fail()
    assert server.asked.wait(WAIT_S)
    prober.stop(WAIT_S)
    asked = server.pings
    server.error = None
    prober.ensure_running()
    assert prober._task is None or prober._task.is_done()
    assert server.pings == asked
    prober.reopen()
    prober.ensure_running()
    assert circuit.closed.wait(WAIT_S)


def test_a_circuit_opened_by_a_thread_is_probed(prober, circuit, server):
    prober.reopen()
    server.error = None
    in_thread(circuit.fail)
    assert circuit.closed.wait(WAIT_S)


def test_an_abandoned_prober_leaves_the_guard(circuit, server):
    prober = Prober(circuit.guard, server.ping, interval_s=0.01)
    circuit.fail()
    assert server.asked.wait(WAIT_S)
    task = prober._task
    del prober
    assert task.join(WAIT_S)
    gc.collect()
    circuit.guard.reset()
    circuit.fail()
    assert circuit.guard.retry_after_s > 0.01  # nothing probes any more


def test_the_wait_is_the_probes_while_one_is_there(prober, circuit, server):
    server.release.clear()
    seen = []
    circuit.guard.add_listener(lambda *_: seen.append(circuit.guard.retry_after_s))
    circuit.fail()
    assert len(seen) == 1
    assert 0 < seen[0] <= 0.01  # before the prober's thread or thread has begun
    assert server.asked.wait(WAIT_S)
    sleep(0.02)  # the probe that is under way takes longer than the interval
    state, retry_after_s = circuit.guard.state_and_retry_after_s()
    assert state == circuit.guard.stats()["state"] == "open"
    assert 0 < retry_after_s <= 0.01
    assert 0 < circuit.guard.stats()["retry_after_s"] <= 0.01
    server.release.set()
    prober.stop(WAIT_S)
    circuit.guard.reset()
    circuit.fail()
    assert circuit.guard.retry_after_s > 0.01
    prober.reopen()
    circuit.guard.reset()
    circuit.fail()
    assert circuit.guard.retry_after_s <= 0.01


@pytest.mark.parametrize("interval_s", [0, -1.0, float("nan")])
def test_refuses_an_interval(circuit, server, interval_s):
    with pytest.raises(ValueError, match="interval_s must be > 0, got"):
        Prober(circuit.guard, server.ping, interval_s=interval_s)
