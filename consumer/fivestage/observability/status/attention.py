"""What needs attention, in sentences: the first lines of the status page and of ``fivestage top``.

Computed from the status document alone, so that page and terminal say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from fivestage.observability.status.numbers import clock, count, counted, ms, place, rate, seconds, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.observability.status.model import AbandonedCall, Failure, Rates, Stage, Status

BURNS_FAST: Final = 14.4
"""Above this burn rate the budget of a month is gone within two days."""
STAGE_FAILS: Final = 0.01
NODE_FAILS: Final = 0.1
"""From which shares of its calls on a stage or a node is mentioned."""
WAITS: Final = 0.25
"""From which share of the time on waits between stages are mentioned, ..."""
WAITS_LONG: Final = 0.1
"""... if their p95 is this share of the budget."""
PROCESSING: Final = "processing"
UNREADABLE: Final = 0.01
"""From which share of the records on; as in the alert FivestageDeadLetters."""
BREAKERS: Final = {"closed": "closed", "half_open": "half open", "open": "open"}


class Sentence(NamedTuple):
    """A sentence about the service; it may contain names that others chose."""

    kind: Literal["bad", "warning", "quiet"]
    subject: str
    """What it is about, to be emphasized."""
    rest: str
    before: str = ""
    """What precedes the subject."""


def problems(status: Status) -> list[Sentence]:
    """Return all problems, the worst first."""
    found = [
        *_service(status),
        *_in_time(status),
        *_blocked(status),
        *_between(status),
        *_nodes(status),
        *_stages(status),
        *_records(status),
        *_work(status),
    ]
    return sorted(found, key=lambda problem: problem.kind != "bad")


def busiest(status: Status) -> Stage | None:
    """Return the stage that takes most of the time of all stages; None if none was called."""
    called = [stage for stage in status["stages"] if stage["time_share"]]
    return max(called, key=lambda stage: stage["time_share"] or 0.0, default=None)


def most_of_the_time(status: Status) -> Sentence | None:
    """Say which stage takes most of the time; None if none was called."""
    stage = busiest(status)
    if stage is None:
        return None
    percentiles = f"(p50 {ms(stage['p50_ms'])}, p95 {ms(stage['p95_ms'])})"
    text = f" takes {share(stage['time_share'])} of the time of all stages {percentiles}."
    return Sentence("quiet", stage["stage"], text)


def failure(last: Failure | None) -> str:
    """Return the last failure of a node as words."""
    if last is None:
        return ""
    return last["error_type"] + (f" at {place(last['where'])}" if last["where"] else "")


def abandoned(call: AbandonedCall) -> str:
    """Return an abandoned call as words."""
    return f"{call['node'] or call['stage']} for {seconds(call['for_s'])}"


def _service(status: Status) -> Iterator[Sentence]:
    service = status["service"]
    if not service["live"]:
        yield Sentence("bad", "The service", " makes no progress.")
    if service["state"] == "unready":
        yield Sentence("bad", "Not ready", f": {service['reason']}")
    elif service["state"] != "ready":
        yield Sentence("warning", service["state"].capitalize(), f": {service['reason']}")


def _in_time(status: Status) -> Iterator[Sentence]:
    window = status["windows"][0]
    if (in_time := window["in_time"]) is None or in_time >= status["objective"]:
        return
    yield Sentence(
        "bad" if (window["burn_rate"] or 0.0) >= BURNS_FAST else "warning",
        f"Only {share(in_time)} in time",
        f" within {seconds(window['window_s'])}; the objective is {share(status['objective'])}.",
    )


def _nodes(status: Status) -> Iterator[Sentence]:
    has_lanes = len({node["lane"] for node in status["nodes"]}) > 1
    for node in status["nodes"]:
        lane = f" in lane {node['lane']}" if has_lanes else ""
        cause = failure(node["last_failure"])
        cause = f": {cause}." if cause else "."
        if node["breaker"] != "closed":
            since = f" since {clock(node['breaker_since'], status['at'])}" if node["breaker_since"] else ""
            text = f"{lane} is broken{since}, breaker {BREAKERS.get(node['breaker'], node['breaker'])}{cause}"
            yield Sentence("bad", node["node"], text)
        elif (node["failed"] or 0.0) >= NODE_FAILS:
            since = f" since {clock(node['failing_since'], status['at'])}" if node["failing_since"] else ""
            text = f"{lane} fails {share(node['failed'])} of its calls{since}{cause}"
            yield Sentence("warning", node["node"], text)


def _blocked(status: Status) -> Iterator[Sentence]:
    for one in status["workers"]["blocked_by"]:
        if one["name"]:
            times = f"{counted(one['count'], 'time')} in 5 min, last {clock(one['at'], status['at'])}"
            yield Sentence("warning", one["name"], f" blocks the event loop: {times}.")


def _between(status: Status) -> Iterator[Sentence]:
    share_of, p95_ms = status["between"]["share"] or 0.0, status["between"]["p95_ms"] or 0.0
    if share_of >= WAITS and p95_ms >= WAITS_LONG * status["budget_ms"]:
        text = f" take {share(share_of)} of the time of queries, {ms(p95_ms)} at p95."
        yield Sentence("warning", "Waits for an event loop or a thread", text)


def _stages(status: Status) -> Iterator[Sentence]:
    for stage in status["stages"]:
        timeouts, errors = (_share_of_calls(stage, outcome) for outcome in ("timeout", "error"))
        if timeouts >= STAGE_FAILS:
            limit = ms(limit_ms(stage, status["budget_ms"]))
            text = f" timed out in {share(timeouts)} of its calls; its limit is now {limit}."
            yield Sentence("warning", stage["stage"], text)
        if errors >= STAGE_FAILS and stage["stage"] != PROCESSING:  # whose nodes are named
            kind: Literal["bad", "warning"] = "bad" if stage["critical"] else "warning"
            yield Sentence(kind, stage["stage"], f" fails {share(errors)} of its calls.")


def _share_of_calls(stage: Stage, outcome: str) -> float:
    called = 1 - stage["outcomes"].get("skipped", 0.0)
    return stage["outcomes"].get(outcome, 0.0) / called if called > 0 else 0.0


def limit_ms(stage: Stage, budget_ms: float) -> float:
    """Return the limit in force: what is learned may exceed the budget, which ends the query first."""
    return min(stage["learned_ms"], budget_ms)


def _ended_per_s(rates: Rates) -> float:
    return sum((rates["answered"], rates["timeouts"], rates["errors"], rates["expired"], rates["rejected"]))


def _records(status: Status) -> Iterator[Sentence]:
    unreadable, ended = status["rates"]["dead_letters"], _ended_per_s(status["rates"])
    if unreadable > UNREADABLE * (unreadable + ended):
        yield Sentence("warning", f"{rate(unreadable)} dead letters", ": records that cannot be read.")


def _work(status: Status) -> Iterator[Sentence]:
    lag = status["lag"]
    if lag["trend"] == "rising" and lag["records"]:
        text = f": lag {count(lag['records'])}, rising."
        yield Sentence("warning", "Work arrives faster than it leaves", text)
    for partition in status["partitions"]:
        if partition["halted"]:
            which = f"{partition['topic']}/{partition['partition']}"
            yield Sentence("bad", which, " is halted.", before="Partition ")
    if calls := status["workers"]["abandoned"]:
        longest = abandoned(max(calls, key=lambda call: call["for_s"]))
        text = f" run on after their end; longest: {longest}."
        if len(calls) == 1:
            text = f" runs on after its end: {longest}."
        yield Sentence("warning", counted(len(calls), "call"), text)
