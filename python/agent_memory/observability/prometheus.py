"""`PrometheusCollector`: the figures of clients and memory systems for prometheus-client. Needs the extra `prometheus`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agent_memory import _check
from agent_memory.observability.metrics import DURATION_BOUNDS_S, METRICS, Metric
from agent_memory.observability.readings import Durations, Reading, Source, Sources

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    if error.name is not None and not error.name.startswith("prometheus_client"):
        raise
    raise _check.missing_extra("agent_memory.observability.prometheus", "prometheus-client", "prometheus") from None

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

__all__ = ["PrometheusCollector"]

_BOUNDS = [*(format(bound_s, "g") for bound_s in DURATION_BOUNDS_S), "+Inf"]


class PrometheusCollector(Collector):
    """Exports what clients and memory systems count, when Prometheus asks.

        collector = PrometheusCollector(client, memory)      # registered with prometheus_client.REGISTRY
        prometheus_client.start_http_server(9100)

    - `sources`: clients (drop-in, cluster, resilient; sync or asyncio) and memory systems, held weakly: one that is gone has no
      series any more.
    - `registry` ("default": prometheus_client's `REGISTRY`): where it is registered; None: nowhere.

    Calls cost nothing more: a scrape reads `stats()`, without I/O. The metrics are those of
    `agent_memory.observability.METRICS`. Thread-safe. Raises TypeError for what has no `stats()`.
    """

    def __init__(self, *sources: Source, registry: CollectorRegistry | str | None = "default") -> None:
        if registry not in ("default", None) and not hasattr(registry, "register"):
            raise TypeError(f"registry must be a CollectorRegistry or None, got {registry!r}")
        self._sources = Sources()
        for source in sources:
            self._sources.add(source)
        if registry == "default":
            from prometheus_client import REGISTRY

            registry = REGISTRY
        if registry is not None and not isinstance(registry, str):
            registry.register(self)

    def add(self, source: Source, name: str | None = None) -> None:
        """Exports `source`, too. `name` (default: its own) is its label `client` or `system`.

        Raises TypeError for what has no `stats()`, ValueError beyond 1,024 sources.
        """
        self._sources.add(source, name)

    def remove(self, source: Source) -> None:
        """Exports `source` no more. Raises TypeError for what has no `stats()`."""
        self._sources.remove(source)

    def describe(self) -> Iterator[Any]:
        """The metrics without values: what registering checks for names that are taken."""
        for metric in METRICS.values():
            yield _family(metric)

    def collect(self) -> Iterator[Any]:
        """The metrics of this moment; called by prometheus-client."""
        families: dict[str, Any] = {}
        for reading in self._sources.read():
            family = families.get(reading.metric.name)
            if family is None:
                family = families[reading.metric.name] = _family(reading.metric)
            _add(family, reading)
        yield from families.values()


def _family(metric: Metric) -> Any:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    return kinds[metric.kind](metric.name, metric.text, labels=metric.labels)


def _add(family: Any, reading: Reading) -> None:
    value = reading.value
    if isinstance(value, Durations):
        buckets = list(zip(_BOUNDS, (*value.cumulative, value.total), strict=True))
        family.add_metric(reading.labels, buckets=buckets, sum_value=value.sum_s)
    else:
        family.add_metric(reading.labels, value)
