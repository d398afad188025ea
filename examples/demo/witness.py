"""redis-py goes through the same outages: a few callers that count, so that one can see what happens to them.

They have the same timeouts as our clients and otherwise redis-py's defaults, retries included. Not part of the verdict.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import redis

from demo.settings import DemoSettings

__all__ = ["WITNESS_KEY", "Witness", "WitnessResult"]

WITNESS_KEY: Final = "witness:redis-py:counter"
_CALLERS: Final = 4
_PAUSE_S: Final = 0.04
_JOIN_TIMEOUT_S: Final = 30.0


@dataclass(slots=True)
class WitnessResult:
    """What the callers saw, and where their counter stands."""

    callers: int = 0
    calls: int = 0
    answered: int = 0
    errors: int = 0
    longest_call_s: float = 0.0
    counter: int = 0
    """As the database has it at the end."""


class Witness:
    """Threads that call INCR through one client of redis-py's."""

    def __init__(self, connection: dict[str, Any], settings: DemoSettings) -> None:
        self.result = WitnessResult(callers=_CALLERS)
        self._client = redis.Redis(
            **connection,
            socket_timeout=settings.socket_timeout_s,
            socket_connect_timeout=settings.socket_timeout_s,
        )
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"demo witness {number}", daemon=True) for number in range(_CALLERS)
        ]

    def start(self) -> None:
        """Lets the callers begin."""
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(_PAUSE_S):
            started_s = time.monotonic()
            try:
                self._client.incr(WITNESS_KEY)
            except redis.RedisError:
                answered = False
            except Exception:
                if self._stopped.is_set():
                    return  # the demo was interrupted, and the connection closed under the call
                raise
            else:
                answered = True
            self._note(answered, time.monotonic() - started_s)

    def _note(self, answered: bool, took_s: float) -> None:
        result = self.result
        with self._lock:
            result.calls += 1
            result.answered += answered
            result.errors += not answered
            result.longest_call_s = max(result.longest_call_s, took_s)

    def close(self, timeout_s: float = _JOIN_TIMEOUT_S) -> None:
        """Waits so long at most for each caller to finish its call; may be called again."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_s)
        self._client.close()
