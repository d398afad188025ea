"""The protocol of the SQL stores for asyncio."""
