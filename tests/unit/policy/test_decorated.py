"""What a breaker's decorator returns: a function of the same kind, with the same parameters, each call of which is guarded."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import traceback

import pytest

from agent_memory.errors import CircuitOpenError
from agent_memory.policy import AsyncCircuitBreaker, CircuitBreaker, _decoration

MODULE_BREAKER = CircuitBreaker("module")
MODULE_ASYNC_BREAKER = AsyncCircuitBreaker("module")


@MODULE_BREAKER
def by_name(first: int, second: str = "two", *, third: float = 3.0) -> tuple[int, str, float]:
    """Says what it was given."""
    return first, second, third


@MODULE_ASYNC_BREAKER
async def by_name_async(first: int, second: str = "two", *, third: float = 3.0) -> tuple[int, str, float]:
    """Says what it was given."""
    return first, second, third


def no_parameters():
    return ()


def one(a):
    return (a,)


def two(a, b="b"):
    return a, b


def three(a, b, c=3):
    return a, b, c


def four(a, b, c, d=4):
    return a, b, c, d


def five(a, b, c, d, e=()):
    return a, b, c, d, e


def positional_only(a, b=2, /, c=3):
    return a, b, c


def keyword_only(a, *, b, c=3):
    return a, b, c


def rest(a, *args):
    return a, args


def extra(a, **kwargs):
    return a, kwargs


def everything(a, b=2, /, c=3, *args, d, e=5, **kwargs):
    return a, b, c, args, d, e, kwargs


def anything(*args, **kwargs):
    return args, kwargs


def names_of_the_wrapper(
    _execute, __function=1, *, _call=2, guarded=3, _permit=4, _result=5, _raised=6, bind=7, **_error
):
    return _execute, __function, _call, guarded, _permit, _result, _raised, bind, _error


CALLS = [
    (no_parameters, [((), {})]),
    (one, [((1,), {}), ((), {"a": 1}), ((None,), {})]),
    (two, [((1,), {}), ((1, 2), {}), ((1,), {"b": None}), ((), {"b": 2, "a": 1})]),
    (three, [((1, 2), {}), ((1,), {"c": 9, "b": 8})]),
    (four, [((1, 2, 3), {}), ((1, 2, 3, 5), {}), ((), {"a": 1, "b": 2, "c": 3, "d": 5})]),
    (five, [((1, 2, 3, 4), {}), ((1, 2), {"c": 3, "d": 4, "e": 5})]),
    (positional_only, [((1,), {}), ((1, 5), {"c": 6})]),
    (keyword_only, [((1,), {"b": 2}), ((), {"a": 1, "b": 2, "c": 4})]),
    (rest, [((1,), {}), ((1, 2, 3), {})]),
    (extra, [((1,), {}), ((1,), {"b": 2, "c": 3})]),
    (everything, [((1,), {"d": 4}), ((1, 2, 3, 4, 5), {"d": 4, "e": 6, "a": 7, "f": 8})]),
    (anything, [((), {}), ((1,), {"args": 2, "kwargs": 3})]),
    (names_of_the_wrapper, [((1,), {"_call": 9, "error": 8, "_success": 7}), ((1, 2), {"_permit": 0})]),
]
WRONG = [
    (one, (), {}),
    (one, (1, 2), {}),
    (two, (1,), {"c": 3}),
    (keyword_only, (1,), {}),
    (positional_only, (), {"a": 1}),
]


def run(coroutine):
    """The value of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waits")


def as_coroutine_function(function):
    """The same function, written with `async def`."""
    namespace = {}
    exec(f"async {inspect.getsource(function)}", namespace)
    return namespace[function.__name__]


@pytest.mark.parametrize(("function", "calls"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_decorated_function_takes_what_the_original_takes(function, calls):
    breaker, async_breaker = CircuitBreaker("sync"), AsyncCircuitBreaker("async")
    decorated, async_decorated = breaker(function), async_breaker(as_coroutine_function(function))
    for args, kwargs in calls:
        expected = function(*args, **kwargs)
        assert decorated(*args, **kwargs) == expected
        assert run(async_decorated(*args, **kwargs)) == expected
    assert breaker.stats()["successes"] == async_breaker.stats()["successes"] == len(calls)
    assert inspect.signature(decorated) == inspect.signature(function)
    assert decorated.__defaults__ is function.__defaults__


@pytest.mark.parametrize(("function", "args", "kwargs"), WRONG)
def test_wrong_arguments_are_refused_as_the_original_refuses_them(function, args, kwargs):
    breaker, async_breaker = CircuitBreaker("sync"), AsyncCircuitBreaker("async")
    with pytest.raises(TypeError) as expected:
        function(*args, **kwargs)
    with pytest.raises(TypeError) as sync_error:
        breaker(function)(*args, **kwargs)
    with pytest.raises(TypeError) as async_error:
        async_breaker(as_coroutine_function(function))(*args, **kwargs)
    assert str(sync_error.value) == str(async_error.value) == str(expected.value)
    assert breaker.stats()["calls"] == async_breaker.stats()["calls"] == 0


@pytest.mark.parametrize("decorated", [by_name, by_name_async])
def test_a_decorated_function_is_one_of_the_same_kind_and_name(decorated):
    original = decorated.__wrapped__
    assert inspect.isfunction(decorated)
    assert inspect.iscoroutinefunction(decorated) is inspect.iscoroutinefunction(original)
    assert inspect.iscoroutinefunction(decorated) is (decorated is by_name_async)
    for attribute in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
        assert getattr(decorated, attribute) == getattr(original, attribute)
    assert str(inspect.signature(decorated)).startswith(
        "(first: 'int', second: 'str' = 'two', *, third: 'float' = 3.0)"
    )
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    assert copy.deepcopy(decorated) is decorated


def test_attributes_of_the_original_are_kept():
    def original():
        """Nothing."""

    original.marked = "yes"
    assert CircuitBreaker("sync")(original).marked == "yes"


class Methods:
    breaker = CircuitBreaker("methods")
    async_breaker = AsyncCircuitBreaker("methods")

    @breaker
    def plain(self, a, b=2):
        return self, a, b

    @staticmethod
    @breaker
    def static(a):
        return a

    @breaker
    @staticmethod
    def static_below(a):
        return a

    @classmethod
    @breaker
    def of_class(cls, a):
        return cls, a

    @breaker
    @classmethod
    def of_class_below(cls, a):
        return cls, a

    @async_breaker
    async def waiting(self, a, *, b=2):
        return self, a, b

    @async_breaker
    @staticmethod
    async def static_waiting(a):
        return a

    @property
    @breaker
    def value(self):
        return self


class Below(Methods):
    pass


def test_methods_bind_as_undecorated_ones_do():
    instance = Below()
    assert instance.plain(1) == Methods.plain(instance, 1) == (instance, 1, 2)
    assert instance.static(1) == Methods.static(1) == instance.static_below(1) == Methods.static_below(1) == 1
    assert instance.of_class(1) == Below.of_class(1) == instance.of_class_below(1) == (Below, 1)
    assert run(instance.waiting(1, b=3)) == (instance, 1, 3)
    assert run(instance.static_waiting(1)) == 1
    assert instance.value is instance
    assert inspect.ismethod(instance.plain)
    assert inspect.iscoroutinefunction(instance.waiting)
    assert inspect.iscoroutinefunction(instance.static_waiting)


class Callable:
    def __call__(self, *args, **kwargs):
        return args, kwargs


@pytest.mark.parametrize(
    "function", [Callable(), functools.partial(anything, 0), dict, "abc".startswith, max, Methods().plain]
)
def test_what_is_no_function_of_python_can_be_decorated(function):
    decorated = CircuitBreaker("sync")(function)
    arguments = {dict: ((), {"a": 1}), max: ((1, 3, 2), {})}.get(function, ((("a",),), {}))
    assert decorated(*arguments[0], **arguments[1]) == function(*arguments[0], **arguments[1])
    assert inspect.isfunction(decorated)


def test_a_function_that_returns_an_awaitable_becomes_a_coroutine_function():
    async def waiting(a):
        return a

    decorated = AsyncCircuitBreaker("async")(functools.partial(waiting, 1))
    assert inspect.iscoroutinefunction(decorated)
    assert run(decorated()) == 1


@pytest.mark.parametrize("arity", range(6))
def test_every_way_to_call_records_failures_and_rejects_while_open(arity):
    names = ", ".join("abcdef"[:arity])
    namespace = {}
    exec(f"def fail({names}): raise ConnectionError\nasync def fail_async({names}): raise ConnectionError", namespace)
    arguments = range(arity)
    breaker, async_breaker = CircuitBreaker("sync", 2), AsyncCircuitBreaker("async", 2)
    decorated, async_decorated = breaker(namespace["fail"]), async_breaker(namespace["fail_async"])
    for _ in range(2):
        with pytest.raises(ConnectionError):
            decorated(*arguments)
        with pytest.raises(ConnectionError):
            run(async_decorated(*arguments))
    for one_of_both in (breaker, async_breaker):
        assert one_of_both.state == "open"
        assert one_of_both.stats()["failures"] == 2
    with pytest.raises(CircuitOpenError):
        decorated(*arguments)
    with pytest.raises(CircuitOpenError):
        run(async_decorated(*arguments))


def test_the_traceback_leads_to_the_place_that_raised():
    def fail(a):
        raise LookupError(a)

    with pytest.raises(LookupError) as caught:
        CircuitBreaker("sync")(fail)("there")
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail"


async def test_a_cancelled_call_counts_as_neither():
    breaker = AsyncCircuitBreaker("async", 1)
    started = asyncio.Event()

    @breaker
    async def wait_for_ever(event):
        event.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(wait_for_ever(started))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.state == "closed"
    assert (breaker.stats()["failures"], breaker.stats()["successes"]) == (0, 0)


class Counting(CircuitBreaker):
    executed = 0

    def execute(self, operation):
        self.executed += 1
        return super().execute(operation)


@pytest.mark.parametrize(("function", "calls"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_decorated_calls_go_through_an_execute_that_a_subclass_overrides(function, calls):
    breaker = Counting("sync")
    decorated = breaker(function)
    for args, kwargs in calls:
        assert decorated(*args, **kwargs) == function(*args, **kwargs)
    assert breaker.executed == len(calls)


def test_templates_are_shared_and_bounded():
    breaker = CircuitBreaker("sync")
    assert breaker(two).__code__ is breaker(lambda a, b: a).__code__
    assert _decoration._calling_template.cache_info().maxsize == _decoration.MAX_TEMPLATES
    assert _decoration._awaiting_template.cache_info().maxsize == _decoration.MAX_TEMPLATES


async def test_fastapi_takes_decorated_endpoints():
    fastapi = pytest.importorskip("fastapi")
    breaker, async_breaker = CircuitBreaker("sync"), AsyncCircuitBreaker("async")
    app = fastapi.FastAPI()

    @app.get("/sync/{number}")
    @breaker
    def sync_endpoint(number: int, word: str = "none"):
        return {"number": number, "word": word}

    @app.get("/async/{number}")
    @async_breaker
    async def async_endpoint(number: int, word: str = "none"):
        return {"number": number, "word": word}

    for world in ("sync", "async"):
        assert await _get(app, f"/{world}/7", b"word=some") == (200, b'{"number":7,"word":"some"}')
        assert (await _get(app, f"/{world}/seven", b""))[0] == 422


async def _get(app, path, query):
    """One request, by ASGI itself."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [],
    }
    await app(
        {**scope, "http_version": "1.1", "scheme": "http", "root_path": "", "asgi": {"version": "3.0"}}, receive, send
    )
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
