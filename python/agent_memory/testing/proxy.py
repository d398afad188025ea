"""A TCP proxy on loopback that injects faults between a client and a server, for tests."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar
from urllib.parse import quote

from agent_memory import _check
from agent_memory.embedded.errors import ServerError
from agent_memory.embedded.server import EmbeddedServer
from agent_memory.testing._engine import Engine
from agent_memory.testing._faults import DirectionFaults, ReplyDrop, RequestCut, Then, check_then
from agent_memory.testing._relay import BUFFER_BYTES, SocketAddress

__all__ = ["DirectionFaults", "FaultProxy", "ReplyDrop", "RequestCut", "Upstream"]

Upstream: TypeAlias = EmbeddedServer | tuple[str, int] | str | os.PathLike[str]
"""A server of ours, (host, port), or the path of a unix socket."""

Direction: TypeAlias = Literal["both", "up", "down"]
_HOST = "127.0.0.1"
_Result = TypeVar("_Result")


class FaultProxy:
    """
    Listens on a free port of 127.0.0.1 and passes bytes on to `upstream`, with the faults that are set.

    Faults are set and lifted at any time, from any thread; a method has taken effect when it returns. `up` is the
    direction from client to server, `down` the one from server to client: their attributes (latency_s, slice_bytes and
    more) delay and slice. `heal()` lifts everything.

    The proxy follows RESP, so it can drop exactly one reply or tear one request. It does not follow TLS: there, faults
    that speak of replies or commands never happen, the others do. Nor does it match replies with requests on a
    connection that has subscribed, monitors, or has used CLIENT REPLY: no reply is dropped on it.

    What a proxy can't imitate: the kernel still acknowledges bytes that a black hole swallows, and a client whose
    upstream is down sees its connection accepted and then reset (use refuse() for a refused one).

    Each direction of a connection holds at most `buffer_bytes` and then stops reading, so a latency bounds the
    throughput. The proxy has a thread of its own, which ends with stop(), at the end of a `with` block, when the object
    is garbage collected and at interpreter exit. Thread-safe. A forked child has no proxy: there, methods raise ServerError and
    stop() does nothing.

    - `upstream`: an EmbeddedServer, (host, port), or the path of a unix socket.
    - `seed` (0): of the jitter.

    Raises OSError if a host name can't be resolved, TypeError for an upstream of another kind, ValueError for a seed that is no
    whole number >= 0.
    """

    buffer_bytes = BUFFER_BYTES

    def __init__(self, upstream: Upstream, *, seed: int = 0) -> None:
        """See the class; nothing happens before start()."""
        _check.whole("seed", seed, 0)
        self._upstream = upstream
        self._seed = seed
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._finalizer: weakref.finalize[[], FaultProxy] | None = None
        if not isinstance(upstream, EmbeddedServer):
            # A server may be started later; anything else is looked up now.
            _resolve(upstream)

    # Life

    def start(self) -> Self:
        """Listen; do nothing if it was started. Raises ServerError if the upstream server was not started, OSError."""
        with self._lock:
            if self._engine is None:
                self._engine = engine = Engine(_resolve(self._upstream), self._seed)
                self._finalizer = weakref.finalize(self, engine.stop)
        return self

    def stop(self) -> None:
        """Close every connection (FIN) and end the thread; counters stay readable. Repeatable, from any thread."""
        if self._finalizer is not None:
            self._finalizer()
        if self._engine is not None:
            # Another thread may have begun to stop it.
            self._engine.stop()

    close = stop

    def __enter__(self) -> Self:
        """start()."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """stop()."""
        self.stop()

    def __repr__(self) -> str:
        """Without credentials."""
        engine = self._engine
        if engine is None:
            return "<FaultProxy not started>"
        return f"<FaultProxy {_HOST}:{engine.port} connections={len(engine.connections)}>"

    # How to reach it

    @property
    def host(self) -> str:
        """Always 127.0.0.1."""
        return _HOST

    @property
    def port(self) -> int:
        """The port, the same until stop(). Raises ServerError before start()."""
        return self._require_engine().port

    @property
    def connection_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for redis-py's clients (and ours), with the credentials of an upstream EmbeddedServer."""
        kwargs: dict[str, Any] = {}
        if isinstance(self._upstream, EmbeddedServer):
            kwargs = self._upstream.connection_kwargs
            kwargs.pop("unix_socket_path", None)
        return kwargs | {"host": _HOST, "port": self.port}

    @property
    def url(self) -> str:
        """The same as a URL for from_url."""
        kwargs = self.connection_kwargs
        credentials = f":{quote(kwargs['password'], safe='')}@" if "password" in kwargs else ""
        if "ssl_ca_certs" in kwargs:
            authority = quote(kwargs["ssl_ca_certs"], safe="")
            return f"rediss://{credentials}{_HOST}:{self.port}/0?ssl_ca_certs={authority}"
        return f"redis://{credentials}{_HOST}:{self.port}/0"

    @property
    def upstream(self) -> Upstream:
        """Where new connections go; set it at any time. Existing ones stay. Raises what the constructor raises."""
        return self._upstream

    @upstream.setter
    def upstream(self, upstream: Upstream) -> None:
        address = _resolve(upstream)
        self._upstream = upstream
        if self._engine is not None:
            self._engine.upstream = address

    # Counters

    @property
    def connections_accepted(self) -> int:
        """How many connections have been accepted. Raises ServerError before start()."""
        return self._require_engine().connections_accepted

    @property
    def connections_open(self) -> int:
        """How many connections have an end that is open. Raises ServerError before start()."""
        return len(self._require_engine().connections)

    @property
    def up_bytes(self) -> int:
        """How many bytes clients have sent, swallowed ones included. Raises ServerError before start()."""
        return self._require_engine().up_bytes

    @property
    def down_bytes(self) -> int:
        """How many bytes the server has sent, swallowed ones included. Raises ServerError before start()."""
        return self._require_engine().down_bytes

    @property
    def commands(self) -> dict[str, int]:
        """How often each command (name in upper case) was taken to be passed on, complete requests only."""
        return self._call(lambda engine: dict(engine.commands))

    # Faults by direction

    @property
    def up(self) -> DirectionFaults:
        """The faults on the way from client to server. Raises ServerError before start()."""
        return self._require_engine().up

    @property
    def down(self) -> DirectionFaults:
        """The faults on the way from server to client. Raises ServerError before start()."""
        return self._require_engine().down

    def black_hole(self, direction: Direction = "both") -> None:
        """
        Let all bytes of a `direction` ("both", "up" or "down") vanish while connections stay open; new ones are silent.

        Raises ValueError for another direction, ServerError before start(). See DirectionFaults.black_hole for what becomes
        of the connections afterwards.
        """
        if direction not in ("both", "up", "down"):
            raise ValueError(f"direction must be 'both', 'up' or 'down', got {direction!r}")

        def set_flags(engine: Engine) -> None:
            engine.up.black_hole |= direction != "down"
            engine.down.black_hole |= direction != "up"

        self._call(set_flags)

    def pause(self) -> None:
        """Stand still: nothing is accepted, read or passed on, nothing is lost. Ended by resume()."""
        self._call(lambda engine: engine.set_paused(True))

    def resume(self) -> None:
        """Go on after pause()."""
        self._call(lambda engine: engine.set_paused(False))

    def heal(self) -> None:
        """
        Lift every fault: directions, refuse(), pause(), armed drops and cuts. What is held back goes on at once.

        Connections that have lost bytes stay silent.
        """

        def heal(engine: Engine) -> None:
            engine.up.clear()
            engine.down.clear()
            engine.drops.clear()
            engine.cuts.clear()
            engine.listen()
            engine.set_paused(False)
            engine.hurry()

        self._call(heal)

    # Faults of connections

    def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED); existing ones go on. Ended by accept()."""
        self._call(Engine.stop_listening)

    def accept(self) -> None:
        """Accept new connections again, on the same port."""
        self._call(Engine.listen)

    def reset(self, side: Literal["both", "client"] = "both") -> None:
        """
        Reset every connection (RST) on a `side` ("both" or "client"): the client sees ECONNRESET.

        Raises ValueError for another side. With side="client" the server does not notice: its end stays open and still gets
        what the proxy has taken from the client and not yet passed on, as with a network that delivers late. It closes with
        the server's end, or stop().
        """
        if side not in ("both", "client"):
            raise ValueError(f"side must be 'both' or 'client', got {side!r}")
        self._hang_up(client="reset", server="reset" if side == "both" else None)

    def close_connections(self) -> None:
        """Close every connection in order (FIN to both sides); what is held back is lost."""
        self._hang_up(client="fin", server="fin")

    def half_open(self) -> None:
        """Close the server's end of every connection and tell the client nothing: its end stays open and silent."""
        self._hang_up(client=None, server="fin")

    # Faults of replies and requests

    def drop_replies(
        self, count: int = 1, *, command: str | Iterable[str] | None = None, then: Then = "silence"
    ) -> ReplyDrop:
        """
        Pass requests on, let the server execute them, and drop the next `count` (1) replies.

        `command` names the commands whose replies are meant (default: any, those of a connection's handshake included).
        Pushes are no replies. A connection that has lost a reply gets `then` ("silence") as soon as `count` is reached or
        it awaits no other reply:

        - "silence" (default): it stays open and delivers no more replies, as when the network has lost them;
        - "reset" or "close": RST or FIN to both sides, after what came before has been delivered;
        - "continue": later replies are delivered. No network does that: the client gets them in the wrong place.

        The returned handle counts what has been dropped and can be waited for: then the server has executed the
        command. Several calls add up. Raises ValueError for an argument outside its rule.
        """
        _check.whole("count", count, 1)
        check_then(then, ("silence", "reset", "close", "continue"))
        drop = ReplyDrop(count, _names(command), then)
        self._call(lambda engine: engine.drops.append(drop))
        return drop

    def cut_after_bytes(
        self,
        count_bytes: int,
        *,
        command: str | Iterable[str] | None = None,
        then: Literal["reset", "close", "silence"] = "reset",
    ) -> RequestCut:
        """
        Tear a request: pass `count_bytes` more bytes up on one connection, then cut it.

        Without `command` that is the first connection to send anything, counted from there; with it, the first that
        sends one of these commands, counted from the command's first byte (in one piece with its name, as clients write
        it). The server sees an orderly end after the bytes; by `then` the client gets RST ("reset", the default), FIN
        ("close") or nothing ("silence"). The returned handle can be waited for. Raises ValueError for an argument outside its
        rule.
        """
        _check.whole("count_bytes", count_bytes, 0)
        check_then(then, ("reset", "close", "silence"))
        cut = RequestCut(count_bytes, _names(command), then)
        self._call(lambda engine: engine.cuts.append(cut))
        return cut

    def _hang_up(self, *, client: Literal["reset", "fin"] | None, server: Literal["reset", "fin"] | None) -> None:
        def hang_up(engine: Engine) -> None:
            for connection in list(engine.connections):
                connection.hang_up(client=client, server=server)

        self._call(hang_up)

    def _require_engine(self) -> Engine:
        if self._engine is None:
            raise ServerError("the proxy was not started: call start()")
        return self._engine

    def _call(self, function: Callable[[Engine], _Result]) -> _Result:
        engine = self._require_engine()
        if os.getpid() != engine.owner_pid:
            raise ServerError(f"the proxy belongs to process {engine.owner_pid}, not to its forked child")
        return engine.call(lambda: function(engine))


def _names(command: str | Iterable[str] | None) -> frozenset[str] | None:
    if command is None:
        return None
    if not isinstance(command, str):
        _check.iterable("command", command, "names")
        command = list(command)
        for name in command:
            _check.text("command", name)
    return frozenset(name.upper() for name in ([command] if isinstance(command, str) else command))


def _resolve(upstream: Upstream) -> SocketAddress:
    if isinstance(upstream, EmbeddedServer):
        kwargs = upstream.connection_kwargs
        if "unix_socket_path" in kwargs:
            return socket.AF_UNIX, kwargs["unix_socket_path"]
        upstream = (kwargs["host"], kwargs["port"])
    if isinstance(upstream, str | os.PathLike):
        return socket.AF_UNIX, os.fspath(upstream)
    if isinstance(upstream, tuple) and len(upstream) == 2:
        family, _, _, _, address = socket.getaddrinfo(*upstream, type=socket.SOCK_STREAM)[0]
        return family, (str(address[0]), int(address[1]))
    raise TypeError(f"upstream must be an EmbeddedServer, (host, port) or the path of a unix socket, got {upstream!r}")
