"""See `agent_memory.redis.cluster`."""
