"""The callers: threads on a sync client, tasks on an asyncio client. Both take their steps from `Worker`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from agent_memory.policy import RetryPolicy
from agent_memory.storage._async.client import AsyncResilientRedisClient
from agent_memory.storage._sync.client import ResilientRedisClient
from demo.recorder import Ending, Recorder, Sample
from demo.settings import DemoSettings
from demo.worker import CommandWorker, Step, StoreWorker, Worker

__all__ = ["AsyncTraffic", "SyncTraffic", "Traffic", "resilience_options"]

T = TypeVar("T")

_STORERS_ONE_IN: Final = 4
_JOIN_TIMEOUT_S: Final = 15.0
"""More than any call may take; a worker that is still busy then hangs."""


class HungError(RuntimeError):
    """A call did not return within its deadline."""


class Traffic(Protocol):
    """One client and its callers."""

    name: str
    workers: list[Worker]

    @property
    def client(self) -> Any:
        """The resilient client."""

    def start(self) -> None:
        """Connects and lets the callers begin."""

    def stop(self) -> None:
        """Lets every caller finish its operation. Raises HungError if one does not."""

    def drain(self, timeout_s: float) -> bool:
        """Waits for the recovery queue; whether it is empty."""
        ...

    def close(self) -> None:
        """Ends everything; may be called in any state, again too."""


def resilience_options(settings: DemoSettings) -> dict[str, Any]:
    """How the demo's clients differ from the defaults: shorter timeouts, so that an outage of seconds shows everything."""
    return {
        "socket_timeout": settings.socket_timeout_s,
        "socket_connect_timeout": settings.socket_timeout_s,
        "circuit_threshold": settings.circuit_threshold,
        "retry_policy": RetryPolicy(base_delay=0.05),
        "retry_base_delay": 0.05,
        "retry_max_delay": 0.2,
    }


def _make_workers(name: str, client: Any, store: Callable[[str, Any], Any], count: int, seed: int) -> list[Worker]:
    """Every fourth stores by priority, the others call commands.

    They are apart because a store waits for the earlier writes of its key while the queue drains, and commands do not.
    """
    readable: list[str] = []
    return [
        StoreWorker(f"{name}:{number}", client, seed, store)
        if number % _STORERS_ONE_IN == 0
        else CommandWorker(f"{name}:{number}", client, seed, readable)
        for number in range(count)
    ]


def _finish(recorder: Recorder, client_name: str, step: Step, started_ns: int, ending: Ending) -> None:
    ended_ns = time.monotonic_ns()
    recorder.add(Sample(ended_ns, ended_ns - started_ns, client_name, step.is_command, ending))


def _fail(recorder: Recorder, step: Step, error: Exception) -> Ending:
    ending = step.fail(error)
    if ending is Ending.UNEXPECTED:
        recorder.report_unexpected(error)
    return ending


def _watch_circuit(client: Any, name: str, recorder: Recorder) -> None:
    def on_change(_name: str, _old: str, new: str) -> None:
        recorder.change_state(name, new)

    client.guard.add_listener(on_change)


class SyncTraffic:
    """Threads that share one `ResilientRedisClient`."""

    name = "sync"

    def __init__(self, connection: dict[str, Any], settings: DemoSettings, recorder: Recorder) -> None:
        self._recorder = recorder
        self._pause_s = settings.thread_pause_s
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self.client = ResilientRedisClient("demo-sync", **connection, **resilience_options(settings))
        _watch_circuit(self.client, self.name, recorder)
        self.workers = _make_workers(self.name, self.client, self._store, settings.threads, settings.seed)

    def _store(self, agent_id: str, state: dict[str, str]) -> bool:
        self.client.hset_dict(agent_id, state)
        return True

    def start(self) -> None:
        """See Traffic."""
        self.client.init()
        for worker in self.workers:
            thread = threading.Thread(target=self._run, args=(worker,), name=f"demo {worker.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, worker: Worker) -> None:
        while not self._stopped.wait(worker.rest_s(self._pause_s)):
            step = worker.choose()
            started_ns = time.monotonic_ns()
            try:
                ending = step.succeed(step.call())
            except Exception as error:
                ending = _fail(self._recorder, step, error)
            _finish(self._recorder, self.name, step, started_ns, ending)

    def stop(self) -> None:
        """See Traffic."""
        self._stopped.set()
        deadline_s = time.monotonic() + _JOIN_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                raise HungError(f"{thread.name} hangs in a call")

    def drain(self, timeout_s: float) -> bool:
        """See Traffic."""
        return bool(self.client.recovery.flush(timeout_s))

    def close(self) -> None:
        """See Traffic."""
        self._stopped.set()
        self.client.close()


class AsyncTraffic:
    """Tasks that share one `AsyncResilientRedisClient`, in an event loop that has a thread of its own."""

    name = "async"

    def __init__(self, connection: dict[str, Any], settings: DemoSettings, recorder: Recorder) -> None:
        self._recorder = recorder
        self._pause_s = settings.task_pause_s
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="demo event loop", daemon=True)
        self._thread.start()
        self._tasks: list[asyncio.Task[None]] = []
        self.client = AsyncResilientRedisClient("demo-async", **connection, **resilience_options(settings))
        _watch_circuit(self.client, self.name, recorder)
        self.workers = _make_workers(self.name, self.client, self._store, settings.tasks, settings.seed)

    async def _store(self, agent_id: str, state: dict[str, str]) -> bool:
        await self.client.hset_dict(agent_id, state)
        return True

    def _in_loop(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def start(self) -> None:
        """See Traffic."""
        self._in_loop(self._begin(), _JOIN_TIMEOUT_S)

    async def _begin(self) -> None:
        await self.client.init()
        self._tasks = [asyncio.create_task(self._run(worker), name=f"demo {worker.name}") for worker in self.workers]

    async def _run(self, worker: Worker) -> None:
        while not self._stopping:
            step = worker.choose()
            started_ns = time.monotonic_ns()
            try:
                ending = step.succeed(await step.call())
            except Exception as error:
                ending = _fail(self._recorder, step, error)
            _finish(self._recorder, self.name, step, started_ns, ending)
            await asyncio.sleep(worker.rest_s(self._pause_s))

    def stop(self) -> None:
        """See Traffic."""
        self._in_loop(self._end_tasks(), 2 * _JOIN_TIMEOUT_S)

    async def _end_tasks(self) -> None:
        self._stopping = True
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=_JOIN_TIMEOUT_S)
        for task in pending:
            raise HungError(f"{task.get_name()} hangs in a call")

    def drain(self, timeout_s: float) -> bool:
        """See Traffic."""
        return self._in_loop(self.client.recovery.flush(timeout_s), timeout_s + _JOIN_TIMEOUT_S)

    def close(self) -> None:
        """See Traffic."""
        if not self._thread.is_alive():
            return
        self._in_loop(self._close(), _JOIN_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_JOIN_TIMEOUT_S)
        self._loop.close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()
