"""Long-term memory: compressed with a trained dictionary, unchanged to its readers; damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from store_samples import put

from agent_memory.memory import LongTermSettings, Tier, _copy
from agent_memory.memory.stores import MemoryQuery, Move, _compression

SMALL = LongTermSettings(dictionary_bytes=4_096)


def sentence(number):
    person = ("Ann", "Bob", "Carla")[number % 3]
    return f"{person} said on day {number} that the meeting about project {number * 7 % 13} was moved to the next week."


async def fill(store, count, **options):
    return await store.write(
        [put(sentence(n), memory_id=f"m{n:04d}", embedding=[n, n / 3], **options) for n in range(count)]
    )


async def contents(store):
    page = await store.query(MemoryQuery(agent_id="agent", order_by="seq"), limit=10_000)
    return [_copy.content_of(one) for one in page.copies]


async def test_a_dictionary_is_trained_kept_and_found_by_others(async_make_store, monkeypatch):
    monkeypatch.setattr(_compression, "MIN_DICTIONARY_SAMPLES", 50)
    store = await async_make_store(long_term=SMALL)
    assert await store.train_dictionary() is None  # nothing to train on
    await fill(store, 300, tier=Tier.LTM)
    other = await async_make_store(long_term=SMALL)
    assert await store.train_dictionary() == 1
    assert await store.train_dictionary() is None  # there is one
    await fill_more(store)
    # The other store read its dictionaries before this one was trained.
    assert await contents(other) == [sentence(n) for n in range(300)] + ["more " + sentence(n) for n in range(20)]
    assert await store.train_dictionary(force=True) == 2
    assert await contents(await async_make_store(long_term=SMALL)) == await contents(other)


async def fill_more(store):
    results = await store.write([put("more " + sentence(n), memory_id=f"n{n}") for n in range(20)])
    await store.write([Move(result.id, "agent", result.version, Tier.LTM) for result in results])


async def test_half_precision_is_asked_for_and_checked_like_the_rest(async_make_store):
    store = await async_make_store(long_term=LongTermSettings(vectors="f16"))
    vector = [0.1, 1.0, -65504.0]
    (result,) = await store.write([put("x" * 500, memory_id="m", embedding=vector)])
    await store.write([put(memory_id="large", embedding=[1e6], tier=Tier.LTM)])
    await store.write([Move("m", "agent", result.version, Tier.LTM)])
    found, large = await store.get(["m", "large"])
    halves = np.asarray(vector, dtype=np.float16).astype(np.float32)
    np.testing.assert_array_equal(_copy.entry_of(found).embedding, halves)
    assert (found.content, found.version) == (b"x" * 500, result.version)
    assert _copy.entry_of(large).embedding[0] == 1e6  # beyond half precision: kept as it was
    await store.write([Move("m", "agent", result.version, Tier.STM), put("y", memory_id="m", embedding=vector)])
    (found,) = await store.get(["m"])
    np.testing.assert_array_equal(_copy.entry_of(found).embedding, np.asarray(vector, dtype=np.float32))


@pytest.mark.parametrize("level", [0, 19])
async def test_levels(async_make_store, level, monkeypatch):
    monkeypatch.setattr(_compression, "MIN_PLAIN_BYTES", 1)
    store = await async_make_store(long_term=LongTermSettings(compression_level=level))
    for content in ("", "a", "word " * 1_000, bytes(range(256)) * 10):
        (result,) = await store.write([put(content, tier=Tier.LTM)])
        assert _copy.content_of((await store.get([result.id]))[0]) == content
