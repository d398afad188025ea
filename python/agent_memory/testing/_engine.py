"""The thread of a FaultProxy: listens, relays, keeps time. Other threads talk to it through call()."""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from agent_memory.embedded import fork
from agent_memory.embedded.workspace import PortReservation
from agent_memory.testing._faults import DirectionFaults, ReplyDrop, RequestCut
from agent_memory.testing._relay import Connection, SocketAddress

__all__ = ["Engine"]

_Result = TypeVar("_Result")

_ACCEPTS_PER_TURN = 128
_BACKLOG = 4096
# Out of descriptors: try again once some may have been closed.
_ACCEPT_RETRY_NS = 20_000_000
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Engine:
    """All state of one proxy. Plain attributes may be read from any thread; the rest belongs to the engine's own."""

    def __init__(self, upstream: SocketAddress, seed: int) -> None:
        """Take a port and start the thread. Raises OSError."""
        self.owner_pid = os.getpid()
        self.upstream = upstream
        self.up = DirectionFaults()
        self.down = DirectionFaults()
        self.random = random.Random(seed)
        self.paused = False
        self.connections_accepted = 0
        self.up_bytes = 0
        self.down_bytes = 0
        self.commands: dict[str, int] = {}
        self.drops: list[ReplyDrop] = []
        self.cuts: list[RequestCut] = []
        self.connections: dict[Connection, None] = {}
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._calls_lock = threading.Lock()
        self._stopping = False
        self._ended = False
        self._reservation = PortReservation()
        self.port = self._reservation.port
        self._listener: socket.socket | None = None
        self._listener_registered = False
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._wakened.setblocking(False)
        self.selector.register(self._wakened, selectors.EVENT_READ, self._on_wake)
        self._thread = threading.Thread(target=self._run, name=f"agent-memory-proxy-{self.port}", daemon=True)
        try:
            self.listen()
            self._thread.start()
        except BaseException:
            self._close()
            raise
        fork.register(self)

    # From any thread

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Run `function` in the engine's thread (here, once that has ended) and return what it returns."""
        if threading.get_ident() == self._thread.ident:
            return function()
        future: Future[_Result] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        with self._calls_lock:
            if self._ended:
                return function()
            self._calls.append(run)
        self._wake()
        return future.result()

    def stop(self) -> None:
        """Close everything and end the thread; in a forked child do nothing."""
        if os.getpid() != self.owner_pid:
            return
        self._stopping = True
        if threading.get_ident() == self._thread.ident:
            # Garbage was collected in our own thread: it ends after this turn.
            return
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        try:
            self._waker.send(b"\x00")
        except OSError:
            # Full, so it wakes anyway; or closed, so there is nothing to wake.
            pass

    # In the engine's thread

    def listen(self) -> None:
        """Listen, if it does not yet."""
        if self._listener is not None or self._stopping:
            return
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Binds beside the reservation, and beside connections that an earlier listener has accepted.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._update_listener()

    def stop_listening(self) -> None:
        """Refuse new connections; the port stays ours."""
        if self._listener is not None:
            if self._listener_registered:
                self.selector.unregister(self._listener)
                self._listener_registered = False
            self._listener.close()
            self._listener = None

    def set_paused(self, paused: bool) -> None:
        """Stand still, or go on."""
        self.paused = paused
        self._update_listener()
        for connection in list(self.connections):
            for end in connection.ends:
                end.update_interest()
            if not paused:
                connection.up.pump()
                connection.down.pump()
                connection.settle()

    def hurry(self) -> None:
        """Let everything that is held back go now."""
        for connection in list(self.connections):
            connection.up.hurry()
            connection.down.hurry()
            connection.settle()

    def call_at(self, when_ns: int, function: Callable[[], None]) -> None:
        """Call `function` at a time of the monotonic clock."""
        heapq.heappush(self._timers, (when_ns, next(self._timer_numbers), function))

    def count_bytes(self, faults: DirectionFaults, count: int) -> None:
        """Count bytes read for a direction."""
        if faults is self.up:
            self.up_bytes += count
        else:
            self.down_bytes += count

    def forget(self, connection: Connection) -> bool:
        """Drop a connection whose ends are closed; return False if that was done before."""
        if connection not in self.connections:
            return False
        del self.connections[connection]
        return True

    def _update_listener(self) -> None:
        wanted = not self.paused
        if self._listener is None or wanted == self._listener_registered:
            return
        if wanted:
            self.selector.register(self._listener, selectors.EVENT_READ, self._on_connections)
        else:
            self.selector.unregister(self._listener)
        self._listener_registered = wanted

    def _on_connections(self, mask: int) -> None:
        del mask
        for _ in range(_ACCEPTS_PER_TURN):
            # A connection that fails at once may have led to anything, a stop included.
            if self._listener is None or self.paused:
                return
            try:
                client_socket, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._rest_from_accepting()
                return
            self.connections_accepted += 1
            try:
                connection = Connection(self, client_socket)
            except OSError:
                client_socket.close()
                self._rest_from_accepting()
                return
            self.connections[connection] = None
            connection.connect()

    def _rest_from_accepting(self) -> None:
        if self._listener is not None and self._listener_registered:
            self.selector.unregister(self._listener)
            self._listener_registered = False
            self.call_at(time.monotonic_ns() + _ACCEPT_RETRY_NS, self._update_listener)

    def _on_wake(self, mask: int) -> None:
        del mask
        try:
            while self._wakened.recv(4096):
                pass
        except (BlockingIOError, InterruptedError):
            pass
        while self._calls:
            self._calls.popleft()()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._close()

    def _turn(self) -> None:
        timeout_s = None
        if self._timers:
            timeout_s = max(0.0, (self._timers[0][0] - time.monotonic_ns()) / 1e9)
        for key, mask in self.selector.select(timeout_s):
            key.data(mask)
        now_ns = time.monotonic_ns()
        # Only what was due when the turn came: a timer set for now waits for the next one.
        due: list[Callable[[], None]] = []
        while self._timers and self._timers[0][0] <= now_ns:
            due.append(heapq.heappop(self._timers)[2])
        for function in due:
            function()

    def _close(self) -> None:
        self._stopping = True
        self.stop_listening()
        for connection in list(self.connections):
            connection.hang_up(client="fin", server="fin")
        with self._calls_lock:
            self._ended = True
        while self._calls:
            self._calls.popleft()()
        self._timers.clear()
        self.selector.close()
        self._waker.close()
        self._wakened.close()
        self._reservation.close()

    def _forget_in_child(self) -> None:
        # A copy left open here would keep the parent's FIN or RST from being sent.
        for connection in list(self.connections):
            connection.close_copies()
        if self._listener is not None:
            os.close(self._listener.detach())
        for own_socket in (self._waker, self._wakened):
            if own_socket.fileno() >= 0:
                os.close(own_socket.detach())
        self.selector.close()
        self._reservation.close()
