"""What a memory has beside its content: the keywords of `store`, `update` and `store_many`.

They are TypedDicts, so a type checker refuses a wrong name or type, and attributes that many memories share can be kept:

    common: MemoryAttributes = {"user_id": "ann", "session_id": "talk-1"}
    memory.store_many("agent-1", [{"content": turn, **common} for turn in ("I like tea.", "So do I.")])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from agent_memory.memory.entries import Content

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["MemoryAttributes", "MemoryChanges", "NewMemory"]


class MemoryChanges(TypedDict, total=False):
    """What `update` can change beside the content. What is left out stays as it is, as does what is None."""

    importance: float
    """0..1; 0.5 at `store`. Less important memories leave Redis first."""
    embedding: ArrayLike | None
    """Shape (dimensions,), finite, kept as float32; the vector that `embed` makes of the text unless given."""
    memory_type: str
    """A label, 1..512 characters; none at `store`."""
    step: int | None
    """The place in the session, a whole number of 64 bits; the order of storing unless given."""
    timestamp_s: float | None
    """When it happened, seconds since the epoch; the time of the call at `store`."""
    metadata: Mapping[str, Any] | None
    """JSON values by name; none at `store`."""
    tags: Iterable[str]
    """At most 1,000 labels of 1..512 characters; none at `store`."""
    ttl_s: float | None
    """Seconds from the call on after which it is forgotten, > 0; never at `store`."""


class MemoryAttributes(MemoryChanges, total=False):
    """What `store` takes beside the content."""

    namespace: Sequence[str]
    """A path of labels of 1..512 characters; default: `()`."""
    user_id: str | None
    """The user it belongs to, 1..512 characters; default: None, a memory of no user."""
    session_id: str | None
    """The conversation it was said in, 1..512 characters; turns of one session lend each other their words. Default: None."""
    key: str | None
    """A name of the caller's, unique in agent, user and namespace: the memory of that name is replaced. Default: None."""
    idempotency_key: str | None
    """Names the call, unique in agent and user: a repeated call gives the id of the first. Default: None."""
    deduplicate: bool | None
    """Whether equal content of the same user, session, namespace and expiry gives the id of the first; not with a `key`.
    Default: `MemorySettings.deduplicate`."""


class _Content(TypedDict):
    content: Content
    """A text, bytes or a JSON value."""


class NewMemory(MemoryAttributes, _Content):
    """A memory for `store_many`: the content, and what `store` takes beside it."""
