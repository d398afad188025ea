"""The SQLite store for asyncio."""
