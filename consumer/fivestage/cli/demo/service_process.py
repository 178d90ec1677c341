"""Runs the service of a demo or benchmark in its own process, as in production, with its log in a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import tempfile
from typing import TYPE_CHECKING, Self

from fivestage.errors import FivestageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 8.0
EXCERPT_LINES = 10
_POLL_S = 0.05
_READY = '"event":"ready"'


class ServiceProcess:
    """Runs ``fivestage run`` during an ``async with``; kills it at the end if it is still running.

    Args:
        bootstrap: The broker.
        app: ``MODULE:APP``.
        options: Further options of the command.
        environment: Further variables.
    """

    _process: asyncio.subprocess.Process

    def __init__(
        self,
        bootstrap: str,
        app: str,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment or {}
        program = "fivestage.cli.child_process"
        self._arguments = ["-m", program, "run", app, "--bootstrap", bootstrap, *options]
        self.bootstrap = bootstrap
        self._log = tempfile.NamedTemporaryFile(prefix="fivestage-demo-", suffix=".log")  # noqa: SIM115 - see __aexit__

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "FIVESTAGE_ADMIN__PORT": "0", **self._environment},
            start_new_session=True,  # so that Ctrl-C in the terminal reaches the demo only
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._log.close()

    async def ready(self) -> None:
        """Wait until the service logs that it is ready.

        Raises:
            FivestageError: it ended instead, or took too long.
        """
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while _READY not in self.log().replace('": "', '":"'):
                    if (code := self._process.returncode) is not None:
                        raise FivestageError(f"the service ended at once, with exit code {code}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise FivestageError(f"the service was not ready within {READY_TIMEOUT_S:.0f} s") from None

    def page(self) -> str:
        """Return the address of the status page, once the service is ready."""
        found = re.search(r'"admin_port": ?(\d+)', self.log())
        return f"http://127.0.0.1:{found[1]}/" if found else "not served"

    @property
    def log_path(self) -> str:
        """The file with the log, as long as the service runs."""
        return self._log.name

    async def fail_when_it_ends(self) -> None:
        """Wait until the service ends, which it should not do by itself.

        Raises:
            FivestageError: it ended.
        """
        raise FivestageError(f"the service ended by itself, with exit code {await self._process.wait()}")

    async def stop(self) -> None:
        """End the service as a container orchestrator does: SIGTERM, then wait while it drains.

        Raises:
            FivestageError: it did not end in time, or not with exit code 0.
        """
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                code = await self._process.wait()
        except TimeoutError:
            raise FivestageError(
                f"the service did not end within {STOP_TIMEOUT_S:.0f} s of SIGTERM"
            ) from None
        if code != 0:
            raise FivestageError(f"the service ended with exit code {code}, not 0")

    def log(self) -> str:
        """Return all that the service has logged."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def excerpt(self) -> str:
        """Return the first and the last lines of the log."""
        lines = self.log().splitlines()
        if len(lines) > 2 * EXCERPT_LINES:
            left_out = f"({len(lines) - 2 * EXCERPT_LINES} lines left out)"
            lines = [*lines[:EXCERPT_LINES], left_out, *lines[-EXCERPT_LINES:]]
        return "\n".join(lines)
