"""``fivestage dlq``."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fivestage.cli.common import (
    BootstrapOption,
    ConfigOption,
    JsonOption,
    load_settings,
    run_while_read,
)
from fivestage.cli.progress import counting
from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from fivestage.cli.rows import RowPrinter
    from fivestage.core.codec.dead_letter import DeadLetter, Selection
    from fivestage.settings import Settings

PAYLOAD_CHARS = 400
"""How much of a payload the table shows."""
UNITS = (("d", 86_400), ("h", 3600), ("min", 60))

app = typer.Typer(
    no_args_is_help=True,
    help="List dead letters, or replay them.\n\nExample: `fivestage dlq list`",
)

ReasonOption = Annotated[
    list[str] | None, typer.Option("--reason", help="Only letters with this dlq.reason; can be repeated.")
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", help="Only letters written at this time or later, in ISO 8601, such as 2026-01-31; UTC."
    ),
]
ToOption = Annotated[
    str | None, typer.Option("--to", help="Only letters written before this time, likewise.")
]


@app.command("list")
def list_(
    topic: Annotated[str | None, typer.Option(help="Only records that came from this topic.")] = None,
    reason: ReasonOption = None,
    since: FromOption = None,
    until: ToOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Only the newest N; 0 = all.")] = 0,
    as_json: JsonOption = False,  # noqa: FBT002
    show_payload: Annotated[  # noqa: FBT002
        bool, typer.Option("--show-payload", help="Show the records' values, which may be confidential.")
    ] = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """List the dead letters, oldest first: reason, original record, size, and whether it was replayed.

    Example: `fivestage dlq list`

    Example: `fivestage dlq list --reason not_json --limit 10 --json`
    """
    settings = load_settings(config, bootstrap)
    selection = _selection(topic, reason, since, until)
    run_while_read(_list(settings, selection, limit, as_json=as_json, show_payload=show_payload))


@app.command()
def replay(
    topic: Annotated[
        str | None,
        typer.Option(help="The topic that the records came from and return to; default: topics.queries."),
    ] = None,
    reason: ReasonOption = None,
    since: FromOption = None,
    until: ToOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most N records; 0 = all.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Include letters replayed before.")] = False,  # noqa: FBT002
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,  # noqa: FBT002
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Write the records of dead letters back to their topic, each once; exit code 1 if some could not be.

    A record is written unchanged, with its key and headers, except for the header ce_expirytime, which is
    left out. A deadline inside the record still applies. The header dlq.replayed-from names the dead letter.
    Do not run two replays at the same time: they could write a record twice.

    Example: `fivestage dlq replay --dry-run`

    Example: `fivestage dlq replay --reason unknown_lane --from 2026-01-31T12:00:00Z`
    """
    settings = load_settings(config, bootstrap)
    selection = _selection(topic or settings.topics.only_input("with --topic"), reason, since, until)
    counts = run_while_read(_replay(settings, selection, limit, again=again, dry_run=dry_run))
    if counts["without its bytes"] or counts["refused by the broker"]:
        raise typer.Exit(1)


def _selection(
    topic: str | None, reasons: list[str] | None, since: str | None, until: str | None
) -> Selection:
    from fivestage.core.codec.dead_letter import Selection
    from fivestage.core.codec.decode import UnreadableReason

    known = {str(reason) for reason in UnreadableReason}
    for reason in reasons or ():
        if reason not in known:
            raise ConfigurationError(f"--reason: there is no {reason!r}, but {', '.join(sorted(known))}")
    return Selection(topic, frozenset(reasons or ()), _seconds("--from", since), _seconds("--to", until))


def _seconds(option: str, text: str | None) -> float | None:
    """Return the time in seconds since the epoch."""
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option}: needs a date, such as 2026-01-31T12:00:00Z") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


async def _list(
    settings: Settings, selection: Selection, limit: int, *, as_json: bool, show_payload: bool
) -> None:
    from fivestage.core.codec.dead_letter import Mark
    from fivestage.kafka.tools.dead_letters import letters

    found: list[DeadLetter] = []
    marked: set[Mark] = set()
    with counting("reading", "dead letters") as count:
        async for one in letters(settings):
            count(1)
            if isinstance(one, Mark):
                marked.add(one)
            elif selection.matches(one):
                found.append(one if show_payload else one.without_value())
                if limit and len(found) >= 2 * limit:  # bounds the memory
                    found = _newest(found, limit)
    table = None if as_json else _table()
    for letter in _newest(found, limit):
        replayed = Mark(letter.place.partition, letter.place.offset) in marked
        if table is None:
            print(json.dumps(_as_json(letter, replayed=replayed, show_payload=show_payload)))
        else:
            _print_row(table, letter, replayed=replayed)


def _newest(found: list[DeadLetter], limit: int) -> list[DeadLetter]:
    ordered = sorted(found, key=lambda letter: (letter.written_at, letter.place))
    return ordered[-limit:] if limit else ordered


def _as_json(letter: DeadLetter, *, replayed: bool, show_payload: bool) -> dict[str, Any]:
    value = letter.record.value
    payload = {"payload_base64": None if value is None else base64.b64encode(value).decode()}
    return {
        "reason": letter.reason,
        "detail": letter.detail,
        "source": {**letter.source._asdict(), "timestamp": letter.source_timestamp},
        "letter": {**letter.place._asdict(), "timestamp": letter.record.timestamp},
        "age_s": round(time.time() - letter.written_at, 3),
        "size": letter.size,
        "has_its_bytes": letter.has_its_bytes,
        "replayed": replayed,
        "replayed_from": letter.replayed_from,
        **(payload if show_payload else {}),
    }


def _table() -> RowPrinter:
    from fivestage.cli import rows

    table = rows.RowPrinter(
        rows.OutputConsole(),
        rows.Column("age", 8, right=True),
        rows.Column("reason", 19),
        rows.Column("record", 32),
        rows.Column("bytes", 9, right=True),
        rows.Column("replayed", 8),
        rows.Column("detail", 0),
    )
    table.heading()
    return table


def _print_row(table: RowPrinter, letter: DeadLetter, *, replayed: bool) -> None:
    from fivestage.cli.rows import clean

    size = str(letter.size) if letter.has_its_bytes else "-"
    age = _age(time.time() - letter.written_at)
    table.row(age, letter.reason, str(letter.source), size, "yes" if replayed else "", letter.detail)
    if letter.record.value is not None:
        print("    " + clean(letter.record.value[:PAYLOAD_CHARS].decode(errors="replace")))


def _age(seconds: float) -> str:
    for unit, length in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


async def _replay(
    settings: Settings, selection: Selection, limit: int, *, again: bool, dry_run: bool
) -> Counter[str]:
    from fivestage.kafka.tools.dead_letters import Fate, replay

    counts: Counter[str] = Counter()
    working = replay(settings, selection, limit=limit, again=again, dry_run=dry_run)
    with counting("replaying", "dead letters", prints=True) as count:
        async with aclosing(working) as outcomes:
            async for letter, fate in outcomes:
                count(1)
                counts[fate] += 1
                verb = "would be replayed" if dry_run and fate is Fate.REPLAYED else fate
                print(f"{letter.source} {letter.reason}: {verb}", flush=True)
    summary = ", ".join(f"{counts[fate]} {fate}" for fate in Fate)
    print(f"fivestage: {'dry run: ' if dry_run else ''}{summary}", file=sys.stderr)
    return counts
