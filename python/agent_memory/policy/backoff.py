"""Delays between attempts. The formulas are in `rust/core/src/guard/backoff.rs`."""

from __future__ import annotations

import asyncio

from agent_memory._core import Backoff, exponential_backoff

__all__ = ["Backoff", "async_exponential_backoff", "exponential_backoff"]


async def async_exponential_backoff(attempt: int, base_delay: float = 0.5, max_delay: float = 30.0) -> float:
    """Sleep for `exponential_backoff(attempt, base_delay, max_delay)` seconds and return that delay.

    `attempt` counts from 0; `base_delay` (0.5) and `max_delay` (30.0) are seconds. Raises TypeError or ValueError as
    `exponential_backoff` does, before it sleeps. A cancellation ends the sleep.
    """
    delay_s = exponential_backoff(attempt, base_delay, max_delay)
    await asyncio.sleep(delay_s)
    return delay_s
