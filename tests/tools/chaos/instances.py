"""The instances of the service: started, killed, suspended, continued, stopped, and checked."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from kafka.broker import free_ports
from support.background import in_background
from support.checker import Instance, InstanceExit, Interval, Tenure
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

APP = "support.apps:load"
PROCESS_SLOT = 2
"""The instance that runs user code in worker processes."""
READY_S = 40.0
END_S = 40.0
AFTERMATH_S = 1.0
"""The time that a suspended instance needs to catch up."""
LAST_LINES = 8


class Life(NamedTuple):
    """One process in a slot."""

    service: ServiceProcess
    instance: Instance
    number: int


class Instances:
    """The instances by slot; leaving the ``with`` block kills the remaining ones.

    Args:
        bootstrap: The brokers.
        settings: Shared by all instances.
        logs: A directory for their logs, or None.
    """

    def __init__(self, bootstrap: str, settings: Mapping[str, object], logs: Path | None) -> None:
        self._bootstrap = bootstrap
        self._settings = settings
        self._logs = logs
        self._lives: dict[int, Life] = {}
        self._paused: dict[int, float] = {}
        self._leaving: list[Life] = []
        self._ends: list[Future[None]] = []
        self._lock = threading.Lock()
        self._count = 0
        self.endings: list[InstanceExit] = []
        self.pauses: list[Interval] = []
        self.tenures: list[Tenure] = []
        self.deaths: list[str] = []
        """Return unrequested exits, with the last log line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for life in [*self._lives.values(), *self._leaving]:
            life.service.__exit__()

    def living(self) -> list[Instance]:
        """Return the instances that are neither suspended nor leaving."""
        lives = dict(self._lives)  # called from another thread
        return [life.instance for slot, life in lives.items() if slot not in self._paused]

    def start(self, slot: int) -> None:
        """Start a process in a slot, without waiting for it."""
        self._count += 1
        port = free_ports(1)[0]
        kind = "process" if slot == PROCESS_SLOT else "thread"
        settings = {**self._settings, "admin.port": port, "executor.kind": kind}
        service = ServiceProcess(APP, self._bootstrap, settings)
        service.launch()
        assert service.process is not None
        instance = Instance(f"instance {slot}.{self._count}", service.process.pid, port)
        self._lives[slot] = Life(service, instance, self._count)

    def wait_until_ready(self) -> None:
        """Wait for all of them."""
        for life in self._lives.values():
            life.service.wait_for("ready", READY_S)

    def kill(self, slot: int) -> None:
        """Send SIGKILL, and start a new one in its place."""
        life = self._lives.pop(slot)
        life.service.end(signal.SIGKILL)
        self._keep_log(life)
        self.start(slot)

    def pause(self, slot: int) -> None:
        """Send SIGSTOP."""
        process = self._lives[slot].service.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        self._paused[slot] = time.time()

    def resume(self, slot: int) -> None:
        """Send SIGCONT."""
        process = self._lives[slot].service.process
        assert process is not None
        process.send_signal(signal.SIGCONT)
        begin, name = self._paused.pop(slot), self._lives[slot].instance.name
        self.pauses.append(Interval(begin, time.time() + AFTERMATH_S, name, AFTERMATH_S))

    def leave(self, slot: int) -> None:
        """Send SIGTERM once it is ready, without waiting for its end."""
        life = self._lives.pop(slot)
        self._leaving.append(life)
        self._ends.append(in_background(self._end, life))

    def _end(self, life: Life) -> None:
        if not any(line["event"] == "ready" for line in life.service.log):
            with contextlib.suppress(AssertionError):  # it may be slow to get ready, or have ended
                life.service.wait_for("ready", READY_S)
        began, began_at = time.monotonic(), time.time()
        try:
            code = life.service.end(signal.SIGTERM, END_S)
        except AssertionError:  # it did not end: its duration says so
            code = life.service.end(signal.SIGKILL)
        with self._lock:
            self.endings.append(InstanceExit(life.instance.name, time.monotonic() - began, code, began_at))
        self._keep_log(life)
        self._leaving.remove(life)

    def look_after(self) -> None:
        """Restart instances that have ended by themselves, as a supervisor would."""
        for slot, life in list(self._lives.items()):
            assert life.service.process is not None
            code = life.service.process.poll()
            if code is not None:
                del self._lives[slot]
                life.service.wait()
                self._keep_log(life)
                said = [line for line in life.service.log[-LAST_LINES:] if line.get("level") != "info"]
                self.deaths.append(f"{life.instance.name} ended with {code}: {json.dumps(said)}")
                self.start(slot)

    def end_all(self) -> None:
        """Continue suspended instances, send SIGTERM to all, and wait for them."""
        for slot in list(self._paused):
            self.resume(slot)
        for slot in list(self._lives):
            self.leave(slot)
        limit = time.monotonic() + READY_S + 2 * END_S
        for end in self._ends:
            end.result(max(0.0, limit - time.monotonic()))

    def _keep_log(self, life: Life) -> None:
        self.tenures += tenures(life.instance.name, life.service.log, time.time())
        if self._logs is not None:
            lines = "".join(json.dumps(line) + "\n" for line in life.service.log)
            (self._logs / f"{life.instance.name.replace(' ', '-')}.jsonl").write_text(lines, "utf-8")


def tenures(instance: str, log: Iterable[Mapping[str, Any]], ended_at: float) -> Iterator[Tenure]:
    """Return an instance's partitions over time, by its own log."""
    had: list[int] = []
    begin = 0.0
    for line in [*log, {"event": "ended"}]:
        if line["event"] not in {"assigned", "revoked", "ended"}:
            continue
        stamp = line.get("timestamp")
        now = ended_at if stamp is None else datetime.fromisoformat(stamp).timestamp()
        yield from (Tenure(instance, partition, begin, now) for partition in had)
        had, begin = (line["partitions"] if line["event"] == "assigned" else []), now
