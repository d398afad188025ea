"""Asks the nodes of a cluster for its topology, when the core says so."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisClusterException, ResponseError

from agent_memory import _at_fork
from agent_memory._concurrency import AsyncEvent, AsyncHome, AsyncTask, async_settle, async_sleep, async_spawn
from agent_memory._core import monotonic_ns

if TYPE_CHECKING:
    from agent_memory.redis.cluster._async.router import AsyncRouter

__all__ = ["AsyncRefresher"]

LOOK_S: Final = 0.05
"""The longest pause between two looks for a first answer."""
ROUND_S: Final = 1.0
"""How long a question may take; then the core asks others."""


class AsyncRefresher:
    """One background worker for each cluster client: rounds of questions, and what their answers change.

    It keeps no client alive: between two looks it holds it by a weak reference only.
    """

    def __init__(self, router: AsyncRouter, view_changed: Callable[[], Any]) -> None:
        self._router = router
        self._view_changed = view_changed
        self._home = AsyncHome()
        self._start_afresh()
        _at_fork.in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._mutex = threading.Lock()
        self._due = AsyncEvent()
        self._stopped = AsyncEvent()
        self._stopped.set()
        self._task: AsyncTask[None] | None = None

    def ensure_running(self) -> None:
        """Start the worker, if there is none; also after `stop()`."""
        self._home.settle()
        self._stopped.clear()
        task = self._task
        if task is None or task.is_done():
            self._home.post(self._start)

    def hurry(self) -> None:
        """A question became due: ask it now. From any thread."""
        self._due.set()
        task = self._task
        if not self._stopped.is_set() and (task is None or task.is_done()):
            self._home.post(self._start)

    def _start(self) -> None:
        with self._mutex:
            if self._stopped.is_set() or (self._task is not None and not self._task.is_done()):
                return
            self._task = async_spawn(
                _run, weakref.ref(self), self._due, self._stopped, name="agent_memory topology of a cluster"
            )

    async def stop(self, timeout_s: float | None = 1.0) -> None:
        """End the worker and wait for it, at most `timeout_s`."""
        self._stopped.set()
        self._due.set()
        task = self._task
        if task is not None:
            await task.join(timeout_s)

    async def look(self) -> float:
        """Ask what is due now; returns the seconds until the next look."""
        core = self._router.core
        connected = [node.number for node in self._router.nodes() if node.is_connected()]
        delay_s, number, questions = core.next_questions(connected)
        if not questions:
            return max(delay_s, 0.0)
        asking = [async_spawn(self._ask, number, node, full) for node, full in questions]
        for task in asking:
            await task.join(ROUND_S)
        return 0.0

    async def first_view(self, deadline_s: float) -> None:
        """Ask for a topology until one is there. Raises RedisClusterException when every node has failed."""
        core = self._router.core
        until_ns = monotonic_ns() + int(deadline_s * 1e9)
        failed: dict[int, Exception] = {}
        core.want_refresh()
        while True:
            delay_s, number, questions = core.next_questions([])
            for node, full in questions:
                error = await self._ask(number, node, full)
                if error is None:
                    return
                failed[node] = error
            unanswered = all(row[0] in failed for row in core.nodes())
            if unanswered or monotonic_ns() >= until_ns:
                last = next(reversed(failed.values()), None)
                if isinstance(last, ResponseError) and "cluster support disabled" in str(last):
                    raise RedisClusterException("Cluster mode is not enabled on this node") from last
                raise RedisClusterException(
                    f"Redis Cluster cannot be connected. Please provide at least one reachable node: {last}"
                ) from last
            if not questions:
                await async_sleep(min(delay_s, LOOK_S))

    async def _ask(self, number: int, node: int, full: bool) -> Exception | None:
        """Ask one node; returns the error instead of an answer."""
        core = self._router.core
        asked_ns = monotonic_ns()
        try:
            slots, info = await core.handle(node).ask_view(full, ROUND_S)
            verdict = core.answer(number, node, asked_ns, slots, info)
        except Exception as error:
            core.no_answer(number, node)
            return error
        if verdict == "accepted":
            await async_settle(self._view_changed())
        return None


async def _run(refresher: weakref.ref[AsyncRefresher], due: AsyncEvent, stopped: AsyncEvent) -> None:
    while not stopped.is_set():
        owner = refresher()
        if owner is None:
            return
        due.clear()
        delay_s = await owner.look()
        del owner
        if delay_s > 0 and not stopped.is_set():
            await due.wait(delay_s)
