"""What spans cost a GET: off, on under a parent that is not sampled, on with root spans; and under OpenTelemetry's own patch.

    python benches/python/bench_tracing.py

Rounds of the cases alternate in one process, and medians of the rounds are shown: differences say more than single figures.
The server is a private one on a unix socket, so the figures hold for this machine and its load.
"""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from typing import Any

import redis
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from agent_memory.observability.tracing import instrument
from agent_memory.redis import Redis
from agent_memory.testing import EmbeddedServer

CALLS, ROUNDS = 300, 41


def microseconds(call: Any, context: Any = None) -> float:
    with context or nullcontext():
        began_s = time.perf_counter()
        for _ in range(CALLS):
            call()
        return (time.perf_counter() - began_s) / CALLS * 1e6


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

        for _ in range(ROUNDS):
            note("ours", microseconds(lambda: ours.get("key")))
            note("redis-py", microseconds(lambda: theirs.get("key")))
            note("a span of the SDK", microseconds(lambda: tracer.start_span("GET", attributes={"a": 1}).end()))
            on = instrument(tracer_provider=provider)
            note("ours, root span", microseconds(lambda: ours.get("key")))
            note("ours, unsampled", microseconds(lambda: ours.get("key"), silent.start_as_current_span("parent")))
            on.uninstrument()
            note("ours, after uninstrument()", microseconds(lambda: ours.get("key")))
            RedisInstrumentor().instrument(tracer_provider=provider)
            note("ours, OpenTelemetry's patch", microseconds(lambda: ours.get("key")))
            note("redis-py, OpenTelemetry's patch", microseconds(lambda: theirs.get("key")))
            RedisInstrumentor().uninstrument()
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, value in medians.items():
        print(f"{name:32} {value:8.2f} us")
    base = medians["ours"]
    print(f"off again: {100 * (medians['ours, after uninstrument()'] / base - 1):+.1f} % of a GET")
    print(f"unsampled parent: {medians['ours, unsampled'] - base:+.2f} us a call")
    print(
        f"root span above the SDK's own: {medians['ours, root span'] - base - medians['a span of the SDK']:+.2f} us a call"
    )
    ours_us = medians["ours, OpenTelemetry's patch"] - base
    theirs_us = medians["redis-py, OpenTelemetry's patch"] - medians["redis-py"]
    print(f"OpenTelemetry's patch: ours {ours_us:+.2f} us, redis-py {theirs_us:+.2f} us")


if __name__ == "__main__":
    main()
