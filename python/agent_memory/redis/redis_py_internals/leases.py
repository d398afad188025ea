"""Connections that stay redis-py's while one caller uses them: leased from a pool, connected again, dropped."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.exceptions import RedisError, ResponseError

from agent_memory.redis.redis_py_internals.features import add_in_use, disconnect_pool
from agent_memory.redis.redis_py_internals.handshake import async_connect, hello_was_refused

__all__ = [
    "async_connect_again",
    "async_connect_pinned",
    "async_disconnect_idle",
    "async_drop",
    "async_lease",
    "connect_again",
    "connect_pinned",
    "disconnect_idle",
    "drop",
    "drop_idle",
    "lease",
]


def drop(connection: Any) -> None:
    """Close a connection that has failed; never raises."""
    try:
        connection.disconnect()
    except (OSError, RedisError):
        pass


async def async_drop(connection: Any) -> None:
    """The same for asyncio."""
    try:
        await connection.disconnect(nowait=True)
    except (OSError, RedisError):
        pass


def disconnect_idle(client: Any) -> None:
    """Close what redis-py has for the client and is not in use: the idle connections of its pool, and its own one."""
    if client.connection is not None:
        client.connection.disconnect()
    if isinstance(client.connection_pool, redis.ConnectionPool):
        disconnect_pool(client.connection_pool, client.connection_pool.disconnect, False)


async def async_disconnect_idle(client: Any) -> None:
    """The same for asyncio."""
    if client.connection is not None:
        await client.connection.disconnect(nowait=True)
    if isinstance(client.connection_pool, redis.asyncio.ConnectionPool):
        await client.connection_pool.disconnect(False)


def connect_again(connection: Any) -> None:
    """Connect a connection of a pool once more, its connect callbacks included."""
    connection.connect()


async def async_connect_again(connection: Any) -> None:
    """The same for asyncio."""
    task = asyncio.current_task()
    cancellations = task.cancelling() if task is not None else 0
    await connection.connect()
    if task is not None and task.cancelling() > cancellations:
        # redis-py sends through asyncio.wait_for, which before Python 3.12 may lose a cancellation.
        raise asyncio.CancelledError


def connect_pinned(client: Any) -> None:
    """Connect the one connection of a client again where it was lost, before anything is sent; one caller at a time."""
    with client.single_connection_lock:
        client.connection.connect()


async def async_connect_pinned(client: Any) -> None:
    """The same for asyncio."""
    async with client._single_conn_lock:
        await client.connection.connect()


def lease(pool: Any) -> Any:
    """A connected connection of the pool; from a server that refuses HELLO one that speaks RESP2."""
    try:
        return pool.get_connection()
    except Exception as error:
        if not isinstance(error, ResponseError):
            raise
        with pool._lock:  # a concurrent count of the connections would miss this one
            connection = pool.make_connection()
            if not hello_was_refused(error, connection):
                raise
            connection.protocol = 2
            add_in_use(pool, connection)
        connection.connect()
        return connection
    except BaseException:
        drop_idle(pool)
        raise


def drop_idle(pool: Any) -> None:
    """Close redis-py's idle connections after an interruption.

    Struck in a handshake, redis-py puts a connection back as if that had ended: its replies would be the next caller's.
    """
    disconnect_pool(pool, functools.partial(type(pool).disconnect, pool), False)


async def async_lease(pool: Any) -> Any:
    """The same for asyncio."""
    try:
        return await pool.get_connection()
    except ResponseError as error:
        connection = pool.make_connection()
        if not hello_was_refused(error, connection):
            raise
        connection.protocol = 2
        add_in_use(pool, connection)
        await async_connect(connection)
        return connection
