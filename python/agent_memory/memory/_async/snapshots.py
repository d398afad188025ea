"""Snapshots of large indexes, in the folder beside the database.

- A snapshot is written when the feed has brought `snapshot_entries` and more, with its place in the feed in its name. Loading
  one, an index follows the feed from there.
- No snapshot of what is being erased: saving holds the folder's lock (shared), and asks under it whether an erasure is under
  way; erasing takes the lock (exclusive) once SQL knows of the erasure, and then removes the snapshots. So a snapshot that is
  being written is waited for, and one that is begun later is of an index that has followed the feed past the erasure.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

from agent_memory._concurrency import AsyncKeyedLocks, async_in_thread
from agent_memory.memory._agent_index import AgentIndex, model_in
from agent_memory.memory.settings import IndexSettings
from agent_memory.memory.stores.operations import EmbeddingSpace
from agent_memory.scoring import MemoryIndex

__all__ = ["AsyncSnapshots"]


class AsyncSnapshots:
    """The snapshots in one folder. Any number of tasks may use one object."""

    def __init__(self, folder: Path, settings: IndexSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._deleting = AsyncKeyedLocks()

    async def load(self, agent_id: str, index: AgentIndex, space: EmbeddingSpace | None) -> None:
        """Fills an empty index from the agent's latest snapshot, if there is one that fits."""
        paths = self._paths(agent_id)
        if not paths:
            return
        path = paths[-1]
        model = model_in(self._settings, space)
        try:
            loaded = await async_in_thread(lambda: MemoryIndex.load(path, vectors="mapped", model=model))
        except (OSError, ValueError):
            return  # it is read from the feed instead
        if not loaded.has_present_rules or loaded.language != self._settings.language:
            return  # its words were found by other rules: the feed has the texts
        _, generation, seq, has_vectors, _ = path.name.rsplit(".", 4)
        index.index = loaded
        index.dimensions = loaded.dimensions if has_vectors == "v" else index.dimensions
        index.generation, index.cursor, index.saved_at_seq = int(generation), int(seq), int(seq)

    async def save(self, agent_id: str, index: AgentIndex, is_wanted: Callable[[], Awaitable[bool]]) -> int:
        """Writes a snapshot of an agent's index, if `is_wanted` says so under the lock; returns how many were written."""
        if index.index is None or len(quote(agent_id, safe="")) > 150:
            return 0
        lock = await async_in_thread(self._lock, fcntl.LOCK_SH)
        try:
            is_saved = await is_wanted()
        except BaseException:
            lock.close()
            raise
        kept = index.index
        if not is_saved or kept is None:
            lock.close()
            return 0
        # What is saved holds at least what the cursor says; more of it does no harm, since the feed brings it again.
        seq = index.cursor
        name = f"{quote(agent_id, safe='')}.{index.generation}.{seq}.{'v' if index.dimensions else 't'}.snapshot"
        path = self._folder / name

        def save() -> None:
            with lock:  # kept until the file is there, also where the caller is cancelled
                kept.save(path)

        await async_in_thread(save)
        index.saved_at_seq = seq
        for old in self._paths(agent_id):
            if old != path and _seq_of(old) < seq:
                old.unlink(missing_ok=True)
        return 1

    async def delete(self, agent_id: str) -> int:
        """Removes an agent's snapshots, those that are being written too; returns how many there were."""
        # One at a time: waiters for the folder's lock must not take all threads, since saving needs one.
        async with self._deleting.hold("snapshots"):
            return await async_in_thread(self._delete, agent_id)

    def _delete(self, agent_id: str) -> int:
        if not self._folder.is_dir():
            return 0
        with self._lock(fcntl.LOCK_EX):
            paths = self._paths(agent_id)
            # Left by processes that died while writing: no process writes now.
            left = [path for path in self._folder.glob("*.snapshot.*.tmp") if self._agent_of(path) == agent_id]
            for path in (*paths, *left):
                path.unlink(missing_ok=True)
        return len(paths)

    async def delete_of_user(self, user_id: str) -> int:
        """Removes the snapshots that know of a user, also by memories that were deleted since; returns how many."""
        async with self._deleting.hold("snapshots"):
            return await async_in_thread(self._delete_of_user, user_id)

    def _delete_of_user(self, user_id: str) -> int:
        if not self._folder.is_dir():
            return 0
        with self._lock(fcntl.LOCK_EX):
            files = [*self._folder.glob("*.snapshot"), *self._folder.glob("*.snapshot.*.tmp")]
            # Attributes stand in a snapshot as they are. Another user's whose name holds this one is written anew, no more.
            paths = [path for path in files if _holds(path, user_id.encode())]
            for path in paths:
                path.unlink(missing_ok=True)
        return len(paths)

    def _lock(self, kind: int) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = open(os.open(self._folder.with_name("index.lock"), os.O_RDWR | os.O_CREAT, 0o600), "r+b")  # noqa: SIM115
        try:
            fcntl.flock(file, kind)
        except BaseException:
            file.close()
            raise
        return file

    def _paths(self, agent_id: str) -> list[Path]:
        name = quote(agent_id, safe="")
        if len(name) > 150:
            return []
        # Names may hold dots, and what a glob finds may be of another agent.
        paths = [path for path in self._folder.glob("*.snapshot") if path.name.rsplit(".", 4)[0] == name]
        return sorted(paths, key=_seq_of)

    @staticmethod
    def _agent_of(path: Path) -> str:
        """Whose snapshot a file is, whole or not."""
        return unquote(path.name[: path.name.rindex(".snapshot")].rsplit(".", 3)[0])


def _holds(path: Path, text: bytes) -> bool:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(text) >= 0


def _seq_of(path: Path) -> int:
    try:
        return int(path.name.rsplit(".", 3)[1])
    except (IndexError, ValueError):
        return -1
