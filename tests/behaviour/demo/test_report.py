"""The page and the drawings, from figures made up for the purpose."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from demo.agent import AgentResult, AgentSample, Question
from demo.agent_ledger import AgentVerdict
from demo.comparison import LaneResult, percentile
from demo.drawing import Linear, Logarithmic, polyline_path, round_ticks, step_path
from demo.figures import digest
from demo.recorder import Ending, Mark, PhaseSpan, QueuePoint, Recorder, Sample, StateChange
from demo.report import data_of, render_report
from demo.scenes import DemoResult
from demo.settings import DemoSettings
from demo.verdict import Verdict
from demo.witness import WitnessResult
from demo.wording import format_duration_us, format_optional_s

SECOND_NS = 1_000_000_000
NASTY = "key <b>&\"'</script> ]]>"


def make_recorder():
    """Ten seconds of one client: steady, stalled from 2 to 4 s, back at 5 s."""
    recorder = Recorder(["sync"])
    zero_ns = recorder.start_ns
    recorder.phases = [
        PhaseSpan("steady", zero_ns, zero_ns + 2 * SECOND_NS),
        PhaseSpan("stalled", zero_ns + 2 * SECOND_NS, zero_ns + 4 * SECOND_NS),
        PhaseSpan("resumed", zero_ns + 4 * SECOND_NS, zero_ns + 10 * SECOND_NS),
    ]
    recorder.marks = [Mark(zero_ns + 2 * SECOND_NS, "SIGSTOP")]
    recorder.states += [
        StateChange(zero_ns + 5 * SECOND_NS // 2, "sync", "open"),
        StateChange(zero_ns + 5 * SECOND_NS, "sync", "half_open"),
        StateChange(zero_ns + 5 * SECOND_NS + 1, "sync", "closed"),
    ]
    for step, length in ((3, 7), (4, 9), (5, 9), (6, 0)):
        recorder.queues.append(QueuePoint(zero_ns + step * SECOND_NS, "sync", length))
    for tenth in range(100):
        at_ns = zero_ns + tenth * SECOND_NS // 10
        away = 25 <= tenth <= 50
        ending = Ending.CIRCUIT_OPEN if away else Ending.ANSWERED
        recorder.add(Sample(at_ns, 10_000 if away else 400_000, "sync", True, ending))
    return recorder, zero_ns


def make_result(verdict):
    recorder, zero_ns = make_recorder()
    figures = digest(recorder, {"stalled": zero_ns + 49 * SECOND_NS // 10})
    comparison = [
        LaneResult("redis-py", "16 threads", 5_000.0, 2_000.0, 9_000.0, 1.0),
        LaneResult("agent_memory", "16 threads", 15_000.0, 700.0, 3_000.0, 3.0),
    ]
    return DemoResult(DemoSettings(), "Valkey 9.1", comparison, figures, WitnessResult(), verdict)


def make_agent(verdict):
    return AgentResult(
        10.0,
        1.0,
        3.0,
        {"Redis": (2.0, 4.0)},
        [AgentSample(1.0, 5, 2, 0, 1, 7), AgentSample(3.0, 3, 4, 2, None, None), AgentSample(5.0, 1, 1, 9, 0, 3)],
        [Question(2.5, 1_500, "STM", "Redis"), Question(6.0, 900, "", "")],
        [(1.0, "sql"), (7.0, "redis")],
        [(NASTY, NASTY, "IM", 2.0)],
        verdict=verdict,
    )


def test_a_broken_promise_of_the_agents_memory_fails_the_run():
    result = make_result(Verdict())
    assert result.passed
    result.agent = make_agent(AgentVerdict(missing=1, problems=[NASTY]))
    assert not result.passed
    page = ElementTree.fromstring(render_report(result))
    assert NASTY in [item.text for item in page.iter("li")]
    assert [cell.text for cell in page.iter("td")].count(NASTY) == 2
    assert json.loads(next(page.iter("script")).text)["agent"]["verdict"]["passed"] is False


def test_recovery_counts_from_the_servers_return():
    (recovery,) = make_result(Verdict()).figures.recoveries
    assert recovery.opened_after_s == pytest.approx(0.5)
    assert recovery.first_success_after_s == pytest.approx(0.2)
    assert recovery.closed_after_s == pytest.approx(0.1)
    assert recovery.drained_after_s == pytest.approx(1.1)
    assert recovery.longest_queue == 9
    assert recovery.refusals == 26
    assert recovery.refusal_p50_us == pytest.approx(10.0)


def test_phases_are_counted_by_ending():
    steady, stalled, resumed = make_result(Verdict()).figures.phases
    assert steady.endings == {Ending.ANSWERED: 20}
    assert stalled.endings == {Ending.ANSWERED: 5, Ending.CIRCUIT_OPEN: 15}
    assert resumed.endings == {Ending.ANSWERED: 49, Ending.CIRCUIT_OPEN: 11}
    assert steady.operations_per_s == pytest.approx(10.0)


def test_every_sample_is_in_one_slice_of_the_time_axis():
    bins = make_result(Verdict()).figures.bins
    assert sum(sum(one.counts.values()) for one in bins) == 100


@pytest.mark.parametrize("passed", [True, False])
def test_the_page_is_well_formed_whatever_the_verdict_says(passed):
    verdict = Verdict() if passed else Verdict(missing_writes=1, problems=[NASTY])
    result = make_result(verdict)
    page = ElementTree.fromstring(render_report(result))
    (script,) = page.iter("script")
    assert json.loads(script.text) == json.loads(json.dumps(data_of(result)))
    assert json.loads(script.text)["verdict"]["passed"] is passed
    listed = [item.text for item in page.iter("li")]
    assert (NASTY in listed) is not passed


def test_a_run_in_which_nothing_came_back_can_be_shown():
    recorder, _ = make_recorder()
    recorder.collect()
    recorder.samples.clear()
    recorder.queues.clear()
    figures = digest(recorder, {})
    result = DemoResult(DemoSettings(), "Valkey 9.1", [], figures, WitnessResult(), Verdict())
    page = ElementTree.fromstring(render_report(result))
    (script,) = page.iter("script")
    assert json.loads(script.text) == json.loads(json.dumps(data_of(result)))


def test_percentiles_are_values_that_occurred():
    assert percentile([], 0.5) == 0
    assert percentile([7], 0.99) == 7
    assert percentile(list(range(100)), 0.99) == 99
    assert percentile(list(range(100)), 0.5) == 50


@pytest.mark.parametrize(
    ("duration_us", "words"),
    [(0, "-"), (0.5, "0.50 µs"), (12.34, "12.3 µs"), (999.4, "999 µs"), (1_000, "1.00 ms"), (2_500_000, "2.50 s")],
)
def test_durations_have_three_digits_and_a_unit(duration_us, words):
    assert format_duration_us(duration_us) == words


def test_optional_durations_have_words_for_their_ends():
    assert format_optional_s(None) == "never"
    assert format_optional_s(-0.1) == "< 1 ms"
    assert format_optional_s(0.25) == "250 ms"


def test_scales_put_values_where_they_belong():
    assert Linear(0.0, 10.0, 100.0, 200.0)(5.0) == pytest.approx(150.0)
    log = Logarithmic(1.0, 100.0, 0.0, 10.0)
    assert log(10.0) == pytest.approx(5.0)
    assert log(0.0) == 0.0
    assert log(1e9) == pytest.approx(10.0)
    assert log.decades() == pytest.approx([1.0, 10.0, 100.0])


@pytest.mark.parametrize(("high", "ticks"), [(0, [0, 1]), (4, [0, 1, 2, 3, 4]), (37, [0, 10, 20, 30, 40])])
def test_ticks_are_round_and_reach_the_top(high, ticks):
    assert round_ticks(high, 4) == pytest.approx(ticks)


def test_paths_join_their_points():
    assert polyline_path([(0, 0), (1.256, 2)]) == "M0 0L1.26 2"
    assert polyline_path([(3, 4)]) == "M3 4h0"
    assert step_path([0, 1, 2], [5, 6], [9, 9]) == "M0 5L0 5L1 5L1 6L2 6L2 9L1 9L1 9L0 9Z"
    assert step_path([0], [], []) == ""
