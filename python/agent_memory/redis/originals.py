"""redis-py's client classes, taken before `install()` can put ours in their place.

Every module of this package that means redis-py's own class takes it from here: looked up by its name, it may be ours.
"""

from __future__ import annotations

from redis.asyncio.client import Redis as AsyncRedisPy
from redis.asyncio.sentinel import Sentinel as AsyncRedisPySentinel
from redis.client import Redis as RedisPy
from redis.sentinel import Sentinel as RedisPySentinel

__all__ = ["AsyncRedisPy", "AsyncRedisPySentinel", "RedisPy", "RedisPySentinel"]
