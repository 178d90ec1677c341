"""The verbs that measure, each in its shortest form: whatever they find, they end and publish it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from support.operations import until

from .children import ROOT, TERMINATED

LIMIT_S = 240
SERVICE = b"-m\0fivestage\0run\0"


class Verb(NamedTuple):
    """A module of ``tests.tools``, what makes it short, and a file that it publishes."""

    module: str
    options: str
    published: str


QUICK = (
    Verb(
        "bench",
        "--quick --parts contest --only fivestage,handwritten --rounds 1 --queries 3000",
        "contest.json",
    ),
    Verb("bench", "--quick --parts rates --rounds 1 --seconds 1", "rates.json"),
    Verb("bench", "--parts batches --seconds 0.3", "batches.json"),
    Verb("bench", "--parts llm --rounds 1 --queries 40", "llm.json"),
    Verb("bench", "--parts hedge --seconds 5", "hedge.json"),
    Verb("bench.overload", "--contestants fivestage --loads 1.5 --seconds 3 --warmup 1", "overload.json"),
    Verb("bench.hostile", "--executors thread --kinds deaf --seconds 3 --settle 10", "hostile.json"),
    Verb("bench.hostile", "--executors process --kinds block-async --seconds 3 --settle 10", "hostile.json"),
    Verb("bench.ordinary", "--queries 40 --executors thread", "ordinary.json"),
    Verb("bench.slow", "--phases 2:20,2:200,2:20 --rate 100", "slow.json"),
    Verb("bench.soak", "--seconds 40 --rate 50", "soak.json"),
    Verb("bench.restart", "--events leave --seconds 8 --rate 50", "restart.json"),
)
EXPENSIVE = (
    Verb(
        "bench", "--parts orchestrator,coinciding,idle,memory --rounds 1 --queries 1000", "orchestrator.json"
    ),
    Verb("bench", "--parts latency,workers --rounds 1 --queries 1000 --seconds 2", "latency.json"),
    Verb("bench.overload", "--restart --restart-loads 0.7 --outage 35", "recovery.json"),
    Verb("bench.controls", "--shapes bimodal --loads '90 %' --processes 1", "controls.json"),
    Verb("bench.scale", "--axes keys --rounds 1 --seconds 0.5", "scale.json"),
)
"""Take half a minute of CPU or more: with ``--long``."""
VERBS = (*QUICK, *(pytest.param(verb, marks=pytest.mark.long) for verb in EXPENSIVE))


def name_of(verb: Verb) -> str:
    """The part of a test's id that names a verb."""
    words = verb.options.removeprefix("--quick ").split()
    return f"{verb.module} {words[1]}"


@pytest.mark.verb
@pytest.mark.parametrize("verb", VERBS, ids=name_of)
def test_a_verb_ends_and_publishes(verb: Verb, tmp_path: Path) -> None:
    """It ends, and its exit code says whether its bars are met: on a busy machine they need not be."""
    run = subprocess.Popen(
        [sys.executable, "-m", f"tests.tools.{verb.module}", *shlex.split(verb.options)],
        cwd=ROOT,
        env={**os.environ, "FIVESTAGE_BENCH_OUT": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = run.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)  # its services too, where it did not end
    assert run.returncode in (0, 1), said[-3000:]
    assert "Traceback" not in said, said[-3000:]
    figures = json.dumps(json.loads((tmp_path / verb.published).read_text(encoding="utf-8")))
    assert re.search(r": [1-9][0-9]*", figures), "nothing was measured"


def test_a_verb_that_is_terminated_leaves_no_process(tmp_path: Path) -> None:
    """On SIGTERM its broker and its service end with it."""
    command = [sys.executable, "-m", "tests.tools.bench.slow", "--phases", "600:20", "--rate", "20"]
    environment = {**os.environ, "FIVESTAGE_BENCH_OUT": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as verb:
        try:
            until(
                lambda: any(SERVICE in line for line in _with_environment(tmp_path).values()), "the service"
            )
            verb.terminate()
            assert verb.wait(LIMIT_S) == TERMINATED
            until(lambda: not _with_environment(tmp_path), "the end of its processes")
        finally:
            verb.kill()
            for process in _with_environment(tmp_path):
                os.kill(process, signal.SIGKILL)


def _with_environment(folder: Path) -> dict[int, bytes]:
    """The command lines, by process id, of all processes that have a folder in their environment."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is of another user
            if bytes(folder) in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes()
    return found


@pytest.mark.parametrize(
    "module", sorted({verb.module for verb in (*QUICK, *EXPENSIVE)} | {"chaos", "long", "mutants"})
)
def test_a_verb_explains_itself(module: str) -> None:
    """Each module of a verb can be imported and prints its options."""
    command = [sys.executable, "-m", f"tests.tools.{module}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "usage" in done.stdout
