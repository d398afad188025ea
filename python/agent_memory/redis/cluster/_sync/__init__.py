# Generated from ../_async/__init__.py by tools/generate_sync.py: edit that file, not this one.

"""See `agent_memory.redis.cluster`."""
