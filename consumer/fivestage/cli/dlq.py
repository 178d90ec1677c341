"""``fivestage dlq``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, errors_as_one_line, load_settings, while_read

if TYPE_CHECKING:
    from collections import Counter

    from fivestage.core.codec.dead_letter import DeadLetter, Selection
    from fivestage.settings import Settings

PAYLOAD_CHARS = 400
"""How much of a payload the table shows."""
UNITS = (("d", 86_400), ("h", 3600), ("min", 60))

app = typer.Typer(
    no_args_is_help=True,
    help="Look at dead letters, or replay them.\n\nExample: `fivestage dlq list`",
)

ReasonOption = Annotated[
    list[str] | None, typer.Option("--reason", help="Only letters with this dlq.reason; can be repeated.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", help="Only letters written then or later, as ISO 8601; UTC.")
]
ToOption = Annotated[str | None, typer.Option("--to", help="Only letters written before.")]


@app.command("list")
def list_(
    topic: Annotated[str | None, typer.Option(help="Only records that came from this topic.")] = None,
    reason: ReasonOption = None,
    since: FromOption = None,
    until: ToOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="The newest so many; 0 = all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,  # noqa: FBT002
    show_payload: Annotated[  # noqa: FBT002
        bool, typer.Option("--show-payload", help="Also what the records hold; it may be confidential.")
    ] = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Print the dead letters, the oldest first: why, which record, how large, and whether replayed.

    Example: `fivestage dlq list`

    Example: `fivestage dlq list --reason not_json --limit 10 --json`
    """
    settings = load_settings(config, bootstrap)
    with errors_as_one_line():
        selection = _selection(topic, reason, since, until)
        newest = _list(settings, selection, limit, as_json=as_json, show_payload=show_payload)
        asyncio.run(while_read(newest))


@app.command()
def replay(
    topic: Annotated[
        str | None, typer.Option(help="The topic that the records came from, and go to; topics.queries.")
    ] = None,
    reason: ReasonOption = None,
    since: FromOption = None,
    until: ToOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many; 0 = all.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Also those replayed before.")] = False,  # noqa: FBT002
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,  # noqa: FBT002
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Write the records of dead letters to their topic again, each once; exit code 1 when some cannot be.

    A record is written as it came, with its key and headers, but without ce_expirytime. A deadline inside it
    still holds. The header dlq.replayed-from names the letter. Run one replay at a time.

    Example: `fivestage dlq replay --dry-run`

    Example: `fivestage dlq replay --reason unknown_lane --from 2026-01-31T12:00:00Z`
    """
    settings = load_settings(config, bootstrap)
    with errors_as_one_line():
        selection = _selection(topic or settings.topics.only_input(), reason, since, until)
        counts = asyncio.run(while_read(_replay(settings, selection, limit, again=again, dry_run=dry_run)))
    if counts["without its bytes"] or counts["refused by the broker"]:
        raise typer.Exit(1)


def _selection(
    topic: str | None, reasons: list[str] | None, since: str | None, until: str | None
) -> Selection:
    from fivestage.core.codec.dead_letter import Selection
    from fivestage.core.codec.decode import UnreadableReason
    from fivestage.errors import ConfigurationError

    known = {str(reason) for reason in UnreadableReason}
    for reason in reasons or ():
        if reason not in known:
            raise ConfigurationError(f"--reason: there is no {reason!r}, but {', '.join(sorted(known))}")
    return Selection(topic, frozenset(reasons or ()), _seconds("--from", since), _seconds("--to", until))


def _seconds(option: str, text: str | None) -> float | None:
    """Seconds since the epoch."""
    from datetime import UTC, datetime

    from fivestage.errors import ConfigurationError

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
    async for one in letters(settings):
        if isinstance(one, Mark):
            marked.add(one)
        elif selection.matches(one):
            found.append(one if show_payload else one.without_value())
            if limit and len(found) >= 2 * limit:  # keep no more than is shown
                found = _newest(found, limit)
    print_one = _print_json if as_json else _table()
    for letter in _newest(found, limit):
        replayed = Mark(letter.place.partition, letter.place.offset) in marked
        print_one(letter, replayed, show_payload)


def _newest(found: list[DeadLetter], limit: int) -> list[DeadLetter]:
    ordered = sorted(found, key=lambda letter: (letter.written_at, letter.place))
    return ordered[-limit:] if limit else ordered


def _print_json(letter: DeadLetter, replayed: bool, show_payload: bool) -> None:  # noqa: FBT001
    import base64
    import json
    import time

    shown: dict[str, Any] = {
        "reason": letter.reason,
        "detail": letter.detail,
        "source": {**letter.source._asdict(), "timestamp": letter.source_timestamp},
        "letter": {**letter.place._asdict(), "timestamp": letter.record.timestamp},
        "age_s": round(time.time() - letter.written_at, 3),
        "size": letter.size,
        "has_its_bytes": letter.has_its_bytes,
        "replayed": replayed,
        "replayed_from": letter.replayed_from,
    }
    if show_payload:
        value = letter.record.value
        shown["payload_base64"] = None if value is None else base64.b64encode(value).decode()
    print(json.dumps(shown))


def _table() -> Any:
    """What prints a row, with the headings before the first one."""
    import time

    from fivestage.cli import rows

    columns = [
        rows.Column("age", 8, right=True),
        rows.Column("reason", 19),
        rows.Column("record", 32),
        rows.Column("bytes", 9, right=True),
        rows.Column("replayed", 8),
        rows.Column("detail", 0),
    ]
    table = rows.RowPrinter(rows.OutputConsole(), columns)
    table.heading()

    def show(letter: DeadLetter, replayed: bool, show_payload: bool) -> None:  # noqa: FBT001
        size = str(letter.size) if letter.has_its_bytes else "-"
        age, source = _age(time.time() - letter.written_at), str(letter.source)
        table.row(age, letter.reason, source, size, "yes" if replayed else "", letter.detail)
        if show_payload and letter.record.value is not None:
            print("    " + rows.clean(letter.record.value[:PAYLOAD_CHARS].decode(errors="replace")))

    return show


def _age(seconds: float) -> str:
    for unit, length in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


async def _replay(
    settings: Settings, selection: Selection, limit: int, *, again: bool, dry_run: bool
) -> Counter[str]:
    from collections import Counter
    from contextlib import aclosing

    from fivestage.kafka.tools.dead_letters import Fate, replay

    counts: Counter[str] = Counter()
    working = replay(settings, selection, limit=limit, again=again, dry_run=dry_run)
    async with aclosing(working) as told:
        async for letter, fate in told:
            counts[fate] += 1
            verb = "would be replayed" if dry_run and fate is Fate.REPLAYED else fate
            print(f"{letter.source} {letter.reason}: {verb}", flush=True)
    summary = ", ".join(f"{counts[fate]} {fate}" for fate in Fate)
    print(f"fivestage: {'dry run: ' if dry_run else ''}{summary}", file=sys.stderr)
    return counts
