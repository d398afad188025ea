"""`agent-memory doctor` on real servers: nothing of a healthy one, and by name what was planted in another."""

import json

import pytest
import redis
import servers

from agent_memory.cli.doctor import diagnose
from agent_memory.cli.main import main
from agent_memory.testing import EmbeddedServer

PLANTED = [
    ("evicting-policy", {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}),
    ("evicting-volatile", {"maxmemory": "1gb", "maxmemory-policy": "volatile-lru"}),
    ("nearly-full", {"maxmemory": "1mb", "maxmemory-policy": "noeviction"}),
    ("idle-timeout", {"timeout": "20"}),
    ("no-keepalive", {"tcp-keepalive": "0"}),
    ("small-bulk", {"proto-max-bulk-len": str(2 * 1024 * 1024)}),
    ("maxclients-below-pool", {"maxclients": "50"}),
    ("no-persistence", {"save": "", "appendonly": "no"}),
    ("no-fsync", {"appendonly": "yes", "appendfsync": "no"}),
    ("too-few-replicas", {"min-replicas-to-write": "1"}),
]


def keep_as_servers_do(server):
    """An embedded server leaves the disk to the operating system; the default of servers is every second."""
    with redis.Redis(**server.connection_kwargs) as client:
        client.config_set("appendfsync", "everysec")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    with EmbeddedServer(
        tmp_path_factory.mktemp("doctor"), transport="tcp", binary=servers.require_server(servers.VALKEY)
    ) as server:
        keep_as_servers_do(server)
        yield server


def url_of(server, password=None, user=""):
    arguments = server.connection_kwargs
    return f"redis://{user}:{password or arguments['password']}@{arguments['host']}:{arguments['port']}"


def codes(*args, **options):
    return [finding.code for finding in diagnose(*args, **options)]


def test_a_healthy_server_gives_none(healthy, capsys, tmp_path):
    assert diagnose(url_of(healthy), journal=None) == []
    assert main(["doctor", url_of(healthy)]) == 0
    assert capsys.readouterr().out == "nothing found\n"


@pytest.mark.parametrize(("code", "settings"), PLANTED, ids=[code for code, _ in PLANTED])
def test_a_planted_setting_is_named(code, settings, healthy, connect):
    client = connect(healthy, decode_responses=True)
    before = {name: client.config_get(name)[name] for name in settings}
    try:
        for name, value in settings.items():
            client.config_set(name, value)
        assert code in codes(url_of(healthy))
    finally:
        for name, value in before.items():
            client.config_set(name, value)


def test_rights_that_are_missing(healthy, connect):
    admin = connect(healthy)
    admin.execute_command(
        "ACL", "SETUSER", "app", "on", ">secret-word", "~*", "&*", "+@all", "-eval", "-client|tracking"
    )
    try:
        found = diagnose(url_of(healthy, "secret-word", "app"))
    finally:
        admin.execute_command("ACL", "DELUSER", "app")
    assert {finding.code for finding in found} == {"missing-right"}
    assert [finding.text.split(":")[0] for finding in found] == [
        "the user has no right to EVAL",
        "the user has no right to CLIENT|TRACKING",
    ]
    assert not any("secret-word" in finding.text for finding in found)


def test_a_wrong_password(healthy):
    assert codes(url_of(healthy, "wrong")) == ["wrong-credentials"]


def test_a_server_without_a_password(tmp_path):
    with EmbeddedServer(tmp_path, transport="tcp", protected=False) as server:
        keep_as_servers_do(server)
        assert codes(f"redis://{server.connection_kwargs['host']}:{server.port}") == ["no-password"]


def test_no_server(unused_port, capsys):
    assert main(["doctor", f"redis://127.0.0.1:{unused_port}", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["code"], finding["severity"]) == ("unreachable", "error")


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as bound:  # it does not listen
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_what_is_no_url(capsys):
    assert main(["doctor", "localhost:6379"]) == 2
    assert "redis://" in capsys.readouterr().err


def test_folders_of_a_journal(healthy, tmp_path):
    open_to_all, file = tmp_path / "journal", tmp_path / "file"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    file.write_text("")
    url = url_of(healthy)
    assert "journal-writable-by-others" in codes(url, journal=str(open_to_all))
    open_to_all.chmod(0o700)
    assert "journal-writable-by-others" not in codes(url, journal=str(open_to_all))
    assert "journal-no-folder" in codes(url, journal=str(file))
