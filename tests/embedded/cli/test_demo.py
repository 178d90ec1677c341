from __future__ import annotations

import re
import signal
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fivestage.cli.demo.audit import COLUMNS
from fivestage.cli.demo.questions import KINDS, NO_ID

if TYPE_CHECKING:
    from .conftest import FirstLine, Fivestage, Ran, Start

pytestmark = pytest.mark.broker
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


@pytest.fixture(scope="module")
def ran(fivestage: Fivestage) -> Ran:
    """Run the demo once, with more inputs than there are kinds."""
    return fivestage("demo", "--queries", "40", limit_s=65)


def test_demo_adds_up(ran: Ran) -> None:
    """The demo ends by itself with exit code 0, and its figures add up."""
    assert (ran.code, ran.err) == (0, "")
    figures = _figures(ran.out)
    total = figures.pop("total")
    assert total == {column: sum(row[column] for row in figures.values()) for column in COLUMNS}
    inputs, terminal, unreadable = map(int, _found(r"(\d+) inputs = (\d+) terminal .* (\d+) unr", ran.out))
    assert inputs == total["sent"] == 40 == terminal + unreadable
    assert terminal == sum(total[status] for status in COLUMNS[1:6])
    assert unreadable == figures[NO_ID]["sent"] == figures[NO_ID]["dead letters"]
    stage_results = int(_found(r"(\d+) stage results", ran.out)[0])
    in_budget, started = map(int, _found(r"(\d+) of (\d+) ended within budget", ran.out))
    assert stage_results == 5 * started
    assert 0 < in_budget <= started


def test_demo_rows(ran: Ran) -> None:
    """Every input has its own row, with marks for the five stages where it was started."""
    rows = [line for line in ran.out.splitlines() if re.match(r"(q-\d+|-) ", line)]
    assert len(rows) == 40
    marked = [row for row in rows if re.search(r" [+TE-]( [+TE-]){4} ", row)]
    assert len(marked) == int(_found(r"(\d+) ended within budget", ran.out)[0])
    unmarked = [row for row in rows if row not in marked]
    assert all(re.search(r" (error|expired|dead letter) ", row) for row in unmarked)


def test_demo_needs_no_settings(fivestage: Fivestage) -> None:
    """Settings of another broker do not reach the demo."""
    settings = {"KAFKA__BOOTSTRAP_SERVERS": "kafka.example:9092", "KAFKA__NONSENSE": "1"}
    ran = fivestage("demo", "--queries", "1", limit_s=65, **settings)
    assert ran.code == 0, ran


def test_demo_serves(start: Start, fivestage: Fivestage) -> None:
    """With ``--serve`` page, broker and log stay after the summary; Ctrl-C ends the service and the demo."""
    demo = start("demo", "--queries", "10", "--serve")
    assert "adds up" in demo.line_with(" terminal events + ")
    address = demo.line_with("status page: ").removeprefix("status page: ")
    with urllib.request.urlopen(address, timeout=20) as page:
        assert "What needs attention" in page.read().decode()
    assert '"event":"ready"' in Path(demo.line_with("log: ").removeprefix("log: ").strip()).read_text()
    commands = [demo.line_with(f"fivestage {name} ").split()[1:] for name in ("explain", "top")]
    demo.line_with("until Ctrl-C")
    explained, shown = (fivestage(*command) for command in commands)
    assert (explained.code, "why " in explained.out) == (0, True)
    assert (shown.code, "IN TIME" in shown.out) == (0, True)
    assert demo.end(signal.SIGINT) == 0


@needs_proc
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_demo_interrupted(start: Start, number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM end the demo and its children at once, without a traceback."""
    demo = start("demo")
    demo.line_with("success")
    children = _descendants(demo.process.pid)
    assert len(children) == 2
    assert demo.end(number) == code
    assert not any(map(_is_running, children))
    with pytest.raises(AssertionError, match="ended"):
        demo.line_with("Traceback")


def test_demo_closed_pipe(first_line: FirstLine) -> None:
    """A closed pipe ends the demo without a traceback, with exit code 1."""
    ran = first_line("demo")
    assert ran.out.startswith("id ")
    assert (ran.code, ran.err) == (1, "")


def _figures(text: str) -> dict[str, dict[str, int]]:
    """Return the summary table: by kind of input, a figure for each column."""
    heading = next(line for line in text.splitlines() if line.startswith("input "))
    names = [*KINDS, "total"]
    rows = {
        name: line.removeprefix(name).split()
        for line in text[text.index(heading) :].splitlines()
        for name in names
        if re.match(rf"{re.escape(name)}( +(\d+|-)){{7}}$", line.rstrip())
    }
    figures = {
        name: {column: int(cell.replace("-", "0")) for column, cell in zip(COLUMNS, cells, strict=True)}
        for name, cells in rows.items()
    }
    assert set(figures) == set(names), text
    return figures


def _found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    assert match, text
    return match.groups()


def _descendants(parent: int) -> list[int]:
    """Return the processes that *parent* has started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _is_running(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
