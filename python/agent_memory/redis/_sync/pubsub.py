# Generated from ../_async/pubsub.py by tools/generate_sync.py: edit that file, not this one.

"""Publish/subscribe of the drop-in client: redis-py's PubSub that comes back by itself and says what it may have missed.

A subscriber's connection is redis-py's. Ours are the way of a message (taken from the parser's buffer without a timer, a
retry object or a wait, as long as there is one), the reconnect, and the watch over a silent connection.

States
- *unconnected*: nothing was subscribed to yet, or closed.
- *listening*: connected; what arrives is handed out.
- *lost*: the connection ended while subscribed. The call that waits for messages reconnects and subscribes again, with growing
  pauses, until that succeeds or `reconnect_timeout_s` is over.
- *restored*: connected and subscribed again, nothing heard yet. The first word that arrives ends the gap: `on_gap` is called
  (and a message handed out, if asked for) before anything that came over the new connection.

Rules
- Subscribing and unsubscribing are calls: the guard admits, counts and retries them. Listening is none: neither a long silence
  nor a reconnect of the listener says anything to the circuit breaker, and an open circuit does not stop a listener.
- A subscription lives and dies with its connection, so a SUBSCRIBE that met a broken one is NOT_SENT, whatever left.
- Writing to a socket proves nothing: a call that only wrote counts as neither success nor failure.
- Closing the client or its pool ends a subscriber: waiting for messages raises ClientClosedError until it subscribes again.
- A connection that was silent for `ping_interval_s` is pinged; silent for `socket_timeout` after that, it is given up. It is
  judged only after a read that found nothing, so unread messages are never mistaken for silence.
- A reply between the messages answers what was sent first and is not answered yet (`PendingReplies`): a subscription, a
  PING or an AUTH of ours, or a command of the caller, to which it is returned. What answers nothing ends the connection.
- What is received and not yet asked for stays with the socket: the parser holds one read (redis-py's `socket_read_size`), and
  on asyncio the stream at most twice its limit of 64 KiB, beyond which reading pauses. A slow subscriber makes the server wait.
"""

from __future__ import annotations

import contextvars
import logging
import random
from typing import TYPE_CHECKING, Any, Final, cast

from redis.client import PubSub as RedisPyPubSub
from redis.exceptions import InvalidResponse

from agent_memory import _check
from agent_memory._concurrency import Lock, settle
from agent_memory._core import monotonic_ns
from agent_memory.errors import CircuitOpenError, ClientClosedError, Outcome, RedisTimeoutError
from agent_memory.redis.error_outcomes import ERRORS_OF_CONNECTIONS, UNREADABLE, as_ours, breaks_connection, undecodable
from agent_memory.redis.redis_py_internals.codec import NOT_ENOUGH_DATA, reply_reader
from agent_memory.redis.redis_py_internals.credentials import take_renewal
from agent_memory.redis.redis_py_internals.features import is_open
from agent_memory.redis.redis_py_internals.leases import connect_again, drop, lease
from agent_memory.redis.redis_py_internals.replies import PushNotification, as_text, message_class
from agent_memory.redis.redis_py_internals.settings import DEFAULT_SOCKET_TIMEOUT
from agent_memory.redis.redis_py_internals.subscribers import (
    DROPPED,
    announce_subscriber,
    as_parsed,
    can_read,
    check_health,
    end_with_client,
    handle_pushes,
    health_check_is_due,
    metrics_are_on,
    read_push,
    sending_lock,
)
from agent_memory.redis.subscriptions.gap import SubscriptionGap
from agent_memory.redis.subscriptions.pending_replies import Asker, PendingReplies, is_confirmation
from agent_memory.redis.transport.failures import connect_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.redis._sync.guarded import GuardedCalls

__all__ = ["DEFAULT_PING_INTERVAL_S", "Loss", "PubSub"]

DEFAULT_PING_INTERVAL_S: Final = 10.0
"""How long a subscribed connection may be silent before it is pinged, where the client has no `health_check_interval`."""
FIRST_RECONNECT_DELAY_S: Final = 0.02
MAX_RECONNECT_DELAY_S: Final = 0.5
"""Longest pause between two attempts to connect."""
SHORT_LIFE_S: Final = 1.0
"""A connection that ends within this counts as an attempt to connect that failed, for the pause before the next."""
SECOND_LOOK_S: Final = 0.05
"""Before a connection is given up as silent, what may wait in the kernel gets this long to be read."""

_LOGGER: Final = logging.getLogger("agent_memory.redis")
_NS_PER_S: Final = 1_000_000_000
_UNSET: Final[Any] = object()
_INCOMPLETE: Final = NOT_ENOUGH_DATA
_LISTS: Final = (PushNotification, list)

_PUBLISHED: Final[dict[Any, str]] = {
    b"message": "message", "message": "message",
    b"pmessage": "pmessage", "pmessage": "pmessage",
    b"smessage": "smessage", "smessage": "smessage",
}  # fmt: skip
"""The kinds of published message, as they arrive and as they are shown."""
_LENGTHS: Final = {word: 4 if kind == "pmessage" else 3 for word, kind in _PUBLISHED.items()}
"""In how many parts they come."""

_restoring: contextvars.ContextVar[object] = contextvars.ContextVar("restoring", default=None)
"""The PubSub that the running code is reconnecting: its SUBSCRIBEs are the listener's, not calls."""


class PubSub(RedisPyPubSub):
    """redis-py's PubSub that survives the loss of its connection and reports the gap; made by `client.pubsub()`.

    Takes redis-py's arguments, and by keyword:

    - `on_gap`: called with a `SubscriptionGap` after each loss, once the subscriptions stand again and before anything that
      came over the new connection is handed out. May be a function. Its errors are raised by the waiting call.
    - `gap_messages`: whether the gap is handed out as a message too: type "gap", data the `SubscriptionGap`. Default False.
    - `ping_interval_s`: seconds of silence after which the connection is asked whether it lives (default: the client's
      `health_check_interval`, else 10); None leaves silence alone.
    - `reconnect_timeout_s`: seconds after a loss for which `listen()` and `get_message()` go on reconnecting; then they raise
      RedisUnavailableError, and the next call tries again. Until then `get_message(timeout)` returns None when its time is up,
      as if there was no message. None: for ever, the default. 0: what redis-py does without retries, reconnect once and raise
      the error all the same. That is the default where the client has no resilience, or a pool that was given to it, whose
      owner chose how to deal with errors.

    A call that finds the connection broken may take as long as one attempt to connect, beyond its timeout.

    Raises ValueError for a `ping_interval_s` not above 0 or a `reconnect_timeout_s` below 0. May be used by one reader at a
    time; other threads may subscribe and unsubscribe meanwhile. A reader that is cancelled while it waits leaves the
    subscriptions as they are.
    """

    connection: Any = None  # looked at by redis-py's __del__, also where __init__ refuses an argument
    channels: dict[Any, Any]
    patterns: dict[Any, Any]
    shard_channels: dict[Any, Any]

    def __init__(
        self,
        client: GuardedCalls,
        *args: Any,
        on_gap: Callable[[SubscriptionGap], Any] | None = None,
        gap_messages: bool = False,
        ping_interval_s: float | None = _UNSET,
        reconnect_timeout_s: float | None = _UNSET,
        **kwargs: Any,
    ) -> None:
        arguments = client.connection_pool.connection_kwargs
        if ping_interval_s is _UNSET:
            ping_interval_s = arguments.get("health_check_interval") or DEFAULT_PING_INTERVAL_S
        elif ping_interval_s is not None:
            _check.above("ping_interval_s", ping_interval_s, 0)
        if reconnect_timeout_s is _UNSET:
            reconnect_timeout_s = None if client.keeps_subscribers() else 0.0
        elif reconnect_timeout_s is not None:
            _check.at_least("reconnect_timeout_s", reconnect_timeout_s, 0)
        if on_gap is not None:
            _check.function("on_gap", on_gap)
        _check.flag("gap_messages", gap_messages)
        self._client = client
        self._on_gap = on_gap
        self._gap_messages = gap_messages
        self._ping_interval_ns = None if ping_interval_s is None else int(ping_interval_s * _NS_PER_S)
        timeout_s = arguments.get("socket_timeout", DEFAULT_SOCKET_TIMEOUT)
        self._pong_timeout_ns = int((timeout_s or DEFAULT_SOCKET_TIMEOUT) * _NS_PER_S)
        self._reconnect_timeout_ns = None if reconnect_timeout_s is None else int(reconnect_timeout_s * _NS_PER_S)
        self._connecting = Lock()
        self._loss: Loss | None = None
        self._subscribed_ns = 0  # when it was last told to (un)subscribe
        self._heard_ns = self._pinged_ns = self._connected_ns = 0
        self._short_lives = 0  # how many connections in a row ended as soon as they stood
        self._answers = PendingReplies()
        self._message_class: Any = PushNotification
        self._held_back: Any = None  # the first reply of a new connection, while the gap's message goes before it
        super().__init__(client.connection_pool, *args, **kwargs)

    # --- calls ----------------------------------------------------------------------------------------------------

    def execute_command(self, *args: Any) -> Any:
        """Send one command of the subscriber's, guarded; what it answers arrives among the messages."""
        if self._is_restoring():
            self._send(args)
            return
        self._subscribed_ns = monotonic_ns()
        command = self._client.bound_commands[args[0]]
        opened = False

        def attempt(permit: int, timeout_s: float | None) -> None:
            nonlocal opened
            del permit, timeout_s  # the connection's own timeouts bound it
            try:
                opened = self._connect_if_needed() or opened
                self._send(args)
            except Exception as error:
                # Whatever left with a connection that broke, no subscription came of it.
                failure = connect_failure(error, self._client.endpoint)
                if failure is error:
                    raise
                raise failure from error

        try:
            permit = command.admit()
        except CircuitOpenError:
            self._client._note_rejection()
            raise
        try:
            attempt(permit, None)
        except Exception as error:
            self._client._retry(command, attempt, permit, error)
        except BaseException:
            command.abandon(permit)
            raise
        else:
            (command.success if opened else command.abandon)(permit)

    def _is_restoring(self) -> bool:
        """Whether the running code is reconnecting this subscriber."""
        return _restoring.get() is self

    def _send(self, args: tuple[Any, ...]) -> None:
        connection = self.connection
        try:
            if not self.subscribed and self._answers.are_read:
                check_health(connection)  # redis-py's, where `health_check_interval` asks for it
            self._send_expecting(connection, args, Asker.CALLER)
        except ERRORS_OF_CONNECTIONS as error:
            self._lose(error)
            drop(connection)
            raise

    def _send_expecting(self, connection: Any, words: tuple[Any, ...], asker: Asker) -> None:
        """Send a command of which the place of the answer is kept."""
        with sending_lock(self):
            self._send_noted(connection, words, asker)

    def _send_noted(self, connection: Any, words: tuple[Any, ...], asker: Asker) -> None:
        answers = self._answers
        number = answers.connection_number
        answers.expect(words, asker)
        connection.send_command(*words, check_health=False)
        if answers.connection_number != number:  # redis-py has connected anew, and sent it there
            answers.expect(words, asker)

    def on_connect(self, connection: Any) -> None:
        """redis-py calls it when the connection stands again: subscribe to what was subscribed to."""
        self._answers.start_afresh()
        cast(Any, super()).on_connect(connection)

    # --- messages -------------------------------------------------------------------------------------------------

    def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """The next reply as it arrived, None when there is none within `timeout` seconds (with `block` it waits for ever)."""
        connection = self.connection
        if connection is None:
            raise RuntimeError("pubsub connection not set: did you forget to call subscribe() or psubscribe()?")
        reply: Any = _INCOMPLETE
        unreadable: Exception | None = None
        if self._loss is None and self._held_back is None and self.push_handler_func is None:
            reader = reply_reader(connection)
            if reader is not None:
                try:
                    reply = reader.gets()
                    if reply.__class__ is self._message_class and len(reply) == _LENGTHS.get(reply[0]):
                        return reply
                except UnicodeError as error:
                    raise undecodable(error) from None
                except UNREADABLE as error:
                    unreadable = InvalidResponse(str(error) or type(error).__name__)
                except IndexError:
                    pass  # an empty list: no message
        return self._next_reply(None if block else int(timeout * _NS_PER_S), reply, unreadable)

    def _next_reply(self, timeout_ns: int | None, taken: Any, unreadable: Exception | None) -> Any:
        """Wait for a reply, through reconnects and pings; None when `timeout_ns` is over (None: for ever).

        `taken` is what has been taken from the parser already, `unreadable` what the parser said.
        """
        until_ns = None if timeout_ns is None else monotonic_ns() + timeout_ns
        while (connection := self.connection) is not None:
            if self._held_back is not None:
                reply, self._held_back = self._held_back, None
                return reply
            if not is_open(connection):
                taken, unreadable = _INCOMPLETE, None  # of the connection that was lost
                if not self._restore(until_ns):
                    return None
                continue  # a subscriber of a cluster may have another connection now
            try:
                if unreadable is not None:
                    raise unreadable
                reply = self._read(connection, until_ns, taken)
                taken = _INCOMPLETE
                something = reply is not _INCOMPLETE or self._watch(connection)
                is_theirs = reply is not _INCOMPLETE and self._is_theirs(reply)
            except UnicodeError as error:
                raise undecodable(error) from None
            except Exception as error:
                if not breaks_connection(error):
                    raise
                self._give_up(error)
                self._check_not_closed(error)
                taken, unreadable = _INCOMPLETE, None
                if self._reconnect_timeout_ns == 0 and self.connection is not None:
                    self._restore(None)
                    raise as_ours(error, self._client.endpoint) from error
                continue  # and out of the loop, if it was closed while it waited
            if reply is _INCOMPLETE:
                if not something and until_ns is not None and monotonic_ns() >= until_ns:
                    return None
                continue
            self._heard_ns = monotonic_ns()
            self._pinged_ns = 0
            reply = reply.value if reply.__class__ is _Handled else reply
            if self._loss is not None:
                gap = self._regain(self._loss)
                if self._gap_messages:
                    self._held_back = reply if is_theirs else None
                    return gap
            if is_theirs:
                return reply
        return None

    def _read(self, connection: Any, until_ns: int | None, taken: Any) -> Any:
        """What arrives next, an error reply as a value; `_INCOMPLETE` when nothing did in time."""
        if taken is not _INCOMPLETE:
            return as_parsed(connection, taken)
        self._authenticate_anew(connection)
        if health_check_is_due(connection):
            self._ping(connection)
        return read_push(connection, self._patience_s(until_ns))

    def _is_theirs(self, reply: Any) -> bool:
        """Whether what arrived is for the reading call; raises an unexpected reply, and an error that answers the caller."""
        if reply is DROPPED:
            return False
        if reply.__class__ is _Handled:
            return reply.value is not None
        if reply.__class__ is PushNotification or self._is_pushed(reply):
            kind = reply[0] if isinstance(reply[0], str | bytes) else None
            length = 3 if self._answers.confirm(kind) else _LENGTHS.get(kind, len(reply))
            if len(reply) != length:
                raise InvalidResponse(f"a {as_text(kind)} in {len(reply)} parts, not {length}")
            return True
        asker = self._answers.answered(is_error=isinstance(reply, Exception))
        if asker is Asker.CALLER:
            if isinstance(reply, Exception):
                raise reply
            return True
        if asker is Asker.AUTH and isinstance(reply, Exception):
            _LOGGER.warning("%s refused renewed credentials: %s", self._client.endpoint, type(reply).__name__)
        return False

    def _is_pushed(self, reply: Any) -> bool:
        """Whether a list over RESP2, which has no type of its own for them, is a message or a confirmation."""
        if self._message_class is not list or reply.__class__ is not list or not reply:
            return False
        return isinstance(reply[0], str | bytes) and (reply[0] in _LENGTHS or is_confirmation(reply[0]))

    def check_health(self) -> None:
        """Send redis-py's PING if it is due; its answer is dropped."""
        if self.connection is None:
            raise RuntimeError("pubsub connection not set: did you forget to call subscribe() or psubscribe()?")
        if health_check_is_due(self.connection):
            self._ping(self.connection)

    def _ping(self, connection: Any) -> None:
        self._send_expecting(connection, ("PING", self.HEALTH_CHECK_MESSAGE), Asker.PING)

    def _authenticate_anew(self, connection: Any) -> None:
        """Send the AUTH of renewed credentials, if it is due, among the messages: only RESP3 lets a subscriber do that."""
        if int(connection.get_protocol()) == 3 and (words := take_renewal(connection)) is not None:
            self._send_expecting(connection, words, Asker.AUTH)

    def handle_message(self, response: Any, ignore_subscribe_messages: bool = False) -> Any:
        """Make a message of a reply, as redis-py does, or hand it to its handler and return None."""
        kind = _PUBLISHED.get(response[0]) if response.__class__ in _LISTS else None
        if kind is None or metrics_are_on():
            if response.__class__ is SubscriptionGap:
                return {"type": "gap", "pattern": None, "channel": None, "data": response}
            if response.__class__ is PushNotification and len(response) < len(("kind", "channel", "data")):
                return None  # something that has nothing to do with channels
            return cast(Any, super()).handle_message(response, ignore_subscribe_messages)
        if kind == "message":
            _, channel, data = response
            pattern = None
            handler = self.channels.get(channel)
        elif kind == "pmessage":
            _, pattern, channel, data = response
            handler = self.patterns.get(pattern)
        else:
            _, channel, data = response
            pattern = None
            handler = self.shard_channels.get(channel)
        message = {"type": kind, "pattern": pattern, "channel": channel, "data": data}
        if handler:
            handler(message)
            return None
        return message

    def run_in_thread(
        self,
        sleep_time: float = 0.0,
        daemon: bool = False,
        exception_handler: Callable[..., Any] | None = None,
        pubsub: Any = None,
        sharded_pubsub: bool = False,
    ) -> Any:
        """Handle messages in a thread, as redis-py does; without `exception_handler` it ends quietly with its client."""
        handler = end_with_client if exception_handler is None else exception_handler
        # An older redis-py does not know the last two.
        given = {"pubsub": pubsub} if pubsub is not None else {}
        given |= {"sharded_pubsub": True} if sharded_pubsub else {}
        return cast(Any, super()).run_in_thread(sleep_time, daemon, handler, **given)

    # --- silence --------------------------------------------------------------------------------------------------

    def _patience_s(self, until_ns: int | None) -> float | None:
        """How long to wait for the next word: until the caller's time is up or the connection has to be looked after."""
        due_ns = until_ns
        if self._ping_interval_ns is not None and self.subscribed:
            silent_ns, patience_ns = self._heard_ns, self._ping_interval_ns
            if self._pinged_ns:
                silent_ns, patience_ns = self._pinged_ns, self._pong_timeout_ns
            look_ns = silent_ns + patience_ns
            due_ns = look_ns if due_ns is None else min(due_ns, look_ns)
        return None if due_ns is None else max(0.0, (due_ns - monotonic_ns()) / 1e9)

    def _watch(self, connection: Any) -> bool:
        """Nothing came: ping a connection that has been silent for long, give up one that does not answer.

        Returns whether something has arrived after all; raises RedisTimeoutError for a dead connection.
        """
        now_ns = monotonic_ns()
        if self._ping_interval_ns is None or not self.subscribed:
            return False
        if not self._pinged_ns:
            if now_ns - self._heard_ns >= self._ping_interval_ns:
                self._pinged_ns = now_ns
                self._ping(connection)
            return False
        if now_ns - self._pinged_ns < self._pong_timeout_ns:
            return False
        # The time may have passed in this process: then the answer waits to be read.
        if can_read(connection, SECOND_LOOK_S):
            return True
        silent_s = (monotonic_ns() - self._heard_ns) / 1e9
        raise RedisTimeoutError(
            f"no answer to a PING, silent for {silent_s:.1f} s",
            outcome=Outcome.NOT_SENT,
            endpoint=self._client.endpoint,
        )

    # --- loss and return ------------------------------------------------------------------------------------------

    def _lose(self, error: Exception | None) -> None:
        if self._loss is None and self.subscribed:
            lived_ns = monotonic_ns() - self._connected_ns
            self._short_lives = 0 if lived_ns > SHORT_LIFE_S * _NS_PER_S else self._short_lives + 1
            self._loss = Loss(error, self._heard_ns, self._short_lives)

    def _check_not_closed(self, error: Exception | None) -> None:
        if self._client._shared.was_ended_since(self._subscribed_ns):
            raise ClientClosedError(outcome=Outcome.NOT_SENT, endpoint=self._client.endpoint) from error

    def _give_up(self, error: Exception) -> None:
        """The connection is of no use any more."""
        self._lose(error)
        if self.connection is not None:
            drop(self.connection)

    def _restore(self, until_ns: int | None) -> bool:
        """Connect and subscribe again; False when `until_ns` came first. Raises when `reconnect_timeout_s` is over."""
        self._lose(None)
        loss = self._loss
        while True:
            self._check_not_closed(None)
            now_ns = monotonic_ns()
            if loss is not None and loss.not_before_ns > now_ns:
                wake_ns = loss.not_before_ns if until_ns is None else min(loss.not_before_ns, until_ns)
                self._client._shared.pause(now_ns, max(0.0, (wake_ns - now_ns) / 1e9))
                self._check_not_closed(None)
                if until_ns is not None and wake_ns == until_ns:
                    return False
                if self.connection is None:
                    return False  # closed meanwhile
            try:
                self._connect_if_needed()
            except ERRORS_OF_CONNECTIONS as error:
                if self.connection is None:
                    return False
                self._check_not_closed(error)
                failure = connect_failure(error, self._client.endpoint)
                if loss is None or failure is error or loss.is_over(self._reconnect_timeout_ns):
                    raise failure from (None if failure is error else error)
                continue
            return True

    def _connect_if_needed(self) -> bool:
        """Connect, and subscribe to what was subscribed to; returns whether there was need."""
        with self._connecting:
            connection = self.connection
            if connection is not None and is_open(connection):
                return False
            if connection is not None:
                self._lose(None)
            if self._loss is not None:
                self._loss.attempts += 1
            mark = _restoring.set(self)
            try:
                if connection is None:
                    self._lease()
                else:
                    self._connect_anew(connection)
            except BaseException as error:
                if connection is not None and self.connection is not None:
                    # It may stand, and its subscriptions not.
                    drop(self.connection)
                if self._loss is not None and isinstance(error, Exception):
                    self._loss.failed(error)
                raise
            finally:
                _restoring.reset(mark)
            self._heard_ns = self._connected_ns = monotonic_ns()
            self._pinged_ns = 0
            self._message_class = message_class(self.connection)
            return True

    def _connect_anew(self, connection: Any) -> None:
        """Connect the connection that was lost; its callback subscribes to what was subscribed to."""
        connect_again(connection)

    def _lease(self) -> None:
        self._use(lease(self.connection_pool))

    def _use(self, connection: Any) -> None:
        """Listen on a connection that has just been leased."""
        self._answers.start_afresh()
        self.connection = connection
        connection.register_connect_callback(self.on_connect)
        if self.push_handler_func is not None:
            handle_pushes(connection, _noting(self._answers, self.push_handler_func))
        announce_subscriber(self, False)

    def _regain(self, loss: Loss) -> SubscriptionGap:
        """The first word on a new connection: tell of the gap."""
        self._loss = None
        gap = loss.gap(self._heard_ns)
        self._tell(gap)
        return gap

    def _tell(self, gap: SubscriptionGap, is_logged: bool = True) -> None:
        if is_logged:
            _LOGGER.warning(
                "subscriber of %s was away for %.3f s (%s): messages published meanwhile are lost to it",
                self._client.endpoint,
                gap.duration_s,
                gap.reason,
            )
        if self._on_gap is not None:
            settle(self._on_gap(gap))


class _Handled:
    """What a handler of pushes returned, which is no reply."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _noting(answers: PendingReplies, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The caller's handler of pushes; confirmations are noted before it has them."""

    def handle(push: Any) -> _Handled:
        if push:
            answers.confirm(push[0])
        return _Handled(settle(handler(push)))

    return handle


class Loss:
    """A gap that is not over yet."""

    __slots__ = ("attempts", "error", "heard_ns", "not_before_ns", "noticed_ns")

    def __init__(self, error: Exception | None, heard_ns: int, short_lives: int) -> None:
        self.error = error
        self.noticed_ns = monotonic_ns()
        self.heard_ns = heard_ns or self.noticed_ns
        self.attempts = 0
        self.not_before_ns = 0
        if short_lives > 1:  # what accepts connections and ends them again is no better than what refuses them
            self._pause(short_lives)

    def failed(self, error: Exception) -> None:
        """An attempt to connect has failed."""
        if self.error is None:
            self.error = error
        self._pause(self.attempts)

    def _pause(self, failures: int) -> None:
        """Full jitter under a cap that doubles, so that subscribers spread out."""
        cap_s = min(MAX_RECONNECT_DELAY_S, FIRST_RECONNECT_DELAY_S * 2.0 ** min(failures - 1, 16))
        self.not_before_ns = monotonic_ns() + int(random.uniform(0.0, cap_s) * _NS_PER_S)

    def is_over(self, timeout_ns: int | None) -> bool:
        """Whether reconnecting has been tried for long enough."""
        return timeout_ns is not None and monotonic_ns() - self.noticed_ns >= timeout_ns

    def gap(self, restored_ns: int, channels: tuple[Any, ...] | None = None) -> SubscriptionGap:
        """What is reported to the user."""
        error = self.error
        reason = "closed on this side" if error is None else (str(error) or type(error).__name__)
        return SubscriptionGap(
            reason, error, self.heard_ns, self.noticed_ns, restored_ns, max(1, self.attempts), channels
        )
