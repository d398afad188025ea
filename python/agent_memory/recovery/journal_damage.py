"""What opening a journal reports of damage: an event, which is logged, and figures for `stats()`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from agent_memory.policy.event_listeners import publish
from agent_memory.policy.events import Event

__all__ = ["report_damage"]


def report_damage(logger: logging.Logger, name: str, figures: Mapping[str, Any]) -> None:
    """Logs what a journal found when it was opened; `figures` are its stats(), `name` says whose it is."""
    if figures["damaged_segments"]:
        facts = {key: figures[key] for key in ("damaged_records", "damaged_bytes", "uncertain_records")}
        publish(
            Event(
                source="journal",
                name=name,
                endpoint=None,
                old="whole",
                new="damaged",
                message=(
                    f"{name}: the journal was damaged ({', '.join(figures['damaged_files'])}):"
                    f" {figures['damaged_records']} records or more are lost and {figures['damaged_bytes']} bytes cannot be"
                    f" read; of {figures['uncertain_records']} records it is unknown whether they were executed or changed;"
                    " copies of the damaged files are kept as *.damaged"
                ),
                severity="error",
                figures=facts,
            )
        )
    if figures["removed_damaged_files"]:
        logger.warning(
            "%s: %d older copies of damaged journal files were removed", name, figures["removed_damaged_files"]
        )
    if figures["torn_bytes"]:
        logger.warning(
            "%s: the journal ended in %d bytes of an unfinished write, as a crash leaves them",
            name,
            figures["torn_bytes"],
        )
