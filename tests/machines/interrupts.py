"""Interruptions at every place where they can come: in threads by tracing, in tasks by driving the coroutine.

`strike(function, at)` runs a function in this thread and raises `Interruption` at the `at`-th place where CPython looks for
signals: when a Python function begins, when a loop turns, when a call of something in C has returned, and in the stead of a
call that waits. `cancel(make, at, late)` runs a coroutine in a task and cancels it at its `at`-th suspension, at once or just
when what it waits for is there. Both tell whether it came to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

EVERY = float(os.environ.get("INTERRUPTS_EVERY", "0"))
"""Every how many-th place is tried, in place of each test's own number; 1 for all."""
SEED = int(os.environ.get("INTERRUPTS_SEED", "0")) or int(time.time())
"""Which of them: by default each run tries others."""

OWN = ("/agent_memory/",)
"""Parts of the paths of the files in which interruptions come."""
STDLIB = ("/threading.py", "/contextlib.py", "/weakref.py", "/_weakrefset.py")
CHECKED = frozenset(
    number
    for name, number in dis.opmap.items()
    if name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "CALL_KW_NON_PY", "JUMP_BACKWARD", "POP_JUMP_BACKWARD_IF_TRUE")
    or name.startswith("POP_JUMP_BACKWARD")
)
"""After these CPython looks for signals."""
BEFORE_WITH = frozenset(number for name, number in dis.opmap.items() if name in ("BEFORE_WITH", "LOAD_SPECIAL"))
WAITING = frozenset({"acquire", "recv", "recv_into", "send", "sendall", "sleep", "connect", "poll", "select", "wait"})
"""Built-in functions that wait: the handler's exception may come in the stead of what they do."""


def places(every: int) -> range:
    """The numbers of the places that this run tries."""
    every = int(EVERY) or every
    print(f"INTERRUPTS_SEED={SEED}")  # shown where the test fails
    return range(SEED % every, 1_000_000, every)


def within(seconds: float, function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns or raises in a thread of its own; AssertionError where it has not ended in time."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append((function(*args), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not ended:
        frame = sys._current_frames().get(thread.ident or 0)
        lines = []
        while frame is not None:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            frame = frame.f_back
        raise AssertionError(f"it has not ended after {seconds} s: {' < '.join(lines)}")
    result, error = ended[0]
    if error is not None:
        raise error
    return result


class Interruption(BaseException):
    """What the signal handler raises."""


class Striker:
    """Counts the places; raises at one of them. `place` says where it was."""

    def __init__(self, at: int, files: tuple[str, ...]) -> None:
        self.at, self.files = at, files
        self.passed = 0
        self.place: str | None = None
        self._before: dict[Any, int] = {}

    def _is_ours(self, frame: Any) -> bool:
        name = frame.f_code.co_filename
        return any(part in name for part in self.files)

    def _look(self, frame: Any, how: str) -> None:
        if self.place is None:
            self.passed += 1
            if self.passed > self.at:
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name} ({how})"
                sys.setprofile(None)
                raise Interruption(self.place)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Says of an error of the block where the interruption came."""
        try:
            yield
        except BaseException as error:
            error.add_note(f"interrupted at place {self.at}: {self.place}")
            raise

    def forget(self) -> None:
        """Releases the frames."""
        self._before.clear()

    def begin(self, frame: Any, event: str, _: Any) -> Any:
        if event != "call":
            return None
        # A Python function was called: CPython does not check for signals when it returns.
        self._before.pop(frame.f_back, None)
        if not self._is_ours(frame):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if not frame.f_code.co_flags & 0x20 or frame.f_lasti <= 0:
            self._look(frame, "begins")
        return self.step

    def step(self, frame: Any, event: str, _: Any) -> Any:
        if event == "opcode":
            code = frame.f_code.co_code[frame.f_lasti]
            before = self._before.get(frame)
            self._before[frame] = code
            if before in CHECKED:
                self._look(frame, "after " + dis.opname[before])
            if code in BEFORE_WITH:
                self._look(frame, "instead of entering")
        elif event == "return":
            self._before.pop(frame, None)
        return self.step

    def profile(self, frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and getattr(function, "__name__", "") in WAITING and self._is_ours(frame):
            self._look(frame, f"instead of {function.__name__}")


def strike(function: Callable[[], Any], at: int, files: tuple[str, ...] = OWN + STDLIB) -> Striker:
    """Runs the function and strikes; what else it raises is raised. Errors that the interruption became are the function's."""
    striker = Striker(at, files)
    sys.settrace(striker.begin)
    sys.setprofile(striker.profile)
    try:
        function()
    except BaseException as error:
        # Struck inside threading.Condition, it comes out as the RuntimeError of a lock that was not taken again.
        context: BaseException | None = error
        while context is not None and not isinstance(context, Interruption):
            context = context.__context__
        if context is None:
            raise
        del context
    finally:
        sys.setprofile(None)
        sys.settrace(None)
        striker.forget()
    return striker


class _Driven:
    """Awaits a coroutine and cancels the task at one of its suspensions."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, *, late: bool) -> None:
        self.coroutine, self.at, self.late = coroutine, at, late
        self.suspended = 0
        self.struck = False

    def __await__(self) -> Any:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        assert task is not None
        steps = self.coroutine.__await__()
        value, error = None, None
        while True:
            try:
                waited = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            value, error = None, None
            if self.suspended == self.at and not self.struck:
                self.struck = True
                if self.late and waited is not None:
                    # Before the task's own callback: what it waits for is there, and the task is cancelled all the same.
                    waited.add_done_callback(lambda _: task.cancel())
                else:
                    loop.call_soon(task.cancel)
            self.suspended += 1
            try:
                if waited is not None:
                    waited._asyncio_future_blocking = True
                value = yield waited
            except BaseException as thrown:
                error = thrown


async def cancel(make: Callable[[], Coroutine[Any, Any, Any]], at: int, *, late: bool) -> bool:
    """Runs the coroutine in a task and cancels it at its `at`-th suspension. Returns whether it got that far."""
    driven = _Driven(make(), at, late=late)

    async def run() -> Any:
        return await driven

    task = asyncio.ensure_future(run())
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
    return driven.struck
