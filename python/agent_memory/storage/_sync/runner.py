# Generated from ../_async/runner.py by tools/generate_sync.py: edit that file, not this one.

"""Runs an operation of a resilient client as one guarded call: admission, the result for the guard, what is repeated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from agent_memory._concurrency import settle
from agent_memory.errors import CircuitOpenError, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import CommandCategory
from agent_memory.redis._sync.retry import retry
from agent_memory.redis.error_outcomes import as_ours, describe
from agent_memory.storage.guarded_operations import GuardedOperation, GuardedOperations

if TYPE_CHECKING:
    from agent_memory._core import Guard

__all__ = ["OperationRunner", "log_error"]

logger: Final = logging.getLogger("agent_memory.storage")

_OURS: Final = (RedisUnavailableError, RedisTimeoutError)


class OperationRunner:
    """The guarded calls of one resilient client that are not the drop-in's own: of an injected client, and of subclasses.

    `ensure_probe` is called for a rejected call: then something asks the server whether it is back, where there is a probe.
    """

    def __init__(self, guard: Guard, client_name: str, endpoint: str, deadline_s: float) -> None:
        self._guard = guard
        self._operations = GuardedOperations(guard)
        self._client_name = client_name
        self._endpoint = endpoint
        self._deadline_s = deadline_s
        self.ensure_probe: Callable[[], object] = _no_probe
        self.explain: Callable[[Exception], Exception] = _as_it_is
        """Turns an error of the wrapped client into what it says; for injected clusters."""
        self.shared: Any = None
        """What the clients of the wrapped drop-in's pool share; None for an injected client."""

    def run(self, operation_name: str, operation: Callable[[], Any], *, repeat: bool = True) -> Any:
        """Runs `operation` as one guarded call, repeated as the guard says if `repeat` or if its name is that of a read."""
        guarded = self._operations[operation_name]
        try:
            permit = guarded.admit()
        except CircuitOpenError as error:
            self.note_error(operation_name, error)
            raise
        try:
            value = operation()
        except Exception as error:
            again = repeat or guarded.category is CommandCategory.READ
            return self._recover(guarded, operation, permit, error, self._deadline_s if again else 0.0)
        except BaseException:
            guarded.abandon(permit)
            raise
        guarded.success(permit)
        return value

    def _recover(
        self, guarded: GuardedOperation, operation: Callable[[], Any], permit: int, error: Exception, deadline_s: float
    ) -> Any:
        """The first attempt failed with `error`: repeats it as the guard says; returns a value or raises."""
        endpoint = self._endpoint

        def attempt(permit: int, timeout_s: float | None) -> Any:
            del permit, timeout_s  # the wrapped client's own timeouts bound it
            try:
                return settle(operation())
            except Exception as again:
                raise as_ours(self.explain(again), endpoint) from again

        try:
            failure = as_ours(self.explain(error), endpoint)
            return retry(guarded, attempt, permit, failure, deadline_s, shared=self.shared)
        except Exception as last:
            if isinstance(last, _OURS):
                describe(last, self._guard, guarded.name)
            self.note_error(guarded.name, last)
            raise

    def note_error(self, operation_name: str, error: Exception) -> None:
        """Looks at an error on its way to the caller: a rejection makes sure of the probe, a foreign error is logged."""
        if isinstance(error, CircuitOpenError):
            self.ensure_probe()
        elif not isinstance(error, _OURS):
            log_error(self._client_name, operation_name, error)


def _as_it_is(error: Exception) -> Exception:
    return error


def log_error(client_name: str, operation_name: str, error: Exception) -> None:
    """Logs an error that is neither the connection's nor a rejection."""
    # The text of an error may quote what was stored; its class, and the code a server's error begins with, do not.
    logger.error("%s: %s failed: %s", client_name, operation_name, _describe_without_values(error))


def _no_probe() -> None:
    """The server is not probed for this client."""


def _describe_without_values(error: Exception) -> str:
    name = type(error).__name__
    code = str(error).split(" ", 1)[0] if isinstance(error, ResponseError) else ""
    return f"{name} {code}" if code.isalpha() and code.isupper() else name
