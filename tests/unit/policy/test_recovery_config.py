"""RecoveryConfig refuses what is outside its rules, naming parameter, rule and value."""

import pathlib
import re

import pytest

from agent_memory import RecoveryConfig
from agent_memory.storage import async_redis_client, redis_client


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 3}, "path must be a directory's name or None, got 3"),
        ({"path": ""}, "path must be a directory's name or None, got ''"),
        ({"fsync": "sometimes"}, "fsync must be one of always, interval, never, got 'sometimes'"),
        ({"fsync_interval_s": 0}, "fsync_interval_s must be > 0, got 0"),
        ({"write_ahead": True}, "write_ahead must be False without a path, got True"),
        ({"open_journal": print}, "open_journal must be None without a path, got a function"),
        ({"path": "journal", "open_journal": "disk"}, "open_journal must be a function, got 'disk'"),
        ({"write_ahead": 1}, "write_ahead must be True or False, got 1"),
        ({"drain_batch": 0}, "drain_batch must be >= 1, got 0"),
        ({"max_entries": 0}, "max_entries must be >= 1, got 0"),
        ({"max_age_s": -1}, "max_age_s must be > 0, got -1"),
    ],
)
def test_what_is_outside_its_rule_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RecoveryConfig(**arguments)


def test_a_path_may_be_a_path(tmp_path):
    assert RecoveryConfig(path=tmp_path, write_ahead=True).path == tmp_path
    assert RecoveryConfig(path=str(tmp_path)).path == str(tmp_path)
    assert isinstance(tmp_path, pathlib.Path)


def test_the_name_in_the_clients_modules_is_the_same_class():
    assert redis_client.RecoverySettings is async_redis_client.RecoverySettings is RecoveryConfig
