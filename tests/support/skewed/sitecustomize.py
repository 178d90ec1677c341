"""A skewed wall clock for processes with this folder on PYTHONPATH: Python imports it at their start.

Shifts ``time.time`` by FIVESTAGE_TEST_SKEW_S seconds; the monotonic clock stays right, as it
does on a machine whose wall clock is wrong.
"""

from __future__ import annotations

import os
import time

SKEW_S = float(os.environ.get("FIVESTAGE_TEST_SKEW_S", "0"))
_time, _time_ns = time.time, time.time_ns


def _shifted() -> float:
    return _time() + SKEW_S


def _shifted_ns() -> int:
    return _time_ns() + int(SKEW_S * 1e9)


time.time, time.time_ns = _shifted, _shifted_ns
