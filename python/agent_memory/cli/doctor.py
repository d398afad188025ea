"""`agent-memory doctor URL`: connects as a client would, and says in plain words what is wrong or risky."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, RedisError, ResponseError

from agent_memory.redis import Redis
from agent_memory.redis.server_checks import Finding, ServerFacts, check_server

__all__ = ["add_doctor", "diagnose", "read_facts"]

PINGS: Final = 100
_PROBES: Final[dict[str, tuple[Any, ...]]] = {
    "INFO": ("INFO", "server"),
    "EVAL": ("EVAL", "return 1", 0),
    "CLIENT|ID": ("CLIENT", "ID"),
    "CLIENT|TRACKING": ("CLIENT", "TRACKING", "OFF"),
    "WAIT": ("WAIT", 0, 1),
}
"""Commands that the clients need, as calls that change nothing."""
TEMPORARY_FILE_SYSTEMS: Final = ("tmpfs", "ramfs")


def add_doctor(commands: Any) -> None:
    """Adds the command to a parser's commands."""
    parser = commands.add_parser("doctor", help="says what is wrong or risky about a server")
    parser.add_argument("url", help="redis://, rediss:// or unix://, as the client is given it")
    parser.add_argument("--socket-timeout", type=float, default=5.0, metavar="SECONDS", help="the client's (default 5)")
    parser.add_argument("--max-connections", type=int, default=100, metavar="N", help="the client's (default 100)")
    parser.add_argument("--journal", metavar="FOLDER", help="the folder of a recovery journal, to be looked at as well")
    parser.add_argument("--cluster", action="store_true", help="the client is one of a cluster")
    parser.add_argument("--json", action="store_true", help="prints the findings as JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        findings = diagnose(
            options.url,
            socket_timeout_s=options.socket_timeout,
            max_connections=options.max_connections,
            journal=options.journal,
            is_cluster_client=options.cluster,
        )
    except ValueError as error:
        print(f"agent-memory doctor: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(
            json.dumps([{"code": one.code, "severity": one.severity, "text": one.text} for one in findings], indent=1)
        )
    else:
        for one in findings:
            print(f"{one.severity}: {one.text} [{one.code}]")
        print(f"{len(findings)} findings" if findings else "nothing found")
    return 1 if findings else 0


def diagnose(
    url: str,
    *,
    socket_timeout_s: float = 5.0,
    max_connections: int = 100,
    journal: str | None = None,
    is_cluster_client: bool = False,
) -> list[Finding]:
    """What is wrong or risky about the server at `url`, and the folder `journal`; errors first, empty where nothing is.

    `socket_timeout_s` (5.0), `max_connections` (100) and `is_cluster_client` (False) are what the client has.
    Changes nothing on the server. Raises ValueError for a URL that is none.
    """
    found = list(_of_folder(Path(journal))) if journal is not None else []
    client: Any = Redis.from_url(
        url,
        resilience=None,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=socket_timeout_s,
        decode_responses=True,
    )
    try:
        client.ping()
        facts = read_facts(client)
        facts.socket_timeout_s, facts.max_connections = socket_timeout_s, max_connections
        facts.is_cluster_client = is_cluster_client
        found += check_server(facts)
    except AuthenticationError:
        found.append(Finding("wrong-credentials", "the server refuses the user or the password", "error"))
    except NoPermissionError:
        found.append(Finding("no-rights", "the user may not even PING", "error"))
    except ResponseError as error:
        code = str(error).split(" ", 1)[0]
        found.append(Finding("refused", f"the server answers, and refuses PING ({code})", "error"))
    except (ConnectionError, RedisError, OSError) as error:
        found.append(Finding("unreachable", f"no connection: {type(error).__name__}: {error}", "error"))
    finally:
        client.close()
    return sorted(found, key=lambda finding: finding.severity != "error")


def read_facts(client: Any) -> ServerFacts:
    """Asks a sync client's server for all that the rules look at; what it refuses stays empty."""
    arguments = client.connection_pool.connection_kwargs
    facts = ServerFacts(host=None if arguments.get("path") else str(arguments.get("host", "localhost")))
    facts.tls = "SSL" in client.connection_pool.connection_class.__name__
    facts.refused_commands = tuple(name for name, words in _PROBES.items() if _is_refused(client, words))
    with contextlib.suppress(ResponseError):
        facts.info = client.info("everything")
    with contextlib.suppress(ResponseError):
        facts.config = client.config_get("*")
    if _says(facts.info, "cluster_enabled"):
        with contextlib.suppress(ResponseError):
            facts.cluster = {name: str(value) for name, value in client.cluster("INFO").items()}
    transport = client.transport_here()
    facts.protocol = 3 if transport is None else transport.protocol
    facts.latencies_s = tuple(sorted(_ping_s(client) for _ in range(PINGS)))
    facts.clock_skew_s = _skew_s(client)
    facts.needs_password = _needs_password(client)
    return facts


def _says(info: Any, name: str) -> bool:
    return str(info.get(name)) == "1"


def _is_refused(client: Any, words: tuple[Any, ...]) -> bool:
    try:
        client.execute_command(*words)
    except NoPermissionError:
        return True
    except ResponseError:
        return False
    return False


def _ping_s(client: Any) -> float:
    began_s = time.perf_counter()
    client.ping()
    return time.perf_counter() - began_s


def _skew_s(client: Any) -> float | None:
    before_s = time.time()
    try:
        seconds, microseconds = client.time()
    except ResponseError:
        return None
    return float(seconds) + float(microseconds) / 1e6 - (before_s + time.time()) / 2


def _needs_password(client: Any) -> bool | None:
    """Whether a connection without a password is refused; None for a unix socket, which file modes protect."""
    arguments = {
        name: value
        for name, value in client.connection_pool.connection_kwargs.items()
        if name not in ("username", "password", "credential_provider")
    }
    if arguments.get("path"):
        return None
    pool = type(client.connection_pool)(connection_class=client.connection_pool.connection_class, **arguments)
    bare: Any = Redis(connection_pool=pool, resilience=None)
    try:
        bare.ping()
    except (AuthenticationError, NoPermissionError):
        return True
    except (RedisError, OSError):
        return None
    finally:
        bare.close()
        pool.disconnect()
    return False


def _of_folder(folder: Path) -> Iterator[Finding]:
    """What is wrong with the folder of a journal."""
    if not folder.exists():
        parent = next(parent for parent in folder.absolute().parents if parent.exists())
        if not os.access(parent, os.W_OK):
            yield Finding(
                "journal-not-writable", f"the journal's folder is not there, and cannot be made in {parent}", "error"
            )
        return
    if not folder.is_dir():
        yield Finding("journal-no-folder", "the journal's folder is a file", "error")
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Finding(
            "journal-not-writable", "the journal's folder cannot be written to: queued writes are not kept", "error"
        )
    mode = folder.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Finding(
            "journal-writable-by-others", "others may write to the journal's folder, and so have writes executed"
        )
    space = os.statvfs(folder)
    if space.f_bavail * space.f_frsize < 64 * 1024 * 1024:
        yield Finding("journal-disk-full", "less than 64 MiB are free where the journal is")
    if _file_system_of(folder) in TEMPORARY_FILE_SYSTEMS:
        yield Finding("journal-in-memory", "the journal's folder is on a file system in memory: a restart loses it")


def _file_system_of(folder: Path) -> str:
    """The type of the file system, by the longest mount point above `folder`; empty where that is not known."""
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, point, found, *_ = line.split(" ")
            if folder.absolute().is_relative_to(point) and len(point) >= len(best):
                best, kind = point, found
    return kind
