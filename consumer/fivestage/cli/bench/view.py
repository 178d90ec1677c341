"""Prints the figures of a benchmark: a line for each load, where it breaks, and where the time goes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from fivestage.cli.bench.figures import EASY, Step, percentiles, verdict
from fivestage.cli.rows import Column, OutputConsole, RowPrinter
from fivestage.cli.top.stages import stages
from fivestage.cli.top.words import ms, rate, share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fivestage.observability.status.model import Status
    from fivestage.settings import Settings

BAR: Final = 20
COLUMNS: Final = (
    Column("load/s", 7, right=True),
    Column("in time/s", 9, right=True),
    Column("in time", 8, right=True),
    Column("", BAR),
    Column("p50 ms", 7, right=True),
    Column("p95 ms", 7, right=True),
    Column("p99 ms", 7, right=True),
    Column("others", 0),
)
MOST_WIDTH: Final = 100
SHOWN_ERRORS: Final = 3


class View:
    """Prints each load as it is measured, then the summary.

    Args:
        settings: The settings of the service.
        as_json: Print one JSON object per line.
    """

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self._settings = settings
        self._as_json = as_json
        self._console = OutputConsole()
        self._rows = RowPrinter(self._console, *COLUMNS)

    def default_questions(self, texts: Sequence[str]) -> None:
        """Print what is asked where no question was given."""
        if not self._as_json:
            asked = ", ".join(f'"{text}"' for text in texts)
            print(f"fivestage: asks in turn, as no --question is given: {asked}", file=sys.stderr)

    def step(self, step: Step) -> None:
        """Print a load."""
        if self._as_json:
            print(json.dumps(step.as_json()), flush=True)
            return
        found = percentiles(step.latencies_ms)
        self._rows.row(
            f"{step.rate:.0f}",
            rate(step.in_time_rate),
            share(step.in_time_share, 1),
            self._bar(step.in_time_share),
            *(ms(found[name]) for name in ("p50", "p95", "p99")),
            _others(step),
        )

    def summary(self, steps: Sequence[Step]) -> None:
        """Print where the app breaks, and where the time goes at the best load."""
        found = verdict(steps)
        if self._as_json:
            line = {
                "best_load_per_s": found.best.rate,
                "most_in_time_per_s": round(found.most_per_s, 1),
                "nearly_all_in_time_up_to_per_s": None if found.easy is None else found.easy.rate,
                "broke": found.broke,
                "generator_was_late": found.generator_was_late,
            }
            print(json.dumps(line), flush=True)
            return
        console = self._console
        console.print()
        for sentence in _sentences(steps):
            console.print(sentence, soft_wrap=True)
        console.print()
        width = min(console.width, MOST_WIDTH)
        console.print(Text(f"At {found.best.rate:.0f}/s, answered by {_nodes(found.best)}:", "bold"))
        for text in stages(self._status(found.best), width, unicode=console.draws_unicode):
            console.print(text, no_wrap=True, crop=False)

    def _bar(self, value: float) -> Text:
        sign = "█" if self._console.draws_unicode else "#"
        return Text(sign * round(value * BAR), "green" if value >= EASY else "yellow")

    def _status(self, step: Step) -> Status:
        """Return the part of a service's status that the waterfall is drawn from."""
        pipeline = self._settings.pipeline
        in_stages = sum(map(sum, step.stages_ms.values()))
        between = sum(step.between_ms)
        found: list[dict[str, Any]] = []
        for stage, limit_ms in pipeline.stage_timeouts_ms.items():
            values, outcomes = step.stages_ms.get(stage, []), step.stage_outcomes.get(stage, Counter())
            ended = outcomes.total() or 1
            of = {
                "stage": str(stage),
                "critical": stage in pipeline.critical,
                "limit_ms": float(limit_ms),
                "learned_ms": float(limit_ms),
                "ended": ended,
                "time_share": sum(values) / (in_stages or 1.0),
                "outcomes": {name: count / ended for name, count in outcomes.items()},
            }
            found.append(of | _percentiles(values))
        status: Any = {
            "budget_ms": float(pipeline.total_timeout_ms),
            "latency": _percentiles(step.latencies_ms),
            "stages": found,
            "between": _percentiles(step.between_ms) | {"share": between / (in_stages + between or 1.0)},
        }
        whole: Status = status
        return whole


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    return {f"{name}_ms": value for name, value in percentiles(values).items()}


def _others(step: Step) -> str:
    """How the queries that were not answered in time ended."""
    counts = [f"{count} {name}" for name, count in step.outcomes.items() if name != "in time"]
    errors = ", ".join(name for name, _ in step.errors.most_common(SHOWN_ERRORS))
    return ", ".join(counts) + (f" ({errors})" if errors else "")


def _nodes(step: Step) -> str:
    return ", ".join(f"{name} ({count})" for name, count in step.nodes.most_common()) or "no node"


def _rises(most: str, last: Step, end: str) -> str:
    """What to say where answers in time still rise, although many are late."""
    return f": at {last.rate:.0f}/s {share(last.in_time_share, 0)} are, and {most}/s are the most so far{end}"


def _sentences(steps: Sequence[Step]) -> Iterator[Text | str]:
    found, last = verdict(steps), steps[-1]
    most = rate(found.most_per_s)
    if not found.most_per_s:
        yield Text("No query was answered in time, at any load.", "bold red")
    elif found.broke and last.in_time_share < EASY:
        yield Text.assemble(
            (f"Breaks at about {found.best.rate:.0f}/s", "bold"),
            f": at higher load, answers in time do not rise; {most}/s are the most.",
            f" Nearly all in time up to {found.easy.rate:.0f}/s." if found.easy is not None else "",
        )
    else:
        more = "." if found.generator_was_late else "; see --seconds."
        if last.in_time_share >= EASY:
            said = (f"Did not break up to {last.rate:.0f}/s", "bold"), f": {most}/s in time{more}"
        elif found.easy is not None:
            said = (f"Nearly all in time up to {found.easy.rate:.0f}/s", "bold"), _rises(most, last, more)
        else:
            said = ("At no load were nearly all in time", "bold red"), _rises(most, last, more)
        yield Text.assemble(*said)
    if found.generator_was_late:
        yield (
            f"Half of a load came {max(step.behind_ms for step in steps):.0f} ms or more later than planned: "
            "the generator is at its limit, or the machine busy. The app may take more."
        )
    yield "Generator, embedded broker and service share this machine: elsewhere the figures differ."
