"""Keeps some words out of comments, docstrings, messages and documents: the thing is the subject, by the field's term.

    python tools/check_language.py             list the lines with such a word; exit 1 if there is one

Checked: documents; the comments and all strings of Python, of tests only the comments and docstrings; of Rust likewise;
the names in both, of functions, variables and constants.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LEFT_OUT = (
    "tests/behaviour/spec/examples.md",
    "tools/check_language.py",
    "tests/unit/project/test_check_language.py",
    "rust/core/src/scoring/index/text/stop.rs",
)
GENERATED = ("/_sync/", "redis/_typing.pyi")
PERSONS = "attacker|author|caller|developer|engineer|maintainer|operator|people|person|reader|subscriber|user"
"""Persons, who may be the subject of a clause."""

RULES = {
    "a person as the subject of code: name the thing": re.compile(
        r"\b(?:whoever|whomever|whosever|nobody|somebody|everybody|anybody|someone|everyone|anyone|no one)\b",
        re.IGNORECASE,
    ),
    "'who' for what is no person: 'the caller', 'the thread', 'the client'": re.compile(
        rf"(?<![\w{{])(?:(?P<person>{PERSONS})s?,? )?(?P<who>who)\b(?! am i)", re.IGNORECASE
    ),
    "slow path, not detour": re.compile(r"\bdetours?\b", re.IGNORECASE),
    "stale markers, not litter": re.compile(r"\blitter\w*", re.IGNORECASE),
    "unfenced, not loose": re.compile(r"\bloose\b", re.IGNORECASE),
    "release, not let go": re.compile(r"\b(?:let|lets|letting) go\b", re.IGNORECASE),
    "graceful shutdown, not farewell": re.compile(r"\bfarewells?\b", re.IGNORECASE),
    "the adopting process or connection, not an heir": re.compile(r"\bheirs?\b", re.IGNORECASE),
    "report, notify or re-authenticate, not tell": re.compile(
        r"\b(?:is|are|was|were|been|being|be) told\b(?! apart)|\bnot told\b(?! apart)"
    ),
    "unknown outcome, not in doubt": re.compile(r"\bdoubt(?:s|ed|ful)?\b", re.IGNORECASE),
    "checkpoint the WAL, not fold the log back": re.compile(r"\bfold(?:s|ed|ing)?\b[^.]{0,20}\bback\b", re.IGNORECASE),
}

NAMED = re.compile(r"`[^`]*`")
"""Names in the code, which are not looked at."""


def word_of(line: str) -> str | None:
    """The rule that a line breaks, None if there is none."""
    text = NAMED.sub("", line)
    for rule, pattern in RULES.items():
        for match in pattern.finditer(text):
            if match.groupdict().get("person") is None:
                return rule
    return None


def words_of(name: str) -> str:
    """The words of a name, however it is written."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").strip()


def of_python(source: str, is_test: bool) -> Iterator[tuple[int, str]]:
    """The comments, strings and names of a Python file, line by line; of a test's strings the docstrings alone."""
    docstrings: set[int] = set()
    if is_test:
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                docstrings.add(node.lineno)
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], words_of(token.string)
        elif token.type in kinds and (token.type == tokenize.COMMENT or not is_test or token.start[0] in docstrings):
            yield from enumerate(token.string.splitlines(), token.start[0])


def of_rust(source: str, is_test: bool) -> Iterator[tuple[int, str]]:
    """The comments of a Rust file, the names in its code and, unless it is a test, its strings."""
    if not is_test:
        for lexeme in RUST_LEXEMES.finditer(source):
            if not lexeme[0].startswith("//"):
                yield from enumerate(lexeme[0].splitlines(), source.count("\n", 0, lexeme.start()) + 1)
    without_strings = RUST_LEXEMES.sub(_without_string, source)
    for number, line in enumerate(without_strings.splitlines(), 1):
        code, comment, text = line.partition("//")
        for name in re.findall(r"[A-Za-z_]\w+", code):
            yield number, words_of(name)
        if comment:
            yield number, text


RUST_LEXEMES = re.compile(r"""//[^\n]*|r(?P<marks>\#*)".*?"(?P=marks)|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)'""", re.DOTALL)
"""Comments, strings and characters."""


def _without_string(lexeme: re.Match[str]) -> str:
    """A comment as it is; of a string nothing but its line breaks."""
    return lexeme[0] if lexeme[0].startswith("//") else "\n" * lexeme[0].count("\n")


def of_document(source: str, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a document; of the change log those of its first section."""
    lines = source.splitlines()
    if name == "CHANGELOG.md":
        sections = [number for number, line in enumerate(lines) if line.startswith("## ")]
        lines = lines[: sections[1]] if len(sections) > 1 else lines
    yield from enumerate(lines, 1)


def lines_of(name: str, source: str) -> Iterator[tuple[int, str]]:
    if name.endswith((".py", ".pyi")):
        return of_python(source, name.startswith("tests/"))
    return of_rust(source, "/tests/" in name) if name.endswith(".rs") else of_document(source, name)


def found_in(name: str, source: str) -> list[tuple[int, str]]:
    """The lines with such a word, each with the rule that it breaks."""
    found = {number: rule for number, line in lines_of(name, source) if (rule := word_of(line))}
    return sorted(found.items())


def names() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted(
        name
        for name in listed.stdout.splitlines()
        if name.endswith((".py", ".pyi", ".rs", ".md"))
        and name not in LEFT_OUT
        and not any(part in name for part in GENERATED)
        and (ROOT / name).is_file()
    )


def main() -> int:
    argparse.ArgumentParser(
        description="Keep some words out of comments, docstrings, messages and documents."
    ).parse_args()
    count = 0
    for name in names():
        source = (ROOT / name).read_text()
        for number, rule in found_in(name, source):
            count += 1
            print(f"{name}:{number}: {rule}\n    {source.splitlines()[number - 1].strip()}")
    print(f"{count} lines")
    return bool(count)


if __name__ == "__main__":
    sys.exit(main())
