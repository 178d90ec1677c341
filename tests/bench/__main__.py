"""Measure the service as a whole process on the embedded broker: ``make bench``.

Prints, for five trivial stages with all six events published, metrics on and traces propagated: CPU
microseconds a query, queries per second, resident memory with a backlog, and latency at a steady rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, Producer

from fivestage.bus.embedded import EmbeddedBroker
from fivestage.settings import TopicSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PARTITIONS = 8
TICKS = os.sysconf("SC_CLK_TCK")


async def main() -> None:
    """Run all measurements and print a table."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--backlog", type=int, default=200_000, help="queries to work off")
    parser.add_argument("--rounds", type=int, default=3, help="how often to repeat the backlog")
    parser.add_argument("--rate", type=int, default=1000, help="queries a second for the latency")
    parser.add_argument("--seconds", type=int, default=5, help="length of the latency measurement")
    arguments = parser.parse_args()
    rounds = [await backlog(arguments.backlog) for _ in range(arguments.rounds)]
    for name, unit in (("cpu_us", "us CPU a query"), ("per_second", "queries/s"), ("rss_mb", "MB resident")):
        figures = [measured[name] for measured in rounds]
        print(f"{unit:<18} {min(figures):>10.1f} {statistics.median(figures):>10.1f} {max(figures):>10.1f}")
    measured = await latency(arguments.rate, arguments.seconds)
    print(f"ms latency at {arguments.rate}/s: p50 {measured['p50']:.2f}  p99 {measured['p99']:.2f}")


async def backlog(count: int) -> dict[str, float]:
    """Work off a backlog; figures of the service process."""
    async with EmbeddedBroker(TopicSettings().all, partitions=PARTITIONS) as broker:
        produce(broker.bootstrap, count)
        async with service(broker.bootstrap) as (process, port):
            cpu_at_start, started = cpu_seconds(process.pid), time.monotonic()
            begun = await counter(port, "lukhas_matriz_async_pipeline_total")
            while (done := await counter(port, "lukhas_matriz_async_pipeline_total")) < count:
                await asyncio.sleep(0.2)
                if process.returncode is not None:
                    raise SystemExit(f"the service ended with {process.returncode}")
            took, cpu = time.monotonic() - started, cpu_seconds(process.pid) - cpu_at_start
            worked = done - begun
            return {"cpu_us": cpu / worked * 1e6, "per_second": worked / took, "rss_mb": peak_mb(process.pid)}


async def latency(rate: int, seconds: int) -> dict[str, float]:
    """From the query's timestamp to the result's, at a steady rate, as another client sees it."""
    async with (
        EmbeddedBroker(TopicSettings().all, partitions=PARTITIONS) as broker,
        service(broker.bootstrap),
    ):
        seen: dict[str, float] = {}
        consumer = Consumer(
            {
                "bootstrap.servers": broker.bootstrap,
                "group.id": "bench",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 5,
            }
        )
        consumer.subscribe([TopicSettings().results])
        reading = asyncio.create_task(asyncio.to_thread(_read, consumer, f"at{rate}-", seen, rate * seconds))
        sent = await _steadily(broker.bootstrap, rate, seconds)
        await reading
        steady = list(sent.items())[rate:]  # without the second in which the reader joins its group
        found = sorted(seen[name] - at for name, at in steady if name in seen)
        return {"p50": found[len(found) // 2] * 1000, "p99": found[len(found) * 99 // 100] * 1000}


async def _steadily(bootstrap: str, rate: int, seconds: int) -> dict[str, float]:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    sent, started = {}, time.monotonic()
    for number in range(rate * seconds):
        ahead = started + number / rate - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        name = f"at{rate}-{number}"
        sent[name] = time.time()
        producer.produce(TopicSettings().queries, _event(name), key=name)
        producer.poll(0)
    producer.flush()
    return sent


def _read(consumer: Consumer, prefix: str, seen: dict[str, float], count: int) -> None:
    end = time.monotonic() + 60
    while len(seen) < count and time.monotonic() < end:
        message = consumer.poll(0.5)
        if message is not None and not message.error():
            key = (message.key() or b"").decode()
            if key.startswith(prefix):
                seen[key] = time.time()
    consumer.close()


def produce(bootstrap: str, count: int) -> None:
    """Write a backlog with a fast client that is not ours."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
    )
    for number in range(count):
        name = f"q{number}"
        producer.produce(TopicSettings().queries, _event(name), key=name)
        if number % 10_000 == 0:
            producer.poll(0)
    producer.flush()


def _event(name: str) -> bytes:
    return json.dumps({"query_id": name, "user_input": "2+2"}).encode()


@asynccontextmanager
async def service(bootstrap: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The service in a process of its own, as it is deployed, and its admin port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "fivestage",
        "run",
        "trivial_app:app",
        cwd=Path(__file__).parent,
        env={
            **os.environ,
            "FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "FIVESTAGE_ADMIN__PORT": "0",
            "FIVESTAGE_KAFKA__FETCH_MAX_WAIT_MS": "10",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "ready":
                break
        else:
            raise SystemExit("the service did not get ready")
        draining = asyncio.create_task(process.stderr.read())
        yield process, int(event["admin_port"])
    finally:
        process.terminate()
        await process.wait()
        await draining


async def counter(port: int, name: str) -> float:
    """The sum of a counter over all its labels."""

    def read() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            lines = response.read().decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " "))
        )

    return await asyncio.to_thread(read)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mb(pid: int) -> float:
    """The highest resident memory of a process so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    asyncio.run(main())
