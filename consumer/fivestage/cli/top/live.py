"""Keeps a frame on the screen fresh, until q or Ctrl-C; the terminal is then as it was before."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import time
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.live import Live
from rich.text import Text

from fivestage.cli.rows import OutputConsole
from fivestage.cli.top.client import StatusError
from fivestage.cli.top.frame import frame
from fivestage.cli.top.words import ALARM, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fivestage.cli.top.client import StatusClient
    from fivestage.observability.status.model import Status

EVERY_S: Final = 1.0
QUIT: Final = {b"q", b"Q", b"\x04"}
"""The keys that end it; the last one is Ctrl-D."""


async def watch(client: StatusClient) -> None:
    """Show the status until a key of QUIT; a service that is away for a while is waited for.

    Raises:
        StatusError: the first read failed.
    """
    console = OutputConsole()
    screen = Screen(console, await client.status())
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    with Live(screen, console=console, screen=True, auto_refresh=False) as live, _keys(ended):
        loop.add_signal_handler(signal.SIGWINCH, live.refresh)
        try:
            while not ended.is_set():
                live.refresh()
                await _either(ended, EVERY_S)
                await update(screen, client, ended, live.refresh)
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)


async def update(
    screen: Screen, client: StatusClient, ended: asyncio.Event, redraw: Callable[[], None]
) -> None:
    """Read the status, which may take as long as its limit; meanwhile keys and the clock go on."""
    reading, quitting = asyncio.create_task(screen.update(client)), asyncio.create_task(ended.wait())
    try:
        while not reading.done() and not ended.is_set():
            await asyncio.wait({reading, quitting}, timeout=EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            redraw()
        if reading.done():
            reading.result()
    finally:
        reading.cancel()
        quitting.cancel()
        await asyncio.gather(reading, quitting, return_exceptions=True)


async def _either(ended: asyncio.Event, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await ended.wait()
    except TimeoutError:
        pass


@contextmanager
def _keys(ended: asyncio.Event) -> Iterator[None]:
    """Read single keys without showing them; Ctrl-C stays a signal."""
    if not sys.stdin.isatty():
        yield
        return
    loop, number = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def read() -> None:
        key = os.read(number, 1)
        if not key or key in QUIT:
            loop.remove_reader(number)
            ended.set()

    tty.setcbreak(number)
    loop.add_reader(number, read)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)


class Screen:
    """The last status that was read, and since when the service has not answered."""

    def __init__(self, console: OutputConsole, status: Status) -> None:
        self._console = console
        self._status = status
        self._problem = ""
        self._read_at = time.monotonic()

    async def update(self, client: StatusClient) -> None:
        """Read the status; if that fails, the last one is kept."""
        try:
            self._status = await client.status()
        except StatusError as error:
            self._problem = str(error)
        else:
            self._problem, self._read_at = "", time.monotonic()

    def __rich__(self) -> Text:
        """Draw for the present size of the terminal."""
        width, height = self._console.size
        lines: list[Text] = []
        if self._problem:
            age = duration(time.monotonic() - self._read_at)
            lines.append(Text(f"no answer for {age}, trying again: {self._problem}", ALARM))
            lines[0].truncate(width)
        unicode = self._console.draws_unicode
        lines += frame(self._status, width, height - len(lines), unicode=unicode)
        return Text("\n").join(lines)
