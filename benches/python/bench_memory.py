"""The memory system, on loopback with its embedded server and SQLite at synchronous=FULL, as ratios in one run.

    python benches/python/bench_memory.py [--memories 10000] [--copies] [--growth 1000,10000,100000] [--plot memory.png]

The peer of `store` is what the first public implementation of the specification does: eight commands a memory, one after
the other, by redis.asyncio, 200 tasks at once, on the same server; peer and store take turns in rounds of --memories
stores, of which the peer makes a fifth. On a busy machine compare the processor times, in which the threads of this process
are counted, but not the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time

import numpy as np
import redis.asyncio

from agent_memory.memory import AsyncMemorySystem, MemorySettings, ShortTermSettings

DIMENSIONS = 384
TASKS = 200
AGENT = "bench"
DURABILITIES = ("sql", "redis")
ROUNDS = 5


def contents(count):
    return [
        f"note {n}: the user asked about topic {n % 97} and wants to hear of place {n % 31} again" for n in range(count)
    ]


async def spread(count, one):
    """Runs one(n) for every n, TASKS at a time; returns operations per second, and processor time of each in us."""

    async def work(first):
        for n in range(first, count, TASKS):
            await one(n)

    began, began_cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work(first) for first in range(TASKS)))
    cpu_us = (time.process_time() - began_cpu) / count * 1e6
    return count / (time.perf_counter() - began), cpu_us


async def eight_commands(client, n, content, vector):
    key = f"peer:stm:{n}"
    await client.hset(key, mapping={"id": n, "content": content, "timestamp": time.time(), "importance": 0.5})
    await client.hset(key, "embedding", json.dumps(vector[:8].tolist()))
    await client.expire(key, 3600)
    await client.zadd("peer:timeline", {str(n): n})
    await client.zadd("peer:importance", {str(n): 0.5})
    await client.sadd("peer:all", n)
    await client.expire("peer:timeline", 3600)
    await client.expire("peer:importance", 3600)


def report(name, value, unit, note=""):
    print(f"{name:<58} {value:>12,.2f} {unit:<10} {note}", flush=True)


async def bench_store(folder, texts, vectors):
    count = len(texts)
    async with AsyncMemorySystem(folder) as memory:
        connection = memory._resources.directory.server.connection_kwargs
        for durability in DURABILITIES:
            await memory.store("warm", "warm", embedding=vectors[0], durability=durability)
        rounds = []
        async with redis.asyncio.Redis(**connection, max_connections=TASKS) as client:
            for number in range(ROUNDS):
                results = [await spread(count // 5, lambda n: eight_commands(client, n, texts[n], vectors[n]))]
                for durability in DURABILITIES:
                    agent_id = AGENT if (number, durability) == (0, "sql") else f"{AGENT}-{durability}-{number}"

                    async def store(n, agent_id=agent_id, durability=durability):
                        await memory.store(agent_id, texts[n], embedding=vectors[n], durability=durability)

                    results.append(await spread(count, store))
                rounds.append(results)
        report_store(rounds)


async def bench_copies(folder, texts, vectors):
    """Ways by which copies with versions come into SQL, beside `store_many`, which gives them versions."""
    rounds = []
    entries = [{"content": text} for text in texts]
    async with AsyncMemorySystem(f"{folder}/source") as source, AsyncMemorySystem(f"{folder}/target") as target:
        for number in range(ROUNDS):
            agent_id = f"copies-{number}"
            began = time.perf_counter()
            await source.store_many(agent_id, entries, embeddings=vectors)
            stored_s = time.perf_counter() - began
            lines = [line async for line in source.export(agent_id)]
            began = time.perf_counter()
            assert await target.import_(lines) == len(lines)
            imported_s = time.perf_counter() - began

            async def store(n, agent_id=f"dirty-{number}"):
                await source.store(agent_id, texts[n], embedding=vectors[n], durability="redis")

            await spread(len(texts), store)
            began = time.perf_counter()
            assert (await source.sync()).synced == len(texts)
            rounds.append((stored_s, imported_s, time.perf_counter() - began))
    for name, times in zip(("store_many", "import_", "sync of dirty copies"), zip(*rounds, strict=True), strict=True):
        ratio = statistics.median(took / one[0] for took, one in zip(times, rounds, strict=True))
        report(name, len(texts) / statistics.median(times), "/s", f"{1 / ratio:.2f} x store_many")


def report_store(rounds):
    """Medians over the rounds; a ratio is taken within its round."""
    names = ["redis.asyncio, eight commands a memory", *(f'store, durability "{one}"' for one in DURABILITIES)]
    for at, name in enumerate(names):
        rates, cpus = zip(*(results[at] for results in rounds), strict=True)
        ratios = [results[at][0] / results[0][0] for results in rounds]
        cheaper = statistics.median(results[0][1] / results[at][1] for results in rounds)
        note = f"{min(rates):,.0f} to {max(rates):,.0f}; {statistics.median(cpus):.0f} us of processor"
        if at:
            ratio = f"{statistics.median(ratios):.1f} x the peer ({min(ratios):.1f} to {max(ratios):.1f})"
            note += f"; {ratio}, {cheaper:.1f} x less"
        report(f"{name}, {TASKS} tasks", statistics.median(rates), "/s", note)


async def bench_retrieve(folder, vectors):
    async with AsyncMemorySystem(folder) as memory:
        began = time.perf_counter()
        await memory.retrieve(AGENT, embedding=vectors[0], k=10)
        report(f"first retrieval: index of {len(vectors):,} from SQL", time.perf_counter() - began, "s")
        for _ in range(2):  # the first pass brings the contents into Redis
            times = []
            for n in range(300):
                query = vectors[n % len(vectors)]
                began = time.perf_counter()
                await memory.retrieve(AGENT, embedding=query, k=10)
                times.append(time.perf_counter() - began)
        times.sort()
        report(f"retrieve top 10 of {len(vectors):,}, p50", times[150] * 1e3, "ms", f"p10 {times[30] * 1e3:.2f} ms")
        index = memory._lifecycle.parts.loaded.peek(AGENT).index
        began = time.perf_counter()
        for n in range(100):
            index.search(vectors[n % len(vectors)], None, 10)
        report("  of which the search in the index", (time.perf_counter() - began) * 10, "ms")


async def bench_maintain(folder):
    settings = MemorySettings(short_term=ShortTermSettings(max_entries=1))
    async with AsyncMemorySystem(folder, config=settings) as memory:

        async def read(seconds, rates):
            ids = [entry.id for entry in await memory.history(AGENT, limit=100)]
            until = time.perf_counter() + seconds
            n = 0
            while time.perf_counter() < until:
                began = time.perf_counter()
                await memory.get(AGENT, ids[n % 100])
                rates.append(time.perf_counter() - began)
                n += 1
                await asyncio.sleep(0.001)

        alone, meanwhile = [], []
        await read(1.0, alone)
        task = asyncio.create_task(read(600, meanwhile))
        began = time.perf_counter()
        pass_ = await memory.maintain()
        elapsed = time.perf_counter() - began
        task.cancel()
        moved = sum(pass_.moved.values())
        report("maintain(): memories moved", moved / elapsed, "/s", f"{moved} memories")
        if len(meanwhile) > 20:
            before, during = (statistics.quantiles(sample, n=100)[98] * 1e3 for sample in (alone, meanwhile))
            report("  p99 of get() meanwhile", during, "ms", f"{before:.2f} ms alone, {during / before:.1f} x")


async def timed_retrievals(memory, agent_id, queries):
    """p50 of a second pass over the queries: the first one brings their contents into Redis."""
    times = []
    for vectors in (queries, queries):
        times.clear()
        for vector in vectors:
            began = time.perf_counter()
            await memory.retrieve(agent_id, embedding=vector, k=10)
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def stream_s(size):
    """The time of one pass over as many int8 rows."""
    rows = np.ones((size, DIMENSIONS), dtype=np.int8)
    times = []
    for _ in range(7):
        began = time.perf_counter()
        rows.max()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def bench_growth(folder, sizes, plot):
    rng = np.random.default_rng(1)
    rows = []
    held = 0
    queries = rng.normal(size=(50, DIMENSIONS)).astype(np.float32)
    for size in sizes:
        async with AsyncMemorySystem(folder) as memory:
            if held:
                # The index learns what is stored from now on as it comes, as that of an agent at work does.
                await memory.retrieve("grown", embedding=queries[0], k=10)
            texts = contents(size)
            elapsed = 0.0
            for start in range(held, size, 5_000):
                stop = min(start + 5_000, size)
                batch = rng.normal(size=(stop - start, DIMENSIONS)).astype(np.float32)
                entries = [{"content": text} for text in texts[start:stop]]
                began = time.perf_counter()
                await memory.store_many("grown", entries, embeddings=batch)
                elapsed += time.perf_counter() - began
            queries = batch[:50]
            await memory.retrieve("grown", embedding=queries[0], k=10)
            warm_s = await timed_retrievals(memory, "grown", queries)
        async with AsyncMemorySystem(folder) as memory:
            began = time.perf_counter()
            await memory.retrieve("grown", embedding=queries[0], k=10)
            cold_s = time.perf_counter() - began
        row = (size, (size - held) / elapsed, warm_s * 1e3, cold_s, stream_s(size) * 1e3)
        held = size
        rows.append(row)
        report(f"{size:,} memories: store_many", row[1], "/s", f"retrieve p50 {row[2]:.2f} ms, one pass over the int8 "
               f"rows {row[4]:.2f} ms, first retrieval of a new system {cold_s:.2f} s")  # fmt: skip
    if plot:
        draw(rows, plot)


def draw(rows, path):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    sizes, rates, warm, cold, stream = zip(*rows, strict=True)
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    left.semilogx(sizes, rates, marker="o")
    left.set(title="store_many", xlabel="memories held", ylabel="memories/s", ylim=(0, None))
    middle.loglog(sizes, warm, marker="o", label="retrieve top 10, p50")
    middle.loglog(sizes, stream, marker="s", linestyle="--", label="one pass over the int8 rows")
    middle.set(title="retrieve top 10", xlabel="memories held", ylabel="ms")
    middle.legend()
    right.loglog(sizes, cold, marker="o")
    right.set(title="first retrieval of a new system", xlabel="memories held", ylabel="s")
    figure.suptitle(f"{DIMENSIONS} dimensions, SQLite at synchronous=FULL, embedded server, {os.cpu_count()} cores")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--growth", default="", help="sizes, such as 1000,10000,100000,1000000")
    parser.add_argument("--copies", action="store_true", help="only import and the synchronisation of dirty copies")
    parser.add_argument("--plot", default="", help="a file for the plots of --growth")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {DIMENSIONS} dimensions")
    texts = contents(options.memories)
    vectors = np.random.default_rng(0).normal(size=(options.memories, DIMENSIONS)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(bench_copies(folder, texts, vectors))
    if options.copies:
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(bench_store(folder, texts, vectors))
        asyncio.run(bench_retrieve(folder, vectors))
        asyncio.run(bench_maintain(folder))
    if options.growth:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(bench_growth(folder, [int(size) for size in options.growth.split(",")], options.plot))


if __name__ == "__main__":
    main()
