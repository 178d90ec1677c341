"""What Python itself writes to standard error has the shape of the log."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import sys, threading, warnings
import structlog
from fivestage.observability.logging import configure

def fail():
    raise LookupError("the question")

class Finalizer:
    def __del__(self):
        fail()

configure()
log = structlog.get_logger("mine")
log.info("first")
Finalizer()
thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()
warnings.warn("old", FutureWarning)
warnings.showwarning("to a file", UserWarning, "app.py", 7, sys.stdout)
configure(style="text")
log.info("second")
configure("ERROR")
warnings.warn("not written", FutureWarning)
Finalizer()
configure()
fail()
"""


def test_python_writes_log_lines() -> None:
    """Uncaught exceptions and warnings are lines without messages, from the level that is configured on."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    *before, second, last = ran.stderr.splitlines()
    lines = [json.loads(line) for line in [*before, last]]
    assert [(line["event"], line["level"], line["logger"]) for line in lines] == [
        ("first", "info", "mine"),
        ("exception ignored", "warning", "fivestage.python"),
        ("uncaught exception in a thread", "error", "fivestage.python"),
        ("old", "warning", "py.warnings"),
        ("uncaught exception", "error", "fivestage.python"),
    ]
    assert [line.get("error_type") for line in lines] == [None, *["LookupError"] * 2, None, "LookupError"]
    assert (lines[1]["source"], lines[2]["thread"]) == ("Finalizer.__del__", "worker")
    assert (lines[3]["category"], lines[3]["where"]) == ("FutureWarning", "<string>:20")
    assert "second" in second
    assert not second.startswith("{")
    assert "the question" not in ran.stderr
    assert ran.stdout == "app.py:7: UserWarning: to a file\n"
    assert ran.returncode == 1
