"""The recovery queue of a resilient client, for asyncio."""
