"""asyncio: parts of a bucket travel together, in order. Threads may send theirs in any order, which costs nothing but work."""

from __future__ import annotations

from agent_memory.memory import AsyncMemorySystem, MemorySettings, SyncSettings
from agent_memory.redis.asyncio import Redis


async def test_parts_that_are_under_way_together_are_marked_in_the_order_of_the_feed(valkey, tmp_path):
    settings = MemorySettings(sync=SyncSettings(batch_entries=20, interval_s=600))
    async with (
        Redis(**valkey.connection_kwargs) as client,
        AsyncMemorySystem(tmp_path, redis=client, config=settings) as memory,
    ):
        for n in range(410):
            await memory.store("agent", f"text {n}", durability="redis")
        synced = await memory.sync()
        after = await memory.sync()

    assert (synced.synced, synced.remaining) == (410, False)
    assert (synced.followed, after.followed) == (0, 0)
