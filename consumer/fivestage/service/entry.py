"""Runs the service in this process until it ends, and computes the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import structlog

from fivestage.errors import ConfigurationError, InvalidAppError
from fivestage.observability.log_line import explained
from fivestage.service.service import Service
from fivestage.service.shutdown import exit_code

if TYPE_CHECKING:
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.settings import Settings

log = structlog.get_logger("fivestage.service")


def run(settings: Settings, app: Pipeline, app_path: str | None = None) -> int:
    """Run a service until SIGTERM or SIGINT, or a failure, and return the exit code.

    0 after a complete drain, 2 for a ConfigurationError or InvalidAppError, 1 for any other failure. The
    caller should end the process with ``os._exit``: a blocked thread of a node, or a hung task of a client,
    must not keep the process alive.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(serve(Service(settings, app, app_path)))


async def serve(service: Service) -> int:
    """Run *service* on this loop; see ``run``."""
    try:
        return await _run(service)
    finally:
        for stream in (sys.stdout, sys.stderr):  # nodes may print
            with contextlib.suppress(OSError, ValueError):  # the disk is full, or the stream is closed
                stream.flush()
        service.shutdown.lift_limit()


async def _run(service: Service) -> int:
    failure: Exception | None = None
    try:
        await service.run()
    except Exception as error:  # noqa: BLE001 - logged below
        failure = error
    code = exit_code(failure)
    if failure is None:
        log.info("ended", exit_code=code)
    elif isinstance(failure, ConfigurationError | InvalidAppError):
        log.error("cannot run", error=str(failure), exit_code=code)
    else:
        log.error("ended", **explained(failure), exit_code=code)
    return code
