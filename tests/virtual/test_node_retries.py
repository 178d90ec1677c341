"""A node is called again after a failure that its author expects, while that helps."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Orchestrator, Unanswerable
from fivestage.core.records import Output
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

from .ruled import FIXED, KNOWN, PROCESSING, app_of, ask_at_once, attempts, choose_first
from .samples import FakeNode, Listening, stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fivestage import Query, StageContext

REFUSED = {"retries": 1, "retry_on": ConnectionRefusedError}


class Flaky:
    """A node that raises what it is given, call after call, and then answers."""

    def __init__(self, raises: Iterable[BaseException | None] = (), takes_s: float = 0.01) -> None:
        self.raises = iter(raises)
        self.takes_s = takes_s
        self.attempts: list[int] = []

    async def __call__(self, _query: Query, ctx: StageContext) -> str:
        self.attempts.append(ctx.attempt)
        await asyncio.sleep(self.takes_s)
        error = next(self.raises, None)
        if error is not None:
            raise error
        return "done"


class Retries(Listening):
    """Counts retries too."""

    def __init__(self) -> None:
        super().__init__()
        self.retries: Counter[str] = Counter()

    def retried(self, lane: str, attempts: int) -> None:
        self.retries[lane] += attempts


async def test_a_refused_connection_is_tried_again() -> None:
    """The query is answered; both calls are in its result, and the second knows that it is one."""
    node, listening = Flaky([ConnectionRefusedError()]), Retries()
    async with MemoryBus(app_of(node, **REFUSED), settings=FIXED, observer=listening) as bus:
        result = await bus.ask("any")
    assert (str(result.status), result.degraded, result.answer) == ("success", False, "done")
    assert attempts(result) == [("first", "first", "error"), ("first", "retry", "success")]
    assert (stage(result, PROCESSING).attempt, node.attempts) == (2, [1, 2])
    assert (listening.retries, listening.failovers) == ({"prod": 1}, 0)
    assert len(bus.sink.of(Output.STAGE_RESULTS)) == 5


async def test_the_pause_before_a_retry_is_short_and_random() -> None:
    """At most 10 ms, and not the same for all that failed together; it is the wait of the second call."""
    node = Flaky([ConnectionRefusedError()] * 8)
    async with MemoryBus(app_of(node, **REFUSED), settings=FIXED) as bus:
        results = await ask_at_once(bus, 8)
    waits = [stage(result, PROCESSING).attempts[1].waited_ms for result in results]
    assert 0 <= min(waits) < max(waits) <= 10
    assert len(set(waits)) == 8
    for result, waited_ms in zip(results, waits, strict=True):
        assert result.metrics.total_duration_ms == pytest.approx(20 + waited_ms, abs=0.01)


async def test_retries_are_limited_and_then_another_node_is_called() -> None:
    """A node with two retries is called three times; all calls are listed."""
    node, other, listening = Flaky([ConnectionRefusedError()] * 9), FakeNode(0.01), Retries()
    rules = {**REFUSED, "retries": 2}
    async with MemoryBus(app_of(node, other, **rules), settings=FIXED, observer=listening) as bus:
        result = await bus.ask("any")
    assert attempts(result) == [
        ("first", "first", "error"),
        ("first", "retry", "error"),
        ("first", "retry", "error"),
        ("second", "failover", "success"),
    ]
    assert (listening.retries["prod"], listening.failovers) == (2, 1)


async def test_the_last_failure_is_reported() -> None:
    """Where the retry fails too, and no other node is there."""
    errors = [ConnectionRefusedError("one"), LookupError("two")]
    async with MemoryBus(app_of(Flaky(errors), **REFUSED), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert (result.error_type, result.error) == ("LookupError", "Processing failed: two")
    assert attempts(result) == [("first", "first", "error"), ("first", "retry", "error")]


@pytest.mark.parametrize(
    ("error", "rules"),
    [
        (LookupError(), REFUSED),
        (Unanswerable("no"), {**REFUSED, "retry_on": ValueError, "idempotent": True}),
        (KeyError(), {**REFUSED, "not_failures": KeyError}),
        (ExceptionGroup("", [ConnectionRefusedError(), LookupError()]), REFUSED),
    ],
    ids=repr,
)
async def test_other_exceptions_are_not_retried(error: Exception, rules: dict[str, Any]) -> None:
    """Those that the author did not name, and those that are no failures."""
    node = Flaky([error])
    async with MemoryBus(app_of(node, **rules), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert (result.error_type, len(node.attempts)) == (type(error).__name__, 1)


async def test_a_group_of_expected_failures_is_retried() -> None:
    """As a TaskGroup raises them."""
    node = Flaky([ExceptionGroup("", [ConnectionRefusedError()] * 2)])
    async with MemoryBus(app_of(node, **REFUSED), settings=FIXED) as bus:
        assert (await bus.ask("any")).answer == "done"


async def test_a_timeout_is_not_retried() -> None:
    """Its time is gone; another node is called."""
    node = Flaky(takes_s=10)
    rules = {"retries": 1, "retry_on": (TimeoutError, OSError), "idempotent": True, "timeout_ms": 30}
    async with MemoryBus(app_of(node, FakeNode(0.01), **rules), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert attempts(result) == [("first", "first", "timeout"), ("second", "failover", "success")]


async def test_a_clients_own_timeout_may_be_retried() -> None:
    """That the client gave up early is an exception like others."""
    node = Flaky([TimeoutError()])
    rules = {"retries": 1, "retry_on": TimeoutError, "idempotent": True}
    async with MemoryBus(app_of(node, **rules), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert attempts(result) == [("first", "first", "error"), ("first", "retry", "success")]


@pytest.mark.parametrize(("budget_ms", "calls"), [(90, 1), (120, 2)])
async def test_a_retry_must_fit_into_the_time(budget_ms: int, calls: int) -> None:
    """A call usually takes 50 ms: with 40 ms left there is none, and the query ends at once."""
    node = Flaky(takes_s=0.05)
    async with MemoryBus(app_of(node, **REFUSED), settings=FIXED) as bus:
        for _ in range(KNOWN):
            await bus.ask("any")
        node.attempts.clear()
        node.raises = iter([ConnectionRefusedError()])
        result = await bus.ask("any", budget_ms=budget_ms)
    assert len(node.attempts) == calls
    if calls == 1:
        assert result.error_type == "ConnectionRefusedError"
        assert result.metrics.total_duration_ms == pytest.approx(50)


async def test_breaker_and_health_see_every_call() -> None:
    """A node whose every call fails is found out; then it is not called again, and not retried either."""
    node, listening = Flaky([ConnectionRefusedError()] * 100_000, takes_s=0.001), Retries()
    async with MemoryBus(app_of(node, **REFUSED), settings=FIXED, observer=listening) as bus:
        for _ in range(300):
            await bus.ask("any")
            await asyncio.sleep(0.01)
        state = bus.dispatcher.learned.lane("prod").nodes["first"]
        assert state.calls == len(node.attempts)
    assert listening.breakers[0] == ("prod", "first", "open")
    assert 10 <= listening.retries["prod"] < 60


async def test_a_probe_is_not_retried() -> None:
    """The one call that a half-open breaker permits decides alone."""
    node = Flaky([ConnectionRefusedError()] * 100_000, takes_s=0.001)
    settings = Settings.model_validate({"breaker": {"first_open_ms": 500, "open_ms": 500}})
    async with MemoryBus(app_of(node, **REFUSED), settings=settings) as bus:
        while bus.dispatcher.learned.lane("prod").routing.allows("first"):
            await bus.ask("any")
            await asyncio.sleep(0.02)
        node.attempts.clear()
        for _ in range(500):
            await bus.ask("any")
            await asyncio.sleep(0.02)
    assert len(node.attempts) >= 5
    assert set(node.attempts) == {1}


async def test_where_all_fails_a_fifth_of_the_load_is_added() -> None:
    """Retries are paid from a budget: a service that fails for everyone does not get twice the load."""
    node = Flaky([ConnectionRefusedError()] * 100_000, takes_s=0.0)
    orchestrator = Orchestrator(app_of(node, **REFUSED))
    for _ in range(1000):
        await orchestrator.process_query("any")
        await asyncio.sleep(0.005)
    retries = sum(attempt == 2 for attempt in node.attempts)
    assert len(node.attempts) - retries == 1000
    assert retries == pytest.approx(200 + 10 + 5 + 5, abs=15)  # a fifth, what was saved, one a second


async def test_a_retry_needs_a_slot_like_any_call() -> None:
    """The slot is given back between the calls, and the limit holds."""
    node, highest, running = Flaky([ConnectionRefusedError()] * 3, takes_s=0.02), [0], [0]

    async def counted(query: Query, ctx: StageContext) -> str:
        running[0] += 1
        highest[0] = max(highest[0], running[0])
        try:
            return await node(query, ctx)
        finally:
            running[0] -= 1

    async with MemoryBus(app_of(counted, limit=2, **REFUSED), settings=FIXED) as bus:
        results = await ask_at_once(bus, 6)
    assert [str(result.status) for result in results] == ["success"] * 6
    assert (highest[0], len(node.attempts)) == (2, 9)


async def test_a_query_that_ends_during_the_pause_is_an_error_of_its_last_call() -> None:
    """The deadline comes first; the node is not called again."""
    node = Flaky([ConnectionRefusedError()] * 200, takes_s=0.0)
    app = app_of(node, **REFUSED)

    @app.decision
    async def decision(_query: Query, _ctx: StageContext) -> str:
        await asyncio.sleep(0.0)
        return "first"

    results = [await Orchestrator(app).process_query("any", budget_ms=5) for _ in range(20)]
    assert {result.error_type for result in results} <= {"ConnectionRefusedError", "timeout"}
    assert all(result.metrics.total_duration_ms <= 5.01 for result in results)


async def test_a_retry_that_answers_leaves_no_other_node_preferred() -> None:
    """The node that answered instead of it is itself, so trials look for none."""
    node = Flaky([ConnectionRefusedError()])
    app = app_of(node, FakeNode(), **REFUSED)
    app.decision(choose_first)
    async with MemoryBus(app, settings=FIXED) as bus:
        await bus.ask("any")
        assert not bus.dispatcher.learned.lane("prod").nodes["first"].fallback


class WaitError(Exception):
    """Asks to wait."""

    def __init__(self, retry_after_s: object = 0.05) -> None:
        self.retry_after_s = retry_after_s


WAITS = {"retries": 1, "retry_on": WaitError, "idempotent": True}


async def test_a_failure_may_ask_to_wait() -> None:
    """The node is called again after the seconds in ``retry_after_s``, which are a wait like any other."""
    node = Flaky([WaitError()])
    async with MemoryBus(app_of(node, **WAITS), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert attempts(result) == [("first", "first", "error"), ("first", "retry", "success")]
    assert 50 <= stage(result, PROCESSING).attempts[1].waited_ms <= 60


async def test_another_node_is_called_instead_of_waiting() -> None:
    """At once, as after a failure that is not retried."""
    async with MemoryBus(app_of(Flaky([WaitError()]), FakeNode(0.01), **WAITS), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert attempts(result) == [("first", "first", "error"), ("second", "failover", "success")]
    assert stage(result, PROCESSING).attempts[1].waited_ms == 0


@pytest.mark.parametrize("wait", [30.0, 10**400], ids=["seconds", "more than a float holds"])
async def test_a_wait_that_is_too_long_is_not_made(wait: float) -> None:
    """The query ends at once where nothing could be answered after the wait."""
    node = Flaky([WaitError(wait)])
    async with MemoryBus(app_of(node, **WAITS), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert (result.error_type, len(node.attempts)) == ("WaitError", 1)
    assert result.metrics.total_duration_ms == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("wait", [None, "soon", True, -1.0, float("nan"), float("inf")], ids=repr)
async def test_other_values_are_no_wait(wait: object) -> None:
    """What is not a number of seconds is ignored."""
    async with MemoryBus(app_of(Flaky([WaitError(wait)]), FakeNode(), **WAITS), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert attempts(result) == [("first", "first", "error"), ("first", "retry", "success")]
    assert stage(result, PROCESSING).attempts[1].waited_ms <= 10


async def test_an_exception_whose_attributes_raise_is_retried() -> None:
    """The class is the author's, and may be wrong."""

    class WrongError(Exception):
        @property
        def retry_after_s(self) -> float:
            raise RuntimeError

        keeps_offer = retry_after_s

    node = Flaky([WrongError()])
    async with MemoryBus(app_of(node, **{**WAITS, "retry_on": WrongError}), settings=FIXED) as bus:
        assert (await bus.ask("any")).answer == "done"
