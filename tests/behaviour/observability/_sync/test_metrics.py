# Generated from ../_async/test_metrics.py by tools/generate_sync.py: edit that file, not this one.

"""What a scrape and an OpenTelemetry collection say of real clients, beside what was done with them."""

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent_memory.errors import RedisTimeoutError, RedisUnavailableError
from agent_memory.observability import METRICS
from agent_memory.observability.opentelemetry import OpenTelemetryMetrics
from agent_memory.observability.prometheus import PrometheusCollector
from agent_memory.policy import Priority, RecoveryConfig, RetryPolicy
from agent_memory.storage.redis_client import ResilientRedisClient


def scrape(registry):
    """The samples as Prometheus reads them: {(name, labels): value}."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples, name, **labels):
    found = [v for (n, pairs), v in samples.items() if n == name and labels.items() <= dict(pairs).items()]
    assert found, (name, labels)
    return sum(found)


def test_a_scrape_says_what_was_done(start_server, tmp_path):
    server = start_server(transport="tcp")
    arguments = {**server.connection_kwargs, "socket_timeout": 0.3}
    client = ResilientRedisClient(
        "sessions",
        **arguments,
        circuit_threshold=2,
        retry_policy=RetryPolicy(0),
        recovery=RecoveryConfig(path=tmp_path),
    )
    registry = CollectorRegistry()
    PrometheusCollector(client, registry=registry)
    client.set("key", "a value")
    for _ in range(3):
        client.get("key")
    samples = scrape(registry)
    assert value(samples, "agent_memory_calls_total", client="sessions", command="GET", result="success") == 3
    assert value(samples, "agent_memory_call_duration_seconds_count", command="GET") == 3
    assert value(samples, "agent_memory_call_duration_seconds_bucket", command="GET", le="+Inf") == 3
    assert value(samples, "agent_memory_circuit_state", state="closed") == 1
    assert value(samples, "agent_memory_connections") >= 1
    assert value(samples, "agent_memory_in_flight") == 0
    assert value(samples, "agent_memory_connections_lost_total") == 0

    server.pause()
    for number in range(3):
        with pytest.raises((RedisTimeoutError, RedisUnavailableError)):
            client.get("key")
        assert client.with_priority(Priority.HIGH).set(f"key{number}", "v").status == "queued"
    samples = scrape(registry)
    assert value(samples, "agent_memory_errors_total", kind="timeout") >= 2
    assert value(samples, "agent_memory_rejections_total") >= 1
    assert value(samples, "agent_memory_circuit_state", state="open") == 1
    assert value(samples, "agent_memory_circuit_opened_total") == 1
    assert value(samples, "agent_memory_queue_entries") == 3
    assert value(samples, "agent_memory_queue_bytes") > 0
    assert value(samples, "agent_memory_queue_oldest_age_seconds") > 0
    assert value(samples, "agent_memory_journal_records") >= 3
    assert value(samples, "agent_memory_connections_lost_total") >= 1
    server.resume()
    assert client.recovery.flush(10)
    samples = scrape(registry)
    assert value(samples, "agent_memory_queue_entries") == 0
    assert value(samples, "agent_memory_queue_stored_total") == 3
    client.close()
    assert not any("a value" in str(key) for key in samples)


def test_opentelemetry_observes_the_same(start_server, connect):
    client = connect(start_server(transport="tcp"), client_name="sessions")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    metrics = OpenTelemetryMetrics(client, meter_provider=provider)
    registry = CollectorRegistry()
    PrometheusCollector(client, registry=registry)
    for _ in range(5):
        client.set("key", 1)
    collected = {
        (metric.name, tuple(sorted(point.attributes.items()))): point.value
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    provider.shutdown()
    assert value(collected, "agent_memory.calls", client="sessions", command="SET", result="success") == 5
    assert value(collected, "agent_memory.call_duration_seconds.count", command="SET") == 5
    assert value(collected, "agent_memory.call_duration_seconds.bucket", command="SET", le="+Inf") == 5
    scraped = scrape(registry)
    for metric in METRICS.values():
        if metric.kind != "histogram":
            here = {pairs for name, pairs in collected if name == metric.otel_name}
            there = {pairs for name, pairs in scraped if name == metric.series[0]}
            assert here == there, metric.name
    metrics.remove(client)
