# Generated from ../_async/guarded.py by tools/generate_sync.py: edit that file, not this one.

"""What a drop-in client does around its hot path: admission, retries, leased connections, callbacks, the probe.

The hot path itself (`execute_command`) is written by hand in both clients, because the two transports are different machines;
everything that only awaits and decides is here, once.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from redis.exceptions import ReadOnlyError, ResponseError

from agent_memory import _check
from agent_memory._concurrency import ASYNC, Event
from agent_memory._core import monotonic_ns
from agent_memory._face import is_documented
from agent_memory.errors import CircuitOpenError, ConnectionStateError, Outcome, RedisUnavailableError
from agent_memory.policy import CommandCategory, FailureKind
from agent_memory.redis._sync.probe import DEFAULT_INTERVAL_S, Prober
from agent_memory.redis._sync.retry import Settle, retry, retry_as_given
from agent_memory.redis.commands.bound_command import BoundCommand, BoundCommands, Route
from agent_memory.redis.commands.callbacks import call_back, callback_of
from agent_memory.redis.commands.categories import SELECT_WARNING
from agent_memory.redis.commands.deadlines import deadline_of, read_timeout_s
from agent_memory.redis.commands.packing import barriers_of, is_unknown_command, pack_command, refused_words
from agent_memory.redis.endpoint_guards import ENDPOINT_GUARDS
from agent_memory.redis.error_outcomes import as_ours, classify, describe, is_full
from agent_memory.redis.exactly_once.mode import mode_of
from agent_memory.redis.exactly_once.settings import settings_of
from agent_memory.redis.exactly_once.tickets import NextStep, adopt
from agent_memory.redis.originals import RedisPy
from agent_memory.redis.pool_state import pool_state_of
from agent_memory.redis.redis_py_internals.leases import connect_pinned, disconnect_idle
from agent_memory.redis.redis_py_internals.replies import EMPTY_RESPONSE, NEVER_DECODE, callbacks_after_fallback
from agent_memory.redis.redis_py_internals.retries import given_retry
from agent_memory.redis.redis_py_internals.settings import DEFAULT_SOCKET_TIMEOUT
from agent_memory.redis.transport.common import endpoint_of
from agent_memory.redis.transport.failures import connect_failure

if TYPE_CHECKING:
    from agent_memory._core import Guard
    from agent_memory.policy.resilience import ResiliencePolicy
    from agent_memory.redis.cache import PoolCache
    from agent_memory.redis.endpoint_guards import EndpointProbe
    from agent_memory.redis.exactly_once.settings import ExactlyOnce
    from agent_memory.redis.exactly_once.tickets import Stream, Ticket

__all__ = ["GuardedCalls"]

Attempt = Callable[[int, float | None], Any]
"""One attempt at a call: given its permit and the seconds it may take, returns the reply, an error reply as a value.

That is what is left of the call; how long a connection may be silent meanwhile is the transport's to know.
"""

Keep = Callable[["Ticket | None"], None]
"""Keeps what a later process needs to know of an attempt before it is sent; None where nothing will tell what became of it."""

T = TypeVar("T")

_NOTHING: Final = object()
_INTERNAL: Final = frozenset(
    """
    bound_commands callbacks_for execute_kept given_retry guarded keeps_subscribers leave_retries_to_policy ordering_queue
    ping_afresh see_to settler subscribers_reconnect transport_here unguarded
    """.split()
)
"""What the package's own modules use of a client, beside names that begin with an underscore."""
_NOT_RUN: Final = (FailureKind.REJECTED_REPLY, Outcome.REJECTED)


class GuardedCalls:
    """The part of a drop-in client that guards; mixed into a subclass of redis-py's client."""

    connection_pool: Any
    response_callbacks: Any
    execute_command: Any
    _pool_cache: PoolCache | None = None
    """The client-side cache of the pool; None without one."""
    """The client's own hot path."""
    subscribers_reconnect = False
    """Whether subscribers reconnect also where the pool was given to the client: set by a client that made both."""

    def _bind(
        self,
        resilience: ResiliencePolicy | None,
        guard: Guard | None,
        name: str,
        exactly_once: bool | ExactlyOnce = False,
    ) -> None:
        """Bind to a guard (made of `resilience` where none is given); the last step of construction before the transport."""
        arguments = self.connection_pool.connection_kwargs
        self._timeout_s: float | None = arguments.get("socket_timeout", DEFAULT_SOCKET_TIMEOUT)
        self._deadline_s = deadline_of(resilience, self._timeout_s)
        deadline_s = None if resilience is None else resilience.retry.deadline_s
        self._given_deadline_s = inf if deadline_s is None else deadline_s
        self._hurried = deadline_s is not None and (self._timeout_s is None or deadline_s < 2.0 * self._timeout_s)
        """Whether the first attempt, too, may need less time than the transport would give it by itself."""
        self._ordering: Callable[[], Any] | None = None
        """Gives what keeps plain writes behind queued ones (a client's recovery queue), while that lives."""
        self._takes_slow_path = self._hurried
        """Whether commands leave the fast path: they are in a hurry, or writes have to be ordered behind queued ones."""
        self._first_timeout_s = None if self._timeout_s is None and not self._hurried else self._deadline_s
        self._asked_protocol = int(arguments.get("protocol") or 3)
        self._fallback_callbacks: dict[str, Callable[..., Any]] | None = None
        self._own_callbacks: dict[str, Callable[..., Any]] = {}
        self._shared = pool_state_of(self.connection_pool, Event)
        self._own_retry: dict[str, Any] = {}
        """`retry` and `retry_on_error` where they were given beside a pool."""
        self._uses_given_retry = True
        self._prober: Prober | None = None
        self._endpoint_probe: EndpointProbe | None = None
        shared = None
        if guard is None and resilience is not None and resilience.circuit_scope == "endpoint":
            shared = ENDPOINT_GUARDS.guard_of(self.connection_pool, name, resilience, self.endpoint)
        if shared is not None:
            guard, self._endpoint_probe = shared
        elif guard is None and resilience is not None:
            ping = _ping_of(weakref.ref(self.connection_pool), self._view_of)
            interval_s = DEFAULT_INTERVAL_S if resilience.probe_interval_s is None else resilience.probe_interval_s
            guard, self._prober = self._shared.guard_of(
                name, resilience, self.endpoint, lambda made: Prober(made, ping, interval_s=interval_s, name=name)
            )
        self.guard = guard
        if guard is not None:
            self._shared.reachability.name = guard.name
        self._once = mode_of(self.connection_pool, settings_of(exactly_once), self.endpoint)
        self.bound_commands = BoundCommands(guard, None if resilience is None else resilience.categories, self._once)

    # --- calls ----------------------------------------------------------------------------------------------------

    def guarded(self, command: BoundCommand, attempt: Attempt, settle: Settle | None = None) -> Any:
        """One guarded call of anything that takes a permit and a timeout and returns a reply."""
        try:
            permit = command.admit()
        except CircuitOpenError:
            self._note_rejection()
            raise
        try:
            reply = attempt(permit, self._first_timeout_s)
        except Exception as error:
            return self._retry(command, attempt, permit, error, settle)
        except BaseException:
            command.abandon(permit)
            raise
        if isinstance(reply, Exception):
            return self._retry(command, attempt, permit, reply, settle)
        command.success(permit)
        return reply

    def _reads_itself(self) -> bool:
        """Whether something has been put in the place of redis-py's `parse_response`, in the class or in this client."""
        mine: Any = self
        return not mine._stock_reading.is_met_by(self) or "parse_response" in self.__dict__

    def _note_rejection(self) -> None:
        """The circuit is open: makes sure that something probes, which may have ended with its thread or with a fork."""
        if self._prober is not None:
            self._prober.ensure_running(again=True)
        if self._endpoint_probe is not None:
            self._endpoint_probe.ensure_running()

    def _retry(
        self,
        command: BoundCommand,
        attempt: Attempt,
        permit: int,
        error: Exception,
        settle: Settle | None = None,
    ) -> Any:
        """The first attempt failed with `error`: retry as the guard says; returns a reply or raises."""
        if is_full(error):
            attempt = self._spare_server(attempt, error)
        attempt = self._leaving_demoted(attempt)
        if isinstance(error, ReadOnlyError):
            self._leave_demoted()
            if self.guard is None and classify(error) == _NOT_RUN:
                # Without retries, too, it goes once to where the name leads now.
                reply = self._once_more(attempt, permit)
                if not isinstance(reply, Exception):
                    return reply
                error = reply
        given = self.given_retry()
        try:
            if given is not None:
                bounds = (self._deadline_s, self._given_deadline_s)
                return retry_as_given(given, command, attempt, permit, error, bounds, settle, self._shared)
            return retry(command, attempt, permit, error, self._deadline_s, settle, self._shared)
        except Exception as last:
            describe(last, self.guard, command.name)
            raise

    def given_retry(self) -> Any:
        """redis-py's `Retry` that was given to this client or its pool, in the place of the policy's; None without one."""
        if not self._uses_given_retry or self.transport_here() is None:
            return None  # redis-py's own way: its connections have it
        return given_retry(self.connection_pool, self._own_retry)

    def leave_retries_to_policy(self) -> None:
        """redis-py's `retry` of the pool is not for this view: its owner has a retry policy of its own."""
        self._uses_given_retry = False

    def _spare_server(self, attempt: Attempt, error: Exception) -> Attempt:
        """`attempt` that blames no server for having no room for another connection, while one is held that calls go over."""

        def look_at(error: Exception) -> None:
            transport = self.transport_here()
            if is_full(error) and transport is not None and transport.is_connected:
                error.failure_kind = FailureKind.REJECTED_REPLY  # type: ignore[attr-defined]

        def attempt_beside_others(permit: int, timeout_s: float | None) -> Any:
            try:
                return attempt(permit, timeout_s)
            except Exception as again:
                look_at(again)
                raise

        look_at(error)
        return attempt_beside_others

    def _once_more(self, attempt: Attempt, permit: int) -> Any:
        """The reply of one more attempt in what is left of the call's time, or its error as a value."""
        left_s = max(0.001, self._deadline_s - (monotonic_ns() - permit) / 1e9)
        try:
            return attempt(permit, None if self._first_timeout_s is None else left_s)
        except Exception as error:
            return error

    def _leaving_demoted(self, attempt: Attempt) -> Attempt:
        """`attempt` that stays with no server which says READONLY: it is no longer the master."""

        def attempt_at_master(permit: int, timeout_s: float | None) -> Any:
            try:
                reply = attempt(permit, timeout_s)
            except ReadOnlyError:  # a pipeline raises it
                self._leave_demoted()
                raise
            if isinstance(reply, ReadOnlyError):
                self._leave_demoted()
            return reply

        return attempt_at_master

    def _leave_demoted(self) -> None:
        """Close the connections to a server that says READONLY, so that the next attempt resolves the name anew.

        Not where they have just been closed for that, nor those of a pool that asks sentinels for a replica.
        """
        transport = self.transport_here()
        wants_replica = getattr(self.connection_pool, "is_master", True) is False
        if not wants_replica and (transport is None or transport.retire_demoted()):
            disconnect_idle(self)

    def _recover(
        self, transport: Any, command: BoundCommand, packed: bytes, raw: bool, permit: int, error: Exception
    ) -> Any:
        """The same for a command that travels with others."""

        def attempt(permit: int, timeout_s: float | None) -> Any:
            return transport.call_within(packed, permit, raw, timeout_s)

        return self._retry(command, attempt, permit, error, self.settler(transport, command))

    def settler(self, transport: Any, command: BoundCommand) -> Settle | None:
        """What finds out what became of a lost write; None without exactly once, and for what does not write."""
        once = transport.once
        if once is None or command.category not in (CommandCategory.ABSOLUTE_WRITE, CommandCategory.RELATIVE_WRITE):
            return None
        category = command.category

        def settle(error: Exception, left_s: float) -> tuple[NextStep, Any]:
            return cast("tuple[NextStep, Any]", once.settle(error, category, left_s))

        return settle

    def resolve_records(self, records: list[dict[str, Any]], timeout_s: float) -> list[Outcome]:
        """What became of the writes of a process that has ended, by `records`; asks for `timeout_s` seconds.

        `records` are the `Ticket.record()`s that it left.

        Its connections are fenced as this client's own are, so nothing of them can be executed afterwards. An outcome is
        UNKNOWN where nothing tells. Ask for all records of a connection at once: its markers are deleted afterwards.
        Raises ValueError without exactly once or for a wrong `timeout_s`, TypeError for what is no list, and what the
        connection raises.
        """
        _check.instance("records", records, list)
        _check.at_least("timeout_s", timeout_s, 0)
        transport = self.transport_here()
        if transport is None or transport.once is None:
            raise ValueError(
                "exactly_once must be on to resolve the records of another process, got a client without it"
            )
        outcomes = []
        deadline_ns = monotonic_ns() + int(timeout_s * 1e9)
        streams, tickets = adopt(records)
        self.see_to(streams)
        for ticket in tickets:
            lost = RedisUnavailableError("its process has ended", endpoint=self.endpoint)
            lost.ticket = ticket
            outcomes.append(self.resolve(lost, max(0.0, (deadline_ns - monotonic_ns()) / 1e9)))
        return outcomes

    def see_to(self, streams: list[Stream]) -> None:
        """Fence these connections before anything else is sent: those of a process that has died, or of a closed client."""
        transport = self.transport_here()
        for stream in streams:
            transport.once.lose(stream)

    def resolve(self, error: Exception, timeout_s: float) -> Outcome:
        """What became of a write that failed with `error`, whose outcome was UNKNOWN; asks for `timeout_s` seconds at the most.

        With exactly once: NOT_SENT where it was not executed and never will be, APPLIED where it was, UNKNOWN while that is
        not known, or for ever (`error.ticket.verdict` is then UNRESOLVABLE). Does not send it again. Raises TypeError or
        ValueError for an argument outside its rule.
        """
        _check.instance("error", error, Exception)
        _check.at_least("timeout_s", timeout_s, 0)
        transport = self.transport_here()
        if transport is None or transport.once is None or getattr(error, "ticket", None) is None:
            return classify(error)[1]
        step, reply = transport.once.settle(error, CommandCategory.RELATIVE_WRITE, timeout_s)
        if isinstance(reply, Exception):
            return classify(reply)[1]
        return {NextStep.RESEND: Outcome.NOT_SENT, NextStep.DONE: Outcome.APPLIED}.get(step, Outcome.UNKNOWN)

    def execute_kept(self, args: tuple[Any, ...], options: dict[str, Any], keep: Keep) -> Any:
        """`execute_command` that waits for `keep` before each attempt is sent."""
        command = self.bound_commands[args[0]]
        transport = self.transport_here()
        if transport is None:
            keep(None)
            return cast(Any, self).execute_command(*args, **options)
        head = command.head
        try:
            packed = pack_command(args) if head is None else pack_command((*head, *args[1:]))
        except TypeError as error:
            raise refused_words(error) from None
        return self._execute_leased(transport, command, packed, args, options, keep)

    def _execute_leased(
        self,
        transport: Any,
        command: BoundCommand,
        packed: bytes,
        args: tuple[Any, ...],
        options: dict[str, Any],
        keep: Keep | None = None,
    ) -> Any:
        """A command off the fast path: it may block, changes its connection, is in a hurry or has to keep an order."""
        if command.refusal is not None:
            raise ConnectionStateError(command.name, command.refusal)
        if command.name == "SELECT":
            warnings.warn(SELECT_WARNING, RuntimeWarning, stacklevel=3)
        if not command.only_reads and (queue := self.ordering_queue()) is not None:
            with queue.admit([args], self._deadline_s):
                return self._execute_off_the_way(transport, command, packed, args, options, keep)
        return self._execute_off_the_way(transport, command, packed, args, options, keep)

    def ordering_queue(self) -> Any:
        """The recovery queue that plain writes have to stay behind just now; None where nothing is queued."""
        return None if self._ordering is None or not self._takes_slow_path else self._ordering()

    def _execute_off_the_way(
        self,
        transport: Any,
        command: BoundCommand,
        packed: bytes,
        args: tuple[Any, ...],
        options: dict[str, Any],
        keep: Keep | None,
    ) -> Any:
        timeout_s = read_timeout_s(command, args, self._timeout_s)
        extra_s = max(0.0, self._deadline_s - (self._timeout_s or self._deadline_s))
        raw = NEVER_DECODE in options
        lasting = command.route is not Route.STATE
        once = command.route is Route.ONCE and len(args) > command.plain

        def attempt(permit: int, attempt_timeout_s: float | None) -> Any:
            if once:
                return transport.once.call(command, packed, raw, attempt_timeout_s, keep)
            if keep is not None:
                keep(None)
            if command.route in (Route.SHARED, Route.ONCE):
                return transport.call_within(packed, permit, raw, attempt_timeout_s)
            reply: Any = None
            for barrier in barriers_of(command):
                # A blocking command may take longer than an ordinary one.
                reply = transport.call_leased(
                    packed, permit, raw, timeout_s, keep=lasting, ahead=barrier, extra_s=extra_s
                )
                if barrier is None or not is_unknown_command(reply):
                    break
            return reply

        try:
            reply = self.guarded(command, attempt, self.settler(transport, command))
        except ResponseError:
            empty = options.get(EMPTY_RESPONSE, _NOTHING)
            if empty is _NOTHING:
                raise
            return empty
        callback = callback_of(self.callbacks_for(transport.protocol), command.name)
        if callback is None:
            return reply
        shaped = call_back(callback, reply, options)
        if ASYNC and hasattr(shaped, "__await__"):
            return shaped
        return shaped

    def _execute_foreign(self, command: BoundCommand, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """redis-py's own path, guarded: a pinned connection, or a pool that is not redis-py's own."""

        def attempt(permit: int, timeout_s: float | None) -> Any:
            del permit, timeout_s  # the connection's own timeouts bound it
            self._connect_pinned()
            try:
                return RedisPy.execute_command(cast(RedisPy, self), *args, **options)
            except Exception as error:
                raise as_ours(error, self.endpoint) from error

        return self.guarded(command, attempt)

    def _connect_pinned(self) -> None:
        """A pinned connection that was lost connects again apart from sending, so that a refusal is known to be one."""
        connection = cast(Any, self).connection
        if connection is None or getattr(connection, "is_connected", True):
            return
        try:
            connect_pinned(self)
        except Exception as error:
            failure = connect_failure(error, self.endpoint)
            if failure is error:
                raise
            raise failure from error

    # --- replies --------------------------------------------------------------------------------------------------

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Set a custom response callback, also for the case that the server refuses RESP3."""
        self.response_callbacks[command] = callback
        self._own_callbacks[command.upper()] = callback
        self._fallback_callbacks = None

    def callbacks_for(self, protocol: int) -> Mapping[Any, Callable[..., Any]]:
        """The callbacks for replies of a connection that negotiated `protocol`.

        Where the server spoke RESP2 though RESP3 was asked for, those that give its replies the shape that was asked for.
        """
        if protocol == self._asked_protocol:
            return cast("Mapping[Any, Callable[..., Any]]", self.response_callbacks)
        callbacks = self._fallback_callbacks
        if callbacks is None:
            arguments = self.connection_pool.connection_kwargs
            callbacks = callbacks_after_fallback(arguments.get("protocol"), arguments.get("legacy_responses", True))
            callbacks.update(self._own_callbacks)
            self._fallback_callbacks = callbacks
        return callbacks

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """host:port or socket path of the server."""
        return endpoint_of(self.connection_pool.connection_kwargs)

    def keeps_subscribers(self) -> bool:
        """Whether its subscribers reconnect by themselves for as long as it takes, unless their arguments say otherwise."""
        mine: Any = self
        return self.guard is not None and (self.subscribers_reconnect or mine.auto_close_connection_pool)

    def __dir__(self) -> list[str]:
        """What is documented: redis-py's names and those of this package, without internals."""
        return [name for name in super().__dir__() if is_documented(name) and name not in _INTERNAL]

    def stats(self) -> dict[str, Any]:
        """The guard's figures: state of the circuit, calls, errors by kind, retries, rejections, latencies by operation.

        Under `connections` how many are `open`, how many calls they carry (`in_flight`), and the totals of all clients of the
        pool: `opened`, and `lost` under a call or while connecting.

        With exactly once also `exactly_once`: the level in force ("marker", "offset", "gate", "fence", "nothing"; None before
        the first connection), the server's `maxmemory_policy`, the `fences` put up, and the lost writes by verdict:
        `applied`, `not_applied`, `unresolvable`.
        """
        figures: dict[str, Any] = {} if self.guard is None else self.guard.stats()
        reachability = self._shared.reachability
        transports = self._transports_now()
        figures["connections"] = {
            "open": sum(transport.open_count for transport in transports),
            "in_flight": sum(transport.in_flight_count for transport in transports),
            "opened": reachability.opened,
            "lost": reachability.times_lost,
        }
        if self._once is not None:
            figures["exactly_once"] = self._once.stats()
        return figures

    def transport_here(self) -> Any:
        """The transport that commands of the caller travel by; None when they go redis-py's own way."""
        raise NotImplementedError

    def _transports_now(self) -> list[Any]:
        """The transports of its pool; none where commands go redis-py's own way."""
        raise NotImplementedError

    @staticmethod
    def _view_of(pool: Any) -> GuardedCalls:
        """A client of the pool that admits everything and tries once."""
        raise NotImplementedError

    def ping_afresh(self) -> None:
        """PING on a new connection, outside the guard: what the background probe asks. Raises what the connection raises."""
        transport = self.transport_here()
        if transport is None:
            RedisPy.execute_command(cast(RedisPy, self), "PING")
        else:
            transport.ping_afresh()


def _ping_of(pool: weakref.ref[Any], view_of: Callable[[Any], GuardedCalls]) -> Callable[[], object]:
    # The prober lives in the background: through a strong reference it would keep an abandoned pool alive.
    def ping() -> None:
        alive = pool()
        if alive is not None:
            view_of(alive).ping_afresh()

    return ping
