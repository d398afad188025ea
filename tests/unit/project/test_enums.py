"""Every public enum prints as its name: a reader of a message or a log never meets a bare number."""

from __future__ import annotations

import enum
import importlib
import json
import pkgutil

import pytest

import agent_memory
from agent_memory import Outcome, Priority, RedisUnavailableError, StoreStatus, Tier


def public_enums() -> list[type[enum.Enum]]:
    """The enums of every module of the package, without those whose name begins with an underscore."""
    found: set[type[enum.Enum]] = set()
    for module in pkgutil.walk_packages(agent_memory.__path__, "agent_memory."):
        try:
            names = vars(importlib.import_module(module.name))
        except ModuleNotFoundError as error:  # an extra that is not installed
            if (error.name or "agent_memory").startswith("agent_memory"):
                raise
            continue
        for value in names.values():
            if (
                isinstance(value, type)
                and issubclass(value, enum.Enum)
                and value.__module__.startswith("agent_memory.")
            ):
                found.add(value)
    return sorted((one for one in found if not one.__name__.startswith("_")), key=lambda one: one.__qualname__)


ENUMS = public_enums()


def test_the_enums_are_found():
    names = {one.__name__ for one in ENUMS}
    assert names >= {
        "CommandCategory",
        "FailureKind",
        "Level",
        "Outcome",
        "Priority",
        "StoreFault",
        "StoreStatus",
        "Tier",
        "Verdict",
        "WriteStatus",
    }


@pytest.mark.parametrize("kind", ENUMS, ids=lambda one: one.__name__)
def test_a_member_prints_as_its_name(kind: type[enum.Enum]):
    for member in kind:
        # The members of a StrEnum are words: they print as the word that they are equal to, which is their name.
        words = issubclass(kind, enum.StrEnum)
        expected = str.__str__(member) if words else f"{kind.__name__}.{member.name}"
        if words:
            assert expected.replace("-", "_") == member.name.lower()
        assert str(member) == expected
        assert format(member) == expected
        assert f"{member}" == expected
        assert "{}".format(member) == expected  # noqa: UP032
        assert "%s" % member == expected  # noqa: UP031
        assert f"{member:>40}" == expected.rjust(40)


@pytest.mark.parametrize("kind", [one for one in ENUMS if issubclass(one, int)], ids=lambda one: one.__name__)
def test_a_numbered_member_is_still_its_number(kind: type[enum.IntEnum]):
    for member in kind:
        number = member.value
        assert type(number) is int
        assert member == number
        assert kind(number) is member
        assert hash(member) == hash(number)
        assert int(member) == number
        assert "%d" % member == str(number)  # noqa: UP031
        assert json.dumps({"member": member}) == json.dumps({"member": number})
        assert repr(member) == f"<{kind.__name__}.{member.name}: {number}>"


def test_comparisons_of_users_hold():
    assert Priority.CRITICAL < Priority.LOW
    assert Tier.LTM > Tier.STM
    assert StoreStatus.QUEUED == "queued"
    assert RedisUnavailableError("away", outcome=Outcome.UNKNOWN).outcome == 3


def test_an_error_s_outcome_prints_as_the_readme_says():
    error = RedisUnavailableError("away", outcome=Outcome.UNKNOWN)
    assert f"{error.outcome}" == "Outcome.UNKNOWN"
