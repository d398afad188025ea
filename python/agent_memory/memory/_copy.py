"""A memory as stores hold it: `Copy`, a tuple of scalars and bytes, checked once when the memory is made and never again.

`make_copy` goes from a user's arguments to a copy, `entry_of` back. A change of a memory is another copy with a greater
version. Every copy carries a checksum over all that belongs to its version; `tier`, `seq` and `generation` may change without
a new version and are not part of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from agent_memory import _check, _core
from agent_memory._enums import NamedIntEnum
from agent_memory.memory._copy_rules import MAX_VERSION, Stamp
from agent_memory.memory.entries import Content, MemoryEntry, Tier
from agent_memory.memory.errors import CorruptMemoryError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "EMBEDDED",
    "MAX_CONTENT_BYTES",
    "MAX_DIMENSIONS",
    "MAX_NAME_LENGTH",
    "PENDING_VECTOR",
    "SEARCHED_TEXT",
    "ContentKind",
    "Copy",
    "accepted",
    "checksum_of",
    "content_of",
    "decode_namespace",
    "embedded_text",
    "encode_namespace",
    "entry_of",
    "hash_of",
    "json_text",
    "make_copy",
    "new_id",
    "new_writer",
    "text_of",
    "tombstone_of",
    "verify",
]

MAX_NAME_LENGTH: Final = 512
"""The most characters of an id, key, tag, type, user, session or label of a namespace."""
MAX_CONTENT_BYTES: Final = 16 * 1024 * 1024
"""The most bytes of one content, encoded."""
MAX_METADATA_CHARACTERS: Final = 1024 * 1024
"""The most characters of one memory's metadata, encoded as JSON."""
MAX_DIMENSIONS: Final = 65_536
PENDING_VECTOR: Final = b"\0"
"""In the place of a vector that could not be made: the memory waits for one. A vector has four bytes and more."""
MAX_TAGS: Final = 1_000
"""The most tags of one memory."""
SEARCHED_TEXT: Final = "agent_memory:searched_text"
"""The name in a memory's metadata of what is found by words instead of its content; an empty text: it is found by none."""
EMBEDDED: Final = "agent_memory:embedded"
"""The name in the metadata of a JSON content that says, by True: the system's `embed` makes its vector (`embedded_text`)."""


class ContentKind(NamedIntEnum):
    """How the bytes of a content are read."""

    TEXT = 0
    BYTES = 1
    JSON = 2


class Copy(NamedTuple):
    """One copy of one memory. Made by `make_copy`, `tombstone_of` and the decoders of the stores, never by hand.

    Text that is absent is `""`, bytes that are absent `b""`. A tombstone keeps id, agent, version, writer and nothing else.
    """

    id: str
    agent_id: str
    version: int = 0
    """Microseconds since the epoch, at least one more than the version before; 0: the store that accepts it assigns one."""
    writer: int = 0
    """The writer of this version: breaks ties between equal versions. Below 2^63."""
    deleted: int = 0
    tier: int = 0
    created_us: int = 0
    """When the memory was first stored, in microseconds since the epoch; kept by every later version."""
    timestamp: float = 0.0
    """The time of the remembered event, in seconds since the epoch."""
    step: int | None = None
    importance: float = 0.0
    memory_type: str = ""
    namespace: str = ""
    """As `encode_namespace` gives it."""
    user_id: str = ""
    session_id: str = ""
    key: str = ""
    idempotency_key: str = ""
    expires_at: float | None = None
    tags: str = ""
    """A JSON list of str, or `""`."""
    metadata: str = ""
    """A JSON object, or `""`."""
    content_kind: int = 0
    content: bytes = b""
    checksum: int = 0
    content_hash: bytes = b""
    """16 bytes where the memory takes part in deduplication; never of one with a key."""
    vector: bytes = b""
    """float32, little endian; or PENDING_VECTOR."""
    seq: int = 0
    """Its place in the agent's change feed; 0 where SQL has not accepted it yet."""
    generation: int = 0
    """The agent's generation it was written in; 0: any."""

    @property
    def stamp(self) -> Stamp:
        """What the order of copies looks at."""
        return Stamp(bool(self.deleted), self.version, self.writer)


def new_id(now_us: int) -> str:
    """An id that sorts by time: 13 hexadecimal digits of microseconds and 64 random bits."""
    global _suffixes
    suffix = next(_suffixes, None)
    if suffix is None:
        # A call into the kernel lets another thread have the interpreter, and getting it back takes longer than the call.
        drawn = secrets.token_hex(8 * _SUFFIXES_DRAWN)
        _suffixes = iter([drawn[at : at + 16] for at in range(0, len(drawn), 16)])
        suffix = next(_suffixes)
    return f"{now_us:013x}{suffix}"


_SUFFIXES_DRAWN: Final = 256
_suffixes: Iterator[str] = iter(())


def _forget_suffixes() -> None:
    # A child of fork() must not give out what its parent does.
    global _suffixes
    _suffixes = iter(())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_suffixes)


def new_writer() -> int:
    """A number for a process that writes: 63 random bits, never 0."""
    return secrets.randbits(63) or 1


def make_copy(
    agent_id: str,
    content: Content,
    *,
    memory_id: str,
    timestamp: float,
    created_us: int,
    writer: int,
    importance: float = 0.5,
    embedding: ArrayLike | None = None,
    memory_type: str = "",
    step: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    tags: Iterable[str] = (),
    namespace: Sequence[str] = (),
    user_id: str | None = None,
    session_id: str | None = None,
    key: str | None = None,
    idempotency_key: str | None = None,
    expires_at: float | None = None,
    tier: Tier = Tier.STM,
    version: int = 0,
    generation: int = 0,
    deduplicate: bool = False,
) -> Copy:
    """A checked copy of a user's arguments; raises TypeError or ValueError naming parameter, rule and value.

    `embedding`: shape (dimensions,), finite, converted to float32; or PENDING_VECTOR. With `version=0` the checksum is
    set by the store that assigns the version.
    """
    check_name("agent_id", agent_id)
    check_name("memory_id", memory_id)
    if memory_type != "":
        check_name("memory_type", memory_type)
    user = "" if user_id is None else check_name("user_id", user_id)
    session = "" if session_id is None else check_name("session_id", session_id)
    own_key = "" if key is None else check_name("key", key)
    idempotency = "" if idempotency_key is None else check_name("idempotency_key", idempotency_key)
    scope = encode_namespace(namespace) if namespace != () else ""
    if type(importance) is not float or type(timestamp) is not float:
        _check.numbers({"importance": importance, "timestamp_s": timestamp}, required=("importance", "timestamp_s"))
    if not 0.0 <= importance <= 1.0:
        raise ValueError(f"importance must be in 0..1, got {importance!r}")
    if not math.isfinite(timestamp):
        raise ValueError(f"timestamp_s must be finite, got {timestamp!r}")
    if expires_at is not None and not math.isfinite(expires_at):
        raise ValueError(f"expires_at must be finite, got {expires_at!r}")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or not -(2**63) < step < 2**63):
        raise ValueError(f"step must be a whole number of 64 bits, got {step!r}")
    if not 0 <= version <= MAX_VERSION:
        raise ValueError(f"version must be in 0..2^52 - 1, got {version}")
    kind, data = _encode_content(content)
    words = (
        memory_id,
        agent_id,
        version,
        writer,
        0,
        int(tier),
        created_us,
        float(timestamp),
        step,
        float(importance),
        memory_type,
        scope,
        user,
        session,
        own_key,
        idempotency,
        None if expires_at is None else float(expires_at),
        _encode_tags(tags) if tags != () else "",
        "" if metadata is None else _encode_metadata(metadata),
        kind,
        data,
        0,
        hash_of(scope, user, kind, data) if deduplicate and not own_key else b"",
        b"" if embedding is None else _encode_vector(embedding),
        0,
        generation,
    )
    copy = Copy._make(words)
    if version == 0:
        return copy
    return Copy._make((*words[:_CHECKSUM], checksum_of(copy), *words[_CHECKSUM + 1 :]))


def tombstone_of(
    memory_id: str, agent_id: str, version: int, writer: int, *, seq: int = 0, generation: int = 0
) -> Copy:
    """What is left of a deleted memory."""
    return Copy(memory_id, agent_id, version, writer, 1, seq=seq, generation=generation)


def checksum_of(copy: Copy) -> int:
    """CRC-32 over everything that belongs to this version of the memory (not tier, seq and generation).

    A tombstone has checksum 0. The writer counts as well: two versions may differ in nothing else.
    """
    return 0 if copy.deleted else _core.copy_checksum(copy)


def accepted(copy: Copy, version: int, writer: int, created_us: int, seq: int, generation: int) -> Copy:
    """A living copy with what the store that accepts it gives it, and the checksum that belongs to that."""
    return Copy._make(_core.accept_copy(copy, version, writer, created_us, seq, generation))


_CHECKSUM: Final = Copy._fields.index("checksum")


def verify(copy: Copy, where: str) -> Copy:
    """The copy itself; raises CorruptMemoryError where it does not match its checksum."""
    if copy.checksum != checksum_of(copy):
        raise CorruptMemoryError(copy.id, where)
    return copy


def hash_of(namespace: str, user_id: str, content_kind: int, content: bytes) -> bytes:
    """What duplicates of one agent have in common, beside session and expiry: user, namespace and content. 16 bytes."""
    digest = hashlib.blake2b(f"{namespace}\0{user_id}\0{content_kind}\0".encode(), digest_size=16)
    digest.update(content)
    return digest.digest()


def entry_of(
    copy: Copy,
    *,
    relevance: float | None = None,
    is_match: bool = True,
    score_parts: Mapping[str, float] | None = None,
) -> MemoryEntry:
    """What a user sees of a copy that is no tombstone."""
    return MemoryEntry(
        id=copy.id,
        agent_id=copy.agent_id,
        content=content_of(copy),
        timestamp_s=copy.timestamp,
        importance=copy.importance,
        memory_type=copy.memory_type,
        step=copy.step,
        metadata=json.loads(copy.metadata) if copy.metadata else {},
        tags=tuple(json.loads(copy.tags)) if copy.tags else (),
        namespace=decode_namespace(copy.namespace),
        user_id=copy.user_id or None,
        session_id=copy.session_id or None,
        key=copy.key or None,
        tier=Tier(copy.tier),
        version=copy.version,
        created_at_s=copy.created_us / 1e6,
        expires_at_s=copy.expires_at,
        embedding=np.frombuffer(copy.vector, dtype="<f4") if len(copy.vector) > 1 else None,
        awaits_embedding=copy.vector == PENDING_VECTOR,
        score=relevance,
        relevance=relevance,
        is_match=is_match,
        score_parts=score_parts,
    )


def content_of(copy: Copy) -> Any:
    """The content as it was given: str, bytes, or a JSON value."""
    if copy.content_kind == ContentKind.TEXT:
        return copy.content.decode()
    if copy.content_kind == ContentKind.BYTES:
        return copy.content
    return json.loads(copy.content)


def text_of(copy: Copy) -> str | None:
    """The words of a memory, for the text index: what its metadata say (`SEARCHED_TEXT`), else those of its content, which are
    the text itself, the strings of a JSON value, None for bytes.
    """
    if SEARCHED_TEXT in copy.metadata:
        searched = json.loads(copy.metadata).get(SEARCHED_TEXT)
        if isinstance(searched, str):
            return searched
    if copy.content_kind == ContentKind.TEXT:
        return copy.content.decode()
    if copy.content_kind == ContentKind.BYTES:
        return None
    words: list[str] = []
    waiting = [json.loads(copy.content)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            words.append(value)
        elif isinstance(value, dict):
            waiting.extend(reversed(value.values()))
        elif isinstance(value, list):
            waiting.extend(reversed(value))
    return "\n".join(words)


def embedded_text(copy: Copy) -> str | None:
    """What the system's `embed` makes the vector of; None where only the caller could: bytes, and JSON without EMBEDDED."""
    if copy.content_kind == ContentKind.TEXT:
        return copy.content.decode()
    metadata = json.loads(copy.metadata) if EMBEDDED in copy.metadata else {}
    if copy.content_kind != ContentKind.JSON or metadata.get(EMBEDDED) is not True:
        return None
    searched = metadata.get(SEARCHED_TEXT)
    return searched if isinstance(searched, str) else json_text(json.loads(copy.content))


def json_text(value: Any) -> str:
    """A JSON value as one text: equal values have equal texts."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def encode_namespace(labels: Sequence[str], parameter: str = "namespace") -> str:
    """`("users", "a/b")` as `"users/a%2Fb/"`: a prefix of labels is a prefix of the text, and never half a label."""
    if type(labels) is not tuple:
        _check.iterable(parameter, labels, "str")
    return "".join(f"{quote(check_name(parameter, label), safe=' ')}/" for label in labels)


def decode_namespace(text: str) -> tuple[str, ...]:
    """The labels of an encoded namespace."""
    return tuple(unquote(label) for label in text.split("/")[:-1]) if text else ()


def check_name(parameter: str, value: object) -> str:
    """Returns `value`; raises TypeError or ValueError unless it is a text of 1..MAX_NAME_LENGTH characters."""
    if not isinstance(value, str):
        raise TypeError(f"{parameter} must be a str, got {type(value).__name__}")
    if not value or len(value) > MAX_NAME_LENGTH or "\0" in value:
        raise ValueError(f"{parameter} must have 1..{MAX_NAME_LENGTH} characters and no NUL, got {value[:40]!r}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{parameter} must have a UTF-8 encoding, got a lone surrogate in it") from None
    return value


def _encode_content(content: Content) -> tuple[int, bytes]:
    if isinstance(content, str):
        kind = ContentKind.TEXT
        try:
            data = content.encode()
        except UnicodeEncodeError:
            raise ValueError("content must have a UTF-8 encoding, got a text with a lone surrogate") from None
    elif isinstance(content, bytes | bytearray | memoryview):
        kind, data = ContentKind.BYTES, bytes(content)
    else:
        kind, data = ContentKind.JSON, _encode_json("content", content).encode()
    if len(data) > MAX_CONTENT_BYTES:
        raise ValueError(f"content must have at most {MAX_CONTENT_BYTES} bytes, got {len(data)}")
    return int(kind), data


def _encode_json(parameter: str, value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        # The message of json's errors may show a part of the value: only its kind is passed on.
        raise ValueError(
            f"{parameter} must be JSON, got a {type(value).__name__} that is not ({type(error).__name__})"
        ) from None
    return text


def _encode_metadata(metadata: Mapping[str, Any]) -> str:
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, got {type(metadata).__name__}")
    for name in metadata:
        if not isinstance(name, str):
            raise TypeError(f"metadata must have names that are str, got {type(name).__name__}")
    text = _encode_json("metadata", dict(metadata)) if metadata else ""
    if len(text) > MAX_METADATA_CHARACTERS:
        raise ValueError(f"metadata must have at most {MAX_METADATA_CHARACTERS} characters, got {len(text)}")
    return text


def _encode_tags(tags: Iterable[str]) -> str:
    _check.iterable("tags", tags, "str")
    distinct = list(dict.fromkeys(check_name("tags", tag) for tag in tags))
    if len(distinct) > MAX_TAGS:
        raise ValueError(f"tags must be at most {MAX_TAGS}, got {len(distinct)}")
    return _encode_json("tags", distinct) if distinct else ""


def check_embedding(embedding: ArrayLike) -> NDArray[np.float32]:
    """Returns `embedding` as float32; raises TypeError or ValueError unless it is one row of numbers."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused as such
            vector = np.asarray(embedding, dtype="<f4")
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"embedding must be an array of numbers, got a {type(embedding).__name__}") from None
    if vector.ndim != 1 or not len(vector):
        raise ValueError(
            f"embedding must have shape (1..{MAX_DIMENSIONS},), got {vector.shape} of {type(embedding).__name__}"
        )
    return vector


def _encode_vector(embedding: ArrayLike) -> bytes:
    if isinstance(embedding, bytes) and embedding == PENDING_VECTOR:
        return embedding
    encoded = _core.encode_vector(embedding, MAX_DIMENSIONS)
    if encoded is None:  # not the array that is asked for, but perhaps what can be made one
        vector = check_embedding(embedding)
        encoded = _core.encode_vector(np.ascontiguousarray(vector), MAX_DIMENSIONS)
        if encoded is None:
            raise ValueError(f"embedding must have shape (1..{MAX_DIMENSIONS},), got {vector.shape}")
    return encoded
