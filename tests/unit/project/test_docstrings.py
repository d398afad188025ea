"""Every public name says what its caller has to know: each parameter, its unit, the errors, and what is safe to share.

The form: each parameter in backticks; a unit beside each name that ends in one; the errors in a sentence with "Raises". A class
whose objects change says whether threads may share them, and, where it has coroutine methods, what a cancellation leaves.

Nothing is left out by name. What a rule leaves out:

- names that redis-py or the standard library defines, and overrides without parameters of their own: theirs to document;
- dunder methods, except constructors, which their class documents; members of enums;
- a method that a documented base, or the Protocol that its class names, has documented;
- constructors whose docstring begins with "Made by": the package calls them, their users do not;
- frozen classes, enums, Protocols, exceptions, TypedDicts and dataclasses without methods say nothing of threads: values.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import functools
import inspect
import re
import textwrap
from typing import Any

import pytest
from public_names import (
    PACKAGE,
    Name,
    attribute_docstrings,
    constructor,
    foreign_parameters,
    function_of,
    names,
    parameters,
    stub,
)

UNITS = {
    "_s": r"seconds?\b|\ds\b|\d s\b|half-?life",
    "_ms": r"milliseconds?\b",
    "_us": r"microseconds?\b",
    "_ns": r"nanoseconds?\b|\bns\b",
    "_bytes": r"bytes?\b",
}
UNIT_OF_NAMES = {
    "socket_timeout": "_s",
    "socket_connect_timeout": "_s",
    "health_check_interval": "_s",
    "circuit_reset_timeout": "_s",
    "retry_base_delay": "_s",
    "retry_max_delay": "_s",
    "base_delay": "_s",
    "max_delay": "_s",
    "timeout": "_s",
    "seconds": "_s",
    "nanoseconds": "_ns",
}
"""Names without their unit: redis-py's, or the specification's."""
UNTOLD = {"AssertionError", "AttributeError", "NotImplementedError", "StopIteration", "StopAsyncIteration"}
"""What says that the program is wrong, and is no promise."""


def bare(value: Any) -> Any:
    """A function, for a member of a class; a class as it is."""
    return value if inspect.isclass(value) else function_of(value)


def own_docstring(name: Name) -> str:
    """The docstring of a class or function, without what stands below fields."""
    if inspect.isclass(name.value):
        return textwrap.dedent(vars(name.value).get("__doc__") or "")
    text = inspect.getdoc(name.value) or ""
    if name.owner is None:
        return text
    member = str(name).rpartition(".")[2]
    bases = [one for one in name.owner.__mro__ if not text and one.__module__.startswith(PACKAGE)]
    for base in [*bases, *protocols_of(name.owner)]:
        if base is not name.owner and member in vars(base):
            text += "\n\n" + (inspect.getdoc(vars(base)[member]) or "")
    return text


@functools.cache
def protocols_of(owner: type) -> list[type]:
    """The Protocols that a class names in its docstring: the methods are documented there."""
    known = {one.value.__name__: one.value for one in names() if inspect.isclass(one.value)}
    named = re.findall(r"`(\w+)`", owner.__doc__ or "")
    return [known[word] for word in named if word in known and getattr(known[word], "_is_protocol", False)]


def docstring(name: Name) -> str:
    """All that a name says: for a class, its constructor's docstring and its fields' as well, each as an item."""
    text = own_docstring(name)
    if inspect.isclass(name.value):
        made_by = constructor(name.value)
        made = "" if made_by is None else textwrap.dedent(made_by.__doc__ or "")
        fields = "".join(f"\n\n- `{field}`: {below}" for field, below in attribute_docstrings(name.value).items())
        text += f"\n\n{made}{fields}"
    return text


def items(text: str) -> list[str]:
    """The paragraphs of a docstring and the items of its lists."""
    return re.split(r"\n\s*\n|\n\s*(?=- )", text)


def parameters_to_name(name: Name) -> dict[str, inspect.Parameter]:
    """The parameters that a docstring has to name."""
    value = name.value
    if inspect.isclass(value):
        if issubclass(value, enum.Enum | BaseException) or getattr(value, "_is_protocol", False):
            return {}
        made_by = constructor(value)
        if is_made_here(made_by):
            return {}
        if (value.__name__, "__new__") in stub():
            return {
                key: inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in stub()[value.__name__, "__new__"]
            }
        found = parameters(value if made_by is None or dataclasses.is_dataclass(value) else made_by)
        return {key: one for key, one in (found or {}).items() if key not in foreign_parameters(value)}
    if isinstance(value, property | functools.cached_property):
        return {}
    return parameters(bare(value)) or {}


def is_made_here(made_by: Any) -> bool:
    """Whether a constructor says that the package calls it, not its users."""
    return (getattr(made_by, "__doc__", None) or "").strip().startswith("Made by")


def names_in(text: str) -> set[str]:
    """What a docstring names: each word within backticks."""
    return {word for span in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", span)}


def unit_of(name: str) -> str | None:
    """The unit that a name carries, as the end of a name."""
    if name in UNIT_OF_NAMES:
        return UNIT_OF_NAMES[name]
    return next((unit for unit in UNITS if name.endswith(unit)), None)


def without_unit(name: Name) -> list[str]:
    """The parameters, and the property or method itself, whose unit the docstring does not tell."""
    text = docstring(name)
    missing = []
    for parameter in parameters_to_name(name):
        unit = unit_of(parameter)
        told = [item for item in items(text) if re.search(rf"\b{parameter}\b", item)]
        if unit and not any(re.search(UNITS[unit], item, re.IGNORECASE) for item in told):
            missing.append(parameter)
    last = str(name).rpartition(".")[2]
    unit = None if inspect.isclass(name.value) else unit_of(last)
    if unit and not re.search(UNITS[unit], text, re.IGNORECASE):
        missing.append(last)
    return missing


# --- errors ---


@functools.cache
def tree_of(function: Any) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None


def is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def raised_by(function: Any, owner: type | None, depth: int = 2) -> set[type]:
    """The errors that a function raises by name, or that a check or a private method raises which it calls."""
    function = function_of(function)
    tree = tree_of(function) if inspect.isfunction(function) else None
    if tree is None:
        return set()
    scope = {**vars(builtins), **function.__globals__}
    found: set[type] = set()

    def look_up(node: ast.AST) -> Any:
        if isinstance(node, ast.Name):
            return scope.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") and owner is not None:
                return inspect.getattr_static(owner, node.attr, None)
            return getattr(look_up(node.value), node.attr, None) if isinstance(node.value, ast.Name) else None
        return None

    handled: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = look_up(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            if is_error(error):
                found.add(error)
        elif isinstance(node, ast.Call) and depth:
            called = look_up(node.func)
            if not callable(called) and not isinstance(called, property):
                continue
            behind = function_of(called)
            where = getattr(behind, "__module__", None) or ""
            is_check = "check" in getattr(behind, "__name__", "") or where.endswith(("_check", "argument_checks"))
            is_own = isinstance(node.func, ast.Attribute) and node.func.attr.startswith(("_require", "_owned"))
            if inspect.isfunction(behind) and where.startswith(PACKAGE) and (is_check or is_own):
                found |= raised_by(behind, owner, depth - 1)
        elif isinstance(node, ast.ExceptHandler) and node.type is not None:
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            handled |= {ast.unparse(kind).rpartition(".")[2] for kind in kinds}
    return {error for error in found if error.__name__ not in UNTOLD}


def untold_errors(name: Name) -> list[str]:
    """The errors that a name raises and does not name, nor a base of theirs."""
    value = name.value
    if inspect.isclass(value):
        if issubclass(value, BaseException | enum.Enum) or getattr(value, "_is_protocol", False):
            return []
        makers = [constructor(value), getattr(value, "__post_init__", None)]
        raised = set().union(*(raised_by(one, value) for one in makers if one is not None))
    else:
        raised = raised_by(value, name.owner)
    text = docstring(name)
    told = set(re.findall(r"\w+", text)) if re.search(r"\b[Rr]aises?\b", text) else set()
    return sorted(
        error.__name__
        for error in raised
        if not told & {base.__name__ for base in error.__mro__ if base not in (Exception, BaseException, object)}
    )


# --- classes ---


def is_shared(value: Any) -> bool:
    """Whether objects of a class change, so that it matters what shares them."""
    if not inspect.isclass(value) or issubclass(value, BaseException | enum.Enum):
        return False
    if getattr(value, "_is_protocol", False):
        return False
    if dataclasses.is_dataclass(value):
        frozen = value.__dataclass_params__.frozen  # type: ignore[attr-defined]
        return not frozen and any(callable(member) for key, member in vars(value).items() if not key.startswith("_"))
    return not issubclass(value, tuple | str | int | dict)


def has_coroutines(value: type) -> bool:
    return any(
        inspect.iscoroutinefunction(function_of(member))
        for base in value.__mro__
        if base.__module__.startswith(PACKAGE)
        for key, member in vars(base).items()
        if not key.startswith("_")
    )


def shown_as(default: Any) -> list[str]:
    """How a docstring may write a default."""
    if isinstance(default, enum.Enum):
        return [default.name]
    if isinstance(default, str):
        return [f"{default!r}", f'"{default}"']
    return [f"{default}", f"{default:,}", f"{default:g}"]


def defaults_untold(name: Name) -> list[str]:
    """The parameters whose default is a value that the docstring does not give.

    None, and False of a switch, say nothing by themselves; a field's default stands in its line.
    """
    value = name.value
    if inspect.isclass(value) and dataclasses.is_dataclass(value):
        return []
    text = docstring(name)
    missing = []
    for key, parameter in parameters_to_name(name).items():
        default = parameter.default
        if (
            default is parameter.empty
            or isinstance(default, bool)
            or not isinstance(default, int | float | str)
            or not default
        ):
            continue
        told = [item for item in items(text) if re.search(rf"\b{key}\b", item)]
        shown = shown_as(default)
        if not any(one in item for item in told for one in shown):
            missing.append(key)
    return missing


ALL = names()


def test_the_walk_finds_the_surface():
    labels = {str(one) for one in ALL}
    assert {
        "agent_memory.ResilientRedisClient.store_with_retry",
        "agent_memory.exponential_backoff",
        "agent_memory.redis.Redis.stats",
        "agent_memory.memory.stores.sqlite.SqliteStore.write",
        "agent_memory.memory.langgraph.AgentMemoryStore",
        "agent_memory.testing.FaultProxy.drop_replies",
    } <= labels
    assert len(labels) > 500


@pytest.mark.parametrize("name", ALL, ids=str)
def test_a_public_name_is_documented(name: Name):
    text = docstring(name)
    assert own_docstring(name).strip(), "no docstring"
    missing = [key for key in parameters_to_name(name) if key not in names_in(text)]
    assert not missing, f"parameters that are not named: {missing}"
    assert not (units := without_unit(name)), f"names without their unit: {units}"
    assert not (errors := untold_errors(name)), f"errors that are not told: {errors}"
    assert not (defaults := defaults_untold(name)), f"defaults that are not told: {defaults}"


@pytest.mark.parametrize("name", [one for one in ALL if is_shared(one.value)], ids=str)
def test_a_class_says_what_may_share_its_objects(name: Name):
    text = " ".join(base.__doc__ or "" for base in name.value.__mro__ if base.__module__.startswith(PACKAGE))
    assert re.search(r"[Tt]hread|[Tt]asks?\b", text), "nothing about threads and tasks"
    if has_coroutines(name.value):
        assert re.search(r"[Cc]ancel", text), "nothing about cancellation"
