"""Django: the backend of this package, Django's own, django-redis, and sessions; each call in a thread of its own."""

# needs: django django_redis
from concurrent.futures import ThreadPoolExecutor

import django
from django.conf import settings
from outage import Outage

from agent_memory.redis import Redis


def in_a_thread(call):
    """Run it in a new thread: Django then makes new cache objects for it."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()


with Outage() as outage:
    page = outage.page("django")
    settings.configure(
        CACHES=page.CACHES, SESSION_ENGINE=page.SESSION_ENGINE, INSTALLED_APPS=["django.contrib.sessions"], USE_TZ=True
    )
    django.setup()
    from django.contrib.sessions.backends.cache import SessionStore
    from django.core.cache import caches

    pools = {id(in_a_thread(lambda: caches["default"]._cache.get_client().connection_pool)) for _ in range(3)}
    assert len(pools) == 1, pools
    assert type(caches["built-in"]._cache.get_client()) is Redis

    def use(alias):
        cache = caches[alias]
        cache.set("key", {"a": 1}, timeout=60)
        assert cache.get("key") == {"a": 1}
        cache.set_many({"b": 2, "c": 3}, timeout=60)
        assert cache.get_many(["b", "c"]) == {"b": 2, "c": 3}
        assert cache.incr("b") == 3
        assert cache.delete("b")

    def read(alias):
        caches[alias].get("key")

    for alias in ("default", "built-in", "django-redis"):
        in_a_thread(lambda alias=alias: use(alias))
        print(alias)
        outage.endure(lambda alias=alias: in_a_thread(lambda: read(alias)))

    def visit():
        session = SessionStore()
        session["cart"] = [1, 2]
        session.save()
        assert SessionStore(session_key=session.session_key)["cart"] == [1, 2]

    print("sessions")
    outage.endure(lambda: in_a_thread(visit))
