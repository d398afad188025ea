# Generated from ../_async/test_attributes.py by tools/generate_sync.py: edit that file, not this one.

"""Attributes of RESP3 come before replies and are none: no caller is given one, however the stream is cut."""

import time

import pytest
from fake_server import FakeServer, answer_handshake, bulk

from agent_memory._concurrency import gather, in_thread, spawn
from agent_memory.errors import Outcome, RedisUnavailableError

WITHIN_S = 20.0
SMALL = b"|1\r\n+ttl\r\n:3600\r\n"
LARGE = b"|2\r\n*2\r\n:1\r\n$4\r\n|1\r\n\r\n%1\r\n+a\r\n|1\r\n+b\r\n+c\r\n_\r\n" + bulk(b"k") + b"*0\r\n"
ATTRIBUTES = {
    "small": SMALL,
    "large": LARGE,
    "none": b"|0\r\n",
    "two": SMALL + LARGE,
    "no text": b"|1\r\n+\xff\r\n+\xfe\r\n",
}


class Marking(FakeServer):
    """Answers ECHO with its argument, LIST with it in a list, with an attribute in front of and within it, cut at `cut`."""

    def __init__(self, attribute, cut=None, behind=b""):
        self._attribute, self._cut, self._behind = attribute, cut, behind
        super().__init__(self._reply)

    def _reply(self, command, connection):
        value = bulk(command[-1])
        if command[0] == b"LIST":
            value = b"*2\r\n" + self._attribute + value + self._attribute + b":1\r\n"
        whole = self._attribute + value + self._behind
        if self._cut is None:
            return whole
        connection.send(whole[: self._cut])
        time.sleep(0.001)
        return whole[self._cut :] or None


@pytest.mark.parametrize(
    ("name", "decode"),
    [(name, decode) for name in ATTRIBUTES for decode in (False, True) if not (decode and name == "no text")],
)
def test_callers_are_given_their_replies(name, decode, connect):
    with Marking(ATTRIBUTES[name]) as fake:
        client = connect(fake, resilience=None, decode_responses=decode, socket_timeout=5)
        words = ["one", "two", "three"]
        wanted = words if decode else [word.encode() for word in words]
        tasks = [spawn(client.echo, word) for word in words]
        assert gather(*tasks) == wanted
        assert [client.echo(word) for word in words] == wanted
        assert [client.execute_command("LIST", word) for word in words] == [[word, 1] for word in wanted]
        pipeline = client.pipeline(transaction=False)
        for word in words:
            pipeline.echo(word).execute_command("LIST", word)
        assert pipeline.execute() == [reply for word in wanted for reply in (word, [word, 1])]
        assert len(fake.connections) <= len(words)


def test_an_attribute_that_is_no_text_is_no_reply(connect):
    with Marking(ATTRIBUTES["no text"]) as fake:
        client = connect(fake, resilience=None, decode_responses=True, socket_timeout=5)
        for word in ("one", "two"):
            try:
                assert client.echo(word) == word
            except RedisUnavailableError as error:  # a blocking connection has asked the parser already
                assert error.outcome is Outcome.UNKNOWN  # noqa: PT017


@pytest.mark.parametrize("command", ["ECHO", "LIST"])
def test_cut_anywhere(command, connect):
    for cut in range(1, len(SMALL) + 12):
        with Marking(SMALL, cut) as fake:
            client = connect(fake, resilience=None, socket_timeout=5)
            for word in (b"one", b"two"):
                assert client.execute_command(command, word) == (word if command == "ECHO" else [word, 1])
            assert len(fake.connections) == 1


@pytest.mark.parametrize("behind", [SMALL[:cut] for cut in range(1, len(SMALL) + 1)] + [SMALL + b"+stale\r\n"])
def test_an_attribute_behind_a_reply_ends_the_connection(behind, connect):
    with Marking(b"", behind=behind) as fake:
        client = connect(fake, resilience=None, socket_timeout=5)
        for command in ("ECHO", "LIST", "ECHO"):
            for word in (b"one", b"two"):
                try:
                    reply = client.execute_command(command, word)
                except RedisUnavailableError as error:
                    assert isinstance(error.outcome, Outcome)  # noqa: PT017
                else:
                    assert reply == (word if command == "ECHO" else [word, 1])


@pytest.mark.parametrize("cut", range(1, 24, 3))
def test_subscribers_and_pinned_connections(cut, connect):
    confirmation = SMALL + b">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
    message = SMALL + b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$4\r\nword\r\n"

    def answer(command, connection):
        whole = confirmation + message if command[0] == b"SUBSCRIBE" else SMALL + bulk(command[-1])
        connection.send(whole[:cut])
        return whole[cut:]

    with FakeServer(answer, handshake=lambda *call: SMALL + answer_handshake(*call)) as fake:
        client = connect(fake, resilience=None, socket_timeout=5)
        assert client.echo("shared") == b"shared"
        with client.client() as pinned:
            assert [pinned.echo(word) for word in ("one", "two")] == [b"one", b"two"]
        subscriber = client.pubsub()
        subscriber.subscribe("news")
        subscriber.execute_command("ECHO", "own")
        replies = [subscriber.parse_response() for _ in range(3)]
        assert replies == [[b"subscribe", b"news", 1], [b"message", b"news", b"word"], b"own"]
        in_thread(subscriber.close)


def test_a_real_server_that_sends_one(start_server, connect):
    server = start_server(transport="tcp", config={"enable-debug-command": "yes"})
    client = connect(server, resilience=None)
    assert client.execute_command("DEBUG", "PROTOCOL", "attrib")
    assert [client.echo(word) for word in ("one", "two")] == [b"one", b"two"]


STREAMS = {
    "a push inside a reply": b"*2\r\n>1\r\n+a\r\n:1\r\n",
    "a string longer than it said": b"$2\r\nabc\r\n",
    "more than the bound": b"*200000000\r\n",
    "deep": b"*1\r\n" * 1001,
    "an attribute of no length": b"|-1\r\n+OK\r\n",
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_hiredis_takes_and_is_no_reply(name, connect):
    with FakeServer(lambda *_: STREAMS[name]) as fake:
        client = connect(fake, resilience=None, socket_timeout=5)
        for call in (client.get, client.dump, lambda key: client.pipeline(transaction=False).get(key).execute()):
            with pytest.raises(RedisUnavailableError, match="protocol error") as caught:
                call("key")
            assert caught.value.outcome is Outcome.UNKNOWN
