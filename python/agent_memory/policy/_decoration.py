"""Functions that a breaker decorates: plain functions with the parameters of the original, so that a call packs nothing.

A wrapper that takes `*args, **kwargs` spends more on a tuple and a dict than the breaker takes for itself. So the source of
a wrapper is generated from the parameters of the original, as `dataclasses` generates `__init__`: names only, no values.
Default values are those of the original, the same objects. What is not a Python function gets `*args, **kwargs`.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

from agent_memory import _core

__all__ = ["compile_passing_on", "guard_calls", "guard_coroutines", "rewrap_method"]

P = ParamSpec("P")
R = TypeVar("R")

MAX_TEMPLATES = 512
"""Bound of the compiled templates that are kept, each for functions with parameters of the same names and kinds."""

_CALLS = {0: "execute", 1: "call1", 2: "call2", 3: "call3"}
"""By the number of positional arguments, the method of the core that makes such a call."""


@dataclass(frozen=True, slots=True)
class _Parameters:
    """The parameters of a function by kind; `rest` is the name behind `*`, `extra` the one behind `**`."""

    positional_only: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    rest: str | None = None
    keyword_only: tuple[str, ...] = ()
    extra: str | None = None

    @classmethod
    def of(cls, function: Callable[..., Any]) -> _Parameters:
        if not isinstance(function, types.FunctionType):
            return cls(rest="args", extra="kwargs")
        code = function.__code__
        names = iter(code.co_varnames)
        positional_only = tuple(next(names) for _ in range(code.co_posonlyargcount))
        positional = tuple(next(names) for _ in range(code.co_argcount - code.co_posonlyargcount))
        keyword_only = tuple(next(names) for _ in range(code.co_kwonlyargcount))
        rest = next(names) if code.co_flags & inspect.CO_VARARGS else None
        extra = next(names) if code.co_flags & inspect.CO_VARKEYWORDS else None
        return cls(positional_only, positional, rest, keyword_only, extra)

    def names(self) -> set[str]:
        return {*self.positional_only, *self.positional, *self.keyword_only, self.rest or "", self.extra or ""}

    def declaration(self) -> str:
        """As they stand in a `def`, without default values."""
        parts = [*self.positional_only, *(["/"] if self.positional_only else []), *self.positional]
        if self.rest is not None:
            parts.append(f"*{self.rest}")
        elif self.keyword_only:
            parts.append("*")
        parts += self.keyword_only
        if self.extra is not None:
            parts.append(f"**{self.extra}")
        return ", ".join(parts)

    def positional_arguments(self) -> list[str]:
        rest = [f"*{self.rest}"] if self.rest is not None else []
        return [*self.positional_only, *self.positional, *rest]

    def arguments(self) -> str:
        """As they stand in a call that passes them on."""
        keywords = [f"{name}={name}" for name in self.keyword_only]
        extra = [f"**{self.extra}"] if self.extra is not None else []
        return ", ".join([*self.positional_arguments(), *keywords, *extra])

    def keyword_arguments(self) -> str:
        """The dict of those that are passed by name; None if there are none."""
        keywords = [f"{name!r}: {name}" for name in self.keyword_only]
        if self.extra is not None:
            keywords.append(f"**{self.extra}")
        return f"{{{', '.join(keywords)}}}" if keywords else "None"


def guard_calls(breaker: _core.Breaker, execute: Callable[..., Any] | None, function: Callable[P, R]) -> Callable[P, R]:
    """A function with the parameters of `function`, each call of which goes through `breaker`.

    `execute` replaces the breaker's own way to make a call: a subclass has overridden it.
    """
    calls: tuple[Callable[..., Any], ...]
    if execute is None:
        calls = (breaker._execute, breaker._call1, breaker._call2, breaker._call3, breaker._call)
    else:
        calls = _calls_by(execute)
    guarded = _calling_template(_Parameters.of(function))(*calls, function)
    return cast("Callable[P, R]", _dressed(guarded, function))


def guard_coroutines(
    breaker: _core.Breaker, function: Callable[P, Awaitable[R]]
) -> Callable[P, Coroutine[Any, Any, R]]:
    """A coroutine function with the parameters of `function`, each await of which goes through `breaker`."""
    template = _awaiting_template(_Parameters.of(function))
    guarded = template(breaker.admit, breaker.error, breaker.success, function)
    return cast("Callable[P, Coroutine[Any, Any, R]]", _dressed(guarded, function))


def rewrap_method(decorate: Callable[..., Any], function: object) -> Any | None:
    """The decorated `staticmethod` or `classmethod`; None where `function` is neither."""
    if isinstance(function, staticmethod | classmethod):
        return type(function)(decorate(function.__func__))
    return None


def _calls_by(execute: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    def call_each(function: Callable[..., Any], *args: Any) -> Any:
        return execute(functools.partial(function, *args))

    def call_packed(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        return execute(functools.partial(function, *args, **(kwargs or {})))

    return execute, call_each, call_each, call_each, call_packed


def _dressed(guarded: types.FunctionType, function: Callable[..., Any]) -> Callable[..., Any]:
    if isinstance(function, types.FunctionType):
        guarded.__defaults__ = function.__defaults__
        guarded.__kwdefaults__ = dict(function.__kwdefaults__) if function.__kwdefaults__ else None
    return functools.wraps(function)(guarded)


@functools.lru_cache(MAX_TEMPLATES)
def _calling_template(parameters: _Parameters) -> Callable[..., types.FunctionType]:
    own = _names_beside(parameters, ["execute", "call1", "call2", "call3", "call", "function"])
    positional = parameters.positional_arguments()
    is_packed = parameters.rest is not None or parameters.keyword_arguments() != "None" or len(positional) not in _CALLS
    if is_packed:
        packed = "".join(f"{argument}, " for argument in positional)
        call = f"{own['call']}({own['function']}, ({packed}), {parameters.keyword_arguments()})"
    else:
        call = f"{own[_CALLS[len(positional)]]}({', '.join([own['function'], *positional])})"
    body = f"""
    def guarded({parameters.declaration()}):
        return {call}
"""
    return _compiled(own, body)


@functools.lru_cache(MAX_TEMPLATES)
def _awaiting_template(parameters: _Parameters) -> Callable[..., types.FunctionType]:
    own = _names_beside(parameters, ["admit", "error", "success", "function"])
    local = _names_beside(parameters, ["permit", "raised", "result"])
    body = f"""
    async def guarded({parameters.declaration()}):
        {local["permit"]} = {own["admit"]}()
        try:
            {local["result"]} = await {own["function"]}({parameters.arguments()})
        except BaseException as {local["raised"]}:
            {own["error"]}({local["permit"]}, {local["raised"]})
            raise
        {own["success"]}({local["permit"]})
        return {local["result"]}
"""
    return _compiled(own, body)


def compile_passing_on(method: Callable[..., Any]) -> Callable[..., types.FunctionType]:
    """What makes a listed command of a resilient client out of: the method, its name, and what it does in each case.

    The command calls the method on `self._direct` and returns the awaitable that this gives, which tells `note` of an error.
    """
    parameters = _Parameters.of(method)
    own = _names_beside(parameters, ["method", "name", "long_way", "settle", "fail", "current", "joins", "awaitable"])
    local = _names_beside(parameters, ["direct", "value", "error"])
    client, *passed = parameters.positional_arguments()
    keywords = parameters.keyword_arguments()
    packed = "".join(f"{argument}, " for argument in passed)
    arguments = parameters.arguments().removeprefix(client)
    body = f"""
    def guarded({parameters.declaration()}):
        {local["direct"]} = {client}._direct
        if {local["direct"]} is None or ({own["current"]}() is not None and {own["joins"]}({client})):
            return {own["long_way"]}({client}, ({packed}), {"{}" if keywords == "None" else keywords})
        try:
            {local["value"]} = {own["method"]}({local["direct"]}{arguments})
        except Exception as {local["error"]}:
            return {own["fail"]}({client}, {local["error"]})
        if type({local["value"]}) is {own["awaitable"]} and not {client}._double_await:
            return {local["value"]}.noting({local["direct"]}.note, {own["name"]})
        return {own["settle"]}({client}, {local["value"]})
"""
    make = _compiled(own, body)

    def bind(method: Callable[..., Any], *facts: Any) -> types.FunctionType:
        made = make(method, *facts)
        made.__defaults__, made.__kwdefaults__ = method.__defaults__, method.__kwdefaults__
        return made

    return bind


def _names_beside(parameters: _Parameters, wanted: list[str]) -> dict[str, str]:
    """Names for the template's own variables, none of which is a parameter's."""
    prefix = "_"
    while any(f"{prefix}{name}" in parameters.names() for name in wanted):
        prefix += "_"
    return {name: f"{prefix}{name}" for name in wanted}


def _compiled(own: dict[str, str], body: str) -> Callable[..., types.FunctionType]:
    """What binds a template's own variables and returns the function `guarded` that the body defines.

    The source has nothing from outside but names of parameters, which are identifiers.
    """
    source = f"def bind({', '.join(own.values())}):{body}    return guarded\n"
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, f"<{__name__}>", "exec"), namespace)
    return cast("Callable[..., types.FunctionType]", namespace["bind"])
