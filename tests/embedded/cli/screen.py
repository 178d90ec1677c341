"""A command on a pseudo-terminal, as a user at a terminal has it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIMIT_S = 60.0


class Terminal:
    """Runs a command on a terminal during a ``with``.

    Args:
        command: The command.
        environment: Its environment.
        size: Columns and lines.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], size: tuple[int, int]) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(*size)
        self.before = self.attributes()
        self.written = b""
        # Opened by the leader of a session it becomes its terminal, so that Ctrl-C becomes a signal.
        opening = 'exec "$@" <"$0" >"$0" 2>&1'
        self.process = subprocess.Popen(
            ["sh", "-c", opening, os.ttyname(self._slave), *command], env=environment, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)
        os.close(self._slave)
        os.close(self._master)

    def attributes(self) -> list[Any]:
        """Return how the terminal treats input: echo, lines, signals."""
        return termios.tcgetattr(self._master)[:4]

    def resize(self, columns: int, lines: int) -> None:
        """Change the size; the command gets the signal SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        """Type something; the byte 3 is Ctrl-C."""
        os.write(self._master, keys)

    def wait_for(self, text: str, limit_s: float = LIMIT_S) -> str:
        """Read until *text* is written; return what is written from now on, without control codes."""
        ends_at, start = time.monotonic() + limit_s, len(self.written)
        while text not in (found := _plain(self.written[start:])):
            assert time.monotonic() < ends_at, f"{text!r} was not written, but {found[-2000:]!r}"
            if not self._read():
                raise AssertionError(f"it ended without {text!r}: {found!r}")
        return found

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Read until the command has ended; return its exit code."""
        ends_at = time.monotonic() + limit_s
        while self._read():
            assert time.monotonic() < ends_at, "it goes on"
        return self.process.wait(limit_s)

    def _read(self) -> bool:
        """Read what there is; return False at the end."""
        ready, _, _ = select.select([self._master], [], [], 0.2)
        if not ready:
            return self.process.poll() is None
        self.written += os.read(self._master, 65_536)
        return True


def _plain(written: bytes) -> str:
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[()].)", "", written.decode(errors="replace"))
