"""Tracers that patch redis-py see as many spans of our clients as of redis-py's; each in a process of its own."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, json, os, sys
os.environ.update(DD_TRACE_ENABLED="true", DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
                  DD_REMOTE_CONFIGURATION_ENABLED="false", DD_TRACE_AGENT_URL="http://127.0.0.1:9")
tracer, arguments = sys.argv[1], json.loads(sys.argv[2])
taken = []

def opentelemetry():
    from opentelemetry.instrumentation.redis import RedisInstrumentor
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    class Keep(SpanProcessor):
        def on_end(self, span):
            taken.append(span.name)
    provider = TracerProvider()
    provider.add_span_processor(Keep())
    RedisInstrumentor().instrument(tracer_provider=provider)

def sentry():
    import sentry_sdk
    from sentry_sdk.integrations.redis import RedisIntegration
    def keep(event, _):
        taken.extend(span["description"] for span in event["spans"] if "redis" in str(span["op"]))
    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", traces_sample_rate=1.0, default_integrations=False,
                    before_send_transaction=keep, integrations=[RedisIntegration()])

def ddtrace():
    from ddtrace import patch
    from ddtrace.trace import TraceFilter, tracer
    class Keep(TraceFilter):
        def process_trace(self, trace):
            taken.extend(span.resource for span in trace if "redis" in span.name)
    tracer.configure(trace_processors=[Keep()])
    patch(redis=True)

{"opentelemetry": opentelemetry, "sentry": sentry, "ddtrace": ddtrace}[tracer]()

import contextlib
import redis, redis.asyncio
from agent_memory import ResilientRedisClient
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient
from agent_memory.redis import Redis
from agent_memory.redis.asyncio import Redis as AsyncRedis

def transaction():
    if tracer != "sentry":
        return contextlib.nullcontext()
    import sentry_sdk
    return sentry_sdk.start_transaction(name="calls")

counts = {}
def sync_calls(name, client):
    taken.clear()
    with transaction():
        client.set("key", 1)
        client.get("key")
        client.execute_command("PING")
        client.pipeline().set("key", 1).get("key").execute()
    client.close()
    counts[name] = len(taken)

async def async_calls(name, client):
    taken.clear()
    with transaction():
        await client.set("key", 1)
        await client.get("key")
        await client.execute_command("PING")
        await client.pipeline().set("key", 1).get("key").execute()
    await client.aclose()
    counts[name] = len(taken)

async def go():
    await async_calls("asyncio redis-py", redis.asyncio.Redis(**arguments))
    await async_calls("asyncio drop-in", AsyncRedis(**arguments))
    await async_calls("asyncio resilient", AsyncResilientRedisClient("x", **arguments))

sync_calls("redis-py", redis.Redis(**arguments))
sync_calls("drop-in", Redis(**arguments))
sync_calls("resilient", ResilientRedisClient("x", **arguments))
asyncio.run(go())
print(json.dumps(counts))
"""


@pytest.mark.parametrize("tracer", ["opentelemetry", "sentry", "ddtrace"])
def test_as_many_spans_as_with_redis_py(tracer, start_server):
    arguments = json.dumps(start_server(transport="tcp").connection_kwargs)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tracer, arguments], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["redis-py"] == 4
    assert counts == dict.fromkeys(counts, 4)
