"""The scenario of a seed: queries, the service's settings, and the faults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from fivestage.settings import KafkaSettings, Settings

from .executor import Manners
from .network import NO_FAULTS, Faults
from .questions import LANES, draw_queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .questions import Query

BASE = Settings(
    kafka=KafkaSettings(
        rebalance_timeout_ms=9000,
        request_timeout_ms=12_000,
        fetch_max_wait_ms=1000,
        publish_timeout_ms=60_000,
    )
)


class FaultKind(StrEnum):
    """Faults of an instance, or of the group."""

    START = "start"
    """An instance starts."""
    TERM = "term"
    """An instance is asked to end."""
    KILL = "kill"
    """An instance is killed."""
    STOP = "stop"
    """An instance gets no CPU for a while."""
    CUT = "cut"
    """An instance reaches no broker for a while."""
    BREAK = "break"
    """A task inside one of its clients ends silently."""
    REBALANCE = "rebalance"
    """The group rebalances for an outside reason."""


class TimedFault(NamedTuple):
    """A fault at a time."""

    at_s: float
    what: FaultKind
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything decided in advance; the rest is drawn during the run from the same seed."""

    seed: int
    partitions: int
    output_partitions: int
    queries: Sequence[Query]
    happenings: Sequence[TimedFault]
    faults: Faults
    manners: Manners
    settings: Settings
    max_taken_in: int
    chaos_s: float
    """After this time there are no faults."""
    refuses: bool
    """Brokers reject some events for their content."""

    @property
    def is_gentle(self) -> bool:
        """Return whether nothing is lost or late and no process dies: nothing may be answered twice."""
        rough = {FaultKind.KILL, FaultKind.STOP, FaultKind.CUT, FaultKind.BREAK}
        return self.faults is NO_FAULTS and not any(one.what in rough for one in self.happenings)


def draw(seed: int) -> Scenario:
    """Draw the scenario of a seed."""
    random = Random(seed)
    gentle = random.random() < 0.15
    partitions = random.randint(1, 4)
    chaos_s = random.choice((0.5, 1.5, 3.0, 4.0))
    lanes = random.choice(LANES)
    return Scenario(
        seed=seed,
        partitions=partitions,
        output_partitions=random.randint(1, 3),
        queries=draw_queries(random, partitions, chaos_s, lanes, gentle=gentle),
        happenings=_happenings(random, chaos_s, gentle=gentle),
        faults=NO_FAULTS if gentle else _faults(random),
        manners=Manners(random.choice((0.0, 0.15, 0.4))),
        settings=_settings(random, lanes, gentle=gentle),
        max_taken_in=random.choice((2, 5, 100)),
        chaos_s=chaos_s,
        refuses=Random(f"refuses {seed}").random() < 0.15,
    )


def _happenings(random: Random, chaos_s: float, *, gentle: bool) -> list[TimedFault]:
    """Draw the faults: at least one instance starts at once."""
    kinds = [FaultKind.START, FaultKind.TERM, FaultKind.REBALANCE, FaultKind.REBALANCE]
    if not gentle:
        kinds += [FaultKind.KILL, FaultKind.STOP, FaultKind.STOP, FaultKind.CUT, FaultKind.BREAK]
    happenings = [TimedFault(0.0, FaultKind.START)]
    happenings += [TimedFault(random.random() * 0.5, FaultKind.START) for _ in range(random.randint(0, 2))]
    stormy = random.random() < 0.3
    for _ in range(random.randint(4, 12) if stormy else random.randint(0, 6)):
        for_s = random.choice((0.05, 0.5, 2.0, 8.0))
        what = FaultKind.REBALANCE if stormy and random.random() < 0.6 else random.choice(kinds)
        happenings.append(TimedFault(random.random() * chaos_s, what, for_s))
    return sorted(happenings, key=lambda happening: happening.at_s)


def _faults(random: Random) -> Faults:
    """Draw the network faults: mostly one kind, sometimes several."""
    level = random.choice((0.01, 0.05, 0.2))
    chosen = [random.choice((0.0, 0.0, level)) for _ in range(5)]
    return Faults(
        lost_request=chosen[0],
        lost_response=chosen[1],
        silence=random.choice((0.0, 0.0, 0.01)),
        slow=chosen[2],
        slow_s=random.choice((0.3, 2.0, 7.0)),
        refused=chosen[3],
        fatal=random.choice((0.0, 0.0, 0.0, 0.01)),
        damage=chosen[4] / 2,
    )


def _settings(random: Random, lanes: dict[str, float], *, gentle: bool) -> Settings:
    """Draw the service's settings, from a validated copy, as validation takes longer than a run."""
    heartbeat_ms = random.choice((200, 400, 1500))
    kafka = BASE.kafka.model_copy(
        update={
            "commit_interval_ms": random.choice((100, 200, 400)),
            "heartbeat_interval_ms": heartbeat_ms,
            "session_timeout_ms": heartbeat_ms * random.choice((4, 10)),
        }
    )
    admission = BASE.admission.model_copy(
        update={
            "max_in_flight": random.choice((1, 4, 8)),
            "max_uncommitted_span": random.choice((2, 6, 1000)),
            "ordering": random.choice(("unordered", "unordered", "key")),
            "query_ttl_ms": 0 if gentle else random.choice((0, 0, 0, 700)),
        }
    )
    dlq = BASE.dlq.model_copy(
        update={
            "max_consecutive": random.choice((0, 2, 5)),
            "max_ratio": random.choice((0.0, 0.5)),
            "window": 4,
            "pause_ms": random.choice((100, 600)),
        }
    )
    pipeline = BASE.pipeline.model_copy(update={"rejected": random.choice(("degrade", "degrade", "error"))})
    sections = {"kafka": kafka, "admission": admission, "dlq": dlq, "pipeline": pipeline, "lanes": lanes}
    return BASE.model_copy(update=sections)
