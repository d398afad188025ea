"""What a command does to its keys: which it touches, whether repeating it is harmless, whether it overwrites what was there.

For writes that wait in the recovery queue, for those that must not overtake them, and for commands that may take a second
connection. The positions of keys follow the
servers' own table (COMMAND on Valkey 9.1 and Redis 7.0). A command that is in no table (a module's) is taken to write the key
that is its first argument, and to be relative.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from agent_memory.policy import CommandCategory
from agent_memory.redis.commands.categories import ABSOLUTE_WRITES, READS, RELATIVE_WRITES, category_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "KNOWN_NAMES",
    "ONE_KEY",
    "check_queueable",
    "is_absolute",
    "keys_of",
    "name_of",
    "overwrites",
    "touched_keys",
    "with_absolute_expiry",
]

_ALL: Final = frozenset("DEL UNLINK PFMERGE SDIFFSTORE SINTERSTORE SUNIONSTORE".split())
_PAIRS: Final = frozenset("MSET MSETNX".split())
_FIRST_TWO: Final = frozenset(
    "COPY GEOSEARCHSTORE LMOVE RENAME RENAMENX RPOPLPUSH SMOVE ZRANGESTORE".split()
)  # fmt: skip
_COUNTED: Final = {"EVAL": 2, "EVALSHA": 2, "FCALL": 2, "LMPOP": 1, "ZMPOP": 1}
"""The position of the word that gives the number of keys. The keys follow it."""
_STORED_AND_COUNTED: Final = frozenset("ZDIFFSTORE ZINTERSTORE ZUNIONSTORE".split())
_WITH_STORE: Final = frozenset("SORT GEORADIUS GEORADIUSBYMEMBER".split())
_SEVERAL_KEYS: Final = frozenset(
    {*_ALL, *_PAIRS, *_FIRST_TWO, "BITOP", *_COUNTED, *_STORED_AND_COUNTED, "MSETEX", *_WITH_STORE}
)
_TOUCH_NO_KEY: Final = frozenset("ECHO EXEC MULTI PING TIME".split())
_ALL_READ: Final = frozenset("EXISTS MGET PFCOUNT SDIFF SINTER SUNION TOUCH".split())
_COUNTED_READ: Final = {"EVALSHA_RO": 2, "EVAL_RO": 2, "FCALL_RO": 2, "SINTERCARD": 1, "ZDIFF": 1, "ZINTER": 1,
                        "ZINTERCARD": 1, "ZUNION": 1}  # fmt: skip
_SORTS: Final = frozenset({"SORT", "SORT_RO"})
_SEVERAL_READ: Final = frozenset({*_ALL_READ, *_COUNTED_READ, *_SORTS, "LCS"})
_ANY_KEY: Final = frozenset(
    "CLUSTERSCAN COMMAND DBSIZE INFO KEYS LASTSAVE LOLWUT RANDOMKEY ROLE SCAN STRALGO XREAD".split()
)
"""Reads whose keys do not follow from their words."""
_KEY_AFTER: Final = frozenset({("MEMORY", "USAGE"), ("XINFO", "CONSUMERS"), ("XINFO", "GROUPS"), ("XINFO", "STREAM")})
_CHANNELS: Final = frozenset("PUBLISH SPUBLISH".split())
ONE_KEY: Final = {
    name: 1
    for name in (READS | ABSOLUTE_WRITES | RELATIVE_WRITES) - _SEVERAL_KEYS - _SEVERAL_READ - _ANY_KEY - _TOUCH_NO_KEY
    if " " not in name
}
"""The commands that name exactly one key, by name, with its place among the words."""
_NOT_QUEUEABLE: Final = frozenset("FLUSHALL FLUSHDB SWAPDB MIGRATE SHUTDOWN FAILOVER REPLICAOF SLAVEOF DEBUG".split())
"""Writes without keys that order could be kept by, and commands for the server rather than for its data."""

_EXPIRY_OPTIONS: Final = frozenset({"EX", "PX", "EXAT", "PXAT"})
_MILLISECONDS: Final = {"EX": 1000, "PX": 1, "EXPIRE": 1000, "PEXPIRE": 1, "SETEX": 1000, "PSETEX": 1, "HEXPIRE": 1000,
                        "HPEXPIRE": 1}  # fmt: skip
_ABSOLUTE_NAMES: Final = {
    "EXPIRE": "PEXPIREAT",
    "PEXPIRE": "PEXPIREAT",
    "HEXPIRE": "HPEXPIREAT",
    "HPEXPIRE": "HPEXPIREAT",
}
_FIRST_OPTION: Final = {"SET": 3, "GETEX": 2, "HSETEX": 2, "HGETEX": 2}
"""Where the options of commands that take EX and PX begin."""
_STOPS_OPTIONS: Final = frozenset({"FVS", "FIELDS"})
_MAY_EXPIRE: Final = frozenset({*_ABSOLUTE_NAMES, *_FIRST_OPTION, "SETEX", "PSETEX", "RESTORE", "MSETEX"})


KNOWN_NAMES: Final = 1_024
"""How many names of commands are remembered in their plain form; there are 400 or so."""


@lru_cache(maxsize=KNOWN_NAMES)
def name_of(word: Any) -> str:
    """The name of a command, the first of its words as redis-py has it ("SET", "XGROUP CREATE"), in upper case."""
    return (word if isinstance(word, str) else bytes(word).decode("ascii", "replace")).strip().upper()


@lru_cache(maxsize=KNOWN_NAMES)
def check_queueable(name: str) -> None:
    """Raises ValueError unless `name` (upper case) is a write of keys that may be tried again later."""
    category = category_of(name)
    writes = category in (CommandCategory.ABSOLUTE_WRITE, CommandCategory.RELATIVE_WRITE)
    # Commands of two words speak to the server, but for those of streams.
    if not writes or name in _NOT_QUEUEABLE or (" " in name and not name.startswith("XGROUP ")):
        raise ValueError(f"with_priority() must be given a write of keys, got {name}")


def keys_of(args: Sequence[Any]) -> list[bytes]:
    """The keys that a write names, each as the bytes it is sent as; a key may come twice. `args` is the whole command."""
    name = name_of(args[0])
    if name not in _SEVERAL_KEYS:
        return [as_bytes(key) for key in args[1:2]]
    if name in _ALL:
        keys: Sequence[Any] = args[1:]
    elif name in _PAIRS:
        keys = args[1::2]
    elif name in _FIRST_TWO:
        keys = args[1:3]
    elif name == "BITOP":
        keys = args[2:]
    elif name in _COUNTED:
        place = _COUNTED[name]
        keys = args[place + 1 : place + 1 + _count(args, place)]
    elif name in _STORED_AND_COUNTED:
        keys = (args[1], *args[3 : 3 + _count(args, 2)])
    elif name == "MSETEX":
        keys = args[2 : 2 + 2 * _count(args, 1) : 2]
    else:
        stored = [args[i + 1] for i, word in enumerate(args[:-1]) if i > 1 and _text(word) in {"STORE", "STOREDIST"}]
        keys = (args[1], *stored)
    return [as_bytes(key) for key in keys]


def touched_keys(args: Sequence[Any], *, whole: bool = True) -> list[bytes] | None:
    """The keys that a command reads or writes, one word each; None where they do not follow from its words.

    A message touches nothing but its channel, which stands for a key here. `args` are the words as they are sent, without the
    last ones if it is not the `whole` command.
    """
    name = name_of(args[0])
    if not whole and (name in _SEVERAL_KEYS or name in _SEVERAL_READ):
        return None
    second = _text(args[1]) if len(args) > 1 else ""
    known: Sequence[Any] | None = None
    if name in _TOUCH_NO_KEY:
        known = ()
    elif name in _CHANNELS:
        known = [b"channel " + as_bytes(channel) for channel in args[1:2]]
    elif name in {"OBJECT", "XGROUP"} or (name, second) in _KEY_AFTER:
        known = args[2:3]
    elif name in _SORTS and any(_text(word) in {"BY", "GET"} for word in args[2:]):
        known = None
    elif name in _ALL_READ:
        known = args[1:]
    elif name in _COUNTED_READ:
        known = args[_COUNTED_READ[name] + 1 :][: _count(args, _COUNTED_READ[name])]
    elif name == "LCS":
        known = args[1:3]
    elif name in ABSOLUTE_WRITES or name in RELATIVE_WRITES:
        known = keys_of(args)
    elif name in READS and name not in _ANY_KEY:
        known = args[1:2]
    if known is None or (not known and name not in _TOUCH_NO_KEY):  # a script may touch what it does not name
        return None
    return [as_bytes(key) for key in known]


def as_bytes(word: Any) -> bytes:
    """A word of a command as the bytes it is sent as."""
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, bytearray | memoryview):
        return bytes(word)
    return repr(word).encode()


def is_absolute(args: Sequence[Any]) -> bool:
    """Whether executing a write again leaves the same data: an absolute write without conditions."""
    name = name_of(args[0])
    if category_of(name) is not CommandCategory.ABSOLUTE_WRITE:
        return False
    if name == "SET":
        return _only_expires(args, 3)
    if name == "ZADD":
        return _text(args[2]) not in {"NX", "XX", "GT", "LT", "CH", "INCR"}
    if name == "HSETEX":
        return not any(_text(word) in {"FNX", "FXX"} for word in args[2:4])
    if name in {"EXPIREAT", "PEXPIREAT"}:
        return len(args) == 3
    return True


def overwrites(args: Sequence[Any]) -> bool:
    """Whether a write decides all of its one key, whatever was there before."""
    name = name_of(args[0])
    if name in {"DEL", "UNLINK"}:
        return len(args) == 2
    if name == "SET":
        return _only_expires(args, 3)
    return name in {"SETEX", "PSETEX"}


def with_absolute_expiry(args: tuple[Any, ...], now_ms: int) -> tuple[Any, ...]:
    """The same write with the moment of expiry instead of a duration, counted from `now_ms` (milliseconds since 1970).

    A duration that cannot be read as a whole number is left to the server to refuse.
    """
    name = name_of(args[0])
    if name not in _MAY_EXPIRE:
        return args
    try:
        if name in _ABSOLUTE_NAMES:
            return (_ABSOLUTE_NAMES[name], args[1], now_ms + int(args[2]) * _MILLISECONDS[name], *args[3:])
        if name in {"SETEX", "PSETEX"}:
            return ("SET", args[1], args[3], "PXAT", now_ms + int(args[2]) * _MILLISECONDS[name])
        if name == "RESTORE" and int(args[2]) > 0 and not any(_text(word) == "ABSTTL" for word in args[4:]):
            return (*args[:2], now_ms + int(args[2]), *args[3:], "ABSTTL")
        first = 2 + 2 * _count(args, 1) if name == "MSETEX" else _FIRST_OPTION.get(name)
        if first is not None:
            for place in range(first, len(args) - 1):
                option = _text(args[place])
                if option in _STOPS_OPTIONS:
                    break
                if option in _MILLISECONDS:
                    expires_ms = now_ms + int(args[place + 1]) * _MILLISECONDS[option]
                    return (*args[:place], "PXAT", expires_ms, *args[place + 2 :])
    except (TypeError, ValueError, IndexError):
        pass
    return args


def _only_expires(args: Sequence[Any], first: int) -> bool:
    options = args[first:]
    return not options or (len(options) == 2 and _text(options[0]) in _EXPIRY_OPTIONS)


def _count(args: Sequence[Any], place: int) -> int:
    try:
        return max(int(args[place]), 0)
    except (TypeError, ValueError, IndexError):
        return 0


def _text(word: Any) -> str:
    if isinstance(word, bytes):
        return word.decode("ascii", "replace").upper()
    return word.upper() if isinstance(word, str) else ""
