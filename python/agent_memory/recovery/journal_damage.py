"""What opening a journal reports of damage: one line in the log, figures for `stats()`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["tell_of_damage"]


def tell_of_damage(logger: logging.Logger, name: str, figures: Mapping[str, Any]) -> None:
    """Logs what a journal found when it was opened; `figures` are its stats(), `name` says whose it is."""
    if figures["damaged_segments"]:
        logger.error(
            "%s: the journal was damaged (%s): %d records or more are lost and %d bytes cannot be read; of %d records"
            " it is unknown whether they were executed or changed; copies of the damaged files are kept as *.damaged",
            name,
            ", ".join(figures["damaged_files"]),
            figures["damaged_records"],
            figures["damaged_bytes"],
            figures["uncertain_records"],
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
