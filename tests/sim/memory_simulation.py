"""
Agent memory under everything that can happen to it, from a seed.

    python tests/sim/memory_simulation.py --seeds 100000 --jobs 2
    python tests/sim/memory_simulation.py --seed 4711 --trace
    python tests/sim/memory_simulation.py --seeds 2000 --without "R3 floors"

Processes write, delete, read, load, sync, move, follow the change feed and replay a journal, all at once: every command is
carried out at a moment of chance, its reply may get lost, and it may arrive twice or as late as a command may. Redis is
wiped, flushed, or comes back with an old snapshot; SQL and Redis go away and return; processes die between any two
commands. The clocks of the stores differ. No process holds a lock.

While this goes on, and after everything has been repaired and come to rest:

- What was acknowledged as committed in SQL is there, or something greater is; a payload never returns under a greater
  version than its own.
- What was acknowledged as accepted by Redis (SQL being away) is there, unless Redis lost it.
- A reader never gets less than what it wrote or read itself, nor less than what had reached Redis before it began.
- Nothing deleted comes back.
- A clean copy that Redis would serve is the row that SQL holds; no dirty copy is left; every index knows every row.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time

from memory_model import ABLATIONS, LIFETIME, Away, ModelRedis, ModelSQL, Stamp, rules_without

STEPS = 90
WORK = ("write", "delete", "read", "sync", "move", "follow", "refresh", "replay", "evict")
FAULTS = ("SQL", "Redis", "snapshot", "wipe", "rollback", "flush", "kill", "pause")
FORGOTTEN = Stamp(False, 0, 0)


class Violation(AssertionError):
    """A promise was broken."""


class Process:
    """A process: what it knows, what survives it (its journal), whether it lives."""

    def __init__(self, number):
        self.number = number
        self.alive = True
        self.epoch = None
        self.known = {}  # memory -> stamp, seen in SQL or as a clean copy
        self.unsynced = {}  # memory -> stamp, seen as a dirty copy or in the journal: it may get lost
        self.cursor = 0
        self.journal = []

    def learn(self, memory, stamp):
        if stamp > self.known.get(memory, FORGOTTEN):
            self.known[memory] = stamp

    def learn_unsynced(self, memory, stamp):
        if stamp > self.unsynced.get(memory, FORGOTTEN):
            self.unsynced[memory] = stamp

    def newest(self, memory):
        return max(self.known.get(memory, FORGOTTEN), self.unsynced.get(memory, FORGOTTEN))


class World:
    """One run. Actors are generators that yield (store, command, may_repeat) and are sent the reply."""

    def __init__(self, seed, without=(), trace=None):
        self.random = random.Random(seed)
        self.trace = trace
        self.rules = rules = rules_without(*without)
        self.sql = ModelSQL(rules)
        self.redis = ModelRedis(rules)
        self.sql.skew = self.random.randint(-200, 200)
        self.redis.skew = self.random.randint(-200, 200)
        self.now = 10_000
        self.processes = [Process(number) for number in range(3)]
        self.actors = []  # [process, generator, request, started]
        self.memories = 0
        self.tokens = 0
        self.stamp_of = self.sql.stamp_of  # payload -> the stamp of the write that brought it
        self.acknowledged = []  # (memory, stamp): in SQL or a journal
        self.accepted = []  # (memory, stamp): in Redis
        self.reached_sql = {}  # memory -> stamp that SQL and Redis both have seen: every reader has to see it
        self.snapshot = self.redis.snapshot()
        self.leases = {}
        # Every seed stresses something else: what happens often in one run happens never in another.
        weights = (self.random.choice((0, 1, 1, 2, 8)) for _ in iter(int, 1))
        self.work = dict(zip(WORK, weights, strict=False))
        self.work["write"] += 1
        self.faults = dict(zip(FAULTS, weights, strict=False))
        self.faults["pause"] += 1
        self.fault_rate = self.random.choice((0.0, 0.02, 0.05, 0.1))
        # Two courses that chance alone takes too rarely: caches that are lost while they are being filled, and writes
        # that reach SQL long after they were made.
        self.course = self.random.choices((None, "loss", "outage"), (8, 1, 1))[0]
        if self.course == "loss":
            self.work = dict(zip(WORK, (3, 2, 8, 0, 0, 2, 0, 0, 4), strict=True))
            self.faults = dict(zip(FAULTS, (0, 0, 1, 1, 1, 4, 0, 0), strict=True))
            self.fault_rate = 0.06
        elif self.course == "outage":
            self.work = dict(zip(WORK, (1, 1, 6, 3, 0, 8, 0, 6, 8), strict=True))
            self.fault_rate = 0.0

    # --- helpers ---

    def note(self, *words):
        if self.trace is not None:
            self.trace.append(f"{self.now:>7} " + " ".join(str(word) for word in words))

    def payload(self):
        self.tokens += 1
        return self.tokens

    def writer(self, process, store):
        return 4 * process.number + store

    def must_see(self, memory, stamp):
        if stamp > self.reached_sql.get(memory, FORGOTTEN):
            self.reached_sql[memory] = stamp

    # --- what a process does ---

    def open_epoch(self, process):
        redis, sql, nonce = self.redis, self.sql, self.random.random()
        cursor = None
        if self.rules.cursor_precedes_the_epoch:
            cursor = yield "sql", sql.highest, False
        process.epoch = yield "redis", lambda: redis.open_epoch(nonce, cursor), True

    def bring(self, process, memory, stamp, payload, epoch, seq):
        """Puts a clean copy; returns whether Redis has seen this stamp."""
        redis = self.redis
        answer = yield "redis", lambda: redis.put_clean(memory, stamp, payload, epoch, seq), True
        if answer == "epoch":
            process.epoch = None
        return answer != "epoch"

    def write(self, process, memory, deleted=False, create=False):
        """store, update or delete: SQL first; Redis if SQL is away; the journal if both are."""
        sql, payload = self.sql, None if deleted else self.payload()
        expected = None
        if not create and not deleted and self.random.random() < 0.5:
            expected = process.known.get(memory, FORGOTTEN).version
        if self.rules.leases_are_trusted and not (yield from self.lease(process, memory)):
            return
        epoch = process.epoch
        try:
            if epoch is None:
                yield from self.open_epoch(process)
                epoch = process.epoch
        except Away:
            pass
        writer = self.writer(process, 0)
        try:
            if self.rules.sequence_is_taken_in_order:
                stamp, seq = yield (
                    "sql",
                    lambda: (sql.fresh(memory, payload, writer, deleted, expected), sql.seq),
                    False,
                )
            else:
                sql.seq += 1
                seq = sql.seq
                yield "sql", lambda: None, False
                stamp = yield "sql", lambda: sql.fresh(memory, payload, writer, deleted, expected, seq), False
        except Away as away:
            if not away.args:  # certainly not done; otherwise the outcome is unknown, and the caller gets an error
                yield from self.write_dirty(process, memory, deleted, create)
            return
        if stamp is None:
            return
        self.note(process.number, "committed", memory, stamp, payload)
        process.learn(memory, stamp)
        self.acknowledged.append((memory, stamp))
        if (yield from self.bring(process, memory, stamp, payload, epoch, seq)):
            self.must_see(memory, stamp)

    def write_dirty(self, process, memory, deleted, create):
        redis, payload = self.redis, None if deleted else self.payload()
        known = process.newest(memory)
        if known.deleted:
            return
        try:
            held = yield "redis", lambda: redis.get(memory), False
            if held is not None and held.stamp.deleted:
                return
            base = None if create or deleted else (-1 if held is None else held.stamp.version)
            last = max(known.version, 0 if held is None else held.stamp.version)
            version = self.rules.next_version(last, redis.clock + redis.skew)
            stamp = Stamp(deleted, version, self.writer(process, 1))
            self.stamp_of[payload] = stamp
            answer = yield "redis", lambda: redis.put_dirty(memory, stamp, payload, base), True
            if answer == "ok":
                self.note(process.number, "accepted dirty", memory, stamp, payload)
                process.learn_unsynced(memory, stamp)
                self.accepted.append((memory, stamp))
        except Away as away:
            if not away.args:
                stamp = Stamp(deleted, self.rules.next_version(known.version, self.now), self.writer(process, 2))
                payload = None if deleted else self.payload()
                self.stamp_of[payload] = stamp
                self.note(process.number, "journalled", memory, stamp, payload)
                process.journal.append((memory, stamp, payload))
                process.learn_unsynced(memory, stamp)
                self.acknowledged.append((memory, stamp))

    def replay(self, process):
        """The journal of a process, accessed by its present owner."""
        sql = self.sql
        for entry in list(process.journal):
            yield "sql", lambda entry=entry: sql.absolute(*entry), True
            if entry in process.journal:
                process.journal.remove(entry)

    def read(self, process, memory):
        """get: Redis, then SQL; what SQL gives is put into Redis (the data loader)."""
        sql, redis, rules = self.sql, self.redis, self.rules
        due = max(self.reached_sql.get(memory, FORGOTTEN), process.known.get(memory, FORGOTTEN))
        held = None
        try:
            held = yield "redis", lambda: redis.get(memory), False
        except Away:
            pass
        if held is not None and held.dirty and not rules.dirty_copies_are_compared:
            return self.judge_read(process, memory, held, due)
        if held is not None and not held.dirty and rules.is_hit(held.stamp, process.newest(memory).version):
            return self.judge_read(process, memory, held, due)
        epoch = process.epoch
        try:
            if epoch is None:
                yield from self.open_epoch(process)
                epoch = process.epoch
        except Away:
            pass
        row, seq = yield "sql", lambda: (sql.rows.get(memory), sql.seq_of(memory)), False
        if held is not None and held.dirty and (row is None or held.stamp > row.stamp):
            return self.judge_read(process, memory, held, due)
        self.judge_read(process, memory, row, due)
        if row is not None:
            yield from self.bring(process, memory, row.stamp, row.payload, epoch, seq)
        return None

    def judge_read(self, process, memory, found, due):
        stamp = FORGOTTEN if found is None else found.stamp
        self.note(process.number, "read", memory, found, "due", due)
        if stamp < due:
            what = "resurrected" if due.deleted else "stale"
            raise Violation(f"{what}: process {process.number} read {stamp} of memory {memory}, not {due}")
        (process.learn_unsynced if getattr(found, "dirty", False) else process.learn)(memory, stamp)

    def sync(self, process):
        """Dirty copies go to SQL."""
        sql, redis = self.sql, self.redis
        dirty = yield "redis", redis.dirty, False
        for memory, held in dirty.items():
            yield from self.open_epoch(process)
            epoch = process.epoch

            def commit(m=memory, h=held):
                before = sql.seq
                row = sql.absolute(m, h.stamp, h.payload)
                return row, 0 if sql.seq == before else sql.seq

            row, seq = yield "sql", commit, True
            if row is None or row.stamp == held.stamp:
                yield "redis", lambda m=memory, h=held, e=epoch, s=seq: redis.mark_clean(m, h.stamp, e, s), True
            elif self.rules.sync_drops_the_beaten:
                yield "redis", lambda m=memory, h=held, r=row: redis.drop_beaten(m, h.stamp, r.stamp), True

    def move(self, process, memory):
        """A row goes to the next tier."""
        sql = self.sql
        if self.rules.leases_are_trusted and not (yield from self.lease(process, memory)):
            return
        row = yield "sql", lambda: sql.rows.get(memory), False
        if row is None or row.stamp.deleted:
            return
        tier = {"stm": "im", "im": "ltm", "ltm": "ltm"}[row.tier]
        if self.rules.leases_are_trusted:
            yield "sql", lambda: sql._commit(memory, row._replace(tier=tier)), False
        else:
            yield "sql", lambda: sql.move(memory, row, tier), True

    def lease(self, process, memory):
        """For the ablation of R7 only: a lease of 300 ticks that its holder then trusts."""

        def take():
            holder, until = self.leases.get(memory, (None, 0))
            if holder not in (None, process) and until > self.now:
                return False
            self.leases[memory] = (process, self.now + 300)
            return True

        return (yield "redis", take, False)

    def follow(self, process):
        """Redis catches up with the change feed."""
        sql, redis = self.sql, self.redis
        if not self.rules.redis_follows_the_feed:
            return
        yield from self.open_epoch(process)
        epoch, cursor = yield "redis", lambda: (redis.current_epoch(), redis.cursor), False
        if epoch is None:
            return
        if cursor is None:
            cursor = yield "sql", sql.highest, False
        committed = {}

        def changes():
            committed.update({memory: row.stamp for memory, row in sql.rows.items()})
            return sql.changes(cursor)

        seq, rows = yield "sql", changes, False
        stamps = {memory: row.stamp for memory, row in rows.items() if row is not None}
        yield "redis", lambda: redis.follow(epoch, seq, stamps), True
        if redis.current_epoch() == epoch:
            for memory, stamp in committed.items():
                self.must_see(memory, stamp)

    def refresh(self, process):
        """An index catches up with the change feed."""
        sql, redis = self.sql, self.redis
        # Redis first: what is no longer dirty there has been committed before, or is lost.
        dirty = yield "redis", redis.dirty, False
        seq, rows = yield "sql", lambda: sql.changes(process.cursor), False
        waiting = {memory: held.stamp for memory, held in dirty.items()} | {key: at for key, at, _ in process.journal}
        process.unsynced = {key: at for key, at in process.unsynced.items() if waiting.get(key) == at}
        process.cursor = max(process.cursor, seq)
        for memory, row in rows.items():
            if row is not None:
                process.learn(memory, row.stamp)

    # --- the course of a run ---

    def begin(self, process, generator):
        try:
            self.actors.append([process, generator, next(generator), self.now])
        except StopIteration:
            pass

    def step(self, actor):
        """Carries out the command an actor waits for and lets it go on to its next."""
        process, generator, (place, command, may_repeat), started = actor
        self.actors.remove(actor)
        store = self.sql if place == "sql" else self.redis
        try:
            if not store.up or self.now - started > LIFETIME:
                raise Away
            store.clock = self.now
            if place == "redis":
                self.redis.trim_floors()
            reply = command()
            if may_repeat and self.random.random() < 0.1:
                self.actors.append([None, iter(()), actor[2], started])
            if self.random.random() < 0.03 and not self.at_rest:
                raise Away("the reply is lost")
            if process is not None:
                request = generator.send(reply)
                self.actors.append([process, generator, request, started])
        except StopIteration:
            pass
        except Away as away:
            if process is not None:
                try:
                    self.actors.append([process, generator, generator.throw(away), started])
                except (StopIteration, Away):
                    pass

    def start_something(self):
        chance = self.random
        process = chance.choice(self.processes)
        if self.memories == 0 or (self.memories < 4 and chance.random() < 0.1):
            self.memories += 1
            self.begin(process, self.write(process, self.memories, create=True))
            return
        memory = chance.randint(1, self.memories)
        kind = chance.choices(WORK, self.work.values())[0]
        if kind == "evict":
            self.note("evict", memory)
            self.redis.evict(memory)
        elif kind == "delete":
            self.begin(process, self.write(process, memory, deleted=True))
        elif kind in ("write", "read", "move"):
            self.begin(process, getattr(self, kind)(process, memory))
        else:
            self.begin(process, getattr(self, kind)(process))

    def fault(self):
        chance = self.random
        kind = chance.choices(FAULTS, self.faults.values())[0]
        if kind == "SQL":
            self.sql.up = not self.sql.up
            self.note("SQL up" if self.sql.up else "SQL away")
        elif kind == "Redis":
            self.redis.up = not self.redis.up
            self.note("Redis up" if self.redis.up else "Redis away")
        elif kind == "snapshot":
            self.snapshot = self.redis.snapshot()
        elif kind == "wipe":
            self.lose_redis(({}, {}, None, 0))
        elif kind == "rollback":
            self.lose_redis(self.snapshot)
        elif kind == "flush":
            self.lose_redis(None)
        elif kind == "kill":
            self.kill(chance.randrange(len(self.processes)))
        else:
            self.now += chance.choice((LIFETIME // 2, LIFETIME, 3 * LIFETIME))

    def long_outage(self, begins):
        """SQL is away, perhaps Redis as well, until whatever was under way then cannot arrive any more."""
        self.sql.up = not begins
        if begins or not self.redis.up:
            self.redis.up = not begins or self.random.random() < 0.5
        if not begins:
            self.now += 4 * LIFETIME
        for process in self.processes if self.memories else ():
            memory = self.random.randint(1, self.memories)
            self.begin(process, self.write(process, memory) if begins else self.read(process, memory))

    def lose_redis(self, snapshot):
        self.note("Redis", "flushed" if snapshot is None else f"restarts with {snapshot}")
        if snapshot is None:
            self.redis.flush()
            snapshot = ({}, {}, None, 0)
        else:
            self.redis.restart(snapshot)
        kept = {memory: held.stamp for memory, held in snapshot[0].items() if held.dirty}
        rows = self.sql.rows
        self.accepted = [
            (memory, stamp)
            for memory, stamp in self.accepted
            if kept.get(memory, FORGOTTEN) >= stamp or (memory in rows and rows[memory].stamp >= stamp)
        ]

    def kill(self, number):
        old = self.processes[number]
        old.alive = False
        self.note("process", number, "dies")
        self.actors = [actor for actor in self.actors if actor[0] is not old]
        # A command that had left arrives nevertheless: those are the repeated ones. The journal is adopted.
        new = self.processes[number] = Process(number + len(self.processes) * (1 + old.number // len(self.processes)))
        new.journal = old.journal

    at_rest = False

    def run(self):
        chance = self.random
        for step in range(STEPS):
            self.now += chance.choice((1, 3, 10, 30, 100))
            kind = chance.random()
            if self.course == "outage" and step in (STEPS // 5, STEPS // 3):
                self.long_outage(step == STEPS // 5)
            elif kind < self.fault_rate:
                self.fault()
            elif self.actors and kind < 0.75:
                self.step(chance.choice(self.actors))
            else:
                self.start_something()
        self.come_to_rest()
        self.judge()

    def settle(self, *generators):
        for process, generator in generators:
            self.begin(process, generator)
        while self.actors:
            self.now += 1
            self.step(self.random.choice(self.actors))

    def come_to_rest(self):
        self.sql.up = self.redis.up = self.at_rest = True
        self.settle()
        for process in self.processes:
            self.settle((process, self.replay(process)))
        self.settle((self.processes[0], self.sync(self.processes[0])))
        self.settle((self.processes[1], self.sync(self.processes[1])))
        self.settle((self.processes[0], self.follow(self.processes[0])))
        self.settle(*((process, self.refresh(process)) for process in self.processes))

    def judge(self):
        rows = self.sql.rows
        for level, promises in (("committed", self.acknowledged), ("accepted by Redis", self.accepted)):
            for memory, stamp in promises:
                row = rows.get(memory)
                if row is None or row.stamp < stamp:
                    raise Violation(f"lost: {stamp} of memory {memory} was {level}, SQL holds {row}")
                origin = row.stamp if row.stamp.deleted else self.stamp_of[row.payload]
                if origin < stamp:
                    raise Violation(f"overwritten: memory {memory} has the payload of {origin}, {stamp} was {level}")
        for memory, held in self.redis.copies.items():
            if held.dirty:
                raise Violation(f"never synced: memory {memory} is still dirty, {held}")
            row = rows.get(memory)
            served = self.redis.get(memory)
            if served is not None and (row is None or row.stamp != served.stamp or row.payload != served.payload):
                raise Violation(f"stale for ever: Redis serves {served} of memory {memory}, SQL holds {row}")
        for process in self.processes:
            for memory, row in rows.items():
                if process.newest(memory) != row.stamp:
                    raise Violation(f"unknown: the index of process {process.number} misses memory {memory}, {row}")
            for memory, stamp in process.known.items():
                if memory not in rows and stamp.version and any(key == memory for key, _ in self.acknowledged):
                    raise Violation(f"vanished: SQL has forgotten memory {memory}")


def run_seed(seed, without=(), trace=None):
    """Runs one seed; returns what was violated, or None."""
    try:
        World(seed, without, trace).run()
    except Violation as violation:
        return str(violation)
    return None


def reproduce(seed, without=()):
    """The one line that runs a seed again."""
    ablation = "".join(f' --without "{name}"' for name in without)
    return f"python tests/sim/memory_simulation.py --seed {seed} --trace{ablation}"


def first_violation(seeds, without=()):
    """The first of the seeds that violates anything, and what; or None."""
    for seed in seeds:
        violation = run_seed(seed, without)
        if violation is not None:
            return seed, violation
    return None


def _chunk(arguments):
    return first_violation(*arguments)


def main(arguments=None):
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Simulate the rules of agent memory from seeds.")
    parser.add_argument("--seeds", type=int, default=100_000, help="how many seeds (default 100,000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seed", type=int, help="run this seed only")
    parser.add_argument("--trace", action="store_true", help="print what happened (with --seed)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--without", action="append", default=[], choices=sorted(ABLATIONS), help="take a rule away")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        trace = [] if options.trace else None
        violation = run_seed(options.seed, options.without, trace)
        print("\n".join(trace or []), violation or f"seed {options.seed}: no violation", sep="\n")
        return 1 if violation else 0
    began = time.perf_counter()
    size = max(1, min(500, options.seeds // options.jobs))
    last = options.first + options.seeds
    chunks = [(range(low, min(low + size, last)), tuple(options.without)) for low in range(options.first, last, size)]
    with multiprocessing.Pool(options.jobs) as pool:
        for found in pool.imap(_chunk, chunks):
            if found is not None:
                print(f"memory: seed {found[0]}: {found[1]}\n{reproduce(found[0], options.without)}", file=sys.stderr)
                return 1
    print(f"memory: {options.seeds} seeds, no violation, {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
