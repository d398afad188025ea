"""Both transports, pipelines, subscribers and the handshake against generated streams; `make streams` runs them for long.

Each caller gets its own reply or an error with an outcome, no call outlasts its deadline, and memory stays bounded.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from reply_streams import BEHIND, GREETED, RIGHT, TORN, WRONG, Answer, StreamServer

from agent_memory.errors import Outcome
from agent_memory.redis import Redis
from agent_memory.redis.asyncio import Redis as AsyncRedis

TIMEOUT_S = 1.0
WITHIN_S = 15.0
"""For a whole example: two deadlines and what noisy cores add."""
MEMORY_KB = 256 * 1024
"""How much the peak of memory may grow over all examples."""
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
BUDGET = settings(
    phases=PHASES[: -1 if "MACHINE_QUICK" in os.environ else None],
    max_examples=int(os.environ.get("STREAM_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="STREAM_EXAMPLES" not in os.environ,
    print_blob=True,
)
ONE_BY_ONE = st.lists(st.one_of(RIGHT, RIGHT, BEHIND, WRONG, TORN), min_size=1, max_size=5)
TOGETHER = st.lists(st.one_of(RIGHT, RIGHT, RIGHT, WRONG, TORN), min_size=1, max_size=8)
OPTIONS = {"resilience": None, "socket_timeout": TIMEOUT_S}


@pytest.fixture(autouse=True)
def bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KB


def words_of(answers):
    return [b"word%d" % number for number in range(len(answers) + 1)]


def check(answers, words, results, *, within=None):
    """Each result is the word's own, or an error with an outcome; before the first wrong answer none is an error."""
    expected = [answer.expected(word) for answer, word in zip([*answers, Answer(b"", b"")], words, strict=False)]
    is_right = True
    for answer, word, wanted, got in zip(answers, words, expected, results, strict=False):
        is_right = is_right and answer.is_right
        if isinstance(got, BaseException):
            assert isinstance(getattr(got, "outcome", None), Outcome), repr(got)
            assert not is_right, f"{word!r}: {got!r}"
        elif answer.is_right or answer.behind:
            assert got == wanted, f"{word!r} was answered with {got!r}"
        else:
            pytest.fail(f"{word!r} was answered with {got!r}, and the server gave no answer")


def attempt(call, *args):
    try:
        return call(*args)
    except Exception as error:
        return error


@BUDGET
@given(ONE_BY_ONE)
def test_blocking_calls(answers):
    with StreamServer(answers) as server:
        client, began_s = Redis(**server.connection_kwargs, **OPTIONS), time.monotonic()
        words = words_of(answers)
        results = [attempt(client.execute_command, "ASK", word) for word in words]
        assert time.monotonic() - began_s < WITHIN_S
        check(answers, words, results)
        assert results[-1] == words[-1] or isinstance(results[-1].outcome, Outcome)
        client.close()


@BUDGET
@given(TOGETHER)
def test_blocking_pipelines(answers):
    with StreamServer(answers) as server:
        client, began_s = Redis(**server.connection_kwargs, **OPTIONS), time.monotonic()
        words = words_of(answers)[:-1]
        pipeline = client.pipeline(transaction=False)
        for word in words:
            pipeline.execute_command("ASK", word)
        results = attempt(pipeline.execute)
        assert time.monotonic() - began_s < WITHIN_S
        check(answers, words, results if isinstance(results, list) else results_of(results, answers))
        client.close()


def results_of(error, answers):
    """A pipeline that failed is an error for the first wrong answer, which there has to be."""
    assert isinstance(error.outcome, Outcome)
    assert not all(answer.is_right for answer in answers), repr(error)
    return []


async def attempts(calls):
    return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), WITHIN_S)


@BUDGET
@given(ONE_BY_ONE)
def test_asyncio_calls_one_by_one(answers):
    async def play(server, words):
        async with AsyncRedis(**server.connection_kwargs, **OPTIONS) as client:
            return [(await attempts([client.execute_command("ASK", word)]))[0] for word in words]

    with StreamServer(answers) as server:
        check(answers, words_of(answers), asyncio.run(play(server, words_of(answers))))


@BUDGET
@given(TOGETHER)
def test_asyncio_calls_together(answers):
    async def play(server, words):
        async with AsyncRedis(**server.connection_kwargs, **OPTIONS) as client:
            await client.execute_command("ASK", b"first")
            return await attempts(client.execute_command("ASK", word) for word in words)

    with StreamServer([Answer(b"+OK\r\n", b"OK"), *answers]) as server:
        words = words_of(answers)[:-1]
        check(answers, words, asyncio.run(play(server, words)))


@BUDGET
@given(st.one_of(RIGHT, WRONG, TORN, BEHIND, GREETED, GREETED), st.booleans())
def test_handshakes(greeting, is_blocking):
    """What greets so is no Redis: nothing of the caller's is sent there, and the next attempt is another."""

    async def play(server):
        async with AsyncRedis(**server.connection_kwargs, **OPTIONS) as client:
            return [(await attempts([client.execute_command("ASK", word)]))[0] for word in (b"one", b"two")]

    with StreamServer([], greeting) as server:
        if is_blocking:
            client = Redis(**server.connection_kwargs, **OPTIONS)
            results = [attempt(client.execute_command, "ASK", word) for word in (b"one", b"two")]
            client.close()
        else:
            results = asyncio.run(play(server))
        assert isinstance(results[0], Exception)
        assert results[0].outcome is Outcome.NOT_SENT
        assert results[1] == b"two"


@BUDGET
@given(ONE_BY_ONE)
def test_subscribers(answers):
    """A subscriber's own commands get their answers, in their order, until what is wrong ends the connection."""
    with StreamServer(answers) as server:
        subscriber = Redis(**server.connection_kwargs, **OPTIONS).pubsub(reconnect_timeout_s=0)
        subscriber.subscribe("news")
        assert subscriber.parse_response() == [b"subscribe", b"news", 1]
        for answer, word in zip(answers, words_of(answers), strict=False):
            subscriber.execute_command("ASK", word)
            got = attempt(subscriber.parse_response, False, TIMEOUT_S)
            while isinstance(got, list) and got[:1] == [b"x"]:  # a push that has nothing to do with channels
                got = attempt(subscriber.parse_response, False, TIMEOUT_S)
            if isinstance(got, Exception):
                assert isinstance(got.outcome, Outcome), repr(got)
            if not answer.is_right:
                break
            assert got == answer.expected(word)
        subscriber.close()
