"""Figures of a cluster: what the guards of its nodes count, per node and summed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any, Final

__all__ = ["summed_stats", "worst_state"]

_COUNTS: Final = (
    "calls",
    "successes",
    "command_errors",
    "retries",
    "retries_refused",
    "rejections",
    "cancellations",
)
_QUANTILES: Final = (("p50_s", 0.5), ("p90_s", 0.9), ("p99_s", 0.99))
_STATES: Final = ("closed", "half_open", "open")


def worst_state(states: Iterable[str]) -> str:
    """The worst state of several circuits: "open", then "half_open", then "closed"."""
    return max(states, key=_STATES.index, default="closed")


def summed_stats(nodes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of several guards as those of one: counters are added up, the state is the worst, latencies are merged."""
    figures = [node for node in nodes if "operations" in node]  # without a policy a node has no guard
    operations: dict[str, list[Mapping[str, Any]]] = {}
    for node in figures:
        for name, operation in node["operations"].items():
            operations.setdefault(name, []).append(operation)
    budgets = [node["budget_level"] for node in figures if node["budget_level"] is not None]
    return {
        "state": worst_state(node["state"] for node in figures),
        "retry_after_s": max((node["retry_after_s"] for node in figures), default=0.0),
        "state_changes": sum(node["state_changes"] for node in figures),
        "times_opened": sum(node["times_opened"] for node in figures),
        "budget_level": min(budgets, default=None),
        "operations": {name: _summed_operation(of_nodes) for name, of_nodes in operations.items()},
    }


def _summed_operation(of_nodes: list[Mapping[str, Any]]) -> dict[str, Any]:
    summed: dict[str, Any] = {name: sum(one[name] for one in of_nodes) for name in _COUNTS}
    summed["failures"] = {kind: sum(one["failures"][kind] for one in of_nodes) for kind in of_nodes[0]["failures"]}
    summed["latency"] = _merged_latency([one["latency"] for one in of_nodes])
    return summed


def _merged_latency(of_nodes: list[Mapping[str, Any]]) -> dict[str, Any]:
    buckets: dict[float, int] = {}
    for one in of_nodes:
        for end_s, count in one["buckets"]:
            buckets[end_s] = buckets.get(end_s, 0) + count
    ordered = sorted(buckets.items())
    count = sum(one["count"] for one in of_nodes)
    max_s = max((one["max_s"] for one in of_nodes), default=0.0)
    quantiles = {name: min(_quantile(ordered, count, quantile), max_s) for name, quantile in _QUANTILES}
    sum_s = sum(one["sum_s"] for one in of_nodes)
    return {"count": count, "sum_s": sum_s, **quantiles, "max_s": max_s, "buckets": ordered}


def _quantile(buckets: list[tuple[float, int]], count: int, quantile: float) -> float:
    """The end of the bucket that holds the quantile."""
    rank, seen = max(1, ceil(count * quantile)), 0
    for end_s, held in buckets:
        seen += held
        if seen >= rank:
            return end_s
    return 0.0
