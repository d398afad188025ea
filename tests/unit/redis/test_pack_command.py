"""`_core.pack_command` takes every word that redis-py takes, and hands none of it to code in C that trusts it."""

import decimal
import enum

import hiredis
import numpy as np
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from agent_memory._core import pack_command


class Text(str):
    __slots__ = ()


class Number(enum.IntEnum):
    SEVEN = 7


class Bytes(bytes):
    __slots__ = ()


class Float(float):
    def __repr__(self):
        return "1.25"


ENCODER = redis.connection.Encoder("utf-8", "strict", False)


def expected(command):
    """By redis-py's encoder, which is written in Python; None for what it or the packer it uses (hiredis) refuses."""
    words = []
    for word in command:
        if isinstance(word, int) and type(word) is not int:
            return None
        try:
            # redis-py takes a bytearray since 8.0, our packer with every redis-py.
            words.append(bytes(word if isinstance(word, bytearray) else ENCODER.encode(word)))
        except (redis.DataError, UnicodeEncodeError):
            return None
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def views():
    """Views of every layout: with steps, reversed, of several dimensions, of wider elements, of nothing."""
    tables = st.builds(
        lambda kind, rows, columns: np.arange(rows * columns, dtype=kind).reshape(rows, columns),
        st.sampled_from(["u1", "i2", "f4", "f8"]),
        st.integers(2, 5),
        st.integers(1, 5),
    )
    cuts = st.sampled_from([np.s_[:], np.s_[::2], np.s_[::-1], np.s_[:, 0], np.s_[:, ::-1], np.s_[1:, ::2]])
    turned = st.builds(lambda table, cut, turns: (table.T if turns else table)[cut], tables, cuts, st.booleans())
    return st.one_of(
        turned.map(memoryview),
        st.builds(lambda data, step: memoryview(data)[::step], st.binary(), st.sampled_from([1, 2, 3, -1, -2])),
        st.binary().map(bytearray),
    )


words = st.one_of(
    st.text(),
    st.text().map(Text),
    st.binary(),
    st.binary().map(Bytes),
    st.integers(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.floats().map(Float),
    st.booleans(),
    st.none(),
    views(),
    st.sampled_from([Number.SEVEN, "\ud800", [], object(), decimal.Decimal("1.5")]),
)


@given(st.lists(words, max_size=12).map(tuple))
@example(())
@example(("GET", "foo"))
@example(("SET", b"\x00\xff", -(2**63), 2**63, "", 0, "ü", "\U0001f600"))
@example(("SET", "x" * 100_000))
def test_packs_as_redis_py_does_and_refuses_the_rest(command):
    wanted = expected(command)
    if wanted is None:
        with pytest.raises((TypeError, UnicodeEncodeError)):
            pack_command(command)
    else:
        assert pack_command(command) == wanted


@given(st.lists(st.one_of(st.text(), st.binary(), st.integers(-(2**63), 2**63 - 1)), max_size=12).map(tuple))
def test_packs_plain_words_as_hiredis_does(command):
    assert pack_command(command) == hiredis.pack_command(command)


def test_an_error_names_the_command_the_position_and_the_type_and_no_value():
    with pytest.raises(
        TypeError, match=r"argument 2 of SET must be str, bytes, .*, got list: convert it first"
    ) as caught:
        pack_command(("set", "secret", ["also secret"]))
    assert "secret" not in str(caught.value)
    with pytest.raises(TypeError, match="argument 0 of a command must be"):
        pack_command((None,))


def test_an_exception_of_a_word_reaches_the_caller():
    class Stubborn(float):
        def __repr__(self):
            raise KeyboardInterrupt

    class Lying(float):
        def __repr__(self):
            return 7

    with pytest.raises(KeyboardInterrupt):
        pack_command(("SET", "key", Stubborn(1)))
    with pytest.raises(TypeError):
        pack_command(("SET", "key", Lying(1)))


def test_a_view_that_was_released_is_refused():
    view = memoryview(bytearray(b"abc"))
    view.release()
    with pytest.raises(ValueError, match="released"):
        pack_command(("SET", "key", view))


@pytest.mark.parametrize("wrong", [["GET", "foo"], "GET", None])
def test_takes_a_tuple(wrong):
    with pytest.raises(TypeError):
        pack_command(wrong)
