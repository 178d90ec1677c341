"""Hostile nodes among normal ones: what becomes of everybody else.

For each kind of hostile node, executor and broker: is every query answered, how late, do the normal ones
succeed, does the member stay in its group. Bars: nothing missing; terminal events at most 5 ms (99 of 100)
and 50 ms (all) behind their deadline; 99 % of the normal queries succeed; no rebalance beyond the first.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from .hostile_run import Options, Row, run
from .report import save, table, write

if TYPE_CHECKING:
    from collections.abc import Iterable

KINDS = {
    "deaf": "swallows its cancellation",
    "spin-async": "`while True: pass` in an `async def`",
    "spin-def": "`while True: pass` in a `def`",
    "block-async": "`time.sleep(5)` in an `async def`",
    "hold-gil": "keeps the interpreter lock in a C call of 5 s",
    "never": "waits for ever in a `def`",
    "base-exception": "raises a BaseException",
    "system-exit": "raises SystemExit",
    "no-json": "returns what is no JSON",
    "large": "returns 50 MB",
    "fork": "forks, and both go on",
    "leak": "leaves 100 tasks behind",
}
PROCESS_ONLY = {"hold-gil"}
"""In a thread of the service nothing can be done about these."""
TITLES = [
    "node",
    "executor",
    "broker",
    "missing",
    "late p99 ms",
    "max ms",
    "record p99 ms",
    "max ms",
    "normal ok %",
    "age p99 ms",
    "hostile ended as",
    "rebalances",
    "restarts",
    "exit",
    "replaced",
    "abandoned",
    "bars",
]
LEGEND = """\
*missing*: without an answer {settle:g} s after the load. *late*: how far a query's end (`finished_at`) lies
behind its start plus its budget, 0 when it does not; *record*: the same of the result's record (CreateTime).
*age*: from the record's timestamp to the result's, of normal queries. *rebalances*: most that one run of the
service saw. *restarts*: how often the service ended and was started again. *exit*: how it ended when told to.
*abandoned*: most stages that ran on after their end.
"""


async def main() -> None:
    """Run all rows; print the table and write docs/bench/hostile.*."""
    parser = argparse.ArgumentParser(prog="make bench-hostile", description=__doc__)
    parser.add_argument("--executors", default="thread,process")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--kafka", help="host:port of a real broker, to run all rows on it too")
    parser.add_argument("--only-kafka", action="store_true", help="leave the embedded broker out")
    parser.add_argument("--rate", type=float, default=200, help="queries a second")
    parser.add_argument("--seconds", type=float, default=10, help="length of the load of a row")
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
        if kind in PROCESS_ONLY and executor != "process":
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
        f"{options.rate:g} queries a second for {options.seconds:g} s, {options.share:.0%} of them hostile; "
        "of the others one half waits 5 ms in an `async def`, one half sleeps 5 ms in a `def`."
    )
    kinds = "\n".join(f"- *{kind}*: {meaning}" for kind, meaning in KINDS.items())
    legend = LEGEND.format(settle=options.settle_s)
    write("hostile.md", f"# Hostile nodes\n\n{how}\n\n{text}\n\n{legend}\n{kinds}\n")
    save("hostile", [asdict(row) | {"failed_bars": row.failed_bars} for row in rows], asdict(options))


def _cells(row: Row) -> list[object]:
    return [
        row.kind,
        row.executor,
        row.broker,
        row.missing,
        row.late_p99_ms,
        row.late_max_ms,
        row.record_late_p99_ms,
        row.record_late_max_ms,
        row.normal_success * 100,
        row.normal_age_p99_ms,
        ", ".join(f"{name} {count}" for name, count in row.hostile_ended_as.items()),
        row.rebalances,
        row.restarts,
        row.exit_code,
        row.replaced,
        row.abandoned,
        row.verdict,
    ]


if __name__ == "__main__":
    asyncio.run(main())
