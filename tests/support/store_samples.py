"""Copies and operations for tests of the stores."""

from __future__ import annotations

import itertools

from agent_memory.memory import LongTermSettings, SqliteSettings, _copy
from agent_memory.memory.stores import Put
from agent_memory.memory.stores.sqlite._engine import SqliteEngine

WRITER = 77
_numbers = itertools.count()


def copy(content="something said", *, agent_id="agent", memory_id=None, writer=WRITER, **options):
    """A checked copy; its version is the store's to assign unless one is given."""
    options.setdefault("timestamp", 1_000.0)
    options.setdefault("created_us", 0)
    memory_id = memory_id or f"m{next(_numbers):06d}"
    return _copy.make_copy(agent_id, content, memory_id=memory_id, writer=writer, **options)


def put(content="something said", *, if_version=None, create=False, **options):
    return Put(copy(content, **options), if_version, create)


def engine_through_python(path, clock_us, *, settings=None, long_term=None):
    """An engine whose writes all go through sqlite3, as where the core cannot get at its library."""
    settings, long_term = settings or SqliteSettings(), long_term or LongTermSettings()
    return SqliteEngine(path, settings, long_term, clock_us, writes_directly=False)


def ids(copies):
    return [one.id for one in copies]


class Clock:
    """Microseconds since the epoch; each look at it takes none."""

    def __init__(self):
        self.now_us = 1_750_000_000_000_000

    def __call__(self):
        return self.now_us
