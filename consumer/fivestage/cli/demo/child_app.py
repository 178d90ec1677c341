"""The demo's app for its service process, which ends with the demo however that ends.

Standard input is a pipe from the demo. It closes when the demo is gone, killed or not, and a service
without a broker would otherwise wait for one.
"""

from __future__ import annotations

import os
import signal
import threading

from fivestage.cli.demo.app import app

__all__ = ["app"]


def _end_with_the_demo() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


threading.Thread(target=_end_with_the_demo, name="fivestage-demo-end", daemon=True).start()
