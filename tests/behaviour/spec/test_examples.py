"""Every code example of the specification runs as written, with the server's address filled in."""

import ast
import inspect
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Optional

import pytest

from agent_memory import (
    AsyncResilientRedisClient,
    Priority,
    RedisTimeoutError,
    RedisUnavailableError,
    ResilientRedisClient,
    exponential_backoff,
    resilient_operation,
)

TEXT = (Path(__file__).parent / "examples.md").read_text()
EXAMPLES = {
    match["number"]: match["code"]
    for match in re.finditer(r"^## (?P<number>[\d.]+) .*?^```python\n(?P<code>.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
}


def code_of(number, address):
    code = EXAMPLES[number].replace("redis.example.com", address["host"]).replace("6379", str(address["port"]))
    return code.replace(
        'client_name="api_cache"', f'client_name="api_cache", host="{address["host"]}", port={address["port"]}'
    )


def names():
    return {
        "AsyncResilientRedisClient": AsyncResilientRedisClient,
        "Optional": Optional,
        "Priority": Priority,
        "RedisTimeoutError": RedisTimeoutError,
        "RedisUnavailableError": RedisUnavailableError,
        "ResilientRedisClient": ResilientRedisClient,
        "logger": logging.getLogger("examples"),
        "resilient_operation": resilient_operation,
    }


async def run(number, address, scope):
    """Runs one example in `scope`; `await` and `async with` may stand at its top level, as they do in the text."""
    code = compile(code_of(number, address), f"example {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, scope)
    if inspect.iscoroutine(result):
        await result
    return scope


def test_all_examples_are_here():
    assert list(EXAMPLES) == [
        "5.1", "5.2", "7.2", "7.4", "9.1", "9.2", "9.3", "13.4", "13.5.1", "13.5.2", "13.6.1", "13.6.2", "13.6.3",
        "13.7.1", "13.8", "13.10",
    ]  # fmt: skip


def parameters(function):
    return [
        (parameter.name, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]


def specified(number, name, address):
    """The parameters of a function or of a class's __init__, as an example states them."""
    scope = names()
    tree = ast.parse(EXAMPLES[number].replace("# ...", "..."))  # a body of nothing but a comment is none
    wanted = [node for node in tree.body if getattr(node, "name", None) == name]
    for node in ast.walk(ast.Module(wanted, [])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
    exec(compile(ast.Module(wanted, []), number, "exec"), scope)
    found = scope[name]
    return parameters(found.__init__ if inspect.isclass(found) else found)


class TestSignatures:
    def test_5_1_helper_functions(self, address):
        assert parameters(exponential_backoff) == specified("5.1", "exponential_backoff", address)
        assert parameters(resilient_operation) == specified("5.1", "resilient_operation", address)

    def test_5_2_client(self, address):
        expected = specified("5.2", "ResilientRedisClient", address)
        assert parameters(ResilientRedisClient.__init__)[: len(expected)] == expected

    def test_13_4_client(self, address):
        assert parameters(AsyncResilientRedisClient.__init__) == specified("13.4", "AsyncResilientRedisClient", address)

    def test_13_4_backoff(self, address):
        from agent_memory import async_exponential_backoff

        assert parameters(async_exponential_backoff) == specified("13.4", "async_exponential_backoff", address)
        assert inspect.iscoroutinefunction(async_exponential_backoff)

    def test_13_4_methods(self):
        for name in ("init", "close", "execute_with_double_await"):
            assert inspect.iscoroutinefunction(getattr(AsyncResilientRedisClient, name))

    @pytest.mark.parametrize("client", [ResilientRedisClient, AsyncResilientRedisClient])
    def test_6_2_store_with_retry(self, client):
        assert [name for name, _ in parameters(client.store_with_retry)] == [
            "self", "agent_id", "state_data", "store_func", "priority", "retry_attempts", "base_delay", "max_delay",
        ]  # fmt: skip

    def test_importable_from_where_the_text_says(self):
        from agent_memory.storage import async_redis_client, redis_client

        assert redis_client.ResilientRedisClient is ResilientRedisClient
        assert async_redis_client.AsyncResilientRedisClient is AsyncResilientRedisClient
        assert redis_client.resilient_operation is async_redis_client.resilient_operation is resilient_operation
        assert redis_client.exponential_backoff is exponential_backoff


async def test_7_4_backoff_is_the_formula(address):
    scope = await run("7.4", address, {})
    for attempt in range(40):
        for delays in ((), (0.1,), (2.0, 7.0), (0.0, 1.0)):
            assert exponential_backoff(attempt, *delays) == scope["exponential_backoff"](attempt, *delays)
    assert exponential_backoff(5000) == 30.0


async def test_7_2_decorated_method(address):
    code = "class Mine(ResilientRedisClient):\n" + "".join(f"    {line}\n" for line in EXAMPLES["7.2"].splitlines())
    scope = names()
    exec(code, scope)
    with scope["Mine"]("mine", **address) as client:
        client.set("key", "value")
        assert client.get("key") == "value"
        assert client.get("no key") is None


async def test_9_1_basic(address):
    scope = await run("9.1", address, names())
    with scope["client"]:
        assert scope["name"] == "Agent Smith"
        assert scope["state"] == {"health": "100", "position": "10,20"}
        assert scope["client"].hget("agent:123:state", "status") == "active"


async def test_9_2_priorities(address, caplog):
    scope = await run("9.1", address, names())
    with scope["client"] as client:
        await run("9.2", address, scope)
        assert client.hgetall("agent:agent123:state") == {"position": "10,20", "health": "100"}
    assert not caplog.records


async def test_9_3_configuration(address):
    scope = await run("9.3", address, names())
    with scope["client"] as client:
        assert client.ping() is True
        assert (client.critical_retry_attempts, client.retry_base_delay, client.retry_max_delay) == (5, 0.1, 15.0)


async def test_13_5_1_double_await(address):
    async with AsyncResilientRedisClient("double", **address, double_await=True) as client:
        await (await client.set("key", "value"))
        scope = await run("13.5.1", address, {**names(), "client": client})
    assert scope["result"] == "value"


@pytest.mark.parametrize("double_await", [False, True])
async def test_13_5_2_helper(address, double_await):
    async with AsyncResilientRedisClient("double", **address, double_await=double_await) as client:
        await client.execute_with_double_await(client.set("key", "value"))
        scope = await run("13.5.2", address, {**names(), "client": client})
    assert scope["result"] == "value"


async def test_13_6_1_basic(address):
    scope = await run("13.6.1", address, names())
    assert scope["name"] == "Agent Smith"
    assert scope["state"] == {"health": "100", "position": "10,20", "status": "active"}


async def test_13_6_2_context_manager(address):
    await run("13.6.2", address, names())
    with ResilientRedisClient("reader", **address) as client:
        assert client.get("key") == "value"


async def test_13_6_3_store(address, caplog):
    async with AsyncResilientRedisClient("store", **address) as client:
        await run("13.6.3", address, {**names(), "client": client})
        assert await client.hgetall("agent:agent123:state") == {"position": "10,20", "health": "100"}
    assert not caplog.records


async def test_13_7_1_fastapi(address):
    testclient = pytest.importorskip("fastapi.testclient")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # FastAPI's own opinion of on_event
        scope = await run("13.7.1", address, {"__name__": "example"})
        with ResilientRedisClient("writer", **address) as writer:
            writer.set("agent:7:data", "seven")

        def requests():
            with testclient.TestClient(scope["app"]) as http:
                return http.get("/agent/7").json(), http.get("/agent/8").json()

        import asyncio

        found, missing = await asyncio.to_thread(requests)
    assert found == {"agent_id": "7", "data": "seven"}
    assert missing == {"error": "Agent not found"}


async def test_13_8_error_handling(address, mortal_server, caplog):
    async with AsyncResilientRedisClient("fine", **address) as client:
        await client.set("key", "value")
        scope = await run("13.8", address, {**names(), "client": client})
        assert scope["result"] == "value"
    assert not caplog.records
    async with AsyncResilientRedisClient("gone", **mortal_server.connection_kwargs, socket_timeout=0.5) as client:
        mortal_server.kill()
        await run("13.8", address, {**names(), "client": client})
    assert "Redis unavailable" in caplog.messages


def test_13_10_mocked_test_as_written(tmp_path):
    """The example is a test of its own: pytest runs it."""
    file = tmp_path / "test_example.py"
    file.write_text(
        "from agent_memory.storage.async_redis_client import AsyncResilientRedisClient\n" + EXAMPLES["13.10"]
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


async def test_13_10_with_the_mock_injected():
    from unittest.mock import AsyncMock

    mock = AsyncMock()
    mock.get.return_value = "value"
    async with AsyncResilientRedisClient("test-client", client=mock) as client:
        assert await client.execute_with_double_await(client.get("key")) == "value"
    mock.get.assert_called_once_with("key")
    mock.aclose.assert_not_called()
