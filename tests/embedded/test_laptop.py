"""What authors use on macOS works without what only Linux has; worker processes say that they need Linux."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.checker import json_of, read_all, wait_for_results
from support.embedded import Installation, patient
from support.feeder import event, write
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.broker
LAPTOP = Path(__file__).parents[1] / "support" / "laptop"
ENVIRONMENT = {"PYTHONPATH": str(LAPTOP)}
LIMIT_S = 90.0
HIDDEN = """
import ctypes, os, select, socket, sys, time
assert sys.platform == "darwin"
for name in "pidfd_open", "memfd_create", "eventfd", "sched_getaffinity":
    assert not hasattr(os, name), name
assert not hasattr(time, "pthread_getcpuclockid") and not hasattr(select, "epoll")
assert not os.path.exists("/proc/self/stat")
def refused(function, *arguments):
    try:
        function(*arguments)
    except (OSError, AttributeError):
        return True
assert refused(open, "/proc/self/stat")
assert refused(socket.socket(socket.AF_UNIX).bind, "\\0name")
assert refused(getattr, ctypes.CDLL(None), "prctl")
print("hidden")
"""
WITHOUT_KAFKA = """
import asyncio
from fivestage import Orchestrator, Pipeline, StageType
from fivestage.core.observer import Observer
from fivestage.executors import ThreadExecutor
from fivestage.settings import Settings
from fivestage.testing import MemoryBus

long = {"total_timeout_ms": 60_000, "stage_timeouts_ms": dict.fromkeys(StageType, 60_000)}
settings = Settings.load(None, {"pipeline": long})
plan = settings.pipeline.plan()
app = Pipeline()

@app.resource
async def words():
    yield ["a"]

@app.intent
async def intent(query, ctx):
    return {"intent": query.user_input, "confidence": 1.0}

@app.node("loop", intents={"loop"})
async def loop(query, ctx):
    return {"answer": ctx.use(words), "confidence": 1.0}

@app.node("thread", intents={"thread"})
def thread(query, ctx):
    return {"answer": "b", "confidence": 1.0}

async def main():
    async with Orchestrator(app, plan=plan) as orchestrator:
        print((await orchestrator.process_query("loop")).answer)
    threads = ThreadExecutor(Orchestrator(app, plan=plan), observer=Observer(), stall_s=60)
    for executor in (None, threads):
        async with MemoryBus(app, settings=settings, executor=executor) as bus:
            print([(await bus.ask(word)).answer for word in ("loop", "thread")])

asyncio.run(main())
"""
TEST = """
from fivestage import Pipeline, StageType
from fivestage.settings import Settings

long = {"total_timeout_ms": 60_000, "stage_timeouts_ms": dict.fromkeys(StageType, 60_000)}

async def test_an_answer(run_app):
    bus = await run_app(Pipeline(), settings=Settings.load(None, {"pipeline": long}))
    assert (await bus.ask("What is 15 + 7?")).answer == 22
"""


def run(
    *arguments: str, folder: Path | None = None, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python as on a laptop."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FIVESTAGE_")}
    given = {f"FIVESTAGE_{name}": value for name, value in (settings or {}).items()}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**kept, **ENVIRONMENT, **given},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def service_of(place: Installation, app: str, settings: Mapping[str, object]) -> ServiceProcess:
    """Start a service as on a laptop."""
    return ServiceProcess(app, place.bootstrap, place.settings(settings), environment=ENVIRONMENT)


def test_what_is_hidden() -> None:
    """The child processes of these tests lack what macOS lacks."""
    ran = run("-c", HIDDEN)
    assert (ran.stdout, ran.stderr) == ("hidden\n", "")


def test_without_kafka() -> None:
    """The Orchestrator and the bus in memory answer, on this loop and on those of the thread executor."""
    ran = run("-c", WITHOUT_KAFKA)
    assert (ran.stdout, ran.stderr) == ("['a']\n" + "[['a'], 'b']\n" * 2, "")


def test_the_pytest_fixture(tmp_path: Path) -> None:
    """A test of an author passes."""
    (tmp_path / "test_app.py").write_text(TEST, encoding="utf-8")
    ran = run("-m", "pytest", "-q", "-o", "asyncio_mode=auto", "test_app.py", folder=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout


def test_demo() -> None:
    """Broker, service and audit run to a good end."""
    ran = run("-m", "fivestage", "demo", "--queries", "30")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "adds up" in ran.stdout


def test_a_service_with_threads(place: Installation) -> None:
    """It answers beside a node that waits for ever and one that computes for ever, and ends with 0."""
    words = {"fast": "success", "spins": "timeout", "stuck-1": "timeout", "fast again": "success"}
    limits = patient(processing_ms=1000) | {"executor.stall_ms": 200}
    with service_of(place, "support.stuck_app:app", limits) as service:
        queries = [(word, event(word.replace(" ", "-"), word.split()[0])) for word in words]
        write(place.bootstrap, place.topics.queries, queries)
        wait_for_results(place.bootstrap, place.topics.results, len(words))
        assert service.end() == 0
    found = [json_of(one) for one in read_all(place.bootstrap, place.topics.results)]
    statuses = {one["query_id"].replace("-again", " again"): one["status"] for one in found}
    assert statuses == words


def test_commands(place: Installation) -> None:
    """The commands that write, follow and check do their work against a service."""
    settings = place.settings(patient()) | {"kafka.bootstrap_servers": place.bootstrap}
    names = {key.upper().replace(".", "__"): str(one) for key, one in settings.items()}
    kafka = {name: one for name, one in names.items() if name.startswith(("KAFKA", "TOPICS"))}
    with service_of(place, "support.stuck_app:app", patient()) as service:
        asked = run("-m", "fivestage", "produce", "fast", settings=kafka)
        seen = run("-m", "fivestage", "watch", "--json", "--from-beginning", "-n", "1", settings=kafka)
        checked = run("-m", "fivestage", "topics", "check", settings=kafka)
        assert service.end() == 0
    assert [one.returncode for one in (asked, seen, checked)] == [0, 0, 0], (asked, seen, checked)
    result = json.loads(seen.stdout)
    assert (result["query_id"], result["answer"]) == (asked.stdout.strip(), "fast")


def test_worker_processes_need_linux(place: Installation) -> None:
    """The service ends with exit code 2 and a line that says so; ``config check`` warns."""
    service = service_of(place, "support.apps:load", {"executor.kind": "process"})
    service.launch()
    assert service.wait() == 2
    said = "worker processes need Linux, and this is darwin: use executor.kind = 'thread' here"
    assert said in service.log[-1]["error"]
    ran = run("-m", "fivestage", "config", "check", settings={"EXECUTOR__KIND": "process"})
    assert (ran.returncode, ran.stdout) == (0, "the settings are valid\n")
    assert "executor.kind: worker processes need Linux, and this is darwin" in ran.stderr
