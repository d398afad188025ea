"""The picture of a run: one HTML file that needs nothing beside itself."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from demo.agent import AgentResult
from demo.agent_picture import TIER_NAMES, draw_agent
from demo.bars import draw_bars
from demo.comparison import OURS, percentile
from demo.figures import OUTAGE_ENDS, Recovery
from demo.recorder import Ending
from demo.scenes import DemoResult
from demo.settings import PHASE_TITLES
from demo.timeline import draw_timeline
from demo.verdict import Verdict
from demo.witness import WitnessResult
from demo.wording import format_duration_us, format_optional_s

__all__ = ["data_of", "describe_agent", "describe_verdict", "describe_witness", "render_report", "write_report"]

_OUTAGE_NAMES: Final = {"stalled": "stall (SIGSTOP)", "killed": "kill (SIGKILL)"}


def write_report(result: DemoResult, path: Path) -> None:
    """Writes the page to `path`. Raises OSError if that cannot be."""
    path.write_text(render_report(result), encoding="utf-8")


def describe_verdict(verdict: Verdict) -> list[str]:
    """The figures of the verdict, one sentence each."""
    found = verdict.increments_found
    acknowledged, unknown = verdict.increments_acknowledged, verdict.increments_unknown
    lines = [
        f"{verdict.accepted_writes:,} writes were accepted on {verdict.keys:,} keys; {verdict.missing_writes:,} are missing.",
        f"{verdict.queued_writes:,} of them went through the recovery queue; {verdict.drained_writes:,} of these were drained.",
        f"{verdict.increments_attempted:,} INCRs were called on {verdict.counters:,} counters: {acknowledged:,} acknowledged, "
        f"{unknown:,} unknown, the rest refused; the counters add up to {found:,} "
        f"(allowed: {acknowledged:,} to {acknowledged + unknown:,}, held by {verdict.counters - verdict.wrong_counters:,} "
        f"of {verdict.counters:,}).",
        f"{verdict.unknown_writes:,} unknown writes were the last of their key; the database has "
        f"{verdict.unknown_writes_found:,} of them.",
        f"{verdict.foreign_replies:,} replies went to the wrong caller.",
    ]
    if verdict.unexpected_errors:
        lines.append(f"{verdict.unexpected_errors:,} errors were of an unexpected kind.")
    return lines


def describe_agent(agent: AgentResult) -> list[str]:
    """What was found about the agent, one sentence each."""
    verdict, ledger = agent.verdict, agent.ledger
    tiers = ", ".join(f"{count:,} in {TIER_NAMES[tier]} memory" for tier, count in verdict.by_tier.items())
    asked = Counter(question.tier for question in agent.questions)
    answered = ", ".join(f"{asked[tier]:,} from {words} memory" for tier, words in TIER_NAMES.items())
    missed = sum(not question.tier and question.stands_in == "SQL" for question in agent.questions)
    return [
        f"The agent's memory promised {verdict.memories:,} memories and {verdict.deleted:,} deletions; {verdict.missing:,} "
        f"memories are missing, {verdict.altered:,} altered, {verdict.doubled:,} doubled, {verdict.resurrected:,} came back.",
        f"{ledger.levels['redis']:,} of them were accepted by Redis while the database refused writes, and are in it now; "
        f"{ledger.corrected:,} were corrected, {ledger.refused:,} corrections and deletions refused by an error.",
        f"At the end {tiers}.",
        f"{len(agent.questions):,} questions were asked: {answered}; {missed:,} found no answer while the database was taken "
        f"for away and Redis had no copy, {verdict.unanswered:,} without such a reason.",
    ]


def data_of(result: DemoResult) -> dict[str, Any]:
    """Everything in the page as plain data."""
    data: dict[str, Any] = _plain(result)
    data["verdict"]["passed"] = result.verdict.passed
    data["agent"]["verdict"]["passed"] = result.agent.verdict.passed
    return data


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, Path) else value


def render_report(result: DemoResult) -> str:
    """The page: HTML that is well-formed XML too."""
    style = resources.files("demo").joinpath("page.css").read_text(encoding="utf-8")
    # "<", ">" and "&" are written so that neither a parser of HTML nor one of XML sees markup in the data.
    data = json.dumps(data_of(result), separators=(",", ":"))
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    clients = list(dict.fromkeys(one.client for one in result.figures.recoveries)) or ["sync", "async"]
    body = [
        _render_head(result),
        _render_tiles(result),
        _render_run(result, clients),
        _render_comparison(result),
        _render_agent(result.agent),
        _render_recoveries(result),
        _render_phases(result),
        _render_witness(result),
        _render_method(result),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>agent_memory: a run through outages</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f'\n</main>\n<script type="application/json" id="run-data">{data}</script>\n</body>\n</html>\n'
    )


def _paragraph(words: str, class_: str = "") -> str:
    attribute = f' class="{class_}"' if class_ else ""
    return f"<p{attribute}>{escape(words)}</p>"


def _table(heads: list[str], rows: Iterable[list[str]], words: int = 1) -> str:
    """A table; the first `words` columns are words, the others numbers."""

    def row(cells: list[str], tag: str) -> str:
        rendered = []
        for index, cell in enumerate(cells):
            attribute = ' class="word"' if index < words else ""
            rendered.append(f"<{tag}{attribute}>{escape(cell)}</{tag}>")
        return f"<tr>{''.join(rendered)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return f'<div class="scroll"><table>\n<thead>{row(heads, "th")}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _render_head(result: DemoResult) -> str:
    verdict = result.verdict
    agent = result.agent
    answer = "Every promise was kept." if result.passed else "Promises were broken."
    items = [*describe_verdict(verdict), *verdict.problems, *describe_agent(agent), *agent.verdict.problems]
    listed = "\n".join(f"<li>{escape(item)}</li>" for item in items)
    state = "verdict" if result.passed else "verdict failed"
    settings = result.settings
    return (
        "<h1>A Redis server stalls, dies and comes back; an agent remembers</h1>\n"
        + _paragraph(
            f"{result.server}, {settings.threads} threads on one ResilientRedisClient and {settings.tasks} asyncio tasks on "
            "one AsyncResilientRedisClient: GET, SET, HSET, INCR, and store_with_retry with all four priorities.",
            "soft",
        )
        + f'\n<div class="{state}"><strong>{answer}</strong>\n<ul>\n{listed}\n</ul></div>'
    )


def _render_tiles(result: DemoResult) -> str:
    figures = result.figures
    tiles = []
    refusals_us = [one.refusal_p50_us for one in figures.recoveries if one.refusals]
    if refusals_us:
        refused = sum(one.refusals for one in figures.recoveries)
        tiles.append(
            (format_duration_us(max(refusals_us)), f"median time to refuse a call while open ({refused:,} calls)")
        )
    for outage, words in _OUTAGE_NAMES.items():
        waits_s = [one.first_success_after_s for one in figures.recoveries if one.phase == outage]
        if waits_s:
            slowest_s = None if None in waits_s else max(wait_s for wait_s in waits_s if wait_s is not None)
            tiles.append(
                (format_optional_s(slowest_s), f"from the server's return to the first success, after the {words}")
            )
    tiles.append((f"{figures.longest_queue:,}", "writes in the recovery queues at the most"))
    tiles += [
        (f"{one.ratio:.1f} ×", f"the throughput of redis-py with {one.way}")  # noqa: RUF001
        for one in result.comparison
        if one.library == OURS
    ]
    rendered = "\n".join(
        f'<div class="tile"><b>{escape(figure)}</b><span>{escape(words)}</span></div>' for figure, words in tiles
    )
    return f'<div class="tiles">\n{rendered}\n</div>'


def _render_run(result: DemoResult, clients: list[str]) -> str:
    return (
        "<h2>The run</h2>\n"
        + _paragraph(
            "Stalled, the server keeps its connections and answers nothing: the calls under way time out "
            f"({result.settings.socket_timeout_s:g} s), {result.settings.circuit_threshold} failures in a row open the "
            "circuit, and from then on calls are refused in microseconds instead of waiting. Writes by store_with_retry "
            "go to the recovery queue (low priority: dropped). A background probe notices the server's return, the circuit "
            "closes, and the queue drains, each key's writes in their order. Killed, the server refuses connections, so "
            "the circuit opens at once."
        )
        + f"\n<figure>{draw_timeline(result.figures, clients)}</figure>\n"
        + _paragraph(
            "A line breaks where no command ended: all callers wait for a timeout. "
            "Rest the mouse on the picture for the figures of a moment.",
            "soft",
        )
    )


def _render_comparison(result: DemoResult) -> str:
    return (
        "<h2>Beside redis-py</h2>\n"
        + _paragraph(
            "The same GETs, SETs and HSETs as fast as they go, in short slices that take turns, before the outages. Ours runs "
            "with circuit breaker, deadlines and metrics on; redis-py with its defaults; client and server share this machine. "
            "The ratio is the median over the rounds."
        )
        + f"\n<figure>{draw_bars(result.comparison)}</figure>"
    )


def _render_agent(agent: AgentResult) -> str:
    def row(tier: str) -> list[str]:
        latencies_us = sorted(one.latency_us for one in agent.questions if one.tier == tier)
        return [
            TIER_NAMES[tier],
            f"{agent.verdict.by_tier.get(tier, 0):,}",
            f"{len(latencies_us):,}",
            format_duration_us(percentile(latencies_us, 0.50)),
            format_duration_us(percentile(latencies_us, 0.99)),
        ]

    examples = sorted(agent.examples, key=lambda one: list(TIER_NAMES).index(one[2]))
    return (
        "<h2>An agent's memory</h2>\n"
        + _paragraph(
            "An assistant stores thousands of facts and is asked about them by their words. A memory begins in short-term "
            f"memory, in Redis and in SQL; after {agent.short_term_s:.1f} s it moves to intermediate memory, after "
            f"{agent.intermediate_s:.1f} s to long-term memory, compressed and in SQL alone (an hour and a day by default). "
            "Killed, Redis comes back on its data, but what it holds clean counts no more, and is loaded again when asked for. "
            "While the database refuses writes, new memories are accepted by Redis and brought into it afterwards."
        )
        + f"\n<figure>{draw_agent(agent)}</figure>\n"
        + _table(
            ["tier", "memories at the end", "questions answered", "p50", "p99"], [row(tier) for tier in TIER_NAMES]
        )
        + "\n"
        + _table(
            ["question", "answer", "tier", "age"],
            [[question, answer, tier, f"{age_s:.1f} s"] for question, answer, tier, age_s in examples],
            words=3,
        )
    )


def _render_recoveries(result: DemoResult) -> str:
    def row(one: Recovery) -> list[str]:
        return [
            _OUTAGE_NAMES[one.phase],
            one.client,
            format_optional_s(one.opened_after_s),
            f"{one.refusals:,}",
            format_duration_us(one.refusal_p50_us),
            format_duration_us(one.refusal_p99_us),
            f"{one.longest_queue:,}",
            format_optional_s(one.first_success_after_s),
            format_optional_s(one.closed_after_s),
            format_optional_s(one.drained_after_s) if one.longest_queue else "nothing queued",
        ]

    heads = [
        "outage", "client", "circuit open after", "calls refused", "refusal p50", "refusal p99", "longest queue",
        "first success after", "circuit closed after", "queue empty after",
    ]  # fmt: skip
    return (
        "<h2>How each client came back</h2>\n"
        + _paragraph(
            "The first time counts from the outage, the last three from the moment the server answered again, as seen by a "
            "connection that asks all the time."
        )
        + _table(heads, [row(one) for one in result.figures.recoveries], words=2)
    )


def _render_phases(result: DemoResult) -> str:
    endings = [ending for ending in Ending if any(phase.endings[ending] for phase in result.figures.phases)]
    rows = [
        [
            PHASE_TITLES[phase.name],
            f"{phase.end_s - phase.start_s:.1f} s",
            f"{phase.operations_per_s:,.0f}",
            format_duration_us(phase.p50_us),
            format_duration_us(phase.p99_us),
            format_duration_us(phase.longest_us),
            *(f"{phase.endings[ending]:,}" for ending in endings),
        ]
        for phase in result.figures.phases
    ]
    heads = ["phase", "lasted", "op/s", "p50", "p99", "longest", *(ending.value for ending in endings)]
    return (
        "<h2>Phase by phase</h2>\n"
        + _paragraph(
            "Latencies are those of commands (store_with_retry may pause between its attempts); the columns on the right count "
            "operations by how they ended. “circuit open”: rejected without an attempt; “unknown”: an error after which "
            "the client cannot know whether the server executed the command, and says so."
        )
        + _table(heads, rows)
    )


def describe_witness(witness: WitnessResult) -> str:
    """What became of redis-py's callers, in one sentence or two."""
    told = (
        f"{witness.calls:,} INCRs called, {witness.answered:,} answered, {witness.errors:,} errors; the longest call took "
        f"{format_optional_s(witness.longest_call_s)}. The counter stands at {witness.counter:,}"
    )
    surplus = witness.counter - witness.calls
    if surplus > 0:
        return f"{told}: {surplus:,} more than there were calls, since what timed out was sent again and ran twice."
    executed = witness.counter - witness.answered
    return f"{told}: {executed:,} more than were answered." if executed > 0 else f"{told}."


def _render_witness(result: DemoResult) -> str:
    return "<h2>redis-py in the same outages</h2>\n" + _paragraph(
        f"{result.witness.callers} more threads went through all this on one client of redis-py's, INCR by INCR, with the same "
        f"timeouts and otherwise its defaults: {describe_witness(result.witness)}"
    )


def _render_method(result: DemoResult) -> str:
    outages = " and ".join(PHASE_TITLES[phase] for phase in OUTAGE_ENDS)
    return (
        "<h2>How it was judged</h2>\n"
        + _paragraph(
            "Every key has one writer, which records each write: accepted (acknowledged, or taken into the queue), of unknown "
            "outcome, or refused. At the end a redis-py connection reads everything. A key must hold its last "
            "accepted write or a later one of unknown outcome; a counter must be between its acknowledged increments and "
            "these plus those of unknown outcome; every queued write must have been stored; every value names its key, "
            "so a reply that reached the wrong caller is noticed."
        )
        + _paragraph(
            f"The server appends each write to a file before it answers, so what it acknowledged survives SIGKILL; it was "
            f"{outages} under load. Timeouts are shorter than the clients' defaults so that seconds suffice; seed "
            f"{result.settings.seed}.",
            "soft",
        )
    )
