"""The journal behind a client: what a successor finds, what is kept and says so, damage, several clients on one path."""

import json
import logging
import os
import random
import shutil
import stat

import pytest
from paths import FIXTURES

from agent_memory import AsyncResilientRedisClient, Priority, RecoveryConfig, RetryPolicy, StoreStatus
from agent_memory._concurrency import async_gather, async_in_thread, async_sleep, async_spawn
from agent_memory.errors import RecoveryJournalError

WAIT_S = 60.0
QUICK = {
    "retry_policy": RetryPolicy(max_retries=0),
    "retry_base_delay": 0.01,
    "retry_max_delay": 0.01,
    "probe_interval_s": 0.1,
}


@pytest.fixture(params=["always", "interval", "never"])
def fsync(request):
    return request.param


def open_client(server, path, name="journalled", **options):
    config = RecoveryConfig(**{"path": path, "base_delay": 0.01, "max_delay": 0.05, "close_timeout_s": 0} | options)
    return AsyncResilientRedisClient(name, **server.connection_kwargs, **QUICK, recovery=config)


async def test_a_successor_goes_on(mortal_server, journal, fsync):
    async with open_client(mortal_server, journal, fsync=fsync) as client:
        await client.set("text", "x")
        client.recovery.pause()
        client.guard.force_open()
        high = client.with_priority(Priority.HIGH)
        results = [await high.rpush("list", number) for number in range(50)]
        results += [await high.set("absolute", number, ex=1000) for number in range(5)]
        results.append(await high.pipeline().incr("a").incr("b").execute())
        results.append(await high.lpush("text", "poison"))
        assert {(result.status, result.durable) for result in results} == {(StoreStatus.QUEUED, True)}
        assert all(write.durable for write in client.recovery.pending())
        assert client.recovery.stats()["journal"]["records"] == 53
    assert results[0].status == "queued"
    assert await results[0].wait(0) is False
    for file in journal.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    async with open_client(mortal_server, journal, fsync=fsync) as client:
        assert await client.recovery.flush(WAIT_S)
        assert await client.lrange("list", 0, -1) == [str(number) for number in range(50)]
        assert await client.mget("absolute", "a", "b") == ["4", "1", "1"]
        assert [letter.reason for letter in client.recovery.dead_letters()] == ["rejected"]
    # Dead letters are kept, too.
    async with open_client(mortal_server, journal, fsync=fsync) as client:
        (letter,) = client.recovery.dead_letters()
        assert (letter.operation, letter.agent_id, letter.reason) == ("LPUSH", "text", "rejected")
        await client.delete("text")
        assert await client.recovery.retry(letter).wait(WAIT_S)
        assert await client.lrange("text", 0, -1) == ["poison"]
    assert list(journal.iterdir()) == []


async def test_a_plain_write_stays_behind_what_a_predecessor_left(mortal_server, journal):
    async with open_client(mortal_server, journal) as client:
        client.recovery.pause()
        client.guard.force_open()
        await client.with_priority(Priority.HIGH).rpush("list", "first")
    async with open_client(mortal_server, journal) as client:
        assert await client.rpush("list", "second") == 2
        assert await client.lrange("list", 0, -1) == ["first", "second"]


async def test_functions_registered_by_name(mortal_server, journal, caplog):
    async def store(agent_id, state):
        return await client.rpush(f"log:{agent_id}", state["value"])

    async with open_client(mortal_server, journal) as client:
        client.recovery.register("store", store)
        client.recovery.pause()

        async def fails(agent_id, state):
            return False

        closure = await client.store_with_retry("closure", {}, fails)
        assert (closure.status, closure.durable) == ("queued", False)
        assert "not registered" in caplog.text
        client.recovery.register("fails", fails)
        for by in (fails, "fails"):
            kept = await client.store_with_retry("kept", {"value": str(by == "fails")}, by)
            assert (kept.status, kept.durable) == ("queued", True)
        with pytest.raises(ValueError, match="store_func must be a function or a registered name, got 'unknown'"):
            await client.store_with_retry("agent", {}, "unknown")
        with pytest.raises(ValueError, match="name must be a non-empty str, got ''"):
            client.recovery.register("", store)
    async with open_client(mortal_server, journal) as client:
        assert client.recovery.stats()["unregistered"] == 2
        assert client.recovery.pending() == []
        client.recovery.register("fails", store)
        assert await client.recovery.flush(WAIT_S)
        assert await client.lrange("log:kept", 0, -1) == ["False", "True"]


async def test_data_that_cannot_be_encoded_waits_in_memory(mortal_server, journal, caplog):
    """The same call is accepted while the server is up and while it is away: a queued write never comes with an error."""
    ran = []

    async def store(agent_id, state):
        await client.set(f"agent:{agent_id}", str(sorted(state["when"])))
        ran.append(agent_id)
        return True

    def broken(state):
        raise RuntimeError("dumps itself is broken")

    async with open_client(mortal_server, journal) as client:
        client.recovery.register("store", store)
        assert (await client.store_with_retry("up", {"when": {1, 2}}, store)).status == "stored"
        await async_in_thread(mortal_server.kill)
        for agent_id, dumps in (("set", None), ("broken", broken), ("number", lambda state: 5)):
            if dumps is not None:
                client.recovery.register("store", store, dumps=dumps)
            result = await client.store_with_retry(agent_id, {"when": {1, 2}}, "store", Priority.HIGH)
            assert (result.status, result.durable) == ("queued", False)
        assert "data for 'store' cannot be encoded by its dumps (TypeError)" in caplog.text
        assert "(RuntimeError)" in caplog.text
        assert [write.durable for write in client.recovery.pending()] == [False] * 3
        await async_in_thread(mortal_server.restart)
        assert await client.recovery.flush(WAIT_S)
        assert sorted(ran) == ["broken", "number", "set", "up"]
        for wrong in ({"function": None}, {"dumps": 1}, {"loads": "json"}):
            with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a function, got"):
                client.recovery.register("wrong", **{"function": store} | wrong)


async def test_what_was_stored_anew_is_not_replaced_by_what_a_predecessor_left(mortal_server, journal, caplog):
    """The function is registered only after a newer write of the same agent; nothing of another agent is given up."""

    async def save(agent_id, state):
        return await client.set(f"agent:{agent_id}", state["value"])

    async with open_client(mortal_server, journal) as client:
        client.recovery.register("save", save)
        client.recovery.pause()
        client.guard.force_open()
        for agent_id in ("stored", "waits", "dropped", "other"):
            assert (await client.store_with_retry(agent_id, {"value": "old"}, "save")).durable
    async with open_client(mortal_server, journal) as client:
        assert await client.store_with_retry("stored", {"value": "new"}, save)
        client.recovery.pause()
        client.guard.force_open()
        assert (await client.store_with_retry("waits", {"value": "new"}, save)).status == "queued"
        assert (await client.store_with_retry("dropped", {"value": "new"}, save, Priority.LOW)).status == "dropped"
        assert caplog.text.count("is not registered: its agent was stored anew") == 2
        client.guard.reset()
        client.recovery.resume()
        assert await client.recovery.flush(WAIT_S)
    async with open_client(mortal_server, journal) as client:  # a restart forgets nothing of it
        client.recovery.register("save", save)
        assert await client.recovery.flush(WAIT_S)
        letters = {letter.agent_id: letter.reason for letter in client.recovery.dead_letters()}
        assert letters == {"stored": "overtaken", "waits": "overtaken"}
        values = await client.mget(*(f"agent:{agent_id}" for agent_id in ("stored", "waits", "dropped", "other")))
        assert values == ["new", "new", "old", "old"]


async def test_a_registration_that_is_interrupted_loses_nothing(mortal_server, journal):
    def fails(agent_id, state):
        return False

    async def store(agent_id, state):
        return await client.rpush("log", state)

    def interrupted(body):
        if body == b"2" and interruptions:
            raise interruptions.pop()
        return body.decode()

    async with open_client(mortal_server, journal) as client:
        client.recovery.pause()
        client.recovery.register("store", fails, dumps=str)
        for number in range(4):
            assert (await client.store_with_retry("agent", number, "store")).durable
    interruptions = [KeyboardInterrupt()]
    async with open_client(mortal_server, journal) as client:
        with pytest.raises(KeyboardInterrupt):
            client.recovery.register("store", store, loads=interrupted)
        assert client.recovery.stats()["unregistered"] == 2
        client.recovery.register("store", store, loads=interrupted)
        assert await client.recovery.flush(WAIT_S)
        assert client.recovery.stats()["unregistered"] == 0
        assert await client.lrange("log", 0, -1) == ["0", "1", "2", "3"]


async def test_data_that_cannot_be_read_stays_in_the_journal(mortal_server, journal, caplog):
    async def fails(agent_id, state):
        return False

    async def store(agent_id, state):
        return await client.rpush("log", agent_id, state)

    def odd(body):
        if b"odd" in body:
            raise RuntimeError("not mine")
        return body.decode()

    async with open_client(mortal_server, journal) as client:
        client.recovery.pause()
        client.recovery.register("store", fails, dumps=str)
        for state in ("odd", "even"):
            assert (await client.store_with_retry(state, state, "store")).durable
    async with open_client(mortal_server, journal) as client:
        client.recovery.register("store", store, loads=odd)
        assert await client.recovery.flush(WAIT_S)
        assert client.recovery.stats()["unregistered"] == 1
        assert "a record of 'store' cannot be read by its loads (RuntimeError): it stays in the journal" in caplog.text
    async with open_client(mortal_server, journal) as client:
        client.recovery.register("store", store, loads=bytes.decode)
        assert await client.recovery.flush(WAIT_S)
        assert await client.lrange("log", 0, -1) == ["even", "even", "odd", "odd"]


async def test_clients_share_a_directory(mortal_server, journal):
    """Each has its own part; another name or database is another client; the queue of a living process is not replayed."""
    clients = [open_client(mortal_server, journal, name=name) for name in ("same", "same", "other")]
    for number, client in enumerate(clients):
        client.recovery.pause()
        client.guard.force_open()
        await client.with_priority(Priority.HIGH).rpush("list", number)
    late = open_client(mortal_server, journal, name="same")
    assert late.recovery.pending() == []
    assert late.recovery.stats()["journal"]["foreign_segments"] == 1
    for client in (*clients, late):
        await client.close()
    async with open_client(mortal_server, journal, name="same") as client:
        assert await client.recovery.flush(WAIT_S)
        assert await client.lrange("list", 0, -1) == ["0", "1"]
    async with open_client(mortal_server, journal, name="other") as client:
        assert await client.recovery.flush(WAIT_S)
        assert await client.lrange("list", 0, -1) == ["0", "1", "2"]


async def test_a_client_that_is_opened_again(mortal_server, journal):
    client = open_client(mortal_server, journal)
    for value in range(3):
        await client.init()
        client.recovery.pause()
        client.guard.force_open()
        await client.with_priority(Priority.HIGH).rpush("list", value)
        await client.close()
    client.guard.reset()
    client.recovery.resume()
    await client.init()
    assert await client.recovery.flush(WAIT_S)
    assert await client.lrange("list", 0, -1) == ["0", "1", "2"]
    await client.close()


async def test_written_ahead(mortal_server, journal):
    async with open_client(mortal_server, journal, write_ahead=True) as client:
        assert (await client.with_priority(Priority.HIGH).incr("number")).value == 1
        with pytest.raises(Exception, match="wrong kind of value"):
            await client.with_priority(Priority.LOW).lpush("number", 1)
        await async_in_thread(mortal_server.kill)
        dropped = await client.with_priority(Priority.LOW).incr("number")
        queued = await client.with_priority(Priority.HIGH).incr("number")
        assert (dropped.status, queued.status, queued.durable) == ("dropped", "queued", True)
        await async_in_thread(mortal_server.restart)
        assert await queued.wait(WAIT_S)
        assert await client.get("number") == "2"
        figures = client.recovery.stats()["journal"]
        assert figures["appended"] >= 4
    assert list(journal.iterdir()) == []


def killed(journal, copy):
    """A copy of the directory at this moment, which is what a kill leaves; its log."""
    shutil.copytree(journal, copy)
    (log,) = copy.glob("*.journal")
    return log


@pytest.mark.parametrize("damage", ["bits", "cut", "block twice", "both headers"])
async def test_a_damaged_journal(mortal_server, journal, caplog, damage):
    """Intact records are replayed as written, lost ones are reported; seeds 0 to 5."""
    for seed in range(6):
        chance = random.Random(f"{damage} {seed}")
        written = {f"key:{seed}:{number}": f"{number:04}" * 60 for number in range(120)}
        # A journal of its own: writes found in it might be sent before pause(), and their frames tell what was executed.
        client = open_client(mortal_server, journal / str(seed), fsync="never")
        client.recovery.pause()
        client.guard.force_open()
        stores = [async_spawn(client.with_priority(Priority.HIGH).set, *pair) for pair in written.items()]
        assert all(result.durable for result in await async_gather(*stores))
        log = killed(journal / str(seed), journal.with_name(f"{damage}-{seed}"))
        await client.close()
        data = bytearray(log.read_bytes())
        if damage == "bits":
            for _ in range(5):
                data[chance.randrange(8_192, len(data))] ^= 1 << chance.randrange(8)
        elif damage == "cut":
            del data[chance.randrange(8_192, len(data)) :]
        elif damage == "block twice":
            place = chance.randrange(8_192, len(data) - 4_096)
            data[place:place] = data[chance.randrange(8_192, len(data) - 512) :][:512]
        else:
            data[:8_192] = bytes(8_192)
        log.write_bytes(data)
        caplog.clear()
        caplog.set_level(logging.WARNING)
        async with open_client(mortal_server, log.parent) as successor:
            assert await successor.recovery.flush(WAIT_S)
            found = dict(zip(written, await successor.mget(written), strict=True))
            figures = successor.recovery.stats()["journal"]
            reported = successor.health().damaged_records
            await successor.flushall()
        assert all(value in (None, written[key]) for key, value in found.items())
        lost = list(found.values()).count(None)
        if damage == "cut":
            assert (figures["damaged_segments"], reported) == (0, 0)
            assert figures["torn_bytes"] == 0 or "an unfinished write, as a crash leaves them" in caplog.text
            continue
        assert figures["damaged_segments"] == 1
        assert figures["damaged_files"] == [str(log)]
        assert figures["damaged_bytes"] > 0
        assert reported >= 1
        assert f"the journal was damaged ({log})" in caplog.text
        assert log.with_suffix(".damaged").read_bytes() == data
        assert stat.S_IMODE(log.with_suffix(".damaged").stat().st_mode) == 0o600
        if damage == "bits":
            assert figures["damaged_records"] >= lost
            assert lost <= 5
        elif damage == "block twice":
            assert lost <= 1


async def test_writes_that_damage_may_have_hidden_the_end_of_are_not_replayed(mortal_server, journal, caplog):
    """They become dead letters: replayed, an older value might overwrite a newer one. Another restart changes nothing."""
    async with open_client(mortal_server, journal) as client:
        client.recovery.pause()
        client.guard.force_open()
        high = client.with_priority(Priority.HIGH)
        for key in ("executed", "waits"):
            await high.set(key, "old")
        (log,) = journal.glob("*.journal")
        before = log.stat().st_size
        records = [entry.payload.record for entry in client._engine.queue.core.entries()]
        await client._engine.keeper.journal.finish(records[:1])
        after = log.stat().st_size
        await high.set("later", "new")
        log = killed(journal, journal.with_name("killed"))
    data = bytearray(log.read_bytes())
    data[before:after] = b"\xff" * (after - before)
    log.write_bytes(data)
    for _ in range(2):
        async with open_client(mortal_server, log.parent) as successor:
            assert await successor.recovery.flush(WAIT_S)
            letters = [(letter.agent_id, letter.reason) for letter in successor.recovery.dead_letters()]
            assert letters == [("executed", "damaged"), ("waits", "damaged")]
            assert await successor.mget("executed", "waits", "later") == [None, None, "new"]
    assert "of 2 records it is unknown whether they were executed" in caplog.text
    async with open_client(mortal_server, log.parent) as successor:
        (waits,) = [letter for letter in successor.recovery.dead_letters() if letter.agent_id == "waits"]
        assert await successor.recovery.retry(waits).wait(WAIT_S)
        assert await successor.get("waits") == "old"


@pytest.mark.parametrize("loses_lock", [False, True])
@pytest.mark.parametrize("left_by", ["killed", "closed"])
async def test_a_journal_of_the_version_before(mortal_server, journal, left_by, loses_lock):
    """It opens and keeps everything; tests/fixtures/README.md says what is in it."""
    shutil.copytree(FIXTURES / "journal_sqlite" / left_by, journal)
    journal.chmod(0o700)
    identity = json.dumps(["journalled", f"127.0.0.1:{mortal_server.port}", 0])
    for file in journal.iterdir():
        file.chmod(0o600)
        if file.suffix == ".lock":
            file.write_text(identity)
            if loses_lock:
                file.unlink()

    async def save(agent_id, state):
        return await client.set(f"agent:{agent_id}", state["value"])

    async with open_client(mortal_server, journal, max_age_s=1e9) as client:
        client.recovery.register("save", save)
        assert await client.recovery.flush(WAIT_S)
        assert await client.lrange("list", 0, -1) == [str(number) for number in range(12)]
        assert await client.mget("absolute", "a", "b", "agent:agent", "gone", "doubt") == [
            "last",
            "1",
            "1",
            "kept",
            None,
            None,
        ]
        assert await client.client.pttl("absolute") > 0
        assert await client.client.hstrlen("hash", "field") == 1_200
        letters = {(letter.operation, letter.agent_id, letter.reason) for letter in client.recovery.dead_letters()}
        assert letters == {("LPUSH", "text", "rejected"), ("INCRBY", "doubt", "unknown")}
        assert client._engine.keeper.journal.notes[0, "note"] == b"body"
        assert client.recovery.stats()["journal"]["damaged_segments"] == 0
        assert [file.suffix for file in journal.iterdir()] == [".journal"]


@pytest.mark.parametrize(
    "planted",
    ["directory for all", "file for all", "symbolic link", "hard link", "fifo", "foreign", "foreign directory"],
)
async def test_a_planted_journal_is_refused(mortal_server, journal, tmp_path, planted):
    async with open_client(mortal_server, journal) as client:
        client.recovery.pause()
        client.guard.force_open()
        await client.with_priority(Priority.HIGH).set("admin", "planted")
    (log,) = journal.glob("*.journal")
    if planted.startswith("foreign"):
        if os.getuid():
            pytest.skip("only root can give a file away")
        os.chown(log if planted == "foreign" else journal, 65534, 65534)
        rule = "belongs to user 65534, and this process runs as user 0"
    elif planted == "directory for all":
        journal.chmod(0o777)
        rule = r"may be written by others \(mode 0777\): chmod go-w"
    elif planted == "file for all":
        log.chmod(0o666)
        rule = r"may be written by others \(mode 0666\): chmod go-w"
    elif planted == "hard link":
        os.link(log, tmp_path / "elsewhere")
        rule = r"has 2 names \(hard links\)"
    else:
        os.rename(log, tmp_path / "elsewhere")
        rule = "is not a regular file"
        if planted == "fifo":
            os.mkfifo(log)
        else:
            log.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecoveryJournalError, match=rule):
        open_client(mortal_server, journal)


async def test_a_path_that_cannot_be_used(mortal_server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RecoveryJournalError, match="the journal failed"):
        open_client(mortal_server, tmp_path / "file")


def sync_fails(journal):
    """From now on the log of a journal takes every write, and each fdatasync of it fails: /dev/null stands in its place.

    Puts the file back when it is called.
    """
    (log,) = journal.glob("*.journal")
    open_here = [int(number) for number in os.listdir("/proc/self/fd")]
    logs = [number for number in open_here if os.path.realpath(f"/proc/self/fd/{number}") == str(log.resolve())]
    assert logs, "nobody has the log open"
    real = [os.dup(number) for number in logs]
    nowhere = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(OSError, match="Invalid argument"):
        os.fdatasync(nowhere)
    for number in logs:
        os.dup2(nowhere, number)
    os.close(nowhere)

    def put_back():
        for number, kept in zip(logs, real, strict=True):
            os.dup2(kept, number)
            os.close(kept)

    return put_back


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("fsync", ["always", "interval"])
async def test_an_fdatasync_that_fails_closes_the_journal(mortal_server, journal, fsync):
    client = open_client(mortal_server, journal, fsync=fsync, fsync_interval_s=0.05)
    client.recovery.pause()
    client.guard.force_open()
    high = client.with_priority(Priority.HIGH)
    assert (await high.set("before", 1)).durable
    put_back = sync_fails(journal)
    try:
        lost = await high.set("lost", 1)
        if fsync == "interval":  # it was kept to that degree before the disk was asked
            while client.recovery.stats()["journal"]["closed"] is None:
                await async_sleep(0.01)
            lost = await high.set("lost", 1)
        for result in (lost, await high.set("later", 1)):
            assert (result.status, result.durable) == ("failed", False)
            assert isinstance(result.error, RecoveryJournalError)
            assert "its disk failed to sync" in str(result.error)
        assert "its disk failed to sync" in client.recovery.stats()["journal"]["closed"]
    finally:
        put_back()
    await client.close()
    async with open_client(mortal_server, journal) as successor:
        assert await successor.recovery.flush(WAIT_S)
        assert await successor.get("before") == "1"
        assert await successor.get("later") is None, "told to have failed"
