"""``fivestage ask``: one question to one's own app, without Kafka."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fivestage.cli.common import ConfigOption, JsonOption, load_settings, query_event, warn_of_variables

if TYPE_CHECKING:
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.settings import Settings
    from fivestage_schemas import PipelineResult, QueryEvent

LEAVE_S: Final = 1.0
"""How long tasks that nodes have left running may take to end."""


def ask(
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Your Pipeline.")],
    text: Annotated[str, typer.Argument(help="The question.")],
    lane: Annotated[str | None, typer.Option(help="The lane, a traffic class.")] = None,
    budget_ms: Annotated[int | None, typer.Option(min=1, help="The time limit in milliseconds.")] = None,
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

    event = query_event(f"ask-{uuid.uuid4().hex[:8]}", text, lane=lane, budget_ms=budget_ms)
    settings = load_settings(config)
    logging.configure("WARNING", settings.logging.show_text, "text")
    warn_of_variables(settings)
    app = load_app(target)
    result = _result(app, settings, event)
    if as_json:
        print(result.model_dump_json())
    else:
        _print(result)
    if result.status != "success" or result.validated is False:
        raise typer.Exit(1)


def _result(app: Pipeline, settings: Settings, event: QueryEvent) -> PipelineResult:
    """Run the query on an event loop of this thread.

    Not by ``asyncio.run``, which would wait for code that ignores its cancellation, and for threads.
    """
    import asyncio

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_ask(app, settings, event))
    finally:
        loop.close()


async def _ask(app: Pipeline, settings: Settings, event: QueryEvent) -> PipelineResult:
    import asyncio

    from fivestage.pipeline.default_executor import DefaultExecutor
    from fivestage.pipeline.orchestrator import Orchestrator

    orchestrator = Orchestrator(
        app,
        plan=settings.pipeline.plan(),
        threads=settings.executor.threads,
        start_timeout_ms=settings.executor.start_timeout_ms,
        nodes=settings.for_nodes(app),
        deadline_header=settings.outbound.deadline_header,
    )
    asyncio.get_running_loop().set_default_executor(DefaultExecutor(orchestrator.threads))
    async with orchestrator:
        result = await orchestrator.process_query(
            event.user_input,
            query_id=event.query_id,
            lane=event.lane or settings.lane,
            budget_ms=event.budget_ms,
        )
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=LEAVE_S)
    return result


def _print(result: PipelineResult) -> None:
    from fivestage.cli.explain.explanation import Explanation
    from fivestage.cli.explain.view import print_explanation

    print_explanation(Explanation(result.query_id, result), show_text=True)
