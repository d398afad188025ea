"""The agent memory's source: asyncio code, from which the sync twins are generated."""
