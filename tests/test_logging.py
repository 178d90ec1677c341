"""Log lines, as a process writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

PROGRAM = """
import logging
from fivestage.telemetry.logging import configure

configure()
for number in range(1000):
    logging.getLogger("aiokafka.cluster").error("Topic %s not found", "t")
    logging.getLogger("aiokafka.cluster").error("attempt %d", number // 500)
    logging.getLogger("somebody").error("again")
"""


def test_a_client_that_repeats_itself() -> None:
    """The same line of aiokafka comes once in a while, however often it is said; others' lines all come."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, timeout=60, check=True)
    lines = Counter(json.loads(line)["event"] for line in done.stderr.splitlines())
    assert lines == {"Topic t not found": 1, "attempt 0": 1, "attempt 1": 1, "again": 1000}
