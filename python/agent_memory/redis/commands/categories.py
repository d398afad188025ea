"""What kind of command a name is: whether it may be sent again, whether it blocks, whether it changes its connection.

The tables follow the servers' own flags (COMMAND on Valkey 9.1 and Redis 7.0: "readonly", "write", "blocking"); what those
do not say is added by hand: questions about the server that carry no flag (PING, INFO, …), and which writes are absolute.
A name that is in no table counts as a relative write, the category that is never sent twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agent_memory.policy import CommandCategory

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BARRIERS",
    "BARRIER_CHANNEL",
    "COVER_WRITES",
    "ABSOLUTE_WRITES",
    "BLOCKING",
    "CONNECTION_ATTRIBUTES",
    "NOT_BLOCKING",
    "PASSING_STATE",
    "READING_PIPELINE",
    "READS",
    "REFUSED",
    "RELATIVE_WRITES",
    "SELECT_WARNING",
    "SCRIPTS",
    "blocking_timeout_s",
    "category_of",
    "resolved_beyond",
]

READING_PIPELINE: Final = "PIPELINE (READS)"
"""The operation that a pipeline of reads counts as; any other is a "PIPELINE"."""

READS: Final = frozenset(
    """
    BITCOUNT BITFIELD_RO BITPOS CLUSTERSCAN DBSIZE DUMP EVALSHA_RO EVAL_RO EXISTS EXPIRETIME FCALL_RO GEODIST GEOHASH GEOPOS
    GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE HEXISTS HEXPIRETIME HGET HGETALL HKEYS HLEN HMGET
    HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSTRLEN HTTL HVALS KEYS LCS LINDEX LLEN LOLWUT LPOS LRANGE MGET PEXPIRETIME
    PFCOUNT PTTL RANDOMKEY SCAN SCARD SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SORT_RO SRANDMEMBER SSCAN
    STRALGO STRLEN SUBSTR SUNION TOUCH TTL TYPE XLEN XPENDING XRANGE XREAD XREVRANGE ZCARD ZCOUNT ZDIFF ZINTER ZINTERCARD
    ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE
    ZREVRANK ZSCAN ZSCORE ZUNION ECHO INFO LASTSAVE PING ROLE TIME
    """.split()
) | frozenset(
    {
        "ACL CAT", "ACL GETUSER", "ACL LIST", "ACL USERS", "ACL WHOAMI", "CLIENT GETNAME", "CLIENT ID", "CLIENT INFO",
        "CLIENT LIST", "CLUSTER COUNTKEYSINSLOT", "CLUSTER GETKEYSINSLOT", "CLUSTER INFO", "CLUSTER KEYSLOT",
        "CLUSTER LINKS", "CLUSTER MYID", "CLUSTER NODES", "CLUSTER REPLICAS", "CLUSTER SHARDS", "CLUSTER SLOTS", "COMMAND",
        "COMMAND COUNT", "COMMAND DOCS", "COMMAND GETKEYS", "COMMAND INFO", "COMMAND LIST", "CONFIG GET", "FUNCTION DUMP",
        "FUNCTION LIST", "FUNCTION STATS", "LATENCY HISTORY", "LATENCY LATEST", "MEMORY STATS", "MEMORY USAGE",
        "MODULE LIST", "OBJECT ENCODING", "OBJECT FREQ", "OBJECT IDLETIME", "OBJECT REFCOUNT", "PUBSUB CHANNELS",
        "PUBSUB NUMPAT", "PUBSUB NUMSUB", "PUBSUB SHARDCHANNELS", "PUBSUB SHARDNUMSUB", "SCRIPT EXISTS", "SLOWLOG GET",
        "SLOWLOG LEN", "XINFO CONSUMERS", "XINFO GROUPS", "XINFO STREAM", READING_PIPELINE,
    }
)  # fmt: skip

ABSOLUTE_WRITES: Final = frozenset(
    """
    DEL EXPIREAT HDEL HMSET HSET HSETEX LSET MSET PERSIST PEXPIREAT PFADD PSETEX SADD SET SETBIT SETEX SETRANGE SREM
    UNLINK XACK XDEL ZADD ZREM
    """.split()
)
"""Sending them again leaves the same data, unless another client wrote in between; SET and ZADD with conditions do not."""

RELATIVE_WRITES: Final = frozenset(
    """
    APPEND BITFIELD BITOP COPY DECR DECRBY EVAL EVALSHA EXPIRE FCALL GEOADD GEORADIUS GEORADIUSBYMEMBER GEOSEARCHSTORE
    GETDEL GETEX GETSET HEXPIRE HEXPIREAT HGETDEL HGETEX HINCRBY HINCRBYFLOAT HPERSIST HPEXPIRE HPEXPIREAT HSETNX INCR INCRBY
    INCRBYFLOAT LINSERT LMOVE LMPOP LPOP LPUSH LPUSHX LREM LTRIM MSETEX MSETNX PEXPIRE PFMERGE RENAME RENAMENX RESTORE RPOP
    RPOPLPUSH RPUSH RPUSHX SDIFFSTORE SETNX SINTERSTORE SMOVE SORT SPOP SUNIONSTORE XACKDEL XADD XAUTOCLAIM XCLAIM XDELEX
    XTRIM ZDIFFSTORE ZINCRBY ZINTERSTORE ZMPOP ZPOPMAX ZPOPMIN ZRANGESTORE ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE
    ZUNIONSTORE DELEX DELIFEQ
    """.split()
) | frozenset({"XGROUP CREATE", "XGROUP CREATECONSUMER", "XGROUP DELCONSUMER", "XGROUP DESTROY", "XGROUP SETID"})
"""Writes of data that are not absolute, and may stand between MULTI and EXEC."""

_ABSOLUTE_UP_TO: Final = {
    "DEL": 2, "EXPIREAT": 3, "HSETEX": 0, "MSET": 3, "PEXPIREAT": 3, "SET": 3, "UNLINK": 2, "ZADD": 4,
}  # fmt: skip
"""Words up to which a write is absolute; longer it may have a condition, or several keys."""

SCRIPTS: Final = frozenset({"EVAL", "EVALSHA", "FCALL"})
"""Writes that the gate cannot carry, because scripts cannot call scripts."""

BLOCKING: Final = frozenset(
    """
    BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN WAIT WAITAOF XREAD XREADGROUP
    """.split()
)
PASSING_STATE: Final = frozenset("AUTH HELLO MONITOR PSYNC QUIT REPLCONF RESET SELECT SYNC".split())
"""Asked for their answer (is this the password?), or of no use to others: the connection that carried one is closed."""

CONNECTION_ATTRIBUTES: Final = frozenset(
    {
        "CLIENT CAPA", "CLIENT IMPORT-SOURCE", "CLIENT NO-EVICT", "CLIENT NO-TOUCH", "CLIENT SETINFO", "CLIENT SETNAME",
        "READONLY", "READWRITE",
    }
)  # fmt: skip
"""They describe the connection that carries them and change no reply of other callers': they travel with all others."""

_PUBSUB: Final = "use pubsub()"
_PIPELINE: Final = "use pipeline() or transaction()"
_PINNED: Final = "use client(), which has a connection of its own"
REFUSED: Final = {
    **dict.fromkeys("PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE".split(), _PUBSUB),
    **dict.fromkeys("DISCARD EXEC MULTI UNWATCH WATCH".split(), _PIPELINE),
    **dict.fromkeys(["ASKING", "CLIENT CACHING", "CLIENT REPLY", "CLIENT TRACKING"], _PINNED),
}
"""What only means something to the commands that follow on the same connection, and what to use instead."""

SELECT_WARNING: Final = (
    "SELECT was carried out on a connection that has been closed: other callers share this client's connections, so it "
    "stays with its database; make a client with db=, or pin a connection with client()"
)
"""redis-py's pooled clients accept SELECT and leave one connection of many in the other database, so this is no error."""

_CONNECTION_STATE: Final = PASSING_STATE | CONNECTION_ATTRIBUTES | REFUSED.keys()

COVER_WRITES: Final = frozenset({"WAIT", "WAITAOF"})
"""Commands that ask what became of the writes of their own connection.

Connections are shared here, so the caller's writes may have gone by another one, or by one that is gone. Servers note for each
connection how far the replication stream was when it last wrote, so a write of the waiting connection makes the question
cover everything that was written before it: `BARRIERS`. (On Redis any command does; Valkey 9 takes it literally.) That leaves
the shared connection free for others while one caller waits.
"""
BARRIERS: Final = ("SPUBLISH", "PUBLISH")
"""What writes to the replication stream without a trace in the data, the better one first; the other for Redis 6."""
BARRIER_CHANNEL: Final = "agent_memory:wait"
"""Where the barrier's empty message goes to; it has no subscribers. The user needs permission for it."""

NOT_BLOCKING: Final = -1.0
"""What `blocking_timeout_s` returns for a command that answers at once."""


def category_of(name: str) -> CommandCategory:
    """The category of a command name ("GET", "CONFIG GET"; upper case)."""
    if name in _CONNECTION_STATE:
        return CommandCategory.CONNECTION_STATE
    if name in BLOCKING:
        return CommandCategory.BLOCKING
    if name in READS:
        return CommandCategory.READ
    if name in ABSOLUTE_WRITES:
        return CommandCategory.ABSOLUTE_WRITE
    return CommandCategory.RELATIVE_WRITE


def resolved_beyond(name: str, category: CommandCategory) -> int | None:
    """The number of words beyond which a command needs what resolves a lost answer; None where it never does.

    0 for a relative write. An absolute one never needs it, except with a condition (SET … NX) or several keys (MSET).
    """
    if category is CommandCategory.ABSOLUTE_WRITE:
        return _ABSOLUTE_UP_TO.get(name)
    return 0 if name in RELATIVE_WRITES else None


def blocking_timeout_s(name: str, args: Sequence[Any]) -> float | None:
    """How long the server may keep a command of the blocking family: seconds, None for ever, NOT_BLOCKING for at once.

    `args` is the whole command, its name first. An argument that cannot be read as a number is left to the server to refuse.
    """
    milliseconds = False
    if name in {"XREAD", "XREADGROUP"}:
        position = _position_of_block(args)
        if position is None:
            return NOT_BLOCKING
        value, milliseconds = args[position], True
    elif name in {"WAIT", "WAITAOF"}:
        value, milliseconds = args[-1], True
    elif name in {"BLMPOP", "BZMPOP"}:
        value = args[1] if len(args) > 1 else 0
    else:
        value = args[-1]
    try:
        timeout_s = float(value) / (1000.0 if milliseconds else 1.0)
    except (TypeError, ValueError):
        return NOT_BLOCKING
    return timeout_s if timeout_s > 0 else None


def _position_of_block(args: Sequence[Any]) -> int | None:
    for index, argument in enumerate(args[:-1]):
        if index > 0 and argument in ("BLOCK", b"BLOCK", "block", b"block"):
            return index + 1
        if argument in ("STREAMS", b"STREAMS", "streams", b"streams"):
            return None  # what follows are keys and ids
    return None
