"""A hundred thousand cancelled commands: no caller gets another's reply, and no cancellation costs a connection."""

import asyncio
import os
import random

import pytest
import redis
import uvloop

from agent_memory.errors import RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.asyncio import Redis

CANCELLATIONS = 100_000
KEYS = 5_000
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def loop_factory(request):
    return LOOPS[request.param]


@pytest.fixture
def choice():
    """Random choices; AGENT_MEMORY_SEED repeats those of a run that failed."""
    seed = int(os.environ.get("AGENT_MEMORY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"AGENT_MEMORY_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def observer(valkey):
    """A client of redis-py that looks at the server from outside."""
    with redis.Redis(**valkey.connection_kwargs) as client:
        yield client


def value_of(number):
    return f"value of {number}; ".encode() * (number % 7 + 1)


class Storm:
    """Commands of all kinds whose every reply names the command that it answers."""

    def __init__(self, client, choice):
        self.client = client
        self.choice = choice
        self.cancelled = 0
        self.timed_out = 0
        self.answered = 0
        self.increments = []
        self.increments_asked = 0

    async def prepare(self):
        await self.client.mset({f"key:{number}": value_of(number) for number in range(KEYS)})

    async def one(self):
        """Runs one command, checks its reply and counts its outcome."""
        number = self.choice.randrange(KEYS)
        kind = self.choice.randrange(6)
        try:
            if kind == 0:
                reply, expected = await self.client.echo(f"echo {number}"), f"echo {number}".encode()
            elif kind == 1:
                other = self.choice.randrange(KEYS)
                reply = await self.client.mget(f"key:{number}", f"key:{other}", "no such key")
                expected = [value_of(number), value_of(other), None]
            elif kind == 2:
                self.increments_asked += 1
                reply = expected = await self.client.incr("counter")
                self.increments.append(reply)
            elif kind == 3:
                reply, expected = await self.client.strlen(f"key:{number}"), len(value_of(number))
            else:
                reply, expected = await self.client.get(f"key:{number}"), value_of(number)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except (RedisTimeoutError, RedisUnavailableError):
            self.timed_out += 1
            return
        assert reply == expected, f"asked for {number} in the way {kind}"
        self.answered += 1

    async def one_in_a_hurry(self):
        """The same under a timeout of the caller's own, which is a cancellation too."""
        try:
            async with asyncio.timeout(self.choice.uniform(0, 0.004)):
                await self.one()
        except TimeoutError:
            pass

    async def load(self, stop):
        """A caller who is never cancelled."""
        while not stop.is_set():
            await self.one()

    async def burst(self, size):
        """Many commands at once, most of which are cancelled: before they leave, while they travel, when answered."""
        calls = [asyncio.create_task(self.one() if n % 8 else self.one_in_a_hurry()) for n in range(size)]
        victims = self.choice.sample(calls, size * 4 // 5)
        for _ in range(self.choice.choice((0, 1, 1, 2, 3, 5))):
            await asyncio.sleep(0)
        if self.choice.random() < 0.2:
            await asyncio.sleep(self.choice.uniform(0, 0.002))
        waves = self.choice.randint(1, 3)
        for wave in range(waves):
            for victim in victims[wave::waves]:
                victim.cancel()
            await asyncio.sleep(0)
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    def check_counter(self, counter):
        """Each increment was applied at most once, and those that were answered have replies of their own."""
        assert len(set(self.increments)) == len(self.increments)
        assert len(self.increments) <= counter <= self.increments_asked
        assert max(self.increments) <= counter


def test_no_reply_goes_astray_and_no_cancellation_costs_a_connection(valkey, observer, loop_factory, choice):
    async def storm():
        client = Redis(**valkey.connection_kwargs)
        storm = Storm(client, choice)
        await storm.prepare()
        connections_before = observer.info("stats")["total_connections_received"]
        stop = asyncio.Event()
        load = [asyncio.create_task(storm.load(stop)) for _ in range(20)]
        while storm.cancelled < CANCELLATIONS:
            await storm.burst(choice.randrange(50, 1_500))
        stop.set()
        await asyncio.gather(*load)
        assert storm.answered > CANCELLATIONS // 10
        assert observer.info("stats")["total_connections_received"] == connections_before
        storm.check_counter(int(await client.get("counter")))
        assert client.guard.state == "closed"
        transport = client._transports[asyncio.get_running_loop()]
        assert transport.current.in_flight == 0
        await client.aclose()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(storm())


def test_no_reply_goes_astray_when_the_server_stalls_too(start_server, loop_factory, choice):
    """Now replies also come after their callers have timed out, and connections are distrusted, trusted and replaced."""

    async def storm():
        client = Redis(**server.connection_kwargs, socket_timeout=0.1, resilience=None)
        storm = Storm(client, choice)
        await storm.prepare()
        for _ in range(6):
            stop = asyncio.Event()
            load = [asyncio.create_task(storm.load(stop)) for _ in range(20)]
            await storm.burst(choice.randrange(50, 1_000))
            server.pause()
            bursts = [asyncio.create_task(storm.burst(choice.randrange(50, 1_000))) for _ in range(5)]
            await asyncio.sleep(choice.uniform(0, 0.35))
            server.resume()
            await asyncio.gather(*bursts)
            await storm.burst(choice.randrange(50, 1_000))
            stop.set()
            await asyncio.gather(*load)
        assert storm.timed_out
        with redis.Redis(**server.connection_kwargs) as observer:
            storm.check_counter(int(observer.get("counter")))
        await client.aclose()

    server = start_server()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(storm())
