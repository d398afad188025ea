"""A short run of the whole demo, as `make demo` starts it: the verdict, and the picture it leaves behind."""

import html.parser
import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

SVG = "{http://www.w3.org/2000/svg}"


def command(report, *options):
    return [sys.executable, "-m", "demo", "--report", str(report), *options]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run that all tests look at: (completed process, text of the report)."""
    report = tmp_path_factory.mktemp("demo") / "report.html"
    done = subprocess.run(command(report, "--seconds", "9"), capture_output=True, text=True, timeout=110, check=False)
    return done, report.read_text(encoding="utf-8") if report.exists() else ""


@pytest.fixture(scope="module")
def page(run):
    return ElementTree.fromstring(run[1])


@pytest.fixture(scope="module")
def data(page):
    (script,) = page.iter("script")
    return json.loads(script.text)


def test_says_that_every_promise_was_kept(run):
    done, _ = run
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED: every promise was kept" in done.stdout
    assert done.stderr == ""


def test_shows_each_phase_as_it_comes(run):
    done, _ = run
    titles = re.findall(r"--- ([a-z' -]+?)(?: \(|$)", done.stdout, re.MULTILINE)
    assert titles == [
        "beside redis-py",
        "steady",
        "stalled",
        "resumed",
        "killed",
        "restarted",
        "checking",
        "an agent's memory",
    ]


def test_the_verdict_rests_on_real_work(data):
    verdict = data["verdict"]
    assert verdict["passed"] is True
    assert verdict["problems"] == []
    assert verdict["accepted_writes"] > 100
    assert verdict["queued_writes"] > 0
    assert verdict["drained_writes"] == verdict["queued_writes"]
    assert verdict["increments_acknowledged"] > 10
    lowest = verdict["increments_acknowledged"]
    assert lowest <= verdict["increments_found"] <= lowest + verdict["increments_unknown"]


def test_both_circuits_open_in_the_kill_and_close_after_it(data):
    killed = next(phase for phase in data["figures"]["phases"] if phase["name"] == "killed")
    for client in ("sync", "async"):
        states = [band for band in data["figures"]["states"] if band["client"] == client]
        assert any(band["state"] == "open" and band["end_s"] > killed["start_s"] for band in states)
        assert states[-1]["state"] == "closed"


def test_every_client_came_back_from_every_outage(data):
    recoveries = data["figures"]["recoveries"]
    assert {(one["phase"], one["client"]) for one in recoveries} == {
        (phase, client) for phase in ("stalled", "killed") for client in ("sync", "async")
    }
    assert all(one["first_success_after_s"] is not None for one in recoveries)


def test_redis_py_stands_beside_us_in_the_same_run(data):
    lanes = {(one["library"], one["way"].split()[-1]) for one in data["comparison"]}
    assert lanes == {(library, way) for library in ("redis-py", "agent_memory") for way in ("threads", "tasks")}
    assert all(one["operations_per_s"] > 0 and one["p99_us"] >= one["p50_us"] > 0 for one in data["comparison"])


def test_the_picture_has_its_parts(page):
    drawings = {drawing.get("class"): drawing for drawing in page.iter(f"{SVG}svg")}
    assert set(drawings) == {"timeline", "bars", "agent"}
    classes = {shape.get("class") for shape in drawings["timeline"].iter()}
    assert {"p50 sync", "p99 sync", "p50 async", "p99 async"} <= classes
    assert {"state-closed", "state-open", "area sync", "area async", "done", "queued", "refused", "failed"} <= classes
    words = {shape.text for shape in drawings["timeline"].iter(f"{SVG}text")}
    assert {"SIGSTOP", "SIGCONT", "SIGKILL", "restart"} <= words


def test_the_agent_lost_nothing_and_answered_from_every_tier(data):
    agent = data["agent"]
    verdict = agent["verdict"]
    assert verdict["passed"] is True
    assert verdict["problems"] == []
    assert verdict["memories"] == verdict["found"] > 1_500
    assert verdict["deleted"] > 0
    assert agent["ledger"]["corrected"] > 0
    assert agent["ledger"]["levels"]["redis"] > 0
    assert sum(verdict["by_tier"].values()) == verdict["found"]
    for tier in ("short_term", "intermediate", "long_term"):
        assert any(sample[tier] for sample in agent["samples"])
    assert {question["tier"] for question in agent["questions"]} >= {"STM", "IM", "LTM"}


def test_the_agent_stored_and_asked_while_each_store_was_away(data):
    agent = data["agent"]
    assert set(agent["away"]) == {"Redis", "SQL"}
    for began_s, ended_s in agent["away"].values():
        assert any(began_s < at_s < ended_s for at_s, _ in agent["stores"])
        assert any(one["tier"] and began_s < one["at_s"] < ended_s for one in agent["questions"])
    assert any(sample["in_redis"] is None for sample in agent["samples"])
    assert any(sample["only_in_redis"] for sample in agent["samples"])


def test_the_agents_picture_shows_where_the_memories_live(page):
    (drawing,) = (one for one in page.iter(f"{SVG}svg") if one.get("class") == "agent")
    classes = {shape.get("class") for shape in drawing.iter()}
    assert {"stm", "im", "ltm", "dirty", "copies line", "outage"} <= classes
    assert {"answer stm", "answer im", "answer ltm"} <= classes


def test_the_picture_needs_nothing_beside_itself(run):
    _, text = run
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"\b(?:src|href)=|@import|url\(", text)


def test_the_page_is_html_in_which_every_element_is_closed(run):
    class Balance(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(run[1])
    parser.close()
    assert run[1].startswith("<!DOCTYPE html>")
    assert parser.open == []


@pytest.fixture
def heard_interrupts():
    """A shell's background job ignores SIGINT, and so would every child: what is handled here is default there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("beside redis-py", signal.SIGINT),
        ("steady", signal.SIGTERM),
        ("stalled", signal.SIGINT),
        ("killed", signal.SIGINT),
        ("an agent's memory", signal.SIGINT),
    ],
)
@pytest.mark.usefixtures("heard_interrupts")
def test_ends_the_server_when_it_is_interrupted(tmp_path, phase, number):
    report = tmp_path / "report.html"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command(report, "--seconds", "8"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        server_pids = []
        for line in process.stdout:
            server_pids += re.findall(r"pid (\d+)", line)
            if f"--- {phase}" in line:
                break
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted: the server was stopped, its data removed; no verdict\n"
    assert server_pids
    assert not any(os.path.exists(f"/proc/{pid}") for pid in server_pids)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", ["7.9", "0", "-1", "nan"])
def test_refuses_a_run_that_is_too_short(tmp_path, seconds):
    done = subprocess.run(
        command(tmp_path / "report.html", "--seconds", seconds), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "seconds must be >= 8" in done.stderr
