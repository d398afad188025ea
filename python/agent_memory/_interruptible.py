"""What threads share and wait for, such that an interruption (a signal handler that raises) leaves nothing taken.

CPython looks for signals when a function begins, when a loop turns, and when a call has returned: the handler's exception may
come between `lock.acquire()` and the `try` behind it, inside `Condition.wait`, and inside the callback of a weak reference,
where it is lost. Only `with lock:`, a store and a single call of a built-in method are whole. So what is here waits outside of
locks, is cleaned up by such steps, and holds weakly what an interrupted thread could not take back.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

__all__ = ["LOOK_AGAIN_S", "Line", "LiveSet", "Slots"]

LOOK_AGAIN_S: Final = 0.25
"""A waiting thread looks again after this long: the thread that had to wake it may have been interrupted."""

T = TypeVar("T")


class LiveSet(Generic[T]):
    """A set that holds its members weakly: one that an interrupted thread has dropped is not in it.

    Unlike `weakref.WeakSet` without callbacks, in which an interruption would be lost, and with it the removal. Members are
    told apart by identity. Adding needs a lock; the rest is atomic.
    """

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[int, weakref.ref[Any]] = {}

    def add(self, member: T) -> None:
        """Put a member in."""
        for key, reference in list(self._members.items()):
            if reference() is None:
                self._members.pop(key, None)
        self._members[id(member)] = weakref.ref(member)

    def update(self, members: Iterable[T]) -> None:
        """Put members in."""
        for member in members:
            self.add(member)

    def discard(self, member: T) -> None:
        """Take a member out, if it is in."""
        self._members.pop(id(member), None)

    def __contains__(self, member: object) -> bool:
        reference = self._members.get(id(member))
        return reference is not None and reference() is member

    def __iter__(self) -> Iterator[T]:
        for reference in list(self._members.values()):
            member = reference()
            if member is not None:
                yield member

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Line(dict[Any, None]):
    """Threads that wait for something to be put back, in the order in which they came, and reasons to look at what is put back.

    It is true while there is any. A thread makes a `waiter()`, joins *before* it looks whether it needs to wait, waits with
    `waiter.acquire(timeout=patience_s(left))`, and leaves by `leave(waiter)`; a waiter serves once.
    """

    __slots__ = ()

    @staticmethod
    def waiter() -> threading.Lock:
        """What wakes one thread once."""
        waiter = threading.Lock()
        waiter.acquire()
        return waiter

    @staticmethod
    def patience_s(left_s: float | None) -> float:
        """How long to wait before the next look."""
        return LOOK_AGAIN_S if left_s is None else min(left_s, LOOK_AGAIN_S)

    def wake(self) -> None:
        """Wake the thread that has waited longest."""
        for waiter in list(self):
            if _release(waiter):
                return

    def wake_all(self) -> None:
        """Wake all threads that wait."""
        for waiter in list(self):
            _release(waiter)


def _release(waiter: Any) -> bool:
    """Whether this wakes a thread: reasons are no waiters, and a waiter that was woken may not have left yet."""
    if isinstance(waiter, str):
        return False
    try:
        waiter.release()
    except RuntimeError:
        return False
    return True


class Slots:
    """A semaphore whose slots an interruption cannot lose: `with slots.hold():`."""

    __slots__ = ("_count", "_held", "_line", "_lock")

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._held: LiveSet[_Slot] = LiveSet()
        self._line = Line()

    def hold(self) -> _Slot:
        """One of them for the length of the block."""
        return _Slot(self)

    def take(self, slot: _Slot) -> None:
        """Waits until there is room."""
        while True:
            waiter = Line.waiter()
            try:
                self._line[waiter] = None
                with self._lock:
                    if len(self._held) < self._count:
                        self._held.add(slot)
                        return
                waiter.acquire(timeout=Line.patience_s(None))
            except BaseException:
                self._line.wake()
                raise
            finally:
                self._line.pop(waiter, None)
                if waiter.acquire(blocking=False):
                    self._line.wake()

    def put_back(self, slot: _Slot) -> None:
        """Makes room."""
        self._held.discard(slot)
        self._line.wake()


class _Slot:
    """Held weakly: where an interruption comes between, the frame that ends releases it."""

    __slots__ = ("__weakref__", "_slots")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def __enter__(self) -> None:
        self._slots.take(self)

    def __exit__(self, *_: object) -> None:
        self._slots.put_back(self)
