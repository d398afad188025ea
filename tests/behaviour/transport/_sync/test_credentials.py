# Generated from ../_async/test_credentials.py by tools/generate_sync.py: edit that file, not this one.

"""Credentials that are renewed while connections stand: those authenticate anew in-stream, and new ones with what is new."""

import secrets
import time

import pytest
import redis
from redis.auth.token import SimpleToken
from redis.credentials import CredentialProvider, StreamingCredentialProvider

from agent_memory._concurrency import gather, settle, sleep, spawn
from agent_memory.redis.client import Redis

WITHIN_S = 20.0


class Provider(StreamingCredentialProvider):
    """Streams what `renew` is given to the one callback that it keeps, as identity providers' clients do."""

    def __init__(self, user, password):
        self.user, self.password = user, password
        self.asked = 0
        self._tell = None

    def get_credentials(self):
        self.asked += 1
        return self.user, self.password

    def get_credentials_async(self):
        return Provider.get_credentials(self)

    def on_next(self, callback):
        self._tell = callback

    def on_error(self, callback):
        """Nothing goes wrong here."""

    def is_streaming(self):
        return True

    def renew(self, user, password):
        """Notify the registered listeners."""
        self.user, self.password = user, password
        token = SimpleToken(password, -1, time.time() * 1000, {"oid": user})
        settle(self._tell(token))


class Plain(CredentialProvider):
    """Asked at each connection, and streams nothing."""

    def __init__(self, user, password):
        self.user, self.password = user, password

    def get_credentials(self):
        return self.user, self.password

    def get_credentials_async(self):
        return self.user, self.password


RULES = "~* &* +@all"


@pytest.fixture
def users(valkey):
    """Two users of a running server and their passwords."""
    found = {"alice": secrets.token_hex(8), "bob": secrets.token_hex(8)}
    with redis.Redis(**valkey.connection_kwargs) as client:
        for user, password in found.items():
            set_password(client, user, password)
        yield found
        client.acl_deluser(*found)


def set_password(client, user, password):
    client.execute_command("ACL", "SETUSER", user, "reset", "on", f">{password}", *RULES.split())


def where(server):
    arguments = server.connection_kwargs
    return {name: arguments[name] for name in ("host", "port")}


def user_and_connection(client):
    """The user and the number of the connection that a command travels by."""
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("ACL WHOAMI")
    pipeline.client_id()
    return pipeline.execute()


@pytest.mark.parametrize("given_pool", [False, True])
def test_in_stream_on_the_connection_in_use(given_pool, valkey, users):
    provider = Provider("alice", users["alice"])
    arguments = where(valkey) | {"credential_provider": provider, "decode_responses": True}
    client = Redis(**arguments)
    if given_pool:
        pool = type(client.connection_pool)(**arguments)
        client.close()
        client = Redis(connection_pool=pool)
    user, number = user_and_connection(client)
    assert user == "alice"
    provider.renew("bob", users["bob"])
    assert user_and_connection(client) == ["bob", number]
    assert provider.asked == 1
    # Views and further clients of the pool do not register over each other.
    client.unguarded().ping()
    provider.renew("alice", users["alice"])
    assert user_and_connection(client) == ["alice", number]
    client.close()
    client.connection_pool.disconnect()


def test_calls_under_way_are_not_disturbed(valkey, users):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    seen = set()
    until = {"reached": False}

    def ask():
        while not until["reached"]:
            seen.add(tuple(user_and_connection(client)))
            assert client.set("key", "value")
            sleep(0)

    tasks = [spawn(ask) for _ in range(4)]
    for turn in range(20):
        user = ("bob", "alice")[turn % 2]
        provider.renew(user, users[user])
        sleep(0.005)
    until["reached"] = True
    gather(*tasks)
    assert {user for user, _ in seen} == {"alice", "bob"}
    # No caller connected anew: as many connections as concurrent callers, the renewing one included.
    assert len({number for _, number in seen}) <= 5
    last = user_and_connection(client)
    assert last[0] == "alice"
    client.close()


def test_a_blocked_connection_is_not_used_again_with_its_old_identity(valkey, users):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    client.ping()
    task = spawn(client.blpop, "list", 0)
    with redis.Redis(**valkey.connection_kwargs) as observer:
        deadline_s = time.monotonic() + WITHIN_S
        while observer.info("clients")["blocked_clients"] == 0:
            assert time.monotonic() < deadline_s
            sleep(0.01)
        provider.renew("bob", users["bob"])
        observer.rpush("list", "element")
        assert [list(reply) for reply in gather(task)] == [["list", "element"]]
        for _ in range(3):
            assert user_and_connection(client)[0] == "bob"
        assert client.blpop("list", 0.01) is None
        assert {entry["user"] for entry in observer.client_list() if entry["user"] in users} == {"bob"}
    client.close()


def test_a_password_that_changes(valkey, users):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    _, number = user_and_connection(client)
    changed = secrets.token_hex(8)
    with redis.Redis(**valkey.connection_kwargs) as admin:
        set_password(admin, "alice", changed)
        provider.renew("alice", changed)
        assert user_and_connection(client) == ["alice", number]
        admin.client_kill_filter(_id=number)
    # The next connection is made with what the provider has now.
    assert client.get("nothing") is None
    assert user_and_connection(client)[0] == "alice"
    client.close()


def test_refused_credentials_are_reported_without_being_shown(valkey, users, caplog):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    client.ping()
    provider.renew("alice", "not-the-password")
    provider.password = users["alice"]
    assert client.ping()
    assert "refused renewed credentials" in caplog.text
    assert "not-the-password" not in caplog.text
    client.close()


def test_a_subscriber_authenticates_among_its_messages(valkey, users, connect):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True, protocol=3)
    gaps = []
    subscriber = client.pubsub(ignore_subscribe_messages=True, on_gap=gaps.append)
    subscriber.subscribe("channel")
    assert subscriber.get_message(timeout=0.1) is None
    provider.renew("bob", users["bob"])
    publisher = connect(valkey)
    deadline_s = time.monotonic() + WITHIN_S
    while not any(entry["user"] == "bob" and int(entry["sub"]) for entry in publisher.client_list()):
        assert time.monotonic() < deadline_s
        assert subscriber.get_message(timeout=0.01) is None
    publisher.publish("channel", "after")
    while (message := subscriber.get_message(timeout=1.0)) is None:
        assert time.monotonic() < deadline_s
    assert message["data"] == "after"
    assert not gaps
    subscriber.close()
    client.close()


def test_a_provider_that_does_not_stream_is_asked_at_each_connection(valkey, users):
    provider = Plain("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    _, number = user_and_connection(client)
    provider.user, provider.password = "bob", users["bob"]
    assert user_and_connection(client)[0] == "alice"
    with redis.Redis(**valkey.connection_kwargs) as admin:
        admin.client_kill_filter(_id=number)
    assert client.get("nothing") is None
    assert user_and_connection(client)[0] == "bob"
    client.close()
