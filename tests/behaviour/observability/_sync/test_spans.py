# Generated from ../_async/test_spans.py by tools/generate_sync.py: edit that file, not this one.

"""Spans of our own: one for each command and pipeline, with what became of it; none while they are off."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from agent_memory.errors import CircuitOpenError, RedisTimeoutError, RedisUnavailableError
from agent_memory.memory import MemorySystem
from agent_memory.observability.tracing import instrument
from agent_memory.policy import Priority, RetryPolicy
from agent_memory.storage.redis_client import ResilientRedisClient

SECRET = "a value that belongs to a user"


@pytest.fixture(params=["drop-in", "resilient"])
def client(request, valkey, connect):
    if request.param == "drop-in":
        yield connect(valkey)
        return
    with ResilientRedisClient("x", **valkey.connection_kwargs) as made:
        yield made


def test_a_span_for_each_command_and_pipeline(client, spans):
    spans.take()
    client.set("key", SECRET)
    client.get("key")
    client.execute_command("ECHO", SECRET)
    client.pipeline().set("key", SECRET).get("key").execute()
    found = spans.take()
    assert [span.name for span in found] == ["SET", "GET", "ECHO", "PIPELINE"]
    for span in found:
        assert span.kind is SpanKind.CLIENT
        assert span.attributes["db.system.name"] == "redis"
        assert span.attributes["db.operation.name"] == span.name
        assert span.attributes["server.address"]
        assert span.attributes["db.namespace"] == "0"
        assert span.status.status_code is StatusCode.UNSET
        assert SECRET not in span.to_json()
    assert found[3].attributes["db.operation.batch.size"] == 2


def test_an_error_reply_is_an_error_with_its_code(client, spans):
    client.set("key", SECRET)
    spans.take()
    with pytest.raises(Exception, match="WRONGTYPE"):
        client.lpush("key", SECRET)
    (span,) = spans.take()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["db.response.status_code"] == "WRONGTYPE"
    assert span.attributes["error.type"]
    assert SECRET not in span.to_json()


def test_off_means_off_and_on_again_reaches_clients_that_exist(client, spans):
    client.get("key")
    assert spans.names()[-1] == "GET"
    instrumentation = instrument()
    instrumentation.uninstrument()
    instrumentation.uninstrument()
    client.get("key")
    assert not spans.take()
    again = instrument(tracer_provider=spans.provider)
    client.get("key")
    again.uninstrument()
    assert spans.names() == ["GET"]


def test_under_a_parent_that_is_not_sampled_there_is_no_span(client, spans):
    instrument().uninstrument()
    on = instrument(tracer_provider=spans.provider)
    silent = TracerProvider(sampler=ParentBased(ALWAYS_OFF)).get_tracer("test")
    with silent.start_as_current_span("parent"):
        assert client.set("key", 1)
    on.uninstrument()
    assert not spans.take()


def test_a_parent_is_the_parent(client, spans):
    with spans.provider.get_tracer("test").start_as_current_span("parent") as parent:
        client.get("key")
    get = next(span for span in spans.take() if span.name == "GET")
    assert get.parent.span_id == parent.get_span_context().span_id


def test_an_outage_in_spans(start_server, spans):
    server = start_server(transport="tcp")
    arguments = {**server.connection_kwargs, "socket_timeout": 0.2}
    with ResilientRedisClient(
        "x", **arguments, circuit_threshold=3, retry_policy=RetryPolicy(max_retries=1, base_delay=0.01)
    ) as client:
        client.set("key", 1)
        spans.take()
        server.pause()
        while True:
            try:
                client.get("key")
            except CircuitOpenError:
                break
            except (RedisTimeoutError, RedisUnavailableError):
                continue
        found = spans.take()
        result = client.with_priority(Priority.HIGH).set("key", 2)
        assert result.status == "queued"
        stored = next(span for span in spans.take() if span.name == "store with priority")
        server.resume()
    assert found[0].attributes["agent_memory.retries"] == 1
    assert found[0].attributes["agent_memory.outcome"] in ("unknown", "not_sent")
    assert found[0].status.status_code is StatusCode.ERROR
    assert found[-1].attributes["agent_memory.circuit.state"] == "open"
    assert found[-1].attributes["agent_memory.outcome"] == "not_sent"
    assert stored.attributes["agent_memory.store.status"] == "queued"


def test_the_parts_of_memory_operations(spans, tmp_path):
    with MemorySystem(tmp_path) as memory:
        memory.store("agent", SECRET)
        stored = spans.take()
        memory.retrieve("agent", SECRET)
        retrieved = spans.take()
        memory.maintain()
        assert "memory maintain" in spans.names()
    for found, root, parts in (
        (stored, "memory store", {"memory SQL write"}),
        (retrieved, "memory retrieve", {"memory index"}),
    ):
        (top,) = [span for span in found if span.name == root]
        children = {span.name for span in found if span.parent and span.parent.span_id == top.context.span_id}
        assert parts <= children
        assert children & {"EVALSHA", "EVAL"}
        assert not any(SECRET in span.to_json() for span in found)
