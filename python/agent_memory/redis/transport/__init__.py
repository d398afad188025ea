"""The two transports: `blocking` (a list of idle sockets) and `multiplexed` (one shared connection per event loop)."""
