"""An interrupted demo ends with 130, whatever becomes of the exception on its way out."""

import asyncio
import contextlib
import gc
import logging
import signal

import pytest
from demo import __main__ as demo
from demo import scenes
from demo.traffic import HungError

SAID = "interrupted: the server was stopped, its data removed; no verdict\n"


@pytest.fixture(autouse=True)
def signals():
    """The handlers of before the test; SIGINT is handled, also where a shell's background job ignores it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    logging.getLogger("asyncio").setLevel(logging.NOTSET)


def run(monkeypatch, tmp_path, run_demo):
    monkeypatch.setattr(scenes, "run_demo", run_demo)
    report = tmp_path / "report.html"
    status = demo.main(["--seconds", "8", "--plain", "--report", str(report)])
    assert not report.exists()
    return status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", [None, HungError("caller 1 hangs in a call"), OSError("busy"), RuntimeError("late")])
def test_cleaning_up_that_fails_hides_no_interrupt(monkeypatch, tmp_path, capsys, number, error):
    def run_demo(_settings, _dashboard):
        try:
            signal.raise_signal(number)
        finally:
            if error is not None:
                raise error

    assert run(monkeypatch, tmp_path, run_demo) == 130
    assert capsys.readouterr().err == SAID


def test_an_interrupt_that_a_callback_dropped_ends_it_too(monkeypatch, tmp_path, capsys):
    def run_demo(_settings, _dashboard):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pass  # as a finalizer or a listener would drop it

    assert run(monkeypatch, tmp_path, run_demo) == 130
    assert capsys.readouterr().err == SAID


def test_without_an_interrupt_a_call_that_hangs_is_a_failure(monkeypatch, tmp_path, capsys):
    def run_demo(_settings, _dashboard):
        raise HungError("caller 1 hangs in a call")

    assert run(monkeypatch, tmp_path, run_demo) == 1
    assert capsys.readouterr().err == "error: caller 1 hangs in a call\n"


def test_an_error_of_the_demo_itself_is_not_hidden(monkeypatch, tmp_path):
    def run_demo(_settings, _dashboard):
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        run(monkeypatch, tmp_path, run_demo)


def test_an_interrupt_that_is_ignored_stays_ignored(monkeypatch, tmp_path):
    def run_demo(_settings, _dashboard):
        signal.raise_signal(signal.SIGINT)
        raise HungError("went on")

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert run(monkeypatch, tmp_path, run_demo) == 1


def test_an_interrupt_that_struck_a_task_is_not_reported_again(monkeypatch, tmp_path, capsys, caplog):
    tasks = []

    async def opening():
        signal.raise_signal(signal.SIGINT)

    async def wait_for_it():
        tasks.append(asyncio.ensure_future(opening()))
        await asyncio.Event().wait()

    def run_demo(_settings, _dashboard):
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            loop.run_until_complete(wait_for_it())

    assert run(monkeypatch, tmp_path, run_demo) == 130
    tasks.clear()
    gc.collect()
    assert capsys.readouterr().err == SAID
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
