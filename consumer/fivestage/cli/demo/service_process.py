"""Runs the service of a demo or benchmark in its own process, as in production, with its log in a file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Self

from fivestage.errors import ConfigurationError, FivestageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 8.0
EXCERPT_LINES = 10
_POLL_S = 0.05
_FOR_PARENT = {"FIVESTAGE_ADMIN__PORT": "0", "FIVESTAGE_LOGGING__FORMAT": "json"}
_WRONG_USE = 2
"""The exit code of ``run`` where something outside the code must be corrected first."""
_NOT_OPEN = "a resource did not open"


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
            env={**os.environ, **_FOR_PARENT, **self._environment},
            start_new_session=True,  # so that Ctrl-C in the terminal reaches the demo only
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._log.close()

    async def ready(self, limit_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the service logs that it is ready.

        Raises:
            FivestageError: it ended instead, or took too long, or a resource of the app failed to open.
        """
        try:
            async with asyncio.timeout(limit_s):
                while not self._is_ready():  # noqa: ASYNC110 - another process changes it
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise FivestageError(f"the service was not ready within {limit_s:.0f} s") from None

    def _is_ready(self) -> bool:
        """Whether it has logged that; raises what prevents it."""
        ended = self._process.returncode  # before the log is read, so that its last line is there
        for line in self._lines():
            if line.get("event") == "ready":
                return True
            if line.get("event") == _NOT_OPEN:
                said = f"{line['error_type']}: {line['error']}, at {line['where']}"
                raise FivestageError(f"resource {line['resource']!r} did not open: {said}")
            if ended is not None and line.get("event") in {"cannot run", "ended"}:
                why = line.get("error", line.get("error_type"))
                kind = ConfigurationError if ended == _WRONG_USE else FivestageError
                raise kind(f"the service ended at once, with exit code {ended}: {why}")
        if ended is not None:
            raise FivestageError(f"the service ended at once, with exit code {ended}")
        return False

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The complete lines of the log that are JSON; what nodes print is not."""
        for text in self.log().splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(line := json.loads(text), dict):
                    yield line

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
