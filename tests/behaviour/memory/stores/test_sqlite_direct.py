"""What the core writes into SQLite by itself: the same as Python does through sqlite3, or nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from unittest import mock

import pytest
import store_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import WRITER, Clock, copy, engine_through_python, put

from agent_memory import _core
from agent_memory._core import MemoryWriter
from agent_memory.memory import MemoryStoreUnavailableError, SqliteSettings, Tier, _copy
from agent_memory.memory.stores import Delete, MemoryQuery, Move, Put, WriteStatus, _compression
from agent_memory.memory.stores._planned import CLASSES
from agent_memory.memory.stores.sqlite import SqliteStore, _engine, _maintaining
from agent_memory.memory.stores.sqlite._waiters import Waiter

APPLIED = WriteStatus.APPLIED
TABLES = {
    "agents": 0,
    "memories": 1,
    "vectors": None,
    "memory_tags": 0,
    "accesses": None,
    "user_fences": None,
    "requests": 0,
}
"""And in which column each has an agent's number."""


@pytest.fixture(autouse=True, scope="module")
def _it_can_write_directly():
    """An interpreter may hide its SQLite: then there is nothing to test here, except on CI, where these tests fail."""
    module_file = getattr(_engine._sqlite3, "__file__", None)
    connection, writer = MemoryWriter.open(lambda: sqlite3.connect(":memory:"), module_file, CLASSES, (1, 1, 1.0), True)
    writer.release()
    connection.close()
    if not writer.is_direct and os.environ.get("CI") != "true":
        pytest.skip("this interpreter hides its SQLite library")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "memories.db"


def tables(path):
    """Everything in a store's file, with agents' names instead of their arbitrary numbers."""
    connection = sqlite3.connect(path)
    names = dict(connection.execute("SELECT agent_no, agent_id FROM agents"))

    def named(row, column):
        return row if column is None else (*row[:column], names[row[column]], *row[column + 1 :])

    rows = {
        table: sorted((named(row, column) for row in connection.execute(f"SELECT * FROM {table}")), key=repr)
        for table, column in TABLES.items()
    }
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    return rows


def written_directly(store):
    return store._engine._writer.stats()[1]


# --- the same as through sqlite3 ---

AGENTS, IDS, NAMES = ("a", "b"), ("m1", "m2", "m3", "m4", "m5", "m6"), ("", "", "x", "y")

puts = st.builds(
    lambda memory_id, agent_id, content, key, idempotency, user, tier, tags, vector, extra: Put(
        copy(
            content,
            memory_id=memory_id,
            agent_id=agent_id,
            key=key or None,
            idempotency_key=idempotency or None,
            user_id=user or None,
            tier=tier,
            tags=tags,
            embedding=[0.5, -2.0] if vector else None,
            namespace=("n",) if extra else (),
            metadata={"m": 1} if extra else None,
            step=7 if extra else None,
            expires_at=9e9 if extra else None,
            deduplicate=content == "twice",
            created_us=5 if extra else 0,
        )
    ),
    st.sampled_from(IDS),
    st.sampled_from(AGENTS),
    st.sampled_from(("one", "twice", "Grüße \U0001f642", b"\x00\xff", {"a": [1, None]}, "long " * 40)),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.sampled_from(tuple(Tier)),
    st.sampled_from(((), ("t",), ("t", "ü"))),
    st.booleans(),
    st.booleans(),
)
moves = st.tuples(
    st.sampled_from(IDS), st.sampled_from((*AGENTS, "nobody")), st.booleans(), st.sampled_from(tuple(Tier))
)
deletes = st.builds(
    lambda memory_id, agent_id, version, erases: Delete(
        memory_id, agent_id, version and Clock().now_us + version, WRITER, erases=erases
    ),
    st.sampled_from(IDS),
    st.sampled_from(AGENTS),
    st.sampled_from((0, 0, 3, 40)),
    st.booleans(),
)
dirty_puts = st.builds(
    lambda one, version: Put(_copy.accepted(one.copy, Clock().now_us + version, WRITER, 5, 0, 0)),
    puts,
    st.integers(1, 60),
)
calls = st.one_of(
    st.lists(puts, min_size=1, max_size=4),
    st.lists(moves, min_size=1, max_size=4),
    st.lists(st.one_of(puts, dirty_puts, deletes, moves), min_size=1, max_size=5),
    st.sampled_from([("agent", "a"), ("user", "x")]),
    st.just("train"),
)


def add_dictionary(store):
    engine, waiter = store._engine, Waiter()
    data = b"one twice long long long " * 20
    engine.submit_function(
        waiter, lambda connection: _maintaining.add_dictionary(connection, engine.compression, 1, data)
    )
    return waiter.wait()


def perform(store, call):
    if call == "train":
        return add_dictionary(store)
    if isinstance(call, tuple):
        begun = store.begin_erasure(*call)
        return begun, store.erase(*call)
    held = {one.id: one.version for one in store.get(list(IDS)) if one is not None}
    operations = [
        Move(one[0], one[1], held.get(one[0], 0) + one[2], one[3]) if one.__class__ is tuple else one for one in call
    ]
    return store.write(operations)


@settings(deadline=None, max_examples=150)
@given(st.lists(calls, max_size=8), st.integers(-5, 50))
def test_it_writes_what_python_would(tmp_path_factory, history, tick):
    bounds = {"MIN_COMPRESSED_BYTES": 16, "MIN_PLAIN_BYTES": 100}
    found = []
    for is_direct in (True, False):
        clock = Clock()
        place = tmp_path_factory.mktemp("direct") / "memories.db"
        engine = engine_through_python(place, clock)
        store = SqliteStore(place, clock_us=clock) if is_direct else SqliteStore.of_engine(engine)
        store._engine.writer_number = WRITER
        answers = []
        with mock.patch.multiple(_compression, **bounds), store:
            for call in history:
                answers.append(perform(store, call))
                clock.now_us += tick
        found.append((answers, tables(place)))
    assert found[0] == found[1]


def test_new_memories_and_moves_are_written_directly(path):
    with SqliteStore(path) as store:
        results = store.write([put(tags=("t",), key=f"k{n}", idempotency_key=f"i{n}", user_id="u") for n in range(5)])
        assert written_directly(store) == 5
        moved = store.write([Move(one.id, "agent", one.version, Tier.IM) for one in results])
        assert [one.status for one in moved] == [APPLIED] * 5
        assert written_directly(store) == 10
        assert store.stats().transactions == 2
        assert store.stats().writes == 10


def test_what_is_not_new_is_written_directly_as_well(path):
    with SqliteStore(path) as store:
        first, *_ = store.write([put(memory_id="m", key="k", idempotency_key="i"), put(deduplicate=True)])
        for again, status in (
            (put(key="k"), APPLIED),
            (put(idempotency_key="i"), WriteStatus.EXISTING),
            (put(deduplicate=True), WriteStatus.EXISTING),
            (put(memory_id="c", if_version=3), WriteStatus.ABSENT),
            (put(memory_id="m"), APPLIED),
        ):
            assert store.write([put(), again])[1].status is status
        # Two of one call that stand for one another are not both new.
        pair = store.write([put(idempotency_key="j"), put(idempotency_key="j")])
        assert pair[1].id == pair[0].id
        assert store.count(MemoryQuery(agent_id="agent")) == 8
        assert first.status is APPLIED
        (deleted,) = store.write([Delete("m", "agent", writer=WRITER)])
        assert deleted.existed
        assert written_directly(store) == store.stats().writes == 2 + 5 * 2 + 2 + 1


def known_ids(version):
    """Puts of which nothing but the id can be known, some of them known, each in a call with new ones."""
    known = [("held", "agent"), ("gone", "agent"), ("held", "another"), ("n01", "agent"), ("new", "agent")]
    return [
        [
            put(memory_id=f"n{number}1"),
            put("later", memory_id=memory_id, agent_id=agent_id, version=version, embedding=[0.5]),
            put(memory_id=f"n{number}2"),
        ]
        for number, (memory_id, agent_id) in enumerate(known)
    ]


@pytest.mark.parametrize("version", [0, 5, Clock().now_us + 1_000], ids=["no version", "lower", "greater"])
@pytest.mark.parametrize("first", range(5))
def test_ids_that_are_not_looked_up_are_decided_by_what_is_held_all_the_same(tmp_path, version, first):
    found = []
    for is_direct in (True, False):
        clock = Clock()
        engine = engine_through_python(tmp_path / f"{is_direct}.db", clock)
        engine._writes_directly = is_direct
        with SqliteStore.of_engine(engine) as store:
            store.write([put(memory_id="held", key="k", user_id="u", tags=["t"]), put(memory_id="gone")])
            store.write([Delete("gone", "agent", writer=WRITER)])
            before = store.stats().transactions
            answers = [store.write(call) for call in known_ids(version)[first:]]
            assert store.stats().transactions == before + len(answers), "what was tried in vain is none"
            assert written_directly(store) == (store.stats().writes if is_direct else 0)
        found.append((answers, tables(engine.path)))
    assert found[0] == found[1]


def test_after_an_id_that_was_known_ids_are_looked_up_for_a_while_only(path):
    with SqliteStore(path) as store:
        store.write([put(memory_id="m")])
        for number in range(40):
            results = store.write([put(memory_id="m"), put(memory_id=f"m{number}"), put(memory_id=f"m{number}")])
            assert [one.existed for one in results] == [True, False, True]
        assert store.count(MemoryQuery(agent_id="agent")) == 41


def test_a_long_call_goes_through_several_transactions_and_keeps_its_order(path, monkeypatch):
    monkeypatch.setattr(_engine, "MAX_TRANSACTION_WRITES", 10)
    with SqliteStore(path) as store:
        store.write([put(memory_id="old")])
        operations = [put() for _ in range(35)]
        operations[25] = put(memory_id="old")
        results = store.write(operations)
        assert [one.id for one in results] == [one.copy.id for one in operations]
        assert [one.seq for one in results] == list(range(2, 37))
        assert [one.existed for one in results] == [number == 25 for number in range(35)]
        assert written_directly(store) == 36
        store.close()
        store.open()
        assert (store.stats().transactions, store.stats().writes) == (0, 0)


def test_a_new_memory_of_an_erased_user_is_above_the_fence(path):
    with SqliteStore(path, clock_us=Clock()) as store:  # a clock that stands still
        store.write([put(user_id="u")])
        store.begin_erasure("user", "u")
        (result,) = store.write([put(memory_id="m", agent_id="another", user_id="u")])
        assert result.status is APPLIED
        assert store.get(["m"]) == [result.copy], "and so it is read"


def test_a_move_that_has_to_compress_is_left_to_python(path, monkeypatch):
    monkeypatch.setattr(_compression, "MIN_COMPRESSED_BYTES", 100)

    def dictionary():
        connection = sqlite3.connect(path)
        (number,) = connection.execute("SELECT dictionary FROM memories WHERE id = 'm'").fetchone()
        connection.close()
        return number

    content = "one twice long long long " * 8
    with SqliteStore(path) as store:
        (stored,) = store.write([put(content, memory_id="m")])

        def move(tier):
            assert store.write([Move("m", "agent", stored.version, tier)])[0].status is APPLIED
            return written_directly(store)

        assert move(Tier.LTM) == 2, "without a dictionary it is too short"
        assert dictionary() == -1
        assert move(Tier.IM) == 3
        for number in (1, 2):
            assert add_dictionary(store) == number
            assert move(Tier.LTM) == 2 + number, "as it was, then of an older dictionary"
            assert dictionary() == number
            assert move(Tier.IM) == 3 + number
        assert move(Tier.LTM) == 6, "of the newest one"
        assert store.get(["m"])[0].content == content.encode()


def test_jobs_that_wait_share_a_transaction_and_have_answers_of_their_own(path):
    with SqliteStore(path, config=SqliteSettings(busy_timeout_s=30.0)) as store:
        store.write([put(memory_id="old")])
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        answers = {}

        def write(name):
            answers[name] = store.write([put(memory_id=name)])[0]

        threads = [threading.Thread(target=write, args=(name,)) for name in ("first", "a", "old", "b")]
        for count, thread in enumerate(threads, start=1):
            thread.start()
            while store._engine._writer.pending < count:
                threading.Event().wait(0.001)
        holder.execute("ROLLBACK")
        holder.close()
        for thread in threads:
            thread.join()
        assert {one.status for one in answers.values()} == {APPLIED}
        assert answers["old"].existed
        assert written_directly(store) == 5


# --- the connection ---


def test_after_close_nothing_is_left_open(path):
    store = SqliteStore(path)
    store.open()
    store.write([put()])
    store.close()
    assert os.listdir(path.parent) == [path.name], "the last connection removes the log"
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd != "."
                  and os.path.exists(f"/proc/self/fd/{fd}")]  # fmt: skip
    assert str(path) not in open_files
    store.open()
    store.write([put()])
    assert store.count(MemoryQuery(agent_id="agent")) == 2
    store.close()


def test_sqlite3_of_the_same_process_may_look_at_the_file_meanwhile(path):
    # With a second SQLite library in the process, closing this connection would end the locks of the first.
    with SqliteStore(path) as store:
        for _ in range(3):
            store.write([put() for _ in range(20)])
            visitor = sqlite3.connect(path)
            assert visitor.execute("SELECT count(*) FROM memories").fetchone()[0] % 20 == 0
            visitor.close()
        other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA wal_checkpoint(TRUNCATE)')"
        subprocess.run([sys.executable, "-c", other, str(path)], check=True)
        store.write([put()])
        assert store.count(MemoryQuery(agent_id="agent")) == 61
    assert len(tables(path)["memories"]) == 61


def test_each_store_has_the_connection_that_it_opened(tmp_path):
    # Other threads open connections all the time: none of them may be taken for the store's.
    ends = threading.Event()

    def busy():
        while not ends.is_set():
            sqlite3.connect(":memory:").close()

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        stores = [SqliteStore(tmp_path / f"{number}.db") for number in range(10)]
        for store in stores:
            store.open()
        for number, store in enumerate(stores):
            store.write([put(agent_id=f"agent{number}") for _ in range(number + 1)])
            assert written_directly(store) == number + 1
            store.close()
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    for number in range(10):
        rows = tables(tmp_path / f"{number}.db")
        assert len(rows["memories"]) == number + 1
        assert rows["agents"][0][1] == f"agent{number}"


def test_where_the_library_is_not_found_python_does_it(path, monkeypatch):
    # Nor is the one found that is linked into the core, for the journal.
    for file in ("/missing.so", _core.__file__):
        connection, writer = MemoryWriter.open(lambda: sqlite3.connect(":memory:"), file, CLASSES, (10, 10, 1.0), True)
        assert not writer.is_direct
        assert writer.log_pages is None
        connection.close()
    monkeypatch.setattr(_engine, "_sqlite3", object())
    # Without a file of its own the module is a part of the interpreter, which does not have SQLite here.
    with SqliteStore(path) as store:
        results = store.write([put(), put()])
        assert [one.status for one in results] == [APPLIED] * 2
        assert store.stats().writes == 2


def test_a_function_that_opens_no_connection_or_two_has_none_caught():
    module_file = _engine._sqlite3.__file__
    for connect in (lambda: None, lambda: (sqlite3.connect(":memory:"), sqlite3.connect(":memory:"))):
        opened, writer = MemoryWriter.open(connect, module_file, CLASSES, (10, 10, 1.0), True)
        assert not writer.is_direct
        for connection in opened or ():
            connection.close()

    def fails():
        connection = sqlite3.connect(":memory:")
        connection.close()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        MemoryWriter.open(fails, module_file, CLASSES, (10, 10, 1.0), True)


def test_a_connection_that_its_owner_closed_is_refused(path):
    store = SqliteStore(path)
    store.open()
    store.write([put()])
    store.close()
    connection, writer = MemoryWriter.open(
        lambda: sqlite3.connect(path, isolation_level=None),
        _engine._sqlite3.__file__,
        CLASSES,
        (10, 10, 1.0),
        True,
    )
    assert writer.is_direct
    connection.close()  # before the writer has released it
    pending = writer.submit_direct([put()], 1, None, 1, 0)
    writer.close()
    assert writer.work(1_000) is None
    assert pending.results() is None, "nothing written: it is left to Python"
    writer.release()
    assert len(tables(path)["memories"]) == 1


FORK = """
import os, signal, sqlite3, sys, threading
sys.path.insert(0, sys.argv[2])
from store_samples import put
from agent_memory.memory import SqliteSettings
from agent_memory.memory.stores.sqlite import SqliteStore
store = SqliteStore(sys.argv[1], config=SqliteSettings(busy_timeout_s=30.0))
store.open()
store.write([put(memory_id="before")])
holder = sqlite3.connect(sys.argv[1], isolation_level=None)
holder.execute("BEGIN IMMEDIATE")
thread = threading.Thread(target=store.write, args=([put(memory_id="parent")],))
thread.start()
while not store._engine._writer.pending:
    threading.Event().wait(0.001)
threading.Event().wait(0.1)  # the writer is inside of SQLite now, and waits there
pid = os.fork()
if not pid:
    signal.alarm(20)
    sys.exit(0)  # an orderly end, with all that it frees
holder.close()
thread.join()
status = os.waitpid(pid, 0)[1]
store.write([put(memory_id="after")])
print(status, all(store.get(["before", "parent", "after"])))
store.close()
"""


def test_a_child_forked_while_the_writer_is_at_work_ends_in_order(path):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(path), os.path.dirname(store_samples.__file__)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.split() == ["0", "True"]


# --- faults ---


def test_a_locked_database_is_unavailable_and_nothing_is_written(path):
    with SqliteStore(path, config=SqliteSettings(busy_timeout_s=0.05)) as store:
        store.write([put(memory_id="m")])
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        for operation in (put(), Move("m", "agent", store.get(["m"])[0].version, Tier.IM)):
            with pytest.raises(MemoryStoreUnavailableError, match="locked"):
                store.write([operation])
        holder.close()
        assert store.count(MemoryQuery(agent_id="agent")) == 1
        assert store.write([put()])[0].status is APPLIED


@pytest.fixture
def keyboard_interrupts():
    """Python's handler of SIGINT, also in a process that a shell has started in the background, which ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard_interrupts")
def test_a_caller_of_a_locked_database_can_be_interrupted(path):
    with SqliteStore(path, config=SqliteSettings(busy_timeout_s=60.0)) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")

        def interrupt():
            while not store._engine._writer.pending:
                threading.Event().wait(0.001)
            signal.raise_signal(signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            store.write([put(memory_id="m")])
        thread.join()
        holder.close()
        store.write([put()])
        assert store.get(["m"]) != [None], "what it waited for is done all the same"


def test_what_waited_for_long_is_of_the_time_at_which_it_was_written(path):
    clock = Clock()
    with SqliteStore(path, config=SqliteSettings(busy_timeout_s=30.0), clock_us=clock) as store:
        assert store.write([put()])[0].version == clock.now_us
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        answers = []
        threads = [threading.Thread(target=lambda: answers.extend(store.write([put()]))) for _ in range(2)]
        for count, thread in enumerate(threads, start=1):
            thread.start()
            while store._engine._writer.pending < count:
                threading.Event().wait(0.001)
        threading.Event().wait(0.3)
        holder.close()
        for thread in threads:
            thread.join()
        assert min(one.version for one in answers) >= clock.now_us + 100_000
        assert store.agent("agent").touched_us >= clock.now_us + 100_000


FULL = """
import json, resource, sys
sys.path.insert(0, sys.argv[2])
from store_samples import put
from agent_memory.memory import MemoryStoreUnavailableError
from agent_memory.memory.stores.sqlite import SqliteStore
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SqliteStore(sys.argv[1])
store.open()
kept = [one.id for one in store.write([put() for _ in range(10)])]
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, -1))
refused = 0
for _ in range(200):
    try:
        kept += [one.id for one in store.write([put("x" * 2_000) for _ in range(10)])]
    except MemoryStoreUnavailableError:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
kept += [one.id for one in store.write([put()])]
print(json.dumps([refused, kept, store._engine._writer.stats()[1]]))
"""


def test_a_full_disk_is_reported_and_acknowledged_writes_stay(path):
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(path), os.path.dirname(store_samples.__file__)],
        check=True,
        capture_output=True,
        text=True,
    )
    refused, kept, direct = json.loads(run.stdout)
    assert refused > 0
    assert direct == len(kept)
    with SqliteStore(path) as store:
        assert all(store.get(kept))
        assert store.count(MemoryQuery(agent_id="agent")) == len(kept)
        assert store.agent("agent").counts == (len(kept), 0, 0)
    tables(path)


def test_the_log_stays_small_and_grows_while_a_reader_is_open(path, monkeypatch):
    monkeypatch.setattr(_engine, "WAL_BYTES", 1024 * 1024)
    log = path.with_name(path.name + "-wal")
    with SqliteStore(path) as store:

        def write():
            for _ in range(30):
                store.write([put("x" * 2_000) for _ in range(50)])

        write()
        assert log.stat().st_size < 3 * 1024 * 1024, "three times as much was written"
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM memories").fetchone()
        write()
        assert log.stat().st_size > 3 * 1024 * 1024
        reader.close()
        write()
        assert store._engine._writer.log_pages * 16_384 < 3 * 1024 * 1024, "folded once nobody reads"
        assert store.count(MemoryQuery(agent_id="agent")) == 4_500


def test_an_open_reader_does_not_keep_writers_waiting_all_the_time(path, monkeypatch):
    monkeypatch.setattr(_engine, "WAL_LIMIT_FACTOR", 2)
    monkeypatch.setattr(_engine, "WAL_BYTES", 1024 * 1024)
    with SqliteStore(path, config=SqliteSettings(busy_timeout_s=0.01)) as store:
        store.write([put()])
        statements = []
        store._engine._connection.set_trace_callback(statements.append)
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM memories").fetchone()
        for _ in range(80):
            store.write([put("x" * 2_000) for _ in range(50)])
        megabytes = store._engine._writer.log_pages * 16_384 / 2**20
        waited = sum("TRUNCATE" in statement for statement in statements)
        assert 1 <= waited <= megabytes
        reader.close()
