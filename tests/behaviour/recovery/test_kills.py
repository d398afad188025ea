"""The journal and the real thing: processes killed while they write, a disk that is full, fork().

Each kill leaves a journal to the next process. At the end an acknowledged write is in the database or, if its outcome is
unknown, among the dead letters. The database holds no write that was not issued, and none twice. With write-ahead and exactly
once no outcome is unknown: every accepted write is there once. Number of kills:
RECOVERY_KILLS (default 12 in all; 200 in `make kills`).
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
import redis

from agent_memory import Priority, RecoveryConfig, ResilientRedisClient, RetryPolicy
from agent_memory.testing import FaultProxy

KILLS = int(os.environ.get("RECOVERY_KILLS", "12"))
LONG_S = 120.0

COMMON = """
import asyncio, itertools, json, os, sys, threading
from agent_memory import AsyncResilientRedisClient, Priority, RecoveryConfig, ResilientRedisClient, RetryPolicy

arguments, path, ahead, once, first = json.loads(sys.argv[1])
config = RecoveryConfig(path=path, write_ahead=ahead, base_delay=0.01, max_delay=0.05, fsync="never",
                        max_entries=100_000, max_attempts=1_000_000, max_dead_letters=100_000)
options = {**arguments, "recovery": config, "probe_interval_s": 0.05, "socket_timeout": 0.5}
options["retry_policy"] = RetryPolicy(max_retries=0)
options["exactly_once"] = once
numbers = itertools.count(first)

def tell(word, number):
    os.write(1, f"{word} {number}\\n".encode())  # in one piece, and out of this process before anything else is done
"""

IN_TASKS = (
    COMMON
    + """
async def work(client):
    high = client.with_priority(Priority.HIGH)
    for number in numbers:
        tell("try", number)
        if number % 2:
            result = await high.set(f"set:{number}", number)
        else:
            result = await high.rpush(f"list:{number}", number)
        if result.status in ("stored", "queued"):
            tell("have", number)

async def main():
    async with AsyncResilientRedisClient("kills", **options) as client:
        await asyncio.gather(*(work(client) for _ in range(16)))

asyncio.run(main())
"""
)

IN_THREADS = (
    COMMON
    + """
def work(client):
    high = client.with_priority(Priority.HIGH)
    for number in numbers:
        tell("try", number)
        if number % 2:
            result = high.set(f"set:{number}", number)
        else:
            result = high.rpush(f"list:{number}", number)
        if result.status in ("stored", "queued"):
            tell("have", number)

with ResilientRedisClient("kills", **options) as client:
    for _ in range(4):
        threading.Thread(target=work, args=(client,), daemon=True).start()
    threading.Event().wait()
"""
)


class Trouble:
    """A proxy that is cut off and comes back, at random, until the end."""

    def __init__(self, proxy, seed):
        self._proxy, self._chance = proxy, random.Random(seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self._ended.wait(self._chance.uniform(0.02, 0.2)):
            self._proxy.refuse()
            self._proxy.reset()
            self._ended.wait(self._chance.uniform(0.02, 0.15))
            self._proxy.heal()
            self._proxy.accept()

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        self._proxy.heal()
        self._proxy.accept()


def write_until_killed(script, arguments, path, ahead, once, first, life_s):
    """Runs a writer for a while; returns the numbers it tried and those reported as stored or queued."""
    with tempfile.TemporaryFile() as errors:  # not a pipe, which would have to be drained
        process = subprocess.Popen(
            [sys.executable, "-c", script, json.dumps([arguments, str(path), ahead, once, first])],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        head = b""
        while b"have" not in head:  # however slow the machine is, something has been acknowledged
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise AssertionError(errors.read().decode())
            head += line
        time.sleep(life_s)
        process.send_signal(signal.SIGKILL)
        lines = (head + process.stdout.read()).decode().split("\n")
        process.communicate()
    words = [line.split() for line in lines if line.count(" ") == 1 and line.split()[1].isdigit()]
    return [{int(number) for word, number in words if word == wanted} for wanted in ("try", "have")]


@pytest.mark.parametrize("once", [False, True], ids=["", "exactly once"])
@pytest.mark.parametrize("ahead", [False, True], ids=["after failure", "write ahead"])
@pytest.mark.parametrize("script", [IN_TASKS, IN_THREADS], ids=["tasks", "threads"])
def test_killed_while_writing(mortal_server, journal, script, ahead, once):
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    attempted, acknowledged = set(), set()
    with FaultProxy(mortal_server) as proxy:
        arguments = proxy.connection_kwargs
        with Trouble(proxy, seed):
            for kill in range(max(1, KILLS // 8)):
                first = kill * 1_000_000
                tried, had = write_until_killed(
                    script, arguments, journal, ahead, once, first, chance.uniform(0.05, 0.8)
                )
                attempted |= tried
                acknowledged |= had
        config = RecoveryConfig(path=journal, base_delay=0.01, max_delay=0.05, max_dead_letters=100_000)
        options = {
            **arguments,
            "recovery": config,
            "exactly_once": once,
            "probe_interval_s": 0.05,
            "retry_policy": RetryPolicy(max_retries=0),
        }
        with ResilientRedisClient("kills", **options) as successor:
            assert successor.recovery.flush(LONG_S), f"seed {seed}"
            letters = successor.recovery.dead_letters()
    with redis.Redis(**mortal_server.connection_kwargs, decode_responses=True) as direct:
        keys = [key for key in direct.keys("*:*") if key.startswith(("set:", "list:"))]
        found = {int(key.split(":")[1]) for key in keys}
        lengths = {key: direct.llen(key) for key in keys if key.startswith("list:")}
    assert {letter.reason for letter in letters} <= {"unknown"}, f"seed {seed}"
    unknown = {int(letter.agent_id.split(":")[1]) for letter in letters}
    assert all(number % 2 == 0 for number in unknown), f"an absolute write was given up, seed {seed}"
    assert acknowledged, "nothing was written"
    assert acknowledged - found <= unknown, f"lost, seed {seed}"
    assert found <= attempted, f"invented, seed {seed}"
    assert set(lengths.values()) <= {1}, f"executed twice, seed {seed}"
    if ahead and once:
        assert not letters, f"nobody could tell of {len(letters)}, seed {seed}"
        assert acknowledged <= found, f"lost, seed {seed}"


FULL_DISK = """
import json, os, resource, sys
from agent_memory import Priority, RecoveryConfig, RecoveryJournalError, ResilientRedisClient, RetryPolicy

arguments, path, limited = json.loads(sys.argv[1])
options = {**arguments, "probe_interval_s": 0.1, "retry_policy": RetryPolicy(max_retries=0)}
client = ResilientRedisClient("full", **options, recovery=RecoveryConfig(path=path, base_delay=0.01))
client.recovery.pause()
client.guard.force_open()
if limited:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
high = client.with_priority(Priority.HIGH)
results = {f"key:{number}": high.set(f"key:{number}", "x" * 5_000) for number in range(600)}
kept = {key for key, result in results.items() if result.status == "queued"}
failed = {key: result for key, result in results.items() if result.status == "failed"}
assert kept and failed, (len(kept), len(failed))
assert len(kept) + len(failed) == 600
assert all(isinstance(result.error, RecoveryJournalError) and not result.durable for result in failed.values())
assert "no room on its disk" in str(next(iter(failed.values())).error), next(iter(failed.values())).error
assert not any("xxx" in str(result.error) for result in failed.values())
if limited:
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
else:
    os.unlink(os.path.join(path, "ballast"))
again = high.set("again", 1)
assert again.status == "queued", again.error
client.guard.reset()
client.recovery.resume()
assert client.recovery.flush(60)
found = {key for key in client.scan_iter("key:*")}
assert found == kept, (len(found), len(kept))
assert client.get("again") == "1"
client.close()
assert os.listdir(path) == [], os.listdir(path)
"""


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def test_a_limit_of_file_size(mortal_server, journal):
    run(FULL_DISK, mortal_server.connection_kwargs, str(journal), True)


def test_a_full_disk(mortal_server, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        (disk / "ballast").write_bytes(bytes(300_000))
        run(FULL_DISK, mortal_server.connection_kwargs, str(disk), False)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


FORK = """
import json, os, sys
from agent_memory import Priority, RecoveryConfig, ResilientRedisClient, RetryPolicy

arguments, path = json.loads(sys.argv[1])
options = {**arguments, "probe_interval_s": 0.1, "retry_policy": RetryPolicy(max_retries=0)}
client = ResilientRedisClient("fork", **options, recovery=RecoveryConfig(path=path, close_timeout_s=0))
client.recovery.pause()
client.guard.force_open()
high = client.with_priority(Priority.HIGH)
high.rpush("list", "parent's")
read, write = os.pipe()
ready, tell = os.pipe()
child = os.fork()
if child == 0:
    try:
        assert client.recovery.pending() == []
        client.guard.force_open()
        result = high.rpush("other", "child's")
        assert (result.status, result.durable) == ("queued", True), result
        # Two parts now, and the parent's is still the parent's.
        late = ResilientRedisClient("fork", **options, recovery=RecoveryConfig(path=path))
        assert late.recovery.pending() == []
        late.close()
        os.write(tell, b".")
        os.read(read, 1)  # the parent has closed his
        # Its part has no owner now: a client of this process goes on with it.
        # Its circuit is open still, so that nothing is drained before it is looked at.
        late = ResilientRedisClient("fork", **options, guard=client.guard, recovery=RecoveryConfig(path=path))
        assert len(late.recovery.pending()) == 2
        client.guard.reset()
        assert late.recovery.flush(60)
        late.close()
        client.close()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert high.rpush("list2", "parent's").status == "queued"
os.read(ready, 1)
client.close()
os.write(write, b".")
assert os.waitpid(child, 0)[1] == 0
successor = ResilientRedisClient("fork", **options, recovery=RecoveryConfig(path=path))
assert successor.recovery.flush(60)
assert successor.lrange("list", 0, -1) == ["parent's"]
assert successor.lrange("other", 0, -1) == ["child's"]
assert successor.lrange("list2", 0, -1) == ["parent's"]
successor.close()
"""


def test_a_forked_child_has_a_part_of_its_own(mortal_server, journal):
    run(FORK, mortal_server.connection_kwargs, str(journal))
    assert list(journal.iterdir()) == []


def test_an_interpreter_that_just_ends_leaves_a_journal(mortal_server, journal):
    script = (
        COMMON
        + """
client = ResilientRedisClient("ends", **options)
client.recovery.pause()
client.guard.force_open()
for number in range(100):
    assert client.with_priority(Priority.HIGH).rpush("list", number).durable
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([mortal_server.connection_kwargs, str(journal), False, False, 0])],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    options = {**mortal_server.connection_kwargs, "recovery": RecoveryConfig(path=journal)}
    with ResilientRedisClient("ends", **options) as successor:
        assert successor.with_priority(Priority.NORMAL).rpush("list", "last").wait(LONG_S)
        assert successor.lrange("list", 0, -1) == [*map(str, range(100)), "last"]
