"""What a memory system takes as `path=`, `store=`, `embed=` and `config=`; refused before anything is opened."""

from __future__ import annotations

import os
from typing import Final

from agent_memory import _check
from agent_memory.memory.settings import MemorySettings

__all__ = ["check_system"]

_STORE_URLS: Final = ("sqlite:///", "postgresql://", "postgres://")


def check_system(path: object, store: object, embed: object, config: object) -> None:
    """Raises TypeError or ValueError for the first argument outside its rule."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a folder (a str or a path), got {path!r}")
    if isinstance(path, str) and "://" in path:
        # Not repeated in the message: it may hold a password.
        raise ValueError("path must be a folder, got a URL: a database is given as store=, a server as redis=")
    if not os.fspath(path):
        raise ValueError("path must be a folder, got ''")
    if isinstance(store, str):
        _check_store_url(store)
    elif store is not None and not (callable(getattr(store, "open", None)) and callable(getattr(store, "write", None))):
        raise TypeError(f"store must be {_STORE_RULE}, got {type(store).__name__}")
    if embed is not None and not callable(embed):
        raise TypeError(f"embed must be callable or None, got {embed!r}")
    _check.instance("config", config, MemorySettings)


_STORE_RULE: Final = "'sqlite:///FILE', 'postgresql://...', a store object or None"


def _check_store_url(url: str) -> None:
    """Raises ValueError for a URL of no store that this package has."""
    if not url.startswith(_STORE_URLS):
        # Not repeated in the message: it may hold a password.
        raise ValueError(f"store must be {_STORE_RULE}, got another string")
