"""The pairs of primitives: both sides keep the same promises."""

import asyncio
import contextvars
import threading

import pytest

from agent_memory import _concurrency

WAIT_S = 30.0
variable = contextvars.ContextVar("variable", default="empty")


class TestAsyncEvent:
    async def test_wait_times_out(self):
        event = _concurrency.AsyncEvent()
        assert await event.wait(0.0) is False
        event.set()
        assert event.is_set()
        assert await event.wait(0.0) is True
        event.clear()
        assert await event.wait(0.001) is False

    async def test_wakes_all_waiters(self):
        event = _concurrency.AsyncEvent()
        waiters = [asyncio.create_task(event.wait(WAIT_S)) for _ in range(10)]
        await asyncio.sleep(0)
        event.set()
        assert await asyncio.gather(*waiters) == [True] * 10

    async def test_is_set_from_another_thread_and_loop(self):
        event = _concurrency.AsyncEvent()

        def elsewhere():
            async def wait():
                return await event.wait(WAIT_S)

            return asyncio.run(wait())

        other = asyncio.create_task(asyncio.to_thread(elsewhere))
        here = asyncio.create_task(event.wait(WAIT_S))
        await asyncio.sleep(0)
        await asyncio.to_thread(event.set)
        assert await here is True
        assert await other is True

    async def test_a_cancelled_waiter_leaves_nothing_behind(self):
        event = _concurrency.AsyncEvent()
        waiter = asyncio.create_task(event.wait())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not event._waiters

    def test_a_waiter_whose_loop_has_closed_is_passed_over(self):
        event = _concurrency.AsyncEvent()
        loop = asyncio.new_event_loop()
        waiting = event.wait()

        async def start():
            waiting.send(None)

        loop.run_until_complete(start())
        loop.close()
        event.set()
        assert event.is_set()
        waiting.close()


class TestSpawning:
    async def test_results_errors_and_an_empty_context(self):
        async def work(value):
            await asyncio.sleep(0)
            if value is None:
                raise KeyError("none")
            return value, variable.get()

        variable.set("the caller's")
        tasks = [_concurrency.async_spawn(work, value, name=f"work {value}") for value in (1, 2)]
        assert await _concurrency.async_gather(*tasks) == [(1, "empty"), (2, "empty")]
        failing = _concurrency.async_spawn(work, None)
        assert await failing.join(WAIT_S) is True
        assert failing.is_done()
        with pytest.raises(KeyError):
            await failing.result()

    def test_the_same_with_threads(self):
        def work(value):
            if value is None:
                raise KeyError("none")
            return value, variable.get(), threading.current_thread().daemon

        variable.set("the caller's")
        tasks = [_concurrency.spawn(work, value, name=f"work {value}") for value in (1, 2)]
        assert _concurrency.gather(*tasks) == [(1, "empty", True), (2, "empty", True)]
        failing = _concurrency.spawn(work, None)
        assert failing.join(WAIT_S) is True
        assert failing.is_done()
        with pytest.raises(KeyError):
            failing.result()

    async def test_a_task_of_another_loop(self):
        async def start(function):
            return _concurrency.async_spawn(function)

        async def at_once():
            return "done"

        async def never():
            await asyncio.Event().wait()

        async def start_and_join():
            task = _concurrency.async_spawn(at_once)
            await task.join()
            return task

        done = await asyncio.to_thread(lambda: asyncio.run(start_and_join()))
        assert await done.join() is True
        assert await done.result() == "done"
        cancelled = await asyncio.to_thread(lambda: asyncio.run(start(never)))
        assert await cancelled.join() is True
        loop = asyncio.new_event_loop()
        abandoned = await asyncio.to_thread(loop.run_until_complete, start(never))
        assert not abandoned.is_done()
        loop.close()
        assert abandoned.is_done()
        assert await abandoned.join() is True
        abandoned._task.get_coro().close()
        abandoned._task._log_destroy_pending = False

    async def test_join_times_out_and_never_waits_for_itself(self):
        release = _concurrency.AsyncEvent()
        task = _concurrency.async_spawn(release.wait, WAIT_S)
        assert await task.join(0.0) is False
        release.set()
        assert await task.join(WAIT_S) is True

        async def join_itself():
            return await itself.join(WAIT_S)

        itself = _concurrency.async_spawn(join_itself)
        assert await itself.result() is False

    def test_the_same_with_a_thread(self):
        release, known = threading.Event(), threading.Event()
        task = _concurrency.spawn(release.wait, WAIT_S)
        assert task.join(0.0) is False
        release.set()
        assert task.join(WAIT_S) is True

        def join_itself():
            known.wait(WAIT_S)
            return itself.join(WAIT_S)

        itself = _concurrency.spawn(join_itself)
        known.set()
        assert itself.result() is False


class TestKeyedLocks:
    async def test_one_at_a_time_for_each_key(self):
        locks = _concurrency.AsyncKeyedLocks()
        inside = []

        async def hold(key, number):
            async with locks.hold(key):
                inside.append((key, number))
                assert [held for held, _ in inside].count(key) == 1
                await asyncio.sleep(0)
                inside.remove((key, number))

        await asyncio.gather(*[hold(key, number) for key in "ab" for number in range(20)])
        assert not locks._held

    async def test_a_cancelled_waiter_leaves_nothing_behind(self):
        locks = _concurrency.AsyncKeyedLocks()
        async with locks.hold("key"):
            waiter = asyncio.create_task(locks.hold("key").__aenter__())
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        assert not locks._held

    async def test_several_keys_at_once(self):
        locks = _concurrency.AsyncKeyedLocks()
        order = []

        async def hold(name, *keys):
            async with locks.hold(*keys):
                order.append(name)
                await asyncio.sleep(0)
                order.append(name)

        await asyncio.gather(hold("ab", "a", "b"), hold("b", "b"), hold("a", "a"), hold("abc", "a", "b", "c"))
        assert order[:2] == ["ab", "ab"]
        assert order[-2:] == ["abc", "abc"]
        assert not locks._held

    async def test_a_waiter_that_is_cancelled_when_it_is_its_turn_hands_it_on(self):
        locks = _concurrency.AsyncKeyedLocks()
        first = locks.hold("key")
        await first.__aenter__()
        waiters = [asyncio.create_task(locks.hold("key").__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)
        await first.__aexit__(None, None, None)
        waiters[0].cancel()  # its turn has come, and it has not run yet
        with pytest.raises(asyncio.CancelledError):
            await waiters[0]
        await waiters[1]
        assert locks._held

    async def test_cancelled_while_it_holds_some_of_its_keys(self):
        locks = _concurrency.AsyncKeyedLocks()
        async with locks.hold("b"):
            waiter = asyncio.create_task(locks.hold("a", "b").__aenter__())
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            async with locks.hold("a"):
                pass
        assert not locks._held

    def test_threads(self):
        locks = _concurrency.KeyedLocks()
        counts = {"a": 0, "b": 0}

        def count(key):
            for _ in range(200):
                with locks.hold(key):
                    before = counts[key]
                    counts[key] = before + 1

        _concurrency.gather(*[_concurrency.spawn(count, key) for key in "abab"])
        assert counts == {"a": 400, "b": 400}
        assert not locks._entries


class TestHome:
    async def test_posts_here_or_to_the_remembered_loop(self):
        home = _concurrency.AsyncHome()
        called = _concurrency.AsyncEvent()
        assert await asyncio.to_thread(home.post, called.set) is False
        assert home.post(called.set) is True
        assert called.is_set()
        called.clear()
        home.settle()
        assert await asyncio.to_thread(home.post, called.set) is True
        assert await called.wait(WAIT_S)

    async def test_posts_elsewhere_only(self):
        home = _concurrency.AsyncHome()
        called = _concurrency.AsyncEvent()
        home.settle()
        assert home.post_elsewhere(called.set) is False

        async def other():
            home.settle()
            settled.set()
            return await called.wait(WAIT_S)

        settled = _concurrency.AsyncEvent()
        thread = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(other())))
        assert await settled.wait(WAIT_S)
        assert home.post_elsewhere(called.set) is True
        assert await thread is True

    def test_a_closed_loop_takes_nothing(self):
        home = _concurrency.AsyncHome()

        async def settle():
            home.settle()

        asyncio.run(settle())
        assert home.post(lambda: None) is False


async def test_settle_awaits_to_any_depth():
    async def nested(depth):
        return nested(depth - 1) if depth else "value"

    class Itself:
        def __await__(self):
            return self
            yield

    itself = Itself()
    assert await _concurrency.async_settle("value") == "value"
    assert await _concurrency.async_settle(nested(0)) == "value"
    assert await _concurrency.async_settle(nested(3)) == "value"
    assert await _concurrency.async_settle(itself) is itself
