"""What a child of fork() has to forget: locks that another thread held, threads and tasks that did not come along."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

# Bound methods are held weakly: an owner that is gone has nothing to forget. Bounded by the number of living owners.
_methods: set[weakref.WeakMethod[Callable[[], Any]]] = set()


def in_child(method: Callable[[], Any]) -> None:
    """Calls the bound `method` in every later child of fork(), as long as its owner lives."""
    _methods.add(weakref.WeakMethod(method, _methods.discard))


def _after_fork_in_child() -> None:
    for reference in list(_methods):
        method = reference()
        if method is not None:
            method()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
