"""Communication between a test and code in other processes: gates and notes, as files in one directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOTES = "notes"


class Gate:
    """Blocks code, without CPU, until the test opens it: a lock on a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.gate"

    @contextlib.contextmanager
    def closed(self) -> Iterator[_ClosedGate]:
        """Close it until it is opened, or the block ends."""
        with self.path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield _ClosedGate(file.fileno())

    def wait(self) -> None:
        """Block the thread until the gate is open, as one never closed is."""
        with self.path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)

    def is_closed(self) -> bool:
        """Return whether a waiter would block."""
        with self.path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


class _ClosedGate:
    def __init__(self, fileno: int) -> None:
        self._fileno = fileno

    def open(self) -> None:
        """Release all current and later waiters."""
        fcntl.flock(self._fileno, fcntl.LOCK_UN)


def note(folder: Path, text: str) -> None:
    """Add a line to the notes; lines of several threads and processes do not mix."""
    fileno = os.open(folder / NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fileno, f"{text}\n".encode())
    finally:
        os.close(fileno)


def notes(folder: Path) -> list[str]:
    """Return all notes, in order."""
    path = folder / NOTES
    return path.read_text().splitlines() if path.exists() else []
