"""A queued write as a record of the journal, and back."""

from __future__ import annotations

from collections.abc import Sequence

from agent_memory import _wall_clock
from agent_memory.policy import Priority
from agent_memory.recovery._async.queued_writes import (
    AsyncCommandWrite,
    AsyncFunctionWrite,
    AsyncInheritedCommandWrite,
    shape_of,
)
from agent_memory.recovery.functions import RegisteredFunction
from agent_memory.recovery.records import Record, encode, words_of

__all__ = ["commands_of", "record_of"]


def record_of(
    write: AsyncCommandWrite | AsyncFunctionWrite,
    keys: Sequence[bytes],
    priority: Priority,
    *,
    queued_ms: int | None = None,
    coalesce: bool = False,
    ahead: bool = False,
    reason: str = "",
    registered: RegisteredFunction | None = None,
    unknown_token: bytes | None = None,
) -> bytes:
    """The bytes of a write's record; `unknown_token` resolves it should its process die (None: the write's own)."""
    unknown_token = write.unknown_token if unknown_token is None else unknown_token
    flags = "c" * coalesce + "w" * ahead + "d" * (unknown_token is not None) + "x" * bool(reason)
    if isinstance(write, AsyncCommandWrite):
        kind = "transaction" if write.shape.is_transaction else "commands"
        flags += "a" * write.shape.is_absolute
        parts = tuple(write.packed)
    else:
        assert registered is not None
        kind = "function"
        parts = (
            registered.name.encode(),
            write.agent_id.encode("utf-8", "surrogatepass"),
            registered.encoded(write.state),
        )
    now_ms = _wall_clock.now_ns() // 1_000_000 if queued_ms is None else queued_ms
    return encode(Record(kind, flags, priority, now_ms, reason, unknown_token or b"", tuple(keys), parts))


def commands_of(record: Record) -> AsyncCommandWrite:
    """The commands that a record holds."""
    names = tuple(words_of(command)[0].decode("ascii", "replace").upper() for command in record.parts)
    is_pipeline, is_transaction = len(record.parts) > 1, record.kind == "transaction"
    packed = record.parts[0] if len(record.parts) == 1 else record.parts
    commands = AsyncInheritedCommandWrite(packed, shape_of(names, "a" in record.flags, is_pipeline, is_transaction))
    if "d" in record.flags:
        commands.unknown_token = record.unknown_token
    return commands
