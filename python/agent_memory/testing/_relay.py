"""
One proxied connection: two ends, and a lane for each direction. Everything here runs in the engine's thread.

A lane takes chunks from its source, holds them as its direction's faults demand and passes them to its sink. What
becomes of a lane when its queue has drained is its `ending`; a lane that has swallowed bytes is `lost` and delivers
nothing more.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from agent_memory.testing._faults import DirectionFaults, ReplyDrop, RequestCut
from agent_memory.testing.resp import NotRespError, ReplySplitter, RequestPiece, RequestSplitter

if TYPE_CHECKING:
    import random

__all__ = ["BUFFER_BYTES", "Connection", "HangUp", "Host", "SocketAddress"]

# A lane stops reading while it holds this much; one read may exceed it by _READ_BYTES.
BUFFER_BYTES = 1 << 20
_READ_BYTES = 1 << 16
# A lane that slices finely yields to the others after so many sends.
_SENDS_PER_TURN = 128
# With a bandwidth limit, send what fits into so much time.
_BANDWIDTH_QUANTUM_S = 0.01
_CONNECT_RETRY_NS = 2_000_000
_RESET_LINGER = struct.pack("ii", 1, 0)

# After these the replies of a connection no longer match its requests one to one.
_UNTRACKED = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"})
_UNTRACKED |= {"MONITOR", "SYNC", "PSYNC"}

SocketAddress: TypeAlias = tuple[socket.AddressFamily, str | tuple[str, int]]
HangUp = Literal["reset", "fin"]
_Ending = Literal["shutdown", "reset", "close", "silence", "continue", "cut"]


class Host(Protocol):
    """What a connection needs of the engine whose thread it runs in."""

    upstream: SocketAddress
    up: DirectionFaults
    down: DirectionFaults
    random: random.Random
    paused: bool
    commands: dict[str, int]
    drops: list[ReplyDrop]
    cuts: list[RequestCut]
    selector: selectors.BaseSelector

    def call_at(self, when_ns: int, function: Callable[[], None]) -> None:
        """Call `function` at a time of the monotonic clock."""

    def count_bytes(self, faults: DirectionFaults, count: int) -> None:
        """Count bytes read for a direction."""

    def forget(self, connection: Connection) -> bool: ...


class End:
    """One socket of a connection."""

    __slots__ = ("_registered", "connecting", "connection", "incoming", "outgoing", "socket", "waiting")

    def __init__(self, connection: Connection, own_socket: socket.socket) -> None:
        self.connection = connection
        self.socket = own_socket
        self.connecting = False
        self.waiting = False  # for a time, not for an event
        self._registered = 0
        self.incoming: Lane  # the lane that this end feeds
        self.outgoing: Lane  # the lane that feeds this end

    @property
    def open(self) -> bool:
        return self.socket.fileno() >= 0

    def update_interest(self) -> None:
        """Tell the selector what this end waits for now."""
        if not self.open:
            return
        engine = self.connection.engine
        wanted = 0
        if not engine.paused and not self.waiting:
            if self.connecting or self.outgoing.blocked:
                wanted |= selectors.EVENT_WRITE
            if not self.connecting and self.incoming.wants_bytes:
                wanted |= selectors.EVENT_READ
        if wanted == self._registered:
            return
        if not wanted:
            engine.selector.unregister(self.socket)
        elif not self._registered:
            engine.selector.register(self.socket, wanted, self.on_ready)
        else:
            engine.selector.modify(self.socket, wanted, self.on_ready)
        self._registered = wanted

    def on_ready(self, mask: int) -> None:
        if not self.open:
            return
        if self.connecting:
            self.connection.finish_connecting()
        if mask & selectors.EVENT_WRITE and self.open:
            self.outgoing.blocked = False
            self.outgoing.pump()
        if mask & selectors.EVENT_READ and self.open and self.incoming.wants_bytes and not self.connecting:
            self._read()
        self.update_interest()
        self.connection.settle()

    def _read(self) -> None:
        try:
            chunk = self.socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.connection.broke(self)
            return
        if chunk:
            self.incoming.receive(chunk)
        else:
            self.incoming.source_ended()

    def shut_down_writing(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self, how: HangUp) -> None:
        """Close the socket; what was still to be delivered to it is lost."""
        if not self.open:
            return
        if self._registered:
            self.connection.engine.selector.unregister(self.socket)
            self._registered = 0
        if how == "reset":
            if self.socket.family != socket.AF_UNIX:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_LINGER)
        else:
            # Closing a socket with unread bytes sends a reset, so the FIN goes first and the bytes are read.
            self.shut_down_writing()
            self._drain()
        self.socket.close()
        self.incoming.eof = True
        self.outgoing.lose()

    def _drain(self) -> None:
        try:
            for _ in range(_SENDS_PER_TURN):
                if not self.socket.recv(_READ_BYTES):
                    return
        except OSError:
            return


class Lane:
    """One direction of a connection."""

    __slots__ = (
        "_last_due_ns",
        "_next_send_ns",
        "_offset",
        "_queue",
        "_timer_ns",
        "blocked",
        "buffered_bytes",
        "connection",
        "done",
        "ending",
        "eof",
        "faults",
        "filter",
        "lost",
        "sink",
        "source",
    )

    def __init__(self, source: End, sink: End, faults: DirectionFaults, chunk_filter: Callable[[bytes], bytes]) -> None:
        self.connection = source.connection
        self.source = source
        self.sink = sink
        self.faults = faults
        self.filter = chunk_filter
        source.incoming = self
        sink.outgoing = self
        self.eof = False  # the source gives nothing more
        self.lost = False  # bytes were swallowed
        self.done = False  # the end was passed to the sink
        self.blocked = False  # the sink's socket is full
        self.ending: _Ending | None = None
        self.buffered_bytes = 0
        self._queue: deque[tuple[int, bytes]] = deque()
        self._offset = 0
        self._last_due_ns = 0
        self._next_send_ns = 0
        self._timer_ns: int | None = None

    @property
    def wants_bytes(self) -> bool:
        return not self.eof and (self.lost or self.buffered_bytes < BUFFER_BYTES)

    def receive(self, chunk: bytes) -> None:
        self.connection.engine.count_bytes(self.faults, len(chunk))
        if self.lost or self.ending is not None:
            return
        if self.faults.black_hole:
            self.lose()
            return
        kept = self.filter(chunk)
        if kept:
            faults = self.faults
            due_ns = time.monotonic_ns()
            if faults.latency_s or faults.jitter_s:
                due_ns += int((faults.latency_s + faults.jitter_s * self.connection.engine.random.random()) * 1e9)
            self._last_due_ns = due_ns = max(due_ns, self._last_due_ns)
            self._queue.append((due_ns, kept))
            self.buffered_bytes += len(kept)
        self.pump()

    def pump(self) -> None:
        """Pass on what is due, as far as the sink takes it."""
        if self.connection.engine.paused or self.blocked or self.sink.connecting:
            self.sink.update_interest()
            return
        if self._queue and (self.faults.black_hole or not self.sink.open):
            self.lose()
        sends = 0
        while self._queue:
            due_ns, chunk = self._queue[0]
            when_ns = max(due_ns, self._next_send_ns)
            if when_ns > time.monotonic_ns() or sends == _SENDS_PER_TURN:
                self._wake_at(when_ns)
                break
            if not self._send_some(chunk):
                return
            sends += 1
        if not self._queue and self.ending is not None and not self.done:
            self._finish(self.ending)
        self.source.update_interest()

    def _send_some(self, chunk: bytes) -> bool:
        rest_bytes = len(chunk) - self._offset
        count = rest_bytes
        faults = self.faults
        slice_bytes, bandwidth = faults.slice_bytes, faults.bandwidth_bytes_per_s
        if slice_bytes is not None:
            count = min(count, slice_bytes)
        if bandwidth is not None:
            count = min(count, max(1, int(bandwidth * _BANDWIDTH_QUANTUM_S)))
        try:
            part = chunk if count == len(chunk) else memoryview(chunk)[self._offset : self._offset + count]
            sent = self.sink.socket.send(part)
        except (BlockingIOError, InterruptedError):
            self.blocked = True
            self.sink.update_interest()
            return False
        except OSError:
            self.connection.broke(self.sink)
            return False
        self.buffered_bytes -= sent
        self._offset += sent
        if sent == rest_bytes:
            self._queue.popleft()
            self._offset = 0
        gap_s = (faults.slice_gap_s if slice_bytes is not None else 0.0) + (sent / bandwidth if bandwidth else 0.0)
        if gap_s:
            self._next_send_ns = time.monotonic_ns() + int(gap_s * 1e9)
        return True

    def _wake_at(self, when_ns: int) -> None:
        if self._timer_ns is None or when_ns < self._timer_ns:
            self._timer_ns = when_ns
            self.connection.engine.call_at(when_ns, self._on_timer)

    def _on_timer(self) -> None:
        # An earlier timer may have taken the place of this one.
        if self._timer_ns is not None and self._timer_ns <= time.monotonic_ns():
            self._timer_ns = None
            self.pump()
            self.connection.settle()

    def hurry(self) -> None:
        """Let everything that is held back go now."""
        self._queue = deque((0, chunk) for _, chunk in self._queue)
        self._last_due_ns = self._next_send_ns = 0
        self.pump()

    def lose(self) -> None:
        """Swallow what is queued; from now on this lane delivers nothing."""
        self.lost = True
        self.blocked = False
        self._queue.clear()
        self.buffered_bytes = self._offset = 0

    def source_ended(self) -> None:
        """Take note that the source has sent its FIN."""
        self.eof = True
        if self.lost or self.faults.black_hole:
            # The other side never hears of it.
            self.lose()
            self.source.close("fin")
        elif self.ending is None:
            self.ending = "shutdown"
        self.pump()

    def _finish(self, ending: _Ending) -> None:
        self.done = True
        if ending == "shutdown" and not self.lost:
            self.sink.shut_down_writing()
        elif ending == "shutdown":
            # The news has vanished with the bytes.
            self.source.close("fin")
        elif ending == "silence":
            self.done = False
            self.lose()
        elif ending == "cut":
            self.connection.finish_cut()
        else:
            how: HangUp = "reset" if ending == "reset" else "fin"
            self.sink.close(how)
            self.source.close(how)


class Connection:
    """A client's connection and the one made for it to the upstream server."""

    def __init__(self, engine: Host, client_socket: socket.socket) -> None:
        """Take over an accepted socket and begin to connect upstream."""
        self.engine = engine
        family, self._address = engine.upstream
        server_socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            for own_socket in (client_socket, server_socket):
                own_socket.setblocking(False)
                if own_socket.family != socket.AF_UNIX:
                    own_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            server_socket.close()
            raise
        self.client = End(self, client_socket)
        self.server = End(self, server_socket)
        self.up = Lane(self.client, self.server, engine.up, self._filter_up)
        self.down = Lane(self.server, self.client, engine.down, self._filter_down)
        self._requests: RequestSplitter | None = RequestSplitter()
        self._replies: ReplySplitter | None = ReplySplitter()
        self._pending: deque[str] = deque()  # commands whose replies have not begun
        self._tracked = True
        self._dropping: ReplyDrop | None = None
        self._cut: RequestCut | None = None
        self._cut_bytes = 0

    @property
    def ends(self) -> tuple[End, End]:
        """Both ends."""
        return (self.client, self.server)

    # Connecting

    def connect(self) -> None:
        """Begin to connect upstream, or try again."""
        if not self.server.open:
            return
        code = self.server.socket.connect_ex(self._address)
        # A unix socket's backlog is full: no event reports the end of that.
        self.server.waiting = code == errno.EAGAIN
        self.server.connecting = code in (errno.EINPROGRESS, errno.EAGAIN)
        if self.server.waiting:
            self.engine.call_at(time.monotonic_ns() + _CONNECT_RETRY_NS, self.connect)
            self.client.update_interest()
            return
        if code not in (0, errno.EINPROGRESS):
            self.broke(self.server)
        for end in self.ends:
            end.update_interest()
        self.up.pump()
        self.settle()

    def finish_connecting(self) -> None:
        """Learn how a connection attempt has ended."""
        code = self.server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            self.server.connecting = False
            self.up.pump()
        elif code != errno.EINPROGRESS:
            self.broke(self.server)

    # Ending

    def broke(self, end: End) -> None:
        """Take note that an end's socket has failed: the other end is reset once it has what was on its way."""
        lane = end.incoming
        end.connecting = False
        end.close("reset")
        if lane.faults.black_hole or lane.lost or lane.ending == "silence":
            lane.lose()
        else:
            # Also where the other end has got a FIN already.
            lane.ending = "reset"
            lane.done = False
            lane.pump()
        for open_end in self.ends:
            open_end.update_interest()

    def hang_up(self, *, client: HangUp | None, server: HangUp | None) -> None:
        """Close one end or both at once; an end that stays open does not notice."""
        if client is not None:
            self.client.close(client)
        if server is not None:
            self.server.connecting = False
            self.server.close(server)
        if server is not None:
            self.up.lose()
            self.down.lose()
        for end in self.ends:
            end.update_interest()
        self.settle()

    def settle(self) -> None:
        """Close the ends that nothing can come from or go to; forget the connection when both are closed."""
        for end in self.ends:
            if end.open and end.incoming.eof and (end.outgoing.done or end.outgoing.lost):
                end.close("fin")
        if not self.client.open and not self.server.open and self.engine.forget(self) and self._cut is not None:
            # The connection ended before its cut was reached: another one gets it.
            self.engine.cuts.append(self._cut)

    # Requests

    def _filter_up(self, chunk: bytes) -> bytes:
        pieces: list[RequestPiece] = []
        if self._requests is not None:
            try:
                pieces = self._requests.feed(chunk)
            except NotRespError:
                # TLS, most likely. Bytes can still be delayed and lost, but not told apart.
                self._requests = self._replies = None
                self._tracked = False
        kept_bytes = self._find_cut(chunk, pieces)
        for piece in pieces:
            if piece.ends and piece.words and (kept_bytes is None or piece.end <= kept_bytes):
                self._note_command(piece.words)
        if kept_bytes is None:
            return chunk
        self.up.ending = "cut"
        return chunk[:kept_bytes]

    def _note_command(self, words: tuple[str, ...]) -> None:
        name = words[0]
        self.engine.commands[name] = self.engine.commands.get(name, 0) + 1
        if name in _UNTRACKED or words == ("CLIENT", "REPLY"):
            self._tracked = False
            self._pending.clear()
        if self._tracked:
            self._pending.append(name)

    def _find_cut(self, chunk: bytes, pieces: list[RequestPiece]) -> int | None:
        """Return how many bytes of `chunk` still go up if the connection is to be cut in it, else None."""
        start = 0
        if self._cut is None:
            claimed = self._claim_cut(pieces)
            if claimed is None:
                return None
            self._cut, start, self._cut_bytes = claimed
        rest_bytes = len(chunk) - start
        if self._cut_bytes > rest_bytes:
            self._cut_bytes -= rest_bytes
            return None
        return start + max(self._cut_bytes, 0)

    def _claim_cut(self, pieces: list[RequestPiece]) -> tuple[RequestCut, int, int] | None:
        for cut in self.engine.cuts:
            if cut.commands is None:
                self.engine.cuts.remove(cut)
                return cut, 0, cut.count_bytes
            for piece in pieces:
                if piece.words and piece.words[0] in cut.commands:
                    self.engine.cuts.remove(cut)
                    return cut, piece.start, cut.count_bytes - piece.offset
        return None

    def finish_cut(self) -> None:
        """Let the server see an end after the bytes it got, and do with the client what the cut says."""
        cut, self._cut = self._cut, None
        assert cut is not None
        # The server's end stays until the server closes it, so that no reset overtakes the bytes.
        self.up.done = True
        self.server.shut_down_writing()
        self.down.lose()
        if cut.then == "silence":
            self.up.lose()
        else:
            self.client.close("reset" if cut.then == "reset" else "fin")
        self.server.update_interest()
        self.client.update_interest()
        cut.note_done()

    # Replies

    def _filter_down(self, chunk: bytes) -> bytes:
        if self._replies is None:
            return chunk
        try:
            pieces = self._replies.feed(chunk)
        except NotRespError:
            self._replies = None
            self._tracked = False
            return chunk
        kept: list[bytes] = []
        for piece in pieces:
            if piece.begins and not piece.is_push:
                self._dropping = self._claim_drop()
            drop = self._dropping
            if drop is None or piece.is_push:
                kept.append(chunk[piece.start : piece.end])
            elif piece.ends:
                self._dropping = None
                drop.note_dropped()
                if drop.then != "continue" and not (drop.unclaimed and self._pending):
                    self.down.ending = drop.then
                    break
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def _claim_drop(self) -> ReplyDrop | None:
        if not self._tracked:
            return None
        command = self._pending.popleft() if self._pending else None
        drops = self.engine.drops
        for drop in drops:
            if drop.claim(command):
                if not drop.unclaimed:
                    drops.remove(drop)
                return drop
        return None

    def close_copies(self) -> None:
        """In a forked child: close the copies of both sockets, which tells the peers nothing."""
        for end in self.ends:
            descriptor = end.socket.detach()
            if descriptor >= 0:
                os.close(descriptor)
