"""FaultProxy, seen from outside: through raw sockets, and by what the server has executed."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import redis

from agent_memory.testing import EmbeddedServer, FaultProxy, ServerError

# Liveness only: a test that passes never waits so long.
DEADLINE_S = 30.0
# How long something must not happen for: a false pass is possible, a false failure is not.
QUIET_S = 0.15


def wait_until(condition, what):
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def own_server():
    # Without a password: raw sockets need no handshake, and every reply is one a test has asked for.
    with EmbeddedServer(protected=False, transport="tcp") as server:
        yield server


@pytest.fixture
def direct(own_server):
    """A client beside the proxy, on an empty server."""
    with redis.Redis(**own_server.connection_kwargs, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def link(own_server, direct, proxy):
    """A proxy in front of the server."""
    return proxy(own_server)


class Raw:
    """A client that sends and receives bytes."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *commands):
        self.socket.sendall(b"".join(encode(command.split()) for command in commands))
        return self

    def receive(self, count):
        """Exactly `count` bytes, or fewer if the stream ends."""
        received = b""
        while len(received) < count and (chunk := self.socket.recv(count - len(received))):
            received += chunk
        return received

    def ask(self, command, reply):
        self.send(command)
        assert self.receive(len(reply)) == reply

    def is_silent(self):
        return not select.select([self.socket], [], [], QUIET_S)[0]

    def is_reset(self):
        try:
            self.socket.recv(1)
        except ConnectionResetError as error:
            return error.errno == errno.ECONNRESET
        return False

    def close(self):
        self.socket.close()


def encode(words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)


@pytest.fixture
def connect():
    with contextlib.ExitStack() as opened:
        yield lambda link: opened.enter_context(contextlib.closing(Raw(link.port)))


@pytest.fixture
def raw(link, connect):
    """A connection through the proxy that works."""
    raw = connect(link)
    raw.ask("PING", b"+PONG\r\n")
    return raw


# Without faults


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_bytes_arrive_unchanged(transport, start_server, proxy):
    link = proxy(start_server(transport=transport))
    value = os.urandom(3_000_000)
    for client in (redis.Redis(**link.connection_kwargs), redis.from_url(link.url)):
        with client:
            client.set("key", value)
            assert client.get("key") == value


def test_counters(link, raw, connect):
    raw.ask("SET key value", b"+OK\r\n")
    # In pieces, and in lower case: still one command.
    for byte in encode(["ping"]):
        raw.socket.sendall(bytes([byte]))
    assert raw.receive(7) == b"+PONG\r\n"
    connect(link).ask("PING", b"+PONG\r\n")
    assert link.connections_accepted == 2
    assert link.connections_open == 2
    assert link.commands == {"PING": 3, "SET": 1}
    assert link.up_bytes == 3 * len(encode(["PING"])) + len(encode(["SET", "key", "value"]))
    assert link.down_bytes == 3 * 7 + 5


def test_a_half_closed_client_still_gets_its_reply(raw):
    raw.send("PING")
    raw.socket.shutdown(socket.SHUT_WR)
    assert raw.receive(100) == b"+PONG\r\n"


def test_ends_are_passed_on(link, raw, direct):
    raw.close()
    wait_until(lambda: len(direct.client_list()) == 1, "the server sees the client's end")
    wait_until(lambda: not link.connections_open, "the proxy forgets it")


def test_a_killed_server_is_seen_as_an_end_and_new_connections_are_reset(start_server, proxy, connect):
    server = start_server(protected=False)
    link = proxy(server)
    raw = connect(link)
    raw.ask("PING", b"+PONG\r\n")
    server.kill()
    assert raw.receive(1) == b""
    try:
        is_reset = connect(link).is_reset()
    except ConnectionResetError:  # the reset may come before connect() has returned
        is_reset = True
    assert is_reset
    server.start()
    connect(link).ask("PING", b"+PONG\r\n")


def test_upstream_can_be_changed(link, raw, start_server, connect):
    raw.ask("SET where first", b"+OK\r\n")
    link.upstream = start_server(protected=False)
    connect(link).ask("GET where", b"$-1\r\n")
    raw.ask("GET where", b"$5\r\nfirst\r\n")
    for wrong in (7, ("host",), None):
        with pytest.raises(TypeError):
            link.upstream = wrong


# Delays


def test_latency_holds_each_direction(link, raw):
    for direction in (link.up, link.down):
        direction.latency_s = 0.1
        started_s = time.monotonic()
        raw.ask("PING", b"+PONG\r\n")
        assert time.monotonic() - started_s >= 0.1
        direction.clear()


def test_jitter_keeps_the_order(link, raw):
    link.down.jitter_s = link.up.jitter_s = 0.01
    expected = b""
    for number in range(1, 51):
        raw.send("INCR counter")
        expected += b":%d\r\n" % number
    assert raw.receive(len(expected)) == expected


def test_jitter_comes_from_the_seed():
    def draw(seed):
        with FaultProxy(("127.0.0.1", 1), seed=seed) as link:
            return [link._engine.random.random() for _ in range(3)]

    assert draw(7) == draw(7) != draw(8)


def test_slices_deliver_every_byte_in_order(link, raw):
    link.down.slice_bytes = link.up.slice_bytes = 1
    value = "abcdefghij" * 300
    raw.ask(f"SET key {value}", b"+OK\r\n")
    raw.ask("GET key", b"$3000\r\n" + value.encode() + b"\r\n")


def test_a_gap_follows_each_slice(link, raw):
    link.down.slice_bytes, link.down.slice_gap_s = 2, 0.02
    started_s = time.monotonic()
    raw.ask("PING", b"+PONG\r\n")
    # Four slices, three gaps.
    assert time.monotonic() - started_s >= 0.06


def test_bandwidth_is_bounded(link, raw, direct):
    direct.set("key", "x" * 20_000)
    link.down.bandwidth_bytes_per_s = 100_000
    started_s = time.monotonic()
    raw.send("GET key")
    assert len(raw.receive(20_000)) == 20_000
    # The first hundredth of a second's worth leaves at once.
    assert time.monotonic() - started_s >= 0.18


def test_healing_releases_what_is_held_back(link, raw):
    link.up.latency_s = 1000
    raw.send("PING")
    wait_until(lambda: link.commands["PING"] == 2, "the request is in the proxy")
    assert raw.is_silent()
    link.heal()
    assert raw.receive(7) == b"+PONG\r\n"


def test_pause_holds_everything_and_loses_nothing(link, raw, connect, direct):
    link.pause()
    raw.send("INCR counter")
    late = connect(link)
    late.send("INCR counter")
    assert raw.is_silent()
    assert direct.get("counter") is None
    link.resume()
    assert {raw.receive(4), late.receive(4)} == {b":1\r\n", b":2\r\n"}


def test_a_reader_that_does_not_read_fills_a_bounded_buffer(link, raw, direct):
    direct.set("key", "x" * 50_000_000)
    raw.send("GET key")
    [connection] = link._engine.connections
    wait_until(lambda: not connection.down.wants_bytes, "the buffer is full")
    assert connection.down.buffered_bytes <= FaultProxy.buffer_bytes + (1 << 16)
    assert link.down_bytes < 50_000_000
    assert len(raw.receive(50_000_013)) == 50_000_013


# Connections that fail


def test_reset_is_seen_by_both_sides(link, raw, direct):
    link.reset()
    assert raw.is_reset()
    wait_until(lambda: len(direct.client_list()) == 1, "the server sees the reset")
    assert link.connections_open == 0


def test_reset_of_the_client_alone_leaves_a_zombie(link, raw, direct, connect):
    link.up.latency_s = 1000
    raw.send("SET key old")
    wait_until(lambda: link.commands.get("SET"), "the request is in the proxy")
    link.reset(side="client")
    assert raw.is_reset()
    direct.set("key", "new")
    link.heal()
    wait_until(lambda: direct.get("key") == "old", "the old connection's write arrives late")
    assert len(direct.client_list()) == 2


def test_close_connections_is_an_orderly_end(link, raw, connect):
    link.close_connections()
    assert raw.receive(1) == b""
    connect(link).ask("PING", b"+PONG\r\n")


def test_refuse_and_accept(link, raw, connect):
    for _ in range(3):
        link.refuse()
        link.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(link)
        raw.ask("PING", b"+PONG\r\n")
        link.accept()
        link.accept()
        connect(link).ask("PING", b"+PONG\r\n")


def test_half_open(link, raw, direct):
    link.half_open()
    wait_until(lambda: len(direct.client_list()) == 1, "the server's end is closed")
    raw.send("PING")
    assert raw.is_silent()
    raw.close()
    wait_until(lambda: not link.connections_open, "the client's end is closed too")


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_black_hole(direction, link, raw, connect, direct):
    idle = connect(link)
    idle.ask("PING", b"+PONG\r\n")
    link.black_hole(direction)
    raw.send("INCR counter")
    new = connect(link)
    new.send("PING")
    assert raw.is_silent()
    assert new.is_silent()
    if direction == "down":
        wait_until(lambda: direct.get("counter") == "1", "the server executes it")
    else:
        assert direct.get("counter") is None
    link.heal()
    # What has lost bytes never comes back, what has lost none goes on.
    raw.send("PING")
    assert raw.is_silent()
    idle.ask("PING", b"+PONG\r\n")
    connect(link).ask("PING", b"+PONG\r\n")


def test_a_black_hole_swallows_the_end_of_the_server(start_server, proxy, connect):
    server = start_server(protected=False)
    link = proxy(server)
    raw = connect(link)
    raw.ask("PING", b"+PONG\r\n")
    link.black_hole()
    server.kill()
    assert raw.is_silent()
    assert connect(link).is_silent()


def test_faults_of_connections_need_no_resp(tls_server, proxy):
    link = proxy(tls_server)
    with redis.Redis(**link.connection_kwargs, socket_timeout=DEADLINE_S, retry=None) as client:
        assert client.ping()
        link.up.slice_bytes = link.down.slice_bytes = 1
        assert client.ping()
        link.drop_replies(1)
        assert client.ping()
        assert link.commands == {}
        link.heal()
        link.reset()
        # redis-py looks at an idle connection before it uses it.
        assert client.ping()
        assert link.connections_accepted == 2
        link.cut_after_bytes(20)
        with pytest.raises(redis.ConnectionError):
            client.ping()


# Dropped replies


def test_a_dropped_reply_was_executed_and_never_arrives(link, raw, direct, connect):
    drop = link.drop_replies(1)
    raw.send("INCR counter")
    assert drop.wait(DEADLINE_S)
    assert drop.dropped == 1
    assert direct.get("counter") == "1"
    assert raw.is_silent()
    # The stream has lost bytes, so it stays silent; another connection works.
    raw.send("PING")
    assert raw.is_silent()
    connect(link).ask("INCR counter", b":2\r\n")


def test_the_client_of_a_dropped_reply_times_out(own_server, direct, proxy):
    link = proxy(own_server)
    with redis.Redis(**link.connection_kwargs, socket_timeout=QUIET_S, retry=None) as client:
        client.ping()
        # redis-py sends incr() as INCRBY.
        link.drop_replies(1, command="INCRBY")
        with pytest.raises(redis.TimeoutError):
            client.incr("counter")
        assert client.incr("counter") == 2


@pytest.mark.parametrize("then", ["reset", "close"])
def test_dropped_and_then_ended(then, link, raw, direct):
    drop = link.drop_replies(2, command=["incr"], then=then)
    raw.send("PING", "INCR counter", "PING", "INCR counter", "PING", "INCR counter")
    # What came before the end is delivered, what came after it is not.
    assert raw.receive(14) == b"+PONG\r\n+PONG\r\n"
    assert raw.is_reset() if then == "reset" else raw.receive(1) == b""
    assert drop.wait(DEADLINE_S)
    wait_until(lambda: direct.get("counter") == "3", "the server has executed everything")


def test_exactly_so_many_replies_are_dropped(link, raw):
    drop = link.drop_replies(2, then="continue")
    raw.send(*["INCR counter"] * 5)
    assert raw.receive(12) == b":3\r\n:4\r\n:5\r\n"
    assert drop.dropped == 2
    assert raw.is_silent()


def test_drops_add_up_over_connections(link, connect, direct):
    drop = link.drop_replies(3, command="INCR", then="reset")
    for number in range(1, 4):
        raw = connect(link)
        raw.send("PING", "INCR counter")
        assert raw.receive(7) == b"+PONG\r\n"
        assert raw.is_reset()
        assert drop.dropped == number
    connect(link).ask("INCR counter", b":4\r\n")


def test_a_large_reply_is_dropped_whole(link, raw, direct):
    direct.set("key", "x" * 1_000_000)
    link.drop_replies(1, command="GET", then="continue")
    raw.send("GET key", "PING")
    assert raw.receive(7) == b"+PONG\r\n"
    assert raw.is_silent()


def test_pushes_are_no_replies(link, raw, direct):
    raw.send("HELLO 3", "CLIENT TRACKING ON", "GET key")
    wait_until(lambda: link.commands.get("GET"), "the proxy passes it on")
    while not raw.is_silent():
        raw.socket.recv(65536)
    drop = link.drop_replies(1, then="continue")
    direct.set("key", "changed")
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
    assert raw.receive(len(push)) == push
    assert drop.dropped == 0
    raw.send("INCR counter", "PING")
    assert raw.receive(7) == b"+PONG\r\n"
    assert drop.dropped == 1


def test_a_subscriber_loses_nothing(link, raw, direct):
    raw.ask("SUBSCRIBE news", b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
    drop = link.drop_replies(1)
    direct.publish("news", "one")
    message = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\none\r\n"
    assert raw.receive(len(message)) == message
    assert drop.dropped == 0


def test_healing_disarms(link, raw):
    drop = link.drop_replies(1)
    cut = link.cut_after_bytes(1)
    link.heal()
    raw.ask("PING", b"+PONG\r\n")
    assert drop.dropped == 0
    assert not cut.wait(0)


# Torn requests


@pytest.fixture
def recorder(proxy):
    """A proxy in front of a server that only listens: (proxy, a function that returns all bytes of its next client)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)

        def receive_all():
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(DEADLINE_S)
                received = b""
                while chunk := connection.recv(65536):
                    received += chunk
                return received

        yield proxy(listener.getsockname()), receive_all


@pytest.mark.parametrize("count", [0, 1, 10, 33])
@pytest.mark.parametrize("then", ["reset", "close", "silence"])
def test_the_server_gets_exactly_so_many_bytes_and_an_end(count, then, recorder, connect):
    link, receive_all = recorder
    raw = connect(link)
    cut = link.cut_after_bytes(count, then=then)
    request = encode(["SET", "key", "value"])
    assert len(request) == 33
    # In two parts, so that a cut may lie in either.
    raw.socket.sendall(request[:5])
    failure = None
    try:
        raw.socket.sendall(request[5:])
    except OSError as error:
        failure = error
    assert receive_all() == request[:count]
    assert cut.wait(DEADLINE_S)
    if then == "reset":
        # Whichever call comes first after the reset hears of it.
        assert isinstance(failure, ConnectionResetError) or raw.is_reset()
    elif then == "close":
        with contextlib.suppress(ConnectionResetError):
            assert raw.receive(1) == b""
    else:
        assert raw.is_silent()


def test_a_cut_waits_for_its_command(recorder, connect):
    link, receive_all = recorder
    raw = connect(link)
    cut = link.cut_after_bytes(12, command="set")
    before = encode(["PING"]) + encode(["GET", "key"])
    raw.socket.sendall(before + encode(["SET", "key", "value"]))
    assert receive_all() == before + encode(["SET", "key", "value"])[:12]
    assert cut.wait(DEADLINE_S)
    assert link.commands == {"PING": 1, "GET": 1}


def test_a_torn_write_is_not_executed(link, raw, direct, connect):
    cut = link.cut_after_bytes(30, command="SET")
    raw.send("INCR counter", "SET key value")
    assert cut.wait(DEADLINE_S)
    wait_until(lambda: len(direct.client_list()) == 1, "the server has closed its end")
    assert direct.get("counter") == "1"
    assert direct.get("key") is None
    wait_until(lambda: not link.connections_open, "the proxy forgets the connection")


def test_a_cut_passes_to_the_next_connection_if_its_own_ends_first(recorder, connect):
    link, receive_all = recorder
    cut = link.cut_after_bytes(10)
    first = connect(link)
    first.socket.sendall(b"*1\r\n")
    first.close()
    assert receive_all() == b"*1\r\n"
    wait_until(lambda: not link.connections_open, "the first connection is forgotten")
    connect(link).send("SET key value")
    assert receive_all() == encode(["SET", "key", "value"])[:10]
    assert cut.wait(DEADLINE_S)


# Life


def test_wrong_parameters_are_refused(link):
    for direction in (link.up, link.down):
        for name, value in {
            "latency_s": -1,
            "jitter_s": float("nan"),
            "slice_bytes": 0,
            "slice_gap_s": float("inf"),
            "bandwidth_bytes_per_s": 0,
        }.items():
            with pytest.raises(ValueError, match=name):
                setattr(direction, name, value)
    for wrong in (
        lambda: link.black_hole("sideways"),
        lambda: link.reset("server"),
        lambda: link.drop_replies(0),
        lambda: link.drop_replies(1, then="explode"),
        lambda: link.cut_after_bytes(-1),
        lambda: link.cut_after_bytes(1, then="continue"),
    ):
        with pytest.raises(ValueError, match=r"must be"):
            wrong()


def test_no_credentials_in_repr(start_server, proxy):
    server = start_server(transport="tcp")
    link = proxy(server)
    assert server.connection_kwargs["password"] not in repr(link)
    assert str(link.port) in repr(link)


def test_use_before_start_is_refused(own_server):
    link = FaultProxy(own_server)
    for use in (link.reset, link.heal, lambda: link.port, lambda: link.up, lambda: link.commands):
        with pytest.raises(ServerError, match="start"):
            use()
    link.stop()
    with pytest.raises(ServerError):
        FaultProxy(EmbeddedServer()).start()


def test_stop_closes_everything_and_keeps_the_counters(own_server, connect):
    link = FaultProxy(own_server).start()
    raw = connect(link)
    raw.ask("PING", b"+PONG\r\n")
    threads = [threading.Thread(target=link.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert raw.receive(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(link)
    assert link.commands == {"PING": 1}
    link.reset()
    link.accept()
    link.heal()
    with pytest.raises(ConnectionRefusedError):
        connect(link)


def test_stop_while_other_threads_use_it(own_server):
    link = FaultProxy(own_server).start()
    go_on = threading.Event()
    errors = []

    def use():
        while not go_on.is_set():
            try:
                link.heal()
                link.drop_replies(1)
                link.reset()
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    link.stop()
    go_on.set()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert errors == []


def test_garbage_collection_stops_it(own_server):
    link = FaultProxy(own_server).start()
    thread = link._engine._thread
    del link
    gc.collect()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def count_descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_no_descriptor_is_left_open(own_server):
    FaultProxy(own_server).start().stop()
    before = count_descriptors()
    for fault in (
        lambda link: link.reset(),
        lambda link: link.reset("client"),
        lambda link: link.half_open(),
        lambda link: link.close_connections(),
        lambda link: link.black_hole(),
        lambda link: link.pause(),
        lambda link: link.refuse(),
        lambda link: link.cut_after_bytes(1),
        lambda link: link.drop_replies(1),
        lambda link: None,
    ):
        link = FaultProxy(own_server).start()
        clients = [Raw(link.port) for _ in range(10)]
        for client in clients:
            client.send("PING")
        fault(link)
        for client in clients[:5]:
            with contextlib.suppress(OSError):
                client.send("PING")
        for client in clients:
            client.close()
        link.stop()
        assert count_descriptors() == before


def test_many_short_connections(link, connect, direct):
    def hammer():
        for _ in range(250):
            raw = Raw(link.port)
            raw.ask("PING", b"+PONG\r\n")
            raw.close()

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert link.connections_accepted == 1000
    assert link.commands["PING"] == 1000
    wait_until(lambda: not link.connections_open, "all are forgotten")


def test_a_full_backlog_upstream_is_waited_for(tmp_path, proxy, connect):
    path = tmp_path / "slow.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        link = proxy(path)
        raws = [connect(link).send("PING") for _ in range(5)]
        time.sleep(QUIET_S)
        listener.settimeout(DEADLINE_S)
        for _ in raws:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == encode(["PING"])
                connection.sendall(b"+PONG\r\n")
        for raw in raws:
            assert raw.receive(7) == b"+PONG\r\n"


def test_it_survives_running_out_of_descriptors(own_server, tmp_path):
    script = tmp_path / "proxy.py"
    script.write_text(
        textwrap.dedent("""
            import os, resource, sys
            from agent_memory.testing import FaultProxy
            with FaultProxy(("127.0.0.1", int(sys.argv[1]))) as link:
                count = len(os.listdir("/proc/self/fd"))
                resource.setrlimit(resource.RLIMIT_NOFILE, (count + 11, count + 11))
                print(link.port, flush=True)
                sys.stdin.read()
        """)
    )
    command = [sys.executable, str(script), str(own_server.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline())
        raws = [Raw(port).send("PING") for _ in range(30)]
        served = 0
        while raws:
            ready = select.select([raw.socket for raw in raws], [], [], DEADLINE_S)[0]
            assert ready, f"only {served} were served"
            for raw in [raw for raw in raws if raw.socket in ready]:
                # A client may meet its end instead, where the second descriptor was lacking.
                raw.receive(7)
                raw.close()
                raws.remove(raw)
                served += 1
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_hold_connections_open(link, raw):
    ready, release = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            link.stop()
            try:
                link.heal()
            except ServerError:
                os.write(ready[1], b"refused")
            os.read(release[0], 1)
        finally:
            os._exit(0)
    try:
        assert os.read(ready[0], 7) == b"refused"
        raw.ask("PING", b"+PONG\r\n")
        link.reset()
        assert raw.is_reset()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for descriptor in (*ready, *release):
            os.close(descriptor)
