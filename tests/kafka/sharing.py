"""One broker for all processes of a test run: the first that needs it starts it, and stops it as the last.

Processes of pytest-xdist have the folder of the run in common. A lock of a file there is held by each that
uses the broker, and given back by the system when a process ends, in whatever way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import docker

from .broker import AttachedEngine, DockerEngine, RealBroker, Unavailable, acquire, external_broker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper
    from pathlib import Path


@contextmanager
def shared_broker(folder: Path) -> Iterator[RealBroker | Unavailable]:
    """Start a broker, or use the one that another process of this run has started.

    Args:
        folder: The run's, the same for all of its processes.
    """
    state, use = folder / "kafka.json", folder / "kafka.use"
    with contextlib.ExitStack() as stack:
        using = stack.enter_context(use.open("a"))
        with _locked(folder / "kafka.lock"):
            is_first = not (state.exists() and _try_to_share(using))
            broker = stack.enter_context(_started(state) if is_first else _attached(state))
            if is_first:
                fcntl.flock(using, fcntl.LOCK_SH)
        yield broker
        if is_first and isinstance(broker, RealBroker):
            fcntl.flock(using, fcntl.LOCK_EX)  # waits until no other process uses it
            state.unlink(missing_ok=True)


def _try_to_share(using: TextIOWrapper) -> bool:
    try:
        fcntl.flock(using, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # the one that started the broker is stopping it
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _started(state: Path) -> Iterator[RealBroker | Unavailable]:
    broker = acquire()
    if isinstance(broker, Unavailable):
        yield broker
        return
    with broker:
        engine = broker.engine
        container = engine.container_id if isinstance(engine, DockerEngine) else None
        address = {"bootstrap": broker.bootstrap, "mode": broker.mode, "internal": broker.internal}
        state.write_text(json.dumps({**address, "container": container}), encoding="utf-8")
        yield broker


@contextmanager
def _attached(state: Path) -> Iterator[RealBroker]:
    found = json.loads(state.read_text(encoding="utf-8"))
    container = found.pop("container")
    if container is None:
        yield external_broker(found["bootstrap"], internal=found["internal"])
        return
    with contextlib.closing(docker.from_env(timeout=30)) as client:
        yield RealBroker(engine=AttachedEngine(client.containers.get(container)), **found)
