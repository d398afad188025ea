"""The generator of the sync twins: what it rewrites, what it keeps, what it refuses."""

import importlib.util
import sys

import pytest
from paths import TOOLS

TOOL = TOOLS / "generate_sync.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("generate_sync", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("async def f():\n    return await g()\n", "def f():\n    return g()\n"),
        ("x = (await f()).value\n", "x = f().value\n"),
        ("x = await (a or b)\n", "x = (a or b)\n"),
        (
            "async def f():\n    async with a, b as c:\n        pass\n",
            "def f():\n    with a, b as c:\n        pass\n",
        ),
        ("async def f():\n    return [x async for x in y]\n", "def f():\n    return [x for x in y]\n"),
        ("class AsyncThing(AsyncBase): ...\n", "class Thing(Base): ...\n"),
        ("async_sleep(1)\n", "sleep(1)\n"),
        ("from a import AsyncLock as Lock\n", "from a import Lock\n"),
        ("from a._async.retry import x\n", "from a._sync.retry import x\n"),
        ("import redis.asyncio\nredis.asyncio.Redis\n", "import redis\nredis.Redis\n"),
        ("from agent_memory.redis.asyncio import Redis\n", "from agent_memory.redis import Redis\n"),
        ("f: Awaitable[int]\n", "f: int\n"),
        ("f: Callable[[], Coroutine[Any, Any, T]]\n", "f: Callable[[], T]\n"),
        ("f: AsyncGenerator[int, None]\n", "f: Generator[int, None, None]\n"),
        ("async def __aenter__(self): ...\n", "def __enter__(self): ...\n"),
        ("x = 1  # see AsyncThing.aclose\n", "x = 1  # see Thing.close\n"),
        ('"""`await client.get(k)` in an asyncio task"""\n', '"""`client.get(k)` in a thread"""\n'),
        ("@pytest.mark.asyncio\nasync def test_async_x(): ...\n", "def test_x(): ...\n"),
        ("if ASYNC:\n    import asyncio\n    asyncio.run(x)\nelse:\n    y()\n", "y()\n"),
        ("if ASYNC:  # gone\n    x()\nz()\n", "z()\n"),
        ("if not ASYNC:\n    # kept\n    x()\n", "# kept\nx()\n"),
        ("x = a if ASYNC else b\n", "x = b\n"),
        ("f(a, b=ASYNC)\n", "f(a, b=False)\n"),
    ],
)
def test_rewrites(tool, source, expected):
    assert tool.to_sync(source) == expected


def test_comments_and_blank_lines_are_kept(tool):
    source = "# why\nasync def f():\n\n    # inside\n    await g()  # behind\n\n\n# end\n"
    assert tool.to_sync(source) == "# why\ndef f():\n\n    # inside\n    g()  # behind\n\n\n# end\n"


@pytest.mark.parametrize("source", ["import asyncio\nasyncio.sleep(1)\n", "from asyncio import sleep\n"])
def test_refuses_asyncio_that_has_no_sync_counterpart(tool, source):
    with pytest.raises(ValueError, match=r"take it from agent_memory\._compat"):
        tool.to_sync(source, "source.py")
