"""Ends the copy of the process that a node made by forking, as soon as user code gives control back.

The copy shares the loops' sockets with the original, so it would take wake-ups, and answers, that are meant
for the original. ``subprocess`` makes no such copies.
"""

from __future__ import annotations

import os
from typing import Final

count: Final = [0]
"""The number of forks between the first process and this one; changes only in the copies."""


def end() -> None:
    """End this process at once; called where ``count`` has changed."""
    os._exit(0)


def _mark() -> None:
    count[0] += 1


os.register_at_fork(after_in_child=_mark)
