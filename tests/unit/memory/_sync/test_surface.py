# Generated from ../_async/test_surface.py by tools/generate_sync.py: edit that file, not this one.

"""What `dir()` of a memory system shows: what is documented."""

from agent_memory import MemorySystem

DOCUMENTED = set(
    """
    check check_health close config count delete delete_agent delete_user export forget get get_by_key health history
    import_ intermediate long_term maintain namespaces open query rebuild_indices reembed retrieve short_term start stats
    stop store store_many sync update
    """.split()
)


def names_of(thing):
    return {name for name in dir(thing) if not (name.startswith("__") and name.endswith("__"))}


def test_a_system_shows_what_is_documented(tmp_path):
    system = MemorySystem(tmp_path)
    assert names_of(system) - set() == DOCUMENTED
    assert "__class__" in dir(system)


def test_what_a_subclass_adds_is_shown(tmp_path):
    class Own(MemorySystem):
        def greet(self):
            """A method of its own."""

    assert "greet" in dir(Own(tmp_path))
