# Generated from ../_async/test_direct_commands.py by tools/generate_sync.py: edit that file, not this one.

"""Methods that are the extension's: they send what redis-py's send, and give way to whatever is put in their place."""

import functools
import itertools
from unittest import mock

import pytest
import redis
from fake_server import FakeServer, bulk
from redis.exceptions import ResponseError

from agent_memory.errors import Outcome
from agent_memory.redis import Pipeline, Redis
from agent_memory.redis.commands.direct import DIRECT
from agent_memory.storage.redis_client import ResilientRedisClient

WORDS = ("one", b"two", 3)
ENCODER = redis.Connection().encoder


class Recorded(redis.Redis):
    """redis-py's methods, and what they would send."""

    def execute_command(self, *args, **options):
        options.pop("keys", None)
        return [ENCODER.encode(word) for name in args[:1] for word in (*name.split(), *args[1:])], options


def calls_of(name, parameters):
    """Arguments of every kind that the method may be given: those that are its words, and others."""
    words = [word for word in parameters.split() if word != "..."]
    fixed = [word for word in words if not word.startswith("*")]
    required = [word for word in fixed if word.endswith("=words") or "=" not in word]
    values = list(itertools.islice(itertools.cycle(WORDS), len(fixed)))
    if "time" in required:
        values[1] = 7
    yield values[: len(required)], {}
    if len(required) < len(fixed):
        yield [*values[: len(required)], 5], {}
    yield [*values[:-1], 2.5] if name not in ("expire", "pexpire") else values, {}
    if fixed and not any(word.startswith("*") for word in words):
        yield [], {word.partition("=")[0]: value for word, value in zip(fixed, values, strict=True)}
    if len(words) > len(fixed) and not words[-1].startswith("*args"):
        yield [*values, "a"], {}
        yield [*values, "a", b"b", 4], {}
    if "=words" in parameters:
        ahead = values[:-1]
        for keys in (["a", "b"], ("a", b"b", 3), "a", b"a", {"a": 1}, ["a"]):
            yield [*ahead, keys], {}
            yield [*ahead, keys, "c", "d"], {}
        yield [*ahead, ["a", 1.5]], {}


@pytest.mark.parametrize("name", DIRECT)
def test_they_send_what_redis_py_sends(name, connect):
    seen = []

    def note(command, _connection):
        seen.append(command)
        return bulk(b"1")

    _, parameters = DIRECT[name]
    assert type(vars(Redis)[name]).__name__ == "Face"
    with FakeServer(note) as server:
        client = connect(server)
        client.response_callbacks.clear()
        plain = Recorded()
        for args, options in calls_of(name, parameters):
            wanted, _ = getattr(plain, name)(*args, **options)
            for _ in range(2):  # the first looks the command up
                seen.clear()
                getattr(client, name)(*args, **options)
                assert seen == [wanted], (args, options)


def test_set_with_its_options(connect):
    seen = []

    def note(command, _connection):
        seen.append(command)
        return b"+OK\r\n"

    with FakeServer(note) as server:
        client = connect(server)
        plain = Recorded()
        for options in (
            {"ex": 5},
            {"px": 5},
            {"nx": True},
            {"xx": True},
            {"ex": "5"},
            {"nx": False},
            {"nx": True, "ex": 5},
            {"keepttl": True},
            {"ex": None},
        ):
            wanted, _ = plain.set("key", "value", **options)
            for _ in range(2):
                seen.clear()
                assert client.set("key", "value", **options) is True
                assert seen == [wanted]
            seen.clear()
            client.set("key", "value", 7)
            assert seen == [plain.set("key", "value", 7)[0]]


def test_wrong_arguments_are_refused_as_redis_py_refuses_them(valkey, connect):
    client = connect(valkey)
    client.get("key")
    for call in (client.get, lambda: client.get("a", "b"), lambda: client.get(key="a"), lambda: client.set("a")):
        with pytest.raises(TypeError, match=r"(get|set)\(\)|argument"):
            call()
    for value in (None, True, object()):
        with pytest.raises(redis.DataError):
            client.set("key", value)
    with pytest.raises(redis.DataError):
        client.hset("key")
    with pytest.raises(TypeError):
        Redis.get()
    with pytest.raises((TypeError, AttributeError)):
        Redis.get(object(), "key")


def test_a_list_that_is_empty_or_changes(valkey, connect):
    client = connect(valkey)
    assert client.mget([]) == []
    keys = ["a", "b"]
    assert client.mget(keys) == [None, None]
    call = client.mget(keys)
    keys.append("c")
    assert call == [None, None]


def test_errors_say_what_became_of_the_command(valkey, connect):
    client = connect(valkey)
    client.set("key", "value")
    for _ in range(2):
        with pytest.raises(ResponseError, match="WRONGTYPE") as caught:
            client.lpush("key", 1)
        assert caught.value.outcome is Outcome.REJECTED
    assert client.stats()["operations"]["LPUSH"]["successes"] == 0

    def refuse(reply):
        raise ValueError(reply)

    client.set_response_callback("GET", refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="value") as failed:
            client.get("key")
        assert failed.value.outcome is Outcome.APPLIED


# --- what gives way -----------------------------------------------------------------------------------------------------


def traced(original, seen):
    """As tracers wrap it."""

    @functools.wraps(original)
    def wrapper(self, *args, **options):
        seen.append(args)
        return original(self, *args, **options)

    return wrapper


def warm(client):
    for _ in range(2):
        assert client.set("key", "value")
        assert client.get("key") in (b"value", "value")


def used(client):
    """Whether these calls go through what is around `execute_command`."""
    assert client.set("key", "value")
    assert client.get("key") in (b"value", "value")
    assert client.exists("key", "other") == 1


USED = [("SET", "key", "value"), ("GET", "key"), ("EXISTS", "key", "other")]


def clients(valkey):
    address = valkey.connection_kwargs
    return Redis(**address), ResilientRedisClient("traced", **address)


HOLDERS = pytest.mark.parametrize("holder", [Redis, redis.Redis], ids=["ours", "redis-py's"])


@HOLDERS
def test_a_class_patched_after_the_client_was_made_and_restored(valkey, monkeypatch, holder):
    for client in clients(valkey):
        with client:
            warm(client)
            seen = []
            for _ in range(2):
                with monkeypatch.context() as patched:
                    patched.setattr(holder, "execute_command", traced(holder.execute_command, seen))
                    used(client)
                assert seen == USED
                used(client)
                assert seen == USED
                seen.clear()


@HOLDERS
def test_a_class_patched_before_the_client_was_made_and_restored(valkey, monkeypatch, holder):
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(holder, "execute_command", traced(holder.execute_command, seen))
        made = clients(valkey)
        for client in made:
            seen.clear()
            used(client)
            assert seen == USED
    seen.clear()
    for client in made:
        used(client)
        with client:
            used(client)
    assert seen == []


def test_a_client_that_is_patched_itself(valkey):
    with Redis(**valkey.connection_kwargs) as client, Redis(**valkey.connection_kwargs) as other:
        warm(client)
        warm(other)
        seen = []
        client.execute_command = functools.partial(traced(Redis.execute_command, seen), client)
        used(client)
        used(other)
        assert seen == USED
        del client.execute_command
        used(client)
        assert seen == USED
        answering = mock.Mock
        with mock.patch.object(client, "execute_command", answering(return_value=b"mocked")) as mocked:
            assert client.get("key") == b"mocked"
            assert client.incr("key") == b"mocked"
        assert mocked.call_count == 2
        assert client.get("key") == b"value"


def test_a_subclass_that_overrides(valkey):
    seen = []

    class Mine(Redis):
        def execute_command(self, *args, **options):
            seen.append(args)
            return super().execute_command(*args, **options)

    class Reading(Redis):
        def parse_response(self, connection, command_name, **options):
            seen.append(command_name)
            return super().parse_response(connection, command_name, **options)

    class Own(Redis):
        def get(self, name):
            seen.append(name)
            return super().get(name)

    with Mine(**valkey.connection_kwargs) as client:
        used(client)
        assert seen == USED
        seen.clear()
        with ResilientRedisClient("injected", client=client) as resilient:
            used(resilient)
    with Reading(**valkey.connection_kwargs) as client:
        seen.clear()
        used(client)
        assert seen == ["SET", "GET", "EXISTS"]
    with Own(**valkey.connection_kwargs) as client:
        seen.clear()
        used(client)
        assert seen == ["key"]


@HOLDERS
def test_calls_within_a_patch_are_guarded_and_go_over_the_own_transport(valkey, holder):
    with Redis(**valkey.connection_kwargs) as client:
        warm(client)
        before, taken = client.stats()["operations"]["GET"]["successes"], client.connection_pool.get_connection
        with (
            mock.patch.object(holder, "execute_command", traced(holder.execute_command, [])),
            mock.patch.object(client.connection_pool, "get_connection", side_effect=taken) as leased,
        ):
            used(client)
            assert client.stats()["operations"]["GET"]["successes"] == before + 1
            client.guard.force_open()
            with pytest.raises(Exception, match="open"):
                client.get("key")
            client.guard.reset()
            with pytest.raises(ResponseError, match="WRONGTYPE") as caught:
                client.lpush("key", 1)
            assert caught.value.outcome is Outcome.REJECTED
            assert client.execute_command("SET", "third", "value") in (True, b"OK")
            assert client.connection is None
        assert not leased.called
        used(client)


def test_what_a_patch_does_itself_and_what_it_leaves_out(valkey, monkeypatch):
    original, seen = redis.Redis.execute_command, []

    def wrapper(self, *args, **options):
        seen.append(args)
        if args[1] == "key":
            self.get("within")
            with self.pipeline() as pipeline:
                pipeline.incr("counter").execute()
            original(self, *args, **options)
        return original(self, *args, **options)

    with Redis(**valkey.connection_kwargs) as client:
        warm(client)
        client.delete("counter")
        with monkeypatch.context() as patched:
            patched.setattr(redis.Redis, "execute_command", wrapper)
            assert client.get("key") == b"value"
            assert seen == [("GET", "key"), ("GET", "within")]
            patched.setattr(
                redis.Redis,
                "execute_command",
                mock.Mock(return_value=5),
            )
            assert client.get("key") == 5
        assert client.get("key") == b"value"
        assert client.get("counter") == b"1"


def test_a_patch_sees_calls_that_go_redis_py_s_own_way(valkey, monkeypatch):
    seen = []
    with Redis(**valkey.connection_kwargs, single_connection_client=True) as client:
        monkeypatch.setattr(redis.Redis, "execute_command", traced(redis.Redis.execute_command, seen))
        used(client)
        assert seen == USED


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize("holder", [Pipeline, redis.client.Pipeline], ids=["ours", "redis-py's"])
def test_a_patched_pipeline(valkey, monkeypatch, holder, transaction):
    original, seen = holder.execute, []

    @functools.wraps(original)
    def execute(self, raise_on_error=True):
        seen.append(([args for args, _ in self.command_stack], raise_on_error))
        return original(self, raise_on_error)

    with Redis(**valkey.connection_kwargs) as client:
        script = client.register_script("return ARGV[1]")
        for round_ in range(2):
            with monkeypatch.context() as patched:
                patched.setattr(holder, "execute", execute)
                pipeline = client.pipeline(transaction=transaction)
                assert pipeline.set("key", "value").get("key").execute() == [True, b"value"]
                assert seen == [([("SET", "key", "value"), ("GET", "key")], True)]
                results = pipeline.lpush("key", 1).get("key").execute(False)
                assert isinstance(results[0], ResponseError)
                assert results[1] == b"value"
                assert len(seen) == 2
                with pytest.raises(ResponseError):
                    pipeline.lpush("key", 1).execute()
                script(args=[round_], client=pipeline)
                assert pipeline.execute() == [b"%d" % round_]
                assert len(pipeline) == 0
                assert pipeline.connection is None
                patched.setattr(holder, "execute", mock.Mock(return_value=["mocked"]))
                assert pipeline.get("key").execute() == ["mocked"]
                pipeline.reset()
            seen.clear()
            assert pipeline.get("key").execute() == [b"value"]
            assert seen == []


@HOLDERS
def test_a_method_that_is_patched(valkey, holder):
    for client in clients(valkey):
        with client:
            warm(client)
            answering = mock.Mock
            for _ in range(2):
                with mock.patch.object(holder, "get", answering(return_value="mocked")):
                    assert client.get("key") == "mocked"
                assert client.get("key") in (b"value", "value")


def test_a_class_whose_reading_is_patched(valkey):
    seen = []
    with Redis(**valkey.connection_kwargs) as client:
        warm(client)
        original = Redis.parse_response

        def parse_response(self, connection, command_name, **options):
            seen.append(command_name)
            return original(self, connection, command_name, **options)

        with mock.patch.object(Redis, "parse_response", parse_response):
            used(client)
            assert seen == ["SET", "GET", "EXISTS"]
        used(client)
        assert seen == ["SET", "GET", "EXISTS"]


def test_a_resilient_client_that_runs_its_operations_itself(valkey):
    seen = []

    class Mine(ResilientRedisClient):
        def _execute_with_circuit_breaker(self, operation_name, operation):
            seen.append(operation_name)
            return super()._execute_with_circuit_breaker(operation_name, operation)

    original = ResilientRedisClient._execute_with_circuit_breaker

    def run(self, operation_name, operation):
        seen.append(operation_name)
        return original(self, operation_name, operation)

    with Mine("mine", **valkey.connection_kwargs) as client:
        used(client)
        assert seen == ["set", "get", "exists"]
    with ResilientRedisClient("patched", **valkey.connection_kwargs) as client:
        warm(client)
        seen.clear()
        with mock.patch.object(ResilientRedisClient, "_execute_with_circuit_breaker", run):
            used(client)
            assert seen == ["set", "get", "exists"]
        used(client)
        assert seen == ["set", "get", "exists"]


def test_a_resilient_client_with_another_wrapped_client(valkey):
    address = valkey.connection_kwargs
    with ResilientRedisClient("wrapping", **address) as client, Redis(**address) as other:
        warm(client)
        own = client.client
        client.client = mock.Mock()
        client.client.get.return_value = "mocked"
        assert client.get("key") == "mocked"
        client.client = other
        assert client.get("key") == b"value"
        client.client = own
        assert client.get("key") == "value"


def test_errors_of_a_resilient_client_are_noted(valkey, caplog):
    with ResilientRedisClient("noting", **valkey.connection_kwargs) as client:
        warm(client)
        for _ in range(2):
            caplog.clear()
            with pytest.raises(ResponseError):
                client.hget("key", "field")
            assert "hget failed: ResponseError WRONGTYPE" in caplog.text
        client.guard.force_open()
        with pytest.raises(Exception, match="open"):
            client.get("key")
        client.guard.reset()
        assert client.get("key") == "value"
