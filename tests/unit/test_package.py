"""The package itself: what importing it says."""

from __future__ import annotations

import warnings

import pytest

import agent_memory
from agent_memory import _core


def test_a_debug_build_warns():
    with pytest.warns(RuntimeWarning, match="built without optimisation"):
        agent_memory._warn_of_debug_build(True)


def test_the_build_under_test_is_a_release_build():
    assert not _core.DEBUG_BUILD
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent_memory._warn_of_debug_build(_core.DEBUG_BUILD)


def test_every_public_name_is_there():
    for name in agent_memory.__all__:
        assert getattr(agent_memory, name) is not None
