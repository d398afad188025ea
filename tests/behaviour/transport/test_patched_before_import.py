"""Tracers that patch redis-py before this package is imported."""

import json
import subprocess
import sys

PROGRAM = """
import asyncio, json, sys
import redis, redis.asyncio

seen = []
originals = redis.Redis.execute_command, redis.asyncio.Redis.execute_command, redis.client.Pipeline.execute

def traced(self, *args, **options):
    seen.append(args[0])
    return originals[0](self, *args, **options)

async def traced_async(self, *args, **options):
    seen.append(args[0])
    return await originals[1](self, *args, **options)

def traced_pipeline(self, raise_on_error=True):
    seen.append("pipeline")
    return originals[2](self, raise_on_error)

redis.Redis.execute_command, redis.asyncio.Redis.execute_command = traced, traced_async
redis.client.Pipeline.execute = traced_pipeline

import agent_memory.redis, agent_memory.redis.asyncio

address = json.loads(sys.argv[1])
client = agent_memory.redis.Redis(**address)

async def get():
    async with agent_memory.redis.asyncio.Redis(**address) as connected:
        await connected.set("key", "value")
        await connected.get("key")

def use():
    client.set("key", "value")
    assert client.get("key") == b"value"
    assert client.pipeline().get("key").execute() == [b"value"]
    asyncio.run(get())

use()
redis.Redis.execute_command, redis.asyncio.Redis.execute_command, redis.client.Pipeline.execute = originals
use()
print(json.dumps(seen))
"""


def test_what_was_patched_is_called_until_it_is_restored(valkey):
    run = [sys.executable, "-c", PROGRAM, json.dumps(valkey.connection_kwargs)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["SET", "GET", "pipeline", "SET", "GET"]
