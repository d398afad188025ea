"""A reply that no command asked for, cut anywhere, on the shared connection: no caller is ever given another's."""

from __future__ import annotations

import asyncio

import pytest
from fake_server import FakeServer, bulk

from agent_memory.errors import RedisUnavailableError

ARRAY = b"*2\r\n$1\r\na\r\n" + bulk(b"b")
PUSH = b">2\r\n$7\r\nmessage\r\n" + bulk(b"news")


class SurplusServer(FakeServer):
    """Sends the first `cut` bytes of `surplus` with the first reply and the rest right before the second one."""

    def __init__(self, surplus: bytes, cut: int) -> None:
        self._parts = [surplus[:cut], surplus[cut:]]
        super().__init__(self._reply)

    def _reply(self, command, connection):
        reply = bulk(command[-1])
        if connection.number:
            return reply
        return {1: reply + self._parts[0], 2: self._parts[1] + reply}.get(len(self.received), reply)


@pytest.mark.parametrize("decode_responses", [False, True])
@pytest.mark.parametrize("surplus", [bulk(b"secret"), ARRAY, b":7\r\n"], ids=["string", "array", "number"])
async def test_a_surplus_reply_cut_anywhere_is_given_to_no_caller(async_connect, surplus, decode_responses):
    for cut in range(1, len(surplus)):
        with SurplusServer(surplus, cut) as fake:
            client = async_connect(fake, resilience=None, decode_responses=decode_responses)
            one = "one" if decode_responses else b"one"
            assert await client.echo("one") == one
            with pytest.raises(RedisUnavailableError, match="a reply that no command asked for"):
                await asyncio.gather(client.echo("two"), client.echo("three"))
            assert await client.echo("one") == one  # on a new connection


async def test_a_push_cut_anywhere_costs_no_connection(async_connect):
    for cut in range(1, len(PUSH)):
        with SurplusServer(PUSH, cut) as fake:
            client = async_connect(fake, resilience=None)
            assert [await client.echo(word) for word in ("one", "two", "three")] == [b"one", b"two", b"three"]
            assert len(fake.connections) == 1
