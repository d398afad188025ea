# Generated from ../_async/__init__.py by tools/generate_sync.py: edit that file, not this one.

"""The agent memory's source: asyncio code, from which the sync twins are generated."""
