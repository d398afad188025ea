"""arq: enqueueing through an outage, and a worker before and after it."""

# needs: arq
import asyncio

from outage import Outage

import agent_memory.redis.asyncio

with Outage() as outage, asyncio.Runner() as runner:
    page = outage.page("arq")

    async def make_pool():
        return page.make_pool()

    pool = runner.run(make_pool())
    assert isinstance(pool, agent_memory.redis.asyncio.Redis)

    async def work():
        job = await pool.enqueue_job("double", 21)
        worker = page.make_worker(pool, burst=True, handle_signals=False, poll_delay=0.05)
        worker._pool_is_ours = False
        await worker.main()
        assert await job.result(timeout=10) == 42

    runner.run(work())
    outage.endure(lambda: runner.run(pool.enqueue_job("double", 21)))
    runner.run(work())
    runner.run(pool.aclose())
