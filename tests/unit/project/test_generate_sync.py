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


@pytest.fixture
def tree(tool, tmp_path, monkeypatch):
    """A tree with two sources, one in the package and one in the tests, and nothing generated yet."""
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    for folder in ("python/package/_async", "python/package/_sync", "tests/_async", "tests/_sync"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "python/package/_async/client.py").write_text("async def call():\n    await other()\n")
    (tmp_path / "tests/_async/test_client.py").write_text("async def test_call(): ...\n")
    return tmp_path


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
    with pytest.raises(ValueError, match=r"take it from agent_memory\._concurrency"):
        tool.to_sync(source, "source.py")


TARGET = "python/package/_sync/client.py"


def test_every_source_is_generated_into_the_folder_beside_it(tool, tree, capsys):
    assert tool.main([]) == 0
    assert capsys.readouterr().out == f"wrote {TARGET}\nwrote tests/_sync/test_client.py\n"
    header, _, text = (tree / TARGET).read_text().partition("\n\n")
    assert header == "# Generated from ../_async/client.py by tools/generate_sync.py: edit that file, not this one."
    assert text.strip() == "def call():\n    other()"
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    assert capsys.readouterr() == ("", "")


def test_only_the_pairs_of_named_files_are_generated(tool, tree, capsys):
    assert tool.main([str(tree / TARGET)]) == 0
    assert tool.main([str(tree / "tests/_async/test_client.py")]) == 0
    assert capsys.readouterr().out == f"wrote {TARGET}\nwrote tests/_sync/test_client.py\n"


def test_a_name_that_is_no_file_of_a_pair_is_refused(tool, tree, capsys):
    with pytest.raises(SystemExit):
        tool.main([str(tree / "python/package/_async/clinet.py")])
    assert "neither a source nor a target" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "def call():\n    something_else()\n"])
def test_check_reports_what_is_missing_or_differs_and_writes_nothing(tool, tree, capsys, text):
    tool.main([])
    target = tree / TARGET
    target.unlink()
    if text is not None:
        target.write_text(text)
    assert tool.main(["--check"]) == 1
    assert TARGET in capsys.readouterr().err
    assert (target.read_text() if target.exists() else None) == text


@pytest.mark.parametrize("options", [[], ["--check"]])
@pytest.mark.parametrize("orphan", ["python/package/_sync/left.py", "tests/_sync/test_left.py"])
def test_a_sync_file_without_a_source_is_an_error(tool, tree, capsys, orphan, options):
    tool.main([])
    (tree / orphan).write_text("")
    assert tool.main(options) == 1
    assert f"no source for {orphan}: delete it" in capsys.readouterr().err


def test_a_source_that_speaks_to_asyncio_is_an_error_and_the_others_are_written(tool, tree, capsys):
    (tree / "python/package/_async/wrong.py").write_text("import asyncio\n\nasyncio.sleep(1)\n")
    assert tool.main([]) == 1
    assert "python/package/_async/wrong.py uses asyncio itself" in capsys.readouterr().err
    assert (tree / TARGET).exists()
    assert not (tree / "python/package/_sync/wrong.py").exists()
