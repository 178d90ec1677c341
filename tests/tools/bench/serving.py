"""Serves an aiohttp application in a process of its own, for benchmarks that call a server."""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web


async def serve(app: web.Application) -> None:
    """Serve *app* on any free port, write that in a line of JSON to standard error, and go on for ever.

    A request whose client has gone ends at once, as at servers of models.
    """
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"event": "ready", "port": runner.addresses[0][1]}), file=sys.stderr, flush=True)
    await asyncio.Event().wait()
