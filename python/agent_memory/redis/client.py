"""The synchronous drop-in client: redis-py's `Redis` with our transport below and a guard around every call."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack, cast, overload

from redis.connection import ConnectionPool
from redis.exceptions import ResponseError

from agent_memory import _check
from agent_memory._core import BlockingCalls, ClassWatch
from agent_memory.errors import CircuitOpenError
from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis._sync.guarded import GuardedCalls
from agent_memory.redis._sync.monitor import Monitor
from agent_memory.redis._sync.pipeline import Pipeline
from agent_memory.redis._sync.pubsub import PubSub
from agent_memory.redis._typing import ReplyT, TypedCommands
from agent_memory.redis.cache import refuse_cache
from agent_memory.redis.client_arguments import check_client, check_guarding, check_named, own_arguments
from agent_memory.redis.commands.callbacks import call_back, callback_of, note_applied
from agent_memory.redis.commands.direct import add_direct_commands
from agent_memory.redis.commands.packing import pack_command, refused_words
from agent_memory.redis.default_policy import policy_of
from agent_memory.redis.originals import RedisPy
from agent_memory.redis.redis_py_internals.codec import use_codec
from agent_memory.redis.redis_py_internals.credentials import on_renewal, register_for_renewal
from agent_memory.redis.redis_py_internals.patches import OwnFunction
from agent_memory.redis.redis_py_internals.pools import guard_connections, is_stock_pool, mark_unsent, on_disconnect
from agent_memory.redis.redis_py_internals.replies import EMPTY_RESPONSE, NEVER_DECODE
from agent_memory.redis.redis_py_internals.settings import fill_arguments, pool_from_url
from agent_memory.redis.transport.blocking.transport import BlockingTransport

if TYPE_CHECKING:
    from agent_memory._core import Guard
    from agent_memory.redis._typing import RedisOptions
    from agent_memory.redis.commands.bound_command import BoundCommand
    from agent_memory.redis.exactly_once.settings import ExactlyOnce

__all__ = ["Monitor", "Pipeline", "PubSub", "Redis"]

STOCK_READING: Final = ClassWatch([(None, "parse_response", OwnFunction(RedisPy, "parse_response"))])
STOCK_CALLING: Final = ClassWatch([(RedisPy, "execute_command", OwnFunction(RedisPy, "execute_command"))])


class Redis(GuardedCalls, BlockingCalls, TypedCommands[ReplyT], RedisPy):  # type: ignore[misc]  # the same commands, typed more exactly
    """redis-py's client on a transport of our own, with resilience built in.

    Takes every argument of `redis.Redis`, and by keyword:

    - `resilience`: the `ResiliencePolicy` (breaker, retries, budget, deadline, probe); None switches resilience off: one
      attempt, no admission. Default: `DEFAULT_RESILIENCE`, or what `install()` was given.
    - `guard`: a `Guard` to share with other clients, instead of one made from `resilience`. Clients of one pool with equal
      `resilience` and name share one by themselves; with `circuit_scope="endpoint"` those of one server do.
    - `exactly_once` (False): True, or an `ExactlyOnce` with settings: writes whose answer was lost are resolved, and sent again
      only where they were not executed; `agent_memory.redis.exactly_once` says what that means. ValueError where the pool is
      not redis-py's own, is already in use without it, or `single_connection_client` is set.

    redis-py's `retry=` and `retry_on_error=`, of the client or of its pool, take the place of the policy's retries: they decide
    how often, how soon and after which errors, the guard still decides what is safe to repeat. Without them redis-py's own
    retries are off.

    Raises TypeError or ValueError for an argument that is unknown, outside its rule, or that a given pool would win over.

    Errors are redis-py's types (`RedisUnavailableError` is a `redis.ConnectionError`, …) and carry `.outcome`. Thread-safe
    and fork-safe as `redis.Redis` is.
    """

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: Redis[bytes],
            host: str = ...,
            port: int = ...,
            db: str | int = ...,
            password: str | None = ...,
            socket_timeout: float | None = ...,
            *,
            decode_responses: Literal[False] = ...,
            **options: Unpack[RedisOptions],
        ) -> None: ...

        @overload
        def __init__(
            self: Redis[str],
            host: str = ...,
            port: int = ...,
            db: str | int = ...,
            password: str | None = ...,
            socket_timeout: float | None = ...,
            *,
            decode_responses: Literal[True],
            **options: Unpack[RedisOptions],
        ) -> None: ...

        @overload
        def __init__(
            self: Redis[Any],
            host: str = ...,
            port: int = ...,
            db: str | int = ...,
            password: str | None = ...,
            socket_timeout: float | None = ...,
            *,
            decode_responses: bool = ...,
            **options: Unpack[RedisOptions],
        ) -> None: ...

    def __init__(
        self,
        *args: Any,
        resilience: ResiliencePolicy | None = DEFAULT_RESILIENCE,
        guard: Guard | None = None,
        exactly_once: bool | ExactlyOnce = False,
        **kwargs: Any,
    ) -> None:
        check_guarding(resilience, guard, exactly_once)
        refuse_cache(kwargs.get("cache"), "the synchronous client")
        resilience = policy_of(resilience)
        given = check_client(RedisPy, args, kwargs, asynchronous=False)
        pool = given.get("connection_pool")
        if pool is not None:
            guard_connections(pool)
        else:
            fill_arguments(kwargs, given, asynchronous=False)
        super().__init__(*args, **kwargs)
        guard_connections(self.connection_pool)
        if self.connection is not None:
            use_codec(self.connection)
        register_for_renewal(self, given=pool is not None, asynchronous=False)
        self._bind(resilience, guard, str(given.get("client_name") or "redis"), exactly_once)
        if pool is not None:
            self._own_retry = {name: given[name] for name in ("retry", "retry_on_error") if given.get(name) is not None}
        # A subclass that overrides parse_response must see every reply: only redis-py's own path calls it.
        stock = is_stock_pool(self.connection_pool) and type(self).parse_response is RedisPy.parse_response
        self._transport = transport_of(self.connection_pool) if stock else None
        if not stock:
            mark_unsent(self.connection_pool)
        self._foreign = self._transport is None
        self._direct_commands = self.bound_commands.direct
        self._stock_reading, self._stock_calling = STOCK_READING, STOCK_CALLING
        if self._once is not None and (self._transport is None or self.connection is not None):
            raise ValueError("exactly_once must be off for connections that are redis-py's to use, got a pool of them")

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> Self:
        """As `redis.Redis.from_url`; `resilience=`, `guard=` and `exactly_once=` are taken too."""
        own = own_arguments(kwargs)
        _check.url(url)
        check_guarding(**own)
        refuse_cache(kwargs.get("cache"), "the synchronous client")
        check_named(kwargs, asynchronous=False)
        single = kwargs.pop("single_connection_client", False)
        pool = pool_from_url(ConnectionPool, url, kwargs, asynchronous=False)
        client = cls(connection_pool=pool, single_connection_client=single, **own)
        client.auto_close_connection_pool = True
        return client

    def unguarded(self) -> Redis:
        """A view on the same transport that admits everything and tries once; for callers who guard by themselves."""
        view = self._view_of(self.connection_pool)
        view.response_callbacks = self.response_callbacks
        view._own_callbacks = self._own_callbacks
        return view

    @staticmethod
    def _view_of(pool: Any) -> Redis:
        view = Redis(connection_pool=pool, resilience=None)
        view.leave_retries_to_policy()
        return view

    # --- commands -------------------------------------------------------------------------------------------------

    def _execute_ordinarily(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """One command from its beginning, where the fast path of `execute_command` is not free."""
        command = self.bound_commands[args[0]]
        transport = self._transport
        if transport is None or self.connection is not None or self._reads_itself():
            return self._execute_foreign(command, args, options)
        head = command.head
        try:
            packed = pack_command(args) if head is None else pack_command((*head, *args[1:]))
        except TypeError as error:
            raise refused_words(error) from None
        if (command.route and len(args) > command.plain) or self._takes_slow_path:
            return self._execute_leased(transport, command, packed, args, options)
        raw = NEVER_DECODE in options
        try:
            permit = command.admit()
        except CircuitOpenError:
            self._note_rejection()
            raise
        try:
            reply = transport.call(packed, permit, raw, self._deadline_s)
        except Exception as error:
            reply = self._recover(transport, command, packed, raw, permit, error)
        except BaseException:
            command.abandon(permit)
            raise
        else:
            if isinstance(reply, Exception):
                if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
                    command.answered_error(permit)
                    return options[EMPTY_RESPONSE]
                reply = self._recover(transport, command, packed, raw, permit, reply)
            else:
                command.success(permit)
        return self._shape_direct(transport, command, reply, options)

    # What `BlockingCalls` hands over to.

    def _recover_direct(
        self,
        transport: BlockingTransport,
        command: BoundCommand,
        args: tuple[Any, ...],
        options: dict[str, Any],
        permit: int,
        error: Exception,
    ) -> Any:
        """It was admitted and sent, and ended with `error`."""
        head = command.head
        packed = pack_command(args) if head is None else pack_command((*head, *args[1:]))
        reply = self._recover(transport, command, packed, False, permit, error)
        return self._shape_direct(transport, command, reply, options)

    def _shape_direct(
        self, transport: BlockingTransport, command: BoundCommand, reply: Any, options: dict[str, Any]
    ) -> Any:
        """The reply as redis-py would show it."""
        callbacks = self.response_callbacks
        if transport.protocol != self._asked_protocol:
            callbacks = self.callbacks_for(transport.protocol)
        callback = callback_of(callbacks, command.name)
        return reply if callback is None else call_back(callback, reply, options)

    _call_back = staticmethod(call_back)
    _note_applied = staticmethod(note_applied)

    # What has been put in the place of redis-py's `execute_command`: our own stands inside of it.

    def _execute_patched(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return RedisPy.execute_command(self, *args, **options)

    def _execute_command(self, *args: Any, **options: Any) -> Any:
        """Where redis-py's `execute_command` leads to."""
        if self._transport is None or self.connection is not None or self._reads_itself():
            return cast(Any, super())._execute_command(*args, **options)
        return self._execute_within(args, options)

    def _transports_now(self) -> list[Any]:
        return [] if self._transport is None else [self._transport]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """A pipeline as redis-py's, guarded as one call that is as risky as its riskiest command."""
        return Pipeline(self, transaction, shard_hint)

    def pubsub(self, **kwargs: Any) -> PubSub:
        """A subscriber as redis-py's that reconnects by itself; `PubSub` says what it takes beyond redis-py's arguments."""
        return PubSub(self, event_dispatcher=self._event_dispatcher, **kwargs)

    def monitor(self) -> Monitor:
        """What the server runs, line by line, as redis-py's `monitor()`."""
        return Monitor(self)

    def transport_here(self) -> BlockingTransport | None:
        """The transport; None when commands travel redis-py's own way."""
        return None if self.connection is not None else self._transport

    def close(self) -> None:
        """Close the connections of this client; those of a pool that was given to it stay open."""
        if getattr(self, "auto_close_connection_pool", False):
            prober = getattr(self, "_prober", None)
            if prober is not None:
                prober.stop(0)
            if hasattr(self, "_shared"):
                self._shared.end()
            if getattr(self, "_transport", None) is not None:
                cast(BlockingTransport, self._transport).close()
        super().close()


add_direct_commands(Redis, RedisPy, asynchronous=False)


def transport_of(pool: Any) -> BlockingTransport:
    """The one transport of a pool, shared by all clients of that pool."""
    transport = pool.__dict__.get("_agent_memory_transport")
    if transport is None:
        made = BlockingTransport(pool)
        # setdefault is atomic: two threads may each make one, both use the same.
        transport = pool.__dict__.setdefault("_agent_memory_transport", made)
        if transport is made:
            on_disconnect(pool, made.close)
            weakref.finalize(pool, made.close).atexit = False
            on_renewal(pool, made.renew, asynchronous=False)
    return cast(BlockingTransport, transport)
