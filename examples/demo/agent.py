"""The agent: it stores facts, answers questions about them, and goes on while Redis dies and the database refuses writes.

What happens to its stores, in shares of its time
- Redis is killed (SIGKILL) and a new process started on the same data.
- Another connection holds the write lock of the SQLite file: every write fails until it is released. New memories are accepted
  by Redis alone (`minimum="redis"`) and brought into the database afterwards.

How long a memory stays in short-term and intermediate memory is a share of the run, too: hours would be dull to watch.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
import time
import zlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent_memory.memory import (
    AsyncMemorySystem,
    DurabilityError,
    IntermediateSettings,
    MaintenanceSettings,
    MemoryEntry,
    MemorySettings,
    MemoryStoreUnavailableError,
    ShortTermSettings,
    SqliteSettings,
    SyncSettings,
)
from agent_memory.redis.asyncio import Redis
from agent_memory.testing import EmbeddedServer
from demo.agent_ledger import AgentLedger, AgentVerdict, judge_agent
from demo.dashboard import Dashboard
from demo.settings import DemoSettings
from demo.stories import Fact, Note, Stories

__all__ = ["AgentResult", "AgentSample", "Question", "run_agent"]

AGENT: Final = "assistant"

# Where docs/explanation/memory.md says that the agent's keys are: the observer asks the server, not the memory system.
_TAG: Final = f"{{b{zlib.crc32(AGENT.encode()) % 1024:04d}}}"

_SHORT_TERM_SHARE: Final = 0.14
_INTERMEDIATE_SHARE: Final = 0.42
_REDIS_AWAY: Final = (0.26, 0.42)
_SQL_AWAY: Final = (0.60, 0.76)

_HISTORY: Final = 1_200
_HISTORY_FACTS: Final = 150
_TELLERS: Final = 8
_TELLER_PAUSE_S: Final = 0.022
_FACT_EVERY: Final = 12
_CORRECTION_PAUSE_S: Final = 0.06
_QUESTION_PAUSE_S: Final = 0.016
_LAST_QUESTIONS: Final = 150
_SAMPLES: Final = 160
_BUSY_TIMEOUT_S: Final = 0.1
_SQL_NOTICE_S: Final = 1.0
"""Seconds after the release of the lock in which the memory system may still treat its database as unavailable."""


@dataclass(frozen=True, slots=True)
class AgentSample:
    """The number of memories in each store at one moment, read from the file and the server by separate connections."""

    at_s: float
    short_term: int
    intermediate: int
    long_term: int
    only_in_redis: int | None
    """Copies the database has not got yet; None while the server is away."""
    in_redis: int | None
    """Copies in Redis of whatever tier, or None."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question that was asked."""

    at_s: float
    latency_us: int
    tier: str
    """Of the memory that answered: "STM", "IM", "LTM", or "" without an answer."""
    stands_in: str
    """What is away meanwhile: "", "Redis" or "SQL"."""


@dataclass(slots=True)
class AgentResult:
    """Everything that was found out about the agent. Times in seconds since it began."""

    duration_s: float = 0.0
    short_term_s: float = 0.0
    intermediate_s: float = 0.0
    away: dict[str, tuple[float, float]] = field(default_factory=dict)
    """From when to when each store was away."""
    samples: list[AgentSample] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    stores: list[tuple[float, str]] = field(default_factory=list)
    """Every acknowledged store: when, and at which level."""
    examples: list[tuple[str, str, str, float]] = field(default_factory=list)
    """(question, answer, tier, age of the memory in seconds), a few of each tier."""
    ledger: AgentLedger = field(default_factory=AgentLedger)
    verdict: AgentVerdict = field(default_factory=AgentVerdict)


def run_agent(settings: DemoSettings, dashboard: Dashboard) -> AgentResult:
    """Runs the agent in its own folder, with its own server; both are gone when this returns or raises."""
    duration_s = settings.duration_s("agent")
    with (
        tempfile.TemporaryDirectory(prefix="agent-memory-demo-") as folder,
        EmbeddedServer(Path(folder) / "redis", transport="tcp", config={"maxmemory-policy": "noeviction"}) as server,
        asyncio.Runner() as runner,
    ):
        # Registered only now that there is something to clean up: an interrupt may come as soon as it is.
        dashboard.begin_phase("agent", duration_s)
        dashboard.say(f"a server of the agent's own on 127.0.0.1:{server.port}, pid {server.pid}")
        run = _AgentRun(Path(folder), server, settings, duration_s, dashboard)
        try:
            return runner.run(run.play())
        finally:
            run.close()


class _Observer:
    """A thread that counts, over connections of its own, where the memories are."""

    def __init__(self, database: Path, server: EmbeddedServer, since_s: float, interval_s: float) -> None:
        self.samples: list[AgentSample] = []
        self._database = database
        self._connection_kwargs: dict[str, Any] = server.connection_kwargs
        self._since_s = since_s
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo observer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends; may be called again."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with (
            closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as database,
            redis.Redis(**self._connection_kwargs, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client,
        ):
            while not self._stopped.wait(self._interval_s):
                self.samples.append(self._look(database, client))

    def _look(self, database: sqlite3.Connection, client: redis.Redis) -> AgentSample:
        at_s = time.monotonic() - self._since_s
        dirty: int | None = None
        in_redis: int | None = None
        try:
            # First: what leaves the dirty set is in the database by then.
            pipeline = client.pipeline(transaction=False)
            pipeline.zcard(f"{_TAG}:dirty")
            pipeline.zcard(f"{_TAG}:t:{AGENT}")
            dirty, clean = (int(count) for count in pipeline.execute())
            in_redis = dirty + clean
        except redis.RedisError:
            pass  # it is away
        row = database.execute(
            "SELECT short_term_count, intermediate_count, long_term_count FROM agents WHERE agent_id = ?", (AGENT,)
        ).fetchone()
        short, intermediate, long = row or (0, 0, 0)
        return AgentSample(at_s, short, intermediate, long, dirty, in_redis)


class _AgentRun:
    """One run: callers as tasks, faults, questions, the verdict."""

    def __init__(
        self, folder: Path, server: EmbeddedServer, settings: DemoSettings, duration_s: float, dashboard: Dashboard
    ) -> None:
        self._path = folder / "memory"
        self._server = server
        self._duration_s = duration_s
        self._dashboard = dashboard
        self._stories = Stories(settings.seed, time.time())
        self._seed = settings.seed
        self._facts: list[Fact] = []
        self._notes: list[str] = []
        """Ids of notes, of which some are forgotten."""
        self._stopping = asyncio.Event()
        self._result = AgentResult(
            short_term_s=duration_s * _SHORT_TERM_SHARE, intermediate_s=duration_s * _INTERMEDIATE_SHARE
        )
        self._observer: _Observer | None = None
        self._lock: sqlite3.Connection | None = None
        self._since_s = time.monotonic()
        self._memory: AsyncMemorySystem
        self._timeout_s = settings.socket_timeout_s

    def close(self) -> None:
        """Releases everything; may be called again."""
        if self._observer is not None:
            self._observer.stop()
        if self._lock is not None:
            self._lock.close()

    def _now_s(self) -> float:
        return time.monotonic() - self._since_s

    # --- the course of things ---

    async def play(self) -> AgentResult:
        """From the first memory to the verdict."""
        result = self._result
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                Redis(**self._server.connection_kwargs, socket_timeout=self._timeout_s)
            )
            self._memory = AsyncMemorySystem(self._path, redis=client, config=self._settings())
            await stack.enter_async_context(self._memory)
            await self._memory.start()
            self._observer = _Observer(
                self._path / "memories.sqlite", self._server, self._since_s, self._duration_s / _SAMPLES
            )
            await self._tell_history()
            callers = [self._tell] * _TELLERS + [self._correct, self._forget, self._ask, self._ask]
            tasks = [asyncio.create_task(self._guarded(caller)) for caller in callers]
            await self._at(_REDIS_AWAY[0])
            await self._lose_redis()
            await self._at(_SQL_AWAY[0])
            await self._lose_sql()
            await self._at(1.0)
            self._stopping.set()
            await asyncio.gather(*tasks)
            await self._settle()
        self._observer.stop()
        result.samples = self._observer.samples
        result.duration_s = self._now_s()
        self._say("a memory system without Redis opens the database, and every promise is looked up")
        await judge_agent(self._path, AGENT, result.ledger, result.verdict)
        self._judge_questions()
        return result

    def _settings(self) -> MemorySettings:
        interval_s = self._duration_s / 40
        return MemorySettings(
            short_term=ShortTermSettings(ttl_s=self._result.short_term_s),
            intermediate=IntermediateSettings(ttl_s=self._result.intermediate_s),
            sync=SyncSettings(interval_s=interval_s),
            maintenance=MaintenanceSettings(interval_s=interval_s),
            sqlite=SqliteSettings(busy_timeout_s=_BUSY_TIMEOUT_S),
        )

    async def _at(self, share: float) -> None:
        while (left_s := share * self._duration_s - self._now_s()) > 0:
            await asyncio.sleep(min(left_s, 0.25))
            self._show()

    def _show(self) -> None:
        samples = self._observer.samples if self._observer is not None else []
        if samples:
            last = samples[-1]
            self._dashboard.show_status(
                f"STM {last.short_term:,}  IM {last.intermediate:,}  LTM {last.long_term:,}  only in Redis "
                f"{'?' if last.only_in_redis is None else format(last.only_in_redis, ',')}  questions "
                f"{len(self._result.questions):,}"
            )

    def _say(self, words: str) -> None:
        self._dashboard.say(words)

    async def _guarded(self, caller: Callable[[], Awaitable[None]]) -> None:
        try:
            await caller()
        except Exception as error:
            self._result.verdict.unexpected_errors += 1
            self._result.verdict.add_problem(f"the agent met {type(error).__name__}: {error}")

    # --- faults ---

    async def _lose_redis(self) -> None:
        self._say("the agent's Redis is killed: memories go to the database, questions are answered from there")
        began_s = self._now_s()
        await asyncio.to_thread(self._server.kill)
        await self._at(_REDIS_AWAY[1])
        await asyncio.to_thread(self._server.start)
        self._result.away["Redis"] = (began_s, self._now_s())
        self._say(
            "Redis is back on the same data; what it held clean counts no more, and is loaded again when asked for"
        )

    async def _lose_sql(self) -> None:
        self._say("another connection locks the database: new memories are accepted by Redis alone")
        began_s = self._now_s()
        lock = self._lock = sqlite3.connect(
            self._path / "memories.sqlite", timeout=5.0, isolation_level=None, check_same_thread=False
        )
        await asyncio.to_thread(lock.execute, "BEGIN IMMEDIATE")
        await self._at(_SQL_AWAY[1])
        lock.execute("ROLLBACK")
        lock.close()
        self._lock = None
        self._result.away["SQL"] = (began_s, self._now_s())
        self._say("the database takes writes again, and is given what it has missed")

    async def _settle(self) -> None:
        """Brings everything into the database, then asks once more about all tiers."""
        for _ in range(100):
            if not (await self._memory.sync()).remaining:
                break
            await asyncio.sleep(0.1)
        for _ in range(_LAST_QUESTIONS):
            await self._ask_about(self._pick())

    # --- callers ---

    async def _tell_history(self) -> None:
        stories = self._stories
        told: list[tuple[Fact | None, Note]] = [(None, stories.note()) for _ in range(_HISTORY)]
        told += [pair for _ in range(_HISTORY_FACTS) if (pair := stories.fact()) is not None]
        ids = await self._memory.store_many(AGENT, [note.as_memory() for _, note in told])
        for (fact, note), memory_id in zip(told, ids, strict=True):
            self._accepted(fact, note.content, memory_id, memory_id.durability)
        self._say(f"{len(told):,} memories of the past year are there; {_TELLERS} callers add to them")

    def _accepted(self, fact: Fact | None, content: str, memory_id: str, durability: str) -> None:
        ledger = self._result.ledger
        ledger.contents[str(memory_id)] = content
        ledger.levels[durability] += 1
        self._result.stores.append((self._now_s(), durability))
        if fact is None:
            self._notes.append(str(memory_id))
        else:
            fact.memory_id, fact.stored_s = str(memory_id), self._now_s()
            self._facts.append(fact)

    async def _tell(self) -> None:
        count = 0
        while not self._stopping.is_set():
            count += 1
            pair = self._stories.fact() if count % _FACT_EVERY == 0 else None
            fact, note = pair if pair is not None else (None, self._stories.note())
            try:
                stored = await self._memory.store(AGENT, minimum="redis", **note.as_memory())
            except DurabilityError:
                self._result.ledger.refused += 1
                self._result.ledger.unknown.add(note.content)
            else:
                self._accepted(fact, note.content, stored, stored.durability)
            await asyncio.sleep(_TELLER_PAUSE_S)

    async def _correct(self) -> None:
        while not self._stopping.is_set():
            fact = self._stories.choose(self._facts)
            if fact.values and fact.is_settled:
                content = fact.told.format(value=fact.values.pop())
                fact.is_settled = False
                fact.changes += 1
                try:
                    await self._memory.update(AGENT, fact.memory_id, content=content)
                except (DurabilityError, MemoryStoreUnavailableError):
                    # Refused, so it says what it said before; a write that failed half-way may have been made.
                    self._result.ledger.refused += 1
                    self._result.ledger.unknown.add(content)
                else:
                    self._result.ledger.contents[fact.memory_id] = fact.content = content
                    self._result.ledger.corrected += 1
                fact.is_settled = True
            await asyncio.sleep(_CORRECTION_PAUSE_S)

    async def _forget(self) -> None:
        ledger = self._result.ledger
        while not self._stopping.is_set():
            memory_id = self._notes[len(self._notes) // 3]
            try:
                await self._memory.delete(AGENT, memory_id)
            except (DurabilityError, MemoryStoreUnavailableError):
                ledger.refused += 1
            else:
                self._notes.remove(memory_id)
                ledger.deleted.add(memory_id)
                del ledger.contents[memory_id]
            await asyncio.sleep(_CORRECTION_PAUSE_S)

    async def _ask(self) -> None:
        while not self._stopping.is_set():
            await self._ask_about(self._pick())
            await asyncio.sleep(_QUESTION_PAUSE_S)

    def _pick(self) -> Fact:
        """A fact of a tier by turns: by its age, as far as one can tell from here."""
        result = self._result
        now_s = self._now_s()
        ages = ((0.0, result.short_term_s), (result.short_term_s, result.intermediate_s), (result.intermediate_s, 1e9))
        youngest_s, oldest_s = ages[len(result.questions) % 3]
        of_age = [fact for fact in self._facts if youngest_s <= now_s - fact.stored_s < oldest_s]
        return self._stories.choose(of_age or self._facts)

    async def _ask_about(self, fact: Fact) -> None:
        changes, is_settled, expected = fact.changes, fact.is_settled, fact.content
        began_s, began_ns = self._now_s(), time.perf_counter_ns()
        found = await self._memory.retrieve(AGENT, fact.question, k=3)
        latency_us = (time.perf_counter_ns() - began_ns) // 1_000
        answer = next((entry for entry in found if entry.id == fact.memory_id), None)
        if not is_settled or fact.changes != changes:
            return  # it was corrected meanwhile: either answer is right
        is_right = answer is not None and (answer.content == expected or answer.content in self._result.ledger.unknown)
        tier = answer.tier.name if answer is not None and is_right else ""
        self._result.questions.append(Question(began_s, latency_us, tier, self._away_at(began_s)))
        if answer is not None and is_right:
            self._note_example(fact, answer)

    def _note_example(self, fact: Fact, answer: MemoryEntry) -> None:
        examples = self._result.examples
        if sum(tier == answer.tier.name for _, _, tier, _ in examples) < 3 and self._now_s() > self._duration_s / 2:
            examples.append((fact.question, str(answer.content), answer.tier.name, self._now_s() - fact.stored_s))

    def _away_at(self, began_s: float) -> str:
        """What was away while a question that began then was answered."""
        if self._lock is not None:
            return "SQL"
        since_s, until_s = self._result.away.get("SQL", (1e9, 0.0))
        if since_s <= began_s < until_s + _SQL_NOTICE_S:
            return "SQL"
        return "" if self._server.alive else "Redis"

    def _judge_questions(self) -> None:
        verdict = self._result.verdict
        for question in self._result.questions:
            if not question.tier and question.stands_in != "SQL":
                verdict.unanswered += 1
                verdict.add_problem(f"a question at {question.at_s:.1f} s was not answered")
        if not self._result.questions:
            verdict.unanswered += 1
            verdict.add_problem("no question was asked")
