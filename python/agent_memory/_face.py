"""What `dir()` of a public object shows."""

from __future__ import annotations


def is_documented(name: str) -> bool:
    """Whether a name is for users: it does not begin with an underscore, or is Python's own."""
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))
