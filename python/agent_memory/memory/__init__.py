"""The tiers of agent memory: short-term and intermediate in Redis, long-term in SQL, one index over all of them."""
