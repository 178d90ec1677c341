"""A node that forks: its copy of the process must end where user code gives control back.

The copy has the loops' sockets in common with the original, so one that went on would take wake-ups, and
answers, that are meant for the original. Programs started with ``subprocess`` are no forks in this sense.
"""

from __future__ import annotations

import os
from typing import Final

count: Final = [0]
"""How many forks lie between the first process and this one: it changes only in the copies."""


def end() -> None:
    """End this process at once: it is a copy, made since ``count`` was read last."""
    os._exit(0)


def _mark() -> None:
    count[0] += 1


os.register_at_fork(after_in_child=_mark)
