"""The PostgreSQL store for asyncio."""
