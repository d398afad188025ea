"""What the builds of earlier schemas wrote (`tests/fixtures/memory_schema_*`) opens, and keeps everything."""

from __future__ import annotations

import gzip
import json
import sqlite3
import tarfile

import psycopg
import pytest
from paths import FIXTURES

from agent_memory.memory import (
    EmbeddingSpaceError,
    IndexSettings,
    MemoryDeletedError,
    MemorySettings,
    MemorySystem,
    PostgresSettings,
)
from agent_memory.memory.stores.sqlite import _schema
from agent_memory.scoring import MemoryIndex

SCHEMA = "earlier_schema"
SETTINGS = MemorySettings(index=IndexSettings(snapshot_entries=1), postgres=PostgresSettings(schema=SCHEMA))
GONE = {"deleted request", "expired"}


@pytest.fixture(params=["memory_schema_1", "memory_schema_3"])
def written(request):
    """The folder of what one build wrote."""
    return FIXTURES / request.param


def told(written, where):
    return json.loads((written / "memories.json").read_text())[where]


def check(memory, wanted):
    for name, one in wanted.items():
        entry = memory.get("bot", one["id"])
        if name in GONE:
            assert entry is None
            continue
        content = entry.content.hex() if isinstance(entry.content, bytes) else entry.content
        assert (content, entry.version) == (one["content"], one["version"]), name
    ids = {name: one["id"] for name, one in wanted.items()}
    assert memory.count("gone") == memory.count(user_id="eve") == 0
    assert memory.count("bot") == len(wanted) - len(GONE)

    keys = [
        ("home", (), None, "key"),
        ("work", (), "ann", "key of ann"),
        ("note", ("notes", "a/b"), None, "key in a namespace"),
    ]
    for key, namespace, user_id, name in keys:
        assert memory.get_by_key("bot", key, namespace, user_id=user_id).id == ids[name]
        assert memory.store("bot", "changed", key=key, namespace=namespace, user_id=user_id) == ids[name]
    assert memory.get_by_key("bot", "work") is None, "a user's key is that user's"

    assert memory.store("bot", "again", idempotency_key="request-7") == ids["request"]
    assert memory.store("bot", "again", idempotency_key="request-8", user_id="ann") == ids["request of ann"]
    with pytest.raises(MemoryDeletedError):
        memory.store("bot", "again", idempotency_key="request-9")
    assert memory.store("bot", "likes tea", deduplicate=True) == ids["once"]
    assert memory.store("bot", "likes tea", deduplicate=True, user_id="ann", session_id="s2") == ids["once of ann"]
    assert memory.count("bot") == len(wanted) - len(GONE)
    assert ids["plain"] in [entry.id for entry in memory.retrieve("bot", "kettle")]
    assert memory.import_(list(memory.export("bot"))).skipped == {}
    assert memory.store("bot", "new", user_id="eve")
    vectors = [entry.embedding for entry in memory.query("bot") if entry.embedding is not None]
    assert {len(vector) for vector in vectors} == {memory.stats()["embedding"]["dimensions"]} == {8}
    assert memory.retrieve("bot", embedding=vectors[0], k=1)[0].relevance > 0.999
    with pytest.raises(EmbeddingSpaceError, match="must have 8 elements"):
        memory.store("bot", "of another model", embedding=[1.0, 0.0])


def unpack(written, folder):
    with tarfile.open(written / "folder.tar.gz") as archive:
        archive.extractall(folder, filter="data")


def test_a_folder_opens_and_keeps_everything(written, tmp_path):
    unpack(written, tmp_path)
    wanted = told(written, "folder")
    with MemorySystem(tmp_path, config=SETTINGS) as memory:
        memory.sync()
        check(memory, wanted)
    database = sqlite3.connect(tmp_path / "memories.sqlite")
    assert database.execute("PRAGMA user_version").fetchone() == (_schema.SCHEMA_VERSION,)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_an_index_snapshot_opens(written, tmp_path):
    unpack(written, tmp_path)
    (snapshot,) = (tmp_path / "snapshots").glob("*.snapshot")
    index = MemoryIndex.load(snapshot)
    ids = {name: one["id"] for name, one in told(written, "folder").items()}
    assert index.search(text="kettle", k=1).ids == [ids["plain"]]
    # Without the deleted one, and the dirty one, which came later; the expired one was swept or not.
    assert len(ids) - 3 <= len(index) <= len(ids) - 2


def test_a_postgres_schema_opens_and_keeps_everything(written, tmp_path, postgres_url):
    dump = gzip.decompress((written / "postgres.sql.gz").read_bytes()).decode()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        # A parameter that an older server than the one that was dumped does not know, and commands of psql.
        lines = [line for line in dump.splitlines() if "transaction_timeout" not in line and line[:1] != "\\"]
        connection.execute("\n".join(lines).replace("agent_memory", SCHEMA))
    with MemorySystem(tmp_path, redis=None, store=postgres_url, config=SETTINGS) as memory:
        check(memory, told(written, "postgres"))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
