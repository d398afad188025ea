"""What a child of fork() has to forget: locks that another thread held, threads and tasks that did not come along."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, cast

# Owners are held weakly: one that is gone has nothing to forget. Bounded by the number of living owners. (A WeakMethod would
# complain when the interpreter exits: its callback expects to be outlived by itself.)
_methods: weakref.WeakKeyDictionary[object, tuple[Callable[[Any], Any], ...]] = weakref.WeakKeyDictionary()


def in_child(method: Callable[[], Any]) -> None:
    """Calls the bound `method` in every later child of fork(), as long as its owner lives."""
    bound = cast(MethodType, method)
    _methods[bound.__self__] = (*_methods.get(bound.__self__, ()), bound.__func__)


def _after_fork_in_child() -> None:
    for owner, functions in list(_methods.items()):
        for function in functions:
            function(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
