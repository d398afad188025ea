"""Arguments of a resilient client of a Redis Cluster: addresses, URLs, and what a cluster cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from agent_memory.storage.urls import arguments_of_url

__all__ = ["addresses_of", "arguments_of_cluster_url", "check_cluster", "is_cluster_url"]

_SCHEMES: Final = {
    "redis+cluster": "redis",
    "rediss+cluster": "rediss",
    "valkey+cluster": "redis",
    "valkeys+cluster": "rediss",
}
DEFAULT_PORT: Final = 6379
_DEFAULTS: Final = {"host": "localhost", "port": DEFAULT_PORT, "db": 0}
_WHY: Final = {
    "client": "an injected client has its own nodes",
    "guard": "each node has a guard of its own",
    "exactly_once": "it is not there for a cluster yet",
    "unix_socket_path": "the nodes of a cluster are reached by host and port",
    "single_connection_client": "a cluster has a connection for each node",
}
OF_A_CLUSTER: Final = frozenset(
    """
    address_remap dynamic_startup_nodes load_balancing_strategy read_from_replicas reinitialize_steps require_full_coverage
    """.split()
)
"""redis-py's arguments that only its cluster clients have."""


def is_cluster_url(url: str) -> bool:
    """Whether the scheme of `url` is that of a cluster."""
    return url.partition("://")[0] in _SCHEMES


def arguments_of_cluster_url(url: str) -> dict[str, Any]:
    """The arguments of a client that `redis+cluster://user:password@host:port,host:port/?options` stands for.

    Raises ValueError for a database other than 0, or addresses outside their rule.
    """
    scheme, _, rest = url.partition("://")
    place, slash, tail = rest.partition("/")
    if not slash:
        place, question, tail = rest.partition("?")
        tail = question + tail
    credentials, at, hosts = place.rpartition("@")
    first, *others = hosts.split(",")
    arguments = arguments_of_url(f"{_SCHEMES[scheme]}://{credentials}{at}{first}{slash}{tail}")
    host, port = arguments.pop("host", "localhost"), arguments.pop("port", DEFAULT_PORT)
    arguments["cluster"] = [(host, port), *addresses_of(others)] if others else [(host, port)]
    return arguments


def addresses_of(cluster: Any) -> list[tuple[str, int]]:
    """The addresses that `cluster=` names: "host:port", "host", (host, port) or an object with `host` and `port`.

    Raises ValueError for what is none of these, or for no address.
    """
    if isinstance(cluster, str | bytes | Mapping) or not isinstance(cluster, Iterable):
        raise ValueError(f"cluster must be a list of addresses, got a {type(cluster).__name__}")
    found = [_address_of(one) for one in cluster]
    if not found:
        raise ValueError("cluster must name a node, got none")
    return found


def _address_of(one: Any) -> tuple[str, int]:
    host, port = None, None
    if isinstance(one, str) and "@" not in one and "/" not in one:
        host, port = _split(one)
    elif isinstance(one, tuple) and len(one) == 2:
        host, port = one
    else:
        host, port = getattr(one, "host", None), getattr(one, "port", None)
    digits = str(port)
    if not isinstance(host, str) or not host or isinstance(port, bool) or not digits.isascii() or not digits.isdigit():
        # By its type alone: a URL may hold a password.
        raise ValueError(
            f'cluster must be a list of "host:port", (host, port) or ClusterNode, got one that is a {type(one).__name__}'
        )
    if not 1 <= int(digits) <= 65_535:
        raise ValueError(f"cluster must have ports from 1 to 65535, got {digits}")
    return host, int(digits)


def _split(text: str) -> tuple[str, Any]:
    """Host and port of "host:port", "host", "[::1]:port" or "::1"."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest[1:] if rest.startswith(":") else DEFAULT_PORT if not rest else ""
    if text.count(":") > 1:
        return text, DEFAULT_PORT
    host, colon, port = text.partition(":")
    return host, port if colon else DEFAULT_PORT


def check_cluster(given: Mapping[str, Any], recovery: object) -> None:
    """Raises ValueError for the first argument beside `cluster=` that a cluster has no use for, or cannot do yet."""
    for name, default in _DEFAULTS.items():
        if given.get(name, default) != default:
            why = "a cluster has database 0 only" if name == "db" else "cluster= names the nodes"
            raise ValueError(f"{name} must be left out with cluster=: {why}, got {given[name]!r}")
    for name, why in _WHY.items():
        if given.get(name) not in (None, False):
            raise ValueError(f"{name} must be left out with cluster=: {why}, got a {type(given[name]).__name__}")
    if recovery is not None:
        kind = type(recovery).__name__
        raise ValueError(f"recovery must be None for a cluster, which has no recovery queue yet, got a {kind}")
