"""What `dir()` of a resilient client and of its recovery shows: commands and what is documented."""

from agent_memory import AsyncResilientRedisClient
from agent_memory.policy import Priority

FOR_SUBCLASSES = {"_create_redis_client", "_execute_with_circuit_breaker"}


def names_of(thing):
    return {name for name in dir(thing) if not (name.startswith("__") and name.endswith("__"))}


async def test_a_client_shows_commands_and_no_internals():
    client = AsyncResilientRedisClient("shown", probe_interval_s=None)
    names = names_of(client)
    assert {name for name in names if name.startswith("_")} == FOR_SUBCLASSES
    assert names >= {"get", "hset_dict", "lpush", "pipeline", "store_with_retry", "with_priority", "recovery", "health"}
    await client.close()


async def test_what_a_subclass_adds_is_shown():
    class Own(AsyncResilientRedisClient):
        async def greet(self):
            """A command of its own."""

    client = Own("shown", probe_interval_s=None)
    assert "greet" in dir(client)
    await client.close()


async def test_recovery_has_about_ten_names():
    client = AsyncResilientRedisClient("shown", probe_interval_s=None)
    assert {name for name in names_of(client.recovery) if not name.startswith("_")} == {
        "damaged_records",
        "dead_letters",
        "flush",
        "pause",
        "pending",
        "register",
        "resume",
        "retry",
        "stats",
    }
    assert repr(client.with_priority(Priority.HIGH)).startswith("<AsyncPriorityCommands HIGH of ")
    await client.close()
