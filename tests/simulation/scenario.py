"""What a seed stands for: a history of queries, a service to answer them, and what befalls it."""

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


class Befalls(StrEnum):
    """What can happen to an instance, or to the group."""

    START = "start"
    """An instance is started."""
    TERM = "term"
    """One is asked to end."""
    KILL = "kill"
    """One vanishes."""
    STOP = "stop"
    """One gets no CPU for a while."""
    CUT = "cut"
    """One reaches no broker for a while."""
    BREAK = "break"
    """A task inside one of its clients ends, without a word."""
    REBALANCE = "rebalance"
    """The group rebalances for a reason of its own."""


class Happening(NamedTuple):
    """Something that happens at a time."""

    at_s: float
    what: Befalls
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that is decided beforehand; what is decided on the way is so by the same seed."""

    seed: int
    partitions: int
    output_partitions: int
    queries: Sequence[Query]
    happenings: Sequence[Happening]
    faults: Faults
    manners: Manners
    settings: Settings
    max_taken_in: int
    chaos_s: float
    """After so long all goes well."""
    refuses: bool
    """Brokers refuse some events for what is in them."""

    @property
    def is_gentle(self) -> bool:
        """Nothing is lost or late, no process dies: nothing may be answered twice."""
        rough = {Befalls.KILL, Befalls.STOP, Befalls.CUT, Befalls.BREAK}
        return self.faults is NO_FAULTS and not any(one.what in rough for one in self.happenings)


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
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


def _happenings(random: Random, chaos_s: float, *, gentle: bool) -> list[Happening]:
    """At least one instance starts at once; the rest is left to chance."""
    kinds = [Befalls.START, Befalls.TERM, Befalls.REBALANCE, Befalls.REBALANCE]
    if not gentle:
        kinds += [Befalls.KILL, Befalls.STOP, Befalls.STOP, Befalls.CUT, Befalls.BREAK]
    happenings = [Happening(0.0, Befalls.START)]
    happenings += [Happening(random.random() * 0.5, Befalls.START) for _ in range(random.randint(0, 2))]
    stormy = random.random() < 0.3
    for _ in range(random.randint(4, 12) if stormy else random.randint(0, 6)):
        for_s = random.choice((0.05, 0.5, 2.0, 8.0))
        what = Befalls.REBALANCE if stormy and random.random() < 0.6 else random.choice(kinds)
        happenings.append(Happening(random.random() * chaos_s, what, for_s))
    return sorted(happenings, key=lambda happening: happening.at_s)


def _faults(random: Random) -> Faults:
    """How bad the network is: mostly one kind of trouble, sometimes several."""
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
    """Of the service; made from one that is checked, as checking takes longer than a run."""
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
            "max_in_flight": random.choice((1, 3, 8)),
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
