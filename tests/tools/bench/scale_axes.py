"""The axes of growth, step by step: one each, everything else constant."""

from __future__ import annotations

from dataclasses import dataclass, field

from .scale_app import NODES

PARTITIONS = 4
"""The partitions that an embedded broker gives to an unconfigured topic."""
WIDE = 32
BACKLOG = 120_000
LARGE_BACKLOG = 1_000_000
KB = 1024


@dataclass(frozen=True, eq=False)
class Point:
    """One measurement: a backlog, and its workers."""

    axis: str
    x: int
    """The quantity of the axis."""
    app: str = "trivial_app:app"
    settings: dict[str, object] = field(default_factory=dict)
    backlog: int = BACKLOG
    texts: tuple[str, ...] = ("2+2",)
    """The texts of the queries, in turn."""
    keys: int | None = None
    """The number of distinct keys; each record its own if None."""
    inputs: int = PARTITIONS
    """Partitions of the topic of queries."""
    outputs: int = PARTITIONS
    """Partitions of the other topics."""
    services: int = 1


@dataclass(frozen=True)
class Axis:
    """One quantity that grows."""

    name: str
    unit: str
    points: tuple[Point, ...]

    @property
    def needs_kafka(self) -> bool:
        """Return whether it needs a real broker: an embedded one knows one member per group."""
        return any(point.services > 1 for point in self.points)


def axes() -> list[Axis]:
    """Return all axes."""
    steps = (1, 10, 100, 1000)
    by_key: dict[str, object] = {"admission.ordering": "key"}
    in_processes: dict[str, object] = {"executor.kind": "process"}
    return [
        Axis("inputs", "partitions read", tuple(Point("inputs", n, inputs=n) for n in steps)),
        Axis("outputs", "partitions written", tuple(Point("outputs", n, outputs=n) for n in steps)),
        Axis(
            "keys",
            "distinct keys, kept in order",
            tuple(Point("keys", n, settings=by_key, keys=n) for n in (1, 10, 100, 1000, 10_000, 100_000)),
        ),
        Axis(
            "backlog",
            "queries waiting",
            tuple(Point("backlog", n, backlog=n, inputs=WIDE) for n in (10_000, 100_000, LARGE_BACKLOG)),
        ),
        Axis(
            "answers",
            "KB an answer",
            tuple(Point("answers", n, "scale_app:answers", texts=(str(n * KB),)) for n in (1, 10, 100, 900)),
        ),
        Axis(
            "nodes",
            "nodes registered",
            tuple(Point("nodes", n, f"scale_app:{NODES}{n}", texts=tuple(map(str, range(n)))) for n in steps),
        ),
        Axis(
            "workers",
            "executor.workers, CPU-bound node",
            tuple(
                Point("workers", n, "scale_app:busy", {**in_processes, "executor.workers": n}) for n in (1, 2)
            ),
        ),
        Axis("services", "services in one group", tuple(Point("services", n, services=n) for n in (1, 2))),
    ]
