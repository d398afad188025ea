"""The metrics: their names, kinds and labels, for Prometheus and OpenTelemetry alike.

Names are those of Prometheus without its suffix: a counter `agent_memory_calls` is exported as `agent_memory_calls_total`.
OpenTelemetry has dots for the underscores between the words of the prefix: `agent_memory.calls`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["DURATION_BOUNDS_S", "MAX_COMMANDS", "MAX_NODES", "METRICS", "OTHER", "Metric"]

MAX_COMMANDS: Final = 64
"""The most commands of one client that have series of their own: those called most often. The rest is counted as `other`."""
MAX_NODES: Final = 256
"""The most nodes of one cluster that have series of their own."""
OTHER: Final = "other"
"""The label of what is beyond a bound."""

DURATION_BOUNDS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""The upper bounds of the buckets of durations, in seconds. The guard counts in finer ones, at most 1/16 wide."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    """Its name, with its unit at the end, without a suffix of its kind."""
    kind: Literal["counter", "gauge", "histogram"]
    """A counter only grows while the client lives."""
    text: str
    """What it says."""
    labels: tuple[str, ...]
    """The names of its labels."""
    unit: str = ""
    """The unit, as UCUM spells it: `s`, `By`; empty for a number of things."""

    @property
    def otel_name(self) -> str:
        """The name in OpenTelemetry."""
        return self.name.replace("agent_memory_", "agent_memory.", 1)

    @property
    def series(self) -> tuple[str, ...]:
        """The names of the series that Prometheus stores."""
        if self.kind == "counter":
            return (f"{self.name}_total",)
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)


_CLIENT: Final = ("client", "endpoint")
_COMMAND: Final = (*_CLIENT, "command")
_SYSTEM: Final = ("system",)


def _counter(name: str, text: str, labels: tuple[str, ...], unit: str = "") -> Metric:
    return Metric(f"agent_memory_{name}", "counter", text, labels, unit)


def _gauge(name: str, text: str, labels: tuple[str, ...], unit: str = "") -> Metric:
    return Metric(f"agent_memory_{name}", "gauge", text, labels, unit)


METRICS: Final[dict[str, Metric]] = {
    metric.name.removeprefix("agent_memory_"): metric
    for metric in (
        # circuits and calls
        _gauge("circuit_state", "1 for the state that the circuit is in, else 0.", (*_CLIENT, "state")),
        _gauge(
            "circuit_retry_after_seconds",
            "Seconds until an open circuit admits a call; 0 while calls pass.",
            _CLIENT,
            "s",
        ),
        _counter("circuit_opened", "How often the circuit opened.", _CLIENT),
        _counter("calls", "Attempts that were admitted and have ended, by result.", (*_COMMAND, "result")),
        _counter("errors", "Failed attempts, by kind.", (*_COMMAND, "kind")),
        _counter("retries", "Attempts that were followed by another.", _COMMAND),
        _counter("retries_refused", "Retries that the budget refused.", _COMMAND),
        _counter("rejections", "Calls that the circuit did not admit.", _COMMAND),
        Metric("agent_memory_call_duration_seconds", "histogram", "How long answered attempts took.", _COMMAND, "s"),
        _gauge("retry_budget_tokens", "What is left of the budget that retries pay from.", _CLIENT),
        # connections
        _gauge("connections", "Connections that are open.", _CLIENT),
        _gauge("in_flight", "Calls that a connection carries just now.", _CLIENT),
        _counter("connections_opened", "Connections that were opened, a probe's included.", _CLIENT),
        _counter("connections_lost", "Connections that broke under a call, and failed attempts to connect.", _CLIENT),
        # the recovery queue
        _gauge("queue_entries", "Writes that wait in the recovery queue.", _CLIENT),
        _gauge("queue_bytes", "What they take, as estimated.", _CLIENT, "By"),
        _gauge("queue_oldest_age_seconds", "How long the oldest of them has waited.", _CLIENT, "s"),
        _gauge("queue_dead_letters", "Writes that were given up and are kept for inspection.", _CLIENT),
        _gauge("queue_paused", "1 while draining is paused.", _CLIENT),
        _counter("queue_stored", "Queued writes that were stored.", _CLIENT),
        _counter("queue_given_up", "Queued writes that were given up.", _CLIENT),
        _counter("queue_refused", "Writes that found no place in the queue.", _CLIENT),
        _counter("queue_superseded", "Queued writes that a newer one replaced.", _CLIENT),
        _gauge("journal_records", "Records in the journal.", _CLIENT),
        _gauge("journal_bytes", "What its files take on the disk.", _CLIENT, "By"),
        _gauge("journal_pending", "Records that wait for the disk.", _CLIENT),
        _counter("journal_failed", "Records that could not be kept.", _CLIENT),
        _gauge("journal_damaged_records", "Records that were lost, or found damaged, when it was opened.", _CLIENT),
        # exactly once
        _counter("writes_resolved", "Writes whose reply was lost, by what became of them.", (*_CLIENT, "verdict")),
        # clusters
        _gauge("cluster_nodes", "Nodes that are known.", ("client",)),
        _counter("cluster_redirects", "Redirects that were followed, by kind.", ("client", "kind")),
        _counter("cluster_waits", "Calls that waited for a node or an owner.", ("client",)),
        _counter("cluster_views", "Views of the topology that were accepted.", ("client",)),
        # memory systems
        _gauge("store_here", "1 while a store of the memory system answers, else 0.", (*_SYSTEM, "store")),
        _counter("store_failures", "Calls that failed because the store was away.", (*_SYSTEM, "store")),
        _counter("store_refused_writes", "Writes that the SQL store refused.", _SYSTEM),
        _gauge("unsynced_entries", "Memories that Redis holds and SQL does not have yet.", _SYSTEM),
        _gauge("unsynced_bytes", "What they take.", _SYSTEM, "By"),
        _gauge("memory_journal_entries", "Memories that only the journal of this machine holds.", _SYSTEM),
        _gauge("memory_journal_bytes", "What they take.", _SYSTEM, "By"),
        _counter("loads", "Memories that were loaded from SQL.", _SYSTEM),
        _gauge("index_agents", "Agents whose index is loaded.", _SYSTEM),
        _gauge("index_memories", "Memories in loaded indexes.", _SYSTEM),
        _gauge("index_bytes", "What loaded indexes take.", _SYSTEM, "By"),
        _counter("embedding_failures", "Calls of `embed` that failed.", _SYSTEM),
        _gauge("damaged_memories", "Damaged memories that are known.", _SYSTEM),
        _counter("synchronisation_rounds", "Rounds of synchronisation.", _SYSTEM),
        _counter("service_failures", "Rounds of background work that failed.", _SYSTEM),
        _gauge("sql_pending_writes", "Writes that wait for the SQL store.", _SYSTEM),
        _counter("sql_transactions", "Transactions of writes that were committed.", _SYSTEM),
        _counter("sql_writes", "Operations in them.", _SYSTEM),
    )
}
"""All metrics by their names without the prefix."""
