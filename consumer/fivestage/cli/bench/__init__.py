"""``fivestage bench``: a rising load on an author's app, and where it breaks.

``measure`` starts broker and service and offers the load. ``figures`` computes the figures of each load, and
from all of them where the app breaks. ``view`` prints them, ``picture`` draws them.
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from fivestage.cli.common import ConfigOption, JsonOption, load_settings, run_while_read
from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.cli.bench.figures import Step
    from fivestage.cli.bench.view import View
    from fivestage.settings import Settings

QUESTIONS = ("What is 15 + 7?", "hello there", "What is the capital of France?")
SUFFIXES = {".svg", ".html"}


def bench(
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Your Pipeline.")],
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="What is asked; may be repeated. By default three short ones."),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="A file of questions, one in each line, asked in turn.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", "-s", min=5, max=3600, help="How long the load may take.")
    ] = 30,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a picture too: FILE.svg or FILE.html.")
    ] = None,
    as_json: JsonOption = False,  # noqa: FBT002
    config: ConfigOption = None,
) -> None:
    """Measure how many queries your app answers in time, at rising load, on this machine.

    The service runs as in production, with your settings, on the embedded broker. The load rises until
    answers in time do not. It is open: what comes does not wait for answers. A query counts as in time when
    it is answered within the total time limit after the moment at which it was due to be written.

    Example: `fivestage bench myapp:app --question "hello there" --out bench.svg`

    Example: `fivestage bench myapp:app --questions questions.txt --seconds 60 --json`
    """
    from fivestage.cli.bench.view import View
    from fivestage.kafka.embedded_broker import check_installed

    check_installed()
    if out is not None and out.suffix not in SUFFIXES:
        raise ConfigurationError(f"--out {out}: the picture is a .svg or a .html file")
    texts = _questions(question or [], questions)
    settings = load_settings(config)
    options = [] if config is None else ["--config", str(config)]
    view = View(settings, as_json=as_json)
    if texts is QUESTIONS:
        view.default_questions(texts)
    steps = run_while_read(_measure(settings, target, options, texts, seconds, view))
    view.summary(steps)
    if out is not None:
        _write(out, steps, settings, target)
    raise typer.Exit(0 if any(step.in_time for step in steps) else 1)


async def _measure(
    settings: Settings, target: str, options: Sequence[str], texts: Sequence[str], seconds: float, view: View
) -> list[Step]:
    from fivestage.cli.bench.measure import measure
    from fivestage.cli.progress import counting

    with counting("measuring", "", seconds, prints=True) as count:
        found: list[Step] = []
        async for step in measure(settings, target, options, texts, seconds):
            found.append(step)
            view.step(step)
            count(step.seconds)
        return found


def _questions(given: list[str], file: Path | None) -> Sequence[str]:
    if file is not None:
        try:
            given = [*given, *file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read {file}: {error}") from None
    texts = [text.strip() for text in given if text.strip()]
    if file is not None and not texts:
        raise ConfigurationError(f"{file} has no questions: write one in each line")
    return texts or QUESTIONS


def _write(out: Path, steps: Sequence[Step], settings: Settings, target: str) -> None:
    from fivestage.cli.bench.picture import draw

    picture = draw(steps, budget_ms=settings.pipeline.total_timeout_ms, title=f"fivestage bench {target}")
    if out.suffix == ".html":
        picture = f'<!doctype html><meta charset="utf-8"><title>fivestage bench</title>\n{picture}'
    try:
        out.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror}") from None
    print(f"fivestage: the picture is in {out}", file=sys.stderr)
