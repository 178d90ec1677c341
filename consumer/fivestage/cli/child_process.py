"""Runs ``fivestage`` as a child process that ends with its parent, even if that is killed.

Standard input is a pipe from the parent. It closes when the parent ends. Without this a service would wait
for its broker, which has ended too, to return.
"""

from __future__ import annotations

import os
import signal
import threading


def end_with_parent() -> None:
    """End this process, with SIGTERM, when standard input closes."""
    threading.Thread(target=_wait, name="fivestage-parent", daemon=True).start()


def _wait() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from fivestage.cli import app

    end_with_parent()
    app(prog_name="fivestage")
