"""Hours at a steady load, to find leaks: ``make soak SECONDS=3600``.

Exit code 1 when memory, tasks, threads or file descriptors of the last quarter exceed those of the second.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .children import Service, run_verb, total
from .load import Load, Segment, offer
from .place import Place, place
from .plot import Line, Panel, draw
from .report import OUT, save, table, write
from .system import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = ["good-async", "good-def"] * 47 + ["late-async", "late-def", "raises", "no-json", "unknown", ""]
"""One in a hundred for each way to fail; the last is no valid query."""
LOAD_S = 60.0
"""The lifetime of a generator: its connections come and go as those of producers do."""
SAMPLE_S = 5.0
DRAIN_S = 60.0
SILENT_S = 30.0
FEWEST = 4
"""Samples, one a quarter; fewer say nothing."""
MAX_GROWTH = 1.05
SPARE = {"rss_mb": 0.0, "tasks": 5.0, "threads": 1.0, "files": 2.0}
"""The absolute tolerance of small figures beside the 5 per cent."""
ANSWERED = "lukhas_matriz_async_pipeline_total"


@dataclass(frozen=True)
class Sample:
    """A sample of the service."""

    at_s: float
    rss_mb: float
    threads: int
    files: int
    tasks: int
    objects: int
    cpu: float
    """The share of a core since the last sample."""
    answered: float


@dataclass(frozen=True)
class Growth:
    """One figure's medians in the second and the last quarter."""

    name: str
    second: float
    last: float

    @property
    def ok(self) -> bool:
        """Return whether it is stable."""
        return self.last <= max(self.second * MAX_GROWTH, self.second + SPARE[self.name])


async def main() -> int:
    """Run, print and write docs/bench/soak.*; the exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=1000, help="queries a second")
    parser.add_argument("--executor", default="thread", choices=("thread", "process"))
    parser.add_argument("--kafka", help="host:port of a real broker; otherwise an embedded one")
    given = parser.parse_args()
    if given.seconds < 2 * FEWEST * SAMPLE_S:
        parser.error(
            f"a sample is taken every {SAMPLE_S:.0f} s: --seconds {2 * FEWEST * SAMPLE_S:.0f} or more"
        )
    async with place(given.kafka, partitions=8) as here:
        samples, offered = await soak(here, given.rate, given.seconds, given.executor)
    if len(samples) < FEWEST:
        raise SystemExit(
            f"only {len(samples)} samples of {given.seconds:.0f} s: the service did not answer /metrics"
        )
    growths = [growth(samples, name) for name in SPARE]
    answered = samples[-1].answered
    _publish(samples, growths, vars(given))
    cpu = statistics.median(sample.cpu for sample in samples)
    print(f"{offered} offered, {answered:.0f} ended, {cpu:.0%} of a core")
    return 0 if all(one.ok for one in growths) and answered >= offered else 1


async def soak(here: Place, rate: float, seconds: float, executor: str) -> tuple[list[Sample], int]:
    """Offer the load and sample the service; return the samples, and the number of queries."""
    samples: list[Sample] = []
    async with Service("soak_app:app", {**here.settings, "executor.kind": executor}) as service:
        if not await service.until_ready():
            raise SystemExit("the service did not get ready")
        looking = asyncio.create_task(_look(service, samples.append))
        offered = 0
        while offered < rate * seconds:
            segment = Segment(int(rate * min(LOAD_S, seconds)), TEXTS)
            await offer(Load(here.bootstrap, here.topics.queries, rate, [segment]))
            offered += segment.size
            _check_answering(samples, service)
        await _until_answered(samples, offered)
        looking.cancel()
    return samples, offered


def _check_answering(samples: list[Sample], service: Service) -> None:
    """Check that the service still answers, so that a hang ends the run early.

    Raises:
        SystemExit: it has not answered for a while.
    """
    silent_s = time.time() - service.ready_at - (samples[-1].at_s if samples else 0.0)
    if silent_s > SILENT_S:
        raise SystemExit(
            f"the service has not answered for {silent_s:.0f} s; its log: {list(service.log)[-5:]}"
        )


async def _until_answered(samples: list[Sample], offered: int) -> None:
    limit = time.monotonic() + DRAIN_S
    while samples[-1].answered < offered and time.monotonic() < limit:
        await asyncio.sleep(SAMPLE_S)


async def _look(service: Service, keep: Callable[[Sample], None]) -> None:
    started = last_at = time.monotonic()
    last_cpu_s = cpu_seconds(service.pid)
    while True:
        await asyncio.sleep(SAMPLE_S)
        counted = next((line for line in reversed(service.log) if line["event"] == "soak"), None)
        figures = await service.scrape()
        if counted is None or figures is None:
            continue
        now, cpu_s = time.monotonic(), cpu_seconds(service.pid)
        rss_mb, threads, files = _process(service.pid)
        cpu, answered = (cpu_s - last_cpu_s) / (now - last_at), total(figures, ANSWERED) or 0.0
        at_s = now - started
        keep(Sample(at_s, rss_mb, threads, files, counted["tasks"], counted["objects"], cpu, answered))
        last_at, last_cpu_s = now, cpu_s


def _process(pid: int) -> tuple[float, int, int]:
    """Return resident memory in MB, threads and file descriptors."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), files


def growth(samples: list[Sample], name: str) -> Growth:
    """Compute a figure's medians of the second and the last quarter of the time."""
    quarter = len(samples) // 4
    values = [float(getattr(sample, name)) for sample in samples]
    return Growth(
        name, statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])
    )


def _publish(samples: list[Sample], growths: list[Growth], options: dict[str, object]) -> None:
    rows = [
        [one.name, one.second, one.last, f"{one.last / one.second - 1:+.1%}", "ok" if one.ok else "GROWS"]
        for one in growths
    ]
    shown = table(["figure", "second quarter", "last quarter", "growth", "verdict"], rows)
    print(shown)
    hours, rate = samples[-1].at_s / 3600, options["rate"]
    write(
        "soak.md",
        f"# Soak\n\nPrinted by `make soak`: {hours:.1f} h at {rate:.0f} queries a second.\n\n{shown}\n",
    )
    save("soak", [asdict(sample) for sample in samples], options)
    minutes = [sample.at_s / 60 for sample in samples]
    panels = [
        Panel(label, [Line(label, minutes, [float(getattr(sample, name)) for sample in samples])])
        for name, label in (
            ("rss_mb", "resident, MB"),
            ("tasks", "tasks"),
            ("threads", "threads"),
            ("files", "file descriptors"),
        )
    ]
    draw(OUT / "soak.svg", panels, x_label="minutes", title="A steady load, by the hour")


if __name__ == "__main__":
    run_verb(main)
