"""Prints an explanation: how the query ended, its timeline, the reason, and where its events are."""

from __future__ import annotations

import itertools
import json
import textwrap
from typing import TYPE_CHECKING

from rich.text import Text

from fivestage.cli import rows
from fivestage.cli.ruler import draw
from fivestage.cli.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fivestage.cli.explain.explanation import Explanation
    from fivestage.core.codec.dead_letter import Place
    from fivestage_schemas import PipelineResult

MAX_WIDTH = 120
FACT_CELLS = 11


def print_explanation(found: Explanation, *, show_text: bool, max_chars: int | None = None) -> None:
    """Print an explanation to standard output; long lines are wrapped on a terminal only.

    Args:
        found: What was found.
        show_text: Print the question, the answer and the error too.
        max_chars: Characters of each of them that are printed; None = all.
    """
    console = rows.OutputConsole()
    width = min(console.width, MAX_WIDTH)
    facts = list(_facts(found))
    if show_text:
        facts += [
            (name, _shortened(_shown(value), max_chars))
            for name, value in found.text().items()
            if value is not None
        ]
    lines = rows.spread(_head(found), width, gap=2)
    lines += _timeline(found, width, unicode=console.draws_unicode)
    for line in lines:
        line.truncate(width)
    lines += [
        line for name, value in facts for line in _fact(name, value, width if console.is_terminal else None)
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def _head(found: Explanation) -> list[Text]:
    """The id, how the query ended, where and how long it ran."""
    result = found.result
    query_id = Text(rows.clean(found.query_id), "bold")
    if result is None:
        return [query_id, rows.status_text("dead letter" if found.letter is not None else "no result")]
    facts = ["partial" if result.partial and not result.degraded else None]
    facts += [result.error_type if result.error_type != result.status else None]
    facts += [f"node {result.node}" if result.node else None, f"lane {result.lane}", _times(result)]
    shown = [Text(rows.clean(fact)) for fact in facts if fact]
    return [query_id, rows.status_text(rows.status_of(result)), *shown]


def _times(result: PipelineResult) -> str:
    metrics = result.metrics
    queued = f"{metrics.queue_ms:.0f} ms queued"
    if result.started_at is None:
        return f"not started, {queued}"
    return f"{metrics.total_duration_ms:.0f} of {metrics.budget_ms:.0f} ms, {queued}"


def _timeline(found: Explanation, width: int, *, unicode: bool) -> Iterator[Text]:
    result = found.result
    if result is None or not result.stages:
        return
    metrics = result.metrics
    times = metrics.budget_ms, metrics.total_duration_ms, metrics.queue_ms, found.published_ms
    yield Text()
    yield from draw(Timeline(found.steps, *times), width, unicode=unicode)
    yield Text()


def _facts(found: Explanation) -> Iterator[tuple[str, str]]:
    yield "why", found.why()
    result, letter = found.result, found.letter
    if result is not None:
        at = result.started_at or result.finished_at
        yield "started" if result.started_at else "ended", f"{at:%Y-%m-%d %H:%M:%S} UTC"
    if found.copies > 1:
        yield "copies", f"{found.copies}: it was delivered again; readers drop duplicates by ce_id"
    for timeout in found.timeouts:
        where = f" {timeout.stage_type}" if timeout.stage_type else ""
        yield (
            "timeout",
            f"{timeout.reason}{where}: {timeout.elapsed_ms:.0f} ms, limit {timeout.limit_ms:.0f} ms",
        )
    if letter is not None:
        detail = f": {letter.detail}" if letter.detail else ""
        yield "unreadable", f"{letter.reason}{detail}; see fivestage dlq list --reason {letter.reason}"
    if result is not None and result.source is not None:
        source = result.source
        yield "query", f"{source.topic}/{source.partition}/{source.offset}"
    if found.trace_id is not None:
        yield "trace", found.trace_id
    if found.events:
        yield "events", ", ".join(ranges(found.events))


def ranges(events: Sequence[Place]) -> Iterator[str]:
    """Write places as topic/partition/offset, neighbours as topic/partition/first-last."""
    for (topic, partition, _), group in itertools.groupby(
        enumerate(events), key=lambda one: (one[1].topic, one[1].partition, one[1].offset - one[0])
    ):
        offsets = [place.offset for _, place in group]
        last = f"-{offsets[-1]}" if len(offsets) > 1 else ""
        yield f"{topic}/{partition}/{offsets[0]}{last}"


def _fact(name: str, value: str, width: int | None) -> list[Text]:
    """The lines of a fact, wrapped to *width* with an indent."""
    text = rows.clean(value)
    lines = textwrap.wrap(text, max(20, width - FACT_CELLS)) if width else [text]
    return [
        Text(f"{'' if number else name:<{FACT_CELLS}}", "bold").append(line, "not bold")
        for number, line in enumerate(lines or [""])
    ]


def _shortened(text: str, max_chars: int | None) -> str:
    if max_chars is None or len(text) <= max_chars:
        return text
    return f"{text[:max_chars]} ... ({len(text) - max_chars} more characters; --json prints all)"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
