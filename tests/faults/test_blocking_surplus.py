"""A reply that no command asked for, cut anywhere, on a blocking connection: no caller is ever given another's."""

from __future__ import annotations

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


@pytest.mark.parametrize("surplus", [bulk(b"secret"), ARRAY, b":7\r\n"], ids=["string", "array", "number"])
def test_a_surplus_reply_cut_anywhere_is_given_to_no_caller(connect, surplus):
    for cut in range(1, len(surplus)):
        with SurplusServer(surplus, cut) as fake:
            client = connect(fake, resilience=None)
            assert [client.echo(word) for word in ("one", "two", "three")] == [b"one", b"two", b"three"]
            assert len(fake.connections) == 2  # the one that had bytes left was closed


def test_a_whole_surplus_reply_is_an_error_of_the_connection(connect):
    with SurplusServer(ARRAY, len(ARRAY)) as fake:
        client = connect(fake, resilience=None)
        with pytest.raises(RedisUnavailableError, match="a reply that no command asked for"):
            client.echo("one")
        assert client.echo("two") == b"two"


def test_a_whole_push_behind_a_reply_costs_no_connection(connect):
    with SurplusServer(PUSH, len(PUSH)) as fake:
        client = connect(fake, resilience=None)
        assert [client.echo(word) for word in ("one", "two")] == [b"one", b"two"]
        assert len(fake.connections) == 1


def test_a_pipeline_leaves_no_surplus_to_the_next_caller(connect):
    for cut in range(1, len(ARRAY)):
        with SurplusServer(ARRAY, cut) as fake:
            client = connect(fake, resilience=None)
            pipeline = client.pipeline(transaction=False).echo("one")
            assert pipeline.execute() == [b"one"]
            assert client.echo("two") == b"two"
