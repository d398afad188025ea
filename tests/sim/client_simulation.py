"""The clients in simulation: exactly once, order per key, queue, breaker, against faults from a seed.

    python tests/sim/client_simulation.py --seeds 10000 --jobs 2
    python tests/sim/client_simulation.py --first 4711 --seeds 1              what a failing seed prints
    python tests/sim/client_simulation.py --seeds 300 --without fence

What runs is the code that ships: `AsyncResilientRedisClient`, the drop-in, its transport; only the event loop, the network and
the server are simulated (`agent_memory.testing.simulation`).

Invariants
- no write is there twice;
- what was acknowledged (returned, or failed with outcome APPLIED) is there, unless a failover lost it;
- what was said not to have been executed (NOT_SENT, REJECTED) is not there;
- of a transaction all is there or nothing;
- no older value is written over a newer one of the same key;
- once the server is well, every lost write has a verdict (but for what the level cannot tell) and the queue is empty;
- the queue keeps its bound; nothing hangs;
- processes that are killed, or whose machine goes out, leave a journal: what they accepted (stored, queued) is there once,
  unless a failover lost it, and no outcome stays unknown; a write in flight is there once or not at all;
- a plain write that takes the place of a queued one is not followed by it, whether workers start or stop and the client is
  closed and opened meanwhile; a write is given up for its own attempts only;
- while large replies arrive slowly, commands of one key are executed in the order in which they were issued, none fails, no
  read is sent again, the circuit stays closed, and others do not wait for them.

Every third seed kills processes, every sixth has workers that start and stop, every sixth has large replies on a slow link, the
others have none of it.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import itertools
import logging
import os
import random
import sys
import time
import types

import redis

from agent_memory import AsyncResilientRedisClient, Priority
from agent_memory.errors import Outcome
from agent_memory.policy import BreakerSettings, CommandCategory, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.recovery._async.drain import AsyncDrain
from agent_memory.recovery._async.write_order import AsyncWriteOrder
from agent_memory.recovery._async.write_queue import AsyncWriteQueue
from agent_memory.redis.asyncio import Redis
from agent_memory.redis.exactly_once import ExactlyOnce, Level, Verdict
from agent_memory.redis.transport.multiplexed.order import Unanswered
from agent_memory.redis.transport.multiplexed.second import SecondConnection
from agent_memory.testing.simulation import Faults, Simulation, SimulationError

LEASES = ("lease owner", "lease at close", "lost replies", "own attempts")
LARGE = ("key order", "second connection")
RULES = ("fence", "exactly once", "marker", "journal", "connections", *LEASES, *LARGE)
"""What can be taken away, to see that the simulation notices.

- key order: a second connection takes commands whatever is unanswered on the first
- second connection: there is none
- connections: the journal does not name them
- lease owner: a worker that starts releases the leases of plain writes as well
- lease at close: closing does not wait for them
- lost replies: a plain write whose reply was lost gives the older one free that it was to replace
- own attempts: a write inherits the attempts of the one that it takes the place of
"""
MAX_ATTEMPTS = 3
SAFE = [kind for kind in Faults.KINDS if kind not in Faults.LOSING]


BOUND = 400
"""Of the entries of a queue whose process is killed."""


class Violation(AssertionError):
    """An invariant does not hold."""


def check(holds, what):
    if not holds:
        raise Violation(what)


class Ledger:
    """The reported outcome of each write, by its name."""

    def __init__(self):
        self.said = {}
        self.unknown = {}
        self.newest = {}
        self.overtaken = []

    async def push(self, client, call, name):
        """One write of `name`, and what is said of it."""
        self.said[name] = Outcome.UNKNOWN
        try:
            await call()
        except redis.RedisError as error:
            self.said[name] = getattr(error, "outcome", Outcome.UNKNOWN)
            if self.said[name] is Outcome.UNKNOWN and getattr(error, "ticket", None) is not None:
                self.unknown[name] = (client, error)
        else:
            self.said[name] = Outcome.APPLIED

    def watch(self, server):
        """No older value over a newer one: values of keys that begin with `own:` are numbers that grow."""

        def on_write(words):
            if words[0].upper() == b"SET" and words[1].startswith(b"own:"):
                value = int(words[2])
                newest = self.newest.get(words[1], 0)
                if value < newest:
                    # Not raised here: in the server's turn no caller would receive it.
                    self.overtaken.append(f"{words[1]} was {newest}, now {value}")
                self.newest[words[1]] = value

        server.on_write = on_write

    async def settle(self, may_be_unresolvable):
        """The server is well: ask what became of what was lost."""
        for name, (client, error) in self.unknown.items():
            self.said[name] = await client.resolve(error, 60.0)
            ticket = error.ticket
            check(ticket.verdict is not None, f"{name} has no verdict")
            # The gate cannot carry a transaction.
            may_be = may_be_unresolvable or (name.startswith("t") and ticket.stream.level is Level.GATE)
            check(ticket.verdict is not Verdict.UNRESOLVABLE or may_be, f"{name} is unresolvable")

    def compare(self, log, loses):
        """What is there against what was said."""
        for name in log:
            check(name in self.said, f"{name} is there and nobody wrote it")
        for name, outcome in self.said.items():
            times = log.count(name)
            check(times <= 1, f"{name} is there {times} times")
            if outcome is Outcome.APPLIED:
                check(times == 1 or loses, f"{name} was acknowledged and is not there")
            if outcome in (Outcome.NOT_SENT, Outcome.REJECTED):
                check(times == 0, f"{name} is there though {outcome.name}")


async def push_many(client, ledger, caller, count):
    for number in range(count):
        name = f"{caller}:{number}"
        call = ledger.push(client, lambda name=name: client.rpush("log", name), name)
        if random.random() < 0.1:
            try:
                await asyncio.wait_for(call, random.uniform(0.0, 0.05))
            except TimeoutError:
                pass  # its caller does not know; it is there once or not at all
        else:
            await call
        await asyncio.sleep(random.uniform(0.0, 0.05))


async def transact_many(client, ledger, caller, count):
    for number in range(count):
        name = f"{caller}:{number}"

        async def call(name=name):
            pipe = client.pipeline(transaction=True)
            pipe.rpush("left", name).rpush("right", name)
            await pipe.execute()

        await ledger.push(client, call, name)
        await asyncio.sleep(random.uniform(0.0, 0.05))


async def set_many(client, caller, count):
    for number in range(1, count + 1):
        try:
            await asyncio.wait_for(client.set(f"own:{caller}", number), 5.0 if random.random() < 0.7 else 0.01)
        except (redis.RedisError, TimeoutError):
            pass  # a newer one follows
        await asyncio.sleep(random.uniform(0.0, 0.03))


async def read_many(client, count):
    """Large replies now and then, which the others share their connection with."""
    for _ in range(count):
        await asyncio.sleep(random.uniform(0.0, 0.3))
        try:
            await client.get("large")
        except redis.RedisError:
            pass


async def store_many(client, count):
    async def store(agent, number):
        await client.client.set(f"own:{agent}", number)
        return True

    for number in range(1, count + 1):
        await client.store_with_retry("agent", number, store, Priority.HIGH)
        queued = client.recovery.stats()["queued"]
        check(queued <= count, f"{queued} writes are queued of {number}")
        await asyncio.sleep(random.uniform(0.0, 0.05))


async def scenario(simulation, without=()):
    """One run; raises Violation or SimulationError."""
    dice, server = simulation.dice, simulation.server
    level = dice.choice(["best", "marker", "gate", "offset"])
    loses = dice.random() < 0.25
    ledger = Ledger()
    ledger.watch(server)
    if level == "best" and dice.random() < 0.3:
        server.forbidden.add("CLIENT KILL")
    server.honours_kill = "fence" not in without
    once = False if "exactly once" in without else ExactlyOnce(level)
    policy = ResiliencePolicy(
        breaker=BreakerSettings(failure_threshold=dice.choice([3, 1_000])),
        # What is repeated without exactly once is repeated blindly.
        retry=RetryPolicy(3, 0.05, max_delay=0.5, deadline_s=dice.choice([0.6, 2.0])),
        **({"categories": {"RPUSH": CommandCategory.READ}} if not once else {}),
    )
    options = {**simulation.connection_kwargs, "socket_timeout": 0.3, "exactly_once": once}
    clients = [Redis(**options, resilience=policy) for _ in range(2)]
    resilient = AsyncResilientRedisClient("simulated", **options, circuit_reset_timeout=2)
    faults = simulation.faults([*SAFE, "fail_over"] if loses else SAFE, mean_gap_s=dice.uniform(0.03, 0.3))
    striking = asyncio.create_task(faults.run())
    work = [resilient_work := store_many(resilient, 10)]
    for number, client in enumerate(clients):
        work += [push_many(client, ledger, f"p{number}{worker}", 8) for worker in range(2)]
        work += [transact_many(client, ledger, f"t{number}", 5), set_many(client, f"s{number}", 10)]
    del resilient_work
    if dice.random() < 0.3:
        server.data[b"large"] = b"x" * 50_000
        simulation.network.bandwidth_bytes_per_s = dice.uniform(1e5, 1e6)
        work += [read_many(client, 4) for client in clients]
    await asyncio.gather(*work)
    faults.heal()
    await striking
    await asyncio.sleep(3.0)  # whatever is still on its way arrives
    await ledger.settle(loses or level == "offset" or not once)
    await drained(resilient)
    for client in clients:
        await client.aclose()
    await resilient.close()
    await asyncio.sleep(3.0)
    log = [name.decode() for name in server.data.get(b"log", [])]
    left, right = ([name.decode() for name in server.data.get(side, [])] for side in (b"left", b"right"))
    check(left == right, "half of a transaction is there")
    check(not ledger.overtaken, str(ledger.overtaken[:1]))
    ledger.compare(log + left, loses)
    if not loses:
        check(server.data.get(b"own:agent") == b"10", f"the last stored is {server.data.get(b'own:agent')}, not 10")


class Life:
    """One process: a client that writes until it is killed, or closes."""

    def __init__(self, simulation, name, counters, accepted, attempted, *, ahead, fsync):
        self.process = simulation.process()
        self._dice, self._network = simulation.dice, simulation.network
        self._counters, self._accepted, self._attempted = counters, accepted, attempted
        self._name = name
        self.client = None
        self._options = {**self.process.connection_kwargs, "socket_timeout": 0.3, "circuit_reset_timeout": 1}
        self._options["exactly_once"] = True
        self._config = self.process.recovery_config(
            write_ahead=ahead,
            fsync=fsync,
            fsync_interval_s=0.05,
            base_delay=0.05,
            max_delay=0.5,
            max_attempts=1_000_000,
            max_entries=BOUND,
            drain_batch=8,
            close_timeout_s=0.5,
        )

    async def live(self):
        """Writes until the end."""
        self.client = client = AsyncResilientRedisClient(self._name, **self._options, recovery=self._config)
        await asyncio.gather(*(self._push(client) for _ in range(3)), self._set(client), self._plain(client))

    async def _push(self, client):
        while True:
            number = next(self._counters["names"])
            many = random.random() < 0.2
            name = f"{self._name}{'t' if many else 'p'}:{number}"
            self._attempted.add(name)
            high = client.with_priority(random.choice([Priority.HIGH, Priority.NORMAL, Priority.CRITICAL]))
            if many:
                pipe = high.pipeline()
                pipe.rpush("left", name).rpush("right", name)
                result = await pipe.execute()
            else:
                result = await high.rpush("log", name)
            self._note(result, name)
            await asyncio.sleep(random.uniform(0.0, 0.05))

    def _note(self, result, name):
        if self.process.alive and result.status in ("stored", "queued"):
            self._accepted.add(name)
            queued = self.client.recovery.stats()["queued"]
            check(queued <= BOUND, f"{queued} writes are queued, and the bound is {BOUND}")

    async def _set(self, client):
        while True:
            await client.with_priority(Priority.HIGH).set(f"own:{self._name}", next(self._counters["values"]))
            await asyncio.sleep(random.uniform(0.0, 0.03))

    async def _plain(self, client):
        while True:
            try:
                await client.set(f"own:plain{self._name}", next(self._counters["values"]))
            except redis.RedisError:
                pass  # a newer one follows
            await asyncio.sleep(random.uniform(0.0, 0.03))

    async def end(self, *, power):
        """Killed, or closed in good order."""
        if power is None:
            self.process.stop()
            await self.client.close()
        else:
            if self._dice.random() < 0.6:
                # What it writes last is long on its way: its successor will be there first.
                for link in self._network.links.values():
                    if link.host == self.process.host:
                        link.hold_up(self._dice.uniform(0.1, 1.5))
                await asyncio.sleep(self._dice.uniform(0.0, 0.05))
            self.process.kill(power=power)

    async def inherit(self):
        """Finishes what is left; the reasons for which anything was given up."""
        async with AsyncResilientRedisClient(self._name, **self._options, recovery=self._config) as client:
            await drained(client)
            return [letter.reason for letter in client.recovery.dead_letters()]


async def processes(simulation, without=()):
    """Processes that are killed while they write, each with a successor; raises Violation or SimulationError."""
    dice, server = simulation.dice, simulation.server
    loses = dice.random() < 0.2
    ahead = dice.random() < 0.7
    gated = dice.random() < 0.15
    if gated:
        server.forbidden.add("CLIENT KILL")
    fsync = dice.choice(["always", "interval"])
    server.honours_kill, server.honours_setbit = "fence" not in without, "marker" not in without
    simulation.disk.forgets, simulation.disk.without_notes = "journal" in without, "connections" in without
    ledger = Ledger()
    ledger.watch(server)
    counters = {"names": itertools.count(1), "values": itertools.count(1)}
    accepted, attempted = set(), set()
    # If the server's clock jumps, the gate's verdict may come late, but is never wrong.
    faults = simulation.faults([*SAFE, "fail_over"] if loses else SAFE, mean_gap_s=dice.uniform(0.05, 0.4))
    striking = asyncio.create_task(faults.run())

    async def lineage(name):
        for _ in range(dice.randint(1, 4)):
            life = Life(simulation, name, counters, accepted, attempted, ahead=ahead, fsync=fsync)
            life.process.run(life.live())
            await asyncio.sleep(dice.uniform(0.05, 1.5))
            # Without an fdatasync for each write, power is not what a record survives.
            powers = [None, False, False, True] if fsync == "always" else [None, False, False]
            await life.end(power=dice.choice(powers))
            simulation.jump_wall_clock(dice.uniform(-100.0, 100.0))

    await asyncio.gather(*(lineage(name) for name in ("a", "b")))
    faults.heal()
    await striking
    reasons = []
    for name in ("a", "b"):
        successor = Life(simulation, name, counters, accepted, attempted, ahead=ahead, fsync=fsync)
        reasons += await successor.inherit()
    await asyncio.sleep(3.0)
    log, left, right = ([name.decode() for name in server.data.get(key, [])] for key in (b"log", b"left", b"right"))
    check(left == right, "half of a transaction is there")
    check(not ledger.overtaken, str(ledger.overtaken[:1]))
    there = log + left
    check(len(set(there)) == len(there), "a write is there twice")
    check(set(there) <= attempted, "a write is there that nobody wrote")
    # Without a verdict: a transaction at the level gate, and a write that a failover lost together with its marker.
    lost = {name for name in accepted - set(there) if not (gated and "t:" in name)}
    check(not lost or loses, f"{sorted(lost)} were accepted and are not there, {reasons}")
    check(not reasons or loses or gated or not ahead, f"given up: {reasons}")
    check(simulation.disk.records == len(reasons), "the journals are not empty")


class Attempts:
    """How often each write was tried again; without the rule, those of an entry count for whichever write stands there."""

    def __init__(self, without):
        self.own, self.inherited, self.violations = {}, {}, []
        self._without = without
        self._retry, self._count, self._take_over = AsyncDrain._retry, AsyncDrain._count, AsyncDrain.take_over
        self._wait, self._put = AsyncWriteOrder.wait_for_replacing, AsyncWriteQueue.put_in_place

    def __enter__(self):
        tally = self

        def retry(drain, entry, delay_s):
            tally.own[entry.payload] = tally.own.get(entry.payload, 0) + 1
            tally.inherited[entry.id] = tally.inherited.get(entry.id, 0) + 1
            tally._retry(drain, entry, delay_s)

        def count(drain, entry):
            if "own attempts" in tally._without:
                facts = {name: getattr(entry, name) for name in ("id", "lease", "keys", "payload", "priority", "age_s")}
                entry = types.SimpleNamespace(**facts, attempts=tally.inherited.get(entry.id, 0))
            given_up = drain._queue.given_up
            tally._count(drain, entry)
            tried = tally.own.get(entry.payload, 0)
            if drain._queue.given_up > given_up and tried + 1 < MAX_ATTEMPTS:
                tally.violations.append(f"a write was given up after {tried + 1} attempts of its own")

        def take_over(drain):
            tally._take_over(drain)
            if "lease owner" in tally._without:
                for entry in drain._leases.entries():
                    if entry.lease is not None:
                        drain._leases.release(entry.id)

        AsyncDrain._retry, AsyncDrain._count, AsyncDrain.take_over = retry, count, take_over
        if "lease at close" in self._without:
            AsyncWriteOrder.wait_for_replacing = wait_for_nothing
        if "lost replies" in self._without:
            AsyncWriteQueue.put_in_place = release
        return self

    def __exit__(self, *_):
        AsyncDrain._retry, AsyncDrain._count, AsyncDrain.take_over = self._retry, self._count, self._take_over
        AsyncWriteOrder.wait_for_replacing, AsyncWriteQueue.put_in_place = self._wait, self._put


async def wait_for_nothing(_order, _timeout_s):
    """In the place of waiting for plain writes that are under way."""


def release(_queue, queue, leased, _newer):
    """In the place of putting the newer write there."""
    queue.release(leased.id, lease=leased.lease)


async def set_by_turns(client, opened, key, accepted, count):
    """Writes of one key, with and without a priority, one after the other; callers go away now and then."""
    for number in range(1, count + 1):
        await opened.wait()  # what is queued is a successor's while the client is closed
        try:
            if random.random() < 0.5:
                result = await client.with_priority(random.choice([Priority.HIGH, Priority.NORMAL])).set(key, number)
                if result.status in ("stored", "queued"):
                    accepted[key] = number
            else:
                await asyncio.wait_for(
                    client.set(key, number), 5.0 if random.random() < 0.8 else random.uniform(0.0, 0.05)
                )
                accepted[key] = number
        except (redis.RedisError, TimeoutError):
            pass  # a newer one follows
        await asyncio.sleep(random.uniform(0.0, 0.05))


async def churn(client, opened, stopped):
    """Workers that start and stop, outages that are announced, a client that is closed and opened again."""
    worker = client._engine.worker
    while not stopped.is_set():
        await asyncio.sleep(random.uniform(0.0, 0.1))
        what = random.random()
        if what < 0.4:
            client.guard.force_open()
            await asyncio.sleep(random.uniform(0.0, 0.1))
            client.guard.reset()
        elif what < 0.8:
            worker.stop()
            await worker.join(5.0)
            worker.start()
        else:
            opened.clear()
            await client.close()
            await client.init()
            opened.set()


async def leases(simulation, without=()):
    """Plain writes that take the place of queued ones while workers start and stop; raises Violation or SimulationError."""
    dice, server = simulation.dice, simulation.server
    ledger = Ledger()
    ledger.watch(server)
    process = simulation.process()
    config = process.recovery_config(
        base_delay=0.02,
        max_delay=0.1,
        max_attempts=MAX_ATTEMPTS,
        close_timeout_s=0.05,
    )
    options = {**process.connection_kwargs, "socket_timeout": 0.3, "circuit_threshold": 1_000, "exactly_once": True}
    client = AsyncResilientRedisClient("leases", **options, recovery=config)
    kinds = ["reset", "lost_replies", "slow", "stall", "refuse"]
    faults = simulation.faults(kinds, mean_gap_s=dice.uniform(0.05, 0.3))
    striking, opened, stopped, accepted = asyncio.create_task(faults.run()), asyncio.Event(), asyncio.Event(), {}
    with Attempts(without) as attempts:
        await client.init()
        opened.set()
        churning = asyncio.create_task(churn(client, opened, stopped))
        await asyncio.gather(*(set_by_turns(client, opened, f"own:{key}", accepted, 25) for key in range(3)))
        faults.heal()
        await striking
        stopped.set()
        await churning
        await drained(client)
        letters = client.recovery.dead_letters()
        await client.close()
    await asyncio.sleep(3.0)
    check(not ledger.overtaken, str(ledger.overtaken[:1]))
    check(not attempts.violations, str(attempts.violations[:1]))
    given_up = {letter.agent_id for letter in letters}
    for key, number in accepted.items():
        there = int(server.data.get(key.encode(), b"0"))
        check(there >= number or key in given_up, f"{key} is {there}, and {number} was accepted")


class Rules:
    """Takes rules of the second connection away while it is entered."""

    def __init__(self, without):
        self._without = without
        self._hold_up, self._relieve = Unanswered.hold_up, SecondConnection.relieve

    def __enter__(self):
        if "key order" in self._without:
            Unanswered.hold_up = lambda _order, _touch, _executed_upto=0: False
        if "second connection" in self._without:
            SecondConnection.relieve = lambda _second, _connection: False

    def __exit__(self, *_):
        Unanswered.hold_up, SecondConnection.relieve = self._hold_up, self._relieve


async def large_replies(simulation, without=()):
    """Large replies on a slow link, with small commands beside them; raises Violation or SimulationError."""
    dice, server, network = simulation.dice, simulation.server, simulation.network
    ledger = Ledger()
    ledger.watch(server)
    server.data[b"large"] = b"x" * 100_000
    network.bandwidth_bytes_per_s = dice.uniform(1e5, 4e5)  # up to a second each, and socket_timeout is less
    executed, others = [], server.on_command

    def note(words):
        executed.append(words[:2])
        if others is not None:
            others(words)

    server.on_command = note
    once = ExactlyOnce(dice.choice(["best", "marker", "offset"])) if dice.random() < 0.5 else False
    policy = ResiliencePolicy(breaker=BreakerSettings(failure_threshold=1), retry=RetryPolicy(3, 0.05, deadline_s=30.0))
    client = Redis(**simulation.connection_kwargs, socket_timeout=0.5, exactly_once=once, resilience=policy)
    await client.ping()
    calls, waits = [], []

    async def timed(call):
        started_s = network.loop.time()
        await call
        waits.append(network.loop.time() - started_s)

    async def write(number):
        """Issued one after the other, and not waited for."""
        keys = dice.sample(["own:a", "own:b", "own:c"], dice.choice([1, 1, 1, 2]))
        if len(keys) == 1:
            await client.set(keys[0], number)
        else:
            pipe = client.pipeline(transaction=dice.random() < 0.5)
            for key in keys:
                pipe.set(key, number)
            await pipe.execute()

    asked = 0
    for number in range(1, dice.randint(30, 120)):
        if dice.random() < 0.06 and asked < 4:
            asked += 1
            calls.append(asyncio.create_task(client.get("large")))
            await asyncio.sleep(0)
            if dice.random() < 0.5:
                for link in network.open_links():
                    link.hold_up(dice.uniform(0.05, 0.4))  # what is sent behind it arrives late
        calls.append(asyncio.create_task(write(number)))
        if dice.random() < 0.3:
            name = f"p:{number}"
            calls.append(asyncio.create_task(ledger.push(client, lambda name=name: client.rpush("log", name), name)))
        await asyncio.sleep(dice.choice([0.0, dice.uniform(0.0, 0.02)]))
    await asyncio.gather(*calls, return_exceptions=True)
    calls.append(last := asyncio.create_task(client.get("large")))
    for _ in range(400):
        if client.transport_here().current.executed_upto or last.done():
            break
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)  # it has been arriving for a while: later calls are unrelated to it
    calls += [asyncio.create_task(timed(client.incr(f"other:{number}"))) for number in range(5)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    failed = [result for result in results if isinstance(result, Exception)]
    check(not failed, f"{len(failed)} calls failed, the first with {failed[:1]}")
    check(client.guard.state == "closed", "the circuit is open")
    await client.aclose()
    await asyncio.sleep(3.0)
    check(not ledger.overtaken, str(ledger.overtaken[:1]))
    check(executed.count([b"GET", b"large"]) == asked + 1, "a read was sent again")
    ledger.compare([name.decode() for name in server.data.get(b"log", [])], False)
    check(max(waits) < 0.2, f"others waited for {max(waits):.2f} s")


async def drained(client):
    for _ in range(600):
        if not client.recovery.stats()["queued"]:
            return
        await asyncio.sleep(0.5)
    raise Violation("the queue is not drained though the server is well")


def program(seed, without=()):
    """What is run for a seed."""
    if set(without) & set(LEASES):
        return leases
    if set(without) & set(LARGE):
        return large_replies
    if set(without) & {"marker", "journal", "connections"}:
        return processes
    if without:
        return processes if seed % 3 == 2 and "exactly once" not in without else scenario
    return processes if seed % 3 == 2 else {1: leases, 3: large_replies}.get(seed % 6, scenario)


def run_seed(seed, without=()):
    """What one seed violates; None for nothing."""
    logging.disable(logging.ERROR)
    simulation = Simulation(seed, product="valkey" if seed % 3 else "redis")
    try:
        with Rules(without):
            simulation.run(program(seed, without)(simulation, without))
    except (Violation, SimulationError) as error:
        return str(error)
    finally:
        logging.disable(logging.NOTSET)
    return None


def trace(seed):
    """Every command that the server executed in the run of a seed, and when."""
    logging.disable(logging.ERROR)
    simulation = Simulation(seed)
    executed = []
    simulation.server.on_command = lambda words: executed.append((simulation.network.loop.time(), words[0]))
    try:
        simulation.run(program(seed)(simulation))
    finally:
        logging.disable(logging.NOTSET)
    return executed


def reproduce(seed, without=()):
    """The one line that runs a seed again."""
    rest = "".join(f' --without "{rule}"' for rule in without)
    return f"python tests/sim/client_simulation.py --seeds 1 --first {seed}{rest}"


def first_violation(seeds, without=()):
    """The first of the seeds that violates anything, and what; or None."""
    for seed in seeds:
        violation = run_seed(seed, without)
        if violation is not None:
            return seed, violation
    return None


def main(arguments=None):
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Simulate the clients from seeds.")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many seeds (default 10,000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per processor)")
    parser.add_argument("--without", action="append", default=[], choices=RULES, help="take a rule away")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    size = max(1, min(100, options.seeds // options.jobs))
    last = options.first + options.seeds
    chunks = [range(start, min(start + size, last)) for start in range(options.first, last, size)]
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        for found in pool.map(first_violation, chunks, itertools.repeat(tuple(options.without))):
            if found is not None:
                print(f"clients: {found[1]}\n{reproduce(found[0], options.without)}", file=sys.stderr)
                pool.shutdown(cancel_futures=True)
                return 1
    print(f"clients: {options.seeds} seeds, no violation, {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
