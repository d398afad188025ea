"""The figures of clients and memory systems for an OpenTelemetry meter. Needs the extra `otel`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from agent_memory import _check
from agent_memory.observability.metrics import DURATION_BOUNDS_S, METRICS, Metric
from agent_memory.observability.readings import Durations, Reading, Source, Sources

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
except ModuleNotFoundError as error:
    if error.name is not None and not error.name.startswith("opentelemetry"):
        raise
    raise _check.missing_extra("agent_memory.observability.opentelemetry", "opentelemetry-api", "otel") from None

__all__ = ["OpenTelemetryMetrics"]

_FRESH_S: Final = 0.1
"""For how long one reading of all sources serves the callbacks of one collection."""


class OpenTelemetryMetrics:
    """Observable instruments over what clients and memory systems count.

        metrics = OpenTelemetryMetrics(client, memory)

    - `sources`: clients (drop-in, cluster, resilient; sync or asyncio) and memory systems, held weakly.
    - `meter_provider` (None: the global one): where the instruments are made.

    Calls cost nothing more: a collection reads `stats()`, without I/O. Names are those of
    `agent_memory.observability.METRICS` with `agent_memory.` as prefix. OpenTelemetry has no observable histogram, so
    durations are the counters `agent_memory.call_duration_seconds.count` and `.sum`, and `.bucket` with the attribute `le`,
    cumulative as in Prometheus. Thread-safe. Raises TypeError for what has no `stats()`.
    """

    def __init__(self, *sources: Source, meter_provider: MeterProvider | None = None) -> None:
        if meter_provider is not None and not hasattr(meter_provider, "get_meter"):
            raise TypeError(f"meter_provider must be a MeterProvider or None, got {meter_provider!r}")
        self._sources = Sources()
        for source in sources:
            self._sources.add(source)
        self._mutex = threading.Lock()
        self._read_s = float("-inf")
        self._readings: dict[str, list[Reading]] = {}
        meter = (meter_provider or get_meter_provider()).get_meter("agent_memory")
        for metric in METRICS.values():
            self._make_instruments(meter, metric)

    def add(self, source: Source, name: str | None = None) -> None:
        """Observes `source`, too. `name` (default: its own) is its attribute `client` or `system`.

        Raises TypeError for what has no `stats()`, ValueError beyond 1,024 sources.
        """
        self._sources.add(source, name)

    def remove(self, source: Source) -> None:
        """Observes `source` no more. Raises TypeError for what has no `stats()`."""
        self._sources.remove(source)

    def _make_instruments(self, meter: Any, metric: Metric) -> None:
        name, unit, text = metric.otel_name, metric.unit or "1", metric.text
        if metric.kind == "gauge":
            meter.create_observable_gauge(name, [self._callback(metric, _values)], unit, text)
        elif metric.kind == "counter":
            meter.create_observable_counter(name, [self._callback(metric, _values)], unit, text)
        else:
            meter.create_observable_counter(f"{name}.count", [self._callback(metric, _counts)], "1", text)
            meter.create_observable_counter(f"{name}.sum", [self._callback(metric, _sums)], unit, text)
            meter.create_observable_counter(f"{name}.bucket", [self._callback(metric, _buckets)], "1", text)

    def _callback(
        self, metric: Metric, observed: Callable[[Reading], Iterable[Observation]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for reading in self._now().get(metric.name, ()):
                yield from observed(reading)

        return observe

    def _now(self) -> dict[str, list[Reading]]:
        with self._mutex:
            now_s = time.monotonic()
            if now_s - self._read_s > _FRESH_S:
                self._readings = {}
                for reading in self._sources.read():
                    self._readings.setdefault(reading.metric.name, []).append(reading)
                self._read_s = now_s
            return self._readings


def _attributes(reading: Reading) -> dict[str, str]:
    return dict(zip(reading.metric.labels, reading.labels, strict=True))


def _values(reading: Reading) -> Iterable[Observation]:
    if not isinstance(reading.value, Durations):
        yield Observation(reading.value, _attributes(reading))


def _counts(reading: Reading) -> Iterable[Observation]:
    if isinstance(reading.value, Durations):
        yield Observation(reading.value.total, _attributes(reading))


def _sums(reading: Reading) -> Iterable[Observation]:
    if isinstance(reading.value, Durations):
        yield Observation(reading.value.sum_s, _attributes(reading))


def _buckets(reading: Reading) -> Iterable[Observation]:
    if isinstance(reading.value, Durations):
        attributes = _attributes(reading)
        for bound_s, count in zip(DURATION_BOUNDS_S, reading.value.cumulative, strict=True):
            yield Observation(count, {**attributes, "le": format(bound_s, "g")})
        yield Observation(reading.value.total, {**attributes, "le": "+Inf"})
