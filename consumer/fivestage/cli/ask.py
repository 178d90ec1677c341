"""``fivestage ask``: one question to one's own app, without Kafka."""

from __future__ import annotations

import signal
import sys
import uuid
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fivestage.cli.common import ConfigOption, JsonOption, load_settings, query_event, warn_of_variables

if TYPE_CHECKING:
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.settings import Settings
    from fivestage_schemas import PipelineResult, QueryEvent

MAX_CHARS: Final = 4000
"""Characters of the answer that are printed; ``--json`` prints all."""
LEAVE_S: Final = 1.0
"""How long tasks that nodes have left running may take to end."""


def ask(
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Your Pipeline.")],
    text: Annotated[str, typer.Argument(help="The question.")],
    lane: Annotated[str | None, typer.Option(help="The lane, a traffic class.")] = None,
    budget_ms: Annotated[
        int | None,
        typer.Option(min=1, help="The time limit in milliseconds, at most pipeline.total_timeout_ms."),
    ] = None,
    allow_partial: Annotated[
        bool | None,
        typer.Option(
            "--allow-partial/--no-allow-partial",
            help="Whether an answer offered before the node's limit counts as a success.",
        ),
    ] = None,
    as_json: JsonOption = False,  # noqa: FBT002
    config: ConfigOption = None,
) -> None:
    """Answer one question with your app, without Kafka: prints the answer, and where the time went.

    Opens the app's resources and closes them again. Exit code 1 if the query does not succeed, or if
    validation rejects its answer.

    Example: `fivestage ask myapp:app "hello there"`

    Example: `fivestage ask myapp:app "hello there" --budget-ms 100 --json`
    """
    from fivestage.observability import logging
    from fivestage.pipeline.loader import load_app

    fields = {"lane": lane, "budget_ms": budget_ms, "allow_partial": allow_partial}
    event = query_event(f"ask-{uuid.uuid4().hex[:8]}", text, **fields)
    settings = load_settings(config)
    _warn_of_budget(settings.pipeline.total_timeout_ms, event)
    logging.configure("WARNING", settings.logging.show_text, "text")
    warn_of_variables(settings)
    app = load_app(target)
    logging.configure_again()
    result = _result(app, settings, event)
    if as_json:
        print(result.model_dump_json())
    else:
        _print(result)
    if result.status != "success" or result.validated is False:
        raise typer.Exit(1)


def _warn_of_budget(most_ms: int, event: QueryEvent) -> None:
    """Say that a time limit above that of the settings has no effect, as in the service."""
    if (event.budget_ms or 0) > most_ms:
        print(
            f"fivestage: --budget-ms {event.budget_ms}: a query gets {most_ms} ms at most, "
            "pipeline.total_timeout_ms; raise that and pipeline.stage_timeouts_ms in a --config file",
            file=sys.stderr,
        )


def _result(app: Pipeline, settings: Settings, event: QueryEvent) -> PipelineResult:
    """Run the query on an event loop of this thread.

    Not by ``asyncio.run``, which would wait for code that ignores its cancellation, and for threads. As with
    it the first Ctrl-C cancels the query, so that resources are closed, and the second one raises
    KeyboardInterrupt in code that does not return.
    """
    import asyncio

    loop = asyncio.new_event_loop()
    asking = loop.create_task(_ask(app, settings, event))
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        loop.call_soon_threadsafe(asking.cancel)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        return loop.run_until_complete(asking)
    finally:
        signal.signal(signal.SIGINT, before)
        loop.close()


async def _ask(app: Pipeline, settings: Settings, event: QueryEvent) -> PipelineResult:
    import asyncio

    from fivestage.pipeline.default_executor import DefaultExecutor
    from fivestage.pipeline.orchestrator import Orchestrator

    orchestrator = Orchestrator(
        app,
        plan=settings.pipeline.plan(),
        threads=settings.executor.threads,
        max_data_bytes=settings.kafka.max_record_bytes,
        start_timeout_ms=settings.executor.start_timeout_ms,
        nodes=settings.for_nodes(app),
        deadline_header=settings.outbound.deadline_header,
    )
    asyncio.get_running_loop().set_default_executor(DefaultExecutor(orchestrator.threads))
    try:
        async with orchestrator:
            return await orchestrator.process_query(
                event.user_input,
                query_id=event.query_id,
                lane=event.lane or settings.lane,
                budget_ms=event.budget_ms,
                allow_partial=event.allow_partial,
            )
    finally:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=LEAVE_S)


def _print(result: PipelineResult) -> None:
    from fivestage.cli.explain.explanation import Explanation
    from fivestage.cli.explain.view import print_explanation

    print_explanation(Explanation(result.query_id, result), show_text=True, max_chars=MAX_CHARS)
