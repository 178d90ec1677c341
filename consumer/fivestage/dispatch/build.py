"""Makes the poller and the dispatcher from the settings, for Kafka and for the bus in memory."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from fivestage.core.adaptive.lane_state import LanePolicy, LearnedState
from fivestage.core.admission.concurrency_limit import ConcurrencyLimiter, LimiterPolicy
from fivestage.core.admission.lanes import LaneShares
from fivestage.core.admission.load_shedding import Shedder, ShedPolicy
from fivestage.core.admission.slots import Slots
from fivestage.core.codec.decode import DecodeLimits
from fivestage.dispatch.back_pressure import BackPressure
from fivestage.dispatch.dispatcher import Dispatcher
from fivestage.dispatch.events import EventWriter
from fivestage.dispatch.poller import Poller
from fivestage.dispatch.screening import Screening
from fivestage.dispatch.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.codec.encode import Encoder
    from fivestage.core.ledger import Ledger
    from fivestage.core.observer import Observer
    from fivestage.dispatch.publisher import EventSink
    from fivestage.executors import Executor
    from fivestage.observability.tracing import Tracing
    from fivestage.settings import Settings


def build(
    settings: Settings,
    *,
    ledger: Ledger,
    encoder: Encoder,
    executor: Executor,
    sink: EventSink,
    observer: Observer,
    tracing: Tracing,
    wall_clock: Callable[[], float] = time.time,
    cpu_clock: Callable[[], float] = time.process_time,
    rng: Callable[[], float] = random.random,
) -> tuple[Poller, Dispatcher]:
    """Make the poller and the dispatcher, with all parts between source and sink.

    Args:
        settings: The settings of pipeline, lanes, admission, executor and learning.
        ledger: The offsets of the assigned partitions.
        encoder: Encodes the events.
        executor: Runs the queries; start it with the dispatcher's ``active.finished``.
        sink: Publishes the events.
        observer: Counts what happens.
        tracing: Begins the traces.
        wall_clock: Returns seconds since the epoch; simulations pass other clocks and random numbers.
        cpu_clock: Returns the CPU seconds of this process.
        rng: Returns random numbers from 0 to 1.
    """
    admission, pipeline = settings.admission, settings.pipeline
    breaker = settings.breaker.policy(pipeline.total_timeout_ms)
    load = settings.hedge.max_extra_load
    policy = LanePolicy(pipeline.plan(), settings.adaptive.policy(), breaker, rng, load)
    learned = LearnedState(policy, observer)
    total_s = learned.plan.total_s
    shedder = Shedder(ShedPolicy(admission.shed, admission.shed_max_share), total_s, learned.pressure)
    max_overdue = settings.executor.max_overdue
    dispatcher = Dispatcher(
        slots=Slots(_limiter(settings), LaneShares(settings.lanes)),
        screening=Screening(
            shedder,
            limits=DecodeLimits(settings.lane, frozenset(settings.lanes), admission.max_value_bytes),
            total_s=total_s,
            ttl_ms=admission.query_ttl_ms,
            observer=observer,
            wall_clock=wall_clock,
        ),
        by_key=admission.ordering == "key",
        learned=learned,
        ledger=ledger,
        events=EventWriter(encoder, tracing, observer, default_lane=settings.lane),
        sink=sink,
        executor=executor,
        watchdog=Watchdog(executor=executor, learned=learned, max_overdue=max_overdue, cpu_clock=cpu_clock),
        observer=observer,
    )
    # A lane gets its share only while some of its queries wait, so with lanes more may wait.
    max_waiting = max(1024 if settings.lanes else 256, admission.max_in_flight)
    back_pressure = BackPressure(dispatcher, max_in_flight=admission.max_in_flight, max_waiting=max_waiting)
    return Poller(dispatcher, back_pressure, observer), dispatcher


def _limiter(settings: Settings) -> ConcurrencyLimiter:
    most = settings.admission.max_in_flight
    least = max(4, most // 8) if settings.admission.adaptive_limit else most
    return ConcurrencyLimiter(LimiterPolicy(max_limit=most, min_limit=least))
