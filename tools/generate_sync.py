"""Writes the sync twins of asyncio sources, so that what is decided once is written once.

    python tools/generate_sync.py            regenerate every target
    python tools/generate_sync.py --check    change nothing; exit 1 when a target differs from what would be written
    python tools/generate_sync.py FILE ...   only the pairs whose source or target is named

`_async/NAME.py` is the source of `_sync/NAME.py` beside it, in the package and in the tests; there is no list of pairs. A file
in a `_sync` folder that has no source is an error.

The source is parsed with libcst, which keeps comments and blank lines, the tree is rewritten, and ruff formats the result and
drops the imports that are no longer used. What the rewriting does:

* `async def`, `async with`, `async for` and `await` lose their async part.
* Identifiers: `AsyncThing` becomes `Thing`, `async_thing` becomes `thing` (also inside a name: `_async_thing`,
  `test_async_thing`), and those of RENAMED what it says. Strings, docstrings and comments follow, and lose the
  `await`s of their examples.
* Modules: `redis.asyncio` becomes `redis`, `agent_memory.redis.asyncio` becomes `agent_memory.redis`, and so on.
* Types: `Awaitable[T]` and `Coroutine[Any, Any, T]` become `T`, `AsyncGenerator[Y, S]` becomes
  `Generator[Y, S, None]`.
* `if ASYNC:` (from agent_memory._concurrency) keeps its `else` branch only; `a if ASYNC else b` becomes `b`,
  and an argument `ASYNC` False. `@pytest.mark.asyncio` goes.

A source never speaks to asyncio itself: sleeping, spawning, locks and events come in pairs from
agent_memory._concurrency. An `asyncio` that is left over is an error here, not a surprise in the sync client.
"""

from __future__ import annotations

import argparse
import difflib
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import libcst as cst
import libcst.matchers as m

ROOT = Path(__file__).resolve().parent.parent

RENAMED = {
    "_async": "_sync",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "StopAsyncIteration": "StopIteration",
    "AbstractAsyncContextManager": "AbstractContextManager",
    "asynccontextmanager": "contextmanager",
    "aclosing": "closing",
    "aclose": "close",
    "aiter": "iter",
    "anext": "next",
    "pytest_asyncio": "pytest",
}

# Wording of strings, docstrings and comments, applied in this order before the identifiers.
REWORDED = [
    (re.compile(r"\bawait \((await [^()]*(?:\([^()]*\))?[^()]*)\)"), r"\1"),
    (re.compile(r"\bawait (?=[\w(])"), ""),
    (re.compile(r"\basync (?=(?:def|with|for)\b)"), ""),
    (re.compile(r"\b([Aa])n (?:async|asyncio) (?=\w)"), r"\1 "),
    (re.compile(r"\basyncio\.(?=[A-Z])"), "threading."),
    (re.compile(r"\.asyncio\b"), ""),
    (re.compile(r"\bcoroutine function"), "function"),
    (re.compile(r"\b([Cc]o)routine(?=s?\b)"), lambda match: "call" if match[1] == "co" else "Call"),
    (re.compile(r"\bevent loop\b"), "thread"),
    (re.compile(r"\btask(s?)\b"), r"thread\1"),
    (re.compile(r"\bTask(s?)\b"), r"Thread\1"),
    (re.compile(r"\b([Aa])n (?=thread)"), r"\1 "),
]

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def rename(identifier: str) -> str:
    """The sync name of one identifier."""
    if identifier in RENAMED:
        return RENAMED[identifier]
    renamed = re.sub(r"(^|_)async_(?=\w)", r"\1", identifier)
    return re.sub(r"(^|_|Test)Async(?=[A-Z])", r"\1", renamed)


def reword(text: str) -> str:
    """The sync wording of a string, docstring or comment."""
    for pattern, replacement in REWORDED:
        text = pattern.sub(replacement, text)
    return IDENTIFIER.sub(lambda match: rename(match[0]), text)


class _ToSync(cst.CSTTransformer):
    """Rewrites a module; `left_over` lists uses of asyncio that have no sync counterpart."""

    METADATA_DEPENDENCIES = (cst.metadata.PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.left_over: list[str] = []

    # Syntax.

    def leave_FunctionDef(self, original: cst.FunctionDef, updated: cst.FunctionDef) -> cst.FunctionDef:
        return updated.with_changes(asynchronous=None)

    def leave_With(self, original: cst.With, updated: cst.With) -> cst.With:
        return updated.with_changes(asynchronous=None)

    def leave_For(self, original: cst.For, updated: cst.For) -> cst.For:
        return updated.with_changes(asynchronous=None)

    def leave_CompFor(self, original: cst.CompFor, updated: cst.CompFor) -> cst.CompFor:
        return updated.with_changes(asynchronous=None)

    def leave_Await(self, original: cst.Await, updated: cst.Await) -> cst.BaseExpression:
        value = updated.expression
        if not updated.lpar:
            return value
        one_line = not isinstance(updated.lpar[0].whitespace_after, cst.ParenthesizedWhitespace)
        if one_line and isinstance(value, cst.Call | cst.Name | cst.Attribute | cst.Subscript):
            return value
        return value.with_changes(lpar=[*updated.lpar, *value.lpar], rpar=[*value.rpar, *updated.rpar])

    def leave_If(
        self, original: cst.If, updated: cst.If
    ) -> cst.If | cst.RemovalSentinel | cst.FlattenSentinel[cst.BaseStatement]:
        if m.matches(updated.test, m.Name("ASYNC")):
            kept = updated.orelse
            if isinstance(kept, cst.If):
                return kept.with_changes(leading_lines=updated.leading_lines)
            body = kept.body if kept else None
        elif m.matches(updated.test, m.UnaryOperation(m.Not(), m.Name("ASYNC"))):
            body = updated.body
        else:
            return updated
        if not isinstance(body, cst.IndentedBlock):
            return cst.RemoveFromParent()
        first, *rest = body.body
        first = first.with_changes(leading_lines=[*updated.leading_lines, *body_header(body), *first.leading_lines])
        return cst.FlattenSentinel([first, *rest])

    def leave_IfExp(self, original: cst.IfExp, updated: cst.IfExp) -> cst.BaseExpression:
        return updated.orelse if m.matches(updated.test, m.Name("ASYNC")) else updated

    def leave_Arg(self, original: cst.Arg, updated: cst.Arg) -> cst.Arg:
        return updated.with_changes(value=cst.Name("False")) if m.matches(updated.value, m.Name("ASYNC")) else updated

    def leave_Decorator(self, original: cst.Decorator, updated: cst.Decorator) -> cst.Decorator | cst.RemovalSentinel:
        name = m.Attribute(m.Attribute(m.Name("pytest"), m.Name("mark")), m.Name("asyncio"))
        if m.matches(original.decorator, name | m.Call(name)):
            return cst.RemoveFromParent()
        return updated

    # Names.

    def leave_Name(self, original: cst.Name, updated: cst.Name) -> cst.Name:
        if original.value == "asyncio":
            where = self.get_metadata(cst.metadata.PositionProvider, original).start
            self.left_over.append(f"line {where.line}")
        return updated.with_changes(value=rename(original.value))

    def leave_Attribute(self, original: cst.Attribute, updated: cst.Attribute) -> cst.BaseExpression:
        if original.attr.value == "asyncio":
            self.left_over.pop()
            return updated.value
        return updated

    def leave_Import(self, original: cst.Import, updated: cst.Import) -> cst.Import | cst.RemovalSentinel:
        # `import asyncio` serves the branches under `if ASYNC:`, which are gone; any other use is reported by itself.
        if m.matches(original, m.Import([m.ImportAlias(m.Name("asyncio"))])):
            self.left_over.pop()
            return cst.RemoveFromParent()
        return updated

    def leave_ImportAlias(self, original: cst.ImportAlias, updated: cst.ImportAlias) -> cst.ImportAlias:
        alias = updated.asname
        if alias and m.matches(alias.name, m.Name()) and m.matches(updated.name, m.Name(alias.name.value)):
            return updated.with_changes(asname=None)
        return updated

    def leave_Subscript(self, original: cst.Subscript, updated: cst.Subscript) -> cst.BaseExpression:
        name = original.value.attr if isinstance(original.value, cst.Attribute) else original.value
        if m.matches(name, m.Name("Awaitable") | m.Name("Coroutine")):
            last = updated.slice[-1].slice
            return cst.ensure_type(last, cst.Index).value
        if m.matches(name, m.Name("AsyncGenerator")):
            none = cst.SubscriptElement(cst.Index(cst.Name("None")))
            return updated.with_changes(slice=[*updated.slice, none])
        return updated

    # Text.

    def leave_SimpleString(self, original: cst.SimpleString, updated: cst.SimpleString) -> cst.SimpleString:
        return updated.with_changes(value=reword(updated.value))

    def leave_FormattedStringText(
        self, original: cst.FormattedStringText, updated: cst.FormattedStringText
    ) -> cst.FormattedStringText:
        return updated.with_changes(value=reword(updated.value))

    def leave_Comment(self, original: cst.Comment, updated: cst.Comment) -> cst.Comment:
        return updated.with_changes(value=reword(updated.value))


class _Prune(cst.CSTTransformer):
    """Takes the asyncio branches out first, so that nothing inside them is looked at."""

    leave_If = _ToSync.leave_If
    leave_IfExp = _ToSync.leave_IfExp


def body_header(body: cst.IndentedBlock) -> list[cst.EmptyLine]:
    """A comment that stood behind the `if ASYNC:` or its `else:`, as a line of its own."""
    comment = body.header.comment
    return [cst.EmptyLine(comment=comment)] if comment else []


def to_sync(source: str, name: str = "<source>") -> str:
    """The sync text of an asyncio source, before formatting.

    Raises ValueError when the source uses asyncio itself outside an `if ASYNC:`.
    """
    pruned = cst.parse_module(source).visit(_Prune())
    wrapper = cst.MetadataWrapper(cst.parse_module(pruned.code))
    transformer = _ToSync()
    module = wrapper.visit(transformer)
    if transformer.left_over:
        places = ", ".join(transformer.left_over)
        raise ValueError(f"{name} uses asyncio itself, take it from agent_memory._concurrency ({places} once pruned)")
    return module.code


def generate(source: Path, target: Path) -> str:
    """What belongs into `target`, formatted."""
    header = f"# Generated from ../_async/{source.name} by tools/generate_sync.py: edit that file, not this one.\n\n"
    text = header + to_sync(source.read_text(), str(source.relative_to(ROOT)))
    ruff = [sys.executable, "-m", "ruff"]
    filename = ["--stdin-filename", str(target), "-"]
    # An import that only asyncio needed is unused now, names that lost a prefix sort elsewhere, and a comprehension may
    # have lost its reason.
    text = _run([*ruff, "check", "--quiet", "--fix-only", "--unsafe-fixes", "--select=I,F401,C416", *filename], text)
    return _run([*ruff, "format", "--quiet", *filename], text)


def _run(command: list[str], text: str) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def pairs() -> list[tuple[Path, Path]]:
    """Every source and its target: `_async/NAME.py` and `_sync/NAME.py`, in the package and in the tests."""
    sources = (source for top in ("python", "tests") for source in sorted((ROOT / top).rglob("_async/*.py")))
    return [(source, source.parent.with_name("_sync") / source.name) for source in sources]


def orphans() -> list[Path]:
    """Files in `_sync/` folders that no source stands for."""
    targets = {target for _, target in pairs()}
    found = (file for top in ("python", "tests") for file in (ROOT / top).rglob("_sync/*.py"))
    return sorted(file for file in found if file not in targets)


def _generate_or_say_why_not(source: Path, target: Path) -> str | ValueError:
    try:
        return generate(source, target)
    except ValueError as error:
        return error


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Generate the sync twins of asyncio sources.")
    parser.add_argument("--check", action="store_true", help="only compare, exit 1 when something would change")
    parser.add_argument("files", nargs="*", type=Path, help="sources or targets; by default every pair")
    options = parser.parse_args(arguments)
    wanted = {file.resolve() for file in options.files}
    chosen = [pair for pair in pairs() if not wanted or wanted & set(pair)]
    if unknown := wanted.difference(*chosen):
        parser.error(f"neither a source nor a target: {', '.join(sorted(map(str, unknown)))}")
    with ProcessPoolExecutor() as pool:
        texts = list(pool.map(_generate_or_say_why_not, *zip(*chosen, strict=True))) if chosen else []
    stale = 0
    for orphan in orphans():
        print(f"no source for {orphan.relative_to(ROOT)}: delete it", file=sys.stderr)
        stale += 1
    for (_, target), text in zip(chosen, texts, strict=True):
        if isinstance(text, ValueError):
            print(text, file=sys.stderr)
            stale += 1
            continue
        before = target.read_text() if target.exists() else ""
        if text == before:
            continue
        name = str(target.relative_to(ROOT))
        if options.check:
            stale += 1
            diff = difflib.unified_diff(before.splitlines(), text.splitlines(), name, "regenerated", lineterm="", n=1)
            print("\n".join(list(diff)[:40]), file=sys.stderr)
        else:
            target.write_text(text)
            print(f"wrote {name}")
    if stale and options.check:
        print("run: python tools/generate_sync.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
