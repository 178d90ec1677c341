"""Exceptions of user code are logged with their place, and without text of the query."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import NodeError, Orchestrator, Pipeline, Plan
from fivestage.core.exception_origin import MAX_FRAMES, frames_of
from fivestage.pipeline.call_result import CallResult
from fivestage.pipeline.failure_log import LOGGER, failure_log
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage_schemas import PipelineResult

BUSY = LookupError("busy")
SECRET = "the-question"  # noqa: S105 - what must not be in the log


def line_of(function: Callable[..., Any], after: int) -> str:
    """Return file and line, by an offset from a function or its first decorator."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno + after}"


async def raises(query: Any, ctx: Any) -> Any:  # noqa: ARG001
    """Raise on the fourth line."""
    await asyncio.sleep(0)
    raise LookupError(f"cannot find {query.user_input}")


async def misuses(query: Any, ctx: Any) -> Any:  # noqa: ARG001
    """Raise in the standard library."""
    return json.loads(query.user_input)


async def in_a_group(query: Any, ctx: Any) -> Any:
    """Raise in a task of a TaskGroup."""
    async with asyncio.TaskGroup() as group:
        group.create_task(raises(query, ctx))


async def no_json(query: Any, ctx: Any) -> Any:  # noqa: ARG001
    """Return something that no event can carry."""
    return {query.user_input: b"x"}


def in_a_thread(query: Any, ctx: Any) -> Any:  # noqa: ARG001
    """Raise in a thread."""
    raise LookupError(query.user_input)


async def raises_the_same(query: Any, ctx: Any) -> Any:  # noqa: ARG001
    """Raise an exception that was made before."""
    raise BUSY


async def raises_the_same_in_a_group(query: Any, ctx: Any) -> Any:
    """Raise it in a task of a TaskGroup."""
    async with asyncio.TaskGroup() as group:
        group.create_task(raises_the_same(query, ctx))


def raises_the_same_in_a_thread(query: Any, ctx: Any) -> Any:  # noqa: ARG001
    """Raise it in a thread."""
    raise BUSY


async def unsure(query: Any, ctx: Any) -> str:  # noqa: ARG001
    """Return something that is not a verdict."""
    return "maybe"


def app_of(function: Callable[..., Any] = raises, **stages: Callable[..., Any]) -> Pipeline:
    """An app with one node."""
    app = Pipeline(builtins=False)
    app.node("mine", intents={"general"})(function)
    app.intent(general)
    for name, stage in stages.items():
        getattr(app, name)(stage)
    return app


async def general(query: Any, ctx: Any) -> str:  # noqa: ARG001
    """The intent that the node takes."""
    return "general"


async def ask(app: Pipeline) -> PipelineResult:
    """Put one query through an app."""
    return await Orchestrator(app).process_query(SECRET, query_id="q-1")


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record other than its message."""
    names = ("error_type", "where", "node", "stage", "query_id", "error", "frames")
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


@pytest.mark.parametrize(
    ("function", "error_type", "where"),
    [
        (raises, "LookupError", line_of(raises, 3)),
        (misuses, "JSONDecodeError", line_of(misuses, 2)),
        (in_a_group, "ExceptionGroup", line_of(raises, 3)),
        (no_json, "TypeError", line_of(no_json, 0)),
        pytest.param(in_a_thread, "LookupError", line_of(in_a_thread, 2), marks=pytest.mark.realtime),
    ],
)
async def test_a_node_that_fails_leaves_one_line(
    function: Any, error_type: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line has the class, the author's line, node, stage and query, and no text of the query."""
    result = await ask(app_of(function))
    [record] = caplog.records
    assert (record.name, record.levelno) == (LOGGER, logging.WARNING)
    assert record.getMessage() == f"node 'mine' failed: {error_type} at {where}"
    assert fields(record) == {
        "error_type": error_type, "where": where, "node": "mine", "stage": "processing", "query_id": "q-1",
    }  # fmt: skip
    assert SECRET not in caplog.text
    assert result.error_type == error_type


@pytest.mark.parametrize("stage", [one for one in StageType if one is not StageType.PROCESSING])
async def test_a_stage_that_fails_leaves_one_line(stage: StageType, caplog: pytest.LogCaptureFixture) -> None:
    """The line of a failed stage names the stage instead of a node."""
    await ask(app_of(general, **{stage.value: raises}))
    [record] = [record for record in caplog.records if record.name == LOGGER]
    assert record.getMessage() == f"{stage} failed: LookupError at {line_of(raises, 3)}"
    assert (fields(record)["stage"], "node" in fields(record)) == (stage, False)


async def test_a_wrong_result_is_logged_with_its_function(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong result raised nowhere, so its line is that of the function's declaration."""
    await ask(app_of(general, validation=unsure))
    assert caplog.messages == [f"validation failed: NodeError at {line_of(unsure, 0)}"]


async def test_a_failed_attempt_is_logged_although_another_node_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each failed attempt has its line although another node answered."""
    app = app_of()
    app.node("other", intents={"general"})(general)
    result = await ask(app)
    assert (result.answer, result.node, result.error) == ("general", "other", None)
    assert caplog.messages == [f"node 'mine' failed: LookupError at {line_of(raises, 3)}"]


async def test_successes_and_timeouts_log_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """Answers, rejected answers and timeouts log no line."""

    async def slow(query: Any, ctx: Any) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await raises(query, ctx)

    async def no(query: Any, ctx: Any) -> bool:  # noqa: ARG001
        return False

    assert (await ask(app_of(general, validation=no))).validated is False
    assert (await ask(app_of(slow))).status == "timeout"
    assert (await ask(app_of(general, reflection=slow))).degraded
    assert caplog.messages == []


async def test_frames_and_text_where_they_are_wanted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are logged at DEBUG, without variables; the exception's text needs a setting."""
    caplog.set_level(logging.DEBUG, LOGGER)
    monkeypatch.setattr(failure_log, "shows_text", True)
    await ask(app_of())
    found = fields(caplog.records[0])
    assert found["error"] == f"cannot find {SECRET}"
    assert found["frames"][-1] == f"{line_of(raises, 3)} raises"
    assert SECRET not in str(found["frames"])


async def test_an_error_of_ours_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """An error without a frame of the author's code, such as an unknown node, is logged with our place."""

    async def chooses(query: Any, ctx: Any) -> str:  # noqa: ARG001
        ctx.results.clear()
        return ""

    app = Pipeline(builtins=False)
    await ask(app)
    await ask(app_of(general, decision=chooses))
    assert [record.error_type for record in caplog.records] == ["NoNodeError"] * 2  # type: ignore[attr-defined]
    assert "decision.py:" in caplog.messages[0]
    assert caplog.messages[1].endswith(line_of(chooses, 0))


def installed(text: str) -> Callable[..., Any]:
    """Build a function that looks like one of an installed package."""
    names: dict[str, Any] = {"__name__": "theirs.app"}
    exec(compile(text, "/lib/site-packages/theirs/app.py", "exec"), names)  # noqa: S102 - our own text
    return names["node"]  # type: ignore[no-any-return]


async def test_an_app_may_be_installed(caplog: pytest.LogCaptureFixture) -> None:
    """An app in an installed package counts as the author's code."""
    text = "import json\nasync def node(query, ctx):\n    inner()\ndef inner():\n    json.loads('{')\n"
    await ask(app_of(installed(text)))
    assert caplog.messages == ["node 'mine' failed: JSONDecodeError at /lib/site-packages/theirs/app.py:5"]


class _Odd(ExceptionGroup[Exception]):
    exceptions = ()


def sink(depth: int) -> None:
    """Raise far down."""
    if depth:
        sink(depth - 1)
    raise LookupError


def test_frames_are_bounded() -> None:
    """The innermost frames are kept, and the innermost one of the author's code."""
    deep = installed("def node(depth):\n    if depth: node(depth - 1)\n    raise LookupError\n")
    with pytest.raises(LookupError) as raised:
        sink(30)
    assert len(frames_of(raised.value)) == MAX_FRAMES
    with pytest.raises(LookupError) as raised:
        deep(30)
    own, *others = frames_of(raised.value)
    assert (own.function, len(others)) == ("test_frames_are_bounded", MAX_FRAMES)
    assert frames_of(_Odd("x", [ValueError()])) == ()
    assert frames_of(ValueError()) == CallResult.of_error(NodeError("x")).frames == ()


PROGRAM = """
import asyncio, sys
from fivestage import Orchestrator, Pipeline
from fivestage.observability.logging import configure

app = Pipeline(builtins=False)

@app.node("mine", intents={"general"})
@app.node("other", intents={"general"})
async def mine(query, ctx):
    raise LookupError(query.user_input)

async def main():
    for _ in range(20):
        await Orchestrator(app).process_query("the-question", query_id="q")

configure(*sys.argv[1:])
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("arguments", "more"),
    [(["INFO"], set()), (["DEBUG"], {"frames"}), (["WARNING", "show_text"], {"error"})],
)
def test_the_lines_are_json_and_few(arguments: list[str], more: set[str]) -> None:
    """Lines are valid JSON, one for each kind of failure of a node however often it fails."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    lines = [line for line in map(json.loads, ran.stderr.splitlines()) if line.get("logger") == LOGGER]
    assert [line["node"] for line in lines] == ["other", "mine"]
    head = ["timestamp", "level", "event", "logger"]
    assert list(lines[0])[:4] == head
    names = {"error_type", "where", "node", "stage", "query_id", "lane", "count"}
    assert set(lines[0]) == {*head} | names | more
    assert (lines[0]["level"], lines[0]["where"], lines[0]["query_id"]) == ("warning", "<string>:11", "q")
    assert ("the-question" in ran.stderr) is ("error" in more)
    assert ran.stdout == ""


async def raises_the_same_second(query: Any, ctx: Any) -> Any:
    """Raise it in the second task of a TaskGroup, after another failure."""
    async with asyncio.TaskGroup() as group:
        group.create_task(misuses(query, ctx))
        group.create_task(raises_the_same(query, ctx))


async def raises_another(query: Any, ctx: Any) -> Any:  # noqa: ARG001
    """Raise it, and something else because of it."""
    try:
        raise BUSY
    except LookupError as error:
        raise ValueError(query.user_input) from error


SAME = [
    (raises_the_same, 2, "LookupError"),
    (raises_the_same_in_a_thread, 2, "LookupError"),
    (raises_the_same, 2, "LookupError"),
    (raises_the_same_in_a_group, -3, "ExceptionGroup"),
    (raises_the_same_second, None, "ExceptionGroup"),
    (raises_another, 5, "ValueError"),
]
"""Functions, the line of which the failure has, and its class; a place must not be that of the one before."""


@pytest.mark.realtime
async def test_an_exception_that_is_raised_again_does_not_grow(caplog: pytest.LogCaptureFixture) -> None:
    """One instance for all failures: each line has its place, and the frames of before are not kept."""
    for raising, line, error_type in SAME:
        caplog.clear()
        orchestrator = Orchestrator(app_of(raising))
        for _ in range(20):
            await orchestrator.process_query(SECRET)
        found = {(fields(record)["error_type"], fields(record)["where"]) for record in caplog.records}
        assert found == {(error_type, line_of(misuses, 2) if line is None else line_of(raising, line))}
        assert len(list(traceback.walk_tb(BUSY.__traceback__))) < 5, raising.__name__


@pytest.mark.realtime
@pytest.mark.parametrize("is_async", [True, False])
async def test_each_query_of_a_failed_batch_has_the_place(
    is_async: bool,  # noqa: FBT001 - a parameter
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They share the exception, and each takes its frames: all lines name the same place."""

    async def fails(_items: Any, _ctx: Any) -> Any:
        raise BUSY

    def fails_in_a_thread(_items: Any, _ctx: Any) -> Any:
        raise BUSY

    node = fails if is_async else fails_in_a_thread
    app = Pipeline(builtins=False)
    app.batch_node("mine", intents={"general"}, max_size=3, max_wait_ms=60_000)(node)
    app.intent(general)
    caplog.set_level(logging.DEBUG, LOGGER)
    orchestrator = Orchestrator(app, plan=Plan.of(total_timeout_ms=60_000))
    await asyncio.gather(*(orchestrator.process_query(SECRET) for _ in range(3)))
    found = [fields(record).get("where") for record in caplog.records]
    assert set(found) == {line_of(node, 1)}, caplog.messages
    assert not list(traceback.walk_tb(BUSY.__traceback__))


def spoil(record: logging.LogRecord) -> bool:
    """Raise, as a faulty filter does."""
    raise KeyError(record.msg)


async def test_an_app_that_makes_its_own_records(caplog: pytest.LogCaptureFixture) -> None:
    """Attributes that a record factory of the app sets are replaced; the result is the node's error."""
    make = logging.getLogRecordFactory()

    def made(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        record.stage = record.node = record.event = "mine"
        return record

    logging.setLogRecordFactory(made)
    try:
        result = await ask(app_of(raises))
    finally:
        logging.setLogRecordFactory(make)
    assert result.error_type == "LookupError"
    assert [fields(record)["stage"] for record in caplog.records] == ["processing"]


async def test_a_log_that_cannot_be_written() -> None:
    """What a filter of the app raises does not replace the node's error."""
    logger = logging.getLogger(LOGGER)
    logger.addFilter(spoil)
    try:
        result = await ask(app_of(raises))
    finally:
        logger.removeFilter(spoil)
    assert result.error_type == "LookupError"


class Odd(ExceptionGroup[Exception]):
    """A group that cannot be divided."""

    def derive(self, _: Any) -> Any:
        raise RuntimeError("not now")


def test_a_group_that_cannot_be_divided() -> None:
    """It is not one of the exceptions after which a call is made again."""
    result = CallResult.of_error(Odd("all", [ValueError(), KeyError()]), retry_on=(ValueError,))
    assert (result.error_type, result.retriable) == ("Odd", False)
