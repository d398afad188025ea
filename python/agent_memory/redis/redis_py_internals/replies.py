"""What redis-py makes of replies: its exceptions, callbacks and marks."""

from __future__ import annotations

from typing import Any, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.client import EMPTY_RESPONSE, NEVER_DECODE, CaseInsensitiveDict
from redis.exceptions import ResponseError, WatchError
from redis.utils import str_if_bytes

from agent_memory.redis.redis_py_internals.features import get_response_callbacks

__all__ = [
    "EMPTY_RESPONSE",
    "NEVER_DECODE",
    "PushNotification",
    "as_text",
    "callbacks_after_fallback",
    "lost_while_watching",
    "message_class",
    "parse_reply_error",
]

PushNotification = hiredis.PushNotification


def parse_reply_error(text: str) -> Exception:
    """redis-py's exception for the text of an error reply."""
    try:
        return cast(Exception, BaseParser.parse_error(text))
    except (ValueError, LookupError):  # MOVED and ASK without the address that they are made of
        return ResponseError(text)


def callbacks_after_fallback(asked: int | None, legacy_responses: bool) -> dict[str, Any]:
    """The callbacks that give RESP2 replies the shapes that the client would have shown over RESP3.

    Redis-py has three such shapes: today's (no protocol named), RESP3's own, and the unified one; the last two are what its
    unified RESP2 callbacks make.
    """
    legacy = legacy_responses and asked is None
    callbacks: Any = get_response_callbacks(user_protocol=2, legacy_responses=legacy)
    return cast("dict[str, Any]", CaseInsensitiveDict(callbacks))


def as_text(value: Any) -> str:
    """A word of a reply, whether it was decoded or not."""
    return str(str_if_bytes(value))


def message_class(connection: Any) -> type:
    """The class of list that a published message arrives as."""
    return PushNotification if int(connection.get_protocol()) == 3 else list


def lost_while_watching(error: BaseException) -> bool:
    """Whether redis-py says by this WatchError that the connection was lost, not that a watched key has changed."""
    return isinstance(error, WatchError) and "occurred while watching" in str(error)
