"""Streamed credentials: redis-py's providers tell pools and connections of renewed ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.credentials import StreamingCredentialProvider
from redis.event import AfterPooledConnectionsInstantiationEvent, ClientType

from agent_memory._core import pack_command
from agent_memory.redis.redis_py_internals.pools import weakly_bound

__all__ = [
    "on_renewal",
    "register_for_renewal",
    "take_renewal",
]


def on_renewal(pool: Any, renew: Callable[[bytes], None], asynchronous: bool) -> None:
    """Call `renew(packed AUTH)` when the pool's streaming credential provider has new credentials, in the provider's thread.

    The pool is notified: redis-py registers its pools with the provider, and providers keep a single callback.
    """
    provider = pool.connection_kwargs.get("credential_provider")
    if not isinstance(provider, StreamingCredentialProvider):
        return
    re_auth = weakly_bound(pool, "re_auth_callback")

    def tell(token: Any) -> None:
        user = token.try_get("oid")
        words = (token.get_value(),) if user is None else (user, token.get_value())
        renew(pack_command(("AUTH", *words)))

    if asynchronous:

        async def async_re_auth_all(token: Any) -> None:
            tell(token)
            await re_auth(token)

        pool.re_auth_callback = async_re_auth_all
    else:

        def re_auth_all(token: Any) -> None:
            tell(token)
            re_auth(token)

        pool.re_auth_callback = re_auth_all


def register_for_renewal(client: Any, *, given: bool, asynchronous: bool) -> None:
    """Have a pool that was given to the client told of renewed credentials, as redis-py has it for pools of its own; once."""
    pool = client.connection_pool
    provider = pool.connection_kwargs.get("credential_provider")
    if not isinstance(provider, StreamingCredentialProvider) or "_agent_memory_is_registered" in pool.__dict__:
        return
    pool._agent_memory_is_registered = True
    if given:
        kind = ClientType.ASYNC if asynchronous else ClientType.SYNC
        client._event_dispatcher.dispatch(AfterPooledConnectionsInstantiationEvent([pool], kind, provider))


def take_renewal(connection: Any) -> tuple[Any, ...] | None:
    """The AUTH, as words, that is due on a connection in use since credentials were renewed; None when none is."""
    token = connection._re_auth_token
    if token is None:
        return None
    connection._re_auth_token = None
    user = token.try_get("oid")
    return ("AUTH", token.get_value()) if user is None else ("AUTH", user, token.get_value())
