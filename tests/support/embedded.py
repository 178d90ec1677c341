"""One embedded broker for many tests: each has topics and a group of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from fivestage.settings import TopicSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

READY_S = 30.0
STOP_S = 10.0
OUTPUTS = ("queries", "stage_results", "results", "timeouts", "dead_letters")


class Installation:
    """The topics and the group of one test.

    Args:
        bootstrap: The broker.
        name: What the names of the topics start with.
    """

    def __init__(self, bootstrap: str, name: str) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self.topics = TopicSettings(**{output: f"{name}.{output}" for output in OUTPUTS})

    def settings(self, more: Mapping[str, object] | None = None) -> dict[str, object]:
        """Settings of a service by their dotted keys."""
        names: dict[str, Any] = {f"topics.{output}": getattr(self.topics, output) for output in OUTPUTS}
        return {"kafka.group_id": self.name, **names, **(more or {})}


@contextlib.contextmanager
def installations(count: int, *, partitions: int = 2) -> Iterator[Iterator[Installation]]:
    """A broker as long as the ``with``, and so many installations on it."""
    names = [f"test-{number}" for number in range(count)]
    topics = [f"{name}.{output}" for name in names for output in OUTPUTS]
    command = [sys.executable, "-m", "fivestage.bus.embedded", f"--partitions={partitions}", *topics]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    guard = threading.Timer(READY_S, process.kill)
    guard.start()
    try:
        bootstrap = process.stdout.readline().strip()
        assert bootstrap, f"the embedded broker was not ready within {READY_S:g} s"
        guard.cancel()
        yield (Installation(bootstrap, name) for name in names)
        process.stdin.close()  # it ends with its input
        process.wait(STOP_S)
    finally:
        guard.cancel()
        process.kill()
        process.wait(STOP_S)
        process.stdin.close()
        process.stdout.close()
