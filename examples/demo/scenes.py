"""The run, phase by phase: the workers, and what is done to the server."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent_memory.testing import EmbeddedServer
from demo.agent import AgentResult, run_agent
from demo.comparison import LaneResult, compare
from demo.dashboard import Dashboard
from demo.figures import RunFigures, digest
from demo.recorder import Recorder
from demo.settings import PHASE_TITLES, DemoSettings
from demo.traffic import AsyncTraffic, SyncTraffic, Traffic
from demo.verdict import Verdict, judge
from demo.witness import WITNESS_KEY, Witness, WitnessResult

__all__ = ["DemoResult", "run_demo"]

_SAMPLER_INTERVAL_S: Final = 0.05
_DRAIN_TIMEOUT_S: Final = 20.0
_RETURN_TIMEOUT_S: Final = 30.0
_ASK_INTERVAL_S: Final = 0.002


@dataclass(slots=True)
class DemoResult:
    """Everything a run has found out."""

    settings: DemoSettings
    server: str
    """Product and version."""
    comparison: list[LaneResult]
    figures: RunFigures
    witness: WitnessResult
    verdict: Verdict
    agent: AgentResult = field(default_factory=AgentResult)

    @property
    def passed(self) -> bool:
        """Whether the clients and the agent's memory have kept every promise."""
        return self.verdict.passed and self.agent.verdict.passed


def run_demo(settings: DemoSettings, dashboard: Dashboard) -> DemoResult:
    """Runs everything. Whatever happens, the servers have ended and their data is gone when this returns or raises."""
    result = _run_clients(settings, dashboard)
    result.agent = run_agent(settings, dashboard)
    return result


def _run_clients(settings: DemoSettings, dashboard: Dashboard) -> DemoResult:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="agent-memory-demo-"))
        # With a path the server appends every write to a file before it answers, so SIGKILL takes nothing that it has
        # acknowledged. TCP because that is what most servers are reached by.
        server = stack.enter_context(EmbeddedServer(folder, transport="tcp"))
        name = f"{server.product.title()} {server.version}"
        dashboard.say(f"{name} on 127.0.0.1:{server.port}, pid {server.pid}")
        comparison = _compare(server, settings, dashboard)
        recorder = Recorder(["sync", "async"])
        connection = server.connection_kwargs
        traffics: list[Traffic] = []
        for make in (SyncTraffic, AsyncTraffic):
            traffic = make(connection, settings, recorder)
            # close() waits for the recovery queue for a moment: soon over, also when the server is gone for good.
            stack.callback(traffic.close)
            traffics.append(traffic)
        witness = Witness(connection, settings)
        stack.callback(witness.close, 0.0)  # it may be in the middle of redis-py's retries
        sampler = _Sampler(recorder, traffics, dashboard)
        stack.callback(sampler.stop)
        scenes = _Scenes(server, settings, recorder, traffics, witness, sampler, dashboard)
        verdict = scenes.play()
        return DemoResult(settings, name, comparison, digest(recorder, scenes.returned_ns), witness.result, verdict)


def _compare(server: EmbeddedServer, settings: DemoSettings, dashboard: Dashboard) -> list[LaneResult]:
    dashboard.begin_phase("compare", settings.duration_s("compare"))
    dashboard.say("the same GETs, SETs and HSETs through redis-py and through agent_memory, in turns")
    results = compare(server.connection_kwargs, settings, dashboard.show_slice)
    dashboard.show_comparison(results)
    return results


class _Sampler:
    """A thread that looks at the clients every 50 ms, for the record and for the dashboard."""

    def __init__(self, recorder: Recorder, traffics: list[Traffic], dashboard: Dashboard) -> None:
        self._recorder = recorder
        self._traffics = traffics
        self._dashboard = dashboard
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo sampler", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; may be called again."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_SAMPLER_INTERVAL_S):
            for traffic in self._traffics:
                self._recorder.measure_queue(traffic.name, traffic.client.recovery.stats()["queued"])
            self._recorder.collect()
            self._dashboard.refresh(self._recorder)


class _Scenes:
    """The phases under load."""

    def __init__(
        self,
        server: EmbeddedServer,
        settings: DemoSettings,
        recorder: Recorder,
        traffics: list[Traffic],
        witness: Witness,
        sampler: _Sampler,
        dashboard: Dashboard,
    ) -> None:
        self.returned_ns: dict[str, int] = {}
        self._server = server
        self._settings = settings
        self._recorder = recorder
        self._traffics = traffics
        self._witness = witness
        self._sampler = sampler
        self._dashboard = dashboard

    def play(self) -> Verdict:
        """All phases, in order."""
        self._dashboard.say(
            f"{self._settings.threads} threads and {self._settings.tasks} tasks begin: "
            "GET, SET, HSET, INCR, and store_with_retry with every priority"
        )
        for traffic in self._traffics:
            traffic.start()
        self._witness.start()
        self._begin("steady")
        self._sampler.start()
        time.sleep(self._settings.duration_s("steady"))
        self._stall()
        self._kill()
        return self._check()

    def _begin(self, phase: str) -> None:
        self._recorder.begin_phase(phase)
        self._dashboard.begin_phase(phase, self._settings.duration_s(phase) if phase != "check" else None)

    def _do(self, mark: str, text: str) -> None:
        self._recorder.mark(mark)
        self._dashboard.say(text)

    def _stall(self) -> None:
        self._begin("stalled")
        self._do("SIGSTOP", "SIGSTOP: the server is there, but answers nothing")
        self._server.pause()
        time.sleep(self._settings.duration_s("stalled"))
        self._begin("resumed")
        self._do("SIGCONT", "SIGCONT: the server goes on")
        self._server.resume()
        self._note_return("stalled")
        time.sleep(self._settings.duration_s("resumed"))

    def _kill(self) -> None:
        self._begin("killed")
        self._do("SIGKILL", "SIGKILL: the server is gone, connections are refused")
        self._server.kill()
        time.sleep(self._settings.duration_s("killed"))
        self._begin("restarted")
        self._do("restart", "a new server starts on the same data")
        watcher = threading.Thread(target=self._note_return, args=("killed",), name="demo watcher", daemon=True)
        watcher.start()
        self._server.start()
        watcher.join()
        time.sleep(self._settings.duration_s("restarted"))

    def _note_return(self, outage: str) -> None:
        """Notes when the server answers, as a client that asks all the time sees it."""
        kwargs: dict[str, Any] = self._server.connection_kwargs
        deadline_s = time.monotonic() + _RETURN_TIMEOUT_S
        while time.monotonic() < deadline_s:
            try:
                with redis.Redis(**kwargs, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)) as client:
                    client.ping()
            except redis.RedisError:
                time.sleep(_ASK_INTERVAL_S)
            else:
                self.returned_ns[outage] = time.monotonic_ns()
                return

    def _check(self) -> Verdict:
        self._begin("check")
        self._dashboard.say(
            f"{PHASE_TITLES['check']}: the callers finish, the queues drain, every promise is looked up"
        )
        for traffic in self._traffics:
            traffic.stop()
        self._witness.close()
        for traffic in self._traffics:
            if not traffic.drain(_DRAIN_TIMEOUT_S):
                self._dashboard.say(f"{traffic.name}: the recovery queue has not drained in {_DRAIN_TIMEOUT_S:g} s")
        self._recorder.end_phases()
        self._sampler.stop()
        with redis.Redis(**self._server.connection_kwargs) as client:
            self._witness.result.counter = int(client.get(WITNESS_KEY) or 0)
        workers = [worker for traffic in self._traffics for worker in traffic.workers]
        return judge(self._server.connection_kwargs, workers, self._recorder.unexpected)
