"""What spans cost a GET: off, on under a parent that is not sampled, on with root spans; and under OpenTelemetry's own patch.

    python benches/python/bench_tracing.py

Processor time of the calling thread. Rounds of the cases alternate in one process, and the best round of each is shown: what
other processes take of the machine makes the others longer.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import redis
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind

from agent_memory.observability.tracing import instrument
from agent_memory.redis import Redis
from agent_memory.testing import EmbeddedServer

ATTRIBUTES = {
    "db.system.name": "redis", "db.operation.name": "GET", "db.namespace": "0", "server.address": "/run/redis.sock",
    "agent_memory.client": "redis",
}  # fmt: skip
CALLS, ROUNDS = 300, 41


def microseconds(call: Any, context: Any = None) -> float:
    with context or nullcontext():
        began_s = time.thread_time()
        for _ in range(CALLS):
            call()
        return (time.thread_time() - began_s) / CALLS * 1e6


def main() -> None:
    provider = TracerProvider()
    tracer = provider.get_tracer("bench")
    silent = TracerProvider(sampler=ParentBased(ALWAYS_OFF)).get_tracer("bench")
    found: dict[str, list[float]] = {}
    with EmbeddedServer() as server:
        ours, theirs = Redis(**server.connection_kwargs), redis.Redis(**server.connection_kwargs)
        ours.set("key", "value")

        def note(name: str, value: float) -> None:
            found.setdefault(name, []).append(value)

        def alone() -> None:
            tracer.start_span("GET", kind=SpanKind.CLIENT, attributes=ATTRIBUTES).end()

        for _ in range(ROUNDS):
            note("ours", microseconds(lambda: ours.get("key")))
            note("redis-py", microseconds(lambda: theirs.get("key")))
            note("a span of the SDK", microseconds(alone))
            on = instrument(tracer_provider=provider)
            note("ours, root span", microseconds(lambda: ours.get("key")))
            note("ours, unsampled", microseconds(lambda: ours.get("key"), silent.start_as_current_span("parent")))
            on.uninstrument()
            note("ours, after uninstrument()", microseconds(lambda: ours.get("key")))
            RedisInstrumentor().instrument(tracer_provider=provider)
            note("ours, OpenTelemetry's patch", microseconds(lambda: ours.get("key")))
            note("redis-py, OpenTelemetry's patch", microseconds(lambda: theirs.get("key")))
            RedisInstrumentor().uninstrument()
    best = {name: min(values) for name, values in found.items()}
    for name, value in best.items():
        print(f"{name:32} {value:8.2f} us")
    base = best["ours"]
    print(f"off again: {100 * (best['ours, after uninstrument()'] / base - 1):+.1f} % of a GET")
    print(f"unsampled parent: {best['ours, unsampled'] - base:+.2f} us a call")
    print(f"root span above the SDK's own: {best['ours, root span'] - base - best['a span of the SDK']:+.2f} us a call")
    ours_us = best["ours, OpenTelemetry's patch"] - base
    theirs_us = best["redis-py, OpenTelemetry's patch"] - best["redis-py"]
    print(f"OpenTelemetry's patch: ours {ours_us:+.2f} us, redis-py {theirs_us:+.2f} us")


if __name__ == "__main__":
    main()
