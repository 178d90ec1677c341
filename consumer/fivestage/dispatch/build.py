"""The inner parts, made from settings and introduced to each other: what Kafka and memory have in common."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.adaptive.lane_state import LanePolicy, LearnedState
from fivestage.core.admission.concurrency_limit import ConcurrencyLimiter, LimiterPolicy
from fivestage.core.admission.key_order import KeyOrder
from fivestage.core.admission.lanes import LaneShares
from fivestage.core.admission.load_shedding import Shedder, ShedPolicy
from fivestage.core.admission.slots import Slots
from fivestage.core.codec.decode import DecodeLimits
from fivestage.dispatch.active_jobs import ActiveJobs
from fivestage.dispatch.dispatcher import Admission, Dispatcher
from fivestage.dispatch.in_flight import Arrival, Candidate
from fivestage.dispatch.poller import Poller
from fivestage.dispatch.screening import Screening
from fivestage.dispatch.watchdog import Watchdog

if TYPE_CHECKING:
    from fivestage.core.codec.encode import Encoder
    from fivestage.core.ledger import Ledger
    from fivestage.core.observer import Observer
    from fivestage.dispatch.dispatcher import EventSink
    from fivestage.executors import Executor
    from fivestage.observability.tracing import Tracing
    from fivestage.settings import Settings


class Inner(NamedTuple):
    """What takes records in and deals with them."""

    poller: Poller
    dispatcher: Dispatcher
    running: ActiveJobs
    watchdog: Watchdog
    learned: LearnedState
    slots: Slots[Candidate]


class Randomness(NamedTuple):
    """What is different each time: clocks and dice. A simulation brings its own."""

    wall_clock: Callable[[], float] = time.time
    """Seconds since the epoch."""
    cpu_clock: Callable[[], float] = time.process_time
    """Seconds that this process has been given on any CPU."""
    rng: Callable[[], float] = random.random
    """From 0 to 1."""


def wire(
    settings: Settings,
    *,
    ledger: Ledger,
    encoder: Encoder,
    executor: Executor,
    sink: EventSink,
    observer: Observer,
    tracing: Tracing,
    randomness: Randomness | None = None,
) -> Inner:
    """Make the parts between source and sink."""
    randomness = randomness or Randomness()
    breaker = settings.breaker.policy(settings.pipeline.total_timeout_ms)
    learned = LearnedState(
        LanePolicy(settings.pipeline.plan(), settings.adaptive.policy(), breaker, randomness.rng),
        observer,
    )
    slots: Slots[Candidate] = Slots(_limiter(settings), LaneShares(settings.lanes))
    admission = settings.admission
    shedder = Shedder(
        ShedPolicy(admission.shed, admission.shed_max_share),
        settings.pipeline.total_timeout_ms / 1000,
        learned.pressure,
    )
    order: KeyOrder[tuple[str, int, bytes], Arrival | Candidate] | None = (
        KeyOrder() if admission.ordering == "key" else None
    )
    screening = Screening(
        shedder, total_s=learned.plan.total_s, ttl_ms=admission.query_ttl_ms, observer=observer
    )
    running = ActiveJobs(executor=executor, slots=slots, learned=learned, observer=observer)
    dispatcher = Dispatcher(
        admission=Admission(slots, screening, order),
        learned=learned,
        limits=DecodeLimits(settings.lane, frozenset(settings.lanes), admission.max_value_bytes),
        ledger=ledger,
        encoder=encoder,
        running=running,
        sink=sink,
        observer=observer,
        tracing=tracing,
        wall_clock=randomness.wall_clock,
    )
    # Shares can only be given to lanes whose queries are there to choose from.
    max_waiting = max(1024 if settings.lanes else 256, admission.max_in_flight)
    poller = Poller(
        dispatcher, max_in_flight=admission.max_in_flight, max_waiting=max_waiting, observer=observer
    )
    watchdog = Watchdog(
        running=running,
        executor=executor,
        learned=learned,
        max_overdue=settings.executor.max_overdue,
        cpu_clock=randomness.cpu_clock,
    )
    return Inner(poller, dispatcher, running, watchdog, learned, slots)


def _limiter(settings: Settings) -> ConcurrencyLimiter:
    most = settings.admission.max_in_flight
    if not settings.admission.adaptive_limit:
        return ConcurrencyLimiter(LimiterPolicy(max_limit=most, min_limit=most))
    return ConcurrencyLimiter(LimiterPolicy(max_limit=most, min_limit=max(4, most // 8)))
