"""Text of a server's configuration file. Pure: no files, no processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

__all__ = ["ConfigValue", "OWNED_DIRECTIVES", "check_config", "quote", "render"]

ConfigValue: TypeAlias = str | int | float | bool | Iterable[str]

# Set through parameters of EmbeddedServer, because it has to know them: by directive, what to use instead.
OWNED_DIRECTIVES: Mapping[str, str] = {
    "bind": "the server listens on loopback only",
    "daemonize": "the server is a child of its owner",
    "dir": "use path=",
    "include": "use config=",
    "logfile": "use .log",
    "pidfile": "use .pid",
    "port": "use transport='tcp' and port=",
    "requirepass": "use protected=",
    "tls-port": "use tls=True and port=",
    "tls-cert-file": "use tls=True",
    "tls-key-file": "use tls=True",
    "tls-ca-cert-file": "use tls=True",
    "unixsocket": "use transport='unix'",
    "user": "use users=",
}


def check_config(config: Mapping[str, ConfigValue]) -> dict[str, list[str]]:
    """
    Return `config` as lines by directive.

    Raises ValueError for a directive that has a parameter of its own, and for text that would start another line.
    """
    checked: dict[str, list[str]] = {}
    for directive, value in config.items():
        if not isinstance(directive, str) or not isinstance(value, str | int | float | Iterable):
            raise TypeError(f"config must map directives to text, numbers, bools or lines, got {directive!r}")
        name = directive.lower()
        if name in OWNED_DIRECTIVES:
            raise ValueError(f"config may not set {directive!r}: {OWNED_DIRECTIVES[name]}")
        lines = _value_lines(value)
        for text in (name, *lines):
            if any(ord(character) < 32 for character in text):
                raise ValueError(f"config[{directive!r}] holds a control character")
        if not name or " " in name:
            raise ValueError(f"config has no directive {directive!r}")
        checked[name] = lines
    return checked


def _value_lines(value: ConfigValue) -> list[str]:
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, str):
        return [value or '""']
    if isinstance(value, int | float):
        return [str(value)]
    return [line or '""' for line in value]


def quote(text: str) -> str:
    """Return `text` as one quoted argument of a configuration line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def render(directives: Mapping[str, list[str]]) -> str:
    """Return the configuration file: one line per directive and value."""
    return "".join(f"{name} {line}\n" for name, lines in directives.items() for line in lines)
