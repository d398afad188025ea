"""The queue of a cluster's pipeline: tuples of words that the extension has collected, and redis-py's commands among them."""

from __future__ import annotations

from typing import Any

__all__ = ["CollectedCommands"]


class CollectedCommands:
    """Mixed into redis-py's strategy of pipelines, whose private queue shows all as redis-py's commands.

    The pipeline holds the list as `_collected`, where its methods in the extension find it.
    """

    _pipe: Any
    _queue: list[Any]

    @staticmethod
    def _command_of(words: tuple[Any, ...], position: int) -> Any:
        """redis-py's command of these words, without options."""
        raise NotImplementedError

    @property
    def _command_queue(self) -> list[Any]:
        # Code that reads it may also change it, so what it is given is the list itself.
        queue = self._queue
        for position, one in enumerate(queue):
            if type(one) is tuple:
                queue[position] = self._command_of(one, position)
        return queue

    @_command_queue.setter
    def _command_queue(self, queue: list[Any]) -> None:
        self._queue = self._pipe._collected = queue

    def _collect(self, command: Any) -> None:
        self._queue.append(command)

    def _take_collected(self) -> list[Any]:
        """What is to be executed; the queue is empty afterwards."""
        queue, self._command_queue = self._queue, []
        return queue

    def __len__(self) -> int:
        return len(self._queue)
