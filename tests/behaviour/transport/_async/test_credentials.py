"""Credentials that are renewed while connections stand: those authenticate anew in-stream, and new ones with what is new."""

import secrets
import time

import pytest
import redis
from redis.auth.token import SimpleToken
from redis.credentials import CredentialProvider, StreamingCredentialProvider

from agent_memory._concurrency import ASYNC, async_gather, async_settle, async_sleep, async_spawn
from agent_memory.redis.asyncio.client import Redis

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

    async def get_credentials_async(self):
        return Provider.get_credentials(self)

    def on_next(self, callback):
        self._tell = callback

    def on_error(self, callback):
        """Nothing goes wrong here."""

    def is_streaming(self):
        return True

    async def renew(self, user, password):
        """Notify the registered listeners."""
        self.user, self.password = user, password
        token = SimpleToken(password, -1, time.time() * 1000, {"oid": user})
        await async_settle(self._tell(token))


class Plain(CredentialProvider):
    """Asked at each connection, and streams nothing."""

    def __init__(self, user, password):
        self.user, self.password = user, password

    def get_credentials(self):
        return self.user, self.password

    async def get_credentials_async(self):
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


async def user_and_connection(client):
    """The user and the number of the connection that a command travels by."""
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("ACL WHOAMI")
    pipeline.client_id()
    return await pipeline.execute()


@pytest.mark.parametrize("given_pool", [False, True])
async def test_in_stream_on_the_connection_in_use(given_pool, valkey, users):
    provider = Provider("alice", users["alice"])
    arguments = where(valkey) | {"credential_provider": provider, "decode_responses": True}
    client = Redis(**arguments)
    if given_pool:
        pool = type(client.connection_pool)(**arguments)
        await client.aclose()
        client = Redis(connection_pool=pool)
    user, number = await user_and_connection(client)
    assert user == "alice"
    await provider.renew("bob", users["bob"])
    assert await user_and_connection(client) == ["bob", number]
    assert provider.asked == 1
    # Views and further clients of the pool do not register over each other.
    await client.unguarded().ping()
    await provider.renew("alice", users["alice"])
    assert await user_and_connection(client) == ["alice", number]
    await client.aclose()
    await client.connection_pool.disconnect()


async def test_calls_under_way_are_not_disturbed(valkey, users):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    seen = set()
    until = {"reached": False}

    async def ask():
        while not until["reached"]:
            seen.add(tuple(await user_and_connection(client)))
            assert await client.set("key", "value")
            await async_sleep(0)

    tasks = [async_spawn(ask) for _ in range(4)]
    for turn in range(20):
        user = ("bob", "alice")[turn % 2]
        await provider.renew(user, users[user])
        await async_sleep(0.005)
    until["reached"] = True
    await async_gather(*tasks)
    assert {user for user, _ in seen} == {"alice", "bob"}
    # No caller connected anew: as many connections as concurrent callers, the renewing one included.
    assert len({number for _, number in seen}) <= (1 if ASYNC else 5)
    last = await user_and_connection(client)
    assert last[0] == "alice"
    await client.aclose()


async def test_a_blocked_connection_is_not_used_again_with_its_old_identity(valkey, users):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    await client.ping()
    task = async_spawn(client.blpop, "list", 0)
    with redis.Redis(**valkey.connection_kwargs) as observer:
        deadline_s = time.monotonic() + WITHIN_S
        while observer.info("clients")["blocked_clients"] == 0:
            assert time.monotonic() < deadline_s
            await async_sleep(0.01)
        await provider.renew("bob", users["bob"])
        observer.rpush("list", "element")
        assert [list(reply) for reply in await async_gather(task)] == [["list", "element"]]
        for _ in range(3):
            assert (await user_and_connection(client))[0] == "bob"
        assert await client.blpop("list", 0.01) is None
        assert {entry["user"] for entry in observer.client_list() if entry["user"] in users} == {"bob"}
    await client.aclose()


async def test_a_password_that_changes(valkey, users):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    _, number = await user_and_connection(client)
    changed = secrets.token_hex(8)
    with redis.Redis(**valkey.connection_kwargs) as admin:
        set_password(admin, "alice", changed)
        await provider.renew("alice", changed)
        assert await user_and_connection(client) == ["alice", number]
        admin.client_kill_filter(_id=number)
    # The next connection is made with what the provider has now.
    assert await client.get("nothing") is None
    assert (await user_and_connection(client))[0] == "alice"
    await client.aclose()


async def test_refused_credentials_are_reported_without_being_shown(valkey, users, caplog):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    await client.ping()
    await provider.renew("alice", "not-the-password")
    provider.password = users["alice"]
    assert await client.ping()
    assert "refused renewed credentials" in caplog.text
    assert "not-the-password" not in caplog.text
    await client.aclose()


async def test_a_subscriber_authenticates_among_its_messages(valkey, users, async_connect):
    provider = Provider("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True, protocol=3)
    gaps = []
    subscriber = client.pubsub(ignore_subscribe_messages=True, on_gap=gaps.append)
    await subscriber.subscribe("channel")
    assert await subscriber.get_message(timeout=0.1) is None
    await provider.renew("bob", users["bob"])
    publisher = async_connect(valkey)
    deadline_s = time.monotonic() + WITHIN_S
    while not any(entry["user"] == "bob" and int(entry["sub"]) for entry in await publisher.client_list()):
        assert time.monotonic() < deadline_s
        assert await subscriber.get_message(timeout=0.01) is None
    await publisher.publish("channel", "after")
    while (message := await subscriber.get_message(timeout=1.0)) is None:
        assert time.monotonic() < deadline_s
    assert message["data"] == "after"
    assert not gaps
    await subscriber.aclose()
    await client.aclose()


async def test_a_provider_that_does_not_stream_is_asked_at_each_connection(valkey, users):
    provider = Plain("alice", users["alice"])
    client = Redis(**where(valkey), credential_provider=provider, decode_responses=True)
    _, number = await user_and_connection(client)
    provider.user, provider.password = "bob", users["bob"]
    assert (await user_and_connection(client))[0] == "alice"
    with redis.Redis(**valkey.connection_kwargs) as admin:
        admin.client_kill_filter(_id=number)
    assert await client.get("nothing") is None
    assert (await user_and_connection(client))[0] == "bob"
    await client.aclose()
