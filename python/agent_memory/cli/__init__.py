"""The program `agent-memory`."""
