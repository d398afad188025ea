"""Tasks that read the same memory at once, one of which is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from agent_memory.memory import AsyncMemorySystem

AGENT = "agent"


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_cancelled_reader_does_not_fail_the_others(tmp_path, cancelled):
    async with AsyncMemorySystem(tmp_path / "memory", redis=None) as memory:
        stored = await memory.store(AGENT, "The user lives in Lisbon.")
        await memory.retrieve(AGENT, "Lisbon")

        async def beside_a_cancelled(call):
            tasks = [asyncio.create_task(call()) for _ in range(3)]
            await asyncio.sleep(0)
            tasks[cancelled].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results.pop(cancelled), asyncio.CancelledError)
            return results

        for entry in await beside_a_cancelled(lambda: memory.get(AGENT, stored)):
            assert entry.content == "The user lives in Lisbon."
        for found in await beside_a_cancelled(lambda: memory.retrieve(AGENT, "Where does the user live?")):
            assert [entry.id for entry in found] == [stored]
