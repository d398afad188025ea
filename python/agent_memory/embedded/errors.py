"""Exceptions of `agent_memory.embedded`. Messages name binaries, folders and ports, never a password."""

from __future__ import annotations

__all__ = ["ServerError", "ServerInUseError", "ServerNotFoundError", "ServerStartError"]


class ServerError(RuntimeError):
    """A private server could not do what was asked of it; the base of this module's errors."""


class ServerNotFoundError(ServerError):
    """No server binary was found; the message names the extra that brings one."""


class ServerInUseError(ServerError):
    """Another owner serves the same data folder."""


class ServerStartError(ServerError):
    """The server ended or stayed silent while starting; the message ends with the last lines of its log."""
