"""`instrument()`: OpenTelemetry spans of the clients and memory systems of this package. Needs the extra `otel`.

It wraps methods of this package's own classes while it is on, so nothing is paid while it is off. Attributes follow the
semantic conventions for database clients 1.33 (stable) and for Redis; those of this package begin with `agent_memory.`.
"""

from __future__ import annotations

import functools
import inspect
import re
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from redis.exceptions import ResponseError

from agent_memory import _check
from agent_memory.redis.call_notes import CALL_NOTES, CallNotes

try:
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_current_span, get_tracer_provider
except ModuleNotFoundError as error:
    if error.name is not None and not error.name.startswith("opentelemetry"):
        raise
    raise _check.missing_extra("agent_memory.observability.tracing", "opentelemetry-api", "otel") from None

__all__ = ["Instrumentation", "instrument"]

_COMMANDS: Final = (
    ("agent_memory.redis.client", "Redis"),
    ("agent_memory.redis.asyncio.client", "Redis"),
    ("agent_memory.redis.cluster.client", "RedisCluster"),
    ("agent_memory.redis.asyncio.cluster", "RedisCluster"),
)
_PIPELINES: Final = (
    ("agent_memory.redis._sync.pipeline", "Pipeline"),
    ("agent_memory.redis._async.pipeline", "Pipeline"),
    ("agent_memory.redis.cluster.client", "ClusterPipeline"),
    ("agent_memory.redis.asyncio.cluster", "ClusterPipeline"),
)
_STORES: Final = (
    ("agent_memory.recovery._sync.priority_commands", "PriorityCommands", "execute_command"),
    ("agent_memory.recovery._async.priority_commands", "AsyncPriorityCommands", "execute_command"),
    ("agent_memory.recovery._sync.priority_commands", "PriorityPipeline", "execute"),
    ("agent_memory.recovery._async.priority_commands", "AsyncPriorityPipeline", "execute"),
    ("agent_memory.storage._sync.client", "ResilientRedisClient", "store_with_retry"),
    ("agent_memory.storage._async.client", "AsyncResilientRedisClient", "store_with_retry"),
)
_MEMORY: Final = ("store", "store_many", "update", "delete", "get", "retrieve", "sync", "maintain")
_MEMORIES: Final = (
    ("agent_memory.memory._sync.system", "MemorySystem"),
    ("agent_memory.memory._async.system", "AsyncMemorySystem"),
)
_PARTS: Final = (
    ("agent_memory.memory._sync.sql_gateway", "SqlGateway", "ask"),
    ("agent_memory.memory._async.sql_gateway", "AsyncSqlGateway", "ask"),
    ("agent_memory.memory._sync.indexes", "Indexes", "get"),
    ("agent_memory.memory._async.indexes", "AsyncIndexes", "get"),
)
_CODE: Final = re.compile(r"[A-Z]{3,20}(?= |$)")
"""The code that an error reply begins with; the text behind it may hold keys and values."""
MAX_NAMES: Final = 1_024
"""Bound of the operation names whose attributes are kept for a client; beyond it they are made for each span."""

_mutex: Final = threading.Lock()
_active: Instrumentation | None = None


def instrument(*, tracer_provider: TracerProvider | None = None) -> Instrumentation:
    """Makes a span of each command, pipeline and memory operation in this process, until `uninstrument()` of what it returns.

    - `tracer_provider` (None: the global one): where the spans go.

    Spans of clients that exist already begin with their next call. They hold no keys, values or texts of errors. Where
    opentelemetry-instrumentation-redis, sentry-sdk or ddtrace patch redis-py, their spans appear as well: use one or the other.
    Calling it again returns what is on. Raises TypeError for what is no tracer provider. Thread-safe.
    """
    global _active
    if not hasattr(get_tracer_provider() if tracer_provider is None else tracer_provider, "get_tracer"):
        raise TypeError(f"tracer_provider must be a TracerProvider or None, got {tracer_provider!r}")
    with _mutex:
        if _active is None:
            _active = Instrumentation(tracer_provider or get_tracer_provider())
        return _active


class Instrumentation:
    """Spans that are on; made by `instrument()`. Thread-safe."""

    def __init__(self, provider: TracerProvider) -> None:
        """Made by `instrument()`."""
        self._tracer = provider.get_tracer("agent_memory", schema_url="https://opentelemetry.io/schemas/1.33.0")
        # Only then a span whose parent is not sampled cannot be sampled itself.
        self._follows_parent = type(getattr(provider, "sampler", None)).__name__ == "ParentBased"
        self._undo: list[Callable[[], None]] = []
        for module, name in _COMMANDS:
            self._wrap(module, name, "execute_command", self._around_command)
        for module, name in _PIPELINES:
            self._wrap(module, name, "execute", self._around_pipeline)
        for module, name, method in _STORES:
            self._wrap(module, name, method, self._around_store)
        for module, name in _MEMORIES:
            for method in _MEMORY:
                self._wrap(module, name, method, functools.partial(self._around_part, f"memory {method}"))
        for module, name, method in _PARTS:
            self._wrap(module, name, method, functools.partial(self._around_part, None))

    def uninstrument(self) -> None:
        """Makes no more spans. May be called again."""
        global _active
        with _mutex:
            if _active is self:
                _active = None
            undo, self._undo = self._undo, []
        for restore in undo:
            restore()

    def _wrap(self, module: str, name: str, method: str, around: Callable[[Any, bool], Any]) -> None:
        kind = getattr(import_module(module), name)
        original, own = getattr(kind, method), vars(kind).get(method)
        asynchronous = "asyncio" in module or "._async" in module
        wrapper = functools.wraps(original)(around(original, asynchronous))
        setattr(kind, method, wrapper)

        def restore() -> None:
            if vars(kind).get(method) is not wrapper:
                return  # another one wraps ours: it stays, and goes on without spans
            if own is None:
                delattr(kind, method)
            else:
                setattr(kind, method, own)

        self._undo.append(restore)

    # --- commands and pipelines -----------------------------------------------------------------------------------

    def _is_left_out(self) -> bool:
        """Whether no span is to be made: within another call of ours, under a parent that is not sampled, or switched off."""
        if CALL_NOTES.get() is not None or not self._undo:
            return True
        if not self._follows_parent:
            return False
        parent = get_current_span().get_span_context()
        return parent.is_valid and not parent.trace_flags & 1

    def _begin(self, client: Any, name: str, batch: int = 0) -> Any:
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=_attributes_of(client, name))
        if batch > 1:
            span.set_attribute("db.operation.batch.size", batch)
        return span

    def _around_command(self, original: Any, asynchronous: bool) -> Any:
        if asynchronous:

            async def traced_async(client: Any, *args: Any, **options: Any) -> Any:
                if self._is_left_out():
                    return await original(client, *args, **options)
                span, notes = self._begin(client, _operation_of(args)), CallNotes()
                token = CALL_NOTES.set(notes)
                try:
                    return await original(client, *args, **options)
                except BaseException as failure:
                    _fail(span, client, failure)
                    raise
                finally:
                    CALL_NOTES.reset(token)
                    _end(span, notes)

            def begun(client: Any, *args: Any, **options: Any) -> Any:
                if self._is_left_out():
                    return original(client, *args, **options)
                return traced_async(client, *args, **options)

            return begun

        def traced(client: Any, *args: Any, **options: Any) -> Any:
            if self._is_left_out():
                return original(client, *args, **options)
            span, notes = self._begin(client, _operation_of(args)), CallNotes()
            token = CALL_NOTES.set(notes)
            try:
                return original(client, *args, **options)
            except BaseException as failure:
                _fail(span, client, failure)
                raise
            finally:
                CALL_NOTES.reset(token)
                _end(span, notes)

        return traced

    def _around_pipeline(self, original: Any, asynchronous: bool) -> Any:
        if asynchronous:

            async def traced_async(pipeline: Any, *args: Any, **options: Any) -> Any:
                size = len(pipeline)
                if not size or self._is_left_out():
                    return await original(pipeline, *args, **options)
                client = _client_of(pipeline)
                span, notes = self._begin(client, "PIPELINE", size), CallNotes()
                token = CALL_NOTES.set(notes)
                try:
                    return await original(pipeline, *args, **options)
                except BaseException as failure:
                    _fail(span, client, failure)
                    raise
                finally:
                    CALL_NOTES.reset(token)
                    _end(span, notes)

            return traced_async

        def traced(pipeline: Any, *args: Any, **options: Any) -> Any:
            size = len(pipeline)
            if not size or self._is_left_out():
                return original(pipeline, *args, **options)
            client = _client_of(pipeline)
            span, notes = self._begin(client, "PIPELINE", size), CallNotes()
            token = CALL_NOTES.set(notes)
            try:
                return original(pipeline, *args, **options)
            except BaseException as failure:
                _fail(span, client, failure)
                raise
            finally:
                CALL_NOTES.reset(token)
                _end(span, notes)

        return traced

    # --- stores with a priority, memory ---------------------------------------------------------------------------

    def _around_store(self, original: Any, asynchronous: bool) -> Any:
        """An internal span around the command's own, with what became of the write."""
        return self._around_part("store with priority", original, asynchronous, _note_status)

    def _around_part(
        self, name: str | None, original: Any, asynchronous: bool, note: Callable[[Any, Any], None] | None = None
    ) -> Any:
        def begin(args: tuple[Any, ...]) -> Any:
            return self._tracer.start_as_current_span(
                name or _part_of(original, args), record_exception=False, set_status_on_exception=False
            )

        if asynchronous and inspect.iscoroutinefunction(original):

            async def traced_async(owner: Any, *args: Any, **options: Any) -> Any:
                if self._is_left_out() or (name is None and not get_current_span().is_recording()):
                    return await original(owner, *args, **options)
                with begin(args) as span:
                    try:
                        value = await original(owner, *args, **options)
                    except BaseException as failure:
                        _note_error(span, failure)
                        raise
                    if note is not None:
                        note(span, value)
                    return value

            return traced_async

        def traced(owner: Any, *args: Any, **options: Any) -> Any:
            if self._is_left_out() or (name is None and not get_current_span().is_recording()):
                return original(owner, *args, **options)
            with begin(args) as span:
                try:
                    value = original(owner, *args, **options)
                except BaseException as failure:
                    _note_error(span, failure)
                    raise
                if note is not None:
                    note(span, value)
                return value

        return traced


def _operation_of(args: tuple[Any, ...]) -> str:
    name = args[0] if args else ""
    return name.upper() if isinstance(name, str) else str(bytes(name), "ascii", "replace").upper()


def _part_of(original: Any, args: tuple[Any, ...]) -> str:
    if original.__name__ == "get":
        return "memory index"
    return f"memory SQL {getattr(args[0], '__name__', 'call')}"


def _client_of(pipeline: Any) -> Any:
    return getattr(pipeline, "_client", None) or getattr(pipeline, "cluster_client", None) or pipeline


def _attributes_of(client: Any, name: str) -> dict[str, Any]:
    kept: dict[str, dict[str, Any]] = client.__dict__.setdefault("_span_attributes", {})
    attributes = kept.get(name)
    if attributes is None:
        attributes = {"db.system.name": "redis", "db.operation.name": name, **_server_of(client)}
        if len(kept) < MAX_NAMES:
            kept[name] = attributes
    return attributes


def _server_of(client: Any) -> dict[str, Any]:
    pool = client.__dict__.get("connection_pool")
    if pool is None:
        return {}
    arguments = pool.connection_kwargs
    found: dict[str, Any] = {"db.namespace": str(arguments.get("db") or 0)}
    path = arguments.get("path")
    if path:
        found["server.address"] = str(path)
    else:
        found["server.address"] = str(arguments.get("host", "localhost"))
        found["server.port"] = int(arguments.get("port", 6379))
    guard = getattr(client, "guard", None)
    if guard is not None:
        found["agent_memory.client"] = guard.name
    return found


def _fail(span: Any, client: Any, failure: BaseException) -> None:
    _note_error(span, failure)
    guard = getattr(client, "guard", None)
    if guard is not None and span.is_recording():
        span.set_attribute("agent_memory.circuit.state", guard.state)


def _note_error(span: Any, failure: BaseException) -> None:
    if not span.is_recording():
        return
    span.set_attribute("error.type", type(failure).__qualname__)
    span.set_status(Status(StatusCode.ERROR))
    outcome = getattr(failure, "outcome", None)
    if outcome is not None:
        span.set_attribute("agent_memory.outcome", str(getattr(outcome, "name", outcome)).lower())
    code = _CODE.match(str(failure)) if isinstance(failure, ResponseError) else None
    if code is not None:
        span.set_attribute("db.response.status_code", code[0])


def _end(span: Any, notes: CallNotes) -> None:
    if notes.retries:
        span.set_attribute("agent_memory.retries", notes.retries)
    span.end()


def _note_status(span: Any, result: Any) -> None:
    status = getattr(result, "status", None)
    if status is not None:
        span.set_attribute("agent_memory.store.status", str(getattr(status, "value", status)))
