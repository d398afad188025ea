"""`RecoverySettings`: the older name of `RecoveryConfig`."""

from __future__ import annotations

from typing import Final

from agent_memory.policy import RecoveryConfig

__all__ = ["DEFAULT_RECOVERY", "RecoveryConfig", "RecoverySettings"]

RecoverySettings = RecoveryConfig
"""The same class: whoever imported it by this name goes on."""

DEFAULT_RECOVERY: Final = RecoveryConfig()
