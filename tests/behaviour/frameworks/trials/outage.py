"""What every trial does: a framework calls a server that stalls and restarts, by a proxy, and must fail fast and come back.

A trial is a program of its own, because frameworks keep their state in the process. It prints what it measured.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

from paths import ROOT

from agent_memory.errors import CircuitOpenError
from agent_memory.testing import EmbeddedServer, FaultProxy

TIMEOUT_S = 0.4
"""The `socket_timeout` that the pages' settings get here. A call that a circuit rejects must take less than it."""
MOST_FAILURES = 12
"""Calls that may fail before the circuit opens."""
RECOVERS_WITHIN_S = 20.0
PAGES = ROOT / "docs" / "how-to" / "frameworks"

_URL = re.compile(r"redis://localhost:6379/0")
_TIMEOUT = re.compile(r"""(?i)((?:socket|connect|connection)_timeout["']?\s*[=:]\s*)[\d.]+""")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Outage(AbstractContextManager["Outage"]):
    """A server behind a proxy, and the faults of a trial."""

    def __enter__(self) -> Self:
        self.server = EmbeddedServer(transport="tcp").start()
        self.proxy = FaultProxy(self.server).start()
        self.url = self.proxy.url
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.stop()
        self.server.close()

    def page(self, name: str) -> types.ModuleType:
        """The Python blocks of a how-to page as one module, on this server."""
        return load_page(name, self.url)

    def endure(self, call: Callable[[], Any], *, is_rejection: Callable[[BaseException], bool] | None = None) -> None:
        """A stall, then a restart: `call()` works before, fails fast once the circuit is open, works again after."""
        rejected = is_rejection or is_circuit_open
        call()
        for fault, begin, end in (
            ("stall", self.proxy.pause, self.proxy.resume),
            ("restart", self.server.kill, self.server.start),
        ):
            begin()
            failures = fail_until_rejected(call, rejected)
            slowest_s = slowest_rejection_s(call, rejected)
            end()
            recovered_s = recover(call)
            print(
                f"{fault}: rejected after {failures} failures, the slowest rejection took {slowest_s * 1e3:.1f} ms; "
                f"served {recovered_s:.2f} s after the server was back"
            )


def load_page(name: str, url: str) -> types.ModuleType:
    """The Python blocks of a how-to page as one module, with another address and TIMEOUT_S in its settings."""
    text = "\n".join(_BLOCK.findall((PAGES / f"{name}.md").read_text()))
    assert text, f"{name}.md has no code"
    text = _TIMEOUT.sub(rf"\g<1>{TIMEOUT_S}", _URL.sub(url, text))
    module = types.ModuleType(f"page_{name}")
    sys.modules[module.__name__] = module
    exec(compile(text, f"{name}.md", "exec"), module.__dict__)
    return module


def chain(error: BaseException | None) -> list[BaseException]:
    """An error and what it was raised from or during."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def is_circuit_open(error: BaseException) -> bool:
    """Whether an error comes from an open circuit, however the framework has wrapped it."""
    return any(isinstance(one, CircuitOpenError) for one in chain(error))


def fail_until_rejected(call: Callable[[], Any], rejected: Callable[[BaseException], bool]) -> int:
    """Call until the circuit rejects; gives how many calls failed before."""
    last: BaseException | None = None
    for failures in range(MOST_FAILURES):
        try:
            call()
        except Exception as error:
            last = error
            if rejected(error):
                return failures
    if last is not None:
        traceback.print_exception(last)
    raise AssertionError(f"no call of {MOST_FAILURES} was rejected by an open circuit")


def slowest_rejection_s(call: Callable[[], Any], rejected: Callable[[BaseException], bool]) -> float:
    """Five calls while the circuit is open: each is rejected, in less than `socket_timeout`; gives the longest."""
    slowest_s = 0.0
    for _ in range(5):
        started_s = time.monotonic()
        try:
            call()
        except Exception as error:
            if not rejected(error):
                raise
        else:
            raise AssertionError("a call was served while the server was away")
        slowest_s = max(slowest_s, time.monotonic() - started_s)
    assert slowest_s < TIMEOUT_S, f"a rejection took {slowest_s:.3f} s"
    return slowest_s


def recover(call: Callable[[], Any]) -> float:
    """Call until it is served; gives how long that took."""
    started_s = time.monotonic()
    while True:
        try:
            call()
        except Exception as error:
            if time.monotonic() - started_s > RECOVERS_WITHIN_S:
                raise AssertionError(f"not served {RECOVERS_WITHIN_S} s after the server was back") from error
            time.sleep(0.01)
        else:
            return time.monotonic() - started_s


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first value of `condition()` that is true."""
    deadline_s = time.monotonic() + RECOVERS_WITHIN_S
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what}: not within {RECOVERS_WITHIN_S} s")
        time.sleep(0.01)
    return value
