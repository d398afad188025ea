"""The table of command categories agrees with what the servers say of their own commands."""

from __future__ import annotations

from agent_memory.policy import CommandCategory
from agent_memory.redis.commands.categories import category_of

NO_COMMANDS = {"HOST:", "POST", "MEMORY", "OBJECT", "XINFO"}
"""Traps for HTTP requests, and containers of subcommands, which Redis 6.2 gives flags of their own."""


def commands_of(client):
    """Every command and subcommand by upper-case name, with its flags."""
    found = {}

    def take(entries):
        for entry in entries:
            name = entry[0].decode().upper().replace("|", " ")
            found[name] = {flag.decode() if isinstance(flag, bytes) else flag for flag in entry[2]}
            if len(entry) > 9:
                take(entry[9])

    client.response_callbacks.clear()
    take(client.execute_command("COMMAND"))
    return found


def test_no_write_counts_as_a_read(server, connect):
    commands = commands_of(connect(server))
    assert len(commands) > 200
    writes = {name for name, flags in commands.items() if "write" in flags}
    assert {name for name in writes if category_of(name) is CommandCategory.READ} == set()


def test_every_read_counts_as_one(server, connect):
    commands = commands_of(connect(server))
    reads = {name for name, flags in commands.items() if "readonly" in flags} - NO_COMMANDS
    categories = {CommandCategory.READ, CommandCategory.BLOCKING}
    assert {name for name in reads if category_of(name) not in categories} == set()


def test_every_blocking_command_has_a_connection_of_its_own(server, connect):
    commands = commands_of(connect(server))
    blocking = {name for name, flags in commands.items() if "blocking" in flags}
    categories = {CommandCategory.BLOCKING, CommandCategory.CONNECTION_STATE}
    assert {name for name in blocking if category_of(name) not in categories} == set()
