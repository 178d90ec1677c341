"""The contestants: a process each that works off a place's queries."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from .children import ROOT, Child, Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from .place import Place

PATHS = f"{ROOT}{os.pathsep}{ROOT / 'schemas'}"


class Contestant(NamedTuple):
    """A contestant."""

    start: Callable[[Place], Child]
    share: float
    """Its number of queries relative to the usual: all take about as long."""
    works: bool = True
    """Whether it does the work; the others only read and write."""
    missing: Callable[[], str | None] = lambda: None
    """Why it cannot take part here."""


def service(*, environment: str | None = None, **settings: object) -> Callable[[Place], Child]:
    """Build fivestage with defaults except for these settings (``__`` for the dot).

    Args:
        environment: Where its Python is, if that is another one.
        settings: Which.
    """
    python = sys.executable if environment is None else python_of(environment)
    given = {key.replace("__", "."): value for key, value in settings.items()}
    return lambda place: Service("traced_app:app", {**place.settings, **given}, python)


def script(
    module: str, *options: str, environment: str | None = None, embedded: str = "", real: str = ""
) -> Callable[[Place], Child]:
    """Build a contestant from a module of contest/.

    Args:
        module: Its name.
        options: Of its command line.
        environment: Where its Python is, if it needs one of its own.
        embedded: An option for the embedded broker.
        real: An option for a real one.
    """
    python = sys.executable if environment is None else python_of(environment)

    def start(place: Place) -> Child:
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


def needs(module: str) -> Callable[[], str | None]:
    """Return whether a module can be imported here."""
    return lambda: None if importlib.util.find_spec(module) else f"{module} is not installed"


def needs_environment(environment: str) -> Callable[[], str | None]:
    """Return whether an environment exists."""
    return lambda: None if os.access(python_of(environment), os.X_OK) else f"there is no {environment}"


HANDWRITTEN = "handwritten"
FIVESTAGE = "fivestage"
RAW_SEND = "raw-aiokafka"
CONTESTANTS: dict[str, Contestant] = {
    FIVESTAGE: Contestant(service(), 1.0),
    "fivestage-process-2": Contestant(service(executor__kind="process", executor__workers=2), 1.0),
    "fivestage-interpreted": Contestant(
        service(environment=".venv"), 0.6, missing=needs_environment(".venv")
    ),
    HANDWRITTEN: Contestant(script("handwritten"), 0.3),
    "faststream": Contestant(script("faststream_app", real="--workers=8"), 0.05, missing=needs("faststream")),
    "faststream-batch": Contestant(script("faststream_app", "--batch"), 0.3, missing=needs("faststream")),
    "arroyo": Contestant(script("arroyo_app"), 0.3, missing=needs("arroyo")),
    "quix": Contestant(
        script("quix_app", environment=".venv-quix", embedded="--embedded"),
        0.2,
        missing=needs_environment(".venv-quix"),
    ),
    "faust": Contestant(
        script("faust_app", environment=".venv-faust"), 0.1, missing=needs_environment(".venv-faust")
    ),
    RAW_SEND: Contestant(script("raw_aiokafka"), 0.5, works=False),
    "raw-aiokafka-batches": Contestant(script("raw_aiokafka", "--batch"), 1.0, works=False),
    "raw-confluent": Contestant(script("raw_confluent"), 2.0, works=False),
}


def chosen(names: str | None) -> dict[str, Contestant]:
    """Return the requested contestants that can take part, and print which cannot.

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
    return {name: CONTESTANTS[name] for name in wanted if reasons[name] is None}
