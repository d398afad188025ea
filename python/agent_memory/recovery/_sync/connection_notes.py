# Generated from ../_async/connection_notes.py by tools/generate_sync.py: edit that file, not this one.

"""The journal's note of this process's connections, and the connections that a predecessor's note names.

Where exactly once is on, a restarted process fences its dead predecessor's connections before it sends anything.
"""

from __future__ import annotations

import json
import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from agent_memory.errors import RecoveryJournalError
from agent_memory.redis.exactly_once.tickets import Stream

if TYPE_CHECKING:
    from agent_memory.recovery._sync.journal import Journal
    from agent_memory.redis.exactly_once.mode import Mode

__all__ = ["ConnectionNotes"]

logger: Final = logging.getLogger("agent_memory.storage")

_NOTE: Final = "connections"  # the note that names the connections of a process
MAX_CONNECTIONS: Final = 4_096
"""Connections that the journal names at the most."""


class ConnectionNotes:
    """Which connections a successor would have to fence, and which of predecessors this client has to fence."""

    def __init__(self, client_name: str) -> None:
        self._client_name = client_name
        self._mode: Mode | None = None
        self.start_afresh()

    def start_afresh(self) -> None:
        """In a child of fork(): the connections are its parent's."""
        self._mutex = threading.Lock()
        self._journal: Journal | None = None
        self._left: list[Stream] = []  # connections of predecessors that have not been handed to a client yet
        self._connections: weakref.WeakSet[Stream] = weakref.WeakSet()  # those that a successor would have to fence

    def attach(self, journal: Journal) -> None:
        """The journal was opened: what predecessors noted in it is for this client to fence."""
        self._journal = journal
        self._left = _connections_of(journal.notes)
        self._hand_over()
        with self._mutex:
            self._ask()

    def detach(self) -> None:
        """The journal is given free."""
        self._journal = None

    def bind(self, mode: Mode) -> None:
        """The client of this mode fences what predecessors left; its own connections are noted."""
        self._mode = mode
        mode.keep = _keeper_of(weakref.ref(self))
        self._hand_over()

    def _hand_over(self) -> None:
        """Has the client fence what predecessors left, before it sends anything."""
        if self._mode is not None:
            left, self._left = self._left, []
            self._mode.inherited.extend(left)
            with self._mutex:
                self._connections.update(left)

    def keep(self, stream: Stream) -> None:
        """Has the journal name a connection, for a successor to fence, before anything is written on it."""
        try:
            with self._mutex:
                self._connections.add(stream)
                asked = self._ask(stream)
            if asked is not None and self._journal is not None:
                self._journal.settled(asked)
        except RecoveryJournalError as error:
            logger.error("%s: a successor would not know of a connection: %s", self._client_name, error)

    def _ask(self, newest: Stream | None = None) -> int | None:
        """Asks for them to be noted, in the order in which they came to be known."""
        known = [stream.record() for stream in self._connections if stream is not newest and not stream.fenced]
        records = [*known[: MAX_CONNECTIONS - 1], *([] if newest is None else [newest.record()])]
        if self._journal is None or not records:
            return None
        return self._journal.ask_note(_NOTE, json.dumps(records).encode())


def _connections_of(notes: Mapping[tuple[int, str], bytes]) -> list[Stream]:
    """The connections that predecessors had."""
    streams = []
    for (_, name), body in notes.items():
        if name == _NOTE:
            try:
                streams += [Stream.of_record(record) for record in json.loads(body)]
            except (ValueError, TypeError, KeyError):
                logger.error("what the journal says of a predecessor's connections cannot be read")
    return streams


def _keeper_of(notes: weakref.ref[ConnectionNotes]) -> Callable[[Stream], None]:
    def keep(stream: Stream) -> None:
        owner = notes()
        if owner is not None:
            owner.keep(stream)

    return keep
