"""No test of a policy sleeps: time passes when a test says so."""

from __future__ import annotations

import pytest

from agent_memory.testing.clock import ManualClock


@pytest.fixture
def clock():
    return ManualClock()
