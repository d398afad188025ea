"""agent_memory: a fast, resilient Redis client for Python with a Rust core."""
