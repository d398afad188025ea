"""The value of a memory's key in Redis: a fixed prefix that scripts read, then everything else.

    offset  length
    0       1       format, "1"
    1       1       state: "c" clean, "d" dirty, "t" tombstone
    2       1       tier: "s", "i", "l"
    3       1       "0"
    4       16      version, decimal digits
    20      16      writer, hexadecimal digits
    36      40      the server's run_id when the copy was put
    76      72      checksum u32, generation u32, seq u64, created u64 (us), timestamp f64, importance f64,
                    expires f64 (nan: never), step i64, content kind u8, has step u8, has hash u8, 0, and the lengths in
                    bytes of vector, texts and content, u32 each; all little endian
    148             vector (float32), texts (joined by NUL), content

The prefix is text of fixed width: a script compares versions as strings and changes a state with SETRANGE. State, tier, run_id,
seq and generation may change without a new version and are not covered by the checksum; everything else is. A tombstone ends
at offset 148.
"""

from __future__ import annotations

import math
import struct
from typing import Final, NamedTuple

from agent_memory.memory.entries import Copy, hash_of, verify
from agent_memory.memory.errors import CorruptMemoryError

__all__ = [
    "CLEAN",
    "DIRTY",
    "FORMAT_OFFSET",
    "HEADER_LENGTH",
    "NO_RUN_ID",
    "PREFIX_LENGTH",
    "RUN_ID_LENGTH",
    "RUN_ID_OFFSET",
    "STATE_OFFSET",
    "TIER_OFFSET",
    "TOMBSTONE",
    "VERSION_LENGTH",
    "VERSION_OFFSET",
    "WRITER_LENGTH",
    "WRITER_OFFSET",
    "RedisHeader",
    "decode_copy",
    "encode_copy",
    "read_header",
]

FORMAT: Final = b"1"
FORMAT_OFFSET: Final = 0
STATE_OFFSET: Final = 1
TIER_OFFSET: Final = 2
VERSION_OFFSET: Final = 4
VERSION_LENGTH: Final = 16
WRITER_OFFSET: Final = 20
WRITER_LENGTH: Final = 16
RUN_ID_OFFSET: Final = 36
RUN_ID_LENGTH: Final = 40
PREFIX_LENGTH: Final = 76
HEADER_LENGTH: Final = 148

CLEAN: Final = "c"
DIRTY: Final = "d"
TOMBSTONE: Final = "t"
NO_RUN_ID: Final = "0" * RUN_ID_LENGTH

_TIERS: Final = "sil"
_NUMBERS: Final = struct.Struct("<IIQQdddqBBBxIII")
_NAN: Final = math.nan
assert PREFIX_LENGTH + _NUMBERS.size == HEADER_LENGTH


class RedisHeader(NamedTuple):
    """What the prefix of a value says."""

    state: str
    tier: int
    version: int
    writer: int
    run_id: str


def encode_copy(copy: Copy, run_id: str = NO_RUN_ID, *, dirty: bool = False) -> bytes:
    """The value of a copy. `run_id` has 40 characters. A tombstone stays one whether dirty or not."""
    state = TOMBSTONE if copy.deleted else DIRTY if dirty else CLEAN
    texts = (
        b""
        if copy.deleted
        else "\0".join(
            (
                copy.memory_type,
                copy.namespace,
                copy.user_id,
                copy.session_id,
                copy.key,
                copy.idempotency_key,
                copy.tags,
                copy.metadata,
            )
        ).encode()
    )
    prefix = f"1{state}{_TIERS[copy.tier]}0{copy.version:016d}{copy.writer:016x}{run_id}".encode()
    if len(prefix) != PREFIX_LENGTH:
        raise ValueError(f"run_id must have {RUN_ID_LENGTH} characters, got {len(run_id)}")
    numbers = _NUMBERS.pack(
        copy.checksum,
        copy.generation,
        copy.seq,
        copy.created_us,
        copy.timestamp,
        copy.importance,
        _NAN if copy.expires_at is None else copy.expires_at,
        0 if copy.step is None else copy.step,
        copy.content_kind,
        copy.step is not None,
        bool(copy.content_hash),
        len(copy.vector),
        len(texts),
        len(copy.content),
    )
    return b"".join((prefix, numbers, copy.vector, texts, copy.content))


def read_header(value: bytes) -> RedisHeader:
    """The prefix alone; raises ValueError for a value that is none of ours."""
    if len(value) < HEADER_LENGTH or value[:1] != FORMAT:
        raise ValueError(f"the value must be of format {FORMAT.decode()}, got {value[:1]!r} and {len(value)} bytes")
    return RedisHeader(
        value[1:2].decode("latin-1"),
        _TIERS.index(value[2:3].decode("latin-1")),
        int(value[4:20]),
        int(value[20:36], 16),
        value[36:76].decode("latin-1"),
    )


def decode_copy(value: bytes, memory_id: str, agent_id: str) -> tuple[Copy, RedisHeader]:
    """The copy in a value, and its prefix; raises CorruptMemoryError where anything does not fit."""
    try:
        header = read_header(value)
        copy = _decode(value, header, memory_id, agent_id)
    except (ValueError, IndexError, struct.error):
        raise CorruptMemoryError(memory_id, "Redis") from None
    return verify(copy, "Redis"), header


def _decode(value: bytes, header: RedisHeader, memory_id: str, agent_id: str) -> Copy:
    (
        checksum,
        generation,
        seq,
        created_us,
        timestamp,
        importance,
        expires_at,
        step,
        content_kind,
        has_step,
        has_hash,
        vector_length,
        texts_length,
        content_length,
    ) = _NUMBERS.unpack_from(value, PREFIX_LENGTH)
    if header.state == TOMBSTONE:
        return Copy(memory_id, agent_id, header.version, header.writer, 1, seq=seq, generation=generation)
    texts_start = HEADER_LENGTH + vector_length
    content_start = texts_start + texts_length
    if content_start + content_length != len(value):
        raise ValueError("the lengths do not add up")
    memory_type, namespace, user_id, session_id, key, idempotency_key, tags, metadata = (
        value[texts_start:content_start].decode().split("\0")
    )
    content = value[content_start:]
    return Copy(
        memory_id,
        agent_id,
        header.version,
        header.writer,
        0,
        header.tier,
        created_us,
        timestamp,
        step if has_step else None,
        importance,
        memory_type,
        namespace,
        user_id,
        session_id,
        key,
        idempotency_key,
        None if math.isnan(expires_at) else expires_at,
        tags,
        metadata,
        content_kind,
        content,
        checksum,
        hash_of(namespace, user_id, content_kind, content) if has_hash else b"",
        value[HEADER_LENGTH:texts_start],
        seq,
        generation,
    )
