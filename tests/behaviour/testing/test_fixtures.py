"""The shared fixtures themselves: which servers there are, and what becomes of a missing one."""

from __future__ import annotations

import pytest
import redis
import servers

VERSIONS = {servers.VALKEY: "9.", servers.OLD_REDIS: "6.2."}


def test_each_kind_is_the_server_it_says(server, server_kind):
    assert server.product == ("valkey" if server_kind == servers.VALKEY else "redis")
    assert server.version.startswith(VERSIONS.get(server_kind, server.version))
    with redis.Redis(**server.connection_kwargs) as client:
        assert client.info("server")["process_id"] == server.pid


@pytest.mark.parametrize("_", range(2))
def test_a_shared_server_comes_empty(server, _):
    with redis.Redis(**server.connection_kwargs) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_a_shared_server_that_a_test_left_dead_or_stalled_is_replaced(shared_servers):
    for harm in ("kill", "pause", "stop"):
        getattr(shared_servers.get_clean(servers.VALKEY), harm)()
        with redis.Redis(**shared_servers.get_clean(servers.VALKEY).connection_kwargs) as client:
            assert client.ping()


def test_servers_of_ones_own(start_server, proxy, server_kind):
    own = start_server(server_kind, transport="unix")
    with redis.Redis(**proxy(own).connection_kwargs) as client:
        assert client.ping()


def test_tls_server(tls_server, proxy):
    for target in (tls_server, proxy(tls_server)):
        for client in (redis.Redis(**target.connection_kwargs), redis.from_url(target.url)):
            with client:
                assert client.ping()
    untrusting = tls_server.connection_kwargs
    del untrusting["ssl_ca_certs"]
    with (
        redis.Redis(**untrusting, retry=None) as client,
        pytest.raises(redis.ConnectionError, match=r"(?i)certificate"),
    ):
        client.ping()


def test_a_missing_server_fails_on_ci_and_is_skipped_elsewhere(monkeypatch):
    monkeypatch.setattr(servers, "find_server", lambda kind: None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install redis-server"):
        servers.require_server(servers.REDIS)
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install redis-server"):
        servers.require_server(servers.REDIS)
