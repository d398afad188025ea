"""
Find the boundaries of requests and replies in a RESP2 or RESP3 byte stream, however it is cut into chunks.

Nothing is decoded and, but for headers, nothing is kept: a chunk goes in, the positions of the values in it come out.
So a proxy can pass a large value on while it still arrives and yet leave out exactly one reply. Pure; not thread-safe.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

__all__ = ["NotRespError", "ReplyPiece", "ReplySplitter", "RequestPiece", "RequestSplitter"]

_HEADER_BYTES_MAX = 1 << 20
# Enough for the longest command name and its subcommand.
_WORD_BYTES_MAX = 64

_SIMPLE = frozenset(b"+-:_#,(")
_BULK = frozenset(b"$=!")
_LISTS = frozenset(b"*~>")
_MAPS = frozenset(b"%|")

_FIRST = _SIMPLE | _BULK | _LISTS | _MAPS

_UNTIL_END = -1  # a streamed aggregate: any number of elements, then "."
_CHUNKS = -2  # a streamed string: chunks, the last one empty


class NotRespError(ValueError):
    """The bytes are not RESP; the stream can't be followed any further."""


class ReplyPiece(NamedTuple):
    """The part of one top-level value that lies in chunk[start:end]."""

    start: int
    end: int
    begins: bool
    ends: bool
    is_push: bool


class _Frame:
    """An aggregate that is not complete yet."""

    __slots__ = ("is_attribute", "remaining")

    def __init__(self, remaining: int, is_attribute: bool) -> None:
        self.remaining = remaining
        self.is_attribute = is_attribute


class ReplySplitter:
    """
    Splits what a server sends into top-level values: replies and pushes.

    All RESP2 and RESP3 types, nested at will, streamed strings and aggregates included; an attribute belongs to the
    value that follows it.
    """

    def __init__(self) -> None:
        """Begin between two values."""
        self._stack: list[_Frame] = []
        self._header = bytearray()
        self._body_bytes = 0
        self._inside = False
        self._is_push = False

    def feed(self, chunk: bytes) -> list[ReplyPiece]:
        """
        Return the pieces of `chunk` in order; together they cover it.

        Raises NotRespError, and from then on at every call.
        """
        pieces: list[ReplyPiece] = []
        position, size = 0, len(chunk)
        start, begins = 0, not self._inside
        while position < size:
            if not self._inside:
                self._inside = True
                self._is_push = chunk[position] == 0x3E  # ">"
                if chunk[position] not in _FIRST:
                    self._fail(chunk[position : position + 1])
            if self._body_bytes:
                step = min(self._body_bytes, size - position)
                position += step
                self._body_bytes -= step
                complete = not self._body_bytes and self._end_value()
            else:
                newline = chunk.find(b"\n", position)
                if newline < 0:
                    self._keep_header(chunk[position:])
                    position = size
                    break
                header = chunk[position:newline]
                if self._header:
                    header = bytes(self._header) + header
                    self._header.clear()
                position = newline + 1
                complete = self._take_header(header)
            if complete:
                pieces.append(ReplyPiece(start, position, begins, True, self._is_push))
                start, begins = position, True
                self._inside = False
        if start < size:
            pieces.append(ReplyPiece(start, size, begins, False, self._is_push))
        return pieces

    def _keep_header(self, part: bytes) -> None:
        self._header += part
        if len(self._header) > _HEADER_BYTES_MAX:
            raise NotRespError(f"no end of line in {_HEADER_BYTES_MAX} bytes")

    def _take_header(self, header: bytes) -> bool:
        """Take one line (without its newline); return whether it completes the top-level value."""
        if len(header) < 2 or header[-1] != 0x0D:
            self._fail(header)
        kind = header[0]
        if kind in _SIMPLE:
            return self._end_value()
        if kind in _BULK:
            return self._begin_bulk(header)
        if kind in _LISTS or kind in _MAPS:
            return self._begin_aggregate(header)
        return self._go_on_streaming(header)

    def _go_on_streaming(self, header: bytes) -> bool:
        """Take a line that only a streamed value may have: a chunk's length, or the end."""
        streamed = self._stack[-1].remaining if self._stack else 0
        if streamed == _UNTIL_END and header == b".\r":
            return self._end_frame()
        if streamed != _CHUNKS or header[:1] != b";":
            self._fail(header)
        length = self._length(header)
        if length == 0:
            return self._end_frame()
        self._body_bytes = length + 2
        return False

    def _begin_bulk(self, header: bytes) -> bool:
        if header == b"$?\r":
            self._stack.append(_Frame(_CHUNKS, is_attribute=False))
            return False
        length = self._length(header)
        if length < 0:
            return self._end_value()
        self._body_bytes = length + 2
        return False

    def _begin_aggregate(self, header: bytes) -> bool:
        is_attribute = header[0] == 0x7C  # "|"
        if header[1:] == b"?\r":
            self._stack.append(_Frame(_UNTIL_END, is_attribute))
            return False
        length = self._length(header)
        if length <= 0:
            return False if is_attribute else self._end_value()
        self._stack.append(_Frame(2 * length if header[0] in _MAPS else length, is_attribute))
        return False

    def _end_value(self) -> bool:
        """Count a value that is complete; return whether it completes the top-level value."""
        stack = self._stack
        while stack:
            top = stack[-1]
            if top.remaining < 0:
                # Elements of a streamed aggregate are not counted; the body of a chunk is no value.
                return False
            top.remaining -= 1
            if top.remaining:
                return False
            stack.pop()
            if top.is_attribute:
                # The value that it describes is still to come.
                return False
        return True

    def _end_frame(self) -> bool:
        return False if self._stack.pop().is_attribute else self._end_value()

    def _length(self, header: bytes) -> int:
        digits = header[1:-1]
        if not digits.removeprefix(b"-").isdigit() or len(digits) > 19:
            self._fail(header)
        return int(digits)

    def _fail(self, header: bytes) -> NoReturn:
        # Stays unreadable: the kept header makes the next line fail as well.
        self._header[:] = b"\x00"
        self._stack.clear()
        self._body_bytes = 0
        raise NotRespError(f"not a RESP header, {len(header)} bytes long, first byte {header[:1]!r}")


class RequestPiece(NamedTuple):
    """
    The part of one request that lies in chunk[start:end].

    `offset` bytes of it came in earlier chunks. `words` are the command's name and first argument in upper case as far
    as known by the end of the piece: empty before the name is complete, and for a request that is no command (an empty
    line).
    """

    start: int
    end: int
    offset: int
    begins: bool
    ends: bool
    words: tuple[str, ...]


class RequestSplitter:
    """Splits what a client sends into requests: arrays of bulk strings, and inline commands."""

    def __init__(self) -> None:
        """Begin between two requests."""
        self._header = bytearray()
        self._arguments = 0
        self._body_bytes = 0
        self._word = bytearray()
        self._words: list[str] = []
        self._offset = 0

    def feed(self, chunk: bytes) -> list[RequestPiece]:
        """Return the pieces of `chunk` in order; together they cover it. Raises NotRespError."""
        pieces: list[RequestPiece] = []
        position, size = 0, len(chunk)
        start = 0
        while position < size:
            if start == position and not self._offset:
                self._words.clear()
                if chunk[position] < 0x20 and chunk[position] not in b"\r\n\t":
                    raise NotRespError(f"a request can't begin with byte {chunk[position]:#04x}")
            if self._body_bytes:
                position = self._take_body(chunk, position)
                complete = not self._body_bytes and not self._arguments
            else:
                newline = chunk.find(b"\n", position)
                if newline < 0:
                    self._header += chunk[position:]
                    if len(self._header) > _HEADER_BYTES_MAX:
                        raise NotRespError(f"no end of line in {_HEADER_BYTES_MAX} bytes")
                    position = size
                    break
                header = bytes(self._header) + chunk[position:newline]
                self._header.clear()
                position = newline + 1
                complete = self._take_header(header.removesuffix(b"\r"))
            if complete:
                pieces.append(self._piece(start, position, ends=True))
                start = position
                self._offset = 0
        if start < size:
            pieces.append(self._piece(start, size, ends=False))
            self._offset += size - start
        return pieces

    def _piece(self, start: int, end: int, *, ends: bool) -> RequestPiece:
        return RequestPiece(start, end, self._offset, not self._offset, ends, tuple(self._words))

    def _take_body(self, chunk: bytes, position: int) -> int:
        step = min(self._body_bytes, len(chunk) - position)
        if len(self._words) < 2 and len(self._word) < _WORD_BYTES_MAX:
            self._word += chunk[position : position + min(step, _WORD_BYTES_MAX)]
        self._body_bytes -= step
        if not self._body_bytes:
            self._arguments -= 1
            if len(self._words) < 2:
                self._words.append(self._word.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1").upper())
                self._word.clear()
        return position + step

    def _take_header(self, header: bytes) -> bool:
        """Take one line; return whether it completes the request."""
        if self._arguments:
            if header[:1] != b"$" or not header[1:].isdigit():
                raise NotRespError("a request's argument is not a bulk string")
            self._body_bytes = int(header[1:]) + 2
            return False
        if header[:1] == b"*":
            count = header[1:]
            if not count.removeprefix(b"-").isdigit():
                raise NotRespError("a request's number of arguments is not a number")
            self._arguments = max(int(count), 0)
            return not self._arguments
        if any(byte < 0x20 and byte != 0x09 for byte in header[:_WORD_BYTES_MAX]):
            raise NotRespError("neither RESP nor an inline command")
        self._words = [word.decode("latin-1").upper() for word in header.split()[:2]]
        return True
