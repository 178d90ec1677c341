"""What needs a hand, from the status document: the first thing that an operator reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.observability.page.elements import el, name, state
from fivestage.observability.page.numbers import clock, count, counted, ms, rate, seconds, share

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

    from fivestage.observability.status.model import AbandonedCall, Failure, Rates, Stage, Status

MAX_PROBLEMS: Final = 8
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


def problems(status: Status) -> list[tuple[str, Element]]:
    """Return all problems, the worst first, as the kind of state (``bad`` or ``warning``) and a sentence."""
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
    return sorted(found, key=lambda problem: problem[0] != "bad")


def lines(found: list[tuple[str, Element]]) -> list[Element]:
    """Return the problems as items of a list, or one item that says that there is none."""
    if not found:
        return [el("li", state("good", "Nothing needs attention."))]
    items = [el("li", state(kind, sentence)) for kind, sentence in found[:MAX_PROBLEMS]]
    if len(found) > MAX_PROBLEMS:
        items.append(el("li", f"And {len(found) - MAX_PROBLEMS} more."))
    return items


def failure(last: Failure | None) -> str:
    """Return the last failure of a node as words."""
    if last is None:
        return ""
    return last["error_type"] + (f" at {place(last['where'])}" if last["where"] else "")


def place(where: str) -> str:
    """Return ``file:line`` without the folders."""
    return where.rpartition("/")[2]


def abandoned(call: AbandonedCall) -> str:
    """Return an abandoned call as words."""
    return f"{call['node'] or call['stage']} for {seconds(call['for_s'])}"


def _problem(kind: str, *text: Element | str) -> tuple[str, Element]:
    return kind, el("span", *text)


def _service(status: Status) -> Iterator[tuple[str, Element]]:
    service = status["service"]
    if not service["live"]:
        yield _problem("bad", "The service makes no progress.")
    if service["state"] == "unready":
        yield _problem("bad", el("b", "Not ready"), ": ", name(service["reason"]))
    elif service["state"] != "ready":
        yield _problem("warning", el("b", service["state"].capitalize()), ": ", name(service["reason"]))


def _in_time(status: Status) -> Iterator[tuple[str, Element]]:
    window = status["windows"][0]
    if (in_time := window["in_time"]) is None or in_time >= status["objective"]:
        return
    burn = window["burn_rate"] or 0.0
    yield _problem(
        "bad" if burn >= BURNS_FAST else "warning",
        el("b", f"Only {share(in_time)} in time"),
        f" within {seconds(window['window_s'])}; the objective is {share(status['objective'])}.",
    )


def _nodes(status: Status) -> Iterator[tuple[str, Element]]:
    lanes = {node["lane"] for node in status["nodes"]}
    for node in status["nodes"]:
        which: list[Element | str] = [el("b", name(node["node"]))]
        if len(lanes) > 1:
            which += [" in lane ", name(node["lane"])]
        cause = failure(node["last_failure"])
        if node["breaker"] != "closed":
            since = f" since {clock(node['breaker_since'], status['at'])}" if node["breaker_since"] else ""
            text = f" is broken{since}, breaker {BREAKERS[node['breaker']]}"
            yield _problem("bad", *which, text, ": " if cause else "", name(cause), ".")
        elif (node["failed"] or 0.0) >= NODE_FAILS:
            text = f" fails {share(node['failed'])} of its calls"
            yield _problem("warning", *which, text, ": " if cause else "", name(cause), ".")


def _blocked(status: Status) -> Iterator[tuple[str, Element]]:
    for one in status["workers"]["blocked_by"]:
        if one["name"]:
            times = f"{counted(one['count'], 'time')} in 5 min, last {clock(one['at'], status['at'])}"
            yield _problem("warning", el("b", name(one["name"])), f" blocks the event loop: {times}.")


def _between(status: Status) -> Iterator[tuple[str, Element]]:
    share_of, p95_ms = status["between"]["share"] or 0.0, status["between"]["p95_ms"] or 0.0
    if share_of >= WAITS and p95_ms >= WAITS_LONG * status["budget_ms"]:
        text = f" take {share(share_of)} of the time of queries, {ms(p95_ms)} at p95."
        yield _problem("warning", el("b", "Waits for an event loop or a thread"), text)


BREAKERS: Final = {"closed": "closed", "half_open": "half open", "open": "open"}


def _stages(status: Status) -> Iterator[tuple[str, Element]]:
    for stage in status["stages"]:
        timeouts, errors = (_share_of_calls(stage, outcome) for outcome in ("timeout", "error"))
        if timeouts >= STAGE_FAILS:
            limit = ms(limit_ms(stage, status["budget_ms"]))
            text = f" timed out in {share(timeouts)} of its calls; its limit is now {limit}."
            yield _problem("warning", el("b", stage["stage"]), text)
        if errors >= STAGE_FAILS and stage["stage"] != PROCESSING:  # whose nodes are named
            kind = "bad" if stage["critical"] else "warning"
            yield _problem(kind, el("b", stage["stage"]), f" fails {share(errors)} of its calls.")


def _share_of_calls(stage: Stage, outcome: str) -> float:
    called = 1 - stage["outcomes"].get("skipped", 0.0)
    return stage["outcomes"].get(outcome, 0.0) / called if called > 0 else 0.0


def limit_ms(stage: Stage, budget_ms: float) -> float:
    """Return the limit in force: what is learned may exceed the budget, which ends the query first."""
    return min(stage["learned_ms"], budget_ms)


def _ended_per_s(rates: Rates) -> float:
    return sum((rates["answered"], rates["timeouts"], rates["errors"], rates["expired"], rates["rejected"]))


def _records(status: Status) -> Iterator[tuple[str, Element]]:
    unreadable, ended = status["rates"]["dead_letters"], _ended_per_s(status["rates"])
    if unreadable > UNREADABLE * (unreadable + ended):
        yield _problem(
            "warning", el("b", f"{rate(unreadable)} dead letters"), ": records that cannot be read."
        )


def _work(status: Status) -> Iterator[tuple[str, Element]]:
    lag = status["lag"]
    if lag["trend"] == "rising" and lag["records"]:
        yield _problem(
            "warning",
            el("b", "Work arrives faster than it leaves"),
            f": lag {count(lag['records'])}, rising.",
        )
    for partition in status["partitions"]:
        if partition["halted"]:
            which = f"{partition['topic']}/{partition['partition']}"
            yield _problem("bad", "Partition ", el("b", name(which)), " is halted.")
    if calls := status["workers"]["abandoned"]:
        number = counted(len(calls), "call")
        longest = max(calls, key=lambda call: call["for_s"])
        text = f" run on after their end; longest: {abandoned(longest)}."
        yield _problem(
            "warning",
            el("b", number),
            text if len(calls) > 1 else f" runs on after its end: {abandoned(longest)}.",
        )
