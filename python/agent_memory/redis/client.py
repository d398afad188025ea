"""The synchronous drop-in client: redis-py's `Redis` with our transport below and a guard around every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self, cast

from redis.client import Pipeline as RedisPyPipeline
from redis.client import Redis as RedisPy
from redis.connection import ConnectionPool
from redis.exceptions import ResponseError

from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis import private
from agent_memory.redis._retry import retry
from agent_memory.redis.calls import (
    call_back,
    callback_of,
    deadline_of,
    describe,
    pack_command,
    pack_with_buffers,
    pipeline_operation,
    read_timeout_s,
)
from agent_memory.redis.outcomes import as_ours
from agent_memory.redis.plans import Plan, PlanTable, Route
from agent_memory.redis.transport.blocking import BlockingTransport, connect_failure, endpoint_of

if TYPE_CHECKING:
    from agent_memory._core import Guard

    Attempt = Callable[[int, float | None], Any]

__all__ = ["Pipeline", "Redis"]

_EMPTY_RESPONSE: Final = private.EMPTY_RESPONSE
_NEVER_DECODE: Final = private.NEVER_DECODE


class Redis(RedisPy):
    """redis-py's client on a transport of our own, with resilience built in.

    Takes every argument of `redis.Redis`, and by keyword:

    - `resilience`: the `ResiliencePolicy` (breaker, retries, budget, deadline, probe); None switches resilience off: one
      attempt, no admission. Default: `DEFAULT_RESILIENCE`.
    - `guard`: a `Guard` to share with other clients, instead of one made from `resilience`.

    redis-py's own retries are off unless `retry=` is given: each of them would multiply ours.

    Errors are redis-py's types (`RedisUnavailableError` is a `redis.ConnectionError`, …) and carry `.outcome`. Thread-safe
    and fork-safe as `redis.Redis` is.
    """

    def __init__(
        self,
        *args: Any,
        resilience: ResiliencePolicy | None = DEFAULT_RESILIENCE,
        guard: Guard | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("connection_pool") is None:
            kwargs.setdefault("retry", private.no_retries())
            if kwargs.get("maint_notifications_config") is None:
                kwargs["maint_notifications_config"] = private.no_maintenance_notifications()
        super().__init__(*args, **kwargs)
        self._resilience = resilience
        self._own_guard = guard is None and resilience is not None
        if guard is None and resilience is not None:
            guard = resilience.make_guard(kwargs.get("client_name") or "redis", self.endpoint)
        self._attach(guard)

    def _attach(self, guard: Guard | None) -> None:
        """Bind to the pool's transport and to the guard; the last step of construction."""
        pool = self.connection_pool
        arguments = pool.connection_kwargs
        self.guard = guard
        self._plans = PlanTable(guard)
        self._timeout_s: float | None = arguments.get("socket_timeout", private.DEFAULT_SOCKET_TIMEOUT)
        self._deadline_s = deadline_of(self._resilience, self._timeout_s)
        self._transport = transport_of(pool) if private.is_stock_pool(pool) else None
        self._asked_protocol = int(arguments.get("protocol") or 3)
        self._fallback_callbacks: dict[str, Callable[..., Any]] | None = None
        self._own_callbacks: dict[str, Callable[..., Any]] = {}

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> Self:
        """As `redis.Redis.from_url`; `resilience=` and `guard=` are taken too."""
        own = {name: kwargs.pop(name) for name in ("resilience", "guard") if name in kwargs}
        single = kwargs.pop("single_connection_client", False)
        kwargs.setdefault("retry", private.no_retries())
        if "maint_notifications_config" not in kwargs:
            kwargs["maint_notifications_config"] = private.no_maintenance_notifications()
        pool = ConnectionPool.from_url(url, **kwargs)
        client = cls(connection_pool=pool, single_connection_client=single, **own)
        client.auto_close_connection_pool = True
        return client

    def unguarded(self) -> Redis:
        """A view on the same transport that admits everything and tries once; for callers who guard by themselves."""
        view = Redis(connection_pool=self.connection_pool, resilience=None)
        view.response_callbacks = self.response_callbacks
        view._own_callbacks = self._own_callbacks
        return view

    # --- commands -------------------------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, guarded, and return its reply as redis-py would show it."""
        plan = self._plans[args[0]]
        transport = self._transport
        if transport is None or self.connection is not None:
            return self._execute_foreign(plan, args, options)
        head = plan.head
        try:
            packed = pack_command(args) if head is None else pack_command((*head, *args[1:]))
        except TypeError as error:
            packed = pack_with_buffers(args, head, error)
        if plan.route:
            return self._execute_leased(transport, plan, packed, args, options)
        raw = _NEVER_DECODE in options
        permit = plan.admit()
        try:
            reply = transport.call(packed, permit, raw)
        except Exception as error:
            reply = self._recover(transport, plan, packed, raw, permit, error)
        except BaseException:
            plan.abandon(permit)
            raise
        else:
            if isinstance(reply, Exception):
                if _EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
                    plan.answered_error(permit)
                    return options[_EMPTY_RESPONSE]
                reply = self._recover(transport, plan, packed, raw, permit, reply)
            else:
                plan.success(permit)
        if transport.protocol != self._asked_protocol:
            return self._finish_after_fallback(plan, reply, options)
        callback = callback_of(self.response_callbacks, plan.name)
        return reply if callback is None else call_back(callback, reply, options)

    def _recover(
        self, transport: BlockingTransport, plan: Plan, packed: bytes, raw: bool, permit: int, error: Exception
    ) -> Any:
        """The first attempt failed with `error`: retry as the guard says; returns a reply or raises."""

        def attempt(permit: int, timeout_s: float | None) -> Any:
            return transport.call_within(packed, permit, raw, timeout_s)

        return self._retry(plan, attempt, permit, error)

    def _retry(self, plan: Plan, attempt: Attempt, permit: int, error: Exception) -> Any:
        try:
            return retry(plan, attempt, permit, error, self._timeout_s, self._deadline_s)
        except Exception as last:
            describe(last, self.guard, plan.name)
            raise

    def _guarded(self, plan: Plan, attempt: Attempt) -> Any:
        """One guarded call of anything that takes a permit and a timeout and returns a reply."""
        permit = plan.admit()
        try:
            reply = attempt(permit, self._timeout_s)
        except Exception as error:
            return self._retry(plan, attempt, permit, error)
        except BaseException:
            plan.abandon(permit)
            raise
        if isinstance(reply, Exception):
            return self._retry(plan, attempt, permit, reply)
        plan.success(permit)
        return reply

    def _execute_leased(
        self, transport: BlockingTransport, plan: Plan, packed: bytes, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """A command that may block or that changes its connection: on a channel of its own."""
        timeout_s = read_timeout_s(plan, args, self._timeout_s)
        raw = _NEVER_DECODE in options
        keep = plan.route is not Route.STATE

        def attempt(permit: int, attempt_timeout_s: float | None) -> Any:
            del attempt_timeout_s  # a blocking command may take longer than an ordinary one
            return transport.call_within(packed, permit, raw, timeout_s, keep=keep)

        reply = self._guarded(plan, attempt)
        if transport.protocol != self._asked_protocol:
            return self._finish_after_fallback(plan, reply, options)
        callback = callback_of(self.response_callbacks, plan.name)
        return reply if callback is None else call_back(callback, reply, options)

    def _execute_foreign(self, plan: Plan, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """redis-py's own path, guarded: a pinned connection, or a pool that is not redis-py's own."""

        def attempt(permit: int, timeout_s: float | None) -> Any:
            del permit, timeout_s  # the connection's own timeouts bound it
            try:
                return RedisPy.execute_command(self, *args, **options)
            except Exception as error:
                raise as_ours(error, self.endpoint) from error

        return self._guarded(plan, attempt)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """A pipeline as redis-py's, guarded as one call that is as risky as its riskiest command."""
        return Pipeline(self, transaction, shard_hint)

    # --- replies --------------------------------------------------------------------------------------------------

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Set a custom response callback, also for the case that the server refuses RESP3."""
        super().set_response_callback(command, callback)
        self._own_callbacks[command.upper()] = callback
        self._fallback_callbacks = None

    def _finish_after_fallback(self, plan: Plan, reply: Any, options: dict[str, Any]) -> Any:
        """The server spoke RESP2 where RESP3 was asked for: RESP2's callbacks give the reply the shape that was asked for."""
        callbacks = self._fallback_callbacks
        if callbacks is None:
            arguments = self.connection_pool.connection_kwargs
            callbacks = private.callbacks_after_fallback(
                arguments.get("protocol"), arguments.get("legacy_responses", True)
            )
            callbacks.update(self._own_callbacks)
            self._fallback_callbacks = callbacks
        callback = callbacks.get(plan.name)
        return reply if callback is None else call_back(callback, reply, options)

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """host:port or socket path of the server."""
        return endpoint_of(self.connection_pool.connection_kwargs)

    def stats(self) -> dict[str, Any]:
        """The guard's figures: state of the circuit, calls, errors by kind, retries, rejections, latencies by operation."""
        return {} if self.guard is None else self.guard.stats()

    def close(self) -> None:
        """Close the connections of this client; those of a pool that was given to it stay open."""
        if getattr(self, "auto_close_connection_pool", False) and getattr(self, "_transport", None) is not None:
            cast(BlockingTransport, self._transport).close()
        super().close()


class Pipeline(RedisPyPipeline):
    """redis-py's pipeline; its execution is one guarded call.

    It is retried by itself only where nothing can have been executed, or where it only reads. With WATCH it is bound to its
    connection and never retried.
    """

    def __init__(self, client: Redis, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the collected commands; replies in their order."""
        commands, scripts = list(self.command_stack), set(self.scripts)
        if not commands and not self.watching:
            return []
        plan = self._client._plans[pipeline_operation(self._client._plans, commands, self.watching)]

        def attempt(permit: int, timeout_s: float | None) -> list[Any]:
            del permit, timeout_s  # the connection's own timeouts bound it
            # Executing empties the pipeline, also when it fails.
            self.command_stack, self.scripts = list(commands), set(scripts)
            self._lease()
            try:
                return RedisPyPipeline.execute(self, raise_on_error)
            except Exception as error:
                raise as_ours(error, self._client.endpoint) from error

        return cast("list[Any]", self._client._guarded(plan, attempt))

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """WATCH and what follows it until MULTI: sent at once on the pipeline's connection."""
        plan = self._client._plans[args[0]]

        def attempt(permit: int, timeout_s: float | None) -> Any:
            del permit, timeout_s
            self._lease()
            try:
                return RedisPyPipeline.immediate_execute_command(self, *args, **options)
            except Exception as error:
                raise as_ours(error, self._client.endpoint) from error

        return self._client._guarded(plan, attempt)

    def _lease(self) -> None:
        if self.connection is None:
            try:
                self.connection = self.connection_pool.get_connection()
            except Exception as error:
                failure = connect_failure(error, self._client.endpoint)
                if failure is error:
                    raise
                raise failure from error


def transport_of(pool: Any) -> BlockingTransport:
    """The one transport of a pool, shared by all clients of that pool."""
    transport = pool.__dict__.get("_agent_memory_transport")
    if transport is None:
        # setdefault is atomic: two threads may each make one, both use the same.
        transport = pool.__dict__.setdefault("_agent_memory_transport", BlockingTransport(pool))
    return cast(BlockingTransport, transport)
