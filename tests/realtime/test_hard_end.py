"""The guards that end a process whose orderly end does not come, in processes of their own."""

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
"""Promised are LIMIT_S and LAST_WORDS_S; no machine is so busy that it takes four times as long."""
PROGRAM = f"""
import ctypes, time
from fivestage import shutdown
print(time.monotonic(), flush=True)
end = shutdown.HardEnd({LIMIT_S}, lambda: {CODE})
"""
"""Prints when it has set the guards, by the clock that all processes of a machine share."""


@pytest.mark.parametrize(
    ("hangs", "code"),
    [
        ("time.sleep(120)", CODE),
        ("while True: pass", CODE),
        ("ctypes.PyDLL(None).sleep(120)", 1),  # the first guard cannot run: the second has its own code
    ],
    ids=["sleeps", "spins", "keeps-the-lock"],
)
def test_whatever_hangs_the_process_ends_in_time(hangs: str, code: int) -> None:
    """Not before its limit, and with the code that is due; the second guard needs no interpreter."""
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


def test_an_end_in_order_is_not_cut() -> None:
    """After ``cancel`` neither guard does anything, although their times pass."""
    program = PROGRAM.replace("end =", "shutdown.LAST_WORDS_S = 0.1\nend =")
    program += f"end.cancel(); time.sleep({LIMIT_S} + 0.5); print('alive', flush=True)"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout.split()[1:]) == (0, ["alive"]), ended.stderr
