"""Writes docs/reference/commands.md from the table of command categories; `--check` only compares them."""

from __future__ import annotations

import sys
from pathlib import Path

from agent_memory.redis.commands import categories

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "commands.md"

HEAD = """# Commands by category

What a client knows about a command decides whether it may send it again when its outcome is unknown, and which connection
carries it ([The drop-in clients](client.md#commands)). This page is written by `tools/command_table.py` from
`agent_memory/redis/commands/categories.py`; a test compares the table with the flags that Valkey 9.1, Redis 7.0 and
Redis 6.2 give their commands.

A command that is on no list counts as a **relative write**: it is never sent twice by itself.
`ResiliencePolicy(categories={"JSON.GET": CommandCategory.READ})` says more about commands of modules, or overrules a list.
"""

SECTIONS = [
    (
        "Reads",
        "Sent again after any failure of the transport.",
        sorted(categories.READS - {categories.READING_PIPELINE}),
    ),
    (
        "Absolute writes",
        "Sent again when they were not sent or were rejected; in the recovery queue a newer one takes the place of an "
        "older one. `SET` with NX, XX, GET or KEEPTTL and `ZADD` with conditions are relative.",
        sorted(categories.ABSOLUTE_WRITES),
    ),
    (
        "Blocking",
        "On a leased connection whose read deadline is their own timeout plus `socket_timeout`. `XREAD` and `XREADGROUP` "
        "block only with BLOCK.",
        sorted(categories.BLOCKING),
    ),
    (
        "Connection state, passing",
        "On a leased connection that is closed afterwards. `SELECT` also warns.",
        sorted(categories.PASSING_STATE),
    ),
    (
        "Connection state, attributes",
        "With all others: they describe the connection that carries them and change no other command's replies. They last "
        "until it is closed.",
        sorted(categories.CONNECTION_ATTRIBUTES),
    ),
    (
        "Connection state, refused",
        "`ConnectionStateError`, except on a client with a pinned connection (`client()`, `single_connection_client=True`).",
        [f"{name} ({instead})" for name, instead in sorted(categories.REFUSED.items())],
    ),
]


def page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for title, text, names in SECTIONS:
        parts.append(f"\n## {title}\n\n{text}\n\n{', '.join(f'`{name}`' for name in names)}\n")
    return "".join(parts)


def main() -> int:
    """Write the page, or check it."""
    wanted = page()
    if sys.argv[1:] == ["--check"]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != wanted:
            print("docs/reference/commands.md is out of date: run `make generate`")
            return 1
        return 0
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
