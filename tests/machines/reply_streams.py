"""Streams of replies, right and wrong, and a server on a real socket that plays them.

Every command carries a word of its own, and what is right to answer has that word in it, so a reply that reaches another caller
shows. Streams are cut anywhere; attributes and pushes come in and out of place; behind an answer may stand a reply too many,
garbage, absurd lengths, more levels than any reply has, or the end of the connection.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from fake_server import HELLO_REPLY, FakeServer, answer_handshake, bulk
from hypothesis import strategies as st

WORD = b"\x00word\x00"
"""Stands in a generated reply for the word of its command."""

SCALARS = st.one_of(
    st.just((bulk(WORD), WORD)),
    st.binary(max_size=20).map(lambda value: (bulk(value), value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: (b":%d\r\n" % value, value)),
    st.sampled_from([(b"_\r\n", None), (b"$-1\r\n", None), (b"*-1\r\n", None), (b"#t\r\n", True), (b",1.5\r\n", 1.5)]),
    st.sampled_from([(b"+OK\r\n", b"OK"), (b"=7\r\ntxt:abc\r\n", b"abc"), (b"*0\r\n", []), (b"%0\r\n", {})]),
)
ATTRIBUTES = st.sampled_from(
    [b"", b"", b"|0\r\n", b"|1\r\n+ttl\r\n:3600\r\n", b"|1\r\n*2\r\n:1\r\n|1\r\n+a\r\n+b\r\n_\r\n$3\r\n\r\n|\r\n"]
)
PUSHES = st.sampled_from([b"", b"", b">2\r\n+invalidate\r\n*1\r\n+key\r\n", b">1\r\n|1\r\n+a\r\n+b\r\n+x\r\n"])


def _many(children):
    parts = st.lists(st.tuples(ATTRIBUTES, children), max_size=4)
    return parts.map(
        lambda parts: (b"*%d\r\n" % len(parts) + b"".join(a + v[0] for a, v in parts), [v[1] for _, v in parts])
    )


VALUES = st.recursive(SCALARS, _many, max_leaves=8)
"""Bytes of a reply, and what it is."""
WITH_WORD = VALUES.map(lambda value: (b"*2\r\n" + bulk(WORD) + value[0], [WORD, value[1]])) | st.just(
    (bulk(WORD), WORD)
)

NO_REPLIES = [
    b"@", b"HTTP/1.1 400\r\n", b"\x15\x03\x01", b"*4000000000\r\n", b"$9223372036854775807\r\n", b"*1\r\n" * 1100,
    b"*2\r\n>1\r\n+x\r\n+y\r\n", b"%1\r\n*1\r\n:1\r\n+x\r\n", b"$2\r\nabc\r\n", b"*?\r\n", b"-MOVED\r\n",
    b"|-1\r\n+x\r\n", b">0\r\n",
]  # fmt: skip
SURPLUS = [bulk(b"stranger"), b"*2\r\n+stranger\r\n:1\r\n", b"|1\r\n+a\r\n+b\r\n+stranger\r\n", b":7\r\n", b"+OK\r\n"]


@dataclass(frozen=True)
class Answer:
    """What the server does about one command."""

    reply: bytes
    value: object
    behind: bytes = b""
    cuts: tuple[int, ...] = ()
    ends: bool = False
    is_right: bool = True

    def expected(self, word):
        return _with(self.value, word)

    def pieces(self, word):
        """The bytes for the command with this word, in pieces; the reply's last byte is never the last of one but the last."""
        reply = self.reply.replace(bulk(WORD), bulk(word))
        whole = reply + self.behind
        cuts = sorted({cut % len(whole) for cut in self.cuts if whole} - {0, len(reply)})
        return [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def _with(value, word):
    if isinstance(value, list):
        return [_with(part, word) for part in value]
    return word if value == WORD and isinstance(value, bytes) else value


CUTS = st.lists(st.integers(1, 200), max_size=4).map(tuple)
RIGHT = st.builds(
    lambda push, attribute, value, cuts: Answer(push + attribute + value[0], value[1], cuts=cuts),
    PUSHES, ATTRIBUTES, WITH_WORD, CUTS,
)  # fmt: skip
WRONG = st.builds(lambda reply, cuts: Answer(reply, None, cuts=cuts, is_right=False), st.sampled_from(NO_REPLIES), CUTS)
TORN = st.builds(
    lambda value, at, cuts: Answer(value[0][: at % len(value[0])], None, cuts=cuts, ends=True, is_right=False),
    WITH_WORD, st.integers(0, 200), CUTS,
)  # fmt: skip
BEHIND = st.builds(
    lambda value, behind, cut, cuts: Answer(value[0], value[1], behind[: 1 + cut % len(behind)], cuts, is_right=False),
    WITH_WORD, st.sampled_from(SURPLUS + NO_REPLIES), st.just(-1) | st.integers(0, 200), CUTS,
)  # fmt: skip
GREETED = st.builds(
    lambda behind, cuts: Answer(HELLO_REPLY, None, behind, cuts, is_right=False), st.sampled_from(SURPLUS), CUTS
)
"""HELLO in good order, and something behind it."""


class StreamServer(FakeServer):
    """Plays one answer per command, in their order; a right one when there is none left."""

    def __init__(self, answers, handshake=None):
        self._answers = list(answers)
        self._greeting = handshake
        super().__init__(self._play, handshake=self._greet if handshake is not None else None)

    def _greet(self, command, connection):
        if command[0] != b"HELLO" or self._greeting is None:
            return answer_handshake(command, connection)
        greeting, self._greeting = self._greeting, None
        return self._send(greeting, b"hello", connection)

    def _play(self, command, connection):
        if command[0] == b"SUBSCRIBE":
            connection.send(b">3\r\n$9\r\nsubscribe\r\n" + bulk(command[1]) + b":1\r\n")
            return None
        answer = self._answers.pop(0) if self._answers else Answer(bulk(WORD), WORD)
        return self._send(answer, command[-1], connection)

    @staticmethod
    def _send(answer, word, connection):
        pieces = answer.pieces(word)
        for piece in pieces[:-1]:
            connection.send(piece)
            time.sleep(0.0005)
        connection.send(pieces[-1])
        if answer.ends:
            connection.close()
