"""The promises against the database, read over a connection of redis-py's: the judge does not use what it judges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeVar

import redis

from agent_memory.recovery.results import StoreStatus
from demo.ledger import CounterLedger, KeyLedger, parse_value
from demo.worker import Worker

__all__ = ["Verdict", "judge"]

T = TypeVar("T")

_BATCH: Final = 200
_PROBLEMS_SHOWN: Final = 20


@dataclass(slots=True)
class Verdict:
    """What was found. `passed` is the answer; `problems` says what is wrong, at most the first twenty."""

    keys: int = 0
    accepted_writes: int = 0
    """SET, HSET and store_with_retry that were acknowledged or queued."""
    queued_writes: int = 0
    """Those of them that went through the recovery queue."""
    drained_writes: int = 0
    unknown_writes: int = 0
    """Writes without an answer that were the last of their key: either end is right."""
    unknown_writes_found: int = 0
    """Those of them that the database holds."""
    missing_writes: int = 0
    """Keys without their last accepted write, and queued writes that were given up."""
    counters: int = 0
    increments_attempted: int = 0
    increments_acknowledged: int = 0
    increments_unknown: int = 0
    increments_found: int = 0
    """The sum of the counters in the database."""
    wrong_counters: int = 0
    foreign_replies: int = 0
    """Reads that returned something which was never written to their key."""
    unexpected_errors: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return not (self.missing_writes or self.wrong_counters or self.foreign_replies or self.unexpected_errors)

    def add_problem(self, problem: str) -> None:
        """Notes a broken promise."""
        if len(self.problems) < _PROBLEMS_SHOWN:
            self.problems.append(problem)


def judge(connection: dict[str, Any], workers: list[Worker], unexpected: list[str]) -> Verdict:
    """Compares what the workers were promised with what the database holds. Call it when nothing writes any more."""
    verdict = Verdict(unexpected_errors=len(unexpected))
    for description in unexpected:
        verdict.add_problem(f"unexpected error: {description}")
    with redis.Redis(**connection, decode_responses=True, socket_timeout=10.0) as client:
        _judge_keys(client, [ledger for worker in workers for ledger in worker.keys], verdict)
        _judge_counters(client, [worker.counter for worker in workers if worker.counter], verdict)
    for worker in workers:
        _judge_queued(worker, verdict)
        if worker.foreign_replies:
            verdict.foreign_replies += worker.foreign_replies
            verdict.add_problem(f"{worker.name}: {worker.foreign_replies} replies that belong to other calls")
    return verdict


def _judge_keys(client: redis.Redis, ledgers: list[KeyLedger], verdict: Verdict) -> None:
    for batch in _batches(ledgers):
        pipeline = client.pipeline(transaction=False)
        for ledger in batch:
            if ledger.is_hash:
                pipeline.hgetall(ledger.key)
            else:
                pipeline.get(ledger.key)
        for ledger, held in zip(batch, pipeline.execute(), strict=True):
            _judge_key(ledger, _sequence_of(ledger, held), verdict)


def _sequence_of(ledger: KeyLedger, held: Any) -> int | None:
    """The number of the write that is held: 0 for none, None for something that was never written."""
    if not held:
        return 0
    if not ledger.is_hash:
        return parse_value(ledger.key, held)
    sequence = parse_value(ledger.key, held.get("value", ""))
    # The two fields were written together, so they are of one write.
    return sequence if sequence is not None and held.get("sequence") == str(sequence) else None


def _judge_key(ledger: KeyLedger, sequence: int | None, verdict: Verdict) -> None:
    verdict.keys += 1
    verdict.accepted_writes += ledger.accepted_count
    verdict.unknown_writes += len(ledger.unknown)
    if sequence is None or not ledger.allows(sequence):
        verdict.missing_writes += 1
        verdict.add_problem(f"{ledger.key}: write {ledger.accepted} was accepted last, found {sequence}")
    elif sequence in ledger.unknown:
        verdict.unknown_writes_found += 1


def _judge_counters(client: redis.Redis, counters: list[CounterLedger], verdict: Verdict) -> None:
    for batch in _batches(counters):
        for counter, held in zip(batch, client.mget([counter.key for counter in batch]), strict=True):
            value = int(held or 0)
            verdict.counters += 1
            verdict.increments_attempted += counter.attempted
            verdict.increments_acknowledged += counter.acknowledged
            verdict.increments_unknown += counter.unknown
            verdict.increments_found += value
            if not counter.allows(value):
                verdict.wrong_counters += 1
                highest = counter.acknowledged + counter.unknown
                verdict.add_problem(f"{counter.key}: stands at {value}, must be {counter.acknowledged} to {highest}")


def _judge_queued(worker: Worker, verdict: Verdict) -> None:
    for write in worker.queued:
        verdict.queued_writes += 1
        if write.result.status == StoreStatus.STORED:
            verdict.drained_writes += 1
        else:
            verdict.missing_writes += 1
            verdict.add_problem(f"{write.key}: queued write {write.sequence} is {write.result.status}")


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
