"""The metrics by themselves: names, bounds, and what a dashboard may refer to."""

import gc
import json
import re
import subprocess
import sys

import pytest
from paths import ROOT
from prometheus_client import CollectorRegistry, generate_latest

from agent_memory.observability import METRICS, dashboard
from agent_memory.observability.metrics import DURATION_BOUNDS_S, MAX_COMMANDS, OTHER
from agent_memory.observability.prometheus import PrometheusCollector
from agent_memory.observability.readings import MAX_SOURCES, Durations, Sources
from agent_memory.policy import make_guard
from agent_memory.policy.kinds import CommandCategory, FailureKind


class Client:
    def __init__(self, guard, **figures):
        self.guard, self.figures, self.endpoint = guard, figures, "h:1"

    def stats(self):
        return {**self.guard.stats(), **self.figures}


def values(source, name):
    sources = Sources()
    sources.add(source)
    return {r.labels: r.value for r in sources.read() if r.metric.name == f"agent_memory_{name}"}


def test_names_are_units_last_and_labels_are_declared():
    for metric in METRICS.values():
        assert re.fullmatch(r"agent_memory_[a-z_]+", metric.name)
        assert not metric.name.endswith("_total")
        assert metric.name.endswith("_seconds") == (metric.unit == "s")
        assert metric.name.endswith("_bytes") == (metric.unit == "By")


def test_durations_are_put_into_the_buckets_that_hold_them():
    now_ns = [0]
    guard = make_guard("x", clock=lambda: now_ns[0])
    operation = guard.operation("GET", category=CommandCategory.READ)
    for duration_ms in (0.05, 0.3, 3.0, 30.0, 20_000.0):
        permit = operation.admit()
        now_ns[0] += int(duration_ms * 1e6)
        operation.success(permit)
    ((labels, durations),) = values(Client(guard), "call_duration_seconds").items()
    assert labels == ("x", "h:1", "GET")
    assert isinstance(durations, Durations)
    by_bound = dict(zip(DURATION_BOUNDS_S, durations.cumulative, strict=True))
    assert (by_bound[0.0001], by_bound[0.0005], by_bound[0.005], by_bound[0.05], by_bound[10.0]) == (1, 2, 3, 4, 4)
    assert durations.total == 5
    assert durations.sum_s == pytest.approx(20.03335)


def test_errors_and_results_by_command():
    guard = make_guard("x")
    operation = guard.operation("GET", category=CommandCategory.READ)
    for _ in range(2):
        operation.success(operation.admit())
    permit = operation.admit()
    operation.failure(permit, FailureKind.TIMEOUT, 1, 0, permit, permit)
    operation.answered_error(operation.admit())
    calls = values(Client(guard), "calls")
    assert {labels[3]: value for labels, value in calls.items()} == {
        "success": 2, "command_error": 1, "cancelled": 0, "failure": 1,
    }  # fmt: skip
    assert values(Client(guard), "errors") == {("x", "h:1", "GET", "timeout"): 1}


def test_commands_beyond_the_bound_are_one_series():
    guard = make_guard("x")
    for number in range(MAX_COMMANDS + 7):
        operation = guard.operation(f"C{number}", category=CommandCategory.READ)
        for _ in range(2 if number < MAX_COMMANDS else 1):
            operation.success(operation.admit())
    calls = values(Client(guard), "calls")
    commands = {labels[2] for labels in calls}
    assert len(commands) == MAX_COMMANDS + 1
    assert calls["x", "h:1", OTHER, "success"] == 7


def test_the_state_is_one_of_three():
    guard = make_guard("x")
    guard.force_open()
    state = {labels[2]: value for labels, value in values(Client(guard), "circuit_state").items()}
    assert state == {"closed": 0.0, "open": 1.0, "half_open": 0.0}


def test_clients_of_one_name_have_series_of_their_own():
    registry = CollectorRegistry()
    one, two = Client(make_guard("x")), Client(make_guard("x"))
    collector = PrometheusCollector(one, two, registry=registry)
    text = generate_latest(registry).decode()
    assert 'agent_memory_circuit_opened_total{client="x",' in text
    assert 'agent_memory_circuit_opened_total{client="x#2",' in text
    collector.add(two, "other")
    assert 'client="other"' in generate_latest(registry).decode()


def test_sources_are_held_weakly_and_bounded():
    sources = Sources()
    client = Client(make_guard("x"))
    sources.add(client)
    del client
    gc.collect()
    assert not list(sources.read())
    kept = [Client(make_guard("x")) for _ in range(MAX_SOURCES)]
    for one in kept:
        sources.add(one)
    extra = Client(make_guard("x"))
    with pytest.raises(ValueError, match="at most 1024"):
        sources.add(extra)
    sources.remove(kept[0])
    sources.add(extra)


@pytest.mark.parametrize("wrong", [object(), Client, None])
def test_what_has_no_figures_is_refused(wrong):
    with pytest.raises(TypeError, match="source must be a client or a memory system"):
        PrometheusCollector(wrong, registry=None)


def expressions():
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_the_dashboard_asks_for_metrics_that_are_exported_by_their_labels():
    exported = {series: metric for metric in METRICS.values() for series in metric.series}
    asked = set()
    for title, expression in expressions():
        names = re.findall(r"\bagent_memory_[a-z_]+", expression)
        assert names, title
        labels = {"le"}
        for name in names:
            assert name in exported, (title, name)
            labels.update(exported[name].labels)
            asked.add(exported[name].name)
        used = re.findall(r"by \(([^)]*)\)", expression) + re.findall(r"([a-z_]+)(?:=~|!=|=)\"", expression)
        for word in re.findall(r"[a-z_]+", " ".join(used)):
            assert word in labels, (title, word)
    variables = [one["definition"] for one in dashboard()["templating"]["list"] if "definition" in one]
    for definition in variables:
        name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", definition).groups()
        assert label in exported[name].labels
    assert len(asked) >= 25


def test_the_reference_lists_every_metric_with_its_labels():
    page = (ROOT / "docs/reference/observability.md").read_text()
    rows = set(re.findall(r"^\| `(agent_memory_\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE))
    assert rows == {(m.name, m.kind, ", ".join(f"`{label}`" for label in m.labels)) for m in METRICS.values()}


def test_the_dashboard_has_what_grafana_needs():
    made = dashboard()
    assert json.loads(json.dumps(made)) == made
    assert made["title"]
    assert made["schemaVersion"] >= 36
    panels = made["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = set()
    for panel in panels:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & places
        places |= cells


def test_clients_import_nothing_of_it():
    program = (
        "import sys, agent_memory.redis, agent_memory.redis.asyncio, agent_memory.storage.redis_client, agent_memory.memory;"
        "print([name for name in sys.modules if name.startswith(('prometheus_client',"
        " 'agent_memory.observability', 'rich'))])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
