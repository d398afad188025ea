"""What a user chooses of exactly once, and the numbers of the levels."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

from agent_memory import _check
from agent_memory._enums import NamedIntEnum

__all__ = ["ExactlyOnce", "Level", "settings_of"]


class Level(NamedIntEnum):
    """How the fate of a lost write is found out; the core has the same numbers."""

    NOTHING = 0
    """The server permits neither CLIENT KILL nor scripts with a marker: lost writes stay unknown."""
    FENCE = 1
    """Old connections are killed, so absolute writes are repeated safely; others cannot be resolved."""
    OFFSET = 2
    """The server (Valkey) tells how many bytes of a connection it has processed, as long as the connection is there."""
    GATE = 3
    """Every write is a script that checks a latest time and a bit."""
    MARKER = 4
    """Writes that are not absolute set a bit in the same transaction."""


_LEVELS: Final = {"best": None, "marker": Level.MARKER, "offset": Level.OFFSET, "gate": Level.GATE}


@dataclasses.dataclass(frozen=True, slots=True)
class ExactlyOnce:
    """How lost writes are resolved.

    - `level` ("best"): "marker", "offset" or "gate" for the one to use where the server offers it; otherwise, and with
      "best", the best it offers: marker, offset, gate, fence. "offset" costs the healthy path nothing, and resolves nothing
      once the server has closed the old connection: a reset or a restart makes dead letters.
    - `marker_prefix` ("agent_memory:once:"): what the keys of the markers begin with. The user needs write access to them.
    - `marker_ttl_s` (86,400): seconds after which a marker that was not deleted expires. Writes can be resolved for that long.

    Raises ValueError for a value outside its rule.
    """

    level: Literal["best", "marker", "offset", "gate"] = "best"
    marker_prefix: str = "agent_memory:once:"
    marker_ttl_s: int = 86_400

    def __post_init__(self) -> None:
        _check.one_of("level", self.level, _LEVELS)
        _check.text("marker_prefix", self.marker_prefix)
        if isinstance(self.marker_ttl_s, bool) or not isinstance(self.marker_ttl_s, int) or self.marker_ttl_s < 60:
            raise ValueError(f"marker_ttl_s must be an int >= 60, got {self.marker_ttl_s!r}")

    @property
    def asked(self) -> Level | None:
        """The level to use where it is offered; None for the best."""
        return _LEVELS[self.level]


def settings_of(exactly_once: bool | ExactlyOnce) -> ExactlyOnce | None:
    """The settings that an `exactly_once=` argument stands for; None for off."""
    if exactly_once is False:
        return None
    if exactly_once is True:
        return ExactlyOnce()
    if not isinstance(exactly_once, ExactlyOnce):
        raise ValueError(f"exactly_once must be a bool or an ExactlyOnce, got {type(exactly_once).__name__}")
    return exactly_once
