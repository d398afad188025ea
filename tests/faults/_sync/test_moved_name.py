# Generated from ../_async/test_moved_name.py by tools/generate_sync.py: edit that file, not this one.

"""A name is looked up anew with every connection: a server that moved is found without a restart of the client."""

from __future__ import annotations

import socket

import pytest

from agent_memory import ResiliencePolicy, RetryPolicy

NAME = "moved.invalid"


@pytest.fixture
def names(monkeypatch):
    """What NAME resolves to: {NAME: server}, to be changed by the test. Servers differ by their port."""
    table = {}
    resolve = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **options):
        if host in table:
            host, port = "127.0.0.1", table[host].port
        return resolve(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


def test_the_client_follows_a_name(start_server, connect, names):
    first, second = (start_server(transport="tcp", protected=False) for _ in range(2))
    names[NAME] = first
    patient = ResiliencePolicy(retry=RetryPolicy(max_retries=20, base_delay=0.05, max_delay=0.2, deadline_s=20.0))
    client = connect(second, host=NAME, resilience=patient)
    client.set("where", "first")
    names[NAME] = second
    assert client.get("where") == b"first"
    first.kill()
    assert client.get("where") is None
    client.set("where", "second")
    assert client.get("where") == b"second"
