"""Observes a running service from outside: the group's commits, the instances' figures."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from .history import Interval, Sample, Snapshot
from .reading import ANSWER_S, AWAY, ends_of, make_consumer, positions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kafka.broker import TopicSet

INTERVAL_S = 0.2
STARVED_S = 0.05
"""A shorter wait between two looks, over all threads, is no excuse."""


class _Watch:
    """A thread that samples repeatedly while the ``with`` block runs."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * ANSWER_S)
        assert not self._thread.is_alive(), "the last look does not end"
        assert self.failure is None, self.failure

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._interval_s):
                self._look()
        except Exception as error:  # noqa: BLE001 - raised where the block ends
            self.failure = error

    def _look(self) -> None:
        raise NotImplementedError


class CommitWatch(_Watch):
    """Takes snapshots of the commits repeatedly."""

    def __init__(self, bootstrap: str, group_id: str, topics: TopicSet) -> None:
        super().__init__()
        self._bootstrap = bootstrap
        self._group_id = group_id
        self._topics = topics
        self.snapshots: list[Snapshot] = []

    def _run(self) -> None:
        self._consumer = make_consumer(self._bootstrap, self._group_id)
        super()._run()
        self._consumer.close()

    def _look(self) -> None:
        with contextlib.suppress(*AWAY):  # the broker is away: part of some runs
            positions = positions_of(self._consumer, self._topics.queries)
            ends = [
                ends_of(self._consumer, name) for name in (self._topics.results, self._topics.dead_letters)
            ]
            self.snapshots.append(Snapshot(positions, *ends))


class Instance(NamedTuple):
    """The addresses of an instance."""

    name: str
    pid: int
    admin_port: int


class MetricsWatch(_Watch):
    """Samples ``/metrics`` and the system's figures of each instance.

    Args:
        living: Names the running instances.
    """

    def __init__(self, living: Callable[[], Iterable[Instance]]) -> None:
        super().__init__(interval_s=0.5)
        self._living = living
        self.samples: list[Sample] = []

    def _look(self) -> None:
        for instance in self._living():
            with contextlib.suppress(OSError, HTTPException, KeyError):  # not up yet, stopped, or gone
                self.samples.append(sample(instance, timeout_s=1.0))


class CpuWatch(_Watch):
    """Notes when a thread of an instance waited for a processor: it may have held the interpreter's lock.

    Args:
        living: Names the running instances.
    """

    def __init__(self, living: Callable[[], Iterable[Instance]]) -> None:
        super().__init__()
        self._living = living
        self._last: dict[int, tuple[float, float]] = {}
        self.starved: list[Interval] = []

    def _look(self) -> None:
        for instance in self._living():
            waited_s, now = waited(instance.pid), time.time()
            before, before_s = self._last.get(instance.pid, (now, waited_s))
            self._last[instance.pid] = now, waited_s
            if waited_s - before_s > STARVED_S:
                # counted when the wait is over, which may have started before the last look
                since = min(before, now - (waited_s - before_s))
                self.starved.append(Interval(since, now, instance.name))


def waited(pid: int) -> float:
    """Return the seconds that threads of a process were ready to run without a processor."""
    total_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # it has just ended
            total_ns += int(path.read_text(encoding="utf-8").split()[1])
    return total_ns / 1e9


def sample(instance: Instance, timeout_s: float = 10.0) -> Sample:
    """Sample an instance now."""
    url = f"http://127.0.0.1:{instance.admin_port}/metrics"
    with urllib.request.urlopen(url, timeout=timeout_s) as response:
        lines = [line for line in response.read().decode().splitlines() if not line.startswith("#")]
    figures = {name: value for name, _, value in (line.rpartition(" ") for line in lines)}
    status = Path(f"/proc/{instance.pid}/status").read_text(encoding="utf-8")
    memory = dict(line.split(":", 1) for line in status.splitlines())
    return Sample(
        instance.name,
        in_flight=float(figures["fivestage_in_flight"]),
        unfinished=float(figures["fivestage_unfinished"]),
        rss_mb=int(memory["VmRSS"].split()[0]) / 1024,
    )
