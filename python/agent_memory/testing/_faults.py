"""The faults of a FaultProxy. Plain data, read by its thread while other threads set it."""

from __future__ import annotations

import threading
from typing import Literal, TypeAlias

from agent_memory import _check

__all__ = ["DirectionFaults", "ReplyDrop", "RequestCut", "Then", "check_then"]

Then: TypeAlias = Literal["silence", "reset", "close", "continue"]


class DirectionFaults:
    """
    The faults of one direction of a proxy; each may be set at any time, from any thread, and acts on bytes yet to come.

    All raise ValueError for a value outside its rule. Timings are kept to about a millisecond.
    """

    def __init__(self) -> None:
        """Begin without faults."""
        self._latency_s = 0.0
        self._jitter_s = 0.0
        self._slice_bytes: int | None = None
        self._slice_gap_s = 0.0
        self._bandwidth: float | None = None
        self._black_hole = False

    @property
    def latency_s(self) -> float:
        """Seconds that each chunk is held before it is passed on. Default 0."""
        return self._latency_s

    @latency_s.setter
    def latency_s(self, value: float) -> None:
        self._latency_s = _check_duration("latency_s", value)

    @property
    def jitter_s(self) -> float:
        """Seconds at the most that are added to the latency, evenly, from the proxy's seed; the order is kept. Default 0."""
        return self._jitter_s

    @jitter_s.setter
    def jitter_s(self, value: float) -> None:
        self._jitter_s = _check_duration("jitter_s", value)

    @property
    def slice_bytes(self) -> int | None:
        """The most bytes passed on at once: 1 is byte by byte. Default None: as they come."""
        return self._slice_bytes

    @slice_bytes.setter
    def slice_bytes(self, value: int | None) -> None:
        if value is not None:
            _check.whole("slice_bytes", value, 1)
        self._slice_bytes = value

    @property
    def slice_gap_s(self) -> float:
        """The pause after each slice, in seconds. Default 0: slices leave one by one, the receiver may read several."""
        return self._slice_gap_s

    @slice_gap_s.setter
    def slice_gap_s(self, value: float) -> None:
        self._slice_gap_s = _check_duration("slice_gap_s", value)

    @property
    def bandwidth_bytes_per_s(self) -> float | None:
        """The most bytes per second on each connection. Default None: no bound."""
        return self._bandwidth

    @bandwidth_bytes_per_s.setter
    def bandwidth_bytes_per_s(self, value: float | None) -> None:
        if value is not None:
            _check.above("bandwidth_bytes_per_s", value, 0)
        self._bandwidth = value

    @property
    def black_hole(self) -> bool:
        """
        Whether bytes, and the news of an end, vanish while connections stay open. Default False.

        A stream that has lost bytes delivers nothing more, also after this is set to False: TCP never loses bytes from
        the middle. Connections that lost nothing go on, new ones work.
        """
        return self._black_hole

    @black_hole.setter
    def black_hole(self, value: bool) -> None:
        _check.flag("black_hole", value)
        self._black_hole = value

    def clear(self) -> None:
        """Set everything to its default."""
        vars(self).update(vars(DirectionFaults()))

    def __repr__(self) -> str:
        """With what differs from the default."""
        shown = ", ".join(f"{name[1:]}={value!r}" for name, value in vars(self).items() if value)
        return f"<DirectionFaults {shown or 'none'}>"


def _check_duration(name: str, value: float) -> float:
    _check.at_least(name, value, 0)
    return float(value)


def check_then(then: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError if `then` is not allowed."""
    _check.one_of("then", then, allowed)


class ReplyDrop:
    """Replies to be dropped, as armed by FaultProxy.drop_replies(). Any thread may wait for it."""

    def __init__(self, count: int, commands: frozenset[str] | None, then: Then) -> None:
        """Made by FaultProxy.drop_replies()."""
        self.count = count
        self.commands = commands
        self.then: Then = then
        self.unclaimed = count
        self._dropped = 0
        self._done = threading.Event()

    @property
    def dropped(self) -> int:
        """How many replies have been dropped so far; their commands have been executed."""
        return self._dropped

    def wait(self, timeout_s: float) -> bool:
        """Wait until all `count` replies have been dropped; return False if they were not within `timeout_s` seconds.

        Raises ValueError for a timeout that is no number >= 0.
        """
        _check.at_least("timeout_s", timeout_s, 0)
        return self._done.wait(timeout_s)

    def claim(self, command: str | None) -> bool:
        """For the proxy: take the reply to `command` (None: unknown) if it is to be dropped."""
        if not self.unclaimed or (self.commands is not None and command not in self.commands):
            return False
        self.unclaimed -= 1
        return True

    def note_dropped(self) -> None:
        """For the proxy: a claimed reply has come and gone in full."""
        self._dropped += 1
        if self._dropped == self.count:
            self._done.set()


class RequestCut:
    """A request to be torn, as armed by FaultProxy.cut_after_bytes(). Any thread may wait for it."""

    def __init__(self, count_bytes: int, commands: frozenset[str] | None, then: Then) -> None:
        """Made by FaultProxy.cut_after_bytes()."""
        self.count_bytes = count_bytes
        self.commands = commands
        self.then: Then = then
        self._done = threading.Event()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the connection has been cut; return False if it was not within `timeout_s` seconds.

        Raises ValueError for a timeout that is no number >= 0.
        """
        _check.at_least("timeout_s", timeout_s, 0)
        return self._done.wait(timeout_s)

    def note_done(self) -> None:
        """For the proxy: the cut is made."""
        self._done.set()
