"""Put each planted mistake into a copy of the project and run its tests there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from .mutant import ROOT, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LIMIT_S = 600.0
"""The time limit of the tests of one mistake."""
TEST_LIMIT_S = 200
"""The time limit of one of them: a mistake may make it hang."""
HUNG = "Timeout (>"
"""pytest-timeout's message for a test that it ends."""
COPIED = (".ci", ".github", "consumer", "deploy", "docs", "requirements", "schemas", "tests")
"""Directories to copy; files of the root are copied too."""
PASSED, FAILED, NO_END = 0, 1, -1
"""Exit codes of pytest that are results; others, and no exit, are none."""


class Fate(StrEnum):
    """The result of a planted mistake."""

    CAUGHT = "caught"
    HUNG = "hung"
    """A time limit ended a test: the mistake is caught, unless the machine was too slow."""
    SURVIVED = "survived"
    BROKEN = "broken"
    """Its tests could not be run."""


class Verdict(NamedTuple):
    """A planted mistake and the result of its tests."""

    mutant: Mutant
    fate: Fate
    seconds: float
    output: str


def run_all(mutants: Sequence[Mutant], jobs: int) -> Iterator[Verdict]:
    """Run each in a copy of the project, *jobs* at a time; verdicts come in the order of the list."""
    with tempfile.TemporaryDirectory(prefix="fivestage-mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copies.put(copy_project(Path(folder) / str(number)))
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(lambda mutant: _run(mutant, copies), mutants)


def run_unchanged(mutants: Sequence[Mutant]) -> tuple[int, str]:
    """Run the tests of all of them in a copy without any mistake, where they must pass."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="fivestage-mutants-") as folder:
        return run_tests(tests, copy_project(Path(folder) / "unchanged"))


def copy_project(target: Path) -> Path:
    """Copy the files that tests need, without environments and caches."""
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis")
    for name in COPIED:
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, target / path.name)
    return target


def _run(mutant: Mutant, copies: SimpleQueue[Path]) -> Verdict:
    copy = copies.get()
    try:
        with _planted(mutant, copy):
            return judge(mutant, copy)
    finally:
        copies.put(copy)


@contextmanager
def _planted(mutant: Mutant, root: Path) -> Iterator[None]:
    path = root / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(mutant.changed(root), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


def judge(mutant: Mutant, root: Path) -> Verdict:
    """Run the tests of a mistake in the project at *root*, where it is planted already."""
    started = time.monotonic()
    code, output = run_tests(mutant.tests, root)
    fate = {FAILED: Fate.CAUGHT, PASSED: Fate.SURVIVED}.get(code, Fate.BROKEN)
    if fate is Fate.CAUGHT and HUNG in output:
        fate = Fate.HUNG
    return Verdict(mutant, fate, time.monotonic() - started, output)


def run_tests(tests: Sequence[str], root: Path) -> tuple[int, str]:
    """Run tests of the project at *root* on its own sources; return pytest's exit code and output."""
    sources = os.pathsep.join(str(root / name) for name in ("consumer", "schemas"))
    environment = {**os.environ, "PYTHONPATH": sources, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["FIVESTAGE_TEST_PROFILE"] = "no-shrinking"
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_LIMIT_S}"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        return NO_END, str(expired)
    return done.returncode, done.stdout
