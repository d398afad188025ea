"""The only module that knows both worlds: what asyncio sources and their generated sync twins call alike.

tools/generate_sync.py turns `AsyncThing` into `Thing` and `async_thing` into `thing`, so everything here comes in such
pairs with equal signatures. Code that differs beyond names stands under `if ASYNC:`, which the generator prunes.

What a name promises is the same on both sides:

* `spawn` runs a function in the background, in a task or a daemon thread, in an empty contextvars Context, so that a
  worker does not keep its first caller's variables alive.
* `Event` may be set from any thread and any event loop: breakers are shared between sync and asyncio clients, and their
  listeners run wherever the state changed.
* Waiting ends by an event, a result or the timeout.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from agent_memory import _interruptible

T = TypeVar("T")

ASYNC: Final = True
"""True in asyncio sources; the generator keeps only the other branch in their sync twins."""

AsyncLock = asyncio.Lock
Lock = threading.Lock


class AsyncSlots:
    """So many at a time: `async with slots.hold():`."""

    __slots__ = ("_semaphore",)

    def __init__(self, count: int) -> None:
        self._semaphore = asyncio.Semaphore(count)

    def hold(self) -> asyncio.Semaphore:
        """One of them for the length of the block."""
        return self._semaphore


Slots = _interruptible.Slots

async_sleep = asyncio.sleep
sleep = time.sleep

_GIVE_WAY_S: Final = 1e-5
_LOOK_S: Final = 1.0


async def async_give_way() -> None:
    """Lets other tasks go first: for background work that takes long."""
    await asyncio.sleep(0)


def give_way() -> None:
    """Lets other threads go first: for background work that takes long.

    A sleep of zero would have the interpreter back before a thread that waits for it has woken up.
    """
    time.sleep(_GIVE_WAY_S)


# The event loop keeps weak references to its tasks only: without this set a background task may vanish while it waits.
_background_tasks: set[asyncio.Task[Any]] = set()


class AsyncEvent:
    """A flag that tasks of any event loop wait for and any thread may set."""

    __slots__ = ("_is_set", "_lock", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._waiters: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[bool]]] = deque()

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._is_set

    def set(self) -> None:
        """Sets the flag and wakes all waiters, each in its own event loop."""
        with self._lock:
            self._is_set = True
            waiters, self._waiters = self._waiters, deque()
        for loop, future in waiters:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:
                pass  # its loop is closed: no waiter is left

    def clear(self) -> None:
        """Takes the flag down."""
        with self._lock:
            self._is_set = False

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits until the flag is up, at most `timeout` seconds (None: for ever); returns whether it came up."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._is_set:
                return True
            future: asyncio.Future[bool] = loop.create_future()
            waiter = (loop, future)
            self._waiters.append(waiter)
        timer = None if timeout is None else loop.call_later(timeout, _resolve, future, False)
        try:
            return await future
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)


class Event:
    """A flag that threads wait for and any thread may set.

    Unlike `threading.Event`, whose lock an interruption may leave locked, so that setting the flag hangs.
    """

    __slots__ = ("_is_set", "_line")

    def __init__(self) -> None:
        self._is_set = False
        self._line = _interruptible.Line()

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._is_set

    def set(self) -> None:
        """Sets the flag and wakes all waiters."""
        self._is_set = True
        self._line.wake_all()

    def clear(self) -> None:
        """Takes the flag down."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the flag is up, at most `timeout` seconds (None: for ever); returns whether it came up."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_set:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            waiter = self._line.waiter()
            try:
                self._line[waiter] = None
                # An interrupted set() may have raised the flag and woken no thread: it is looked at again.
                if not self._is_set and waiter.acquire(timeout=_LOOK_S if left_s is None else min(left_s, _LOOK_S)):
                    return True
            finally:
                self._line.pop(waiter, None)
        return True


def _resolve(future: asyncio.Future[bool], result: bool = True) -> None:
    if not future.done():
        future.set_result(result)


class AsyncTask(Generic[T]):
    """A function at work in the background, in an asyncio task; it may be asked about from any event loop."""

    __slots__ = ("_ended", "_task")

    def __init__(self, task: asyncio.Task[T]) -> None:
        self._task = task
        self._ended = AsyncEvent()
        ended = self._ended
        task.add_done_callback(lambda _: ended.set())

    def is_done(self) -> bool:
        """Whether it has returned or raised, or will never do either because its event loop was closed."""
        return self._task.done() or self._task.get_loop().is_closed()

    async def join(self, timeout: float | None = None) -> bool:
        """Waits for the end, at most `timeout` seconds (None: for ever); returns whether it ended.

        Never raises the error of what it waits for. Returns False at once when called by the background work itself.
        """
        if self._task is asyncio.current_task():
            return False
        return self.is_done() or await self._ended.wait(timeout)

    async def result(self) -> T:
        """Waits for the thread to end, then returns the function's result or raises its exception."""
        await self.join()
        return self._task.result()


class Task(Generic[T]):
    """A function at work in the background, in a daemon thread."""

    __slots__ = ("_error", "_thread", "_value")

    _value: T

    def __init__(self, function: Callable[..., T], args: tuple[Any, ...], name: str | None) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function, args), name=name, daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., T], args: tuple[Any, ...]) -> None:
        try:
            self._value = contextvars.Context().run(function, *args)
        except BaseException as error:  # kept for result(), as an asyncio task keeps it
            self._error = error

    def is_done(self) -> bool:
        """Whether it has returned or raised."""
        return not self._thread.is_alive()

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end, at most `timeout` seconds (None: for ever); returns whether it ended.

        Never raises the error of what it waits for. Returns False at once when called by the background work itself.
        """
        if self._thread is threading.current_thread():
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def result(self) -> T:
        """Waits for the thread to end, then returns the function's result or raises its exception."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value


def async_spawn(function: Callable[..., Coroutine[Any, Any, T]], *args: Any, name: str | None = None) -> AsyncTask[T]:
    """Runs a coroutine function in a background task of the running event loop; `name` is the task's."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(function(*args), name=name, context=contextvars.Context())
    _background_tasks.add(task)
    task.add_done_callback(_background_tasks.discard)
    return AsyncTask(task)


def spawn(function: Callable[..., T], *args: Any, name: str | None = None) -> Task[T]:
    """Runs a function in a daemon thread, which never keeps the interpreter from exiting; `name` is the thread's."""
    return Task(function, args, name)


async def async_gather(*tasks: AsyncTask[T]) -> list[T]:
    """The results of spawned tasks, in their order; raises the first error met after all have ended."""
    for task in tasks:
        await task.join()
    return [await task.result() for task in tasks]


def gather(*tasks: Task[T]) -> list[T]:
    """The results of spawned threads, in their order; raises the first error met after all have ended."""
    for task in tasks:
        task.join()
    return [task.result() for task in tasks]


class AsyncHome:
    """The event loops in which an owner's background work can run, wherever the need for it is noticed."""

    __slots__ = ("_lock", "_loops")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def settle(self) -> None:
        """Remembers the running loop as a place for work."""
        with self._lock:
            self._loops.add(asyncio.get_running_loop())

    def post(self, function: Callable[[], object]) -> bool:
        """Calls `function` in the running loop, else soon in a remembered one; returns False where there is none."""
        try:
            self.settle()
        except RuntimeError:
            return self.post_elsewhere(function)
        function()
        return True

    def post_elsewhere(self, function: Callable[[], object]) -> bool:
        """Calls `function` soon in a remembered loop that is not the running one; returns False where there is none."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        with self._lock:
            loops = [loop for loop in self._loops if loop is not here and loop.is_running()]
        for loop in loops:
            try:
                loop.call_soon_threadsafe(function, context=contextvars.Context())
            except RuntimeError:
                continue  # it was closed at this moment
            return True
        return False


class Home:
    """The process in which an owner's background work runs: the sync twin of AsyncHome, where any thread will do."""

    __slots__ = ()

    def settle(self) -> None:
        """Nothing to remember: threads start anywhere."""

    def post(self, function: Callable[[], object]) -> bool:
        """Calls `function`; returns True."""
        function()
        return True

    def post_elsewhere(self, function: Callable[[], object]) -> bool:
        """There is no elsewhere: returns False."""
        del function
        return False


class AsyncKeyedLocks:
    """One lock per key and event loop, first come, first served; as many entries as there are locks held."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        # No mutex: the entries of one loop are touched by its thread only, and one dict operation is atomic.
        self._held: dict[Hashable, deque[asyncio.Future[None]] | None] = {}

    def hold(self, *keys: Hashable) -> _AsyncHold:
        """Holds the locks of `keys` for the length of the block, taken in this order. All callers must use the same order."""
        return _AsyncHold(self._held, keys)


class _AsyncHold:
    """The locks of one block. `_held` has an entry for every lock that is held: its waiters, or None."""

    __slots__ = ("_held", "_keys", "_taken")

    def __init__(self, held: dict[Hashable, deque[asyncio.Future[None]] | None], keys: tuple[Hashable, ...]) -> None:
        self._held = held
        self._keys = keys
        self._taken: list[Hashable] = []

    async def __aenter__(self) -> None:
        held, taken = self._held, self._taken
        loop = asyncio.get_running_loop()
        try:
            for key in self._keys:
                place = (id(loop), key)
                if place in held:
                    await self._wait(loop, place)
                else:
                    held[place] = None
                taken.append(place)
        except BaseException:
            self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    async def _wait(self, loop: asyncio.AbstractEventLoop, place: Hashable) -> None:
        """Returns as the holder of the lock: a release hands it over to the first waiter."""
        waiting = self._held[place]
        if waiting is None:
            waiting = self._held[place] = deque()
        turn = loop.create_future()
        waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._hand_over(place)  # it was ours already when the task was cancelled
            elif turn in waiting:
                waiting.remove(turn)
            raise

    def _release(self) -> None:
        for place in self._taken:
            self._hand_over(place)
        self._taken.clear()

    def _hand_over(self, place: Hashable) -> None:
        waiting = self._held[place]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._held[place]


class KeyedLocks:
    """One lock per key; as many entries as there are holders and waiters."""

    __slots__ = ("_entries", "_mutex")

    def __init__(self) -> None:
        self._entries: dict[Hashable, _KeyedLock] = {}
        self._mutex = threading.Lock()

    @contextmanager
    def hold(self, *keys: Hashable) -> Iterator[None]:
        """Holds the locks of `keys` for the length of the block, taken in this order. All callers must use the same order."""
        if not keys:
            yield
            return
        key, *others = keys
        with self._mutex:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _KeyedLock()
            entry.users += 1
        try:
            with entry.lock:
                if others:
                    with self.hold(*others):
                        yield
                else:
                    yield
        finally:
            with self._mutex:
                entry.users -= 1
                if not entry.users:
                    del self._entries[key]


class _KeyedLock:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


async def async_in_thread(function: Callable[..., T], *args: Any) -> T:
    """Runs a blocking function in a thread, so that the event loop goes on meanwhile."""
    return await asyncio.to_thread(function, *args)


def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Runs a blocking function: here the caller may be blocked."""
    return function(*args)


async def async_settle(value: Any) -> Any:
    """Awaits `value` and what it gives, to any depth, until it is no awaitable any more.

    An awaitable that gives itself (redis-py's pipelines and clients do) is a value.
    """
    while hasattr(value, "__await__"):
        settled = await value
        if settled is value:
            break
        value = settled
    return value


def settle(value: Any) -> Any:
    """Returns `value`: the sync twin of `async_settle`."""
    return value
