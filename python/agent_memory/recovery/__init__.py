"""The durable queue of writes that failed: order, journal, draining, what became of each write."""
