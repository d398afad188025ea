"""The blocking transport between threads, signals, processes and the end of the interpreter."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import redis
from fake_server import FakeServer, bulk

from agent_memory.errors import ConnectionLimitError, Outcome, RedisTimeoutError, RedisUnavailableError

MARGIN_S = 1.0


def run(threads, timeout_s=30):
    """Start the threads, wait for all of them."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
        assert not thread.is_alive()


def run_script(script, *arguments, timeout_s=60):
    """Run a script in an interpreter of its own; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_threads_share_a_bounded_number_of_connections(valkey, connect):
    client = connect(valkey, max_connections=4)
    wrong = []

    def work(name):
        for number in range(300):
            key, value = f"{name}:{number}", f"value of {name}:{number}".encode()
            client.set(key, value)
            if client.get(key) != value:
                wrong.append(key)

    run([threading.Thread(target=work, args=(name,)) for name in range(16)])
    assert wrong == []
    with redis.Redis(**valkey.connection_kwargs) as observer:
        assert len(observer.client_list()) <= 4 + 1


@pytest.mark.parametrize("once", [False, True])
def test_a_channel_that_is_retired_while_it_is_in_use_does_not_return_to_the_pool(valkey, connect, proxy, once):
    between = proxy((valkey.connection_kwargs["host"], valkey.connection_kwargs["port"]))
    where = {"host": between.host, "port": between.port, "exactly_once": once}
    client = connect(valkey, socket_timeout=30.0, **where)
    client.set("key", "value")
    transport = client.transport_here()
    (old,) = transport._open
    between.pause()
    seen = []
    reader = threading.Thread(target=lambda: seen.append(client.get("key")))
    reader.start()
    while old in list(transport.idle):
        time.sleep(0.001)
    transport.retire()
    between.resume()
    reader.join(30)
    assert seen == [b"value"], "no call fails"
    assert old not in list(transport.idle)
    assert client.get("key") == b"value"
    assert old not in list(transport._open)
    assert len(transport._open) == 1
    assert not transport._waiting
    assert not transport._retired.pending


def test_the_wait_for_a_connection_is_bounded(valkey, connect):
    client = connect(valkey, max_connections=2, socket_timeout=0.5)
    client.ping()
    holders = [threading.Thread(target=client.blpop, args=(f"list:{number}", 3)) for number in range(2)]
    for holder in holders:
        holder.start()
    time.sleep(0.3)
    started_s = time.monotonic()
    with pytest.raises(ConnectionLimitError) as caught:
        client.incr("counter")
    assert 0.4 < time.monotonic() - started_s < 0.5 + MARGIN_S
    assert caught.value.outcome is Outcome.NOT_SENT
    assert client.guard.state == "closed"
    for number in range(2):
        with redis.Redis(**valkey.connection_kwargs) as other:
            other.rpush(f"list:{number}", "element")
    for holder in holders:
        holder.join(10)
    assert client.incr("counter") == 1


def test_connections_that_the_server_closed_while_idle_are_not_used(start_server, connect):
    server = start_server(transport="tcp", config={"timeout": 1})
    client = connect(server, resilience=None)
    with redis.Redis(**server.connection_kwargs) as observer:
        client.incr("counter")
        time.sleep(2.5)  # the server closes what was idle for a second
        assert client.incr("counter") == 2
        observer.client_kill_filter(_type="normal", skipme=True)
        time.sleep(1.1)
        assert client.incr("counter") == 3
    server.restart()
    time.sleep(1.1)
    assert client.incr("counter") == 1


def test_a_killed_connection_never_doubles_a_write(valkey, connect):
    """Used at once, before the loss is noticed: the outcome is right, and the write is applied at most once."""
    client = connect(valkey)
    accepted = unknown = 0
    with redis.Redis(**valkey.connection_kwargs) as observer:
        for _ in range(50):
            observer.client_kill_filter(_type="normal", skipme=True)
            try:
                client.incr("counter")
            except RedisUnavailableError as failure:
                unknown += failure.outcome is Outcome.UNKNOWN
            else:
                accepted += 1
        assert accepted <= int(observer.get("counter")) <= accepted + unknown
    assert client.incr("after") == 1


def test_an_interpreter_with_calls_in_flight_exits_at_once(start_server):
    """Daemon threads in calls, an open circuit with its probe, a program that ends without closing anything."""
    server = start_server(transport="tcp")
    script = """
        import sys, threading, time
        from agent_memory.redis import Redis

        client = Redis.from_url(sys.argv[1], socket_timeout=60)
        client.ping()
        other = Redis(host="127.0.0.1", port=1, socket_timeout=60)
        for _ in range(5):
            try:
                other.ping()
            except Exception:
                pass
        assert other.guard.state == "open"
        print("stall", flush=True)
        sys.stdin.readline()
        for _ in range(5):
            threading.Thread(target=client.get, args=("key",), daemon=True).start()
        time.sleep(0.3)
        print("end", flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "stall\n"
        server.pause()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "end\n"
        started_s = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - started_s < MARGIN_S
        assert process.stderr.read() == ""


def test_an_interpreter_with_asyncio_calls_in_flight_exits_at_once(start_server):
    server = start_server(transport="tcp")
    script = """
        import asyncio, sys
        from agent_memory.redis.asyncio import Redis

        async def main():
            client = Redis.from_url(sys.argv[1], socket_timeout=60)
            await client.ping()
            print("stall", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            calls = [asyncio.create_task(client.get("key")) for _ in range(50)]
            calls.append(asyncio.create_task(client.blpop("list", 60)))
            await asyncio.sleep(0.3)
            print("end", flush=True)

        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "stall\n"
        server.pause()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "end\n"
        started_s = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - started_s < MARGIN_S


def client_addresses(server):
    with redis.Redis(**server.connection_kwargs) as observer:
        own = observer.client_id()
        return {entry["addr"] for entry in observer.client_list() if int(entry["id"]) != own}


def test_parent_and_child_both_go_on_after_a_fork_under_use(valkey, connect):
    """Forked while threads are in the middle of calls: neither process uses the other's sockets."""
    client = connect(valkey)
    stop, wrong = threading.Event(), []

    def work(name):
        while not stop.is_set():
            client.set(f"parent:{name}", name)
            if client.get(f"parent:{name}") != str(name).encode():
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    parents = client_addresses(valkey)
    children = []
    for child in range(6):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for number in range(200):
                    client.set(f"child:{child}", number)
                    assert client.get(f"child:{child}") == str(number).encode()
                client.set(f"address:{child}", client.client_info()["addr"])
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    for pid in children:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert wrong == []
    with redis.Redis(**valkey.connection_kwargs) as observer:
        addresses = {observer.get(f"address:{child}").decode() for child in range(6)}
    assert len(addresses) == 6
    assert not addresses & parents
    assert client.ping()


def test_a_child_recovers_from_an_outage_by_itself(start_server, connect):
    """Forked with an open circuit: the parent's probe is not there, the child has its own."""
    server = start_server(transport="tcp")
    client = connect(server)
    client.ping()
    server.kill()
    for _ in range(5):
        with pytest.raises(RedisUnavailableError):
            client.incr("counter")
    assert client.guard.state == "open"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            end_s = time.monotonic() + 10
            while time.monotonic() < end_s and code:
                try:
                    client.incr("counter")
                    code = 0
                except (RedisUnavailableError, RedisTimeoutError):
                    time.sleep(0.02)
        finally:
            os._exit(code)
    time.sleep(0.3)
    server.start()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_gevent(valkey, proxy):
    """Patched sockets: greenlets share the thread, and timeouts hold without the kernel's."""
    relay = proxy(valkey)
    finished = run_script(
        """
        import gevent.monkey
        gevent.monkey.patch_all()
        import gevent, sys, time
        from agent_memory.errors import Outcome, RedisTimeoutError
        from agent_memory.redis import Redis

        client = Redis.from_url(sys.argv[1], max_connections=10)
        def work(name):
            for number in range(100):
                client.set(f"{name}", f"{name}:{number}")
                assert client.get(f"{name}") == f"{name}:{number}".encode()
        greenlets = [gevent.spawn(work, name) for name in range(30)]
        gevent.joinall(greenlets, raise_error=True)

        # A blocked command holds up nobody else.
        blocked = gevent.spawn(client.blpop, "list", 10)
        gevent.sleep(0.1)
        client.rpush("list", "element")
        assert blocked.get(timeout=5) == (b"list", b"element")
        """,
        relay.url,
    )
    assert finished.returncode == 0, finished.stderr
    drop = relay.drop_replies(1, command="INCRBY")
    finished = run_script(
        """
        import gevent.monkey
        gevent.monkey.patch_all()
        import gevent, sys, time
        from agent_memory.errors import Outcome, RedisTimeoutError
        from agent_memory.redis import Redis

        client = Redis.from_url(sys.argv[1], socket_timeout=0.5, resilience=None)
        client.ping()
        ticks = []
        def tick():
            while True:
                ticks.append(1)
                gevent.sleep(0.01)
        gevent.spawn(tick)
        started_s = time.monotonic()
        try:
            client.incr("counter")
        except RedisTimeoutError as failure:
            assert failure.outcome is Outcome.UNKNOWN
        else:
            raise AssertionError("answered")
        assert time.monotonic() - started_s < 1.5
        assert len(ticks) > 10
        """,
        relay.url,
    )
    assert finished.returncode == 0, finished.stderr
    assert drop.dropped == 1


def test_a_signal_without_an_exception_does_not_disturb_a_call(connect):
    """A handler that returns: the call goes on, and its deadline stands."""
    with FakeServer(lambda command, _: time.sleep(0.5) or bulk(command[-1])) as fake:
        client = connect(fake, socket_timeout=5)
        struck = []
        before = signal.signal(signal.SIGALRM, lambda *_: struck.append(1))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            assert client.echo("word") == b"word"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert len(struck) > 3
