"""What `instrument()` refuses."""

from __future__ import annotations

import pytest

import agent_memory.redis
from agent_memory.observability.tracing import instrument


@pytest.mark.parametrize("provider", [3, "provider", object()], ids=type)
def test_what_is_no_tracer_provider_is_refused_and_nothing_is_wrapped(provider):
    before = agent_memory.redis.Redis.execute_command
    with pytest.raises(TypeError, match="tracer_provider must be a TracerProvider or None, got"):
        instrument(tracer_provider=provider)
    assert agent_memory.redis.Redis.execute_command is before
