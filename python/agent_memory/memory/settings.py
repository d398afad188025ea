"""Settings of the memory system: frozen, and validated when they are made.

    MemorySettings(short_term=ShortTermSettings(max_entries=2_000), sync=SyncSettings(interval_s=0.5))

Three kinds of parameters:

- What a call stores or asks for is a keyword of that call, by the same name in all calls: `MemoryAttributes` of `store`,
  `MemoryChanges` of `update`, `RetrievalConditions` of `retrieve`, `QueryConditions` of the queries.
- How one retrieval ranks is one object, `Ranking`: an application makes a few of them, and uses each in many calls.
- How a system works is one object, `MemorySettings`. Its groups hold what is set together, for one reason:

  - `short_term`, `intermediate`, `long_term`: how much of each tier Redis holds, and how SQL stores what has aged;
  - `index`: the embedding model, the language, and the memory for ranking;
  - `sync`: how old answers may be, and how much may wait in Redis for SQL;
  - `maintenance`: what the background passes cost, and how long tombstones are kept;
  - `sqlite`, `postgres`: the database, its limits and timeouts;
  - beside the groups: what a write promises (`durability`, `minimum`, `journal`, `deduplicate`).

A value is a setting where deployments differ in it, and a named constant beside its use where they do not.

Residency (`ttl_s`, `max_entries`) decides how long a memory stays in Redis, never whether it exists: what leaves Redis is in
SQL. What forgets memories is `expires_at_s`, `forget()` and the erasures, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from agent_memory import _check
from agent_memory.memory.entries import Durability
from agent_memory.scoring import languages

__all__ = [
    "DEFAULT_MEMORY_SETTINGS",
    "IndexSettings",
    "IntermediateSettings",
    "LongTermSettings",
    "MaintenanceSettings",
    "MemorySettings",
    "PostgresSettings",
    "STRENGTHS",
    "ShortTermSettings",
    "SqliteSettings",
    "SyncSettings",
    "check_level",
    "check_order",
]

STRENGTHS: Final[dict[Durability, int]] = {"journal": 0, "redis": 1, "sql": 2}
"""The levels of durability, the weakest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortTermSettings:
    """Residency in short-term memory.

    Raises TypeError or ValueError for a value outside its rule.
    """

    ttl_s: float = 3_600.0
    """Seconds after which a memory leaves short-term memory, > 0; default 3,600."""
    max_entries: int = 10_000
    """The most memories of one agent, >= 1; beyond that the oldest move on. Default 10,000."""

    def __post_init__(self) -> None:
        _check.above("ttl_s", self.ttl_s, 0)
        _check.whole("max_entries", self.max_entries, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntermediateSettings:
    """Residency in intermediate memory, and what gets there.

    Raises TypeError or ValueError for a value outside its rule.
    """

    ttl_s: float = 86_400.0
    """Seconds since it was stored after which a memory moves to long-term memory, > 0; default 86,400."""
    max_entries: int = 50_000
    """The most memories of one agent, >= 1; beyond that the oldest and least important move on. Default 50,000."""
    min_importance: float = 0.0
    """A memory less important than this moves from short-term to long-term memory directly, 0..1; default 0.0."""

    def __post_init__(self) -> None:
        _check.above("ttl_s", self.ttl_s, 0)
        _check.whole("max_entries", self.max_entries, 1)
        _check_share("min_importance", self.min_importance)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongTermSettings:
    """How long-term memory is kept in SQL.

    Raises TypeError or ValueError for a value outside its rule.
    """

    vectors: Literal["f32", "f16"] = "f32"
    """Element type of its vectors; `"f16"` halves them and rounds them to 11 significant bits. Default `"f32"`."""
    compression_level: int = 3
    """zstd's level for contents, 1..19; 0 leaves them as they are. Default 3."""
    dictionary_bytes: int = 65_536
    """The most bytes of a trained dictionary, >= 0; 0 is no dictionary. Default 65,536 bytes."""

    def __post_init__(self) -> None:
        if self.vectors not in ("f32", "f16"):
            raise ValueError(f"vectors must be 'f32' or 'f16', got {self.vectors!r}")
        _check.whole("compression_level", self.compression_level, 0, 19)
        _check.whole("dictionary_bytes", self.dictionary_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSettings:
    """How copies that SQL does not hold yet get there, and how fresh answers are.

    Raises TypeError or ValueError for a value outside its rule.
    """

    interval_s: float = 1.0
    """Seconds between two rounds of synchronisation, after `start()`, > 0; default 1.0."""
    batch_entries: int = 500
    """Copies in one step of synchronisation, 1..1,000; above 500 as 500. Default 500."""
    max_unsynced_bytes: int = 256 * 1024 * 1024
    """The most bytes of copies that wait in Redis, or in the journal, for SQL, >= 1; beyond that a write is refused. Default
    268,435,456 bytes."""
    max_staleness_s: float = 1.0
    """Seconds for which a process may not see what another one stored, where Redis gives no hint, > 0; default 1.0."""

    def __post_init__(self) -> None:
        _check.above("interval_s", self.interval_s, 0)
        _check.whole("batch_entries", self.batch_entries, 1, 1_000)
        _check.whole("max_unsynced_bytes", self.max_unsynced_bytes, 1)
        _check.above("max_staleness_s", self.max_staleness_s, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """The index in this process, which does all ranking.

    Raises TypeError or ValueError for a value outside its rule.
    """

    dimensions: int | None = None
    """Elements of an embedding, 1..65,536; default None: those of the first one."""
    model: str = ""
    """The name of the embedding model; an index or a store of another model is refused. Default `""`: no name."""
    similarity: Literal["cosine", "inner_product", "euclidean"] = "cosine"
    """How two vectors are compared; default `"cosine"`."""
    language: str = "english"
    """Whose stemmer words in Latin letters have, one of `agent_memory.scoring.languages()`; `"none"`: words as they are. What
    is written in other scripts is stemmed or cut into n-grams by its script, whatever the language. Default `"english"`."""
    max_bytes: int = 2 * 1024 * 1024 * 1024
    """The most bytes of memory of all agents' indexes, >= 1; beyond it the least recently used agent's index is dropped.
    Default 2,147,483,648 bytes."""
    snapshot_entries: int = 50_000
    """From this many memories, >= 1, an agent's index is kept in a snapshot file and loaded from there. Default 50,000."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    """The background passes: moves between tiers, expiry, unfinished erasures, statistics of use.

    Raises TypeError or ValueError for a value outside its rule.
    """

    interval_s: float = 60.0
    """Seconds between two passes, after `start()`, > 0; default 60.0."""
    batch_entries: int = 300
    """Memories in one transaction of a pass, 1..1,000; default 300."""
    pause_s: float = 0.002
    """Seconds between two transactions of a pass, in which callers are served, >= 0; default 0.002."""
    tombstone_ttl_s: float = 7 * 86_400.0
    """Seconds for which the tombstone of a deleted memory is kept, >= 60: longer than the longest replay can take. Default
    604,800."""
    counts_uses: bool = True
    """Whether uses of each memory are counted in SQL (table `accesses`), in batches of ten seconds; default True. They are for
    reports in SQL: no ranking reads them."""

    def __post_init__(self) -> None:
        _check.above("interval_s", self.interval_s, 0)
        _check.whole("batch_entries", self.batch_entries, 1, 1_000)
        _check.at_least("pause_s", self.pause_s, 0)
        _check.at_least("tombstone_ttl_s", self.tombstone_ttl_s, 60)
        _check.flag("counts_uses", self.counts_uses)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteSettings:
    """How the SQLite store works.

    Raises TypeError or ValueError for a value outside its rule.
    """

    max_pending_writes: int = 100_000
    """The most writes that wait for the writer thread, >= 1; one more is refused (MemoryStoreFullError). Default 100,000."""
    reader_threads: int = 4
    """Threads that serve the reads of asyncio callers, >= 1; default 4."""
    busy_timeout_s: float = 5.0
    """Seconds to wait for another process's transaction, > 0; default 5.0."""
    cache_bytes: int = 64 * 1024 * 1024
    """Bytes of the writer's page cache, >= 1 MiB; each reader has an eighth of it. Default 67,108,864 bytes."""
    vacuum_bytes: int = 128 * 1024 * 1024
    """After an erasure a database of up to this many bytes is written anew (VACUUM, about 5 ms per MiB, during which writes
    wait), so that nothing erased stays in the free space of its pages. In a larger one remnants of pages that were split may
    stay until it is vacuumed. >= 0; default 134,217,728 bytes."""

    def __post_init__(self) -> None:
        _check.whole("max_pending_writes", self.max_pending_writes, 1)
        _check.whole("reader_threads", self.reader_threads, 1)
        _check.above("busy_timeout_s", self.busy_timeout_s, 0)
        _check.whole("cache_bytes", self.cache_bytes, 1024 * 1024)
        _check.whole("vacuum_bytes", self.vacuum_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """How the PostgreSQL store works.

    Raises TypeError or ValueError for a value outside its rule.
    """

    max_connections: int = 8
    """The most connections of this process, >= 2; default 8."""
    connect_timeout_s: float = 5.0
    """Seconds until an attempt to connect, or to get a connection, is given up, > 0; default 5.0."""
    statement_timeout_s: float = 30.0
    """Seconds until the server gives a statement up, > 0; default 30.0."""
    max_pending_writes: int = 100_000
    """The most writes that wait for a transaction, >= 1; one more is refused (MemoryStoreFullError). Default 100,000."""
    schema: str = "agent_memory"
    """The schema that holds the tables, at most 63 of a..z, A..Z, 0..9 and _; default `"agent_memory"`."""

    def __post_init__(self) -> None:
        _check.whole("max_connections", self.max_connections, 2)
        _check.above("connect_timeout_s", self.connect_timeout_s, 0)
        _check.above("statement_timeout_s", self.statement_timeout_s, 0)
        _check.whole("max_pending_writes", self.max_pending_writes, 1)
        _check.text("schema", self.schema)
        if not (self.schema.isascii() and self.schema.isidentifier() and len(self.schema) <= 63):
            raise ValueError(f"schema must be an identifier of at most 63 ASCII characters, got {self.schema!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """All settings of a memory system, in groups of what is set together.

    Raises TypeError for a group of another type, ValueError for levels of durability that contradict each other.
    """

    short_term: ShortTermSettings = field(default_factory=ShortTermSettings)
    """Residency in short-term memory; default `ShortTermSettings()`."""
    intermediate: IntermediateSettings = field(default_factory=IntermediateSettings)
    """Residency in intermediate memory; default `IntermediateSettings()`."""
    long_term: LongTermSettings = field(default_factory=LongTermSettings)
    """How long-term memory is stored; default `LongTermSettings()`."""
    index: IndexSettings = field(default_factory=IndexSettings)
    """Embedding model, language and memory for ranking; default `IndexSettings()`."""
    sync: SyncSettings = field(default_factory=SyncSettings)
    """Synchronisation of Redis with SQL, and freshness; default `SyncSettings()`."""
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    """Background passes; default `MaintenanceSettings()`."""
    sqlite: SqliteSettings = field(default_factory=SqliteSettings)
    """The SQLite store, where it is used; default `SqliteSettings()`."""
    postgres: PostgresSettings = field(default_factory=PostgresSettings)
    """The PostgreSQL store, where it is used; default `PostgresSettings()`."""
    durability: Durability = "sql"
    """What `store` tries first unless told otherwise: `"sql"`, `"redis"` or `"journal"`; default `"sql"`."""
    minimum: Durability | None = None
    """The weakest level that `store`, `update` and `delete` accept unless told otherwise, not stronger than `durability`. From
    strong to weak: `"sql"`, `"redis"`, `"journal"`. Default None: that of `durability`."""
    journal: bool = False
    """Whether what neither SQL nor Redis takes is kept in a journal in the system's folder until SQL has it; bounded by
    `SyncSettings.max_unsynced_bytes`. Default False."""
    deduplicate: bool = False
    """Whether equal contents of one agent, namespace and user are stored once, unless `store` says otherwise; default False."""

    def __post_init__(self) -> None:
        for name, kind in _GROUPS.items():
            _check.instance(name, getattr(self, name), kind)
        _check.flag("journal", self.journal)
        _check.flag("deduplicate", self.deduplicate)
        check_level("durability", self.durability, has_journal=self.journal)
        if self.minimum is not None:
            check_level("minimum", self.minimum, has_journal=self.journal)
            check_order(self.durability, self.minimum)


_GROUPS: Final = {
    "short_term": ShortTermSettings,
    "intermediate": IntermediateSettings,
    "long_term": LongTermSettings,
    "index": IndexSettings,
    "sync": SyncSettings,
    "maintenance": MaintenanceSettings,
    "sqlite": SqliteSettings,
    "postgres": PostgresSettings,
}


def check_level(parameter: str, level: str, *, has_journal: bool) -> None:
    """Raises ValueError for what is no level of durability, or cannot be reached without a journal."""
    if not isinstance(level, str) or level not in STRENGTHS:
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
