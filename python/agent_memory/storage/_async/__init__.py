"""The resilient client of the specification, for asyncio."""
