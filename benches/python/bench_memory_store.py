"""The SQL store of agent memory by itself: batch writes that grow, callers that share commits, reads, compression.

    python benches/python/bench_memory_store.py                          100,000 memories with 384 dimensions
    MEMORY_ROWS=1000000 python benches/python/bench_memory_store.py      needs about 3 GB of disk

Rates are of this machine at this moment; beside each stands the same rows written by bare `executemany` into the same
tables, with the same pages and the same syncs, in the same run: the ratio is what decisions, checksums and results cost.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np

from agent_memory.memory import SqliteSettings, Tier, _copy
from agent_memory.memory.stores import MemoryQuery, Move, Put, _compression
from agent_memory.memory.stores.sqlite import AsyncSqliteStore, SqliteStore, _engine, _schema

ROWS = int(os.environ.get("MEMORY_ROWS", "100000"))
DIMENSIONS = 384
BATCH = 10_000
TASKS = 200
WRITER = 7
VECTORS = np.random.default_rng(1).standard_normal((1_000, DIMENSIONS), dtype=np.float32)
PLACES = ("Lisbon", "Porto", "Faro", "Coimbra", "Braga", "Evora", "Sintra")


def sentence(number: int) -> str:
    return (
        f"On day {number} the user said that the meeting in {PLACES[number % 7]} is moved to week {number * 31 % 53}."
    )


def put(number: int, tier: Tier = Tier.LTM, agent_id: str = "agent") -> Put:
    now_us = time.time_ns() // 1_000
    return Put(
        _copy.make_copy(
            agent_id,
            sentence(number),
            memory_id=_copy.new_id(now_us),
            timestamp=float(number),
            created_us=now_us,
            writer=WRITER,
            embedding=VECTORS[number % len(VECTORS)],
            tier=tier,
        )
    )


class Bare:
    """The same tables, filled by executemany and nothing else."""

    def __init__(self, path: Path) -> None:
        self.connection = _schema.connect(path, SqliteSettings(), writer=True)
        _schema.migrate(self.connection, path)
        self.connection.execute("PRAGMA wal_autocheckpoint = 4096")
        self.rows = 0

    def write(self, puts: list[Put]) -> None:
        for start in range(0, len(puts), _engine.MAX_TRANSACTION_WRITES):
            rows, vectors = [], []
            for one in puts[start : start + _engine.MAX_TRANSACTION_WRITES]:
                copy = one.copy
                self.rows += 1
                rows.append((self.rows, 1, copy.id, self.rows, *copy[3:20], copy.content, -1, 0, b"", self.rows))
                vectors.append((self.rows, 0, copy.vector))
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.executemany(f"INSERT INTO memories VALUES ({', '.join('?' * 26)})", rows)
            self.connection.executemany("INSERT INTO vectors VALUES (?, ?, ?)", vectors)
            self.connection.execute("COMMIT")


def timed(function, *arguments) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def batch_writes(folder: Path) -> None:
    print(f"batch write, {DIMENSIONS} dimensions, synchronous=FULL: rows/s of each tenth")
    print(f"{'rows':>10} {'store':>10} {'executemany':>12} {'ratio':>6}")
    bare = Bare(folder / "bare.db")
    with SqliteStore(folder / "store.db") as store:
        done, step = 0, max(BATCH, ROWS // 10)
        total_store = total_bare = 0.0
        while done < ROWS:
            store_s = bare_s = 0.0
            for start in range(done, min(done + step, ROWS), BATCH):
                puts = [put(number) for number in range(start, start + BATCH)]
                store_s += timed(store.write, puts)
                bare_s += timed(bare.write, puts)
            done += step
            total_store, total_bare = total_store + store_s, total_bare + bare_s
            print(f"{done:>10,} {step / store_s:>10,.0f} {step / bare_s:>12,.0f} {bare_s / store_s:>6.2f}")
        print(f"{'all':>10} {done / total_store:>10,.0f} {done / total_bare:>12,.0f} {total_bare / total_store:>6.2f}")
        print(f"longest transaction: {store.stats().longest_transaction_ms:.0f} ms")
        ids = [copy.id for copy in store.query(MemoryQuery(agent_id="agent"), limit=1_000, vectors=False).copies]
        print(f"get one: {timed(lambda: [store.get([i]) for i in ids]) * 1e3:.0f} us, of 1,000 in one call: "
              f"{timed(store.get, ids) * 1e3:.1f} us each")  # fmt: skip
        feed_s = timed(lambda: store.changes("agent", limit=10_000))
        print(f"the feed's first 10,000 with vectors: {feed_s * 1e3:.0f} ms")
    bare.connection.close()


async def shared_commits(folder: Path) -> None:
    async def caller(store: AsyncSqliteStore, number: int) -> None:
        for repeat in range(50):
            await store.write([put(number * 50 + repeat, Tier.STM)])

    async with AsyncSqliteStore(folder / "commits.db") as store:
        began = time.perf_counter()
        await asyncio.gather(*(caller(store, number) for number in range(TASKS)))
        elapsed = time.perf_counter() - began
        transactions = store.stats().transactions
    alone = Bare(folder / "alone.db")
    few = [put(number, Tier.STM) for number in range(200)]
    alone_s = timed(lambda: [alone.write([one]) for one in few]) / len(few)
    alone.connection.close()
    print(f"\n{TASKS} tasks, one memory a call: {TASKS * 50 / elapsed:,.0f} stores/s in {transactions} transactions, "
          f"{alone_s * TASKS * 50 / elapsed:.1f} x one commit each")  # fmt: skip


def compression(folder: Path) -> None:
    path = folder / "compression.db"
    count = 20_000

    def size() -> float:
        connection = sqlite3.connect(path)
        (total,) = connection.execute("SELECT avg(length(content)) FROM memories").fetchone()
        connection.close()
        return float(total)

    _compression.MIN_PLAIN_BYTES = 64  # so that the gain of a dictionary is seen
    with SqliteStore(path) as store:
        results = store.write([put(number, Tier.STM) for number in range(count)])
        as_it_is = size()
        half = results[: count // 2]
        elapsed = timed(store.write, [Move(one.id, "agent", one.version, Tier.LTM) for one in half])
        without = size() * 2 - as_it_is
        store.train_dictionary()
        store.write([Move(one.id, "agent", one.version, Tier.IM) for one in half])
        store.write([Move(one.id, "agent", one.version, Tier.LTM) for one in results])
        print(f"\nmoves to long-term memory: {count / 2 / elapsed:,.0f}/s; bytes of a content: {as_it_is:.0f}, zstd "
              f"{without:.0f}, with a dictionary {size():.0f}")  # fmt: skip


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f}, SQLite {sqlite3.sqlite_version}")
    with tempfile.TemporaryDirectory(prefix="bench-memory-", dir=os.environ.get("BENCH_DIR")) as folder:
        batch_writes(Path(folder))
        asyncio.run(shared_commits(Path(folder)))
        compression(Path(folder))


if __name__ == "__main__":
    main()
