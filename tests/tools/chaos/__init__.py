"""Chaos: instances and brokers are killed, stopped and started at random under load."""

import sys
from pathlib import Path

sys.path.append(
    str(Path(__file__).parents[2])
)  # shared code of the tests, for ``python -m tests.tools.chaos``
