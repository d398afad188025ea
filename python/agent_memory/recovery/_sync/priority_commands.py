# Generated from ../_async/priority_commands.py by tools/generate_sync.py: edit that file, not this one.

"""`client.with_priority(…)`: write commands that do not raise when the server is away, but say what became of them.

What a failure leads to is the same as for `store_with_retry`; what is repeated is the command itself, so it can be kept in the
journal, coalesced, and sent with others in one piece. Rules are in docs/recovery.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

from redis.commands import CoreCommands, RedisModuleCommands

from agent_memory import _wall_clock
from agent_memory._concurrency import settle, sleep
from agent_memory.errors import Outcome, RecoveryJournalError
from agent_memory.policy import Priority, exponential_backoff
from agent_memory.recovery._sync.queued_writes import CommandWrite, Shape, StoreResult, is_outage, shape_of
from agent_memory.recovery.results import StoreStatus
from agent_memory.redis._sync.guarded import GuardedCalls
from agent_memory.redis.commands.keys import (
    KNOWN_NAMES,
    check_queueable,
    is_absolute,
    keys_of,
    name_of,
    overwrites,
    with_absolute_expiry,
)
from agent_memory.redis.commands.packing import pack_command, refused_words
from agent_memory.redis.error_outcomes import classify

if TYPE_CHECKING:
    from agent_memory.recovery._sync.recovery import Recovery
    from agent_memory.redis.exactly_once.tickets import Ticket
    from agent_memory.storage._sync.client import ResilientRedisClient

    Command = tuple[tuple[Any, ...], dict[str, Any]]

__all__ = ["PriorityCommands", "PriorityPipeline", "write_of"]

_TOLD: Final = {
    (priority, status): f"a {priority.name} write {status}" for priority in Priority for status in StoreStatus
}
_NOT_SENT_YET: Final = (Outcome.NOT_SENT, Outcome.REJECTED)


class PriorityCommands(CoreCommands, RedisModuleCommands):
    """Every write command of redis-py, with a priority; each gives an `StoreResult` in place of the reply.

    None raises for a server that cannot be reached; what the server answers (WRONGTYPE, …) is raised. Raises ValueError for
    what is not a write of keys. As safe to share as the client.
    """

    # What redis-py's command classes want of a client and have no use for here; and what its own bases disagree on.
    _event_dispatcher: Any = None
    command_info: Any = CoreCommands.command_info

    def __init__(self, client: ResilientRedisClient, priority: Priority) -> None:
        self._client = client
        self._priority = priority

    def execute_command(self, *args: Any, **options: Any) -> StoreResult:
        """One command; its result's `value` is the reply."""
        return _Store(self._client, self._priority, [(args, options)]).run()

    def pipeline(self, transaction: bool = True) -> PriorityPipeline:
        """Several commands as one write: in order, together, as MULTI … EXEC if `transaction`."""
        return PriorityPipeline(self._client, self._priority, transaction)

    def hset_dict(self, name: Any, mapping: Mapping[Any, Any]) -> StoreResult:
        """HSET of several fields."""
        fields = [word for pair in mapping.items() for word in pair]
        return self.execute_command("HSET", name, *fields)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._priority.name} of {self._client!r}>"


class PriorityPipeline(CoreCommands, RedisModuleCommands):
    """Commands that are collected, and stored by `execute()` as one write with a priority. Not to be shared."""

    _event_dispatcher: Any = None
    command_info: Any = CoreCommands.command_info

    def __init__(self, client: ResilientRedisClient, priority: Priority, transaction: bool) -> None:
        self._client = client
        self._priority = priority
        self._transaction = transaction
        self._commands: list[Command] = []

    def execute_command(self, *args: Any, **options: Any) -> Self:
        """Collects a command. Raises ValueError for what is not a write of keys."""
        check_queueable(name_of(args[0] if args else ""))
        self._commands.append((args, options))
        return self

    def __len__(self) -> int:
        return len(self._commands)

    def execute(self) -> StoreResult:
        """Stores what was collected; the result's `value` is the list of replies. The pipeline is empty afterwards."""
        commands, self._commands = self._commands, []
        store = _Store(self._client, self._priority, commands, is_pipeline=True, is_transaction=self._transaction)
        return store.run()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands = []


class _Store:
    """One write with a priority: an attempt, perhaps more, and what becomes of it when they fail."""

    def __init__(
        self,
        client: ResilientRedisClient,
        priority: Priority,
        commands: Sequence[Command],
        *,
        is_pipeline: bool = False,
        is_transaction: bool = False,
    ) -> None:
        for args, _ in commands:
            check_queueable(name_of(args[0] if args else ""))
        self._client = client
        self._recovery: Recovery = client.recovery
        self._priority = priority
        self._commands = commands
        self._is_pipeline = is_pipeline
        self._is_transaction = is_transaction
        self._called_ms = _wall_clock.now_ns() // 1_000_000
        self._keys = [key for args, _ in commands for key in keys_of(args)]
        self._write: CommandWrite | None = None

    def run(self) -> StoreResult:
        """Stores, queues, drops or fails; raises what the server answered."""
        result = StoreResult()
        if not self._commands:
            result.status, result.value = StoreStatus.STORED, []
            return result
        with self._recovery.turns(self._keys):
            joins = self._recovery.are_queued(self._keys)
            if not joins and self._try_now(result):
                return result
            result = self._defer(result)
        if joins and self._client.state == "closed":
            # Only these keys' backlog is in the way: wait for it as long as a call may take.
            result.wait(self._client._deadline_s)
        return result

    def _try_now(self, result: StoreResult) -> bool:
        """Attempts at once; returns whether there is nothing left to do."""
        client, recovery = self._client, self._recovery
        critical = self._priority is Priority.CRITICAL
        if client.state == "open" and not critical:
            client._note_rejection()  # it would be rejected: an exception says no more
            return False
        try:
            if recovery.writes_ahead and not self._keeps_attempts:
                write = self._prepared()
                recovery.keep(write, self._keys, self._priority, coalesce=self._coalesces(), ahead=True)
            return self._try(result, critical)
        except RecoveryJournalError as error:
            client._note_unkept(self._priority, error)
            result.error = error
            return True

    @property
    def _keeps_attempts(self) -> bool:
        """Whether each attempt is written ahead, with what will resolve it."""
        resolves = self._recovery.writes_ahead and self._recovery.resolves
        return resolves and isinstance(self._client._commands, GuardedCalls)

    def _keep_attempt(self, ticket: Ticket | None) -> None:
        self._recovery.keep_attempt(self._prepared(), self._keys, self._priority, ticket, coalesce=self._coalesces())

    def _try(self, result: StoreResult, critical: bool) -> bool:
        client = self._client
        for attempt in range(1 + (client.critical_retry_attempts if critical else 0)):
            if attempt:
                sleep(exponential_backoff(attempt - 1, client.retry_base_delay, client.retry_max_delay))
            if self._attempt(result):
                return True
            if result.error is not None and classify(result.error)[1] is Outcome.APPLIED:
                result._settle(StoreStatus.STORED)  # only its answer is lost
                self._forget()
                return True
            if self._is_in_doubt(result) and not self._prepared().shape.is_absolute:
                break
        return False

    def _attempt(self, result: StoreResult) -> bool:
        try:
            result.value = self._send()
        except Exception as error:
            result.error = error
            if is_outage(error):
                return False
            self._forget()
            raise
        except BaseException:
            self._leave_to_worker()
            raise
        result.error = None
        result._settle(StoreStatus.STORED)
        self._forget()
        return True

    def _send(self) -> Any:
        commands: Any = self._client._commands
        if not self._is_pipeline:
            ((args, options),) = self._commands
            if self._keeps_attempts:
                return commands.execute_kept(args, options, self._keep_attempt)
            return settle(commands.execute_command(*args, **options))
        pipeline = commands.pipeline(transaction=self._is_transaction)
        if self._keeps_attempts:
            pipeline.keep = self._keep_attempt
        for args, options in self._commands:
            pipeline.execute_command(*args, **options)
        return settle(pipeline.execute())

    def _defer(self, result: StoreResult) -> StoreResult:
        """What becomes of a write that could not be stored now."""
        client, recovery = self._client, self._recovery
        if self._priority is Priority.LOW:
            self._prepared()  # what cannot be packed is refused, whether the server is up or away
            self._forget()
            result._settle(StoreStatus.DROPPED)
        else:
            write = self._prepared()
            write.result.error = result.error
            if result.error is not None and self._is_in_doubt(result):
                write.doubt_by(result.error)
            if not write.shape.is_absolute and write.doubt is not None and not recovery.resolves:
                recovery.put_unknown(write, self._keys, self._priority)
            else:
                recovery.put_commands(write, self._keys, self._priority, coalesce=self._coalesces())
            result = write.result
        client._warnings.add(_TOLD[self._priority, result.status])
        return result

    def _is_in_doubt(self, result: StoreResult) -> bool:
        return result.error is not None and classify(result.error)[1] not in _NOT_SENT_YET

    def _coalesces(self) -> bool:
        return len(self._commands) == 1 and overwrites(self._commands[0][0])

    def _prepared(self) -> CommandWrite:
        """The write as it is queued: packed, with the moment of expiry in the place of a duration."""
        if self._write is None:
            if len(self._commands) == 1:
                # The common case, without the lists and the loops of the other.
                ((args, options),) = self._commands
                self._write = _single(args, options, self._called_ms, self._is_pipeline, self._is_transaction)
                return self._write
            absolutes = [with_absolute_expiry(args, self._called_ms) for args, _ in self._commands]
            names = tuple(name_of(args[0]) for args, _ in self._commands)
            shape = shape_of(names, all(map(is_absolute, absolutes)), self._is_pipeline, self._is_transaction)
            several = tuple(options for _, options in self._commands)
            self._write = CommandWrite(tuple(map(_packed, absolutes)), _with_options(shape, several))
        return self._write

    def _forget(self) -> None:
        if self._write is not None:
            self._recovery.forget(self._write)

    def _leave_to_worker(self) -> None:
        """The caller went away; what was written ahead may have been executed, and stays promised."""
        write = self._write
        if write is not None and write.record is not None:
            write.doubt = b"" if write.ticket is None else write.ticket.token
            self._recovery.push(write, self._keys, self._priority, write.size_bytes, self._coalesces())


def write_of(args: tuple[Any, ...], called_ms: int) -> CommandWrite:
    """A plain command as it is queued; `called_ms` is when it was called, milliseconds since 1970."""
    return _single(args, {}, called_ms, False, False)


def _single(
    args: tuple[Any, ...], options: dict[str, Any], called_ms: int, is_pipeline: bool, is_transaction: bool
) -> CommandWrite:
    absolute = with_absolute_expiry(args, called_ms)
    shape = shape_of((name_of(args[0]),), is_absolute(absolute), is_pipeline, is_transaction)
    return CommandWrite(_packed(absolute), _with_options(shape, (options,)))


def _with_options(shape: Shape, options: tuple[dict[str, Any], ...]) -> Shape:
    return shape._replace(options=options) if any(options) else shape


@lru_cache(maxsize=KNOWN_NAMES)
def _head(name: str) -> tuple[bytes, ...]:
    return tuple(word.encode() for word in name.split())


def _packed(args: tuple[Any, ...]) -> bytes:
    head = _head(name_of(args[0]))
    try:
        return pack_command((*head, *args[1:]))
    except TypeError as error:
        raise refused_words(error) from None
