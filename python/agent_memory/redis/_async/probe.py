"""The background probe: brings a client back as soon as its server answers, without waiting for a caller to try.

While the circuit is open, one probe at a time is under way. It opens a fresh connection, sends a PING and waits for the
answer as long as its timeout allows: a server that was stopped and goes on answers the pending probe at once, one that
refuses connections is asked again at most `interval_s` later (with jitter, so that clients which lost a server together
do not knock together). On an answer the circuit becomes half-open and the prober itself sends the guarded PING that
closes it, so no user's call has to be the guinea pig.

Rules
- The prober works only while the circuit is open or half-open: an idle client has no task and no thread for it.
- It never holds up a caller, the event loop or the exit of the interpreter. After fork() the child starts its own.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import AuthenticationError

from agent_memory import _at_fork
from agent_memory._check import above
from agent_memory._concurrency import ASYNC, AsyncEvent, AsyncHome, AsyncTask, async_spawn
from agent_memory._core import monotonic_ns
from agent_memory.errors import CircuitOpenError
from agent_memory.policy import CommandCategory, FailureKind
from agent_memory.redis.error_outcomes import classify

if TYPE_CHECKING:
    from agent_memory._core import Guard

__all__ = ["DEFAULT_INTERVAL_S", "AsyncProber"]

DEFAULT_INTERVAL_S: Final = 0.75
"""The longest pause between two probes, in seconds."""
SHORTEST_PAUSE: Final = 0.5
"""The pause between two probes is drawn between this share of the interval and the whole of it."""


class AsyncProber:
    """Watches one guard and probes its server while the circuit is open.

    Parameters:

    - `guard`: the guard whose circuit is watched.
    - `ping`: opens a fresh connection, returns when the server has answered on it, raises when it did not in time.
    - `interval_s`: the longest pause between two probes, in seconds (default 0.75).
    - `name`: for the name of the background task.
    - `is_wanted` (None: always): whether to go on, asked before each probe; `ensure_running()` starts it again.

    Safe to use from any thread and any event loop. Raises ValueError when `interval_s` is not above 0.
    """

    def __init__(
        self,
        guard: Guard,
        ping: Callable[[], Awaitable[object]],
        *,
        interval_s: float = DEFAULT_INTERVAL_S,
        name: str = "redis",
        is_wanted: Callable[[], bool] | None = None,
    ) -> None:
        above("interval_s", interval_s, 0)
        self._guard = guard
        self._ping = ping
        self._interval_s = interval_s
        self._is_wanted = is_wanted
        self._name = f"agent_memory probe of {name}"
        self._home = AsyncHome()
        self._operation = guard.operation("probe", category=CommandCategory.READ)
        self._start_afresh()
        listener = _listener_of(weakref.ref(self))
        guard.add_listener(listener)
        # The guard may be shared and live longer: it must neither keep the prober alive nor call it for ever.
        weakref.finalize(self, guard.remove_listener, listener).atexit = False
        self._expect()
        weakref.finalize(self, guard.expect_no_probes, id(self)).atexit = False
        _at_fork.in_child(self._after_fork)

    def _expect(self) -> None:
        # From the first error on errors announce the probe, before it has been started.
        self._guard.expect_probes(id(self), self._interval_s)

    def _after_fork(self) -> None:
        self._start_afresh()
        self._expect()
        if not ASYNC:
            self.ensure_running()  # the circuit may be open already: then no change of state would start it here

    def _start_afresh(self) -> None:
        self._mutex = threading.Lock()
        self._stopped = AsyncEvent()
        self._task: AsyncTask[None] | None = None

    def ensure_running(self, *, again: bool = False) -> None:
        """Starts probing if the circuit is not closed and no probing is under way. Cheap; called on every rejection.

        With `again` also after `stop()`: a client that was closed is being used once more.
        """
        if again and self._stopped.is_set():
            self.reopen()
        task = self._task
        if task is None or task.is_done():
            self._home.post(self._start)

    def _start(self) -> None:
        with self._mutex:
            running = self._task is not None and not self._task.is_done()
            if running or self._stopped.is_set() or self._guard.state == "closed":
                return
            self._task = async_spawn(_run, weakref.ref(self), self._stopped, name=self._name)

    async def stop(self, timeout: float | None = 1.0) -> None:
        """Ends the probing for good and waits for the probe under way, at most `timeout` seconds (default 1)."""
        self._stopped.set()
        self._guard.expect_no_probes(id(self))
        task = self._task
        if task is not None:
            await task.join(timeout)

    def reopen(self) -> None:
        """The client was opened (again): probing is allowed, and the running event loop is where it happens."""
        self._home.settle()
        self._stopped.clear()
        self._expect()

    def _hand_over(self) -> None:
        with self._mutex:
            self._task = None
        self._home.post_elsewhere(self._start)

    def _is_finished(self) -> bool:
        # Under the mutex: a circuit that opens right now finds either this task at work or none at all.
        with self._mutex:
            if self._guard.state != "closed" and (self._is_wanted is None or self._is_wanted()):
                return False
            self._task = None
            return True

    def _pause_s(self) -> float:
        return self._interval_s * random.uniform(SHORTEST_PAUSE, 1.0)

    async def _probe(self) -> Exception | None:
        """Pings the server. Returns None if it answers, otherwise the error; raises no Exception."""
        try:
            await self._ping()
        except Exception as error:
            # An error that blames the command or this client (NOAUTH, WRONGPASS) is an answer all the same.
            kind, _ = classify(error)
            return None if kind is None or isinstance(error, AuthenticationError) else error
        return None

    async def _confirm(self) -> None:
        """The call that closes a half-open circuit, made here so that no user's call has to be the first."""
        operation = self._operation
        try:
            permit = operation.admit()
        except CircuitOpenError:
            return  # another call is the probe, or it has failed just now
        try:
            error = await self._probe()
        except BaseException:
            operation.abandon(permit)
            raise
        if error is None:
            operation.success(permit)
        else:
            kind, outcome = classify(error)
            # Its deadline has passed, so the answer is always "do not repeat": the prober comes back by itself.
            operation.failure(permit, FailureKind.OTHER if kind is None else kind, outcome, 0, permit, permit)


async def _run(prober: weakref.ref[AsyncProber], stopped: AsyncEvent) -> None:
    try:
        await _probe_until_closed(prober, stopped)
    except BaseException:
        # This event loop ends. Another one that the client lives in goes on.
        owner = prober()
        if owner is not None and not stopped.is_set():
            owner._hand_over()
        raise


async def _probe_until_closed(prober: weakref.ref[AsyncProber], stopped: AsyncEvent) -> None:
    # The background task holds its owner only while a probe is under way, so an abandoned client can be collected.
    while not stopped.is_set():
        owner = prober()
        if owner is None or owner._is_finished():
            return
        started_s = monotonic_ns() / 1e9
        if await owner._probe() is None and not stopped.is_set():
            owner._guard.server_answered()
            await owner._confirm()
            if owner._is_finished():
                return
        pause_s = max(0.0, started_s + owner._pause_s() - monotonic_ns() / 1e9)
        owner._guard.announce_probe(pause_s)
        del owner
        if pause_s > 0:
            await stopped.wait(pause_s)


def _listener_of(prober: weakref.ref[AsyncProber]) -> Callable[..., None]:
    def on_change(*_: Any) -> None:
        owner = prober()
        if owner is not None and owner._guard.state == "open":
            owner.ensure_running()

    return on_change
