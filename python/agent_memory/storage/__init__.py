"""The resilient clients: `redis_client.ResilientRedisClient` and `async_redis_client.AsyncResilientRedisClient`."""
