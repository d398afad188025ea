"""The public names of the package: what a package's `__init__.py` exports, what the documents import, and their members.

Internal are names with a leading underscore, names that `dir()` of an object does not show, and what comes from elsewhere:
a member that redis-py or the standard library defines, and a member that has the name of one of theirs and its parameters.
"""

from __future__ import annotations

import ast
import enum
import functools
import importlib
import inspect
import itertools
import pkgutil
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from paths import DOCS, ROOT

import agent_memory

PACKAGE = agent_memory.__name__
REACHED = (
    "agent_memory.recovery._async.recovery:AsyncRecovery",
    "agent_memory.recovery._sync.recovery:Recovery",
    "agent_memory.recovery._async.priority_commands:AsyncPriorityCommands",
    "agent_memory.recovery._sync.priority_commands:PriorityCommands",
    "agent_memory.memory.langgraph:AgentMemoryStore",
)
"""Classes that no package exports: of objects that a user holds (`client.recovery`), and of a module that needs an extra."""


@dataclass(frozen=True)
class Name:
    """A public name: `owner` is the class of a member, None for a class or function of a module."""

    label: str
    value: Any
    owner: type | None = None

    def __str__(self) -> str:
        return self.label


def packages() -> list[str]:
    """Every public package, by name."""
    found = [PACKAGE]

    def walk(package: Any) -> None:
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.ispkg and not module.name.rpartition(".")[2].startswith("_"):
                found.append(module.name)
                walk(importlib.import_module(module.name))

    walk(agent_memory)
    return found


def modules() -> list[str]:
    """The public packages, and the modules that the documents import from."""
    written = "\n".join(file.read_text() for file in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))])
    imported = re.findall(r"(?:from|import) (agent_memory(?:\.[a-z]\w*)*)", written)
    return sorted({*packages(), *(name for name in imported if not re.search(r"\._", name))})


@functools.cache
def exported() -> tuple[Name, ...]:
    """Classes and functions, each once, by the shortest name of theirs."""
    found: dict[int, Name] = {}
    for module_name in sorted(modules(), key=lambda name: (name.count("."), name)):
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            ours = (getattr(value, "__module__", None) or "").startswith(PACKAGE)
            if ours and (inspect.isclass(value) or callable(value)) and typing.get_origin(value) is None:
                found.setdefault(id(value), Name(f"{module_name}.{name}", value))
    for place in REACHED:
        module_name, _, name = place.partition(":")
        value = getattr(importlib.import_module(module_name), name)
        found.setdefault(id(value), Name(f"{module_name}.{name}", value))
    return tuple(found.values())


def foreign_bases(owner: type) -> list[type]:
    """The bases of a class that are not this package's."""
    return [base for base in owner.__mro__ if not base.__module__.startswith(PACKAGE)]


def function_of(member: Any) -> Any:
    """The function behind a method or property."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, functools.cached_property):
        return member.func
    return inspect.unwrap(getattr(member, "__func__", member))


def is_theirs(owner: type, name: str, member: Any) -> bool:
    """Whether redis-py or the standard library has documented it: the same name, and no parameter more."""
    for base in foreign_bases(owner):
        if name in vars(base):
            own, inherited = (parameters(function_of(one)) for one in (member, vars(base)[name]))
            return (
                not isinstance(own, dict)
                or not isinstance(inherited, dict)
                or set(own) <= set(inherited) | {"args", "kwargs", "options"}
            )
    return False


@functools.cache
def shown_by(public: type) -> frozenset[str] | None:
    """What `dir()` of an object shows, where a class of this package decides it without looking at the object."""
    own = next((base for base in public.__mro__ if "__dir__" in vars(base)), object)
    if not own.__module__.startswith(PACKAGE):
        return None
    try:
        return frozenset(public.__dir__(public.__new__(public)))
    except (AttributeError, TypeError):
        return None


def members(public: type) -> Iterator[tuple[str, Any]]:
    """The methods and properties of a class, those of bases of this package included, with the base that has them."""
    shown = shown_by(public)
    for base in public.__mro__:
        if not base.__module__.startswith(PACKAGE):
            continue
        for name, member in vars(base).items():
            if name.startswith("_") or inspect.isclass(member) or (shown is not None and name not in shown):
                continue
            first = next(one for one in public.__mro__ if name in vars(one))
            is_member = isinstance(
                member, property | functools.cached_property | staticmethod | classmethod
            ) or callable(member)
            if not is_member and type(member).__name__ != "getset_descriptor":
                continue
            if first is base and not is_theirs(public, name, member):
                yield name, member


@functools.cache
def names() -> tuple[Name, ...]:
    """Every public class, function, method and property."""
    found: list[Name] = []
    seen: set[int] = set()
    for public in exported():
        found.append(public)
        if not inspect.isclass(public.value):
            continue
        if issubclass(public.value, enum.Enum):
            continue  # members of an enum are values; its methods are enum's
        for name, member in members(public.value):
            if id(member) not in seen:
                seen.add(id(member))
                found.append(Name(f"{public.label}.{name}", member, public.value))
    return tuple(found)


def parameters(function: Any) -> dict[str, inspect.Parameter] | None:
    """The parameters of a function without `self` and `cls`; None where it does not tell them."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    return {name: one for name, one in found.items() if name not in ("self", "cls") and not name.startswith("_")}


def constructor(public: type) -> Any:
    """The function that makes an object of a class: `__init__` or `__new__`, of this package; None where it has none."""
    for base in public.__mro__:
        if base.__module__.startswith(PACKAGE):
            for name in ("__init__", "__new__"):
                if name in vars(base):
                    return inspect.unwrap(getattr(vars(base)[name], "__func__", vars(base)[name]))
    return None


def foreign_parameters(public: type) -> set[str]:
    """The parameters of the constructors of redis-py's classes that a class extends."""
    found: set[str] = set()
    for base in foreign_bases(public):
        if base is not object and "__init__" in vars(base):
            found |= set(parameters(vars(base)["__init__"]) or {})
    return found | ({"args", "kwargs"} if found else set())


@functools.cache
def stub() -> dict[tuple[str, str], dict[str, str]]:
    """The annotations of the extension's classes and functions, by class ("" for functions) and method."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    tree = ast.parse((ROOT / "python/agent_memory/_core.pyi").read_text())
    for node in tree.body:
        owner = node.name if isinstance(node, ast.ClassDef) else ""
        for one in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(one, ast.FunctionDef):
                given = [*one.args.posonlyargs, *one.args.args, *one.args.kwonlyargs]
                found[owner, one.name] = {arg.arg: ast.unparse(arg.annotation) for arg in given if arg.annotation}
    return found


@functools.cache
def attribute_docstrings(public: type) -> dict[str, str]:
    """The texts below the fields of a class, by field; those of its bases of this package included."""
    found: dict[str, str] = {}
    for base in reversed(public.__mro__):
        if not base.__module__.startswith(PACKAGE) or base.__module__ == f"{PACKAGE}._core":
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):
            continue
        bodies = [tree.body[0].body] if isinstance(tree.body[0], ast.ClassDef) else []
        bodies += [
            one.body for body in bodies for one in body if isinstance(one, ast.FunctionDef) and one.name == "__init__"
        ]
        for body in bodies:
            for field, text in itertools.pairwise(body):
                if not (isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)):
                    continue
                targets = [field.target] if isinstance(field, ast.AnnAssign) else getattr(field, "targets", [])
                for target in targets:
                    name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
                    found[name] = str(text.value.value)
    return found


def module_of(function: Any) -> Any:
    """The module that a function was written in."""
    return sys.modules[function.__module__]
