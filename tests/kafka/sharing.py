"""One broker for all processes of a test run.

The first pytest-xdist process that needs the broker starts it. The controlling process stops it
at the end, after all workers have ended in any way.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import docker.errors

from .broker import (
    AttachedEngine,
    DockerEngine,
    JarEngine,
    RealBroker,
    Unavailable,
    acquire,
    external_broker,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "FIVESTAGE_TEST_SHARED"
"""The environment variable with the directory where processes of a run share data."""


def prepare() -> None:
    """Create the directory; called by the process that starts the others."""
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="fivestage-tests-")


def take_away() -> None:
    """Stop the broker, if there is one; called in the same process, after the others have ended."""
    folder = Path(os.environ.pop(FOLDER))
    with contextlib.suppress(FileNotFoundError):
        found = json.loads((folder / "kafka.json").read_text(encoding="utf-8"))
        if found["container"] is not None:
            with (
                contextlib.closing(docker.from_env(timeout=30)) as client,
                contextlib.suppress(docker.errors.NotFound),
            ):
                client.containers.get(found["container"]).remove(force=True, v=True)
        if found["process"] is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found["process"], signal.SIGKILL)
            shutil.rmtree(found["home"], ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def shared_broker(*, in_memory: bool) -> Iterator[RealBroker | Unavailable]:
    """Start a broker, or use the one that another process of this run has started."""
    if FOLDER not in os.environ:
        broker = acquire(in_memory=in_memory)
        with broker if isinstance(broker, RealBroker) else contextlib.nullcontext():
            yield broker
        return
    folder = Path(os.environ[FOLDER])
    state = folder / "kafka.json"
    with contextlib.ExitStack() as stack:
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            broker = (
                stack.enter_context(_attached(state))
                if state.exists()
                else _started(state, in_memory=in_memory)
            )
        yield broker


def _started(state: Path, *, in_memory: bool) -> RealBroker | Unavailable:
    broker = acquire(in_memory=in_memory)
    if isinstance(broker, RealBroker):
        engine = broker.engine
        atexit.unregister(engine.remove)
        found: dict[str, str | int | None] = dict.fromkeys(("container", "process", "home"))
        found |= {"bootstrap": broker.bootstrap, "mode": broker.mode, "internal": broker.internal}
        if isinstance(engine, DockerEngine):
            found["container"] = engine.container.id
        if isinstance(engine, JarEngine):
            found |= {"process": engine.pid, "home": str(engine.home)}
        state.write_text(json.dumps(found), encoding="utf-8")
    return broker


@contextmanager
def _attached(state: Path) -> Iterator[RealBroker]:
    found = json.loads(state.read_text(encoding="utf-8"))
    if found["container"] is None:
        yield external_broker(found["bootstrap"], internal=found["internal"])
        return
    with contextlib.closing(docker.from_env(timeout=30)) as client:
        engine = AttachedEngine(client.containers.get(found["container"]))
        yield RealBroker(found["bootstrap"], found["mode"], found["internal"], engine)
