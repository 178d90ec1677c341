"""``fivestage explain``: one query, from its events.

``explanation`` puts the events together, ``view`` prints them; ``fivestage.cli.timeline`` draws the attempts.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from fivestage.cli.common import (
    BootstrapOption,
    ConfigOption,
    JsonOption,
    load_settings,
    require_text,
    run_while_read,
)
from fivestage.cli.progress import counting
from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from fivestage.cli.explain.explanation import Explanation
    from fivestage.settings import Settings

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_DIGITS = 6
"""Of a length of time for which a longer one is proposed."""


def explain(
    query_id: Annotated[str, typer.Argument(help="The id of the query.")],
    since: Annotated[
        str, typer.Option(help="How far to look back: 30m, 2h, 7d, or a time in ISO 8601; UTC.")
    ] = "1h",
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Read events from a file, one JSON object per line, not from Kafka; - = stdin.",
        ),
    ] = None,
    show_text: Annotated[  # noqa: FBT002
        bool, typer.Option("--show-text", help="Show question, answer and errors, which may be confidential.")
    ] = False,
    as_json: JsonOption = False,  # noqa: FBT002
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Explain where the time of a query went, and why it was late, failed or expired.

    Its events are looked for by its id as their key, then in all partitions, the newest first. Exit code 1 if
    it has no result and no dead letter.

    Example: `fivestage explain a`

    Example: `fivestage explain a --since 2h --json`

    Example: `fivestage watch --from-beginning --max 100 --json | fivestage explain a --file -`
    """
    from fivestage.cli.explain.view import print_explanation

    require_text(query_id, "QUERY_ID")
    if file is None:
        settings = load_settings(config, bootstrap)
        found = run_while_read(_from_topics(settings, query_id, since_ms(since), show_text=show_text))
    else:
        found = _from_file(file, query_id)
    if as_json:
        print(json.dumps(found.as_json(show_text=show_text)))
    else:
        print_explanation(found, show_text=show_text)
    _print_not_searched(found, with_question=show_text and file is None)
    if not found.is_ended:
        _print_missing(found, None if file else since)
        raise typer.Exit(1)


def since_ms(text: str) -> float:
    """Return the time from which on records are read, in milliseconds since the epoch."""
    number, unit_s = text[:-1], UNITS_S.get(text[-1:])
    if unit_s is not None and number.isdecimal():
        return (time.time() - float(number) * unit_s) * 1000
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--since: {text!r} is no length of time, such as 30m, 2h or 7d, and no date, "
            "such as 2026-01-31T12:00:00Z"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000


async def _from_topics(settings: Settings, query_id: str, since_ms: float, *, show_text: bool) -> Explanation:
    from fivestage.cli.explain.explanation import of_records
    from fivestage.kafka.tools.query_search import search

    with counting("searching", "records") as count:
        found = await search(settings, query_id, since_ms=since_ms, with_query=show_text, on_read=count)
    return of_records(query_id, found)


def _from_file(file: Path, query_id: str) -> Explanation:
    from fivestage.cli.explain.explanation import of_lines

    if str(file) == "-":
        return of_lines(query_id, sys.stdin.buffer)
    try:
        with file.open("rb") as stream:
            return of_lines(query_id, stream)
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None


def _print_missing(found: Explanation, since: str | None) -> None:
    from fivestage.cli.rows import clean

    where = "; ".join(found.searched) or "nothing"
    advice = f"; for older records give {_earlier(since)}" if since else ""
    print(f"fivestage: {clean(found.query_id)}: no result; searched {where}{advice}", file=sys.stderr)


def _earlier(since: str) -> str:
    """Name an option that looks back further."""
    number, unit = since[:-1], since[-1:]
    if unit not in UNITS_S or len(number) > MAX_DIGITS:
        return "an earlier --since"
    return f"--since {max(1, 2 * int(number))}{unit}"


def _print_not_searched(found: Explanation, *, with_question: bool) -> None:
    """Say what is missing because it could not be read."""
    from fivestage.cli.rows import clean

    for problem in found.not_searched:
        print(f"fivestage: not searched: {problem}", file=sys.stderr)
    if with_question and found.is_ended and found.question is None:
        where = found.result.source if found.result is not None else None
        place = f" at {where.topic}/{where.partition}/{where.offset}" if where is not None else ""
        text = f"the question was not found{place}; its topic may have deleted it"
        print(f"fivestage: {clean(found.query_id)}: {clean(text)}", file=sys.stderr)
