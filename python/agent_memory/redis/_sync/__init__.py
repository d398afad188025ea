# Generated from ../_async/__init__.py by tools/generate_sync.py: edit that file, not this one.

"""What the drop-in clients have in common, for asyncio."""
