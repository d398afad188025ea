"""
What a forked child forgets.

A fork copies the descriptors and locks of every object, but none of its threads and none of its rights: the server, the
proxy and their files belong to the parent. Objects that hold descriptors register here; in the child their
`_forget_in_child` closes the copies, so that the parent's close (or reset) of a socket is seen by the peer at once and
a lock is released when the parent releases it.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["ForkAware", "register"]


class ForkAware(Protocol):
    """An object with something to give up in a forked child."""

    def _forget_in_child(self) -> None: ...


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register(instance: ForkAware) -> None:
    """Have `instance._forget_in_child()` called in every forked child for as long as the instance lives."""
    _registered.add(instance)


def _forget_all() -> None:
    for instance in list(_registered):
        instance._forget_in_child()
    _registered.clear()


os.register_at_fork(after_in_child=_forget_all)
