"""Exceptions declared as not_failures do not count against the node."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import InvalidAppError, Orchestrator, Pipeline, Unanswerable
from fivestage.core.records import Output
from fivestage.pipeline.failure_log import LOGGER
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import StageType

from .samples import FakeNode, Listening, finish, query, stage

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 40


class NoUnit(Unanswerable):
    """An exception class of the author's."""


async def in_a_group(error: Exception) -> None:
    """Raise inside a TaskGroup."""

    async def fail() -> None:
        raise error

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


def app_of(raises: Callable[[], Exception], *, grouped: bool = False, **options: Any) -> Pipeline:
    """Build an app with a node that raises, and another that would answer."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Any, _ctx: Any) -> str:
        return "any"

    @app.validation
    async def validation(_query: Any, _ctx: Any) -> bool:
        return True

    @app.node("asked", intents={"any"}, **options)
    async def asked(_query: Any, _ctx: Any) -> str:
        if grouped:
            await in_a_group(raises())
        raise raises()

    app.node("other", intents={"any"})(FakeNode())
    return app


@pytest.mark.parametrize(
    ("raises", "options", "error_type"),
    [
        (Unanswerable, {}, "Unanswerable"),
        (NoUnit, {}, "NoUnit"),
        (ValueError, {"not_failures": (ValueError,)}, "ValueError"),
        (UnicodeError, {"not_failures": (KeyError, ValueError)}, "UnicodeError"),
        (KeyError, {"not_failures": LookupError}, "KeyError"),
        (Unanswerable, {"not_failures": ValueError}, "Unanswerable"),
        (ValueError, {"not_failures": ValueError, "grouped": True}, "ExceptionGroup"),
    ],
)
async def test_an_unanswerable_question_is_an_error_but_no_failure(
    raises: Callable[[], Exception], options: dict[str, Any], error_type: str
) -> None:
    """The stage has the class name, there is no failover, breaker and health are unchanged."""
    async with MemoryBus(app_of(raises, **options)) as bus:
        results = [await bus.ask("any") for _ in range(3)]
        node = bus.dispatcher.learned.lane("prod").nodes["asked"]
    assert {(str(r.status), r.error_type, r.node) for r in results} == {("error", error_type, "asked")}
    assert stage(results[0], StageType.PROCESSING).attempt == 1
    assert (node.breaker.recent.calls, node.health.score(1.0)) == (0, 1.0)


@pytest.mark.parametrize(
    ("raises", "options"),
    [(ValueError, {}), (TypeError, {"not_failures": ValueError}), (TypeError, {"grouped": True})],
)
async def test_other_exceptions_are_failures(
    raises: Callable[[], Exception], options: dict[str, Any]
) -> None:
    """Other exceptions count and fail over."""
    async with MemoryBus(app_of(raises, **options)) as bus:
        result = await bus.ask("any")
        node = bus.dispatcher.learned.lane("prod").nodes["asked"]
    assert (str(result.status), result.node) == ("success", "other")
    assert (node.breaker.recent.failed, round(node.health.score(1.0), 1)) == (1, 0.5)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
async def test_bad_questions_do_not_keep_the_good_ones_from_their_answers(share: float) -> None:
    """With not_failures all valid questions are answered, whatever the share of invalid ones."""
    print(f"seed {SEED}")  # noqa: T201
    chance, good = random.Random(SEED), Counter[bool]()  # noqa: S311
    app, listening = Pipeline(builtins=False), Listening()

    @app.node("n", intents={"general"}, not_failures=(ValueError,))
    async def node(_query: Any, _ctx: Any) -> int:
        bad = chance.random() < share
        good[not bad] += 1
        if bad:
            raise ValueError("bad question")
        return 1

    async with MemoryBus(app, observer=listening) as bus:
        for number in range(2000):
            bus.put(query(f"q{number}"))
            await asyncio.sleep(1 / 200)
        await finish(bus, 2000)
        results = bus.results()
    endings = Counter((str(result.status), result.error_type) for result in results)
    assert endings == {("success", None): good[True], ("error", "ValueError"): good[False]}
    assert listening.breakers == []


@pytest.mark.parametrize(("share", "rate"), [(0.1, 200), (0.2, 200)])
async def test_a_fifth_of_failures_rejects_nothing(share: float, rate: int) -> None:
    """A failure rate below 30 % does not open the breaker."""
    print(f"seed {SEED}")  # noqa: T201
    chance = random.Random(SEED)  # noqa: S311
    app = Pipeline(builtins=False)

    @app.node("n", intents={"general"})
    async def node(_query: Any, _ctx: Any) -> int:
        if chance.random() < share:
            raise ValueError("bad question")
        return 1

    async with MemoryBus(app) as bus:
        for number in range(3000):
            bus.put(query(f"q{number}"))
            await asyncio.sleep(1 / rate)
        await finish(bus, 3000)
        errors = Counter(result.error_type for result in bus.results())
    assert errors.keys() == {None, "ValueError"}


async def test_failing_for_a_tenth_of_a_second_rejects_nothing() -> None:
    """50 failures at 500/s are no outage, neither for the breaker nor for health."""
    node, listening = FakeNode(0.005, intents={"general"}), Listening()
    app = Pipeline(builtins=False)
    app.node("n", intents={"general"})(node)
    async with MemoryBus(app, observer=listening) as bus:
        for number in range(2000):
            node.fails = 1000 <= number < 1050
            bus.put(query(f"q{number}"))
            await asyncio.sleep(1 / 500)
        await finish(bus, 2000)
        errors = Counter(result.error_type for result in bus.results())
    assert errors.keys() == {None, "LookupError"}
    assert errors["LookupError"] <= 60
    assert listening.breakers == []


async def test_in_other_stages_it_is_an_error_as_any() -> None:
    """In other stages it is an ordinary error: there is no failover and nothing counts."""
    app = Pipeline(builtins=False)
    app.node("n", intents={"general"})(FakeNode())

    @app.intent
    async def intent(_query: Any, _ctx: Any) -> str:
        raise Unanswerable("no words")

    async with MemoryBus(app) as bus:
        result = await bus.ask("any")
    assert (str(result.status), result.error_type) == ("error", "Unanswerable")
    assert len(bus.sink.of(Output.RESULTS)) == 1


@pytest.mark.parametrize(("level", "lines"), [(logging.WARNING, 0), (logging.DEBUG, 1)])
async def test_an_unanswerable_question_is_logged_at_debug(
    caplog: pytest.LogCaptureFixture, level: int, lines: int
) -> None:
    """A question without an answer is logged at DEBUG."""
    with caplog.at_level(level, LOGGER):
        await Orchestrator(app_of(Unanswerable)).process_query("hello")
    assert [record.levelname for record in caplog.records if record.name == LOGGER] == ["DEBUG"] * lines


@pytest.mark.parametrize("wrong", ["ValueError", ValueError("x"), (int,), [ValueError], KeyboardInterrupt])
def test_only_exception_classes_are_accepted(wrong: Any) -> None:
    """A value that is no exception class is rejected at declaration, with what to write instead."""
    app = Pipeline(builtins=False)
    with pytest.raises(
        InvalidAppError, match=r"node 'n': not_failures must be exception classes, got .*ValueE"
    ):
        app.node("n", not_failures=wrong)
    with pytest.raises(InvalidAppError, match=r"write not_failures=\(ValueError,\)"):
        app.add_node("n", object(), not_failures=wrong)


async def test_a_matriz_node_may_have_some_too() -> None:
    """add_node accepts not_failures for MATRIZ nodes as well."""

    class Matriz:
        def process(self, _request: dict[str, Any]) -> dict[str, Any]:
            raise ValueError("no numbers")

    app = Pipeline(builtins=False)
    app.add_node("n", Matriz(), intents={"general"}, not_failures=ValueError)
    assert app.nodes["n"].excused == (Unanswerable, ValueError)
