"""``fivestage demo``: a broker, the service, sixty questions, and an audit of the topics.

``questions`` makes the inputs and ``app`` answers them. ``play`` writes the inputs and waits for the results
of the service, which runs in its own process (``service_process``). ``audit`` checks the
topics, ``view`` prints rows and summary.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from fivestage.cli.common import errors_as_one_line, run_while_read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.cli.demo.audit import Audit
    from fivestage.cli.demo.questions import Input
    from fivestage.cli.demo.service_process import ServiceProcess
    from fivestage.cli.rows import OutputConsole

LIMIT_S = 58.0
MAX_PROBLEMS = 20


def demo(
    queries: Annotated[
        int, typer.Option("--queries", "-n", min=1, max=2000, help="How many inputs to write.")
    ] = 60,
    seed: Annotated[int, typer.Option(help="Determines the questions and their order.")] = 1,
    serve: Annotated[  # noqa: FBT002
        bool, typer.Option("--serve", help="Keep the service and its status page open, until Ctrl-C.")
    ] = False,
    plain: Annotated[  # noqa: FBT002
        bool, typer.Option("--plain", help="Print plain text on a terminal too, as in a pipe.")
    ] = False,
) -> None:
    """Run a broker, the service, good and bad questions on this machine; ends by itself within a minute.

    Nothing else has to be installed or configured. The inputs are sums, facts, unknown questions, slow and
    broken nodes, expired and malformed records. At the end all topics are read back and counted: exit code 0
    if each input has exactly one result or, without a readable id, one dead letter; otherwise 1.

    Example: `fivestage demo --serve`
    """
    _use_defaults()
    watchdog = threading.Timer(LIMIT_S, _give_up)
    watchdog.daemon = True
    watchdog.start()
    with errors_as_one_line(reader_gone=1):
        problems = _run(queries, seed, watchdog, plain=plain, serve=serve)
    watchdog.cancel()
    raise typer.Exit(1 if problems else 0)


def _use_defaults() -> None:
    """Remove settings from the environment: they are meant for another broker than the demo's."""
    for name in list(os.environ):
        if name.startswith("FIVESTAGE_"):
            del os.environ[name]


def _run(queries: int, seed: int, watchdog: threading.Timer, *, plain: bool, serve: bool) -> list[str]:
    from fivestage.cli.demo.play import DemoError
    from fivestage.cli.demo.questions import make_inputs
    from fivestage.cli.demo.view import print_served, print_summary
    from fivestage.cli.rows import OutputConsole

    console = OutputConsole(plain=plain)

    inputs = make_inputs(queries, seed)

    def served(found: Audit, service: ServiceProcess) -> None:
        watchdog.cancel()
        print_summary(console, found)
        print_served(console, service, inputs)

    try:
        found = run_while_read(_play(console, inputs, served if serve else None))
    except DemoError as error:
        _print_failure([str(error)], error.log)
        return [str(error)]
    if not serve:
        print_summary(console, found)
    _print_failure(found.problems, "")
    return found.problems


async def _play(
    console: OutputConsole, inputs: Sequence[Input], served: Callable[[Audit, ServiceProcess], None] | None
) -> Audit:
    from fivestage.cli.demo.play import play
    from fivestage.cli.demo.view import DemoView

    with DemoView(console, inputs) as view:
        return await play(inputs, view, served)


def _print_failure(problems: list[str], log: str) -> None:
    for problem in problems[:MAX_PROBLEMS]:
        print(f"fivestage: {problem}", file=sys.stderr)
    if len(problems) > MAX_PROBLEMS:
        print(f"fivestage: and {len(problems) - MAX_PROBLEMS} more", file=sys.stderr)
    if log:
        print(f"fivestage: the service's log:\n{log}", file=sys.stderr)


def _give_up() -> None:
    """Exit although something hangs. The child processes end too when their standard input closes."""
    print(f"fivestage: the demo did not end within {LIMIT_S:.0f} s", file=sys.stderr, flush=True)
    os._exit(1)
