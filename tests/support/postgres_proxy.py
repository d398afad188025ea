"""A proxy in front of a PostgreSQL server that answers chosen statements with errors of the test's own.

It speaks the frontend/backend protocol as far as needed: it knows which statement each message belongs to, and puts an
ErrorResponse where the server would have put one. Statements that were not answered by it reach the server unchanged.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

LOST = "lost"
"""Instead of a SQLSTATE: the connection ends without a word, after the server has answered."""

FATAL_CLASSES = ("57P", "08", "25P03")
"""A server ends the connection after these."""

_ENCRYPTION = (80877103, 80877104)


class PostgresProxy:
    """Listens on the loopback, for a server behind a unix socket. `arm` begins to answer, `disarm` ends it."""

    def __init__(self, socket_path):
        self._path = str(socket_path)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._mutex = threading.Lock()
        self._matches = None
        self._code = ""
        self._left = 0
        self._seen = 0
        self.statements = []
        """The texts of the statements since `arm` or `watch`."""
        self.hits = 0
        self.hit = ""
        """The text of the last statement that was answered."""
        self._connections = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def watch(self):
        """Notes statements from now on, and answers none."""
        with self._mutex:
            self.statements, self._matches, self.hits = [], None, 0

    def arm(self, code, matches, times=1):
        """Answers the next `times` statements for which `matches(number from 0, text)` holds with a SQLSTATE."""
        with self._mutex:
            self.statements, self.hits = [], 0
            self._code, self._matches, self._left, self._seen = code, matches, times, 0

    def disarm(self):
        with self._mutex:
            self._matches = None

    def next_answer(self, text):
        """The SQLSTATE for a statement that has come, or None."""
        with self._mutex:
            self.statements.append(text)
            number, self._seen = self._seen, self._seen + 1
            if self._matches is None or not self._left or not self._matches(number, text):
                return None
            self._left -= 1
            self.hits += 1
            self.hit = text
            return self._code

    def close(self):
        # accept() ends first: a thread that waits on the number of a closed socket takes the connections of the next one.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in list(self._connections):
            connection.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._path)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(self, client, server)
        self._connections.add(connection)
        try:
            connection.run()
        finally:
            self._connections.discard(connection)


class _Connection:
    def __init__(self, proxy, client, server):
        self._proxy, self._client, self._server = proxy, client, server
        self._names = {}
        self._status = b"I"
        self._error = None  # goes to the client before the next ReadyForQuery
        self._loses = False  # the next ReadyForQuery ends the connection
        self._swallows = False  # until the next ReadyForQuery nothing goes to the client
        self._ready = threading.Event()

    def close(self):
        for one in (self._client, self._server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def run(self):
        with contextlib.suppress(OSError, EOFError):
            if self._start():
                threading.Thread(target=self._answers, daemon=True).start()
                self._questions()
        self.close()

    def _start(self):
        while True:
            head = _exactly(self._client, 8)
            length, code = struct.unpack("!ii", head)
            rest = _exactly(self._client, length - 8)
            if code not in _ENCRYPTION:
                self._server.sendall(head + rest)
                return True
            self._client.sendall(b"N")

    def _questions(self):
        discards = False
        while True:
            kind, body = _message(self._client)
            if kind == b"P":
                name, text, _ = body.split(b"\0", 2)
                self._names[name] = text.decode()
            elif kind == b"Q" and self._simple(body[:-1].decode()):
                continue
            elif kind == b"B":
                _, name, _ = body.split(b"\0", 2)
                code = None if discards else self._proxy.next_answer(self._names.get(name, ""))
                if code is not None and (code == LOST or code.startswith(FATAL_CLASSES)):
                    # What was sent with it is read first: a reset would take the answer with it.
                    while _message(self._client)[0] != b"S":
                        pass
                    self._ends(code)
                    return
                discards |= code is not None
                self._error = self._error or code
            elif kind == b"S":
                discards = False
            if discards and kind not in (b"S", b"P"):
                continue
            self._server.sendall(_packed(kind, body))

    def _simple(self, text):
        """Answers a simple query, or says that the server is to."""
        code = self._proxy.next_answer(text)
        if code is None:
            return False
        is_commit = text.upper().startswith("COMMIT")
        if code == LOST:
            self._loses = True
            return False
        if self._ends(code):
            return True
        if is_commit:  # the server rolls back, since the COMMIT never arrives
            self._ready.clear()
            self._swallows = True
            self._server.sendall(_packed(b"Q", b"ROLLBACK\0"))
            self._ready.wait()
        status = b"E" if self._status == b"T" and not is_commit else self._status
        self._client.sendall(_failure(code) + _packed(b"Z", status))
        return True

    def _ends(self, code):
        if code == LOST or code.startswith(FATAL_CLASSES):
            if code != LOST:
                self._client.sendall(_failure(code, "FATAL"))
            self.close()
            return True
        return False

    def _answers(self):
        with contextlib.suppress(OSError, EOFError):
            while True:
                kind, body = _message(self._server)
                if kind == b"Z":
                    self._status = body
                    if self._loses:
                        break
                    if self._swallows:
                        self._swallows = False
                        self._ready.set()
                        continue
                    if self._error is not None:
                        code, self._error = self._error, None
                        body = b"E" if body == b"T" else body
                        self._client.sendall(_failure(code))
                if not self._swallows:
                    self._client.sendall(_packed(kind, body))
        self.close()
        self._ready.set()


def _failure(code, severity="ERROR"):
    fields = {b"S": severity, b"V": severity, b"C": code, b"M": f"forged {code}"}
    return _packed(b"E", b"".join(name + value.encode() + b"\0" for name, value in fields.items()) + b"\0")


def _packed(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body


def _message(source):
    kind, length = struct.unpack("!ci", _exactly(source, 5))
    return kind, _exactly(source, length - 4)


def _exactly(source, count):
    data = b""
    while len(data) < count:
        part = source.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
