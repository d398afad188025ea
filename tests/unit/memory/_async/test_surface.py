"""What `dir()` of a memory system shows: what is documented."""

from agent_memory import AsyncMemorySystem
from agent_memory._concurrency import ASYNC

DOCUMENTED = set(
    """
    check check_health close config count delete delete_agent delete_user export forget get get_by_key health history
    import_ intermediate long_term maintain namespaces open query rebuild_indices reembed retrieve short_term start stats
    stop store store_many sync update
    """.split()
)


def names_of(thing):
    return {name for name in dir(thing) if not (name.startswith("__") and name.endswith("__"))}


async def test_a_system_shows_what_is_documented(tmp_path):
    system = AsyncMemorySystem(tmp_path)
    assert names_of(system) - ({"aclose"} if ASYNC else set()) == DOCUMENTED
    assert "__class__" in dir(system)


async def test_what_a_subclass_adds_is_shown(tmp_path):
    class Own(AsyncMemorySystem):
        async def greet(self):
            """A method of its own."""

    assert "greet" in dir(Own(tmp_path))
