"""The blocks that say whether a service is up, whether answers are in time, and what runs and waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from fivestage.cli.rows import spread
from fivestage.cli.top.words import (
    ALARM,
    HEADING,
    duration,
    headed,
    ms,
    rate,
    share,
    sparkline,
)
from fivestage.observability.status import attention
from fivestage.observability.status.numbers import SPACE, THIN_SPACE, clock

if TYPE_CHECKING:
    from fivestage.observability.status.attention import Sentence
    from fivestage.observability.status.model import Partition, Status

_STATES: Final = {"ready": "bold green", "starting": "bold yellow", "draining": "bold yellow"}
SPARK_CELLS: Final = 20
BURNS_FAST: Final = 1.0
"""A burn rate above this uses up more than the objective allows."""
MAX_NAMED: Final = 3
MARKS: Final = {"bad": ("■!", ALARM), "warning": ("▲*", "yellow"), "quiet": ("○-", "dim")}
"""What precedes a sentence, with and without Unicode, and its style."""


def header(status: Status, width: int) -> list[Text]:
    """Return which service it is, and its state with the reason."""
    service = status["service"]
    state = headed("fivestage", service["state"], _STATES.get(service["state"], ALARM))
    build = "compiled" if service["compiled"] else "not compiled"
    count = service["workers"]
    assigned = status["load"]["assigned"]
    executor = f"{count} {service['executor']}{'' if count == 1 else 's'}"
    facts = [
        f"group {service['group']}",
        f"{assigned} partition{'' if assigned == 1 else 's'}",
        f"{service['version']} {build}",
        f"up {duration(service['uptime_s'])}",
        executor,
        f"at {clock(status['at'], status['at'])} UTC",
    ]
    lines = spread([state, *(Text(fact, "dim") for fact in facts)], width)
    if service["reason"] and service["state"] != "ready":
        lines.append(Text(service["reason"], "yellow"))
    if not service["live"]:
        lines.append(Text("not live: /livez fails, a supervisor should restart it", ALARM))
    return lines


def problems(status: Status, most: int | None, *, unicode: bool) -> list[Text]:
    """Return what needs attention, at most *most* lines, and which stage takes most of the time."""
    found = attention.problems(status)
    lines = [_sentence(one, unicode=unicode) for one in found[:most]]
    if len(found) > len(lines):
        lines.append(Text(f"and {len(found) - len(lines)} more", "dim"))
    if (busiest := attention.most_of_the_time(status)) is not None:
        lines.append(_sentence(busiest, unicode=unicode))
    return lines


def _sentence(sentence: Sentence, *, unicode: bool) -> Text:
    kind, subject, rest, before = sentence
    mark, style = MARKS[kind]
    line = Text.assemble((mark[not unicode], style), f" {before}", (subject, "bold"), rest)
    line.plain = line.plain.replace(SPACE, " ").replace(THIN_SPACE, " ")  # terminals need not know them
    return line


def in_time(status: Status, width: int, *, unicode: bool) -> list[Text]:
    """Return the share of answers in time, the burn rate, percentiles and rates."""
    late = [None if one is None else 1 - one for one in status["series"]["in_time"]]
    parts = [Text("IN TIME", HEADING)]
    for window in status["windows"]:
        burn = window["burn_rate"]
        part = Text.assemble(f"{duration(window['window_s'])} ", (share(window["in_time"], 2), HEADING))
        if burn is not None:
            part.append(f" burn {burn:.1f}x", ALARM if burn > BURNS_FAST else "dim")
        parts.append(part)
    parts.append(Text(f"objective {share(status['objective'], 2)}", "dim"))
    if any(late[-SPARK_CELLS:]):
        parts.append(Text.assemble("late ", (sparkline(late, SPARK_CELLS, unicode=unicode), "yellow")))
    return spread(parts, width) + spread(_rates(status, unicode=unicode), width)


def _rates(status: Status, *, unicode: bool) -> list[Text]:
    rates = status["rates"]
    ended = [float(one) for one in status["series"]["ended"]]
    answered = Text(f"{rate(rates['answered'])}/s")
    if any(ended[-SPARK_CELLS:]):
        answered.append(f" {sparkline(ended, SPARK_CELLS, unicode=unicode)}", "dim")
    parts = [headed("ANSWERED", answered)]
    for name, value in (
        ("timeouts", rates["timeouts"]),
        ("errors", rates["errors"]),
        ("expired", rates["expired"]),
        ("rejected", rates["rejected"]),
        ("dead letters", rates["dead_letters"]),
    ):
        parts.append(Text(f"{name} {rate(value)}/s", "" if value else "dim"))
    return parts


def load(status: Status, width: int) -> list[Text]:
    """Return what runs and waits, the lag, partitions that need a hand, and the workers."""
    now, lag, workers = status["load"], status["lag"], status["workers"]
    limit = f"limit {now['limit']}" + (", learned" if now["limit"] != now["max_in_flight"] else "")
    caught_up = lag["catch_up_s"]
    behind = f"{lag['records']} records, {lag['trend']}"
    if caught_up is not None and lag["records"]:
        behind += f", gone in {duration(caught_up)}"
    running = [
        headed("RUNNING", f"{now['running']} of {now['max_in_flight']} ({limit})"),
        Text(f"waiting {now['waiting']}, oldest {ms(now['oldest_wait_ms'])} ms"),
        headed("LAG", behind, ALARM if lag["trend"] == "rising" and lag["records"] else ""),
    ]
    around = [
        headed("WORKERS", f"replaced {workers['replaced']}, blocked {workers['blocked']}"),
        Text(f"loop late {ms(workers['bus_lag_ms'])} ms, executor {ms(workers['executor_lag_ms'])} ms"),
    ]
    for one in workers["blocked_by"][:MAX_NAMED]:
        where = f" at {one['where'].rpartition('/')[2]}" if one["where"] else ""
        by = one["name"] or ("other code" if where else "other code, or no CPU")
        around.append(Text(f"blocked by {by}{where}", "yellow"))
    for call in sorted(workers["abandoned"], key=lambda one: -one["for_s"])[:MAX_NAMED]:
        name = call["node"] or call["stage"]
        around.append(Text(f"abandoned: {name} for {duration(call['for_s'])}", "yellow"))
    return spread(running, width) + spread(_partitions(status["partitions"]), width) + spread(around, width)


def _partitions(partitions: list[Partition]) -> list[Text]:
    """Name those that are halted, and those with the most lag."""
    behind = sorted((one for one in partitions if one["records"]), key=lambda one: -one["records"])
    halted = [one for one in partitions if one["halted"]]
    if not behind and not halted:
        return []
    parts = [Text("PARTITIONS", HEADING)]
    parts += [Text(f"{_name(one)} halted: too many unreadable records", ALARM) for one in halted[:MAX_NAMED]]
    parts += [
        Text(f"{_name(one)} lag {one['records']} {one['trend']}, uncommitted {one['uncommitted']}")
        for one in behind[:MAX_NAMED]
    ]
    more = len(behind) - MAX_NAMED
    return [*parts, Text(f"and {more} more", "dim")] if more > 0 else parts


def _name(partition: Partition) -> str:
    return f"{partition['topic']}/{partition['partition']}"
