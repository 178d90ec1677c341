"""The demo's app as its service process runs it: the process ends when the demo does.

Standard input is a pipe from the demo. It closes when the demo ends, even if that is killed. Without this the
service would wait for its broker to return.
"""

from __future__ import annotations

import os
import signal
import threading

from fivestage.cli.demo.app import app

__all__ = ["app"]


def _end_with_demo() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


threading.Thread(target=_end_with_demo, name="fivestage-demo-end", daemon=True).start()
