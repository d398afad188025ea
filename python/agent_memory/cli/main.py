"""What `agent-memory COMMAND` does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from agent_memory.cli.doctor import add_doctor

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="agent-memory", description="Looks after the servers of agent_memory.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_doctor(commands)
    options = parser.parse_args(arguments)
    return int(options.run(options))
