"""Fencing for asyncio."""
