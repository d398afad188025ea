"""What the sync and the asyncio pipeline share: packing the commands, and making redis-py's results of the replies.

A pipeline is one guarded call that is as risky as its riskiest command. It leaves in windows of at most `MAX_WINDOW` commands
(a transaction in one piece); the next window is packed while the one before is under way, so memory stays bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import ExecAbortError, ReadOnlyError, ResponseError, WatchError

from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.policy import CommandCategory, FailureKind
from agent_memory.redis.commands.bound_command import Route
from agent_memory.redis.commands.callbacks import call_back, callback_named
from agent_memory.redis.commands.categories import READING_PIPELINE
from agent_memory.redis.commands.packing import pack_command, refused_words
from agent_memory.redis.error_outcomes import classify
from agent_memory.redis.redis_py_internals.replies import EMPTY_RESPONSE, NEVER_DECODE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent_memory.redis.commands.bound_command import BoundCommands

    Command = tuple[tuple[Any, ...], dict[str, Any]]
    """The arguments of a command and the options of its callback, as redis-py's pipelines collect them."""

__all__ = [
    "MAX_SHARED_TRANSACTION",
    "MAX_WINDOW",
    "PreparedPipeline",
    "pipeline_operation",
    "prepare_pipeline",
    "refusal_of",
    "pipeline_results",
]

MAX_WINDOW: Final = 1_000
"""Commands packed and sent at once by a pipeline."""
MAX_SHARED_TRANSACTION: Final = 4_000
"""Commands of a transaction that may travel with others; a longer one gets a connection of its own."""

_MULTI: Final = pack_command((b"MULTI",))
_EXEC: Final = pack_command((b"EXEC",))


class PreparedPipeline:
    """A pipeline ready for the shared connection: its command's name, its commands packed, which replies are bytes."""

    __slots__ = ("bound_commands", "commands", "operation", "packed", "raw", "transaction")

    def __init__(
        self,
        bound_commands: BoundCommands,
        commands: Sequence[Command],
        operation: str,
        packed: list[bytes],
        raw: frozenset[int],
        transaction: bool,
    ) -> None:
        self.bound_commands = bound_commands
        self.commands = commands
        self.operation = operation
        self.packed = packed
        self.raw = raw
        self.transaction = transaction

    def windows(self) -> Iterator[tuple[bytes, int]]:
        """Bytes to send and the number of replies they will get."""
        packed = self.packed
        if self.transaction:
            yield b"".join((_MULTI, *packed, _EXEC)), len(packed) + 2
            return
        for first in range(0, len(packed), MAX_WINDOW):
            window = packed[first : first + MAX_WINDOW]
            yield b"".join(window), len(window)


def prepare_pipeline(
    bound_commands: BoundCommands, commands: Sequence[Command], transaction: bool, *, always_shared: bool = False
) -> PreparedPipeline | None:
    """Pack the commands; None when one of them blocks or changes its connection, so that redis-py's own way must be gone.

    With `always_shared` a transaction may be long and hold blocking commands: between MULTI and EXEC they do not block.
    """
    if transaction and len(commands) > MAX_SHARED_TRANSACTION and not always_shared:
        return None
    packed: list[bytes] = []
    append = packed.append
    only_reads = True
    raw: list[int] = []
    for args, options in commands:
        command = bound_commands[args[0]]
        if not (command.pipelined or (always_shared and command.route is Route.BLOCKING)):
            return None
        if not command.only_reads:
            only_reads = False
        if transaction and EMPTY_RESPONSE in options:
            continue  # redis-py's transactions do not send it: its answer is known
        if NEVER_DECODE in options:
            raw.append(len(packed))
        head = command.head
        try:
            append(pack_command(args) if head is None else pack_command((*head, *args[1:])))
        except TypeError as error:
            raise refused_words(error) from None
    return PreparedPipeline(
        bound_commands, commands, READING_PIPELINE if only_reads else "PIPELINE", packed, frozenset(raw), transaction
    )


def pipeline_operation(bound_commands: BoundCommands, commands: Sequence[Any], watching: bool) -> str:
    """The operation a pipeline counts as: as risky as its riskiest command, so only one that reads may be sent again."""
    if not watching and all(bound_commands[command[0][0]].category is CommandCategory.READ for command in commands):
        return READING_PIPELINE
    return "PIPELINE"


def refusal_of(prepared: PreparedPipeline, replies: list[Any]) -> ReadOnlyError | None:
    """The READONLY of a server that was demoted, where it has run none of the pipeline's writes; else None.

    What the pipeline read besides may be read again, so such a pipeline may be sent again as a whole.
    """
    for reply in replies:
        if isinstance(reply, ReadOnlyError) and getattr(reply, "failure_kind", None) is FailureKind.REJECTED_REPLY:
            refusal = reply
            break
    else:
        return None
    if prepared.transaction:
        return refusal if isinstance(replies[-1], ExecAbortError) else None
    for (args, _), reply in zip(prepared.commands, replies, strict=True):
        refused = isinstance(reply, Exception) and classify(reply)[1] in (Outcome.NOT_SENT, Outcome.REJECTED)
        if not refused and not prepared.bound_commands[args[0]].only_reads:
            return None
    return refusal


def pipeline_results(
    pipeline: Any, callbacks: Any, prepared: PreparedPipeline, replies: list[Any], raise_on_error: bool
) -> list[Any]:
    """What `execute` returns or raises, made of the replies as redis-py makes it."""
    shape = _results_of_transaction if prepared.transaction else _results_of_pipeline
    return shape(pipeline, callbacks, prepared, replies, raise_on_error)


def _results_of_pipeline(
    pipeline: Any, callbacks: Any, prepared: PreparedPipeline, replies: list[Any], raise_on_error: bool
) -> list[Any]:
    """One result per command: its reply as redis-py shapes it, or its error."""
    shaped: list[Any] = []
    for (args, options), reply in zip(prepared.commands, replies, strict=True):
        if isinstance(reply, Exception):
            if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
                shaped.append(options[EMPTY_RESPONSE])
                continue
            _check_whole(replies, reply)
            if raise_on_error or not isinstance(reply, ResponseError):
                if isinstance(reply, ResponseError):
                    pipeline.annotate_exception(reply, len(shaped) + 1, args)
                raise reply
            shaped.append(reply)
            continue
        callback = callback_named(callbacks, args[0])
        shaped.append(reply if callback is None else call_back(callback, reply, options))
    return shaped


def _check_results(outcome: object) -> None:
    if not isinstance(outcome, list):
        raise RedisUnavailableError(f"protocol error: EXEC was answered with {type(outcome).__name__}, not an array")


def _check_whole(replies: list[Any], error: Exception) -> None:
    """A rejected command may be sent again, a pipeline of which other commands have run may not."""
    if not all(isinstance(reply, Exception) for reply in replies):
        error.failure_kind = None  # type: ignore[attr-defined]


def _results_of_transaction(
    pipeline: Any, callbacks: Any, prepared: PreparedPipeline, replies: list[Any], raise_on_error: bool
) -> list[Any]:
    """The results of a MULTI … EXEC whose replies are those of MULTI, of each command sent, and of EXEC."""
    commands = prepared.commands
    queued = iter(replies[1:-1])
    # Positions where the results of EXEC have a gap: a command that was refused, or that was not sent at all.
    gaps: list[tuple[int, Any]] = []
    if isinstance(replies[0], Exception):
        gaps.append((0, replies[0]))
    for index, (args, options) in enumerate(commands):
        if EMPTY_RESPONSE in options:
            gaps.append((index, options[EMPTY_RESPONSE]))
            continue
        reply = next(queued)
        if isinstance(reply, Exception):
            pipeline.annotate_exception(reply, index + 1, args)
            gaps.append((index, reply))
    outcome = replies[-1]
    if isinstance(outcome, Exception):
        if isinstance(outcome, ExecAbortError) and gaps:
            raise cast(Exception, gaps[0][1])
        raise outcome
    if outcome is None:
        raise WatchError("Watched variable changed.")
    _check_results(outcome)
    for index, gap in gaps:
        outcome.insert(index, gap)
    if len(outcome) != len(commands):
        raise ResponseError("Wrong number of response items from pipeline execution")
    for result in outcome:
        if isinstance(result, Exception):
            # The rest of the transaction has run: it must not be sent again, whatever this one command was answered.
            result.failure_kind = None  # type: ignore[attr-defined]
    if raise_on_error:
        pipeline.raise_first_error(commands, outcome)
    for index, (args, options) in enumerate(commands):
        callback = callback_named(callbacks, args[0])
        if callback is not None and not isinstance(outcome[index], Exception):
            outcome[index] = call_back(callback, outcome[index], options)
    return cast("list[Any]", outcome)
