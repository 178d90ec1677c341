"""Chaos: instances and brokers are killed, stopped and started at random while queries come in."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # what tests share, for ``python -m tests.tools.chaos``
