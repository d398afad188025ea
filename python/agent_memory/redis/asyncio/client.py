"""The asyncio drop-in client: redis.asyncio's `Redis` with our transport below and a guard around every call."""

from __future__ import annotations

import asyncio
import weakref
from asyncio import get_running_loop
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack, cast, overload

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ResponseError

from agent_memory import _check
from agent_memory._concurrency import AsyncEvent
from agent_memory._core import CacheView, ClassWatch, DirectCalls
from agent_memory.errors import CircuitOpenError
from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis._async.guarded import AsyncGuardedCalls
from agent_memory.redis._async.monitor import Monitor
from agent_memory.redis._async.pipeline import Pipeline
from agent_memory.redis._async.pubsub import PubSub
from agent_memory.redis._typing import AsyncTypedCommands, ReplyT
from agent_memory.redis.cache import CACHEABLE, Cache, CacheHandle, cache_of, check_cache
from agent_memory.redis.client_arguments import check_client, check_guarding, check_named, own_arguments
from agent_memory.redis.commands.callbacks import call_back, callback_of, note_applied
from agent_memory.redis.commands.direct import add_direct_commands
from agent_memory.redis.commands.packing import pack_command, refused_words
from agent_memory.redis.default_policy import policy_of
from agent_memory.redis.originals import AsyncRedisPy as RedisPy
from agent_memory.redis.pool_state import pool_state_of
from agent_memory.redis.redis_py_internals.credentials import on_renewal, register_for_renewal
from agent_memory.redis.redis_py_internals.patches import STANDING_IN, OwnFunction, StandIn
from agent_memory.redis.redis_py_internals.pools import (
    guard_connections,
    is_stock_async_pool,
    mark_unsent,
    on_disconnect,
)
from agent_memory.redis.redis_py_internals.replies import EMPTY_RESPONSE, NEVER_DECODE
from agent_memory.redis.redis_py_internals.settings import fill_arguments, hide_arguments, pool_from_url
from agent_memory.redis.transport.multiplexed.transport import MultiplexedTransport

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable

    from agent_memory._core import Guard
    from agent_memory.redis._typing import AsyncRedisOptions
    from agent_memory.redis.commands.bound_command import BoundCommand
    from agent_memory.redis.exactly_once.settings import ExactlyOnce

__all__ = ["Monitor", "Pipeline", "PubSub", "Redis"]

STOCK_READING: Final = ClassWatch([(None, "parse_response", OwnFunction(RedisPy, "parse_response"))])
STOCK_CALLING: Final = ClassWatch([(RedisPy, "execute_command", OwnFunction(RedisPy, "execute_command"))])


class Redis(AsyncGuardedCalls, DirectCalls, AsyncTypedCommands[ReplyT], RedisPy):  # type: ignore[misc]  # the same commands, typed more exactly
    """redis.asyncio's client on a shared connection with implicit pipelining, with resilience built in.

    Takes every argument of `redis.asyncio.Redis`, and by keyword:

    - `resilience`: the `ResiliencePolicy` (breaker, retries, budget, deadline, probe); None switches resilience off: one
      attempt, no admission. Default: `DEFAULT_RESILIENCE`, or what `install()` was given.
    - `guard`: a `Guard` to share with other clients, instead of one made from `resilience`. Clients of one pool with equal
      `resilience` and name share one by themselves; with `circuit_scope="endpoint"` those of one server do.
    - `exactly_once` (False): True, or an `ExactlyOnce` with settings: writes whose answer was lost are resolved, and sent again
      only where they were not executed; `agent_memory.redis.exactly_once` says what that means. ValueError where the pool is
      not redis-py's own, is already in use without it, or `single_connection_client` is set.

    - `cache` (None): a `Cache` with the settings of client-side caching: reads of what has not changed are served without
      asking the server, and are never older than its `max_staleness_s`; `docs/how-to/client-side-cache.md`. ValueError where
      the pool is not redis-py's own, or is already in use without it.

    redis-py's `retry=` and `retry_on_error=`, of the client or of its pool, take the place of the policy's retries: they decide
    how often, how soon and after which errors, the guard still decides what is safe to repeat. Without them redis-py's own
    retries are off.

    Raises TypeError or ValueError for an argument that is unknown, outside its rule, or that a given pool would win over.

    May be used from several event loops, also in several threads: each loop has its own connection. Any number of tasks may
    share one client. A call that is cancelled before it was sent is not sent; afterwards its reply is dropped, and the other
    calls on the connection go on.
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
            cache: Cache | None = ...,
            decode_responses: Literal[False] = ...,
            **options: Unpack[AsyncRedisOptions],
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
            cache: Cache | None = ...,
            decode_responses: Literal[True],
            **options: Unpack[AsyncRedisOptions],
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
            cache: Cache | None = ...,
            decode_responses: bool = ...,
            **options: Unpack[AsyncRedisOptions],
        ) -> None: ...

    def __init__(
        self,
        *args: Any,
        resilience: ResiliencePolicy | None = DEFAULT_RESILIENCE,
        guard: Guard | None = None,
        exactly_once: bool | ExactlyOnce = False,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> None:
        check_guarding(resilience, guard, exactly_once)
        check_cache(cache)
        resilience = policy_of(resilience)
        given = check_client(RedisPy, args, kwargs, asynchronous=True)
        has_pool = given.get("connection_pool") is not None
        if not has_pool:
            fill_arguments(kwargs, given, asynchronous=True)
        super().__init__(*args, **kwargs)
        guard_connections(self.connection_pool)
        register_for_renewal(self, given=has_pool, asynchronous=True)
        self._bind(resilience, guard, str(given.get("client_name") or "redis"), exactly_once)
        if has_pool:
            self._own_retry = {name: given[name] for name in ("retry", "retry_on_error") if given.get(name) is not None}
        # A subclass that overrides parse_response expects every reply: only redis-py's own path calls it.
        stock = is_stock_async_pool(self.connection_pool) and type(self).parse_response is RedisPy.parse_response
        if not stock:
            mark_unsent(self.connection_pool)
        self._foreign = bool(self.single_connection_client) or not stock
        if self._foreign and self._once is not None:
            raise ValueError("exactly_once must be off for connections that are redis-py's to use, got a pool of them")
        self._transports: TransportsByLoop = transports_of(self.connection_pool)
        self._direct_commands = self.bound_commands.direct
        self._stock_reading, self._stock_calling = STOCK_READING, STOCK_CALLING
        self._resilience = resilience
        self._bind_cache(cache)
        if not self._foreign:
            self._transports.be_patient(self._deadline_s)

    def _bind_cache(self, settings: Cache | None) -> None:
        if self._foreign and settings is not None:
            raise ValueError("cache must be None for connections that are redis-py's to use, got a pool of them")
        cache = None if self._foreign else cache_of(self.connection_pool, settings)
        self._pool_cache = cache
        if cache is not None:
            for name in CACHEABLE:  # the extension asks the cache about the commands that it knows
                self.bound_commands[name]
            # A client without the cache has own writes, too.
            self._cache_view = CacheView(cache.core, 0.0 if settings is None else settings.ttl_s)

    @property
    def cache(self) -> CacheHandle | None:
        """What is cached for this client's pool: `peek()`, `clear()`, `stats()`; None without `cache=`."""
        return None if self._pool_cache is None else self._pool_cache.handle

    def cached(self, *, ttl_s: float) -> Redis[ReplyT]:
        """A view on this client that is served only what was asked for less than `ttl_s` seconds ago; 0: asks the server.

        What it asks for is cached for `ttl_s`, for other views, too. It shares connection, guard and cache with the client and
        need not be closed. Raises ValueError for a client without `cache=`, and for a `ttl_s` that is not >= 0.
        """
        _check.at_least("ttl_s", ttl_s, 0)
        cache = self._pool_cache
        if cache is None:
            raise ValueError(f"ttl_s must be asked of a client with cache=, got {ttl_s!r} for one without")
        made: Redis[Any] = Redis(connection_pool=self.connection_pool, resilience=self._resilience, guard=self.guard)
        made._cache_view = CacheView(cache.core, ttl_s)
        made._prober, made._endpoint_probe = self._prober, self._endpoint_probe
        made._own_retry, made._uses_given_retry = self._own_retry, self._uses_given_retry
        made.response_callbacks, made._own_callbacks = self.response_callbacks, self._own_callbacks
        return made

    def stats(self) -> dict[str, Any]:
        """The guard's figures; with `exactly_once` and `cache` also theirs, under these names."""
        figures = super().stats()
        if self._pool_cache is not None:
            figures["cache"] = self._pool_cache.handle.stats()
        return figures

    @classmethod
    def from_url(cls, url: str, single_connection_client: bool = False, **kwargs: Any) -> Self:  # type: ignore[override]
        """As `redis.asyncio.Redis.from_url`; `resilience=`, `guard=`, `exactly_once=` and `cache=` are taken too."""
        own, cache = own_arguments(kwargs), kwargs.pop("cache", None)
        _check.url(url)
        check_guarding(**own)
        check_cache(cache)
        check_named(kwargs, asynchronous=True)
        pool = pool_from_url(ConnectionPool, url, kwargs, asynchronous=True)
        hide_arguments(pool)
        client = cls(connection_pool=pool, single_connection_client=single_connection_client, cache=cache, **own)
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

    async def _execute_ordinarily(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """One command from its beginning, where the fast path of `execute_command` is not free."""
        command = self.bound_commands[args[0]]
        if self._foreign or self._pinned is not None or self._reads_itself():
            return await self._execute_foreign(command, args, options)
        head = command.head
        try:
            packed = pack_command(args) if head is None else pack_command((*head, *args[1:]))
        except TypeError as error:
            raise refused_words(error) from None
        try:
            transport = self._transports[get_running_loop()]
        except KeyError:
            transport = self._transports.open()
        if (command.route and len(args) > command.plain) or self._takes_slow_path:
            return await self._execute_leased(transport, command, packed, args, options)
        raw = NEVER_DECODE in options
        try:
            permit = command.admit()
        except CircuitOpenError:
            self._note_rejection()
            raise
        future = transport.send(packed, raw)
        try:
            if future is None:
                reply = await transport.call_in_turn(packed, raw, self._deadline_s)
            else:
                reply = await future
        except Exception as error:
            reply = await self._recover(transport, command, packed, raw, permit, error)
        except BaseException:
            transport.forget(future)
            command.abandon(permit)
            raise
        else:
            if isinstance(reply, Exception):
                if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
                    command.answered_error(permit)
                    return options[EMPTY_RESPONSE]
                reply = await self._recover(transport, command, packed, raw, permit, reply)
            else:
                command.success(permit)
        return await self._shape_direct(transport, command, reply, options)

    # What `DirectCalls` hands over to.

    async def _recover_direct(
        self,
        transport: MultiplexedTransport,
        command: BoundCommand,
        args: tuple[Any, ...],
        options: dict[str, Any],
        permit: int,
        error: Exception,
    ) -> Any:
        """It was admitted and sent, and ended with `error`."""
        head = command.head
        packed = pack_command(args) if head is None else pack_command((*head, *args[1:]))
        reply = await self._recover(transport, command, packed, False, permit, error)
        return await self._shape_direct(transport, command, reply, options)

    async def _shape_direct(
        self, transport: MultiplexedTransport, command: BoundCommand, reply: Any, options: dict[str, Any]
    ) -> Any:
        """The reply as redis-py would show it."""
        callbacks = self.response_callbacks
        if transport.protocol != self._asked_protocol:
            callbacks = self.callbacks_for(transport.protocol)
        callback = callback_of(callbacks, command.name)
        if callback is None:
            return reply
        shaped = call_back(callback, reply, options)
        return await shaped if hasattr(shaped, "__await__") else shaped

    _call_back = staticmethod(call_back)
    _note_applied = staticmethod(note_applied)

    @staticmethod
    async def _await(shaped: Awaitable[Any]) -> Any:
        return await shaped

    # What has been put in the place of redis-py's `execute_command`: our own stands inside of it.

    async def _execute_patched(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        token = STANDING_IN.set(StandIn(self, self._execute_within))
        try:
            return await RedisPy.execute_command(self, *args, **options)
        finally:
            STANDING_IN.reset(token)

    if not TYPE_CHECKING:  # redis-py's attribute

        @property
        def connection(self) -> Any:
            """As in redis-py: the client's own connection with `single_connection_client=True`, else None."""
            standing_in = STANDING_IN.get()
            if standing_in is not None and standing_in.owner is self:
                return standing_in
            return DirectCalls.connection.__get__(self)

        @connection.setter
        def connection(self, connection: Any) -> None:
            DirectCalls.connection.__set__(self, connection)

        @connection.deleter
        def connection(self) -> None:
            DirectCalls.connection.__delete__(self)

    async def _send_command_parse_response(self, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        if isinstance(conn, StandIn):
            return await conn.run(args, options)
        return await cast(Any, super())._send_command_parse_response(conn, command_name, *args, **options)

    def _transports_now(self) -> list[Any]:
        return list(self._transports.copy().values())

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """A pipeline as redis-py's, guarded as one call that is as risky as its riskiest command."""
        return Pipeline(self, transaction, shard_hint)

    def pubsub(self, **kwargs: Any) -> PubSub:
        """A subscriber as redis-py's that reconnects by itself; `PubSub` says what it takes beyond redis-py's arguments."""
        return PubSub(self, event_dispatcher=self._event_dispatcher, **kwargs)

    def monitor(self) -> Monitor:
        """What the server runs, line by line, as redis-py's `monitor()`."""
        return Monitor(self)

    def transport_here(self) -> MultiplexedTransport | None:
        """The transport of the running event loop; None when commands travel redis-py's own way."""
        if self._foreign or self._pinned is not None:
            return None
        return self._transports.get(get_running_loop()) or self._transports.open()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections of this client in every loop; those of a pool that was given to it stay open."""
        if close_connection_pool or (close_connection_pool is None and self.auto_close_connection_pool):
            if self._prober is not None:
                await self._prober.stop(0)
            await self._transports.aclose()
        await super().aclose(close_connection_pool)


add_direct_commands(Redis, RedisPy, asynchronous=True)

CLOSING_TURNS: Final = 10
"""Turns of the loop that closing gives connections which are being opened to end."""


class TransportsByLoop(dict[Any, MultiplexedTransport]):
    """The transports of one pool, one for each running event loop; bounded by dropping those of loops that have closed."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self._pool = weakref.ref(pool)
        self._shared = pool_state_of(pool, AsyncEvent)
        # The loops hold the connections: without this those of a pool that is dropped would stay open.
        weakref.finalize(pool, _close_dropped, self).atexit = False
        self._patience_s = 0.0
        self.share_turns = False
        """Whether calls go to other servers as well, as those of a cluster do; see `MultiplexedTransport.shares_turn`."""

    def be_patient(self, deadline_s: float) -> None:
        """A client of this pool gives its calls `deadline_s`: as long as bytes move, commands are waited for as long."""
        if deadline_s > self._patience_s:
            self._patience_s = deadline_s
            for transport in self.copy().values():
                transport.patience_s = deadline_s

    def open(self) -> MultiplexedTransport:
        """The transport of the running loop, made now."""
        for loop in [loop for loop in self.copy() if loop.is_closed()]:
            ended = self.pop(loop, None)
            if ended is not None and ended.tracking is not None:
                ended.tracking.drop()
        pool = self._pool()
        assert pool is not None  # its client asks
        transport = self.setdefault(get_running_loop(), MultiplexedTransport(pool))
        transport.patience_s = max(self._patience_s, transport.patience_s)
        transport.shares_turn = self.share_turns
        return transport

    def close(self) -> None:
        """Close all transports: here if this is their loop, else by asking their loop."""
        self._shared.end()
        transports = self.copy()
        for loop, transport in transports.items():
            self.pop(loop, None)
            transport.dismissed = True
        _close_all(transports, in_use=True)

    async def aclose(self) -> None:
        """`close()`, and the turns of this loop in which it closes the sockets."""
        transport = self.get(get_running_loop())
        self.close()
        for _ in range(CLOSING_TURNS):
            await asyncio.sleep(0)
            if transport is None or not transport.opening:
                break
        await asyncio.sleep(0)

    def disconnect(self, in_use: bool) -> None:
        """Close their connections, also those with calls under way if `in_use`; the next call connects anew."""
        if in_use:
            self._shared.close()
        _close_all(self.copy(), in_use=in_use)

    def renew(self, authentication: bytes) -> None:
        """Authenticate anew, in-stream, with the packed AUTH; from any thread."""
        _in_their_loops(self.copy(), lambda transport: transport.renew(authentication))


def _close_all(transports: dict[Any, MultiplexedTransport], *, in_use: bool) -> None:
    _in_their_loops(transports, lambda transport: transport.close(in_use))


def _close_dropped(transports: TransportsByLoop) -> None:
    """Their pool was collected, by whichever thread and in the midst of whatever it did: each loop closes its own, later."""
    for loop, transport in transports.items():
        transport.dismissed = True
        try:
            loop.call_soon_threadsafe(transport.close)
        except RuntimeError:
            pass  # it is closed, and its sockets with it


def _in_their_loops(transports: dict[Any, MultiplexedTransport], act: Callable[[MultiplexedTransport], None]) -> None:
    """Call `act` for each transport: here if this is its loop, else by asking its loop."""
    try:
        here: AbstractEventLoop | None = get_running_loop()
    except RuntimeError:
        here = None
    for loop, transport in transports.items():
        if loop is here:
            act(transport)
        elif not loop.is_closed():
            try:
                loop.call_soon_threadsafe(act, transport)
            except RuntimeError:
                pass  # it was closed at this moment


def transports_of(pool: Any) -> TransportsByLoop:
    """The transports of a pool, shared by all clients of that pool."""
    transports = pool.__dict__.get("_agent_memory_transports")
    if transports is None:
        made = TransportsByLoop(pool)
        transports = pool.__dict__.setdefault("_agent_memory_transports", made)
        if transports is made:
            on_disconnect(pool, made.disconnect)
            on_renewal(pool, made.renew, asynchronous=True)
    return cast(TransportsByLoop, transports)
