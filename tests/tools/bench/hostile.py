"""Hostile and slow nodes among normal ones: their effect on all other queries.

For each kind of node, executor and broker: is every query answered, how late, do the normal ones succeed,
does the member stay in its group. Bars: nothing missing, no answer of another query; terminal events at most
5 ms (99 of 100) and 50 ms (all) behind their deadline; 99.5 % of the normal queries succeed; no rebalance
beyond the first and no restart, except where only a restart helps: code that spins in a thread. Of ordinary
nodes, which are slow now and then, 99.5 % of their own queries succeed too, without those that are slow
themselves, and no worker is replaced.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from .children import run_verb
from .hostile_kinds import KINDS
from .hostile_run import SECONDS, Options, Row, run
from .report import save, table, write

if TYPE_CHECKING:
    from collections.abc import Iterable

TITLES = [
    "node",
    "executor",
    "broker",
    "missing",
    "wrong",
    "late p99 ms",
    "max ms",
    "record p99 ms",
    "max ms",
    "normal ok %",
    "age p99 ms",
    "own ok %",
    "its queries ended as",
    "slow ones ended as",
    "rebalances",
    "restarts",
    "exit",
    "replaced",
    "abandoned",
    "left out",
    "bars",
]
LEGEND = """\
*missing*: without an answer {settle:g} s after the load. *wrong*: answered with what another query asked for.
*late*: how far a query's end (`finished_at`) lies behind its start plus its budget, 0 when it does not;
*record*: the same of the result's record (CreateTime). *age*: from the record's timestamp to the result's, of
normal queries. *own ok*: of the queries for an ordinary node, without those that are slow themselves.
*rebalances*: most that one run of the service saw. *restarts*: how often the service ended and was started
again. *exit*: how each of its runs ended, the last one on SIGTERM. *replaced*: event loops and worker
processes that were replaced. *abandoned*: most calls that ran on after their end. *left out*: queries under
way between the log line that the service gives up and the one that the next is ready: only *missing* counts
them.
"""


async def main() -> None:
    """Run all rows; print the table and write docs/bench/hostile.*."""
    parser = argparse.ArgumentParser(prog="make bench-hostile", description=__doc__)
    parser.add_argument("--executors", default="thread,process")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--kafka", help="host:port of a real broker, to run all rows on it too")
    parser.add_argument("--only-kafka", action="store_true", help="leave the embedded broker out")
    parser.add_argument("--rate", type=float, default=200, help="queries a second")
    parser.add_argument("--seconds", type=float, help="length of the load of a row, also of those that spin")
    parser.add_argument("--share", type=float, default=0.05, help="hostile ones among the queries")
    parser.add_argument("--settle", type=float, default=45, help="seconds to wait for the last answers")
    given = parser.parse_args()
    options = Options(given.rate, given.seconds, given.share, given.settle)
    rows = []
    for kafka in _brokers(given.kafka, only_kafka=given.only_kafka):
        for executor in given.executors.split(","):
            rows += await _rows(given.kinds.split(","), executor, kafka, options)
    publish(rows, options)


def _brokers(kafka: str | None, *, only_kafka: bool) -> list[str | None]:
    if kafka is None:
        return [None]
    return [kafka] if only_kafka else [None, kafka]


async def _rows(kinds: Iterable[str], executor: str, kafka: str | None, options: Options) -> list[Row]:
    """All kinds with one executor; none where there is no such executor."""
    rows = []
    for kind in kinds:
        if KINDS[kind].process_only and executor != "process":
            continue
        try:
            rows.append(await run(kind, executor, kafka, options))
        except RuntimeError as error:
            print(f"{executor}: {error}", flush=True)
            if not rows:
                break
        else:
            print(f"{kind} {executor} {rows[-1].broker}: {rows[-1].verdict}; {rows[-1].log}", flush=True)
    return rows


def publish(rows: list[Row], options: Options) -> None:
    """Print the table and write it and the figures."""
    text = table(TITLES, [_cells(row) for row in rows])
    print(text)
    how = (
        f"{options.rate:g} queries a second for {options.seconds or SECONDS:g} s, {options.share:.0%} of "
        "them for the node of the row; of the others one half waits 5 ms in an `async def`, one half sleeps "
        "5 ms in a `def`."
    )
    how += "" if options.seconds else " In threads those that spin get theirs for 30 s."
    kinds = "\n".join(f"- *{name}*: {kind.meaning}" for name, kind in KINDS.items())
    legend = LEGEND.format(settle=options.settle_s)
    write("hostile.md", f"# Hostile nodes\n\n{how}\n\n{text}\n\n{legend}\n{kinds}\n")
    save("hostile", [asdict(row) | {"failed_bars": row.failed_bars} for row in rows], asdict(options))


def _cells(row: Row) -> list[object]:
    return [
        row.kind,
        row.executor,
        row.broker,
        row.missing,
        row.wrong,
        row.late_p99_ms,
        row.late_max_ms,
        row.record_late_p99_ms,
        row.record_late_max_ms,
        row.normal_success * 100,
        row.normal_age_p99_ms,
        None if row.ordinary_success is None else row.ordinary_success * 100,
        _counts(row.hostile_ended_as),
        _counts(row.slow_ended_as),
        row.rebalances,
        row.restarts,
        " ".join(map(str, row.exit_codes)),
        row.replaced,
        row.abandoned,
        row.left_out,
        row.verdict,
    ]


def _counts(ended_as: dict[str, int]) -> str | None:
    return ", ".join(f"{name} {count}" for name, count in ended_as.items()) or None


if __name__ == "__main__":
    run_verb(main)
