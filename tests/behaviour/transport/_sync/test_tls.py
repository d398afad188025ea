# Generated from ../_async/test_tls.py by tools/generate_sync.py: edit that file, not this one.

"""Replies over TLS: however many records they come in, every caller gets its own."""

from __future__ import annotations

import random

from agent_memory._concurrency import gather, spawn
from agent_memory.redis import Redis


def test_a_reply_of_many_records(tls_server):
    with Redis(**tls_server.connection_kwargs) as client:
        for size in (16_384, 16_385, 100_000, 1_000_000):
            value = random.Random(size).randbytes(size)
            client.set("large", value)
            assert client.get("large") == value
            assert client.pipeline(transaction=False).get("large").get("large").execute() == [value, value]


def test_replies_of_all_sizes_at_once(tls_server):
    with Redis(**tls_server.connection_kwargs) as client:
        values = {f"key:{number}": bytes([number % 251]) * (number * 97 % 30_000) for number in range(200)}
        client.mset(values)

        def get(key):
            assert client.get(key) == values[key]

        for _ in range(5):
            gather(*[spawn(get, key) for key in values])
