"""`_core.pack_command` says what hiredis says, whatever it is given."""

import enum

import hiredis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_memory._core import pack_command


class Text(str):
    __slots__ = ()


class Number(enum.IntEnum):
    SEVEN = 7


def answer(pack, command):
    """The bytes, or what was raised instead."""
    try:
        return pack(command)
    except Exception as error:
        return type(error), str(error)


words = st.one_of(
    st.text(),
    st.binary(),
    st.integers(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.none(),
    st.sampled_from([Text("väl"), Number.SEVEN, bytearray(b"x"), memoryview(b"y"), "\ud800", [], object()]),
)


@given(st.lists(words, max_size=12).map(tuple))
@example(())
@example(("GET", "foo"))
@example(("SET", b"\x00\xff", -(2**63), 2**63, "", 0, "ü", "\U0001f600"))
@example(("SET", "x" * 100_000))
def test_packs_and_refuses_as_hiredis_does(command):
    assert answer(pack_command, command) == answer(hiredis.pack_command, command)


@pytest.mark.parametrize("wrong", [["GET", "foo"], "GET", None])
def test_takes_a_tuple(wrong):
    with pytest.raises(TypeError):
        pack_command(wrong)
