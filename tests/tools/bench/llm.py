"""The node of a language model beside hand-written asyncio, against a server that stalls, fails and refuses.

All ask servers that do the same, with the same limit of requests at a time, and have 1 s from the moment at
which a query is due. Once in virtual time, where the machine does not matter; once against a real server. No
Kafka: fivestage runs on the bus in memory, against the real server with its executor in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from . import llm_virtual
from .llm_faults import DROPS, FAILS, LONGEST_S, MOST_AT_A_TIME, REFUSES, SHARES, SHORTEST_S, STALLS
from .llm_run import ASYNCIO, BUDGET_S, LIMIT, ONE_RETRY, PARTIAL, PER_S, RUNS
from .parts import Bar, Options, Part
from .report import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .llm_run import Ended, Run

QUERIES, ROUNDS = 500, 3
PROMISED_S = 0.005
"""How late a result may be that was decided at the deadline."""
AS_OFTEN = 0.995
"""Times asyncio's answers in time: a node is not called again where a usual answer does not fit any more."""
NEARLY_ALL = 0.99
MEANING = {
    STALLS: "stall in the middle",
    FAILS: "get status 500",
    REFUSES: "get status 429, and are to come again in 200 ms",
    DROPS: "break off",
}
TITLES = [
    "", "queries", "in time", "partial", "together %", "timeout", "late", "error", "reasons", "latest ms",
    "calls", "left open", "CPU ms a query",
]  # fmt: skip


class Row(NamedTuple):
    """The results of one contestant in all rounds."""

    name: str
    """Of the contestant."""
    queries: int
    in_time: int
    partial: int
    timeouts: int
    late: int
    """Answers that came after the deadline."""
    errors: int
    reasons: dict[str, int]
    latest_ms: float
    """How long after its deadline the last of all ends came."""
    unexplained: int
    calls: dict[str, int]
    left_open: int
    cpu_ms: float
    """CPU of this process for each query."""
    why: dict[str, str]
    """An example for each reason."""

    @property
    def share(self) -> float:
        """Return the share that got an answer in time, be it partial."""
        return (self.in_time + self.partial) / self.queries


async def measure(options: Options) -> Part:
    """Run all contestants in each round, another one first each time."""
    virtual: dict[str, list[Run]] = {name: [] for name in RUNS}
    real: dict[str, list[Run]] = {name: [] for name in RUNS}
    logging.getLogger("fivestage.nodes").setLevel(logging.ERROR)  # nodes that fail are what is measured
    queries, names = min(options.queries, QUERIES), list(RUNS)
    for seed in range(min(options.rounds, ROUNDS)):
        for name in names[seed % len(names) :] + names[: seed % len(names)]:
            virtual[name].append(await asyncio.to_thread(llm_virtual.run, name, seed, queries))
            real[name].append(await RUNS[name](seed, queries))
    tables = {where: [row_of(name, runs) for name, runs in found.items()] for where, found in
              (("virtual time", virtual), ("a real server", real))}  # fmt: skip
    figures = {where: [row._asdict() for row in rows] for where, rows in tables.items()}
    return Part(
        "A language model that stalls, fails and refuses", figures, shown(tables), bars_of(*tables.values())
    )


def row_of(name: str, runs: Sequence[Run]) -> Row:
    """Count how the queries of one contestant ended."""
    ended = [one for run in runs for one in run.ended]
    kinds = Counter(kind_of(one) for one in ended)
    failed = [one for one in ended if one.reason]
    calls: Counter[str] = Counter()
    for run in runs:
        calls.update(run.calls)
    return Row(
        name,
        len(ended),
        kinds["in time"],
        kinds["partial"],
        kinds["timeout"],
        kinds["late"],
        kinds["error"],
        dict(Counter(one.reason for one in failed).most_common()),
        max(one.late_s for one in ended) * 1000,
        sum(not one.why for one in failed),
        dict(calls),
        sum(run.left_open for run in runs),
        sum(run.cpu_s for run in runs) * 1000 / len(ended),
        {one.reason: one.why for one in failed},
    )


def kind_of(one: Ended) -> str:
    """Return the column that counts a query."""
    if one.status != "success":
        return "timeout" if one.reason in {"timeout", "expired"} else "error"
    if one.late_s > PROMISED_S:
        return "late"
    return "partial" if one.partial else "in time"


def bars_of(virtual: Iterable[Row], real: Iterable[Row]) -> list[Bar]:
    """Compare the service with asyncio in virtual time; what must hold on any machine, with a real server."""
    named = {row.name: row for row in virtual}
    service = [row for row in (*named.values(), *real) if row.name != ASYNCIO]
    times = named[ONE_RETRY].in_time / named[ASYNCIO].in_time if named[ASYNCIO].in_time else None
    late = sum(row.late for row in named.values())
    return [
        Bar.at_least("a language model's answers in time: times asyncio's", times, AS_OFTEN),
        Bar.at_least("with allow_partial, answered in time, be it in part", named[PARTIAL].share, NEARLY_ALL),
        Bar.at_most("of these, answers after their deadline", late, 0),
        Bar.at_most(
            "of these, also with a real server: that do not say why", _sum(service, "unexplained"), 0
        ),
        Bar.at_most("requests left open, likewise", _sum(service, "left_open"), 0),
    ]


def _sum(rows: Iterable[Row], name: str) -> int:
    return sum(getattr(row, name) for row in rows)


def shown(tables: Mapping[str, Sequence[Row]]) -> str:
    """Format the tables, how they were measured, and why queries have no answer."""
    faults = ", ".join(f"{share:.0%} {MEANING[kind]}" for kind, share in SHARES.items())
    how = (
        f"{PER_S:g} queries a second at random times, of use for {BUDGET_S * 1000:.0f} ms, at most {LIMIT} "
        f"requests at a time. The server takes {MOST_AT_A_TIME}; its answers stream for {SHORTEST_S:g} to "
        f"{LONGEST_S:g} s. Of the requests, {faults}."
    )
    text = [how]
    for where, rows in tables.items():
        text += [f"With {where}:", table(TITLES, map(_cells, rows))]
    reasons = [
        [where, row.name, reason, count, row.why[reason]]
        for where, rows in tables.items()
        for row in rows
        for reason, count in row.reasons.items()
        if row.name != ASYNCIO
    ]
    if reasons:
        text += ["The rest say why:", table(["with", "", "reason", "queries", "one of them"], reasons)]
    return "\n\n".join(text)


def _cells(row: Row) -> list[object]:
    return [
        row.name,
        row.queries,
        row.in_time,
        row.partial,
        row.share * 100,
        row.timeouts,
        row.late,
        row.errors,
        ", ".join(f"{reason} {count}" for reason, count in row.reasons.items()),
        row.latest_ms,
        sum(row.calls.values()),
        row.left_open,
        row.cpu_ms or None,
    ]
