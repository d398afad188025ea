"""The splitters: no way of cutting a stream into chunks may change what they find in it."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_memory.testing.resp import NotRespError, ReplySplitter, RequestSplitter

# Replies: bytes of single values, and of streams of them

line = st.binary(max_size=12).map(lambda data: data.replace(b"\r", b".").replace(b"\n", b"."))
payload = st.one_of(st.binary(max_size=40), st.sampled_from([b"\r\n", b"+OK\r\n", b"*2\r\n", b">1\r\n:1\r\n"]))
number = st.integers(-(10**12), 10**12).map(lambda value: b"%d" % value)

simple = st.one_of(
    st.tuples(st.sampled_from([b"+", b"-"]), line).map(lambda pair: pair[0] + pair[1] + b"\r\n"),
    number.map(lambda digits: b":" + digits + b"\r\n"),
    number.map(lambda digits: b"(" + digits + b"\r\n"),
    st.sampled_from([b",1.5\r\n", b",-inf\r\n", b",nan\r\n", b"#t\r\n", b"#f\r\n", b"_\r\n", b"$-1\r\n", b"*-1\r\n"]),
)
bulk = st.one_of(
    st.tuples(st.sampled_from([b"$", b"!"]), payload).map(
        lambda pair: b"%b%d\r\n%b\r\n" % (pair[0], len(pair[1]), pair[1])
    ),
    payload.map(lambda text: b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text)),
)
streamed_string = st.lists(st.binary(min_size=1, max_size=9), max_size=3).map(
    lambda chunks: b"$?\r\n" + b"".join(b";%d\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b";0\r\n"
)


def aggregates(values, streamed):
    elements = st.lists(values, max_size=4)
    pairs = st.lists(st.tuples(values, values), max_size=3)
    found = [
        st.tuples(st.sampled_from([b"*", b"~"]), elements).map(
            lambda pair: b"%b%d\r\n" % (pair[0], len(pair[1])) + b"".join(pair[1])
        ),
        pairs.map(lambda items: b"%%%d\r\n" % len(items) + b"".join(key + value for key, value in items)),
    ]
    if streamed:
        found += [
            st.tuples(pairs, values).map(
                lambda pair: b"|%d\r\n" % len(pair[0]) + b"".join(key + value for key, value in pair[0]) + pair[1]
            ),
            st.tuples(st.sampled_from([b"*", b"~"]), elements).map(
                lambda pair: pair[0] + b"?\r\n" + b"".join(pair[1]) + b".\r\n"
            ),
            pairs.map(lambda items: b"%?\r\n" + b"".join(key + value for key, value in items) + b".\r\n"),
        ]
    return st.one_of(found)


usual = st.recursive(st.one_of(simple, bulk), lambda values: aggregates(values, streamed=False), max_leaves=12)
any_value = st.recursive(
    st.one_of(simple, bulk, streamed_string), lambda values: aggregates(values, streamed=True), max_leaves=12
)
push = st.lists(usual, min_size=1, max_size=3).map(lambda items: b">%d\r\n" % len(items) + b"".join(items))
stream = st.lists(
    st.one_of(any_value.map(lambda value: (False, value)), push.map(lambda value: (True, value))), max_size=6
)


@st.composite
def cut(draw, data):
    """`data` in chunks, cut anywhere."""
    places = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=20))) if len(data) > 1 else []
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def join(splitter, chunks):
    """Feed all chunks; return the values put together from their pieces, as (is_push, bytes), and what is left over."""
    values, current = [], b""
    for chunk in chunks:
        position = 0
        for piece in splitter.feed(chunk):
            assert piece.start == position, "pieces cover the chunk"
            assert piece.begins == (current == b"")
            position = piece.end
            current += chunk[piece.start : piece.end]
            if piece.ends:
                values.append((piece.is_push, current))
                current = b""
        assert position == len(chunk)
    return values, current


@given(st.data(), stream)
def test_values_are_found_however_the_stream_is_cut(data, values):
    encoded = b"".join(value for _, value in values)
    assert join(ReplySplitter(), data.draw(cut(encoded))) == (values, b"")


@given(stream)
def test_byte_by_byte(values):
    encoded = b"".join(value for _, value in values)
    assert join(ReplySplitter(), [encoded[i : i + 1] for i in range(len(encoded))]) == (values, b"")


@given(any_value)
def test_a_value_ends_with_its_last_byte_and_not_before(value):
    assert join(ReplySplitter(), [value[:-1]]) == ([], value[:-1])


def for_hiredis(values):
    elements = st.lists(values, max_size=4)
    return st.one_of(
        st.tuples(st.sampled_from([b"*", b">"]), elements).map(
            lambda pair: b"%b%d\r\n" % (pair[0], len(pair[1])) + b"".join(pair[1])
        ),
        # hiredis makes sets and dictionaries, whose elements and keys have to be hashable.
        st.lists(values, max_size=3).map(
            lambda items: b"%%%d\r\n" % len(items) + b"".join(b":1\r\n" + i for i in items)
        ),
    )


# hiredis does not know "!".
known_to_hiredis = st.recursive(
    st.one_of(simple, bulk.filter(lambda value: value[:1] != b"!")), for_hiredis, max_leaves=12
)


@given(st.lists(known_to_hiredis, max_size=6))
def test_it_counts_what_hiredis_counts(values):
    reader = hiredis.Reader(notEnoughData=hiredis, replyError=str)
    reader.feed(b"".join(values))
    count = 0
    while reader.gets() is not hiredis:
        count += 1
    assert count == len(join(ReplySplitter(), [b"".join(values)])[0]) == len(values)


GARBAGE = [b"x\r\n", b"\x16\x03\x01", b"$x\r\n", b"*\r\n", b"+no cr\n", b";1\r\n", b".\r\n"]


@given(st.lists(usual, max_size=3), st.sampled_from(GARBAGE))
def test_what_is_not_resp_is_refused_for_good(values, garbage):
    splitter = ReplySplitter()
    with pytest.raises(NotRespError):
        splitter.feed(b"".join(values) + garbage)
    with pytest.raises(NotRespError):
        splitter.feed(b"+OK\r\n")


def test_an_endless_line_is_refused():
    splitter = ReplySplitter()
    for _ in range(16):
        splitter.feed(b"+" * 65536)
    with pytest.raises(NotRespError):
        splitter.feed(b"+")


# Requests

argument = st.one_of(st.binary(max_size=80), st.sampled_from([b"\r\n", b"*1\r\n"]))
name = st.text("abcdefXYZ.", min_size=1, max_size=12).map(str.encode)


def encode(arguments):
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(item), item) for item in arguments)


command = st.tuples(name, st.lists(argument, max_size=4)).map(
    lambda pair: (pair[0].decode().upper(), encode([pair[0], *pair[1]]))
)
inline = st.tuples(name, st.sampled_from([b"", b" a", b"  a b"]), st.sampled_from([b"\n", b"\r\n"])).map(
    lambda parts: (parts[0].decode().upper(), b"".join(parts))
)
nothing = st.sampled_from([("", b"\r\n"), ("", b"*0\r\n"), ("", b"*-1\r\n"), ("", b"\n")])


@given(st.data(), st.lists(st.one_of(command, command, inline, nothing), max_size=6))
def test_requests_are_found_however_the_stream_is_cut(data, requests):
    encoded = b"".join(request for _, request in requests)
    splitter = RequestSplitter()
    found, current = [], b""
    for chunk in data.draw(cut(encoded)):
        position = 0
        for piece in splitter.feed(chunk):
            assert piece.start == position
            assert piece.offset == len(current)
            assert piece.begins == (current == b"")
            position = piece.end
            current += chunk[piece.start : piece.end]
            if piece.ends:
                found.append((piece.words[0] if piece.words else "", current))
                current = b""
        assert position == len(chunk)
    assert (found, current) == (requests, b"")


def test_words_are_known_as_soon_as_they_are_complete():
    splitter = RequestSplitter()
    encoded = encode([b"client", b"reply", b"off"])
    words = [splitter.feed(encoded[i : i + 1])[0].words for i in range(len(encoded))]
    assert words[0] == ()
    assert ("CLIENT",) in words
    assert words[-1] == ("CLIENT", "REPLY")
    assert splitter.feed(b"PING\r\n")[0].words == ("PING",)


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01", b"*x\r\n", b"*1\r\n+OK\r\n", b"*1\r\n$-1\r\n", b"a\x00\x01\r\n"])
def test_requests_that_are_not_resp_are_refused(garbage):
    with pytest.raises(NotRespError):
        RequestSplitter().feed(garbage)
