"""What the recorded samples amount to: by time for the picture, by phase for the table, and the figures of the recovery."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from demo.comparison import percentile
from demo.recorder import Ending, PhaseSpan, Recorder, Sample

__all__ = ["Bin", "Group", "PhaseFigures", "Recovery", "RunFigures", "StateBand", "digest", "group_of"]

_BINS: Final = 180
_SHORTEST_BIN_S: Final = 0.05

OUTAGE_ENDS: Final = {"stalled": "resumed", "killed": "restarted"}
"""The phase in which the server is away, and the one in which it is back."""


class Group:
    """What the endings are summed up as, in the order in which the picture stacks them."""

    DONE: Final = "done"
    QUEUED: Final = "queued"
    REFUSED: Final = "refused at once"
    FAILED: Final = "failed"

    ALL: Final = (DONE, QUEUED, REFUSED, FAILED)


_GROUPS: Final = {
    Ending.ANSWERED: Group.DONE,
    Ending.STORED: Group.DONE,
    Ending.QUEUED: Group.QUEUED,
    Ending.DROPPED: Group.REFUSED,
    Ending.CIRCUIT_OPEN: Group.REFUSED,
}


def group_of(ending: Ending) -> str:
    """What `ending` counts as."""
    return _GROUPS.get(ending, Group.FAILED)


@dataclass(slots=True)
class Bin:
    """One slice of the time axis."""

    start_s: float
    end_s: float
    counts: Counter[str] = field(default_factory=Counter)
    """Operations by group."""
    p50_us: dict[str, float] = field(default_factory=dict)
    """Of commands, by client; a client without any has no entry."""
    p99_us: dict[str, float] = field(default_factory=dict)
    queued: dict[str, int] = field(default_factory=dict)
    """The longest the queue was, by client."""


@dataclass(frozen=True, slots=True)
class StateBand:
    """A stretch of time in which a circuit was in one state."""

    client: str
    state: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class PhaseFigures:
    """A phase in numbers."""

    name: str
    start_s: float
    end_s: float
    operations_per_s: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    longest_us: float = 0.0
    endings: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How one client came back after one outage. Times are None for what did not happen."""

    phase: str
    """The phase of the outage: "stalled" or "killed"."""
    client: str
    opened_after_s: float | None
    """From the outage to the open circuit."""
    refusal_p50_us: float
    refusal_p99_us: float
    """How long a call took that the open circuit refused."""
    refusals: int
    longest_queue: int
    first_success_after_s: float | None
    """From the moment the server answers again to the first command that succeeds."""
    closed_after_s: float | None
    drained_after_s: float | None


@dataclass(slots=True)
class RunFigures:
    """Everything the report shows of the run under outages; times in seconds since the first phase began."""

    duration_s: float
    bins: list[Bin]
    states: list[StateBand]
    marks: list[tuple[float, str]]
    phases: list[PhaseFigures]
    recoveries: list[Recovery]
    longest_queue: int
    """Of all clients together, at any moment."""


def digest(recorder: Recorder, returned_ns: dict[str, int]) -> RunFigures:
    """Sums up a finished run. `returned_ns` has, by phase of outage, the moment the server answered again."""
    recorder.collect()
    phases = recorder.phases
    zero_ns, end_ns = phases[0].start_ns, phases[-1].end_ns
    duration_s = (end_ns - zero_ns) / 1e9
    bins = _make_bins(recorder, zero_ns, duration_s)
    return RunFigures(
        duration_s,
        bins,
        _make_bands(recorder, zero_ns, end_ns),
        [((mark.at_ns - zero_ns) / 1e9, mark.name) for mark in recorder.marks],
        [_sum_up_phase(recorder, phase, zero_ns) for phase in phases],
        [
            _sum_up_recovery(recorder, phase, client, returned_ns)
            for phase in phases
            if phase.name in OUTAGE_ENDS and phase.name in returned_ns
            for client in recorder.clients
        ],
        max((sum(one.queued.values()) for one in bins), default=0),
    )


def _make_bins(recorder: Recorder, zero_ns: int, duration_s: float) -> list[Bin]:
    width_s = max(_SHORTEST_BIN_S, duration_s / _BINS)
    count = int(duration_s / width_s) + 1
    bins = [Bin(number * width_s, min((number + 1) * width_s, duration_s)) for number in range(count)]
    latencies_ns: list[dict[str, list[int]]] = [{} for _ in bins]
    for sample in recorder.samples:
        number = int((sample.end_ns - zero_ns) / 1e9 / width_s)
        if not 0 <= number < count:
            continue
        bins[number].counts[group_of(sample.ending)] += 1
        if sample.is_command:
            latencies_ns[number].setdefault(sample.client, []).append(sample.latency_ns)
    for one, by_client in zip(bins, latencies_ns, strict=True):
        for client, latencies in by_client.items():
            latencies.sort()
            one.p50_us[client] = percentile(latencies, 0.50) / 1e3
            one.p99_us[client] = percentile(latencies, 0.99) / 1e3
    for point in recorder.queues:
        number = int((point.at_ns - zero_ns) / 1e9 / width_s)
        if 0 <= number < count:
            queued = bins[number].queued
            queued[point.client] = max(queued.get(point.client, 0), point.length)
    return bins


def _make_bands(recorder: Recorder, zero_ns: int, end_ns: int) -> list[StateBand]:
    bands = []
    for client in recorder.clients:
        changes = [change for change in recorder.states if change.client == client]
        ends_ns = [*(change.at_ns for change in changes[1:]), end_ns]
        for change, until_ns in zip(changes, ends_ns, strict=True):
            start_s = (max(change.at_ns, zero_ns) - zero_ns) / 1e9
            end_s = (min(until_ns, end_ns) - zero_ns) / 1e9
            if end_s > start_s:
                bands.append(StateBand(client, change.state, start_s, end_s))
    return bands


def _within(samples: list[Sample], phase: PhaseSpan) -> list[Sample]:
    return [sample for sample in samples if phase.start_ns <= sample.end_ns < phase.end_ns]


def _sum_up_phase(recorder: Recorder, phase: PhaseSpan, zero_ns: int) -> PhaseFigures:
    start_s, end_s = (phase.start_ns - zero_ns) / 1e9, (phase.end_ns - zero_ns) / 1e9
    figures = PhaseFigures(phase.name, start_s, end_s)
    samples = _within(recorder.samples, phase)
    figures.endings.update(sample.ending for sample in samples)
    figures.operations_per_s = len(samples) / (end_s - start_s) if end_s > start_s else 0.0
    commands_ns = sorted(sample.latency_ns for sample in samples if sample.is_command)
    figures.p50_us = percentile(commands_ns, 0.50) / 1e3
    figures.p99_us = percentile(commands_ns, 0.99) / 1e3
    figures.longest_us = commands_ns[-1] / 1e3 if commands_ns else 0.0
    return figures


def _sum_up_recovery(recorder: Recorder, outage: PhaseSpan, client: str, returned_ns: dict[str, int]) -> Recovery:
    back_ns = returned_ns[outage.name]
    next_name = OUTAGE_ENDS[outage.name]
    end_ns = next((phase.end_ns for phase in recorder.phases if phase.name == next_name), outage.end_ns)
    samples = [one for one in recorder.samples if one.client == client and outage.start_ns <= one.end_ns < end_ns]
    refusals_ns = sorted(one.latency_ns for one in samples if one.is_command and one.ending is Ending.CIRCUIT_OPEN)
    states = [one for one in recorder.states if one.client == client and outage.start_ns <= one.at_ns < end_ns]
    queues = [one for one in recorder.queues if one.client == client and outage.start_ns <= one.at_ns < end_ns]
    opened_ns = next((one.at_ns for one in states if one.state == "open"), None)
    success_ns = min(
        (one.end_ns for one in samples if one.is_command and one.ending.good and one.end_ns >= back_ns), default=None
    )
    closed_ns = next((one.at_ns for one in states if one.state == "closed"), None)
    longest = max((one.length for one in queues), default=0)
    drained_ns = next((one.at_ns for one in queues if one.at_ns >= back_ns and one.length == 0), None)
    return Recovery(
        outage.name,
        client,
        _seconds_between(outage.start_ns, opened_ns),
        percentile(refusals_ns, 0.50) / 1e3,
        percentile(refusals_ns, 0.99) / 1e3,
        len(refusals_ns),
        longest,
        _seconds_between(back_ns, success_ns),
        _seconds_between(back_ns, closed_ns),
        _seconds_between(back_ns, drained_ns) if longest else None,
    )


def _seconds_between(start_ns: int, end_ns: int | None) -> float | None:
    return None if end_ns is None else (end_ns - start_ns) / 1e9
