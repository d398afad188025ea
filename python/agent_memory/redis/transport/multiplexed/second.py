"""The second connection of an event loop, for the time in which the shared one carries something large over a slow link.

A large reply, or a large command that leaves slowly, makes all others wait behind it, for nothing that the server has to do
with. So while the shared connection is *busy* with one (`BUSY_AFTER_S`), a second one is opened, and each command is sent
over the one that it may take: behind the unanswered commands of its keys, wherever those are (`order`), else over the one that
is not busy. One that would have to come behind commands on both waits. What waits is passed only by what need not come behind
it, and by everything where it only reads the whole keyspace (DBSIZE), so that one such question does not make all wait.

When the shared connection is through and the second has answered everything, commands travel as before. The second connection
closes after `IDLE_S` in which it was not needed. It takes one of the places of leased connections; where there is none, or the
server has no room, commands go behind the large one.
"""

from __future__ import annotations

import collections
import contextvars
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent_memory.redis.transport.multiplexed.order import Unanswered

if TYPE_CHECKING:
    import asyncio

    from agent_memory.redis.transport.multiplexed.admission import Admission, Waiter
    from agent_memory.redis.transport.multiplexed.connection import MultiplexedConnection
    from agent_memory.redis.transport.multiplexed.leases import Leases

__all__ = ["IDLE_S", "SecondConnection", "SecondOwner"]

IDLE_S: Final = 10.0
"""How long the second connection stays open after it was last needed."""
PAUSE_S: Final = 1.0
"""How long after one that could not be opened, or was lost, another second connection is not tried."""


class SecondOwner(Protocol):
    """What the second connection needs of its transport."""

    loop: asyncio.AbstractEventLoop
    current: MultiplexedConnection | None

    def dismiss(self, connection: MultiplexedConnection) -> None:
        """Close a connection that is not needed any more."""
        ...


class SecondConnection:
    """Belongs to one transport, and to its event loop."""

    def __init__(self, transport: SecondOwner, admission: Admission, leases: Leases) -> None:
        self.connection: MultiplexedConnection | None = None
        self.active = False
        """Whether each command is sent over the connection that it may take; both take none by themselves then."""
        self._transport = transport
        self._admission = admission
        self._leases = leases
        self._opening: asyncio.Task[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._not_before_s = 0.0
        self._held = Unanswered()  # what the waiting commands block

    # --- beginning and end ----------------------------------------------------------------------------------------

    def relieve(self, connection: MultiplexedConnection) -> bool:
        """The connection is carrying something large; returns whether that is made use of."""
        if connection.order is not None:
            connection.order.note_large(connection.executed_upto)
        if connection is self.connection:
            return True
        transport = self._transport
        if connection is not transport.current or connection.suspect or connection.retired:
            return False
        if self.connection is None and not self._start_opening() and not self.active:
            return False
        if not self.active:
            self.active = True
            self._held = Unanswered()
            connection.begin_order()
            if self.connection is not None:
                self.connection.begin_order()
        self._stop_idle_timer()
        return True

    def settle(self) -> None:
        """A reply has arrived: send the commands that may be sent. Stop tracking the order once nothing is pending."""
        first, second = self._transport.current, self.connection
        if first is None or (first.busy and second is None and self._opening is not None):
            return
        self._admit()
        if first.busy or self._admission.waiters or (second is not None and second.in_flight):
            return
        self.active = False
        first.end_order()
        if second is not None:
            second.end_order()
            self._start_idle_timer()

    def take_over(self, connection: MultiplexedConnection) -> None:
        """It has become the shared one while there is a second."""
        if self.active:
            connection.begin_order()
            self.settle()

    def give_up(self) -> MultiplexedConnection | None:
        """The second connection, which is not the second any more: its place among the leased ones is free."""
        connection, self.connection = self.connection, None
        self._stop_idle_timer()
        if connection is not None:
            connection.end_order()
            self._leases.free_place()
        return connection

    def stop(self) -> MultiplexedConnection | None:
        """The transport is closed or retired, or the second connection becomes the shared one; returns it."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self.active = False
        return self.give_up()

    def make_room(self) -> None:
        """A place among the leased connections is needed: close this one if it is idle."""
        if not self.active:
            self._close_idle()

    def lost(self) -> None:
        """The second connection has failed."""
        self._not_before_s = self._transport.loop.time() + PAUSE_S
        self.give_up()
        if self.active:
            self.settle()

    # --- opening and closing --------------------------------------------------------------------------------------

    def _start_opening(self) -> bool:
        if self._opening is not None:
            return True
        transport = self._transport
        if transport.loop.time() < self._not_before_s or not self._leases.has_place:
            return False
        self._opening = transport.loop.create_task(self._open(), context=contextvars.Context())
        return True

    async def _open(self) -> None:
        transport = self._transport
        try:
            connection = await self._leases.open_second()
        except Exception:
            self._opening = None
            self._not_before_s = transport.loop.time() + PAUSE_S
            if self.active:
                self.settle()  # behind the large one, then
            return
        self._opening = None
        connection.writes = True
        self.connection = connection
        if self.active:
            connection.begin_order()
            self.settle()
        else:
            self._start_idle_timer()

    def _start_idle_timer(self) -> None:
        self._stop_idle_timer()
        self._idle_timer = self._transport.loop.call_later(IDLE_S, self._close_idle, context=contextvars.Context())

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _close_idle(self) -> None:
        connection = self.give_up()
        if connection is not None:
            self._transport.dismiss(connection)

    # --- the way of a command -------------------------------------------------------------------------------------

    def send(self, waiter: Waiter) -> asyncio.Future[Any] | None:
        """Send a new command; None if it has to wait, in its place behind the waiting ones."""
        if not self._admission.waiters:
            self._held = Unanswered()
        elif self._held.hold_up(waiter.touch):
            self._hold(waiter)
            return None
        connection = self._choose(waiter)
        if connection is None:
            self._hold(waiter)
            return None
        return self._send(waiter, connection)

    def _admit(self) -> None:
        """Send for the waiters, in their order."""
        waiters = self._admission.take()
        if not waiters:
            return
        self._held = Unanswered()
        stay: collections.deque[Waiter] = collections.deque()
        for waiter in waiters:
            if waiter.future.done():
                continue
            connection = None if self._held.hold_up(waiter.touch) else self._choose(waiter)
            if connection is None:
                self._hold(waiter)
                stay.append(waiter)
            else:
                waiter.future.set_result(self._send(waiter, connection))
        self._admission.put_back(stay)

    def _hold(self, waiter: Waiter) -> None:
        if waiter.touch.keys is not None or waiter.touch.writes:
            self._held.add(0, waiter.touch)

    def _send(self, waiter: Waiter, connection: MultiplexedConnection) -> asyncio.Future[Any]:
        future = waiter.send(connection)
        if connection.order is not None:
            connection.order.add(connection.answered + connection.in_flight, waiter.touch)
        return future

    def _choose(self, waiter: Waiter) -> MultiplexedConnection | None:
        """The connection that these commands may take now; None for neither."""
        first, second, touch = self._transport.current, self.connection, waiter.touch
        if first is None or (first.busy and second is None and self._opening is not None):
            return None
        chosen = first
        if second is not None:
            behind_first = self._holds_up(first, waiter)
            behind_second = self._holds_up(second, waiter)
            if behind_first and (behind_second or touch.keys is None):
                return None
            if behind_second or (not behind_first and self._is_better(second, first)):
                chosen = second
        return chosen if chosen.has_room() else None

    @staticmethod
    def _holds_up(connection: MultiplexedConnection, waiter: Waiter) -> bool:
        order = connection.order
        if order is None:
            return False
        order.answer(connection.answered)
        if waiter.behind is connection and len(order):
            return True
        return order.hold_up(waiter.touch, connection.executed_upto)

    @staticmethod
    def _is_better(second: MultiplexedConnection, first: MultiplexedConnection) -> bool:
        if second.suspect or not first.busy:
            return False
        return not second.busy or second.in_flight < first.in_flight
