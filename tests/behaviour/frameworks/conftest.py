"""For tests that put our clients under redis-py's names: they are put back, whatever the test has done."""

import pytest

import agent_memory.redis


@pytest.fixture
def installed():
    """`install()` for the length of one test."""
    agent_memory.redis.install()
    yield
    agent_memory.redis.uninstall()
