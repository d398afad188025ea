"""Liveness and readiness for an orchestrator: one application for ASGI (FastAPI, Starlette) and one for WSGI.

    app.mount("/health", asgi_health(client, memory))       # FastAPI, Starlette

`/live` answers 200 while the process serves. `/ready` answers 200 while all clients and memory systems are healthy, else
503, with their states as JSON. Both read `health()`, which asks no server, so a probe costs nothing and cannot hang.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, runtime_checkable

__all__ = ["asgi_health", "wsgi_health"]


@runtime_checkable
class _Source(Protocol):
    def health(self) -> Any:
        """How it is doing."""
        ...


def asgi_health(*sources: Any) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """An ASGI application with `/live` and `/ready` for `sources`: resilient clients and memory systems.

    It answers GET and HEAD; other paths are 404. Raises TypeError for what has no `health()`.
    """
    _check(sources)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        del receive  # requests have no body
        if scope["type"] != "http":
            return
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        status, body = 404, b""
        if path.rstrip("/").endswith("/ready"):
            found = [await one if inspect.isawaitable(one) else one for one in (source.health() for source in sources)]
            status, body = _ready(found)
        elif path.rstrip("/").endswith("/live"):
            status, body = 200, b"{}"
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return application


def wsgi_health(*sources: Any) -> Callable[[Any, Any], Iterable[bytes]]:
    """The same of `sources` as a WSGI application. Raises TypeError for what has no `health()`."""
    _check(sources)

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", ""))
        status, body = 404, b""
        if path.rstrip("/").endswith("/ready"):
            status, body = _ready([source.health() for source in sources])
        elif path.rstrip("/").endswith("/live"):
            status, body = 200, b"{}"
        word = {200: "200 OK", 404: "404 Not Found", 503: "503 Service Unavailable"}[status]
        start_response(word, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [b"" if environ.get("REQUEST_METHOD") == "HEAD" else body]

    return application


def _check(sources: tuple[Any, ...]) -> None:
    for source in sources:
        if not isinstance(source, _Source) or isinstance(source, type):
            raise TypeError(f"source must be a resilient client or a memory system, got {source!r}")


def _ready(found: list[Any]) -> tuple[int, bytes]:
    states = [{"healthy": _is_healthy(health), "state": str(getattr(health, "state", health))} for health in found]
    status = 200 if all(state["healthy"] for state in states) else 503
    return status, json.dumps({"sources": states}).encode()


def _is_healthy(health: Any) -> bool:
    return bool(health == "healthy" if isinstance(health, str) else health)
