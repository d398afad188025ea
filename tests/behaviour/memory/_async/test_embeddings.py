"""The vectors of a database are of one model: others are refused, `reembed()` makes all anew; what `embed` failed for waits."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import sqlite3
from dataclasses import replace

import numpy as np
import psycopg
import pytest

from agent_memory._concurrency import AsyncEvent, async_spawn
from agent_memory.memory import (
    AsyncMemorySystem,
    EmbeddingSpaceError,
    IndexSettings,
    LongTermSettings,
    MemorySettings,
    PostgresSettings,
    Ranking,
    ShortTermSettings,
    SyncSettings,
)
from agent_memory.memory._async import embedding
from agent_memory.memory.stores import _compression
from agent_memory.scoring import ScoreWeights

BY_VECTOR = Ranking(weights=ScoreWeights(lexical=0))


class Words:
    """An `embed` that counts words; with another name or other dimensions it is another model. It fails where `fails` says."""

    def __init__(self, dimensions=64, name="words"):
        self.dimensions, self.name = dimensions, name
        self.texts = []
        self.fails = lambda text: False

    def __call__(self, texts):
        self.texts += texts
        if any(self.fails(text) for text in texts):
            raise ConnectionError("the model is away")
        vectors = np.full((len(texts), self.dimensions), 0.01, np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                digest = hashlib.blake2b(f"{self.name} {word}".encode(), digest_size=4).digest()
                vectors[row, int.from_bytes(digest, "little") % self.dimensions] += 1
        return vectors


@pytest.fixture(params=["sqlite", "postgres"])
async def open_memory(request, tmp_path, monkeypatch):
    """A factory of memory systems on one database: open_memory(embed, model="", **options)."""
    monkeypatch.setattr(embedding, "GRACE_S", 0.1)
    settings = MemorySettings(sync=SyncSettings(max_staleness_s=0.02))
    options = {"redis": None}
    schema = f"embeddings_{secrets.token_hex(6)}"
    if request.param == "postgres":
        options["store"] = request.getfixturevalue("postgres_url")
        settings = replace(settings, postgres=PostgresSettings(schema=schema))
    async with contextlib.AsyncExitStack() as opened:

        async def open_one(embed=None, model="", index=None, **more):
            words = {"model": model} | (index or {})
            config = replace(settings, index=IndexSettings(**words), **more)
            return await opened.enter_async_context(
                AsyncMemorySystem(tmp_path / "memory", embed=embed, config=config, **options)
            )

        yield open_one
    if request.param == "postgres":
        with psycopg.connect(options["store"], autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


async def found_by_vector(memory, text):
    return [entry.content for entry in await memory.retrieve("a", text, k=1, ranking=BY_VECTOR) if entry.is_match]


async def contents(memory):
    return {entry.content async for entry in memory.query("a")}


# --- one space ---


async def test_a_vector_of_other_dimensions_is_refused_wherever_it_comes_from(open_memory):
    memory = await open_memory()
    stored = await memory.store("a", "tea", embedding=[1.0, 0.0, 0.0])
    other = await open_memory()
    wanted = r"embedding must have 3 elements, as all vectors in this database, got 2"
    for system in (memory, other):
        with pytest.raises(EmbeddingSpaceError, match=wanted):
            await system.store("a", "coffee", embedding=[1.0, 0.0])
        with pytest.raises(EmbeddingSpaceError, match=wanted):
            await system.store_many("b", [{"content": "coffee"}], embeddings=[[1.0, 0.0]])
        with pytest.raises(EmbeddingSpaceError, match=wanted):
            await system.update("a", stored, embedding=[1.0, 0.0])
        with pytest.raises(ValueError, match=r"embedding must have 3 elements.* got shape \(2,\)"):
            await system.retrieve("a", embedding=[1.0, 0.0])
        assert await contents(system) == {"tea"}
        assert (await system.retrieve("a", embedding=[1.0, 0.1, 0.0]))[0].id == stored


async def test_an_export_of_another_model_is_refused(open_memory, tmp_path):
    memory = await open_memory()
    await memory.store("a", "tea", embedding=[1.0, 0.0, 0.0])
    async with AsyncMemorySystem(tmp_path / "other", redis=None) as other:
        await other.store("a", "coffee", embedding=[1.0, 0.0])
        lines = [line async for line in other.export("a")]
    with pytest.raises(EmbeddingSpaceError, match="got 2"):
        await memory.import_(lines)
    assert await contents(memory) == {"tea"}


async def test_an_embed_of_other_dimensions_is_refused_and_words_go_on(open_memory, caplog):
    memory = await open_memory(Words(64))
    await memory.store("a", "lives in Lisbon")
    changed = await open_memory(Words(96))
    with pytest.raises(EmbeddingSpaceError, match=r"must have 64 elements.* got 96: reembed\(\) makes them anew"):
        await changed.store("a", "drinks tea")
    assert [entry.content for entry in await changed.retrieve("a", "Lisbon")] == ["lives in Lisbon"]
    assert "call reembed()" in caplog.text
    assert await contents(changed) == {"lives in Lisbon"}


async def test_an_embed_of_another_model_is_refused_though_it_has_as_many_dimensions(open_memory):
    memory = await open_memory(Words(64, "one"), "one")
    await memory.store("a", "lives in Lisbon")
    changed = await open_memory(Words(64, "two"), "two")
    with pytest.raises(EmbeddingSpaceError, match=r"IndexSettings.model must be 'one'.* got 'two': reembed\(\)"):
        await changed.store("a", "drinks tea")
    (entry,) = await changed.retrieve("a", "Lisbon")
    assert entry.similarity is None, "by words alone"
    unnamed = await open_memory(Words(64, "one"))
    await unnamed.store("a", "drinks tea")
    assert unnamed.stats()["embedding"]["model"] == "one"


async def test_the_name_of_a_model_may_be_given_later(open_memory):
    unnamed = await open_memory(Words(64))
    await unnamed.store("a", "lives in Lisbon")
    named = await open_memory(Words(64), "words")
    await named.store("a", "drinks tea")
    with pytest.raises(EmbeddingSpaceError, match="must be 'words'"):
        await (await open_memory(Words(64), "others")).store("a", "x")


async def test_of_two_that_store_the_first_vector_one_begins_the_space(open_memory):
    systems = [await open_memory(Words(64)), await open_memory(Words(96)), await open_memory(Words(64))]
    calls = [async_spawn(system.store, "a", f"text {number}") for number, system in enumerate(systems)]
    refused = 0
    for call in calls:
        try:
            await call.result()
        except EmbeddingSpaceError:
            refused += 1
    assert refused in (1, 2)
    lengths = {len(entry.embedding) for system in systems[:1] async for entry in system.query("a")}
    assert len(lengths) == 1


# --- embed fails ---


async def test_what_embed_failed_for_is_stored_marked_found_by_words_and_embedded_later(open_memory, caplog):
    embed = Words()
    memory = await open_memory(embed)
    await memory.store("a", "the weather is fine")
    embed.fails = lambda text: True
    stored = await memory.store("a", "lives in Lisbon")
    (second,) = await memory.store_many("a", [{"content": "drinks green tea"}])
    assert "embed failed (ConnectionError)" in caplog.text
    for one in (stored, second):
        entry = await memory.get("a", one)
        assert (entry.embedding is None, entry.awaits_embedding) == (True, True)
    assert (await memory.retrieve("a", "Lisbon"))[0].id == stored
    assert (await memory.maintain()).embedded == 0
    await memory.update("a", stored, importance=0.9)
    assert (await memory.get("a", stored)).awaits_embedding, "a change of something else does not change that"

    embed.fails = lambda text: False
    assert (await memory.maintain()).embedded == 2
    entry = await memory.get("a", stored)
    assert (entry.embedding is not None, entry.awaits_embedding, entry.importance) == (True, False, 0.9)
    assert await found_by_vector(memory, "Lisbon lives") == ["lives in Lisbon"]
    assert (await memory.maintain()).embedded == 0
    assert memory.stats()["embedding"]["embedded_later"] == 2


async def test_another_process_embeds_what_waits_and_one_text_that_fails_keeps_none_waiting(open_memory):
    embed = Words()
    memory = await open_memory(embed)
    await memory.store("a", "first")
    embed.fails = lambda text: True
    for text in ("drinks tea", "poison", "drinks coffee"):
        await memory.store("a", text)
    other = Words()
    other.fails = lambda text: "poison" in text
    successor = await open_memory(other)
    assert (await successor.maintain()).embedded == 2
    waiting = [entry.content async for entry in successor.query("a") if entry.awaits_embedding]
    assert waiting == ["poison"]


async def test_new_content_waits_when_embed_fails_and_needs_no_vector_that_is_given(open_memory):
    embed = Words(3)
    memory = await open_memory(embed)
    stored = await memory.store("a", "old")
    embed.fails = lambda text: True
    await memory.update("a", stored, content="new")
    assert (await memory.get("a", stored)).awaits_embedding
    given = await memory.store("a", "x", embedding=[1.0, 0.0, 0.0])
    assert not (await memory.get("a", given)).awaits_embedding
    await memory.update("a", stored, embedding=[0.0, 1.0, 0.0])
    assert not (await memory.get("a", stored)).awaits_embedding


async def test_what_waits_keeps_waiting_in_every_tier_and_in_an_export(open_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(_compression, "MIN_PLAIN_BYTES", 1)
    embed = Words()
    memory = await open_memory(
        embed, short_term=ShortTermSettings(ttl_s=1e-6), long_term=LongTermSettings(vectors="f16")
    )
    await memory.store("a", "first")
    embed.fails = lambda text: True
    stored = await memory.store("a", "lives in Lisbon " * 20, importance=0.0)
    await memory.maintain()
    entry = await memory.get("a", stored)
    assert entry.awaits_embedding
    assert entry.content == "lives in Lisbon " * 20
    lines = [line async for line in memory.export("a")]
    async with AsyncMemorySystem(tmp_path / "copy", redis=None, embed=Words()) as copy:
        assert await copy.import_(lines) == 2
        assert (await copy.get("a", stored)).awaits_embedding
        assert (await copy.maintain()).embedded == 1
        assert await found_by_vector(copy, "Lisbon lives") == [entry.content]


async def test_a_wrong_embed_is_an_error_and_nothing_that_waits(open_memory):
    memory = await open_memory(lambda texts: np.zeros((len(texts) + 1, 3)))
    with pytest.raises(ValueError, match=r"embed must return an array of shape \(1, dimensions\)"):
        await memory.store("a", "x")
    memory = await open_memory(lambda texts: np.full((len(texts), 3), np.nan))
    with pytest.raises(ValueError, match="embedding must be finite"):
        await memory.store("a", "x")
    assert await contents(memory) == set()


# --- another model ---

TEXTS = [f"{person} likes {thing}" for person in ("ann", "bob", "eve") for thing in ("green tea", "old maps", "rain")]


@pytest.mark.parametrize(("dimensions", "name"), [(96, "words"), (64, "others")])
async def test_reembed_makes_all_vectors_anew_while_others_go_on(open_memory, dimensions, name):
    old = await open_memory(Words(64), "words", index={"snapshot_entries": 1})
    await old.store_many("a", [{"content": text} for text in TEXTS])
    bare = await old.store("b", b"bytes", embedding=np.ones(64))
    assert await found_by_vector(old, "bob rain likes") == ["bob likes rain"]
    assert (await old.maintain()).snapshots == 1
    embed = Words(dimensions, name)
    new = await open_memory(embed, name + "-2", index={"snapshot_entries": 1})

    migration = async_spawn(new.reembed)
    while new.stats()["embedding"]["complete"]:
        await new.count("a")
    with pytest.raises(EmbeddingSpaceError):
        while True:  # at the latest after max_staleness_s
            await old.store("a", "of the old model")
    assert [entry.content for entry in await new.retrieve("a", "maps eve", k=1)] == ["eve likes old maps"]
    during = await new.store("a", "stored meanwhile")
    report = await migration.result()

    everything = {entry.content: entry async for entry in new.query("a")}
    assert report.embedded >= len(TEXTS)
    assert report.dropped == 1
    assert (await new.get("b", bare)).embedding is None
    for entry in everything.values():
        assert (entry.embedding == embed([entry.content])[0]).all()
    assert await found_by_vector(new, "stored meanwhile") == ["stored meanwhile"]
    assert (await new.get("a", during)).content == "stored meanwhile"
    for text in TEXTS:
        assert await found_by_vector(new, text) == [text]
    stats = new.stats()["embedding"]
    assert (stats["model"], stats["dimensions"], stats["complete"]) == (name + "-2", dimensions, True)
    third = await open_memory(Words(dimensions, name), name + "-2", index={"snapshot_entries": 1})
    assert await found_by_vector(third, "bob rain likes") == ["bob likes rain"]
    assert await old.retrieve("a", "maps eve", k=1)
    with pytest.raises(EmbeddingSpaceError):
        await old.store("a", "of the old model")


@pytest.mark.parametrize("is_maintained", [False, True])
async def test_a_migration_that_was_broken_off_is_gone_on_with(open_memory, is_maintained, monkeypatch):
    monkeypatch.setattr(embedding, "EMBEDDED_AT_ONCE", 2)
    old = await open_memory(Words(64))
    await old.store_many("a", [{"content": text} for text in TEXTS])
    embed = Words(96)
    embed.fails = lambda text: len(embed.texts) > 6
    new = await open_memory(embed)
    with pytest.raises(ConnectionError):
        await new.reembed()
    done = {entry.content async for entry in new.query("a") if len(entry.embedding) == 96}
    assert 0 < len(done) < len(TEXTS)
    assert await found_by_vector(new, "ann green tea likes") == [] or "ann likes green tea" in done

    again = Words(96)
    successor = await open_memory(again)
    assert not successor.stats()["embedding"]["complete"]
    if is_maintained:
        assert (await successor.maintain()).embedded == len(TEXTS) - len(done)
    else:
        assert (await successor.reembed()).embedded == len(TEXTS) - len(done)
    assert not done.intersection(again.texts), "what was done is not done again"
    assert successor.stats()["embedding"]["complete"]
    for text in TEXTS:
        assert await found_by_vector(successor, text) == [text]


async def test_a_memory_that_is_changed_during_the_migration_keeps_the_change(open_memory):
    old = await open_memory(Words(64))
    stored = await old.store("a", "before")
    embed = Words(96)
    new = await open_memory(embed)
    is_embedding, may_go_on = AsyncEvent(), AsyncEvent()
    make = new._lifecycle.parts.embedding.make

    async def slow(texts):
        vectors = await make(texts)
        if texts == ["before"]:
            is_embedding.set()
            await may_go_on.wait()
        return vectors

    new._lifecycle.parts.embedding.make = slow
    migration = async_spawn(new.reembed)
    await is_embedding.wait()
    await new.update("a", stored, content="after", importance=0.9)
    may_go_on.set()
    await migration.result()
    entry = await new.get("a", stored)
    assert (entry.content, entry.importance) == ("after", 0.9)
    assert (entry.embedding == embed(["after"])[0]).all()


async def test_a_damaged_memory_keeps_no_other_from_a_new_vector(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "GRACE_S", 0.1)
    async with AsyncMemorySystem(tmp_path, redis=None, embed=Words(64)) as old:
        stored = [await old.store("a", text) for text in TEXTS]
    with contextlib.closing(sqlite3.connect(tmp_path / "memories.sqlite")) as database, database:
        database.execute("UPDATE memories SET checksum = checksum + 1 WHERE id = ?", (stored[1],))
    async with AsyncMemorySystem(tmp_path, redis=None, embed=Words(96)) as memory:
        assert (await memory.reembed()).embedded == len(TEXTS) - 1
        assert memory.stats()["embedding"]["complete"]


async def test_reembed_gives_vectors_to_texts_that_never_had_one(open_memory):
    without = await open_memory()
    await without.store("a", "lives in Lisbon")
    await without.store("a", {"json": "is no text"})
    memory = await open_memory(Words(64))
    assert (await memory.reembed()).embedded == 0
    assert (await memory.reembed(include_missing=True)).embedded == 1
    assert await found_by_vector(memory, "Lisbon lives") == ["lives in Lisbon"]


async def test_reembed_needs_an_embed_that_fits(open_memory):
    memory = await open_memory()
    with pytest.raises(ValueError, match="embed must be given"):
        await memory.reembed()
    memory = await open_memory(Words(64), index={"dimensions": 96})
    with pytest.raises(EmbeddingSpaceError, match=r"IndexSettings.dimensions \(96\) elements, got 64"):
        await memory.reembed()


async def test_two_migrations_to_two_models_do_not_mix(open_memory):
    old = await open_memory(Words(64))
    await old.store_many("a", [{"content": text} for text in TEXTS])
    systems = [await open_memory(Words(96), "one"), await open_memory(Words(128), "two")]
    calls = [async_spawn(system.reembed) for system in systems]
    errors = []
    for call in calls:
        try:
            await call.result()
        except EmbeddingSpaceError as error:
            errors.append(error)
    assert len(errors) <= 1
    # The overtaken one may have begun first. The system with the model of the current space finishes it.
    await old.check_health()  # which reads the space that `stats()` shows
    while not (present := old.stats()["embedding"])["complete"]:
        for system in systems:
            await system.maintain()
        await old.check_health()
    lengths = {len(entry.embedding) async for entry in old.query("a")}
    assert lengths == {present["dimensions"]}
    assert present["dimensions"] in (96, 128)
