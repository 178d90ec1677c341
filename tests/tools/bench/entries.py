"""The contestants: a process each that works off a place's queries."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fivestage_schemas import PipelineStatus

from .children import ROOT, Child, Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from .place import Place

PATHS = f"{ROOT}{os.pathsep}{ROOT / 'schemas'}"
HANDWRITTEN, NEVER_WAITS, SIMPLE, RAW_SEND = (
    "handwritten", "handwritten-never-waits", "simple", "raw-aiokafka",
)  # fmt: skip
FIVESTAGE, INTERPRETED, REJECTED, PROCESSES = (
    "fivestage", "fivestage-interpreted", "fivestage-rejected", "fivestage-process-2",
)  # fmt: skip
WITH = "fivestage-with"
"""fivestage in the environment of ``--with``."""
QUICK = (FIVESTAGE, HANDWRITTEN, SIMPLE, RAW_SEND, REJECTED, PROCESSES)
TTL_MS = 50
"""With it all queries of a backlog have expired when the service starts."""


class Contestant(NamedTuple):
    """A contestant."""

    build: Callable[[Place, str], Child]
    """Builds the process, with that Python."""
    share: float
    """Its number of queries relative to the usual: all take about as long."""
    python: str | None = None
    """Of another environment than this one."""
    needs: str | None = None
    """A package that is not always installed."""
    beside: str = HANDWRITTEN
    """The contestant that its CPU is divided by."""
    same_work: bool = True
    """Whether its events are those of the hand-written loop."""
    ends_as: PipelineStatus = PipelineStatus.SUCCESS
    stage_results: int = 5
    """Of each query."""

    def start(self, place: Place) -> Child:
        """Return its process, for this place."""
        return self.build(place, self.python or sys.executable)

    def missing(self) -> str | None:
        """Return why it cannot take part here."""
        if self.python and not os.access(self.python, os.X_OK):
            return f"there is no {self.python}"
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        if self.python == python_of(".venv") and Path(sys.prefix) == ROOT / ".venv":
            return f"{FIVESTAGE} is not compiled here either"
        return None


def service(app: str = "traced_app:waiting", **settings: object) -> Callable[[Place, str], Child]:
    """Build fivestage with defaults except for these settings (``__`` for the dot)."""
    given = {key.replace("__", "."): value for key, value in settings.items()}
    return lambda place, python: Service(app, {**place.settings, **given}, python)


def script(module: str, *options: str, embedded: str = "", real: str = "") -> Callable[[Place, str], Child]:
    """Build a contestant from a module of contest/.

    Args:
        module: Its name.
        options: Of its command line.
        embedded: An option for the embedded broker.
        real: An option for a real one.
    """

    def start(place: Place, python: str) -> Child:
        topics = place.topics
        where = (place.bootstrap, place.group_id, topics.queries, topics.stage_results, topics.results)
        name = f"tests.tools.bench.contest.{module}"
        special = embedded if place.embedded else real
        given = [*options, special] if special else options
        return Child("-m", name, *where, *given, settings={"PYTHONPATH": PATHS}, python=python)

    return start


def python_of(environment: str) -> str:
    """Return the Python of an environment that make has created."""
    return str(ROOT / environment / "bin" / "python")


def compiled(python: str | None) -> bool:
    """Return whether the fivestage of a Python's environment, or of this one, is compiled.

    Raises:
        SystemExit: it has no fivestage.
    """
    code = "from fivestage.observability.build_info import COMPILED; print(COMPILED)"
    done = subprocess.run([python or sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} cannot import fivestage: {done.stderr[-300:]}")
    return done.stdout.strip() == "True"


CONTESTANTS: dict[str, Contestant] = {
    FIVESTAGE: Contestant(service(), 1.0),
    INTERPRETED: Contestant(service(), 0.6, python_of(".venv")),
    PROCESSES: Contestant(service(executor__kind="process", executor__workers=2), 1.0),
    REJECTED: Contestant(
        service(admission__query_ttl_ms=TTL_MS),
        2.0,
        same_work=False,
        ends_as=PipelineStatus.EXPIRED,
        stage_results=0,
    ),
    HANDWRITTEN: Contestant(script("handwritten"), 0.3),
    "fivestage-never-waits": Contestant(service("traced_app:never_waiting"), 1.0, beside=NEVER_WAITS),
    NEVER_WAITS: Contestant(script("handwritten", "--never-wait"), 0.3, beside=NEVER_WAITS),
    SIMPLE: Contestant(script("simple"), 0.4, same_work=False),
    "faststream": Contestant(script("faststream_app", real="--workers=8"), 0.05, needs="faststream"),
    "faststream-batch": Contestant(script("faststream_app", "--batch"), 0.3, needs="faststream"),
    "arroyo": Contestant(script("arroyo_app"), 0.3, needs="arroyo"),
    "quix": Contestant(script("quix_app", embedded="--embedded"), 0.2, python_of(".venv-quix")),
    "faust": Contestant(script("faust_app"), 0.1, python_of(".venv-faust")),
    RAW_SEND: Contestant(script("raw_aiokafka"), 0.5, same_work=False),
    "raw-aiokafka-batches": Contestant(script("raw_aiokafka", "--batch"), 1.0, same_work=False),
    "raw-confluent": Contestant(script("raw_confluent"), 2.0, same_work=False),
}


def chosen(names: str | None, other_python: str | None = None) -> dict[str, Contestant]:
    """Return the requested contestants that can take part, and print which cannot.

    Args:
        names: Separated by commas; all of them without.
        other_python: Also run each kind of fivestage with it.

    Raises:
        SystemExit: no contestant has that name.
    """
    wanted = names.split(",") if names else list(CONTESTANTS)
    if unknown := [name for name in wanted if name not in CONTESTANTS]:
        raise SystemExit(f"no such contestant: {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    reasons = {name: CONTESTANTS[name].missing() for name in wanted}
    for name, reason in reasons.items():
        if reason is not None:
            print(f"{name} does not take part: {reason}")
    field = {name: CONTESTANTS[name] for name in wanted if reasons[name] is None}
    return field | with_python(field, other_python)


def with_python(field: dict[str, Contestant], python: str | None) -> dict[str, Contestant]:
    """Return the kinds of fivestage that run here, to be run with another Python."""
    if python is None:
        return {}
    mine = {name: one for name, one in field.items() if is_ours(name) and one.python is None}
    return {other(name): one._replace(python=python) for name, one in mine.items()}


def is_ours(name: str) -> bool:
    """Return whether it is fivestage."""
    return name.startswith(FIVESTAGE)


def other(name: str) -> str:
    """Return the name of a contestant in the environment of ``--with``."""
    return name.replace(FIVESTAGE, WITH, 1)
