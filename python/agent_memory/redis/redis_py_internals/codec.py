"""Packing and parsing inside redis-py's connections: our packer, and a scanner ahead of hiredis."""

from __future__ import annotations

from typing import Any, cast

from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser, _HiredisParser
from redis.connection import HiredisRespSerializer
from redis.exceptions import DataError, InvalidResponse

from agent_memory._core import ReplyScanner, pack_command

__all__ = [
    "NOT_ENOUGH_DATA",
    "reply_reader",
    "use_codec",
]


class _Packer(HiredisRespSerializer):
    """Packs by our own packer: hiredis' ends the process where a signal handler raises while it asks a number for its text."""

    def pack(self, *args: Any) -> list[bytes]:
        name, *others = args
        words = (name if isinstance(name, str) else bytes(name)).split()
        try:
            return [pack_command((*words, *map(_as_number_text, others)))]
        except TypeError as error:
            raise DataError(str(error)) from None


def _as_number_text(word: Any) -> Any:
    # Our packer leaves other numbers to the caller: an IntEnum is what str() says. A bool is refused, as redis-py does.
    return str(word) if isinstance(word, int) and type(word) not in (int, bool) else word


class _ScanningReader:
    """A hiredis reader that is given no attribute of RESP3, and nothing behind what is no reply."""

    __slots__ = ("_reader", "_scanner")

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._scanner = ReplyScanner()

    def feed(self, data: Any, offset: int = 0, count: int | None = None) -> None:
        """As hiredis'."""
        parts = self._scanner.scan(data, offset, len(data) - offset if count is None else count)
        if parts is not None:
            for part_offset, part_count in parts:
                self._reader.feed(data, part_offset, part_count)
        elif count is None:
            self._reader.feed(data)
        else:
            self._reader.feed(data, offset, count)

    def gets(self, *args: Any) -> Any:
        """As hiredis'; raises InvalidResponse where nothing comes any more because the stream is none of replies."""
        reply = self._reader.gets(*args)
        if reply is NOT_ENOUGH_DATA:
            violation = self._scanner.violation
            if violation is not None:
                raise InvalidResponse(violation)
        return reply

    def has_data(self) -> bool:
        """Whether something has come that has not been taken, also where it is only the beginning of a reply."""
        return self._reader.has_data() or not self._scanner.is_between_replies


class _ScanningParser(_HiredisParser):
    def on_connect(self, connection: Any, **kwargs: Any) -> None:
        cast(Any, super()).on_connect(connection, **kwargs)
        self._reader = cast(Any, _ScanningReader(self._reader))


class _AsyncScanningParser(_AsyncHiredisParser):
    __slots__ = ()

    def on_connect(self, connection: Any) -> None:
        cast(Any, super()).on_connect(connection)
        self._reader = cast(Any, _ScanningReader(self._reader))


_SCANNING: dict[type, type] = {_HiredisParser: _ScanningParser, _AsyncHiredisParser: _AsyncScanningParser}


def use_codec(connection: Any) -> None:
    """Have a connection of redis-py's pack by our packer, and scan what it is sent."""
    connection = getattr(connection, "_conn", connection)  # the one behind a cache
    if type(getattr(connection, "_command_packer", None)) is HiredisRespSerializer:
        connection._command_packer = _PACKER
    parser = getattr(connection, "_parser", None)
    scanning = _SCANNING.get(type(parser))
    if parser is not None and scanning is not None:
        parser.__class__ = scanning
        if getattr(parser, "_reader", None) is not None:  # connected already
            parser._reader = _ScanningReader(parser._reader)


_PACKER = _Packer()


def reply_reader(connection: Any) -> Any:
    """The hiredis reader of a connection whose parser is redis-py's own around hiredis; else None."""
    parser = connection._parser
    kind = type(parser)
    # A patched read_response must see every reply.
    return parser._reader if kind in _HIREDIS_PARSERS and kind.read_response in _HIREDIS_READS else None


_HIREDIS_PARSERS = frozenset({*_SCANNING, *_SCANNING.values()})


_HIREDIS_READS = frozenset({_HiredisParser.read_response, _AsyncHiredisParser.read_response})
