# Generated from ../_async/test_embeddings.py by tools/generate_sync.py: edit that file, not this one.

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

from agent_memory._concurrency import Event, spawn
from agent_memory.memory import (
    EmbeddingSpaceError,
    IndexSettings,
    LongTermSettings,
    MemorySettings,
    MemorySystem,
    PostgresSettings,
    Ranking,
    ShortTermSettings,
    SyncSettings,
)
from agent_memory.memory._sync import embedding
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
def open_memory(request, tmp_path, monkeypatch):
    """A factory of memory systems on one database: open_memory(embed, model="", **options)."""
    monkeypatch.setattr(embedding, "GRACE_S", 0.1)
    settings = MemorySettings(sync=SyncSettings(max_staleness_s=0.02))
    options = {"redis": None}
    schema = f"embeddings_{secrets.token_hex(6)}"
    if request.param == "postgres":
        options["store"] = request.getfixturevalue("postgres_url")
        settings = replace(settings, postgres=PostgresSettings(schema=schema))
    with contextlib.ExitStack() as opened:

        def open_one(embed=None, model="", index=None, **more):
            words = {"model": model} | (index or {})
            config = replace(settings, index=IndexSettings(**words), **more)
            return opened.enter_context(MemorySystem(tmp_path / "memory", embed=embed, config=config, **options))

        yield open_one
    if request.param == "postgres":
        with psycopg.connect(options["store"], autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def found_by_vector(memory, text):
    return [entry.content for entry in memory.retrieve("a", text, k=1, ranking=BY_VECTOR) if entry.is_match]


def contents(memory):
    return {entry.content for entry in memory.query("a")}


# --- one space ---


def test_a_vector_of_other_dimensions_is_refused_wherever_it_comes_from(open_memory):
    memory = open_memory()
    stored = memory.store("a", "tea", embedding=[1.0, 0.0, 0.0])
    other = open_memory()
    wanted = r"embedding must have 3 elements, as all vectors in this database, got 2"
    for system in (memory, other):
        with pytest.raises(EmbeddingSpaceError, match=wanted):
            system.store("a", "coffee", embedding=[1.0, 0.0])
        with pytest.raises(EmbeddingSpaceError, match=wanted):
            system.store_many("b", [{"content": "coffee"}], embeddings=[[1.0, 0.0]])
        with pytest.raises(EmbeddingSpaceError, match=wanted):
            system.update("a", stored, embedding=[1.0, 0.0])
        with pytest.raises(ValueError, match=r"embedding must have 3 elements.* got shape \(2,\)"):
            system.retrieve("a", embedding=[1.0, 0.0])
        assert contents(system) == {"tea"}
        assert system.retrieve("a", embedding=[1.0, 0.1, 0.0])[0].id == stored


def test_an_export_of_another_model_is_refused(open_memory, tmp_path):
    memory = open_memory()
    memory.store("a", "tea", embedding=[1.0, 0.0, 0.0])
    with MemorySystem(tmp_path / "other", redis=None) as other:
        other.store("a", "coffee", embedding=[1.0, 0.0])
        lines = list(other.export("a"))
    with pytest.raises(EmbeddingSpaceError, match="got 2"):
        memory.import_(lines)
    assert contents(memory) == {"tea"}


def test_an_embed_of_other_dimensions_is_refused_and_words_go_on(open_memory, caplog):
    memory = open_memory(Words(64))
    memory.store("a", "lives in Lisbon")
    changed = open_memory(Words(96))
    with pytest.raises(EmbeddingSpaceError, match=r"must have 64 elements.* got 96: reembed\(\) makes them anew"):
        changed.store("a", "drinks tea")
    assert [entry.content for entry in changed.retrieve("a", "Lisbon")] == ["lives in Lisbon"]
    assert "call reembed()" in caplog.text
    assert contents(changed) == {"lives in Lisbon"}


def test_an_embed_of_another_model_is_refused_though_it_has_as_many_dimensions(open_memory):
    memory = open_memory(Words(64, "one"), "one")
    memory.store("a", "lives in Lisbon")
    changed = open_memory(Words(64, "two"), "two")
    with pytest.raises(EmbeddingSpaceError, match=r"IndexSettings.model must be 'one'.* got 'two': reembed\(\)"):
        changed.store("a", "drinks tea")
    (entry,) = changed.retrieve("a", "Lisbon")
    assert entry.similarity is None, "by words alone"
    unnamed = open_memory(Words(64, "one"))
    unnamed.store("a", "drinks tea")
    assert unnamed.stats()["embedding"]["model"] == "one"


def test_the_name_of_a_model_may_be_given_later(open_memory):
    unnamed = open_memory(Words(64))
    unnamed.store("a", "lives in Lisbon")
    named = open_memory(Words(64), "words")
    named.store("a", "drinks tea")
    with pytest.raises(EmbeddingSpaceError, match="must be 'words'"):
        open_memory(Words(64), "others").store("a", "x")


def test_of_two_that_store_the_first_vector_one_begins_the_space(open_memory):
    systems = [open_memory(Words(64)), open_memory(Words(96)), open_memory(Words(64))]
    calls = [spawn(system.store, "a", f"text {number}") for number, system in enumerate(systems)]
    refused = 0
    for call in calls:
        try:
            call.result()
        except EmbeddingSpaceError:
            refused += 1
    assert refused in (1, 2)
    lengths = {len(entry.embedding) for system in systems[:1] for entry in system.query("a")}
    assert len(lengths) == 1


# --- embed fails ---


def test_what_embed_failed_for_is_stored_marked_found_by_words_and_embedded_later(open_memory, caplog):
    embed = Words()
    memory = open_memory(embed)
    memory.store("a", "the weather is fine")
    embed.fails = lambda text: True
    stored = memory.store("a", "lives in Lisbon")
    (second,) = memory.store_many("a", [{"content": "drinks green tea"}])
    assert "embed failed (ConnectionError)" in caplog.text
    for one in (stored, second):
        entry = memory.get("a", one)
        assert (entry.embedding is None, entry.awaits_embedding) == (True, True)
    assert memory.retrieve("a", "Lisbon")[0].id == stored
    assert memory.maintain().embedded == 0
    memory.update("a", stored, importance=0.9)
    assert memory.get("a", stored).awaits_embedding, "a change of something else does not change that"

    embed.fails = lambda text: False
    assert memory.maintain().embedded == 2
    entry = memory.get("a", stored)
    assert (entry.embedding is not None, entry.awaits_embedding, entry.importance) == (True, False, 0.9)
    assert found_by_vector(memory, "Lisbon lives") == ["lives in Lisbon"]
    assert memory.maintain().embedded == 0
    assert memory.stats()["embedding"]["embedded_later"] == 2


def test_another_process_embeds_what_waits_and_one_text_that_fails_keeps_none_waiting(open_memory):
    embed = Words()
    memory = open_memory(embed)
    memory.store("a", "first")
    embed.fails = lambda text: True
    for text in ("drinks tea", "poison", "drinks coffee"):
        memory.store("a", text)
    other = Words()
    other.fails = lambda text: "poison" in text
    successor = open_memory(other)
    assert successor.maintain().embedded == 2
    waiting = [entry.content for entry in successor.query("a") if entry.awaits_embedding]
    assert waiting == ["poison"]


def test_new_content_waits_when_embed_fails_and_needs_no_vector_that_is_given(open_memory):
    embed = Words(3)
    memory = open_memory(embed)
    stored = memory.store("a", "old")
    embed.fails = lambda text: True
    memory.update("a", stored, content="new")
    assert memory.get("a", stored).awaits_embedding
    given = memory.store("a", "x", embedding=[1.0, 0.0, 0.0])
    assert not memory.get("a", given).awaits_embedding
    memory.update("a", stored, embedding=[0.0, 1.0, 0.0])
    assert not memory.get("a", stored).awaits_embedding


def test_what_waits_keeps_waiting_in_every_tier_and_in_an_export(open_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(_compression, "MIN_PLAIN_BYTES", 1)
    embed = Words()
    memory = open_memory(embed, short_term=ShortTermSettings(ttl_s=1e-6), long_term=LongTermSettings(vectors="f16"))
    memory.store("a", "first")
    embed.fails = lambda text: True
    stored = memory.store("a", "lives in Lisbon " * 20, importance=0.0)
    memory.maintain()
    entry = memory.get("a", stored)
    assert entry.awaits_embedding
    assert entry.content == "lives in Lisbon " * 20
    lines = list(memory.export("a"))
    with MemorySystem(tmp_path / "copy", redis=None, embed=Words()) as copy:
        assert copy.import_(lines) == 2
        assert copy.get("a", stored).awaits_embedding
        assert copy.maintain().embedded == 1
        assert found_by_vector(copy, "Lisbon lives") == [entry.content]


def test_a_wrong_embed_is_an_error_and_nothing_that_waits(open_memory):
    memory = open_memory(lambda texts: np.zeros((len(texts) + 1, 3)))
    with pytest.raises(ValueError, match=r"embed must return an array of shape \(1, dimensions\)"):
        memory.store("a", "x")
    memory = open_memory(lambda texts: np.full((len(texts), 3), np.nan))
    with pytest.raises(ValueError, match="embedding must be finite"):
        memory.store("a", "x")
    assert contents(memory) == set()


# --- another model ---

TEXTS = [f"{person} likes {thing}" for person in ("ann", "bob", "eve") for thing in ("green tea", "old maps", "rain")]


@pytest.mark.parametrize(("dimensions", "name"), [(96, "words"), (64, "others")])
def test_reembed_makes_all_vectors_anew_while_others_go_on(open_memory, dimensions, name):
    old = open_memory(Words(64), "words", index={"snapshot_entries": 1})
    old.store_many("a", [{"content": text} for text in TEXTS])
    bare = old.store("b", b"bytes", embedding=np.ones(64))
    assert found_by_vector(old, "bob rain likes") == ["bob likes rain"]
    assert old.maintain().snapshots == 1
    embed = Words(dimensions, name)
    new = open_memory(embed, name + "-2", index={"snapshot_entries": 1})

    migration = spawn(new.reembed)
    while new.stats()["embedding"]["complete"]:
        new.count("a")
    with pytest.raises(EmbeddingSpaceError):
        while True:  # at the latest after max_staleness_s
            old.store("a", "of the old model")
    assert [entry.content for entry in new.retrieve("a", "maps eve", k=1)] == ["eve likes old maps"]
    during = new.store("a", "stored meanwhile")
    report = migration.result()

    everything = {entry.content: entry for entry in new.query("a")}
    assert report.embedded >= len(TEXTS)
    assert report.dropped == 1
    assert new.get("b", bare).embedding is None
    for entry in everything.values():
        assert (entry.embedding == embed([entry.content])[0]).all()
    assert found_by_vector(new, "stored meanwhile") == ["stored meanwhile"]
    assert new.get("a", during).content == "stored meanwhile"
    for text in TEXTS:
        assert found_by_vector(new, text) == [text]
    stats = new.stats()["embedding"]
    assert (stats["model"], stats["dimensions"], stats["complete"]) == (name + "-2", dimensions, True)
    third = open_memory(Words(dimensions, name), name + "-2", index={"snapshot_entries": 1})
    assert found_by_vector(third, "bob rain likes") == ["bob likes rain"]
    assert old.retrieve("a", "maps eve", k=1)
    with pytest.raises(EmbeddingSpaceError):
        old.store("a", "of the old model")


@pytest.mark.parametrize("is_maintained", [False, True])
def test_a_migration_that_was_broken_off_is_gone_on_with(open_memory, is_maintained, monkeypatch):
    monkeypatch.setattr(embedding, "EMBEDDED_AT_ONCE", 2)
    old = open_memory(Words(64))
    old.store_many("a", [{"content": text} for text in TEXTS])
    embed = Words(96)
    embed.fails = lambda text: len(embed.texts) > 6
    new = open_memory(embed)
    with pytest.raises(ConnectionError):
        new.reembed()
    done = {entry.content for entry in new.query("a") if len(entry.embedding) == 96}
    assert 0 < len(done) < len(TEXTS)
    assert found_by_vector(new, "ann green tea likes") == [] or "ann likes green tea" in done

    again = Words(96)
    successor = open_memory(again)
    assert not successor.stats()["embedding"]["complete"]
    if is_maintained:
        assert successor.maintain().embedded == len(TEXTS) - len(done)
    else:
        assert successor.reembed().embedded == len(TEXTS) - len(done)
    assert not done.intersection(again.texts), "what was done is not done again"
    assert successor.stats()["embedding"]["complete"]
    for text in TEXTS:
        assert found_by_vector(successor, text) == [text]


def test_a_memory_that_is_changed_during_the_migration_keeps_the_change(open_memory):
    old = open_memory(Words(64))
    stored = old.store("a", "before")
    embed = Words(96)
    new = open_memory(embed)
    is_embedding, may_go_on = Event(), Event()
    make = new._lifecycle.parts.embedding.make

    def slow(texts):
        vectors = make(texts)
        if texts == ["before"]:
            is_embedding.set()
            may_go_on.wait()
        return vectors

    new._lifecycle.parts.embedding.make = slow
    migration = spawn(new.reembed)
    is_embedding.wait()
    new.update("a", stored, content="after", importance=0.9)
    may_go_on.set()
    migration.result()
    entry = new.get("a", stored)
    assert (entry.content, entry.importance) == ("after", 0.9)
    assert (entry.embedding == embed(["after"])[0]).all()


def test_a_damaged_memory_keeps_no_other_from_a_new_vector(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "GRACE_S", 0.1)
    with MemorySystem(tmp_path, redis=None, embed=Words(64)) as old:
        stored = [old.store("a", text) for text in TEXTS]
    with contextlib.closing(sqlite3.connect(tmp_path / "memories.sqlite")) as database, database:
        database.execute("UPDATE memories SET checksum = checksum + 1 WHERE id = ?", (stored[1],))
    with MemorySystem(tmp_path, redis=None, embed=Words(96)) as memory:
        assert memory.reembed().embedded == len(TEXTS) - 1
        assert memory.stats()["embedding"]["complete"]


def test_reembed_gives_vectors_to_texts_that_never_had_one(open_memory):
    without = open_memory()
    without.store("a", "lives in Lisbon")
    without.store("a", {"json": "is no text"})
    memory = open_memory(Words(64))
    assert memory.reembed().embedded == 0
    assert memory.reembed(include_missing=True).embedded == 1
    assert found_by_vector(memory, "Lisbon lives") == ["lives in Lisbon"]


def test_reembed_needs_an_embed_that_fits(open_memory):
    memory = open_memory()
    with pytest.raises(ValueError, match="embed must be given"):
        memory.reembed()
    memory = open_memory(Words(64), index={"dimensions": 96})
    with pytest.raises(EmbeddingSpaceError, match=r"IndexSettings.dimensions \(96\) elements, got 64"):
        memory.reembed()


def test_two_migrations_to_two_models_do_not_mix(open_memory):
    old = open_memory(Words(64))
    old.store_many("a", [{"content": text} for text in TEXTS])
    systems = [open_memory(Words(96), "one"), open_memory(Words(128), "two")]
    calls = [spawn(system.reembed) for system in systems]
    errors = []
    for call in calls:
        try:
            call.result()
        except EmbeddingSpaceError as error:
            errors.append(error)
    assert len(errors) <= 1
    # The overtaken one may have begun first. The system with the model of the current space finishes it.
    old.check_health()  # which reads the space that `stats()` shows
    while not (present := old.stats()["embedding"])["complete"]:
        for system in systems:
            system.maintain()
        old.check_health()
    lengths = {len(entry.embedding) for entry in old.query("a")}
    assert lengths == {present["dimensions"]}
    assert present["dimensions"] in (96, 128)
