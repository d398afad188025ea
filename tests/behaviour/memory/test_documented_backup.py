"""The backups of docs/how-to/memory-in-production.md: its commands are run, and their result is restored."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess

import psycopg
from paths import DOCS

from agent_memory.memory import MemorySystem

PAGE = DOCS / "how-to/memory-in-production.md"
BACKUP = re.compile(r'^sqlite3 (\S+) "\.backup (\S+)"$', re.MULTILINE)
DUMP = re.compile(r"^pg_dump .*$", re.MULTILINE)
RESTORE = re.compile(r"^psql .*$", re.MULTILINE)


def command(pattern):
    found = list(pattern.finditer(PAGE.read_text()))
    assert len(found) == 1, f"docs/how-to/memory-in-production.md has one command {pattern.pattern}"
    return found[0]


def copy_database(found, folder):
    """Runs the documented command in a folder; without the sqlite3 program what that program does."""
    if shutil.which("sqlite3"):
        subprocess.run(found.group(0), shell=True, cwd=folder, check=True, timeout=60)
        return
    source, target = (folder / name for name in found.groups())
    with sqlite3.connect(source) as database, sqlite3.connect(target) as copy:
        database.backup(copy)
    database.close()
    copy.close()


def fill(memory):
    ids = [memory.store("bot", f"fact {number} about tea", key=f"fact-{number}") for number in range(20)]
    memory.update("bot", ids[3], content="fact 3 about coffee")
    memory.delete("bot", ids[4])
    return ids


def check(memory, ids):
    assert memory.count("bot") == 19
    assert memory.get("bot", ids[3]).content == "fact 3 about coffee"
    assert memory.get("bot", ids[4]) is None
    assert memory.get_by_key("bot", "fact-7").id == ids[7]
    assert memory.retrieve("bot", "coffee", k=1)[0].id == ids[3]
    assert memory.store("bot", "after the backup")


def test_the_documented_copy_of_a_running_system_is_one_of_all_memories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = command(BACKUP)
    with MemorySystem() as memory:  # the default system, whose folder the command names
        ids = fill(memory)
        copy_database(found, tmp_path)
        memory.store("bot", "too late for the backup")
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / found.group(2), tmp_path / "new" / "memories.sqlite")
    with MemorySystem(tmp_path / "new") as memory:
        check(memory, ids)


def in_database(server, line, database):
    """The arguments of a documented command, with a database of the test's in the place of the example's."""
    words = shlex.split(line)
    assert words[-1].startswith("postgresql://user@host/")
    return [os.fspath(server.program(words[0])), *words[1:-1], in_url(server, database)]


def in_url(server, database):
    url, count = re.subn(r"/postgres(?=\?|$)", f"/{database}", server.url)
    assert count == 1
    return url


def test_the_documented_dump_of_a_schema_restores_in_another_database(tmp_path, postgres_server):
    databases = ("backup_source", "backup_target")
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        for name in databases:
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"CREATE DATABASE {name}")
    source, target = (in_url(postgres_server, name) for name in databases)
    dump = in_database(postgres_server, command(DUMP).group(0), databases[0])
    restore = in_database(postgres_server, command(RESTORE).group(0), databases[1])
    with MemorySystem(tmp_path / "source", redis=None, store=source) as memory:
        ids = fill(memory)
        subprocess.run(dump, cwd=tmp_path, check=True, timeout=60)
        memory.store("bot", "too late for the backup")
    said = subprocess.run(restore, cwd=tmp_path, check=False, timeout=60, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    with MemorySystem(tmp_path / "target", redis=None, store=target) as memory:
        check(memory, ids)
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        for name in databases:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
