"""Methods that are the extension's: they send what redis-py's send, and give way to whatever is put in their place."""

import functools
import itertools
from unittest import mock

import pytest
import redis.asyncio
from fake_server import FakeServer, bulk
from redis.exceptions import ResponseError

from agent_memory._concurrency import ASYNC
from agent_memory.errors import Outcome
from agent_memory.redis.asyncio import Pipeline, Redis
from agent_memory.redis.commands.direct import DIRECT
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient

WORDS = ("one", b"two", 3)
ENCODER = redis.asyncio.Connection().encoder


class Recorded(redis.asyncio.Redis):
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
async def test_they_send_what_redis_py_sends(name, async_connect):
    seen = []

    def note(command, _connection):
        seen.append(command)
        return bulk(b"1")

    _, parameters = DIRECT[name]
    assert type(vars(Redis)[name]).__name__ == "Face"
    with FakeServer(note) as server:
        client = async_connect(server)
        client.response_callbacks.clear()
        plain = Recorded()
        for args, options in calls_of(name, parameters):
            wanted, _ = getattr(plain, name)(*args, **options)
            for _ in range(2):  # the first looks the command up
                seen.clear()
                await getattr(client, name)(*args, **options)
                assert seen == [wanted], (args, options)


async def test_set_with_its_options(async_connect):
    seen = []

    def note(command, _connection):
        seen.append(command)
        return b"+OK\r\n"

    with FakeServer(note) as server:
        client = async_connect(server)
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
                assert await client.set("key", "value", **options) is True
                assert seen == [wanted]
            seen.clear()
            await client.set("key", "value", 7)
            assert seen == [plain.set("key", "value", 7)[0]]


async def test_wrong_arguments_are_refused_as_redis_py_refuses_them(valkey, async_connect):
    client = async_connect(valkey)
    await client.get("key")
    for call in (client.get, lambda: client.get("a", "b"), lambda: client.get(key="a"), lambda: client.set("a")):
        with pytest.raises(TypeError, match=r"(get|set)\(\)|argument"):
            await call()
    for value in (None, True, object()):
        with pytest.raises(redis.DataError):
            await client.set("key", value)
    with pytest.raises(redis.DataError):
        await client.hset("key")
    with pytest.raises(TypeError):
        Redis.get()
    with pytest.raises((TypeError, AttributeError)):
        await Redis.get(object(), "key")


async def test_a_list_that_is_empty_or_changes(valkey, async_connect):
    client = async_connect(valkey)
    assert await client.mget([]) == []
    keys = ["a", "b"]
    assert await client.mget(keys) == [None, None]
    call = client.mget(keys)
    keys.append("c")
    assert (await call if ASYNC else call) == [None, None]


async def test_errors_say_what_became_of_the_command(valkey, async_connect):
    client = async_connect(valkey)
    await client.set("key", "value")
    for _ in range(2):
        with pytest.raises(ResponseError, match="WRONGTYPE") as caught:
            await client.lpush("key", 1)
        assert caught.value.outcome is Outcome.REJECTED
    assert client.stats()["operations"]["LPUSH"]["successes"] == 0

    def refuse(reply):
        raise ValueError(reply)

    client.set_response_callback("GET", refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="value") as failed:
            await client.get("key")
        assert failed.value.outcome is Outcome.APPLIED


# --- what gives way -----------------------------------------------------------------------------------------------------


def traced(original, seen):
    """As tracers wrap it."""

    @functools.wraps(original)
    async def wrapper(self, *args, **options):
        seen.append(args)
        return await original(self, *args, **options)

    return wrapper


async def warm(client):
    for _ in range(2):
        assert await client.set("key", "value")
        assert await client.get("key") in (b"value", "value")


async def used(client):
    """Whether these calls go through what is around `execute_command`."""
    assert await client.set("key", "value")
    assert await client.get("key") in (b"value", "value")
    assert await client.exists("key", "other") == 1


USED = [("SET", "key", "value"), ("GET", "key"), ("EXISTS", "key", "other")]


async def clients(valkey):
    address = valkey.connection_kwargs
    return Redis(**address), AsyncResilientRedisClient("traced", **address)


HOLDERS = pytest.mark.parametrize("holder", [Redis, redis.asyncio.Redis], ids=["ours", "redis-py's"])


@HOLDERS
async def test_a_class_patched_after_the_client_was_made_and_restored(valkey, monkeypatch, holder):
    for client in await clients(valkey):
        async with client:
            await warm(client)
            seen = []
            for _ in range(2):
                with monkeypatch.context() as patched:
                    patched.setattr(holder, "execute_command", traced(holder.execute_command, seen))
                    await used(client)
                assert seen == USED
                await used(client)
                assert seen == USED
                seen.clear()


@HOLDERS
async def test_a_class_patched_before_the_client_was_made_and_restored(valkey, monkeypatch, holder):
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(holder, "execute_command", traced(holder.execute_command, seen))
        made = await clients(valkey)
        for client in made:
            seen.clear()
            await used(client)
            assert seen == USED
    seen.clear()
    for client in made:
        await used(client)
        async with client:
            await used(client)
    assert seen == []


async def test_a_client_that_is_patched_itself(valkey):
    async with Redis(**valkey.connection_kwargs) as client, Redis(**valkey.connection_kwargs) as other:
        await warm(client)
        await warm(other)
        seen = []
        client.execute_command = functools.partial(traced(Redis.execute_command, seen), client)
        await used(client)
        await used(other)
        assert seen == USED
        del client.execute_command
        await used(client)
        assert seen == USED
        answering = mock.AsyncMock if ASYNC else mock.Mock
        with mock.patch.object(client, "execute_command", answering(return_value=b"mocked")) as mocked:
            assert await client.get("key") == b"mocked"
            assert await client.incr("key") == b"mocked"
        assert mocked.call_count == 2
        assert await client.get("key") == b"value"


async def test_a_subclass_that_overrides(valkey):
    seen = []

    class Mine(Redis):
        async def execute_command(self, *args, **options):
            seen.append(args)
            return await super().execute_command(*args, **options)

    class Reading(Redis):
        async def parse_response(self, connection, command_name, **options):
            seen.append(command_name)
            return await super().parse_response(connection, command_name, **options)

    class Own(Redis):
        async def get(self, name):
            seen.append(name)
            return await super().get(name)

    async with Mine(**valkey.connection_kwargs) as client:
        await used(client)
        assert seen == USED
        seen.clear()
        async with AsyncResilientRedisClient("injected", client=client) as resilient:
            await used(resilient)
    async with Reading(**valkey.connection_kwargs) as client:
        seen.clear()
        await used(client)
        assert seen == ["SET", "GET", "EXISTS"]
    async with Own(**valkey.connection_kwargs) as client:
        seen.clear()
        await used(client)
        assert seen == ["key"]


@HOLDERS
async def test_calls_within_a_patch_are_guarded_and_go_over_the_own_transport(valkey, holder):
    async with Redis(**valkey.connection_kwargs) as client:
        await warm(client)
        before, taken = client.stats()["operations"]["GET"]["successes"], client.connection_pool.get_connection
        with (
            mock.patch.object(holder, "execute_command", traced(holder.execute_command, [])),
            mock.patch.object(client.connection_pool, "get_connection", side_effect=taken) as leased,
        ):
            await used(client)
            assert client.stats()["operations"]["GET"]["successes"] == before + 1
            client.guard.force_open()
            with pytest.raises(Exception, match="open"):
                await client.get("key")
            client.guard.reset()
            with pytest.raises(ResponseError, match="WRONGTYPE") as caught:
                await client.lpush("key", 1)
            assert caught.value.outcome is Outcome.REJECTED
            assert await client.execute_command("SET", "third", "value") in (True, b"OK")
            assert client.connection is None
        assert not leased.called
        await used(client)


async def test_what_a_patch_does_itself_and_what_it_leaves_out(valkey, monkeypatch):
    original, seen = redis.asyncio.Redis.execute_command, []

    async def wrapper(self, *args, **options):
        seen.append(args)
        if args[1] == "key":
            await self.get("within")
            async with self.pipeline() as pipeline:
                await pipeline.incr("counter").execute()
            await original(self, *args, **options)
        return await original(self, *args, **options)

    async with Redis(**valkey.connection_kwargs) as client:
        await warm(client)
        await client.delete("counter")
        with monkeypatch.context() as patched:
            patched.setattr(redis.asyncio.Redis, "execute_command", wrapper)
            assert await client.get("key") == b"value"
            assert seen == [("GET", "key"), ("GET", "within")]
            patched.setattr(
                redis.asyncio.Redis,
                "execute_command",
                mock.AsyncMock(return_value=5) if ASYNC else mock.Mock(return_value=5),
            )
            assert await client.get("key") == 5
        assert await client.get("key") == b"value"
        assert await client.get("counter") == b"1"


async def test_a_patch_sees_calls_that_go_redis_py_s_own_way(valkey, monkeypatch):
    seen = []
    async with Redis(**valkey.connection_kwargs, single_connection_client=True) as client:
        monkeypatch.setattr(redis.asyncio.Redis, "execute_command", traced(redis.asyncio.Redis.execute_command, seen))
        await used(client)
        assert seen == USED


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize("holder", [Pipeline, redis.asyncio.client.Pipeline], ids=["ours", "redis-py's"])
async def test_a_patched_pipeline(valkey, monkeypatch, holder, transaction):
    original, seen = holder.execute, []

    @functools.wraps(original)
    async def execute(self, raise_on_error=True):
        seen.append(([args for args, _ in self.command_stack], raise_on_error))
        return await original(self, raise_on_error)

    async with Redis(**valkey.connection_kwargs) as client:
        script = client.register_script("return ARGV[1]")
        for round_ in range(2):
            with monkeypatch.context() as patched:
                patched.setattr(holder, "execute", execute)
                pipeline = client.pipeline(transaction=transaction)
                assert await pipeline.set("key", "value").get("key").execute() == [True, b"value"]
                assert seen == [([("SET", "key", "value"), ("GET", "key")], True)]
                results = await pipeline.lpush("key", 1).get("key").execute(False)
                assert isinstance(results[0], ResponseError)
                assert results[1] == b"value"
                assert len(seen) == 2
                with pytest.raises(ResponseError):
                    await pipeline.lpush("key", 1).execute()
                await script(args=[round_], client=pipeline)
                assert await pipeline.execute() == [b"%d" % round_]
                assert len(pipeline) == 0
                assert pipeline.connection is None
                patched.setattr(holder, "execute", (mock.AsyncMock if ASYNC else mock.Mock)(return_value=["mocked"]))
                assert await pipeline.get("key").execute() == ["mocked"]
                await pipeline.reset()
            seen.clear()
            assert await pipeline.get("key").execute() == [b"value"]
            assert seen == []


@HOLDERS
async def test_a_method_that_is_patched(valkey, holder):
    for client in await clients(valkey):
        async with client:
            await warm(client)
            answering = mock.AsyncMock if ASYNC else mock.Mock
            for _ in range(2):
                with mock.patch.object(holder, "get", answering(return_value="mocked")):
                    assert await client.get("key") == "mocked"
                assert await client.get("key") in (b"value", "value")


async def test_a_class_whose_reading_is_patched(valkey):
    seen = []
    async with Redis(**valkey.connection_kwargs) as client:
        await warm(client)
        original = Redis.parse_response

        async def parse_response(self, connection, command_name, **options):
            seen.append(command_name)
            return await original(self, connection, command_name, **options)

        with mock.patch.object(Redis, "parse_response", parse_response):
            await used(client)
            assert seen == ["SET", "GET", "EXISTS"]
        await used(client)
        assert seen == ["SET", "GET", "EXISTS"]


async def test_a_resilient_client_that_runs_its_operations_itself(valkey):
    seen = []

    class Mine(AsyncResilientRedisClient):
        async def _execute_with_circuit_breaker(self, operation_name, operation):
            seen.append(operation_name)
            return await super()._execute_with_circuit_breaker(operation_name, operation)

    original = AsyncResilientRedisClient._execute_with_circuit_breaker

    async def run(self, operation_name, operation):
        seen.append(operation_name)
        return await original(self, operation_name, operation)

    async with Mine("mine", **valkey.connection_kwargs) as client:
        await used(client)
        assert seen == ["set", "get", "exists"]
    async with AsyncResilientRedisClient("patched", **valkey.connection_kwargs) as client:
        await warm(client)
        seen.clear()
        with mock.patch.object(AsyncResilientRedisClient, "_execute_with_circuit_breaker", run):
            await used(client)
            assert seen == ["set", "get", "exists"]
        await used(client)
        assert seen == ["set", "get", "exists"]


async def test_a_resilient_client_with_another_wrapped_client(valkey):
    address = valkey.connection_kwargs
    async with AsyncResilientRedisClient("wrapping", **address) as client, Redis(**address) as other:
        await warm(client)
        own = client.client
        client.client = (mock.AsyncMock if ASYNC else mock.Mock)()
        client.client.get.return_value = "mocked"
        assert await client.get("key") == "mocked"
        client.client = other
        assert await client.get("key") == b"value"
        client.client = own
        assert await client.get("key") == "value"


async def test_errors_of_a_resilient_client_are_noted(valkey, caplog):
    async with AsyncResilientRedisClient("noting", **valkey.connection_kwargs) as client:
        await warm(client)
        for _ in range(2):
            caplog.clear()
            with pytest.raises(ResponseError):
                await client.hget("key", "field")
            assert "hget failed: ResponseError WRONGTYPE" in caplog.text
        client.guard.force_open()
        with pytest.raises(Exception, match="open"):
            await client.get("key")
        client.guard.reset()
        assert await client.get("key") == "value"
