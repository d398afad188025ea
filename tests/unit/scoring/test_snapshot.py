"""Snapshots: what is saved is what is loaded, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent_memory.scoring import MemoryIndex

RNG = np.random.default_rng(3)


def make_index(rows: int = 9000) -> tuple[MemoryIndex, np.ndarray]:
    index = MemoryIndex(20, model="tiny", similarity="inner_product")
    vectors = RNG.standard_normal((rows, 20)).astype(np.float32)
    ids = [f"m{row}" for row in range(rows)]
    texts = [f"word{row % 17} river" for row in range(rows)]
    index.upsert(
        ids, vectors, texts, attributes=[{"odd": row % 2} for row in range(rows)],
        timestamps_s=np.arange(rows), sequence=[("s", row) if row < 50 else None for row in range(rows)],
    )  # fmt: skip
    index.delete(ids[::10])
    return index, vectors


@pytest.mark.parametrize("kept", ["memory", "mapped"])
def test_a_loaded_index_answers_alike_and_can_be_written(tmp_path, kept):
    index, vectors = make_index()
    path = tmp_path / "index.snapshot"
    index.save(path)
    loaded = MemoryIndex.load(path, vectors=kept, model="tiny")
    assert (len(loaded), loaded.dimensions, loaded.model) == (len(index), 20, "tiny")
    for ask in (
        {"vector": vectors[5]},
        {"text": "word3"},
        {"vector": vectors[5], "text": "word3 word4", "filters": {"odd": 1}, "now_s": 0.0},
    ):
        before, after = index.search(**ask), loaded.search(**ask)
        assert before.ids == after.ids
        assert before.scores.tolist() == after.scores.tolist()
    loaded.upsert(["new", "m1"], vectors[:2] * 100)
    loaded.delete([f"m{row}" for row in range(2, 4000)])
    assert loaded.search(vectors[0], k=1).ids == ["new"]
    loaded.save(path)  # over the file that may be mapped
    assert MemoryIndex.load(path).search(vectors[0], k=1).ids == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["index.snapshot"]


def test_an_empty_index_can_be_saved(tmp_path):
    MemoryIndex(3).save(tmp_path / "empty")
    assert len(MemoryIndex.load(tmp_path / "empty")) == 0


def is_refused(path) -> bool:
    try:
        MemoryIndex.load(path)
    except ValueError as error:
        return "snapshot" in str(error)
    return False


def test_foreign_and_damaged_files_are_refused(tmp_path):
    index, _ = make_index(100)
    path = tmp_path / "index"
    index.save(path)
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 200)):
        bad = bytearray(good)
        bad[place] ^= 0x40
        path.write_bytes(bad)
        if is_refused(path):
            continue
        assert len(MemoryIndex.load(path)) == len(index)  # padding between blocks means nothing
    for bad, message in ((b"", "not a snapshot"), (b"hello" * 99, "not a snapshot"), (good[:-9], "cut off|damaged")):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=message):
            MemoryIndex.load(path)
    path.write_bytes(good[:8] + b"\x63" + good[9:])
    with pytest.raises(ValueError, match="format version 99, this version reads 1"):
        MemoryIndex.load(path)


def test_another_model_or_a_missing_file_is_refused(tmp_path):
    index, _ = make_index(10)
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match="model must be the snapshot's, 'tiny', got 'large'"):
        MemoryIndex.load(tmp_path / "index", model="large")
    with pytest.raises(ValueError, match="vectors must be 'memory' or 'mapped'"):
        MemoryIndex.load(tmp_path / "index", vectors="disk")
    with pytest.raises(FileNotFoundError):
        MemoryIndex.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        index.save(tmp_path / "absent" / "index")


def test_saving_mapped_leaves_the_elements_to_the_file_and_goes_on(tmp_path):
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((20_000, 24)).astype(np.float32)
    ids = [f"m{row:05d}" for row in range(len(vectors))]
    index, plain, path = MemoryIndex(24), MemoryIndex(24), tmp_path / "index"
    query = rng.standard_normal(24)
    for turn, part in enumerate(np.array_split(np.arange(len(ids)), 5)):
        for one in (index, plain):
            one.upsert([ids[row] for row in part], vectors[part])
            one.delete(ids[turn * 3000 : turn * 3000 + 40])
        index.save(path, vectors="mapped")
        index.upsert(ids[7:9], -vectors[7:9])
        plain.upsert(ids[7:9], -vectors[7:9])
        for one in (query, -vectors[7]):
            expected, found = plain.search(one, k=25), index.search(one, k=25)
            assert found.ids == expected.ids
            assert found.scores.tolist() == expected.scores.tolist()
    mapped = [line for line in Path("/proc/self/smaps").read_text().splitlines() if str(path) in line]
    assert mapped, "the file is mapped"
    index.save(path)
    assert MemoryIndex.load(path).search(query, k=25).ids == plain.search(query, k=25).ids
    with pytest.raises(ValueError, match="vectors must be 'memory' or 'mapped', got 'disk'"):
        index.save(path, vectors="disk")
