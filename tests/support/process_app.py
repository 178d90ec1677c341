"""A Pipeline for worker processes: the first word of a query is the node, the second its argument."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import mmap
import os
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivestage import Pipeline, Plan
from fivestage.core.observer import Observer
from fivestage.executors.process.executor import ProcessExecutor
from fivestage.executors.process.ring import READ, WRITTEN
from fivestage_schemas import StageType
from support.kinds import pids_of

if TYPE_CHECKING:
    from fivestage import Query, StageContext

LONG_S = 60.0
PLAN = Plan.of(
    total_timeout_ms=LONG_S * 1000,
    stage_timeouts_ms=dict.fromkeys(StageType, LONG_S * 1000),
    critical=StageType,
)
app = Pipeline(builtins=False)


_by_intent = app.stage(StageType.DECISION).call


@app.intent
async def _intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    first, _, rest = query.user_input.partition(" ")
    return {"intent": rest if first == "tries" else first, "confidence": 1.0}


@app.decision
async def _decide(query: Query, ctx: StageContext) -> str:
    """Decide by name; after the word ``tries``, choose a node by the built-in decision."""
    first = query.user_input.partition(" ")[0]
    return str(await _by_intent(query, ctx)) if first == "tries" else first


@app.validation
async def _validate(_query: Query, ctx: StageContext) -> bool:
    return ctx.answer is not None


@app.reflection
async def _reflect(_query: Query, ctx: StageContext) -> dict[str, Any]:
    return {"validated": ctx.validated, "intent": ctx.results[StageType.INTENT]["intent"]}


@app.node("echo")
async def _echo(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Echo, also values that some JSON parsers cannot represent exactly."""
    numbers = [0.1, 2**70, -0.0]
    return {"answer": query.user_input, "confidence": 0.75, "context": query.context, "numbers": numbers}


@app.node("pid")
async def _pid(_query: Query, _ctx: StageContext) -> int:
    return os.getpid()


@app.node("fails", intents={"fails"})
async def _fails(_query: Query, _ctx: StageContext) -> None:
    raise ValueError("\udc80 is no text")


@app.node("unanswerable", intents={"unanswerable"}, not_failures=KeyError)
def _unanswerable(_query: Query, _ctx: StageContext) -> None:
    raise KeyError("no such unit")


@app.node("answerable", intents={"unanswerable"})
async def _answerable(_query: Query, _ctx: StageContext) -> str:
    return "must not be asked"


@app.node("stands-in", intents={"fails"})
async def _stands_in(_query: Query, _ctx: StageContext) -> str:
    return "instead"


@app.node("naps")
async def _naps(_query: Query, ctx: StageContext) -> str:
    """Answer at the second call."""
    if ctx.attempt == 1:
        await asyncio.sleep(LONG_S)
    return "awake"


@app.node("blocks")
async def _blocks(_query: Query, _ctx: StageContext) -> None:
    time.sleep(LONG_S)  # noqa: ASYNC251 - the point of this node


@app.node("holds")
async def _holds(_query: Query, _ctx: StageContext) -> None:
    """Hold the interpreter lock: not even other threads of its process run meanwhile."""
    ctypes.PyDLL(None).sleep(int(LONG_S))


@app.node("exits")
async def _exits(_query: Query, _ctx: StageContext) -> None:
    os._exit(3)


@app.node("crashes")
async def _crashes(_query: Query, _ctx: StageContext) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@app.node("closes")
async def _closes(_query: Query, _ctx: StageContext) -> None:
    """Close descriptors of others."""
    os.closerange(3, 256)
    time.sleep(LONG_S)  # noqa: ASYNC251 - it does not return


@app.node("scribbles")
async def _scribbles(_query: Query, _ctx: StageContext) -> None:
    """Write into every socket, and into the memory that the service reads."""
    for fileno in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fileno).st_mode):
                os.write(fileno, b"\x0b" + bytes(16) + b" neither JSON nor")
        except OSError:
            continue
    (memory,) = [one for one in gc.get_objects() if isinstance(one, mmap.mmap)]
    counters = memoryview(memory)[mmap.PAGESIZE :].cast("Q")
    while counters[WRITTEN] != counters[READ]:
        time.sleep(0.001)  # noqa: ASYNC251 - the service reads what is there
    counters[WRITTEN] = 2**63
    time.sleep(LONG_S)  # noqa: ASYNC251 - it does not return


@app.node("never")
def _never(query: Query, _ctx: StageContext) -> None:
    """Create the file of its argument, then wait where no interruption arrives."""
    Path(query.user_input.partition(" ")[2]).touch()
    lock = threading.Lock()
    with lock:
        lock.acquire()


@app.node("forks")
async def _forks(_query: Query, _ctx: StageContext) -> int:
    """Fork; both copies return, and the original answers how the other one ended."""
    pid = os.fork()
    if not pid:
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 - it ends at once


@app.node("leaves-a-fork")
async def _leaves_a_fork(_query: Query, _ctx: StageContext) -> None:
    """Fork a copy that lives on for a while, with the socket, after the original has ended."""
    if os.fork():
        os._exit(4)
    time.sleep(2)  # noqa: ASYNC251 - the point of this node


@app.node("large")
async def _large(query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"answer": "x" * int(query.user_input.split()[1])}


@app.node("garbage")
async def _garbage(_query: Query, _ctx: StageContext) -> Any:
    return object()


@app.node("signals")
def _signals(_query: Query, _ctx: StageContext) -> list[int]:
    """Test how child processes of a node, and forks of its process, end on Ctrl-C and SIGTERM."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    programs = [subprocess.run(["sh", "-c", f"kill -{number:d} $$"], check=False) for number in numbers]
    return [*[program.returncode for program in programs], *map(_end_of_copy, numbers)]


def _end_of_copy(number: signal.Signals) -> int:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b".")  # Python drops an earlier signal
        time.sleep(LONG_S)
        os._exit(0)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def executor(**options: Any) -> ProcessExecutor:
    """Build an executor that runs this app."""
    defaults: dict[str, Any] = {"workers": 1, "threads": 8, "observer": Observer(), "stall_s": 0.1}
    chosen = {"max_data_bytes": 1_000_000, **defaults, **options}
    found = ProcessExecutor(chosen.pop("app", "support.process_app:app"), PLAN, **chosen)
    found.run_on_s = 0.5
    return found


def hold() -> None:
    """Run an executor, print the numbers of its processes, and wait to be killed."""

    async def main() -> None:
        running = executor(workers=2)
        await running.start(lambda _: None)
        while len(pids_of(running)) < 4:
            await asyncio.sleep(0.01)
        print(*pids_of(running), flush=True)  # noqa: T201 - the parent process reads this
        await asyncio.sleep(LONG_S)

    asyncio.run(main())
