"""The copies in Redis: the scripts against the model that the simulation runs on, on every kind of server."""

from __future__ import annotations

import random

import pytest
import redis.exceptions
from memory_model import LIFETIME, ModelRedis, rules_without

from agent_memory.memory._async.redis_tier import AsyncRedisTier, Synced, bucket_of, order_text
from agent_memory.memory._copy import make_copy, tombstone_of
from agent_memory.memory._copy_rules import Stamp
from agent_memory.memory.entries import Tier
from agent_memory.redis.asyncio import Redis as AsyncRedis

AGENT = "agent: 1/ü"
FLOORS = f"{{b{bucket_of(AGENT):04d}}}:v:agent%3A%201%2F%C3%BC"
LETTERS = {"ok": "o", "held": "h", "floor": "f", "epoch": "e", "deleted": "d", "conflict": "c"}


def copy_of(memory, stamp, agent_id=AGENT, content=None):
    if stamp.deleted:
        return tombstone_of(memory, agent_id, stamp.version, stamp.writer)
    return make_copy(
        agent_id,
        content or f"{memory} {stamp.version} {stamp.writer}",
        memory_id=memory,
        timestamp=1.7e9,
        created_us=1,
        writer=stamp.writer,
        version=stamp.version,
        embedding=[1.0, 2.0, 3.0],
    )


@pytest.fixture
async def tier(server):
    async with AsyncRedis(**server.connection_kwargs) as client:
        yield AsyncRedisTier(client)


class Both:
    """The model and the server, given the same commands."""

    def __init__(self, tier, seed):
        self.tier, self.random = tier, random.Random(seed)
        self.model = ModelRedis(rules_without())
        self.epochs = {None: "0" * 40}
        self.clock = 1_000_000

    def stamp(self, deleted=False):
        # Close to each other, so that equal and older ones are met.
        return Stamp(deleted, self.clock - self.random.randrange(1_500), self.random.randrange(1, 3))

    async def step(self):
        chance, model, tier = self.random, self.model, self.tier
        self.clock += chance.choice((1, 50, 700, 2_500))
        model.clock = tier.clock_us = self.clock
        memories = chance.sample(["m0", "m1", "m2"], chance.choice((1, 1, 1, 2, 3)))
        memory = memories[0]
        stamp = self.stamp(chance.random() < 0.15)
        copy = copy_of(memory, stamp)
        first_seq = chance.choice((None, model.cursor + 1, model.cursor + 1, model.cursor + 2))
        seqs = [0 if first_seq is None else first_seq + at for at in range(len(memories))]
        epoch = chance.choice([*self.epochs][-2:])
        known = self.epochs[epoch]
        is_current = epoch is not None and model.current_epoch() == epoch
        kind = chance.choice(("clean", "clean", "clean", "dirty", "dirty", "mark", "follow", "evict", "open", "flush"))
        if kind == "clean":
            stamps = [self.stamp(chance.random() < 0.15) for _ in memories]
            copies = [copy_of(*one)._replace(seq=seq) for *one, seq in zip(memories, stamps, seqs, strict=True)]
            answers = [model.put_clean(one.id, one.stamp, one.content, epoch, one.seq) for one in copies]
            expected = "".join(LETTERS[answer] for answer in answers)
            assert (await tier.put_clean(copies, known, 3_600)).letters == expected
        elif kind == "dirty":
            held = model.get(memory)
            base = chance.choice((None, held.stamp.version if held else 7))
            expected = LETTERS[model.put_dirty(memory, stamp, copy.content, base)]
            assert (await tier.put_dirty([copy], [base])).letters == expected
        elif kind == "mark":
            held = [model.copies.get(memory) for memory in memories]
            seen = [chance.choice((stamp if one is None else one.stamp, stamp)) for one in held]
            greater = {}
            for at, memory in enumerate(memories):
                if chance.random() < 0.3:
                    greater[at] = max(seen[at], stamp._replace(version=seen[at].version + 1))
                    seqs[at] = 0
                    model.drop_beaten(memory, seen[at], greater[at])
                else:
                    model.mark_clean(memory, seen[at], epoch)
            taken = [seq for seq in seqs if seq]
            if taken and taken[-1] - taken[0] == len(taken) - 1 and model.cursor == taken[0] - 1:
                stamps = {
                    one: at
                    for number, (one, at) in enumerate(zip(memories, seen, strict=True))
                    if number not in greater
                }
                model.follow(epoch, taken[-1], stamps)
            orders = "".join(order_text(one) for one in seen)
            await tier.mark(AGENT, Synced(memories, orders, greater, taken), known, 3_600)
        elif kind == "follow":
            cursor = model.cursor + chance.randrange(3)
            model.follow(epoch, cursor, {memory: stamp})
            await tier.follow(AGENT, [(memory, stamp)], cursor, known)
        elif kind == "evict":
            model.evict(memory)
            await tier.evict(AGENT, [memory])
        elif kind == "open" or chance.random() < 0.8:
            found = await tier.open_epoch(AGENT, 0)
            self.epochs[model.open_epoch(found, 0)] = found
        else:
            model.flush()
            await tier.client.flushall()
        if kind == "mark" or (kind in ("clean", "follow") and is_current):
            model.trim_floors()  # the other scripts leave it

    async def compare(self):
        memories = ["m0", "m1", "m2"]
        reply = await self.tier.read(AGENT, memories)
        for memory, copy, is_dirty in zip(memories, reply.copies, reply.dirty, strict=True):
            held = self.model.get(memory)
            if held is None:
                assert copy is None
            else:
                assert (copy.stamp, copy.content, is_dirty) == (held.stamp, held.payload or b"", held.dirty)
        dirty = set(await self.tier.dirty_ids(AGENT))
        assert dirty == set(self.model.dirty())
        assert reply.cursor == self.model.cursor
        floors = await self.tier.client.zrange(FLOORS, 0, -1, withscores=True)
        assert {name.decode(): int(floor) for name, floor in floors} == self.model.floors
        ((dirty_count, dirty_bytes, _),) = await self.tier.sizes([bucket_of(AGENT)])
        assert dirty_count == len(dirty)
        assert (dirty_bytes == 0) == (not dirty)


@pytest.mark.parametrize("first", range(0, 40, 20))
async def test_the_scripts_do_what_the_model_does(tier, first):
    tier._lifetime = str(2 * LIFETIME)
    for seed in range(first, first + 20):
        both = Both(tier, seed)
        await tier.client.flushall()
        for step in range(30):
            try:
                await both.step()
                await both.compare()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, step {step}: {error}") from error


async def test_clean_copies_of_a_server_that_was_restarted_are_misses(start_server, tmp_path):
    server = start_server(path=tmp_path)
    async with AsyncRedis(**server.connection_kwargs) as client:
        tier = AsyncRedisTier(client)
        epoch = await tier.open_epoch(AGENT, 5)
        clean, dirty = (copy_of(name, Stamp(False, tier.now_us(), 1)) for name in ("clean", "dirty"))
        assert (await tier.put_clean([clean], epoch, 60)).letters == "o"
        assert (await tier.put_dirty([dirty], [None])).letters == "o"
        before = await tier.read(AGENT, ["clean", "dirty", "absent"])

        server.restart()
        while True:
            try:
                after = await tier.read(AGENT, ["clean", "dirty", "absent"])
                break
            except redis.exceptions.ConnectionError:
                pass

    assert before.copies == [clean, dirty, None]
    assert (before.dirty, before.cursor) == ([False, True, False], 5)
    assert after.copies == [None, dirty, None]
    assert after.epoch == ""


async def test_a_full_batch_leaves_by_its_due_time_or_by_its_label(tier):
    epoch = await tier.open_epoch(AGENT, 0)
    now = tier.now_us()
    copies = [copy_of(f"m{number}", Stamp(False, now + number, 1)) for number in range(500)]

    answer = await tier.put_clean(copies, epoch, 10)
    soon = await tier.due_members(bucket_of(AGENT), now + 5_000_000)
    later = await tier.due_members(bucket_of(AGENT), now + 60_000_000, limit=300)
    relabelled = await tier.relabel(AGENT, ["m0", "m1"], Tier.IM, 3_600)
    kept = await tier.evict(AGENT, ["m0", "m2"], now + 60_000_000)
    reply = await tier.read(AGENT, ["m0", "m2", "m3"])

    assert (answer.letters, answer.number) == ("o" * 500, 500)
    assert (soon, len(later), later[0][0]) == ([], 300, AGENT)
    assert relabelled.letters == "oo"
    assert kept.letters == "xo"
    assert [copy and (copy.id, copy.tier) for copy in reply.copies] == [("m0", Tier.IM), None, ("m3", Tier.STM)]


async def test_an_agent_is_erased_with_everything_that_belongs_to_it(tier):
    epoch = await tier.open_epoch(AGENT, 0)
    now = tier.now_us()
    for start in (0, 400):
        await tier.put_clean([copy_of(f"m{n}", Stamp(False, now + n, 1)) for n in range(start, start + 400)], epoch, 10)
    await tier.put_dirty([copy_of("dirty", Stamp(False, now, 1)), copy_of("gone", Stamp(True, now, 1))], [None, None])
    other = "agent: 2"
    await tier.put_dirty([copy_of("dirty", Stamp(False, now, 1), other)], [None])

    erased = await tier.erase(AGENT)

    assert erased == 802
    assert await tier.client.keys("*agent%3A%201*") == []
    assert await tier.dirty_ids(other) == ["dirty"]
    assert await tier.dirty_ids(AGENT) == []
    assert await tier.sizes([bucket_of(AGENT)]) == [(0, 0, 0)]


async def test_a_damaged_copy_is_a_miss_and_goes(tier):
    epoch = await tier.open_epoch(AGENT, 0)
    copy = copy_of("m0", Stamp(False, tier.now_us(), 1))
    await tier.put_clean([copy], epoch, 60)
    (key,) = await tier.client.keys("*:m:*")
    await tier.client.setrange(key, 150, b"?")

    first = await tier.read(AGENT, ["m0"])

    assert first.copies == [None]
    assert await tier.client.exists(key) == 0
