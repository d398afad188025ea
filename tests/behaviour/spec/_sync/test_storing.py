# Generated from ../_async/test_storing.py by tools/generate_sync.py: edit that file, not this one.

"""`store_with_retry`: what each priority does, what counts as a failure, and what the recovery queue makes of it."""

import pytest
import redis

from agent_memory import RetryPolicy
from agent_memory._concurrency import Event, gather, in_thread, spawn
from agent_memory.errors import RecoveryQueueFullError, RedisUnavailableError
from agent_memory.recovery.results import StoreStatus
from agent_memory.storage.redis_client import Priority, RecoverySettings, ResilientRedisClient

WAIT_S = 30.0
QUICK = {
    "retry_policy": RetryPolicy(max_retries=0),
    "retry_base_delay": 0.01,
    "retry_max_delay": 0.01,
    "probe_interval_s": 0.1,
}


@pytest.fixture
def client(mortal_server):
    with ResilientRedisClient("storing", **mortal_server.connection_kwargs, **QUICK) as client:
        yield client
        if not mortal_server.alive:
            in_thread(mortal_server.restart)


def setting(client):
    def store(agent_id, state):
        return client.set(agent_id, state["value"])

    return store


class Failing:
    """Fails a number of times with `failure` (an exception, or a value to return), then stores."""

    def __init__(self, client, times, failure=False):
        self.client, self.left, self.failure, self.calls = client, times, failure, 0

    def __call__(self, agent_id, state):
        self.calls += 1
        if self.left:
            self.left -= 1
            if isinstance(self.failure, Exception):
                raise self.failure
            return self.failure
        return self.client.set(agent_id, state["value"])


def test_stored(client):
    result = client.store_with_retry("agent", {"value": 1}, setting(client))
    assert result
    assert (result.status, result.value, result.error) == ("stored", True, None)
    assert result.wait() is True
    assert client.get("agent") == "1"


def test_a_plain_function_will_do(client):
    result = client.store_with_retry("agent", {"value": 1}, lambda agent_id, state: client.set(agent_id, "x"))
    assert result.status is StoreStatus.STORED
    assert client.get("agent") == "x"


@pytest.mark.parametrize(
    "failure", [False, None, 0, RedisUnavailableError("gone"), redis.TimeoutError("late"), OSError()]
)
def test_critical_is_retried_at_once(client, failure):
    store = Failing(client, 2, failure)
    result = client.store_with_retry("agent", {"value": 1}, store, Priority.CRITICAL, retry_attempts=2)
    assert result.status == "stored"
    assert store.calls == 3


def test_critical_is_queued_when_its_retries_fail(client):
    client.recovery.pause()
    store = Failing(client, 3)
    result = client.store_with_retry("agent", {"value": 1}, store, Priority.CRITICAL, 2, 0.0, 0.0)
    assert (result.status, store.calls) == ("queued", 3)
    assert not result
    client.recovery.resume()
    assert result.wait(WAIT_S)
    assert (bool(result), result.status, store.calls) == (True, "stored", 4)


@pytest.mark.parametrize("priority", [Priority.HIGH, Priority.NORMAL])
def test_high_and_normal_are_queued(client, priority):
    client.recovery.pause()
    store = Failing(client, 1, OSError("gone"))
    result = client.store_with_retry("agent", {"value": 1}, store, priority)
    assert (result.status, store.calls) == ("queued", 1)
    assert isinstance(result.error, OSError)
    (waiting,) = client.recovery.pending()
    assert (waiting.agent_id, waiting.priority, waiting.attempts) == ("agent", priority, 1)
    client.recovery.resume()
    assert result.wait(WAIT_S)
    assert client.recovery.pending() == []
    assert client.recovery.stats()["stored"] == 1


def test_low_is_logged_and_dropped(client, caplog):
    store = Failing(client, 1)
    result = client.store_with_retry("agent", {"value": 1}, store, Priority.LOW)
    assert (result.status, store.calls) == ("dropped", 1)
    assert not result
    assert "a LOW write dropped" in caplog.text
    assert result.wait() is False


@pytest.mark.parametrize("priority", list(Priority))
def test_other_errors_are_logged_and_raised(client, priority, caplog):
    store = Failing(client, 1, KeyError("a stored value"))
    with pytest.raises(KeyError):
        client.store_with_retry("agent", {"value": 1}, store, priority)
    assert store.calls == 1
    assert "KeyError" in caplog.text
    assert "a stored value" not in caplog.text
    assert client.recovery.pending() == []


def test_refused_parameters(client):
    for arguments, message in (
        ({"retry_attempts": -1}, "retry_attempts must be >= 0, got -1"),
        ({"base_delay": -1}, "base_delay must be >= 0, got -1"),
        ({"max_delay": float("inf")}, "max_delay must be >= 0, got inf"),
        ({"priority": 9}, "priority must be a Priority, got 9"),
    ):
        with pytest.raises(ValueError, match=message):
            client.store_with_retry("agent", {}, setting(client), **arguments)


def test_writes_of_one_agent_keep_their_order(client):
    client.recovery.pause()
    order = []

    def noting(failures):
        store = Failing(client, failures)

        def note(agent_id, state):
            stored = store(agent_id, state)
            if stored:
                order.append(state["value"])
            return stored

        return note

    results = [client.store_with_retry("agent", {"value": 1}, noting(2), Priority.NORMAL)]
    results += [client.store_with_retry("other", {"value": 2}, noting(1), Priority.NORMAL)]
    # Neither would fail now, but both would overtake the first.
    joining = [spawn(client.store_with_retry, "agent", {"value": v}, noting(0), p) for v, p in ((3, Priority.HIGH),)]
    client.recovery.resume()
    results += gather(*joining)
    for result in results:
        assert result.wait(WAIT_S)
    assert [value for value in order if value != 2] == [1, 3]
    assert client.get("agent") == "3"


def test_a_low_write_does_not_overtake_either(client):
    client.recovery.pause()
    client.store_with_retry("agent", {"value": 1}, Failing(client, 1), Priority.NORMAL)
    result = client.store_with_retry("agent", {"value": 2}, setting(client), Priority.LOW)
    assert result.status == "dropped"
    client.recovery.resume()
    assert client.recovery.flush(WAIT_S)
    assert client.get("agent") == "1"


def test_calls_for_one_agent_take_turns(client):
    entered, leave = Event(), Event()
    running = []

    def slow(agent_id, state):
        running.append(state["value"])
        entered.set()
        leave.wait(WAIT_S)
        return client.set(agent_id, state["value"])

    first = spawn(client.store_with_retry, "agent", {"value": 1}, slow)
    assert entered.wait(WAIT_S)
    second = spawn(client.store_with_retry, "agent", {"value": 2}, slow)
    # Another agent's write is not held up.
    assert client.store_with_retry("other", {"value": 0}, setting(client))
    assert running == [1]
    leave.set()
    assert all(gather(first, second))
    assert running == [1, 2]
    assert client.get("agent") == "2"


def test_what_is_queued_is_a_copy(client):
    client.recovery.pause()
    state = {"value": "first"}
    result = client.store_with_retry("agent", state, Failing(client, 1))
    state["value"] = "changed"
    client.recovery.resume()
    assert result.wait(WAIT_S)
    assert client.get("agent") == "first"


def test_a_full_queue_refuses(mortal_server):
    settings = RecoverySettings(max_entries=2, close_timeout_s=0)
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": settings}
    with ResilientRedisClient("full", **arguments) as client:
        client.recovery.pause()
        results = [client.store_with_retry(f"a{n}", {"value": n}, Failing(client, 99)) for n in range(3)]
        assert [result.status for result in results] == ["queued", "queued", "failed"]
        assert isinstance(results[2].error, RecoveryQueueFullError)
    assert [result.status for result in results] == ["failed"] * 3


def test_without_a_queue(mortal_server):
    with ResilientRedisClient("none", **mortal_server.connection_kwargs, **QUICK, recovery=None) as client:
        result = client.store_with_retry("agent", {"value": 1}, Failing(client, 1))
        assert result.status == "failed"
        assert client.recovery.flush(0) is True


def test_dead_letters(mortal_server, caplog):
    settings = RecoverySettings(max_attempts=2, base_delay=0.01, max_delay=0.01)
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": settings}
    with ResilientRedisClient("dead", **arguments) as client:
        client.recovery.pause()
        hopeless, broken = Failing(client, 4), Failing(client, 1)
        first = client.store_with_retry("hopeless", {"value": "secret"}, hopeless)
        second = client.store_with_retry("broken", {"value": 2}, broken)
        broken.left, broken.failure = 1, TypeError("bug")
        client.recovery.resume()
        assert first.wait(WAIT_S) is False
        assert second.wait(WAIT_S) is False
        assert (first.status, second.status) == ("failed", "failed")
        letters = {letter.agent_id: letter for letter in client.recovery.dead_letters()}
        assert (letters["hopeless"].reason, letters["hopeless"].attempts) == ("attempts", 3)
        assert (letters["broken"].reason, letters["broken"].error) == ("rejected", "TypeError")
        assert "secret" not in repr(letters) + caplog.text
        hopeless.left = 0
        again = client.recovery.retry(letters["hopeless"])
        assert again.wait(WAIT_S)
        assert [letter.agent_id for letter in client.recovery.dead_letters()] == ["broken"]
        with pytest.raises(ValueError, match="not kept"):
            client.recovery.retry(letters["hopeless"])
        assert client.recovery.stats()["given_up"] == 2


def test_too_old_writes_are_given_up(mortal_server):
    settings = RecoverySettings(max_age_s=0.01)
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": settings}
    with ResilientRedisClient("old", **arguments) as client:
        store = Failing(client, 1000)
        result = client.store_with_retry("agent", {"value": 1}, store)
        assert result.wait(WAIT_S) is False
        assert [letter.reason for letter in client.recovery.dead_letters()] == ["expired"]


def test_an_outage_loses_nothing(client, mortal_server):
    """The server is killed: writes are queued, the circuit opens; it comes back: all is stored, without any call of ours."""
    store = setting(client)
    mortal_server.kill()
    results = {}
    for priority in (Priority.NORMAL, Priority.HIGH, Priority.CRITICAL):
        for number in range(5):
            agent_id = f"{priority.name}:{number}"
            results[agent_id] = client.store_with_retry(agent_id, {"value": agent_id}, store, priority, 1)
    assert client.state == "open"
    assert {result.status for result in results.values()} == {"queued"}
    health = client.health()
    assert (bool(health), health.state, health.queued) == (False, "open", 15)
    assert health.retry_after_s > 0
    in_thread(mortal_server.restart)
    for agent_id, result in results.items():
        assert result.wait(WAIT_S), result
        assert client.get(agent_id) == agent_id
    assert client.state == "closed"
    assert client.recovery.dead_letters() == []


def test_closing_gives_up_what_it_cannot_store(mortal_server, caplog):
    settings = RecoverySettings(close_timeout_s=0.05)
    client = ResilientRedisClient("closing", **mortal_server.connection_kwargs, **QUICK, recovery=settings)
    mortal_server.kill()
    result = client.store_with_retry("agent", {"value": 1}, setting(client))
    client.close()
    assert result.wait(WAIT_S) is False
    assert [letter.reason for letter in client.recovery.dead_letters()] == ["closed"]
    assert "closed with 1 queued writes" in caplog.text


def test_closing_drains(client):
    client.recovery.pause()
    result = client.store_with_retry("agent", {"value": 1}, Failing(client, 1))
    client.recovery.resume()
    client.close()
    assert result.status == "stored"


def test_nested_stores_of_one_agent_do_not_wait_for_themselves(client):
    def outer(agent_id, state):
        return bool(client.store_with_retry(agent_id, state, setting(client)))

    assert client.store_with_retry("agent", {"value": 1}, outer)
    assert client.get("agent") == "1"


def test_an_agent_id_is_text_or_a_whole_number(client, mortal_server):
    """The same answer while the server is up and while it is away; what is refused is neither stored nor queued."""
    seen = []

    def store(agent_id, state):
        seen.append(agent_id)
        return client.set(f"agent:{agent_id}", state)

    assert client.store_with_retry(7, "number", store).status == "stored"
    assert client.store_with_retry("7", "text", store).status == "stored"
    in_thread(mortal_server.kill)
    queued = client.store_with_retry(7, "later", store)
    assert [write.agent_id for write in client.recovery.pending()] == ["7"]
    for agent_id in (None, True, 7.0, b"7", ["7"]):
        with pytest.raises(ValueError, match="agent_id must be str or int, got"):
            client.store_with_retry(agent_id, "refused", store)
    for store_func in (None, 42, {}):
        with pytest.raises(ValueError, match="store_func must be a function, got"):
            client.store_with_retry("7", "refused", store_func)
    assert len(client.recovery.pending()) == 1
    in_thread(mortal_server.restart)
    assert queued.wait(WAIT_S)
    assert client.get("agent:7") == "later"
    assert set(seen) == {"7"}


def test_waiting_refuses_what_is_no_time(client):
    result = client.store_with_retry("agent", {"value": 1}, setting(client))
    for timeout in ("5", -1, float("nan"), True):
        for wait in (client.recovery.flush, result.wait):
            with pytest.raises(ValueError, match=r"timeout(_s)? must be >= 0, got"):
                wait(timeout)
    for dead in (None, 7, "letter"):
        with pytest.raises(ValueError, match=r"dead must be one of dead_letters\(\), got"):
            client.recovery.retry(dead)
    assert result.wait(0)
    assert client.recovery.flush(0)
