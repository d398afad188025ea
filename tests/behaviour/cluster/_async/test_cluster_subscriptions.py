"""Subscribers of a cluster: kills, failovers and moved slots cost messages, never without a word of it."""

from __future__ import annotations

import time
from typing import ClassVar

import pytest
import pytest_asyncio
import redis
from redis.exceptions import RedisClusterException

from agent_memory._concurrency import ASYNC, AsyncEvent, async_in_thread, async_sleep, async_spawn
from agent_memory.redis import SubscriptionGap

WITHIN_S = 20.0
CHANNELS = 60


class Ledger:
    """What one subscriber has received: the numbers of each channel, which grow by one, and the gaps between them."""

    def __init__(self, publishing):
        self.publishing = publishing
        self.last, self.gaps, self.silent = {}, [], []
        self.excused = set()
        self.heard_since = {}
        """The numbers of each channel that has had a gap, from its last one on."""

    def take(self, message):
        if message is None or message["type"] in ("subscribe", "psubscribe", "ssubscribe"):
            return
        if message["type"] == "gap":
            gap = message["data"]
            assert isinstance(gap, SubscriptionGap)
            self.gaps.append(gap)
            self.excused.update(gap.channels or self.last)
            self.heard_since.update({channel: set() for channel in gap.channels or self.last})
            return
        assert message["type"] in ("message", "smessage"), message
        channel, number = message["channel"], int(message["data"])
        if number in self.publishing.failed[channel]:
            return  # of unknown outcome: a node that hung may publish it late
        before = self.last.get(channel)
        if before is not None and number <= before:
            self.take_late(channel, number)
            return
        if before is not None:
            missed = {*range(before + 1, number)} - self.publishing.failed[channel]
            if missed and channel not in self.excused:
                self.silent.append((channel, missed))
        self.excused.discard(channel)
        self.heard_since.get(channel, set()).add(number)
        self.last[channel] = number

    def take_late(self, channel, number):
        """After a failover the new primary may still get over the bus what was published at the former one: once."""
        assert channel in self.heard_since, f"{channel} came twice or out of order"
        assert number not in self.heard_since[channel], f"{channel} came twice"
        self.heard_since[channel].add(number)
        late = [(name, missed - {number} if name == channel else missed) for name, missed in self.silent]
        self.silent = [(name, missed) for name, missed in late if missed]


class Publishing:
    """Numbers every channel's messages, one after the other; a number that could not be published is used up."""

    running: ClassVar = []

    def __init__(self, client, channels, sharded):
        self.client, self.channels, self.sharded = client, channels, sharded
        self.failed = {channel.encode(): set() for channel in channels}
        self.over = AsyncEvent()
        self.number = 0
        self.task = async_spawn(self.run)
        self.running.append(self)

    async def run(self):
        while not self.over.is_set():
            self.number += 1
            for channel in self.channels:
                try:
                    if self.sharded:
                        await self.client.spublish(channel, self.number)
                    else:
                        await self.client.publish(channel, self.number)
                except redis.RedisError:
                    self.failed[channel.encode()].add(self.number)
            await async_sleep(0.002)

    async def end(self, take, ledger):
        """End when every channel has heard something that is published from now on."""
        number = self.number
        await listen_until(take, ledger, lambda: min(ledger.last.values()) > number)
        self.over.set()
        while not self.task.is_done():
            ledger.take(await take(timeout=0.05))
        await self.task.result()


async def next_of(take, kinds, within_s=WITHIN_S):
    """The next message of one of these kinds."""
    until_s = time.monotonic() + within_s
    while (left_s := until_s - time.monotonic()) > 0:
        message = await take(timeout=left_s)
        if message is not None and message["type"] in kinds:
            return message
    raise AssertionError(f"none of {kinds} within {within_s} s")


async def subscribed(client, channels, **options):
    """A subscriber to shard channels that has read its confirmations."""
    subscriber = client.pubsub(gap_messages=True, **options)
    await subscriber.ssubscribe(*channels)
    for _ in channels:
        await next_of(subscriber.get_sharded_message, ["ssubscribe"])
    return subscriber


async def listen_until(take, ledger, condition, within_s=WITHIN_S):
    """Enter what arrives until the condition holds."""
    until_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until_s, f"never came true: {len(ledger.gaps)} gaps, {ledger.last}"
        ledger.take(await take(timeout=0.2))


@pytest_asyncio.fixture(autouse=True)
async def ended_publishing():
    """Ends what a test that failed would leave publishing."""
    yield
    for publishing in Publishing.running:
        publishing.over.set()
        await publishing.task.result()
    Publishing.running.clear()


def names_of(count, tag="shard"):
    return [f"{tag}{number}" for number in range(count)]


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_ordinary_channels_and_patterns(cluster, async_connect_cluster, decode, protocol):
    client = async_connect_cluster(cluster, decode_responses=decode, protocol=protocol)
    text = (lambda word: word) if decode else str.encode
    subscriber = client.pubsub()
    assert subscriber.get_pubsub_node() is None
    await subscriber.subscribe("one", "two")
    await subscriber.psubscribe("th*")
    kinds = [(await next_of(subscriber.get_message, ["subscribe", "psubscribe"]))["channel"] for _ in range(3)]
    assert kinds == [text("one"), text("two"), text("th*")]
    assert subscriber.get_pubsub_node().name in client.nodes_manager.nodes_cache
    for channel in ("one", "three"):
        for node in client.get_primaries():
            await client.execute_command("PUBLISH", channel, node.name, target_nodes=node)
            message = await next_of(subscriber.get_message, ["message", "pmessage"])
            assert (message["channel"], message["data"]) == (text(channel), text(node.name))
    await subscriber.unsubscribe()
    await subscriber.punsubscribe("th*")
    for _ in range(3):
        await next_of(subscriber.get_message, ["unsubscribe", "punsubscribe"])
    assert not subscriber.subscribed
    await subscriber.aclose()


@pytest.mark.parametrize("decode", [False, True])
async def test_shard_channels_over_all_slots(cluster, async_connect_cluster, decode):
    client = async_connect_cluster(cluster, decode_responses=decode)
    channels = names_of(300)
    text = (lambda word: word) if decode else str.encode
    subscriber = await subscribed(client, channels)
    assert set(subscriber.node_pubsub_mapping) == {node.name for node in client.get_primaries()}
    heard = []
    await subscriber.ssubscribe(**{channels[0]: heard.append})
    await next_of(subscriber.get_sharded_message, ["ssubscribe"])
    for channel in channels:
        assert await client.spublish(channel, "word") == 1
    taken = [await next_of(subscriber.get_sharded_message, ["smessage"]) for _ in channels[1:]]
    assert sorted(message["channel"] for message in taken) == sorted(map(text, channels[1:]))
    until_s = time.monotonic() + WITHIN_S
    while not heard and time.monotonic() < until_s:
        assert await subscriber.get_sharded_message(timeout=0.1) is None
    assert [message["data"] for message in heard] == [text("word")]
    await subscriber.sunsubscribe(*channels[:5])
    gone = {(await next_of(subscriber.get_sharded_message, ["sunsubscribe"]))["channel"] for _ in range(5)}
    assert gone == set(map(text, channels[:5]))
    assert await client.spublish(channels[0], "word") == 0
    await subscriber.sunsubscribe()
    for _ in channels[5:]:
        await next_of(subscriber.get_sharded_message, ["sunsubscribe"])
    assert not subscriber.subscribed
    assert not subscriber.node_pubsub_mapping
    assert await subscriber.get_sharded_message(timeout=0.01) is None
    await subscriber.aclose()


async def test_shard_channels_survive_the_kill_of_a_primary(cluster, async_connect_cluster):
    client, publisher = async_connect_cluster(cluster), async_connect_cluster(cluster)
    channels = names_of(CHANNELS)
    victim = await async_in_thread(cluster.owner_of_key, channels[0])
    lost = {name.encode() for name in channels if cluster.owner_of_key(name) is victim}
    subscriber = await subscribed(client, channels)
    publishing = Publishing(publisher, channels, True)
    ledger = Ledger(publishing)
    await listen_until(subscriber.get_sharded_message, ledger, lambda: len(ledger.last) == CHANNELS)
    victim.kill()
    killed_s = time.monotonic()
    told = lambda: {channel for gap in ledger.gaps for channel in gap.channels}  # noqa: E731
    await listen_until(subscriber.get_sharded_message, ledger, lambda: told() >= lost)
    back_s = time.monotonic() - killed_s
    await async_in_thread(cluster.wait_ok)
    failover_s = time.monotonic() - killed_s
    await publishing.end(subscriber.get_sharded_message, ledger)
    assert ledger.silent == []
    assert told() == lost  # the others have missed nothing
    assert all(gap.reason and gap.heard_ns <= gap.noticed_ns <= gap.restored_ns for gap in ledger.gaps)
    assert back_s <= failover_s + 1.0
    await subscriber.aclose()


async def test_ordinary_channels_move_to_another_node(cluster, async_connect_cluster):
    client, publisher = async_connect_cluster(cluster), async_connect_cluster(cluster)
    channels = names_of(3, "plain")
    subscriber = client.pubsub(gap_messages=True)
    await subscriber.subscribe(*channels)
    publishing = Publishing(publisher, channels, False)
    ledger = Ledger(publishing)
    await listen_until(subscriber.get_message, ledger, lambda: len(ledger.last) == 3)
    home = subscriber.get_pubsub_node()
    victim = next(node for node in cluster.nodes if node.port == home.port)
    killed_s = time.monotonic()
    victim.kill()
    await listen_until(subscriber.get_message, ledger, lambda: ledger.gaps)
    assert time.monotonic() - killed_s <= 1.5  # another node is there: no failover is waited for
    assert subscriber.get_pubsub_node() != home
    await async_in_thread(cluster.wait_ok)
    await publishing.end(subscriber.get_message, ledger)
    assert ledger.silent == []
    assert {gap.channels for gap in ledger.gaps} == {None}
    await subscriber.aclose()


async def test_moved_slots(cluster, async_connect_cluster):
    ways = [False, True] if cluster.nodes[0].product == "valkey" else [False]  # Redis 7 cannot move slots atomically
    client, publisher = async_connect_cluster(cluster), async_connect_cluster(cluster)
    channels = [*names_of(8, "{first}"), *names_of(8, "{second}"), *names_of(8, "{third}")]
    slots = sorted({cluster.slot_of(channel) for channel in channels})
    subscriber = await subscribed(client, channels)
    publishing = Publishing(publisher, channels, True)
    ledger = Ledger(publishing)
    await listen_until(subscriber.get_sharded_message, ledger, lambda: len(ledger.last) == len(channels))
    for atomic in ways:
        for target in await async_in_thread(cluster.primaries):
            wanted = len(ledger.gaps) + len([slot for slot in slots if cluster.owner_of(slot) is not target])
            task = async_spawn(
                async_in_thread, lambda target=target, atomic=atomic: cluster.move_slots(slots, target, atomic=atomic)
            )
            await listen_until(
                subscriber.get_sharded_message,
                ledger,
                lambda wanted=wanted: len(ledger.gaps) >= wanted,
            )
            await task.result()
    await publishing.end(subscriber.get_sharded_message, ledger)
    assert ledger.silent == []
    # Each names the channels of one slot, all of them.
    assert {len(gap.channels) for gap in ledger.gaps} == {8}
    await subscriber.aclose()


async def test_an_ordered_failover(cluster, async_connect_cluster):
    client, publisher = async_connect_cluster(cluster), async_connect_cluster(cluster)
    channels = names_of(30)
    primary = await async_in_thread(cluster.owner_of_key, channels[0])
    replica = (await async_in_thread(cluster.replicas_of, primary))[0]
    subscriber = await subscribed(client, channels)
    publishing = Publishing(publisher, channels, True)
    ledger = Ledger(publishing)
    await listen_until(subscriber.get_sharded_message, ledger, lambda: len(ledger.last) == 30)
    failing_over = async_spawn(async_in_thread, cluster.failover, replica)
    while not failing_over.is_done():
        ledger.take(await subscriber.get_sharded_message(timeout=0.05))
    await async_in_thread(cluster.wait_ok)
    await publishing.end(subscriber.get_sharded_message, ledger)
    assert ledger.silent == []
    await subscriber.aclose()


async def test_a_primary_that_hangs(cluster, async_connect_cluster):
    client, publisher = (async_connect_cluster(cluster, socket_timeout=0.5) for _ in range(2))
    channels = names_of(CHANNELS)
    victim = await async_in_thread(cluster.owner_of_key, channels[0])
    lost = {name.encode() for name in channels if cluster.owner_of_key(name) is victim}
    subscriber = await subscribed(client, channels, ping_interval_s=0.3)
    node = client.get_node(port=victim.port, host="127.0.0.1")
    ordinary = client.pubsub(gap_messages=True, ping_interval_s=0.3)
    await ordinary.subscribe(next(name for name in names_of(100, "any") if cluster.owner_of_key(name) is victim))
    assert ordinary.get_pubsub_node() == node
    publishing = Publishing(publisher, channels, True)
    ledger = Ledger(publishing)
    await listen_until(subscriber.get_sharded_message, ledger, lambda: len(ledger.last) == CHANNELS)
    victim.pause()
    told = lambda: {channel for gap in ledger.gaps for channel in gap.channels}  # noqa: E731
    await listen_until(subscriber.get_sharded_message, ledger, lambda: told() >= lost)
    await next_of(ordinary.get_message, ["gap"])
    assert ordinary.get_pubsub_node() != node
    victim.resume()
    await async_in_thread(cluster.wait_ok)
    await publishing.end(subscriber.get_sharded_message, ledger)
    assert ledger.silent == []
    await subscriber.aclose()
    await ordinary.aclose()


async def test_a_cut_connection_is_made_again_at_the_same_node(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    gaps = []
    subscriber = client.pubsub(on_gap=gaps.append, ignore_subscribe_messages=True)
    await subscriber.subscribe("plain")
    await subscriber.ssubscribe("sharded")
    await subscriber.get_message(timeout=1)
    await subscriber.get_sharded_message(timeout=1)
    home = subscriber.get_pubsub_node()
    for node in cluster.primaries():
        node.ask("CLIENT", "KILL", "TYPE", "pubsub")
    until_s = time.monotonic() + WITHIN_S
    while len(gaps) < 2 and time.monotonic() < until_s:
        assert await subscriber.get_message(timeout=0.05) is None
        assert await subscriber.get_sharded_message(timeout=0.05) is None
    assert sorted(gap.channels or () for gap in gaps) == [(), (b"sharded",)]
    assert subscriber.get_pubsub_node() == home
    assert await client.publish("plain", "after") >= 0
    assert (await next_of(subscriber.get_message, ["message"]))["data"] == b"after"
    assert await client.spublish("sharded", "after") == 1
    assert (await next_of(subscriber.get_sharded_message, ["smessage"]))["data"] == b"after"
    await subscriber.aclose()


async def test_subscribing_waits_for_a_failover(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.set("key", "value")
    victim = await async_in_thread(cluster.owner_of_key, "shard")
    victim.kill()
    subscriber = await subscribed(client, ["shard"])
    assert await client.spublish("shard", "word") == 1
    assert (await next_of(subscriber.get_sharded_message, ["smessage"]))["data"] == b"word"
    await subscriber.aclose()


async def test_unsubscribing_while_there_is_no_node(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    subscriber = await subscribed(client, ["shard", "other"])
    victim = await async_in_thread(cluster.owner_of_key, "shard")
    victim.kill()
    until_s = time.monotonic() + WITHIN_S
    while (place := subscriber.node_pubsub_mapping.get(f"127.0.0.1:{victim.port}")) is not None and place.held:
        assert time.monotonic() < until_s
        await subscriber.get_sharded_message(timeout=0.01)
    await subscriber.sunsubscribe("shard")
    assert (await next_of(subscriber.get_sharded_message, ["sunsubscribe"]))["channel"] == b"shard"
    assert set(subscriber.shard_channels) == {b"other"}
    await subscriber.aclose()


async def test_the_chosen_node_is_kept(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await client.get("key")
    node = client.get_primaries()[0]
    subscriber = client.pubsub(node=node, gap_messages=True)
    await subscriber.subscribe("plain")
    victim = next(server for server in cluster.nodes if server.port == node.port)
    await next_of(subscriber.get_message, ["subscribe"])
    victim.kill()
    assert await subscriber.get_message(timeout=0.5) is None
    await async_in_thread(cluster.start)
    assert (await next_of(subscriber.get_message, ["gap"]))["data"].channels is None
    assert subscriber.get_pubsub_node() == node
    await subscriber.aclose()
    for wrong in ({"host": "127.0.0.1"}, {"host": "127.0.0.1", "port": 1}):
        with pytest.raises((redis.DataError, RedisClusterException)):
            client.pubsub(**wrong)


if not ASYNC:

    def test_handlers_in_a_thread(cluster, async_connect_cluster):
        client = async_connect_cluster(cluster)
        heard = []
        subscriber = client.pubsub(ignore_subscribe_messages=True)
        subscriber.ssubscribe(**dict.fromkeys(names_of(20), heard.append))
        thread = subscriber.run_in_thread(sleep_time=0.05, sharded_pubsub=True)
        try:
            until_s = time.monotonic() + WITHIN_S
            while len({message["channel"] for message in heard}) < 20:
                assert time.monotonic() < until_s
                for channel in names_of(20):
                    client.spublish(channel, "word")
        finally:
            thread.stop()
            thread.join(WITHIN_S)
        assert not thread.is_alive()
