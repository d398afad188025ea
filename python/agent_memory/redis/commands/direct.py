"""Commands whose methods are the extension's: no frame of Python between the caller and the command.

A method of `DIRECT` stands in a client's class as a `Face` in the place of redis-py's function, whose signature, docstring and
name it shows. It makes the command itself where the arguments are plain, and calls redis-py's function in every other case:
other arguments, a class or a client whose `execute_command` or `parse_response` is not this package's own, a redis-py class in
which something has been put in the place of the function.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent_memory._core import command_face
from agent_memory.redis.commands.keys import ONE_KEY
from agent_memory.redis.redis_py_internals.patches import OwnFunction

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DIRECT",
    "add_cluster_commands",
    "add_collected_commands",
    "add_direct_commands",
    "add_listed_commands",
]

DIRECT: Final[Mapping[str, tuple[str, str]]] = {
    # Strings and keys
    "get": ("GET", "name"),
    "set": ("SET", "name value ..."),
    "mget": ("MGET", "keys=words *args"),
    "getdel": ("GETDEL", "name"),
    "getset": ("GETSET", "name value"),
    "setnx": ("SETNX", "name value"),
    "append": ("APPEND", "key value"),
    "strlen": ("STRLEN", "name"),
    "incr": ("INCRBY", "name amount=1"),
    "incrby": ("INCRBY", "name amount=1"),
    "decr": ("DECRBY", "name amount=1"),
    "decrby": ("DECRBY", "name amount=1"),
    "exists": ("EXISTS", "*names"),
    "delete": ("DEL", "*names"),
    "unlink": ("UNLINK", "*names"),
    "expire": ("EXPIRE", "name time ..."),
    "pexpire": ("PEXPIRE", "name time ..."),
    "ttl": ("TTL", "name"),
    "pttl": ("PTTL", "name"),
    "persist": ("PERSIST", "name"),
    "type": ("TYPE", "name"),
    # Hashes
    "hget": ("HGET", "name key"),
    "hset": ("HSET", "name key value ..."),
    "hmget": ("HMGET", "name keys=words *args"),
    "hgetall": ("HGETALL", "name"),
    "hdel": ("HDEL", "name *keys"),
    "hexists": ("HEXISTS", "name key"),
    "hincrby": ("HINCRBY", "name key amount=1"),
    "hkeys": ("HKEYS", "name"),
    "hvals": ("HVALS", "name"),
    "hlen": ("HLEN", "name"),
    "hsetnx": ("HSETNX", "name key value"),
    # Lists
    "lpush": ("LPUSH", "name *values"),
    "rpush": ("RPUSH", "name *values"),
    "lpop": ("LPOP", "name count=None"),
    "rpop": ("RPOP", "name count=None"),
    "llen": ("LLEN", "name"),
    "lrange": ("LRANGE", "name start end"),
    "ltrim": ("LTRIM", "name start end"),
    "lindex": ("LINDEX", "name index"),
    # Sets
    "sadd": ("SADD", "name *values"),
    "srem": ("SREM", "name *values"),
    "scard": ("SCARD", "name"),
    "smembers": ("SMEMBERS", "name"),
    "sismember": ("SISMEMBER", "name value"),
    # Sorted sets
    "zcard": ("ZCARD", "name"),
    "zrem": ("ZREM", "name *values"),
    "zscore": ("ZSCORE", "name value"),
    # Streams, channels
    "xlen": ("XLEN", "name"),
    "xdel": ("XDEL", "name *ids"),
    "xack": ("XACK", "name groupname *ids"),
    "publish": ("PUBLISH", "channel message ..."),
}
"""By the method's name: the command, and redis-py's parameters so far as they are its words.

`=1` is a word also where it is left out, `=None` none then; of `=words` a list or a tuple is several words; `...` are further
parameters, which are not given.
"""

_NAMED: Final = {"set": [("ex", "EX", True), ("px", "PX", True), ("nx", "NX", False), ("xx", "XX", False)]}
"""Parameters by name of which one may be given: (name, word, whether its value follows)."""

_LISTED: Final[Mapping[str, str]] = {
    "get": "get",
    "set": "set",
    "delete": "delete",
    "exists": "exists",
    "expire": "expire",
    "hset": "hset",
    "hget": "hget",
    "hgetall": "hgetall",
    "hdel": "hdel",
    "zrem": "zrem",
    "zcard": "zcard",
}
"""Listed commands of a resilient client, by name, and the drop-in's methods that take the same arguments by position."""

_REDIS_PY: Final = "redis."
_HARMLESS: Final = frozenset({"experimental_args.<locals>.decorator.<locals>.wrapper"})
"""What redis-py puts around functions and has nothing to say of the arguments that make a command here."""

Stock = list[tuple[type | None, str, object]]


class _Shape(NamedTuple):
    """What is read from a line of the table."""

    names: tuple[str, ...]
    shape: tuple[str, int, int | None]
    fill: int | None
    rest: str | None


def _shape_of(parameters: str) -> _Shape:
    words = [word for word in parameters.split() if word != "..."]
    rest = next((word.removeprefix("*") for word in words if word.startswith("*")), None)
    fixed = [word for word in words if not word.startswith("*")]
    names = tuple(word.partition("=")[0] for word in fixed)
    defaults = [word.partition("=")[2] for word in fixed]
    if "words" in defaults:
        return _Shape(names, ("keys", defaults.index("words"), None), None, rest)
    if rest is not None:
        return _Shape(names, ("rest", max(1, len(names)), None), None, rest)
    fill = 1 if defaults[-1] == "1" else None
    least = len(names) - (1 if defaults[-1] else 0)
    return _Shape(names, ("fixed", least, len(names)), fill, None)


def _fits(function: object, shape: _Shape) -> bool:
    """Whether it is redis-py's own function, with the parameters that the table knows."""
    if type(function) is not FunctionType or not function.__module__.startswith(_REDIS_PY):
        return False
    inner: Any = inspect.unwrap(function)
    if inner is not function and function.__code__.co_qualname not in _HARMLESS:
        return False  # what is around it wants to be called
    code = inner.__code__
    names = code.co_varnames[1 : code.co_argcount]
    varargs = bool(code.co_flags & inspect.CO_VARARGS)
    return names[: len(shape.names)] == shape.names and varargs == (shape.rest is not None)


def _own_of(client: Any, base: type) -> Stock:
    """What has to stand in `client` and in redis-py's class so that no other code has to see a command."""
    return [
        (None, "execute_command", client.execute_command),
        (None, "parse_response", OwnFunction(base, "parse_response")),
        (base, "execute_command", OwnFunction(base, "execute_command")),
    ]


def add_direct_commands(client: type, base: type, *, asynchronous: bool) -> None:
    """Puts the commands of `DIRECT` into `client`, a subclass of redis-py's `base`."""
    own = _own_of(client, base)
    for name, (word, parameters) in DIRECT.items():
        ordinary, shape = getattr(base, name, None), _shape_of(parameters)
        if name in vars(client) or ordinary is None or not _fits(ordinary, shape):
            continue
        face = command_face(
            ordinary,
            word,
            asynchronous=asynchronous,
            shape=shape.shape,
            stock=[*own, (base, name, ordinary)],
            fill=shape.fill,
            named=_NAMED.get(name, []),
            base=(base, name),
        )
        setattr(client, name, face)


def add_cluster_commands(client: type, base: type, node: type, node_base: type, *, asynchronous: bool) -> None:
    """Puts those commands of `DIRECT` that name one key into a cluster's client.

    `node` is the class of the clients of its nodes, a subclass of redis-py's `node_base`.
    """
    ways = ("execute_routed",) if hasattr(node, "execute_routed") else ()
    nodes: Stock = [*_own_of(node, node_base), *((None, name, getattr(node, name)) for name in ways)]
    _add_of_one_key(client, base, asynchronous=asynchronous, nodes=nodes, collects=False)


def add_collected_commands(pipeline: type, base: type) -> None:
    """The same for a cluster's pipeline, which collects them."""
    _add_of_one_key(pipeline, base, asynchronous=False, nodes=None, collects=True)


def _add_of_one_key(owner: type, base: type, *, asynchronous: bool, nodes: Stock | None, collects: bool) -> None:
    own: Stock = [(None, name, getattr(owner, name)) for name in ("execute_command",)]
    for name, (word, parameters) in DIRECT.items():
        ordinary, shape = getattr(base, name, None), _shape_of(parameters)
        if ordinary is None or word not in ONE_KEY or name in vars(owner) or not _fits(ordinary, shape):
            continue
        face = command_face(
            ordinary,
            word,
            asynchronous=asynchronous,
            shape=shape.shape,
            stock=[*own, (base, name, ordinary)],
            fill=shape.fill,
            named=_NAMED.get(name, []),
            base=(base, name),
            nodes=nodes,
            collects=collects,
        )
        setattr(owner, name, face)


def add_listed_commands(
    listed: type, client: type, runs: str, current: object, *, drop_in: type, base: type, asynchronous: bool
) -> None:
    """Puts faces into `listed`, the class of a resilient client's listed commands, for those that only pass their arguments on.

    `client` is the resilient client's class, `runs` the name of its method that runs an operation, which subclasses may
    override; `current` is the context variable of the call that code is part of.
    """
    own: Stock = [(None, runs, getattr(client, runs))]
    for name, method in _LISTED.items():
        behind = vars(drop_in).get(method)
        if behind is None or type(behind) is FunctionType:
            continue
        word, parameters = DIRECT[method]
        shape = _shape_of(parameters)
        stock = [(None, method, behind), *_own_of(drop_in, base)]
        face = command_face(
            vars(listed)[name],
            word,
            asynchronous=asynchronous,
            shape=shape.shape,
            stock=own,
            fill=shape.fill,
            named=_NAMED.get(name, []),
            listed=([*stock, (base, method, getattr(base, method))], name, current),
        )
        setattr(listed, name, face)
