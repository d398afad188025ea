"""CLUSTER NODES as a value. Pure."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NodeView", "parse_nodes"]


class NodeView(NamedTuple):
    """One node, as another one sees it."""

    id: str
    primary: str | None
    """The id of its primary; None for a primary."""
    failing: bool
    slots: tuple[tuple[int, int], ...]
    """Ranges of slots, both ends included; without those that are being moved."""


def parse_nodes(text: str) -> dict[str, NodeView]:
    """The nodes of a CLUSTER NODES reply by id, without those that are still being introduced."""
    views = {}
    for line in text.splitlines():
        node_id, _address, flag_words, primary, _ping, _pong, _epoch, _link, *ranges = line.split(" ")
        flags = flag_words.split(",")
        if "handshake" in flags:
            continue
        slots = []
        for words in ranges:
            if not words.startswith("["):
                first, _, last = words.partition("-")
                slots.append((int(first), int(last or first)))
        failing = "fail" in flags or "fail?" in flags
        views[node_id] = NodeView(node_id, None if primary == "-" else primary, failing, tuple(slots))
    return views
