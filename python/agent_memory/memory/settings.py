"""What can be set of the memory system: frozen, checked when made, every bound with a name.

    MemorySettings(short_term=ShortTermSettings(max_entries=2_000), sync=SyncSettings(interval_s=0.5))

Residency (`ttl_s`, `max_entries`) decides how long a memory stays in Redis, never whether it exists: what leaves Redis is in
SQL. What forgets memories is `expires_at`, `forget()` and the erasures, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from agent_memory import _check
from agent_memory.memory.entries import Durability
from agent_memory.scoring import languages

__all__ = [
    "DEFAULT_MEMORY_SETTINGS",
    "AccessSettings",
    "IndexSettings",
    "IntermediateSettings",
    "LoaderSettings",
    "LongTermSettings",
    "MaintenanceSettings",
    "MemorySettings",
    "PostgresSettings",
    "ShortTermSettings",
    "SqliteSettings",
    "SyncSettings",
]


STRENGTHS: Final[dict[Durability, int]] = {"journal": 0, "redis": 1, "sql": 2}
"""The levels of durability, the weakest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortTermSettings:
    """Residency in short-term memory. Raises ValueError for a value outside its rule, like all settings here."""

    ttl_s: float = 3_600.0
    """Seconds after which a memory leaves short-term memory. > 0."""
    max_entries: int = 10_000
    """The most memories of one agent; beyond that the oldest move on, by `MaintenanceSettings`. >= 1."""

    def __post_init__(self) -> None:
        _check.above("ttl_s", self.ttl_s, 0)
        _check.whole("max_entries", self.max_entries, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntermediateSettings:
    """Residency in intermediate memory, and what gets there."""

    ttl_s: float = 86_400.0
    """Seconds since it was stored after which a memory moves to long-term memory. > 0."""
    max_entries: int = 50_000
    """The most memories of one agent; beyond that the oldest and least important move on. >= 1."""
    min_importance: float = 0.0
    """A memory less important than this goes from short-term to long-term memory directly. 0..1."""

    def __post_init__(self) -> None:
        _check.above("ttl_s", self.ttl_s, 0)
        _check.whole("max_entries", self.max_entries, 1)
        _check_share("min_importance", self.min_importance)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongTermSettings:
    """How long-term memory is kept in SQL."""

    vectors: Literal["f32", "f16"] = "f32"
    """Element type of its vectors. `"f16"` halves them and rounds them to 11 significant bits."""
    compression_level: int = 3
    """zstd's level for contents, 1..19; 0 leaves them as they are."""
    min_compressed_bytes: int = 64
    """Contents shorter than this stay as they are. >= 1."""
    min_plain_bytes: int = 512
    """The same while there is no dictionary, without which short texts do not get smaller. >= 1."""
    dictionary_bytes: int = 65_536
    """The most bytes of a trained dictionary; 0: no dictionary. >= 0."""
    dictionary_samples: int = 20_000
    """The most contents a dictionary is trained on. >= 1."""
    min_dictionary_samples: int = 1_000
    """No dictionary is trained on fewer contents than this. >= 8."""

    def __post_init__(self) -> None:
        if self.vectors not in ("f32", "f16"):
            raise ValueError(f"vectors must be 'f32' or 'f16', got {self.vectors!r}")
        _check.whole("compression_level", self.compression_level, 0, 19)
        _check.whole("min_compressed_bytes", self.min_compressed_bytes, 1)
        _check.whole("min_plain_bytes", self.min_plain_bytes, 1)
        _check.whole("dictionary_bytes", self.dictionary_bytes, 0)
        _check.whole("dictionary_samples", self.dictionary_samples, 1)
        _check.whole("min_dictionary_samples", self.min_dictionary_samples, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSettings:
    """How copies that SQL does not hold yet get there, and how Redis catches up."""

    interval_s: float = 1.0
    """Seconds between two looks at what is dirty, while SQL answers. > 0."""
    batch_entries: int = 500
    """Copies in one step of synchronisation; a few steps are under way at a time. 1..1,000; above 500 as 500."""
    max_unsynced_bytes: int = 256 * 1024 * 1024
    """The most bytes of copies that wait in Redis for SQL; beyond that a write is refused. >= 1."""
    max_staleness_s: float = 1.0
    """The longest a process may not see what another one stored, where Redis gives no hint. > 0."""

    def __post_init__(self) -> None:
        _check.above("interval_s", self.interval_s, 0)
        _check.whole("batch_entries", self.batch_entries, 1, 1_000)
        _check.whole("max_unsynced_bytes", self.max_unsynced_bytes, 1)
        _check.above("max_staleness_s", self.max_staleness_s, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSettings:
    """How a cache miss is served."""

    max_flights: int = 1_024
    """The most ids being loaded at one time; more wait. >= 1."""
    absent_ttl_s: float = 1.0
    """Seconds for which an id that is nowhere is answered without looking again. >= 0; 0: always look."""
    max_absent: int = 10_000
    """The most such ids remembered. >= 0."""

    def __post_init__(self) -> None:
        _check.whole("max_flights", self.max_flights, 1)
        _check.at_least("absent_ttl_s", self.absent_ttl_s, 0)
        _check.whole("max_absent", self.max_absent, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """The index in this process, which does all ranking."""

    dimensions: int | None = None
    """Elements of an embedding; None: those of the first one. 1..65,536."""
    model: str = ""
    """The name of the embedding model; an index or a store of another model is refused."""
    similarity: Literal["cosine", "inner_product", "euclidean"] = "cosine"
    language: str = "english"
    """Whose stemmer words in Latin letters have, one of `agent_memory.scoring.languages()`; `"none"`: words as they are. What
    is written in other scripts is stemmed or cut into n-grams by its script, whatever the language."""
    max_bytes: int = 2 * 1024 * 1024 * 1024
    """`index_memory_bytes`: the most memory of all agents' indexes; beyond it the least recently used agent goes. >= 1."""
    snapshot_entries: int = 50_000
    """From this many memories an agent's index is kept in a snapshot and starts from there. >= 1."""
    feed_entries: int = 10_000
    """Changes read from the feed at a time. >= 1."""

    def __post_init__(self) -> None:
        if self.dimensions is not None:
            _check.whole("dimensions", self.dimensions, 1, 65_536)
        _check.instance("model", self.model, str)
        if self.similarity not in ("cosine", "inner_product", "euclidean"):
            raise ValueError(f"similarity must be 'cosine', 'inner_product' or 'euclidean', got {self.similarity!r}")
        _check.text("language", self.language)
        if self.language not in languages():
            raise ValueError(f"language must be one of {', '.join(languages())}, got {self.language!r}")
        _check.whole("max_bytes", self.max_bytes, 1)
        _check.whole("snapshot_entries", self.snapshot_entries, 1)
        _check.whole("feed_entries", self.feed_entries, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Statistics of use: collected in this process, written in batches, never by a read itself."""

    enabled: bool = True
    max_pending: int = 10_000
    """The most memories whose use waits to be written; beyond it the statistics of further ones are dropped. >= 1."""
    interval_s: float = 10.0
    """Seconds between two writes. > 0."""

    def __post_init__(self) -> None:
        _check.flag("enabled", self.enabled)
        _check.whole("max_pending", self.max_pending, 1)
        _check.above("interval_s", self.interval_s, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    """The background passes: short-term to intermediate to long-term, expiry, what erasures left over."""

    interval_s: float = 60.0
    """Seconds between two passes. > 0."""
    batch_entries: int = 300
    """Memories in one transaction of a pass. 1..1,000."""
    pause_s: float = 0.002
    """Seconds between two batches, so that callers come between. >= 0."""
    tombstone_ttl_s: float = 7 * 86_400.0
    """Seconds for which the tombstone of a deleted memory is kept: longer than the longest replay can take. >= 60."""

    def __post_init__(self) -> None:
        _check.above("interval_s", self.interval_s, 0)
        _check.whole("batch_entries", self.batch_entries, 1, 1_000)
        _check.at_least("pause_s", self.pause_s, 0)
        _check.at_least("tombstone_ttl_s", self.tombstone_ttl_s, 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteSettings:
    """How the SQLite store works."""

    max_pending_writes: int = 100_000
    """The most writes that wait for the writer thread; one more is refused (MemoryStoreFullError). >= 1."""
    max_transaction_writes: int = 1_000
    """The most writes of one transaction. >= 1."""
    max_transaction_s: float = 0.05
    """Seconds that a transaction should hold the database at the most: it takes fewer writes where the last one took longer,
    and more again, up to `max_transaction_writes`, where it took less than half. > 0."""
    reader_threads: int = 4
    """Threads that asyncio callers' reads run in. >= 1."""
    busy_timeout_s: float = 5.0
    """Seconds to wait for another process's transaction. > 0."""
    cache_bytes: int = 64 * 1024 * 1024
    """Page cache of the writer; each reader has an eighth of it. >= 1 MiB."""
    wal_bytes: int = 16 * 1024 * 1024
    """The size at which the WAL is checkpointed, while writes wait. >= 1 MiB."""
    vacuum_bytes: int = 128 * 1024 * 1024
    """After an erasure a database of up to this size is written anew (VACUUM, about 5 ms per MiB, during which writes wait), so
    that nothing erased stays in the free space of its pages. In a larger one remnants of pages that were split may stay until
    it is vacuumed. >= 0."""

    def __post_init__(self) -> None:
        _check.whole("max_pending_writes", self.max_pending_writes, 1)
        _check.whole("max_transaction_writes", self.max_transaction_writes, 1)
        _check.above("max_transaction_s", self.max_transaction_s, 0)
        _check.whole("reader_threads", self.reader_threads, 1)
        _check.above("busy_timeout_s", self.busy_timeout_s, 0)
        _check.whole("cache_bytes", self.cache_bytes, 1024 * 1024)
        _check.whole("wal_bytes", self.wal_bytes, 1024 * 1024)
        _check.whole("vacuum_bytes", self.vacuum_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """How the PostgreSQL store works."""

    max_connections: int = 8
    """The most connections of this process. >= 2."""
    connect_timeout_s: float = 5.0
    """Seconds until an attempt to connect, or to get a connection, is given up. > 0."""
    statement_timeout_s: float = 30.0
    """Seconds until the server gives a statement up. > 0."""
    max_pending_writes: int = 100_000
    """The most writes that wait for a transaction; one more is refused (MemoryStoreFullError). >= 1."""
    max_transaction_writes: int = 500
    """The most writes of one transaction. >= 1."""
    schema: str = "agent_memory"
    """The schema that holds the tables: letters, digits and _."""

    def __post_init__(self) -> None:
        _check.whole("max_connections", self.max_connections, 2)
        _check.above("connect_timeout_s", self.connect_timeout_s, 0)
        _check.above("statement_timeout_s", self.statement_timeout_s, 0)
        _check.whole("max_pending_writes", self.max_pending_writes, 1)
        _check.whole("max_transaction_writes", self.max_transaction_writes, 1)
        _check.text("schema", self.schema)
        if not (self.schema.isascii() and self.schema.isidentifier() and len(self.schema) <= 63):
            raise ValueError(f"schema must be an identifier of at most 63 ASCII characters, got {self.schema!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """All settings of a memory system."""

    short_term: ShortTermSettings = field(default_factory=ShortTermSettings)
    intermediate: IntermediateSettings = field(default_factory=IntermediateSettings)
    long_term: LongTermSettings = field(default_factory=LongTermSettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    accesses: AccessSettings = field(default_factory=AccessSettings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    sqlite: SqliteSettings = field(default_factory=SqliteSettings)
    postgres: PostgresSettings = field(default_factory=PostgresSettings)
    durability: Durability = "sql"
    """What `store` tries first unless told otherwise: `"sql"`, `"redis"` or `"journal"`."""
    minimum: Durability | None = None
    """The weakest level that `store`, `update` and `delete` accept unless told otherwise, not stronger than `durability`; None:
    `durability`. From strong to weak: `"sql"`, `"redis"`, `"journal"`."""
    journal: bool = False
    """Whether what neither SQL nor Redis takes is kept in a journal in the system's folder until SQL has it; bounded by
    `SyncSettings.max_unsynced_bytes`."""
    deduplicate: bool = False
    """Whether equal contents of one agent, namespace and user are stored once, unless `store` says otherwise."""

    def __post_init__(self) -> None:
        for name, kind in _PARTS.items():
            _check.instance(name, getattr(self, name), kind)
        _check.flag("journal", self.journal)
        _check.flag("deduplicate", self.deduplicate)
        check_level("durability", self.durability, has_journal=self.journal)
        if self.minimum is not None:
            check_level("minimum", self.minimum, has_journal=self.journal)
            check_order(self.durability, self.minimum)


_PARTS: Final = {
    "short_term": ShortTermSettings,
    "intermediate": IntermediateSettings,
    "long_term": LongTermSettings,
    "sync": SyncSettings,
    "loader": LoaderSettings,
    "index": IndexSettings,
    "accesses": AccessSettings,
    "maintenance": MaintenanceSettings,
    "sqlite": SqliteSettings,
    "postgres": PostgresSettings,
}


def check_level(parameter: str, level: Durability, *, has_journal: bool) -> None:
    """Raises ValueError for what is no level of durability, or cannot be reached without a journal."""
    if level not in STRENGTHS:
        raise ValueError(f"{parameter} must be 'sql', 'redis' or 'journal', got {level!r}")
    if level == "journal" and not has_journal:
        raise ValueError(f"{parameter} must be 'sql' or 'redis' without MemorySettings(journal=True), got 'journal'")


def check_order(durability: Durability, minimum: Durability) -> None:
    """Raises ValueError for a `minimum` that promises more than `durability`."""
    if STRENGTHS[minimum] > STRENGTHS[durability]:
        raise ValueError(f"minimum must not be stronger than durability {durability!r}, got {minimum!r}")


def _check_share(parameter: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{parameter} must be in 0..1, got {value!r}")


DEFAULT_MEMORY_SETTINGS: Final = MemorySettings()
