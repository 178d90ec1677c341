"""What each command imports: what it does not need, it must not, so that it is quick."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {
    "aiohttp", "aiokafka", "asyncio", "confluent_kafka", "cramjam", "opentelemetry.sdk", "prometheus_client",
    "pydantic", "pydantic_settings", "rich", "rich.live", "rich.markdown", "structlog", "fivestage.dispatch",
    "fivestage.executors", "fivestage.pipeline.pipeline", "fivestage.service",
}  # fmt: skip
"""Each takes 10 ms of CPU or more, or holds what does."""
HELP = {"rich", "rich.markdown"}
"""For typer's layout."""
OPTIONS = {"pydantic"}
"""By which typer checks the options of a command."""
SETTINGS = OPTIONS | {"asyncio", "pydantic_settings"}
MAY_IMPORT = {
    "--version": set[str](),
    "--help": HELP,
    "nonsense": HELP | OPTIONS,
    "run --help": HELP | OPTIONS,
    "watch --help": HELP | OPTIONS,
    "dlq replay --help": HELP | OPTIONS,
    "config show": SETTINGS,
    "config check": SETTINGS,
    "explain a --file /dev/null": OPTIONS | {"asyncio", "rich"},
    "produce a --bootstrap 127.0.0.1:1": SETTINGS
    | {"aiokafka", "cramjam", "fivestage.pipeline.pipeline", "rich", "structlog"},
    "new shop": OPTIONS,
    "check small:app": OPTIONS | {"asyncio", "fivestage.pipeline.pipeline", "rich"},
    "ask small:app hello": SETTINGS | {"fivestage.pipeline.pipeline", "rich", "structlog"},
}
APP = "from fivestage import Pipeline\napp = Pipeline()\n"
CODE = """
import sys
from fivestage.__main__ import main
sys.argv[0] = "fivestage"
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("line", MAY_IMPORT)
def test_a_command_imports_what_it_needs(line: str, tmp_path: Path) -> None:
    """A command imports no other heavy module than those that it needs."""
    (tmp_path / "small.py").write_text(APP, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", CODE, *line.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    imported = set(ran.stderr.splitlines()[-1].split())
    assert "fivestage.cli" in imported, ran.stderr
    assert HEAVY & imported - MAY_IMPORT[line] == set()


def test_completion_is_light() -> None:
    """A shell's Tab key starts the command, which then imports no more than typer needs."""
    ran = subprocess.run(
        [sys.executable, "-c", CODE],
        env={
            **os.environ,
            "_FIVESTAGE_COMPLETE": "complete_bash",
            "COMP_WORDS": "fivestage w",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.split() == ["watch"]
    assert HEAVY & set(ran.stderr.splitlines()[-1].split()) - OPTIONS == set()
