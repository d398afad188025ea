"""What `stats()` of clients and memory systems say, as readings of metrics. Reads counters that exist anyway; no I/O."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from agent_memory.observability.metrics import DURATION_BOUNDS_S, MAX_COMMANDS, MAX_NODES, METRICS, OTHER, Metric

__all__ = ["MAX_SOURCES", "Durations", "Reading", "Source", "Sources"]

MAX_SOURCES: Final = 1_024
"""Bound of the clients and memory systems that one collector reads."""

_STATES: Final = ("closed", "open", "half_open")
_RESULTS: Final = {"successes": "success", "command_errors": "command_error", "cancellations": "cancelled"}
_OF_QUEUE: Final = {
    "queue_entries": "queued",
    "queue_bytes": "queued_bytes",
    "queue_oldest_age_seconds": "oldest_age_s",
    "queue_dead_letters": "dead_letters",
    "queue_paused": "paused",
    "queue_stored": "stored",
    "queue_given_up": "given_up",
    "queue_refused": "refused",
    "queue_superseded": "superseded",
}
_OF_JOURNAL: Final = {
    "journal_records": "records",
    "journal_bytes": "disk_bytes",
    "journal_pending": "pending",
    "journal_failed": "failed",
    "journal_damaged_records": "damaged_records",
}
_OF_CONNECTIONS: Final = {
    "connections": "open",
    "in_flight": "in_flight",
    "connections_opened": "opened",
    "connections_lost": "lost",
}
_OF_MEMORY: Final = {
    "store_refused_writes": ("sql", "refused_writes"),
    "unsynced_entries": ("redis", "dirty_entries"),
    "unsynced_bytes": ("redis", "dirty_bytes"),
    "memory_journal_entries": ("journal", "entries"),
    "memory_journal_bytes": ("journal", "bytes"),
    "loads": ("loader", "loaded"),
    "index_agents": ("index", "agents"),
    "index_memories": ("index", "memories"),
    "index_bytes": ("index", "bytes"),
    "embedding_failures": ("embedding", "failures"),
    "damaged_memories": ("damaged", "memories"),
    "synchronisation_rounds": ("service", "rounds"),
    "service_failures": ("service", "failures"),
    "sql_pending_writes": ("store", "pending_writes"),
    "sql_transactions": ("store", "transactions"),
    "sql_writes": ("store", "writes"),
}


class Durations(NamedTuple):
    """A histogram: how many durations are at most `DURATION_BOUNDS_S[i]` long, for each i, and their totals."""

    cumulative: tuple[int, ...]
    total: int
    sum_s: float


class Reading(NamedTuple):
    """One value of a metric."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Durations


@runtime_checkable
class Source(Protocol):
    """A client or a memory system."""

    def stats(self) -> Any:
        """Its figures, without I/O."""
        ...


def _check_source(source: Any) -> None:
    if not isinstance(source, Source) or isinstance(source, type):
        raise TypeError(f"source must be a client or a memory system, got {source!r}")


class Sources:
    """The clients and memory systems that are read, held weakly. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._known: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._numbers = itertools.count()

    def add(self, source: Source, name: str | None = None) -> None:
        """Reads `source` from now on, until it is gone.

        `name` (default: its own name; "memory" for a memory system) is the label. Adding it again changes the name. Raises
        TypeError for what has no `stats()`, ValueError beyond 1,024 sources.
        """
        _check_source(source)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be str or None, got {name!r}")
        with self._mutex:
            self._forget_gone()
            for number, (known, _) in self._known.items():
                if known() is source:
                    self._known[number] = (known, name or "")
                    return
            if len(self._known) >= MAX_SOURCES:
                raise ValueError(f"sources must be at most {MAX_SOURCES}, got one more")
            self._known[next(self._numbers)] = (weakref.ref(source), name or "")

    def remove(self, source: Source) -> None:
        """Reads it no more."""
        _check_source(source)
        with self._mutex:
            self._known = {number: entry for number, entry in self._known.items() if entry[0]() is not source}

    def _forget_gone(self) -> None:
        self._known = {number: entry for number, entry in self._known.items() if entry[0]() is not None}

    def read(self) -> Iterator[Reading]:
        """The readings of all sources. Series of equal names and labels are told apart by a number behind the name."""
        with self._mutex:
            self._forget_gone()
            known = list(self._known.values())
        names: dict[str, int] = {}
        for reference, given in known:
            source = reference()
            if source is None:
                continue
            figures = source.stats()
            name = given or _name_of(source, figures)
            names[name] = names.get(name, 0) + 1
            yield from _read(figures, name if names[name] == 1 else f"{name}#{names[name]}", _endpoint_of(source))


def _name_of(source: Any, figures: Mapping[str, Any]) -> str:
    if "sql" in figures:
        return "memory"
    return str(getattr(source, "client_name", None) or figures.get("name") or "redis")


def _endpoint_of(source: Any) -> str:
    try:
        return str(source.endpoint)
    except Exception:
        return ""


def _read(figures: Mapping[str, Any], name: str, endpoint: str) -> Iterator[Reading]:
    if "sql" in figures:
        yield from _of_memory(figures, name)
        return
    if "nodes" in figures:
        yield from _of_cluster(figures, name)
        return
    yield from _of_client(figures, name, endpoint)


def _of_client(figures: Mapping[str, Any], name: str, endpoint: str) -> Iterator[Reading]:
    labels = (name, endpoint)
    if "state" in figures:
        yield from _of_circuit(figures, labels)
        yield from _of_commands(figures["operations"], labels)
    for key, found in _OF_CONNECTIONS.items():
        yield from _some(key, labels, figures.get("connections"), found)
    queue = figures.get("recovery")
    for key, found in _OF_QUEUE.items():
        yield from _some(key, labels, queue, found)
    for key, found in _OF_JOURNAL.items():
        yield from _some(key, labels, (queue or {}).get("journal"), found)
    for verdict in ("applied", "not_applied", "unresolvable"):
        yield from _some("writes_resolved", (*labels, verdict), figures.get("exactly_once"), verdict)


def _of_circuit(figures: Mapping[str, Any], labels: tuple[str, ...]) -> Iterator[Reading]:
    for state in _STATES:
        yield Reading(METRICS["circuit_state"], (*labels, state), float(figures["state"] == state))
    yield Reading(METRICS["circuit_retry_after_seconds"], labels, float(figures["retry_after_s"]))
    yield Reading(METRICS["circuit_opened"], labels, figures["times_opened"])
    yield from _some("retry_budget_tokens", labels, figures, "budget_level")


def _of_commands(operations: Mapping[str, Mapping[str, Any]], labels: tuple[str, ...]) -> Iterator[Reading]:
    used = {name: facts for name, facts in operations.items() if facts["calls"] or facts["rejections"]}
    ranked = sorted(used, key=lambda name: used[name]["calls"], reverse=True)
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for place, name in enumerate(ranked):
        grouped.setdefault(name if place < MAX_COMMANDS else OTHER, []).append(used[name])
    for name, group in grouped.items():
        mine = (*labels, name)
        for key, result in _RESULTS.items():
            yield Reading(METRICS["calls"], (*mine, result), sum(facts[key] for facts in group))
        failed = {kind: sum(facts["failures"][kind] for facts in group) for kind in group[0]["failures"]}
        yield Reading(METRICS["calls"], (*mine, "failure"), sum(failed.values()))
        for kind, count in failed.items():
            if count:
                yield Reading(METRICS["errors"], (*mine, kind), count)
        for key in ("retries", "retries_refused", "rejections"):
            yield Reading(METRICS[key], mine, sum(facts[key] for facts in group))
        yield Reading(METRICS["call_duration_seconds"], mine, _durations([facts["latency"] for facts in group]))


def _durations(latencies: list[Mapping[str, Any]]) -> Durations:
    counts = [0] * (len(DURATION_BOUNDS_S) + 1)
    for latency in latencies:
        place = 0
        for end_s, count in latency["buckets"]:
            while place < len(DURATION_BOUNDS_S) and end_s > DURATION_BOUNDS_S[place]:
                place += 1
            counts[place] += count
    total = sum(latency["count"] for latency in latencies)
    return Durations(tuple(itertools.accumulate(counts[:-1])), total, sum(latency["sum_s"] for latency in latencies))


def _of_cluster(figures: Mapping[str, Any], name: str) -> Iterator[Reading]:
    core = figures["cluster"]
    yield from _some("cluster_nodes", (name,), core, "nodes")
    for kind in ("moved", "ask", "try_again"):
        yield from _some("cluster_redirects", (name, kind), core, kind)
    yield from _some("cluster_waits", (name,), core, "waits")
    yield from _some("cluster_views", (name,), core, "views_accepted")
    for endpoint, facts in itertools.islice(figures["nodes"].items(), MAX_NODES):
        yield from _of_client(facts, name, endpoint)


def _of_memory(figures: Mapping[str, Any], name: str) -> Iterator[Reading]:
    for store in ("sql", "redis"):
        yield from _some("store_here", (name, store), figures[store], "here")
        yield from _some("store_failures", (name, store), figures[store], "failures")
    for key, (part, found) in _OF_MEMORY.items():
        yield from _some(key, (name,), figures.get(part), found)


def _some(key: str, labels: tuple[str, ...], figures: Mapping[str, Any] | None, found: str) -> Iterator[Reading]:
    value = None if figures is None else figures.get(found)
    if value is not None:
        yield Reading(METRICS[key], labels, float(value))
