"""The cost of a query in counts, which finds regressions on any machine without a clock.

``python -m tests.support.costs`` prints the current counts and their largest parts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from fivestage.core.observer import Observer
from fivestage.core.reachability import Reachability
from fivestage.core.records import Output, OutputRecord
from fivestage.kafka.producer.sink import Sink
from fivestage.settings import Settings
from support import costs
from support.costs import BURST, ONE_BY_ONE, Load
from support.counting import Counts, calls, lines, totals
from support.mock import PRODUCE, Mock

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.interpreted  # compiled code makes no Python calls to be counted
COSTS: dict[str, dict[str, float]] = {
    "core": {"calls of Python": 148, "calls of C": 126, "lines": 585},
    "inline": {
        "calls of Python": 414,
        "calls of C": 275,
        "steps of coroutines": 8.2,
        "lines": 1896,
    },
    "inline loop": {"tasks on the loop": 1.1, "timers on the loop": 0.1, "callbacks on the loop": 3.2},
    "thread loops": {
        "tasks on the bus loop": 0.1,
        "tasks on the executor's loop": 1,
        "timers on the bus loop": 1.1,
        "callbacks on the bus loop": 4.3,
        "callbacks on the executor's loop": 2.1,
        "wake-ups on the bus loop": 1,
        "wake-ups on the executor's loop": 1.1,
    },
    "memory": {"blocks until acknowledged": 37, "blocks for ever": 0.5, "objects in cycles": 0},
}
"""Per query, counted with Python 3.11. Kinds without an entry must not occur."""
MARGIN, MARGIN_OF_LINES = 1.1, 1.25
"""Other Python versions count slightly more or less, and some see a comprehension as one line."""
A_NODE = 4
"""Lines per query for each further node: the built-in decision checks all of them, twice."""


def assert_within(name: str, counts: Counts, queries: int) -> None:
    """Assert that each figure has a bound and is within it."""
    bounds = COSTS[name]
    for what, total in totals(counts).items():
        margin = MARGIN_OF_LINES if what == "lines" else MARGIN
        assert total / queries <= bounds.get(what, 0) * margin, f"{what}: {total / queries:.2f} a query"


@pytest.mark.parametrize("instrument", [calls, lines])
def test_the_core_does_no_more_than_it_did(instrument: costs.Instrument) -> None:
    """Decoding, budget, outcome and encoding of one query are within their bounds."""
    assert_within("core", costs.pure(instrument), 1)


@pytest.mark.parametrize("instrument", [calls, lines])
def test_a_query_costs_no_more_than_it_did(instrument: costs.Instrument) -> None:
    """From the source to the acknowledgement, with all stages on the bus loop."""
    assert_within("inline", costs.inline(instrument), BURST)


def test_loop_operations_of_a_query() -> None:
    """A query uses one task, one timer, three callbacks."""
    assert_within("inline loop", costs.on_inline_loop(), BURST)


def test_loop_operations_of_a_query_on_two_loops() -> None:
    """A single query uses one task and one wake-up in each direction."""
    assert_within("thread loops", costs.on_thread_loops(), ONE_BY_ONE)


def test_memory_of_a_query() -> None:
    """A query keeps little until it is acknowledged, nothing afterwards, and nothing for the collector."""
    assert_within("memory", costs.kept(), BURST)


@pytest.mark.parametrize(
    ("load", "more"),
    [
        pytest.param(Load(partitions=1000), 0, id="partitions"),
        pytest.param(Load(burst=256), 0, id="waiting"),
        pytest.param(Load(keys=BURST), 0, id="keys"),
        pytest.param(Load(keys=1), 0, id="one key"),
        pytest.param(Load(nodes=1000), 1000 * A_NODE, id="nodes"),
    ],
)
def test_more_of_everything_costs_a_query_no_more(load: Load, more: int) -> None:
    """Nothing per query depends on the number of partitions, keys or waiting queries."""
    (usual,), (total,) = (totals(costs.inline(lines, one)).values() for one in (Load(), load))
    assert total / load.burst <= usual / BURST * MARGIN + more


class Batches(Observer):
    """Counts the acknowledged batches."""

    count = 0

    def published(self, topic: str, count: int, duration_s: float) -> None:  # noqa: ARG002 - Observer's
        self.count += 1


@pytest.mark.broker
async def test_a_burst_is_one_batch_a_partition() -> None:
    """Queries that end in the same turn share a batch, and so do queries that end during a request.

    All partitions of a broker share a request.
    """
    acked: list[int] = []
    batches = Batches()
    with Mock(partitions=1) as mock:
        settings = Settings.load(None, {"kafka": {"bootstrap_servers": mock.bootstrap}})
        sink = Sink(settings, batches, _raise, max_record_bytes=100_000, reach=Reachability())
        await sink.start()
        _publish(sink, lambda: acked.append(1))
        while not all(sink._queues[output][0].batch for output in (Output.STAGE_RESULTS, Output.RESULTS)):
            await asyncio.sleep(0)
        _publish(sink, lambda: acked.append(1))  # nothing of the first can have come back yet
        async with asyncio.timeout(20):
            while len(acked) < 2 * BURST:
                await asyncio.sleep(0.01)
        await sink.stop()
        requests = mock.requests(PRODUCE)
    assert (batches.count, requests) == (4, 2)


def _publish(sink: Sink, on_acked: Callable[[], None]) -> None:
    for number in range(BURST):
        stage = OutputRecord.of(Output.STAGE_RESULTS, b"%d" % number, b"stage", [])
        result = OutputRecord.of(Output.RESULTS, b"%d" % number, b"result", [])
        sink.publish([stage] * 5 + [result], on_acked)


def _raise(error: Exception) -> None:
    raise error
