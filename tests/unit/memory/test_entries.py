"""Copies and the codec: what goes in comes out, what is damaged is noticed, what is wrong is refused."""

import copy as copying
import json
import math
import pickle
import struct
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_memory.memory import CorruptMemoryError, MemoryId, Tier, _copy, _redis_codec
from agent_memory.memory._async import redis_tier

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAMES = TEXT.filter(lambda text: text and "\0" not in text)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
OPTIONS = st.fixed_dictionaries(
    {
        "memory_id": NAMES,
        "timestamp": st.floats(-1e12, 1e12),
        "created_us": st.integers(0, 2**52 - 1),
        "writer": st.integers(1, 2**63 - 1),
        "importance": st.floats(0, 1),
        "memory_type": TEXT.filter(lambda text: "\0" not in text),
        "step": st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
        "metadata": st.dictionaries(TEXT, JSON, max_size=4),
        "tags": st.lists(NAMES, max_size=4, unique=True),
        "namespace": st.lists(NAMES, max_size=3),
        "user_id": st.none() | NAMES,
        "session_id": st.none() | NAMES,
        "key": st.none() | NAMES,
        "idempotency_key": st.none() | NAMES,
        "expires_at": st.none() | st.floats(0, 1e12),
        "tier": st.sampled_from(Tier),
        "version": st.integers(1, 2**52 - 1),
        "generation": st.integers(0, 2**32 - 1),
        "deduplicate": st.booleans(),
        "embedding": st.none() | st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    }
)


@given(content=TEXT | st.binary(max_size=60) | JSON, agent_id=NAMES, options=OPTIONS, dirty=st.booleans())
def test_values_survive_the_codec_and_come_back_as_they_were_given(content, agent_id, options, dirty):
    copy = _copy.make_copy(agent_id, content, **options)
    value = _redis_codec.encode_copy(copy, "a" * 40, dirty=dirty)
    decoded, header = _redis_codec.decode_copy(value, copy.id, agent_id)
    assert decoded == copy
    assert header == ("d" if dirty else "c", options["tier"], options["version"], options["writer"], "a" * 40)

    entry = _copy.entry_of(decoded)
    assert entry.content == content
    assert entry.metadata == options["metadata"]
    assert entry.tags == tuple(options["tags"])
    assert entry.namespace == tuple(options["namespace"])
    for name in ("importance", "step", "user_id", "session_id", "key", "tier", "version"):
        assert getattr(entry, name) == options[name]
    assert (entry.timestamp_s, entry.expires_at_s) == (options["timestamp"], options["expires_at"])
    if options["embedding"] is None:
        assert entry.embedding is None
    else:
        np.testing.assert_array_equal(entry.embedding, np.asarray(options["embedding"], dtype=np.float32))


@given(content=TEXT | st.binary(max_size=60), agent_id=NAMES, options=OPTIONS)
def test_the_bytes_are_those_of_databases_that_exist(content, agent_id, options):
    copy = _copy.make_copy(agent_id, content, **options)
    expires = math.nan if copy.expires_at is None else copy.expires_at
    texts = [copy.memory_type, copy.namespace, copy.user_id, copy.session_id, copy.key, copy.idempotency_key]
    texts += [copy.tags, copy.metadata]
    head = struct.pack(
        "<qdddqBQ",
        *(copy.version, copy.timestamp, copy.importance, expires),
        *(-(2**63) if copy.step is None else copy.step, copy.content_kind, copy.created_us),
    )
    checksum = crc32(head, (copy.writer ^ copy.writer >> 32) & 0xFFFF_FFFF)
    for part in ("\0".join([copy.id, copy.agent_id, *texts]).encode(), copy.vector, copy.content):
        checksum = crc32(part, checksum)
    assert copy.checksum == checksum

    joined = "\0".join(texts).encode()
    numbers = struct.pack(
        "<IIQQdddqBBBxIII",
        *(checksum, copy.generation, copy.seq, copy.created_us, copy.timestamp, copy.importance, expires),
        *(copy.step or 0, copy.content_kind, copy.step is not None, bool(copy.content_hash)),
        *(len(copy.vector), len(joined), len(copy.content)),
    )
    prefix = f"1c{'sil'[copy.tier]}0{copy.version:016d}{copy.writer:016x}{'f' * 40}".encode()
    assert _redis_codec.encode_copy(copy, "f" * 40) == prefix + numbers + copy.vector + joined + copy.content


@given(options=OPTIONS, data=st.data())
def test_a_changed_byte_is_noticed_unless_scripts_may_change_it(options, data):
    copy = _copy.make_copy("agent", "what was said", **options)
    value = bytearray(_redis_codec.encode_copy(copy, "a" * 40))
    # State, tier, run_id, and of the numbers generation and seq may change; the hash's flag only says to compute it.
    free = {1, 2, 3, *range(36, 76), *range(80, 92), 134, 135}
    place = data.draw(st.integers(0, len(value) - 1).filter(lambda offset: offset not in free))
    value[place] ^= data.draw(st.integers(1, 255))
    try:
        decoded, _ = _redis_codec.decode_copy(bytes(value), copy.id, "agent")
    except CorruptMemoryError:
        return
    assert (
        decoded == copy
    )  # another spelling of the same number: a hexadecimal digit in capitals, a step that is not read


def test_a_copy_under_another_name_is_noticed():
    copy = _copy.make_copy("agent", "x", memory_id="m1", timestamp=0.0, created_us=1, writer=1, version=5)
    value = _redis_codec.encode_copy(copy)
    with pytest.raises(CorruptMemoryError):
        _redis_codec.decode_copy(value, "m2", "agent")
    with pytest.raises(CorruptMemoryError):
        _redis_codec.decode_copy(value[:100], "m1", "agent")
    with pytest.raises(CorruptMemoryError):
        _redis_codec.decode_copy(b"", "m1", "agent")


def test_a_tombstone_keeps_nothing_but_its_place():
    tombstone = _copy.tombstone_of("m1", "agent", 77, 5, seq=3, generation=2)
    value = _redis_codec.encode_copy(tombstone)
    assert len(value) == _redis_codec.HEADER_LENGTH
    decoded, header = _redis_codec.decode_copy(value, "m1", "agent")
    assert (decoded, header.state) == (tombstone, _redis_codec.TOMBSTONE)


def test_of_many_values_the_dirty_copies_are_decoded_with_their_orders():
    made = {"agent_id": "agent", "timestamp": 0.0, "created_us": 1, "writer": 0xAB}
    dirty = _copy.make_copy(content="x", memory_id="dirty", version=5, deduplicate=True, embedding=[1.0], **made)
    clean = _copy.make_copy(content="x", memory_id="clean", version=6, **made)
    tombstone = _copy.tombstone_of("gone", "agent", 7, 2**63 - 1)
    value = _redis_codec.encode_copy(dirty, dirty=True)
    values = [None, _redis_codec.encode_copy(tombstone), value, _redis_codec.encode_copy(clean), value[:-1], value]
    ids = ["absent", "gone", "dirty", "clean", "dirty", "another"]

    copies, orders, damaged = _redis_codec.decode_dirty_copies(values, ids, "agent")

    assert copies == [tombstone, dirty]
    assert isinstance(copies[0], _copy.Copy)
    assert copies[1].content_hash
    assert orders == "10000000000000007" + "7fffffffffffffff" + "00000000000000005" + "00000000000000ab"
    assert [redis_tier.order_text(copy.stamp) for copy in copies] == [orders[:33], orders[33:]]
    assert damaged == [4, 5]
    with pytest.raises(ValueError, match="values must be as many as ids, got 1 and 2"):
        _redis_codec.decode_dirty_copies([None], ["a", "b"], "agent")


def make(**changes):
    options = {"memory_id": "m", "timestamp": 0.0, "created_us": 1, "writer": 1} | changes
    return _copy.make_copy(options.pop("agent_id", "agent"), options.pop("content", "x"), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent_id": ""}, "agent_id must have 1..512 characters"),
        ({"agent_id": "a\0b"}, "agent_id must have 1..512 characters and no NUL"),
        ({"user_id": "u" * 513}, "user_id must have"),
        ({"importance": 1.01}, "importance must be in 0..1, got 1.01"),
        ({"importance": float("nan")}, "importance must be in 0..1, got nan"),
        ({"timestamp": float("inf")}, "timestamp_s must be finite, got inf"),
        ({"expires_at": float("nan")}, "expires_at must be finite"),
        ({"step": 2**63}, "step must be a whole number"),
        ({"step": True}, "step must be a whole number"),
        ({"version": 2**52}, "version must be in"),
        ({"embedding": []}, "embedding must have shape"),
        ({"embedding": [[1.0]]}, "embedding must have shape"),
        ({"embedding": [1.0, float("nan")]}, "embedding must be finite"),
        ({"content": {1, 2}}, "content must be JSON"),
        ({"content": [float("nan")]}, "content must be JSON"),
        ({"content": "\ud800"}, "content must have a UTF-8 encoding"),
        ({"user_id": "\ud800"}, "user_id must have a UTF-8 encoding"),
        ({"metadata": {"a": object()}}, "metadata must be JSON"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"agent_id": 7}, {"tags": "tag"}, {"tags": [1]}, {"namespace": "users"}, {"metadata": [1]}, {"metadata": {1: 2}}],
)
def test_arguments_of_a_wrong_type_are_refused(changes):
    with pytest.raises(TypeError):
        make(**changes)


def test_a_secret_content_is_in_no_message():
    with pytest.raises(ValueError, match="content") as caught:
        make(content={"password": "hunter2", "x": {1}})
    assert "hunter2" not in str(caught.value)


def test_large_elements_are_finite():
    assert _copy.entry_of(make(embedding=[3e38, -3e38])).embedding[0] == np.float32(3e38)


@given(st.lists(NAMES, max_size=4), st.lists(NAMES, max_size=4))
def test_a_prefix_of_labels_is_a_prefix_of_the_text(labels, others):
    text, other = _copy.encode_namespace(labels), _copy.encode_namespace(others)
    assert _copy.decode_namespace(text) == tuple(labels)
    assert other.startswith(text) == (others[: len(labels)] == labels)


def test_words_of_a_json_content_stand_in_their_order():
    copy = make(content={"a": "one", "b": ["two", {"c": "three"}, 4], "d": "four"})
    assert _copy.text_of(copy) == "one\ntwo\nthree\nfour"
    assert _copy.text_of(make(content=b"\xff")) is None
    assert _copy.text_of(make(content="as it is")) == "as it is"


def test_ids_sort_by_time_and_know_their_version():
    assert _copy.new_id(10) < _copy.new_id(11) < _copy.new_id(2**52 - 1)
    made = MemoryId("abc", 7, "redis")
    assert made == "abc"
    assert {made: 1}["abc"] == 1
    for twin in (pickle.loads(pickle.dumps(made)), copying.deepcopy(made)):
        assert (twin, twin.version, twin.durability) == ("abc", 7, "redis")
    assert json.dumps(made) == '"abc"'


def test_every_byte_of_the_writer_counts():
    written = _copy.make_copy("a", "x", memory_id="m", timestamp=0.0, created_us=0, writer=1, version=1)
    for bit in range(0, 63, 8):
        with pytest.raises(CorruptMemoryError):
            _copy.verify(written._replace(writer=written.writer ^ (1 << bit)), "the test")
