"""The records of the journal: a queued write as bytes, and back.

A record is one RESP array of words, packed and parsed by what packs and parses commands, so it costs as little:

    version, kind, flags, priority, queued_ms, reason, unknown_token, number of keys, keys …, parts …

- kind: "commands" (sent one after the other), "transaction" (as MULTI … EXEC) or "function" (registered by name).
- flags: letters: a (absolute), c (decides all of its one key), d (its outcome is unknown), x (dead letter), w (written ahead).
  u is not written: damage to the journal may have hidden that it was executed or changed.
- queued_ms: when it was queued, milliseconds since 1970: age is counted on from there by another process.
- reason: why it is a dead letter. unknown_token: the token for the resolver.
- parts: the commands, packed; or the function's name, the agent_id and the data as its `dumps` made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import hiredis

from agent_memory._core import pack_command
from agent_memory.policy import Priority

__all__ = ["Record", "decode", "encode", "words_of"]

_VERSION: Final = b"1"
_FIELDS: Final = 8


@dataclass(slots=True)
class Record:
    """A queued write as it is in the journal."""

    kind: str
    flags: str
    priority: Priority
    queued_ms: int
    reason: str
    unknown_token: bytes
    keys: tuple[bytes, ...]
    parts: tuple[bytes, ...]


def encode(record: Record) -> bytes:
    """The bytes of a record."""
    keys = record.keys
    return pack_command(
        (
            _VERSION,
            record.kind,
            record.flags,
            int(record.priority),
            record.queued_ms,
            record.reason,
            record.unknown_token,
            len(keys),
            *keys,
            *record.parts,
        )
    )


def decode(body: bytes) -> Record:
    """A record from its bytes. Raises ValueError if they are not one of this version."""
    words = words_of(body)
    if len(words) < _FIELDS or words[0] != _VERSION:
        raise ValueError("not a record of this version of the journal")
    kind, flags, priority, queued_ms, reason, unknown_token, count = words[1:_FIELDS]
    first_part = _FIELDS + int(count)
    return Record(
        kind.decode(),
        flags.decode(),
        Priority(int(priority)),
        int(queued_ms),
        reason.decode(),
        unknown_token,
        tuple(words[_FIELDS:first_part]),
        tuple(words[first_part:]),
    )


def words_of(packed: bytes) -> list[bytes]:
    """The words of a packed command. Raises ValueError if it is not exactly one."""
    reader = hiredis.Reader(protocolError=ValueError)
    reader.feed(packed)
    words = reader.gets()
    if not isinstance(words, list) or reader.has_data():
        raise ValueError("not one packed command")
    return words
