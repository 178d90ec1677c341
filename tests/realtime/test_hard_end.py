"""The guards that end a process whose shutdown hangs, in real processes."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from fivestage.service.shutdown import LAST_WORDS_S

pytestmark = [pytest.mark.realtime, pytest.mark.fault(10)]
LIMIT_S = 0.5
CODE = 3
AT_MOST_S = 10.0
"""The promises are LIMIT_S and LAST_WORDS_S; no machine takes four times as long."""
PROGRAM = f"""
import ctypes, time
from fivestage import shutdown
print(time.monotonic(), flush=True)
end = shutdown.HardEnd({LIMIT_S}, lambda: {CODE})
"""
"""Prints the time when the guards are set, by the machine's monotonic clock."""


@pytest.mark.parametrize(
    ("hangs", "code"),
    [
        ("time.sleep(120)", CODE),
        ("while True: pass", CODE),
        ("ctypes.PyDLL(None).sleep(120)", 1),  # the first guard cannot run: the second has its own code
    ],
    ids=["sleeps", "spins", "keeps-the-lock"],
)
def test_a_hanging_process_ends_in_time(hangs: str, code: int) -> None:
    """The process ends at its limit with the right code; the second guard needs no interpreter."""
    program = [sys.executable, "-c", PROGRAM + hangs]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        set_at = float(process.stdout.readline())
        try:
            found = process.wait(AT_MOST_S)
        finally:
            process.kill()
    assert found == code
    assert time.monotonic() - set_at >= LIMIT_S
    assert LIMIT_S + LAST_WORDS_S <= AT_MOST_S / 4


def test_a_clean_end_is_not_interrupted() -> None:
    """After ``cancel`` neither guard acts when its time passes."""
    program = PROGRAM.replace("end =", "shutdown.LAST_WORDS_S = 0.1\nend =")
    program += f"end.cancel(); time.sleep({LIMIT_S} + 0.5); print('alive', flush=True)"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout.split()[1:]) == (0, ["alive"]), ended.stderr
